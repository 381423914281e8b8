from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigurationError
from pipeline.models.cores import GaborEnergy
from pipeline.models.cores.gabor import quadrature_pairs

MACAQUE = Path(__file__).parents[4] / "shared" / "data" / "macaque_v4_210325"


def grating(wavelength: float, degrees: float, phase: float = 0.0, size: int = 64) -> torch.Tensor:
    """One grey frame with a grating of amplitude 1 whose wave runs in this direction, 0 along the rows."""
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    angle = math.radians(degrees)
    along = column * math.cos(angle) + row * math.sin(angle)
    return torch.cos(2 * math.pi * along / wavelength + phase)[None, None, None]


def energies(kind: GaborEnergy, frame: torch.Tensor) -> torch.Tensor:
    """(wavelength, orientation) in the middle of the frame."""
    features = kind.build(1)(frame)[0, :, 0]
    return features[:, features.shape[1] // 2, features.shape[2] // 2].unflatten(0, (len(kind.wavelengths), -1))


PLAIN = GaborEnergy(wavelengths=(4, 8, 16), orientations=6, pool=8, local_mean=False, batch_norm=False)


@pytest.mark.parametrize("scale", [0, 1, 2])
@pytest.mark.parametrize("orientation", [0, 1, 4])
def test_energy_tells_wavelength_and_orientation_whatever_the_phase(scale: int, orientation: int) -> None:
    degrees = 180 * orientation / 6
    shown = [grating(PLAIN.wavelengths[scale], degrees, phase) for phase in np.linspace(0, 2 * np.pi, 7)]
    found = torch.stack([energies(PLAIN, frame) for frame in shown])
    assert found.flatten(1).argmax(dim=1).tolist() == [scale * 6 + orientation] * 7
    at_best = found[:, scale, orientation]
    assert (at_best.max() - at_best.min()) / at_best.mean() < 0.02
    assert 0.9 < at_best.mean() < 1.1


def test_energy_is_blind_to_uniform_light_also_at_the_edges() -> None:
    assert PLAIN.build(1)(torch.full((1, 1, 1, 64, 64), 3.7)).max() < 1e-4


def test_a_quarter_turn_of_the_frame_turns_the_orientations() -> None:
    torch.manual_seed(0)
    frame = torch.randn(1, 1, 1, 48, 48)
    core = PLAIN.build(1)
    upright = core(frame).unflatten(1, (3, 6))
    turned = core(torch.rot90(frame, 1, (3, 4))).unflatten(1, (3, 6))
    expected = torch.rot90(upright, 1, (4, 5)).roll(3, dims=2)
    torch.testing.assert_close(turned, expected, rtol=1e-4, atol=1e-5)


def test_filters_are_in_quadrature() -> None:
    filters = quadrature_pairs(8.0, 4, bandwidth=0.5)
    evens, odds = filters.chunk(2)
    torch.testing.assert_close(evens, evens.flip(2, 3))
    torch.testing.assert_close(odds, -odds.flip(2, 3))
    torch.testing.assert_close(filters.sum(dim=(2, 3)), torch.zeros(8, 1), rtol=0, atol=1e-5)


def test_colours_are_told_apart_by_their_means() -> None:
    kind = GaborEnergy(wavelengths=(4,), orientations=2, pool=4, batch_norm=False)
    frame = torch.tensor([0.9, 0.3, 0.5])[None, :, None, None, None].expand(1, 3, 1, 12, 12)
    means = kind.build(3)(frame)[0, -3:, 0]
    expected = torch.tensor([(0.9 + 0.3 + 0.5) / 3, 0.9 - 0.3, 0.5 - (0.9 + 0.3) / 2])
    torch.testing.assert_close(means, expected[:, None, None].expand(3, 3, 3))


def test_opponent_energy_sees_borders_of_equal_luminance() -> None:
    kind = GaborEnergy(wavelengths=(8,), orientations=2, local_mean=False, opponent_energy=True, batch_norm=False)
    bars = grating(8, 0)[0]
    features = kind.build(3)(torch.stack([bars, -bars, 0 * bars], dim=1))[0, :, 0, 4, 4]
    luminance, red_green, blue_yellow = features.reshape(3, 2)  # (plane, orientation)
    assert luminance.max() < 1e-4
    assert blue_yellow.max() < 1e-4
    assert red_green[0] == pytest.approx(2, rel=0.1)
    assert red_green[1] < 0.2


def test_simple_responses_have_the_sign_of_the_contrast() -> None:
    kind = GaborEnergy(wavelengths=(16,), orientations=1, pool=1, simple=True, local_mean=False, batch_norm=False)
    core = kind.build(1)
    energy, even, odd = core(grating(16, 0))[0, :, 0, 32, 28:40]
    phase = 2 * math.pi * torch.arange(28, 40) / 16
    torch.testing.assert_close(even, torch.cos(phase), rtol=0, atol=0.05)
    torch.testing.assert_close(odd, -torch.sin(phase), rtol=0, atol=0.05)
    torch.testing.assert_close(energy, torch.hypot(even, odd))


def test_nothing_is_trained_and_everything_is_saved() -> None:
    torch.manual_seed(0)
    core = GaborEnergy(wavelengths=(4, 8)).build(3)
    assert list(core.parameters()) == []
    assert core.regularizer() == {}
    images = 3 * torch.rand(40, 3, 1, 32, 40)
    features = core(images)
    torch.testing.assert_close(features.mean(dim=(0, 2, 3, 4)), torch.zeros(19), rtol=0, atol=1e-4)
    assert features.var(dim=(0, 2, 3, 4)).max() < 1.1
    assert {"planes", "filters_0", "filters_1", "norm.running_mean"} <= core.state_dict().keys()


def test_frames_of_many_channels_and_no_wavelengths_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not frames of 5 channels"):
        GaborEnergy().build(5)
    with pytest.raises(ConfigurationError, match="wavelengths is empty"):
        GaborEnergy(wavelengths=())


@pytest.mark.slow
@pytest.mark.skipif(not MACAQUE.is_dir(), reason=f"{MACAQUE} is not there")
def test_ridge_on_energies_predicts_macaque_v4_as_expected() -> None:
    """Real responses of 50 neurons to 640 images: the correlation with the repeat mean on the images of the test."""
    from PIL import Image

    with zipfile.ZipFile(MACAQUE / "images_210325.zip") as files:
        names = sorted(name for name in files.namelist() if name.endswith(".jpg"))
        images = np.stack([np.asarray(Image.open(io.BytesIO(files.read(name))).convert("RGB")) for name in names])
    responses = np.load(MACAQUE / "responses_raw_210325.npy", allow_pickle=False)
    rates = np.nanmean(responses, axis=2).T
    fold = np.arange(len(images)) % 5
    train, validation, test = fold < 3, fold == 3, fold == 4
    frames = torch.from_numpy(images).permute(0, 3, 1, 2).float()[:, :, None] / 128 - 1
    core = GaborEnergy(wavelengths=(4, 8, 16, 32), pool=28, batch_norm=False).build(3)
    with torch.no_grad():
        features = torch.cat([core(some) for some in frames.split(64)]).flatten(1).double().numpy()
    # In the corners all images are equally grey: such features have no spread.
    features = (features - features[train].mean(axis=0)) / (features[train].std(axis=0) + 1e-6)
    gram = features @ features[train].T

    def correlation(penalty: float, held_out: np.ndarray) -> float:
        mean = rates[train].mean(axis=0)
        weights = np.linalg.solve(gram[train] + penalty * np.eye(train.sum()), rates[train] - mean)
        predicted = gram[held_out] @ weights
        return float(np.mean([np.corrcoef(p, r)[0, 1] for p, r in zip(predicted.T, rates[held_out].T, strict=True)]))

    penalty = max((100, 300, 1000, 3000), key=lambda candidate: correlation(candidate, validation))
    assert correlation(penalty, test) > 0.47
