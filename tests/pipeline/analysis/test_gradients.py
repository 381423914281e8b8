from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.analysis import gradients
from pipeline.analysis.gradients import energy_centres, gradient_at_grey, gradient_over_stimuli
from pipeline.analysis.viewing import Viewer
from pipeline.datasets.batches import ImageBatch, MovieBatch
from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError, DatasetError
from pipeline.models import Factorized3d, FullGaussian2d, MLPGain, Network, build_encoder
from pipeline.models.ensemble import EnsembleEncoder
from tests.pipeline.analysis.known_units import KEY, model_of


def viewer_of(encoder, **state) -> Viewer:
    (data_key,) = encoder.data_info
    return Viewer(encoder, data_key, encoder.data_info[data_key], **state)


def random_filters(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def batches(encoder, count: int, frames: int = 0, size: int = 7):
    scan = encoder.data_info[KEY]
    generator = torch.Generator().manual_seed(2)
    channels, height, width = scan.input_shape
    for first in range(0, count, size):
        n = min(size, count - first)
        time = (frames,) if frames else ()
        kind = MovieBatch if frames else ImageBatch
        yield kind(
            torch.randn((n, channels, *time, height, width), generator=generator), torch.zeros(n, scan.n_units, *time)
        )


def test_of_linear_units_the_gradient_is_the_filter(monkeypatch):
    monkeypatch.setattr(gradients, "PAIRS_AT_ONCE", 4)
    filters = random_filters(6, 1, 2, 5, 7)
    viewer = viewer_of(model_of(filters, offset=0.5))
    found = gradient_at_grey(viewer, [5, 0, 3, 1, 2])
    np.testing.assert_allclose(found.fields[:, :, 0], filters[[5, 0, 3, 1, 2], 0], rtol=1e-6)
    np.testing.assert_allclose(found.response, 0.5, rtol=1e-6)
    np.testing.assert_allclose(found.energy, filters[[5, 0, 3, 1, 2], 0].square().sum(dim=1), rtol=1e-5)
    averaged = gradient_over_stimuli(viewer, [5, 0, 3, 1, 2], batches(viewer.encoder, 9))
    np.testing.assert_allclose(averaged.energy, found.energy, rtol=1e-5)
    np.testing.assert_allclose(averaged.fields, found.fields, rtol=1e-5)
    assert (found.stimuli, averaged.stimuli) == (1, 9)


@pytest.mark.parametrize(("lags", "expected"), [(4, slice(None)), (2, slice(2, None))])
def test_of_linear_units_in_time_the_last_lag_is_the_latest(lags, expected):
    filters = random_filters(3, 1, 1, 4, 5, 6)
    viewer = viewer_of(model_of(filters))
    found = gradient_at_grey(viewer, range(3), lags)
    np.testing.assert_allclose(found.fields, filters[:, 0, :, expected], rtol=1e-6)
    longer = gradient_at_grey(viewer, range(3), 6)
    np.testing.assert_allclose(longer.fields[:, :, 2:], filters[:, 0], rtol=1e-6)
    assert not longer.fields[:, :, :2].any()


def test_of_squared_filters_the_gradient_at_stimuli_is_twice_their_mean_drive_times_the_filter():
    filters = random_filters(2, 1, 1, 5, 6)
    viewer = viewer_of(model_of(filters, "energy"))
    assert not gradient_at_grey(viewer, [0, 1]).fields.any()
    found = gradient_over_stimuli(viewer, [0, 1], batches(viewer.encoder, 30), stimuli=11)
    shown = torch.cat([batch.inputs for batch in batches(viewer.encoder, 30)])[:11]
    drive = (shown.flatten(1) @ filters.flatten(1).T).mean(dim=0)
    np.testing.assert_allclose(found.fields[:, :, 0], 2 * drive[:, None, None, None] * filters[:, 0], rtol=1e-4)
    assert found.stimuli == 11
    each = 2 * (shown.flatten(1) @ filters.flatten(1).T)
    expected = each.square().mean(dim=0)[:, None, None] * filters[:, 0, 0].square()
    np.testing.assert_allclose(found.energy, expected, rtol=1e-4)


def test_movies_are_cut_into_clips():
    filters = random_filters(2, 1, 1, 3, 4, 5)
    viewer = viewer_of(model_of(filters, "energy"))
    found = gradient_over_stimuli(viewer, [0, 1], batches(viewer.encoder, 2, frames=8), lags=3)
    (batch,) = batches(viewer.encoder, 2, frames=8)
    clips = [batch.inputs[trial, :, start : start + 3] for trial in range(2) for start in (0, 3)]
    drive = torch.stack([(clip * filters[:, 0]).flatten(1).sum(dim=1) for clip in clips]).mean(dim=0)
    np.testing.assert_allclose(found.fields, 2 * drive[:, None, None, None, None] * filters[:, 0], rtol=1e-4)
    assert found.stimuli == 4
    with pytest.raises(DatasetError, match="no movie has the 9 frames"):
        gradient_over_stimuli(viewer, [0], batches(viewer.encoder, 2, frames=8), lags=9)
    with pytest.raises(ConfigurationError, match="over 2 lags; images have 1"):
        gradient_at_grey(viewer_of(model_of(random_filters(2, 1, 1, 4, 4))), [0], lags=2)


def small_encoder(seed: int, scan: ScanInfo):
    core = Factorized3d(hidden_channels=(3,), spatial_kernels=(3,), temporal_kernels=(4,))
    encoder = build_encoder(Network(core, readout=FullGaussian2d(), modulator=MLPGain()), {KEY: scan}, seed)
    return encoder.train()


SCAN = ScanInfo((3, 1, 7), (2, 9, 10), (1.0, 2.0, 0.5), n_behavior=2, mean_behavior=(0.3, -1.0), frame_rate=30.0,
                clip_frames=20, plane_means=(0.7,), input_mean=100.0, input_std=40.0)  # fmt: skip


@pytest.mark.parametrize("ensemble", [False, True])
def test_units_side_by_side_equal_units_one_by_one(ensemble):
    encoder = small_encoder(0, SCAN)
    if ensemble:
        encoder = EnsembleEncoder({1: encoder, 2: small_encoder(5, SCAN)}).train()
    viewer = viewer_of(encoder, behavior="training_mean")
    found = gradient_at_grey(viewer, [2, 0], lags=5)
    assert found.fields.shape == (2, 1, 5, 9, 10) and encoder.training
    encoder.eval()
    for position, unit in enumerate((2, 0)):
        pixels = torch.zeros(1, 1, 5, 9, 10, requires_grad=True)
        planes = torch.full((1, 1, 5, 9, 10), 0.7)
        behavior = torch.tensor([0.3, -1.0])[None, :, None].expand(1, 2, 5)
        response = encoder(torch.cat([pixels, planes], dim=1), KEY, behavior=behavior)[0, unit, -1]
        response.backward()
        np.testing.assert_allclose(found.fields[position], pixels.grad[0], atol=1e-7)
        assert found.response[position] == pytest.approx(response.item(), rel=1e-6)


def test_what_is_not_normalised_has_its_grey_in_the_middle():
    filters = random_filters(1, 1, 1, 4, 4)
    viewer = viewer_of(model_of(filters, input_mean=0.0, input_std=1.0))
    assert viewer.background == 127.5
    np.testing.assert_allclose(gradient_at_grey(viewer, [0]).response, 127.5 * filters.sum(), rtol=1e-4)
    bright = dataclasses.replace(viewer, scan=dataclasses.replace(viewer.scan, input_mean=155.0, input_std=20.0))
    np.testing.assert_allclose(bright.pixels(torch.tensor([-1.0, 0.0, 0.5, 1.0])), [-5, 0, 2.5, 5])


def test_the_centre_of_the_energy_is_that_of_a_gabor_not_of_a_lobe():
    rows, columns = np.mgrid[:36, :64]
    envelope = np.exp(-((columns - 20.4) ** 2 + (rows - 12.7) ** 2) / 32)
    gabor = envelope * np.cos(0.9 * columns)
    found = energy_centres(np.stack([gabor**2, np.zeros((36, 64)), envelope**2]))
    np.testing.assert_allclose(found[2], [20.4, 12.7], atol=0.1)
    np.testing.assert_allclose(found[0], [20.4, 12.7], atol=0.8)
    assert np.isnan(found[1]).all()
