from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.datasets.info import DataInfo, ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.mei.engine import MEIs, find_meis
from pipeline.mei.settings import Movie
from pipeline.models import MLP, Encoder, Factorized3d, MLPGain, Network, build_encoder

HEIGHT, WIDTH, LAGS = 9, 11, 4
PLACES = [(5, 4), (3, 5), (6, 3)]
"""x and y at which the units look."""
SCAN = ScanInfo(
    (1, 2, 3), (1, HEIGHT, WIDTH), (1.0, 1.5, 2.0), n_behavior=2, mean_pupil_center=(0.5, -0.25),
    mean_behavior=(1.0, 0.5), frame_rate=60.0, input_mean=120.0, input_std=20.0,
)  # fmt: skip
PLAIN = Movie(frames=6, norm=5.0, iterations=120, patience=120, blur_space=0, blur_time=0)


def linear_encoder() -> tuple[Encoder, np.ndarray]:
    """Return an encoder with one linear filter and the filter of each unit, (unit, lag, height, width)."""
    core = Factorized3d(hidden_channels=(1,), spatial_kernels=(5,), temporal_kernels=(LAGS,), linear=True)
    network = Network(core=core, shifter=MLP(layers=1), modulator=MLPGain(layers=1))
    encoder = build_encoder(network, {"a": SCAN}, seed=0).eval()
    rng = np.random.default_rng(0)
    space, time = rng.normal(size=(5, 5)), rng.normal(size=LAGS)
    half = torch.tensor([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    with torch.no_grad():
        encoder.core.first.spatial.weight.copy_(torch.tensor(space)[None, None])
        encoder.core.first.temporal.weight.copy_(torch.tensor(time)[None, None, :, None])
        encoder.core.first.norm.eps = 0.0
        encoder.readouts["a"].mu.copy_(torch.tensor(PLACES) / half - 1)
        encoder.readouts["a"].features.fill_(1.0)
        encoder.readouts["a"].bias.copy_(torch.tensor([0.5, 1.0, 1.5]))
    return encoder, np.stack([placed(np.einsum("t,hw->thw", time, space), x, y) for x, y in PLACES])


def placed(patch: np.ndarray, x: int, y: int) -> np.ndarray:
    """Put a patch of 5 x 5 pixels at a place of the frame."""
    frame = np.zeros((LAGS, HEIGHT, WIDTH))
    frame[:, y - 2 : y + 3, x - 2 : x + 3] = patch[:, :, : WIDTH - x + 2]
    return frame


@pytest.fixture(scope="module")
def deep() -> tuple[Encoder, ScanInfo]:
    """A network with two layers and random weights, for which no answer is known."""
    core = Factorized3d(hidden_channels=(4, 4), spatial_kernels=(5, 3), temporal_kernels=(3, 2))
    info: DataInfo = {"a": SCAN}
    encoder = build_encoder(Network(core=core, shifter=MLP(), modulator=MLPGain()), info, seed=4)
    torch.manual_seed(2)
    with torch.no_grad():
        encoder.readouts["a"].features.normal_(std=1.0)
        encoder.modulators["a"].last.weight.normal_(std=0.5)
    return encoder.eval(), SCAN


def z_scored(found: MEIs, scan: ScanInfo = SCAN) -> np.ndarray:
    return (found.stimuli.astype(float) - scan.input_mean) / scan.input_std


def norms(movies: np.ndarray) -> np.ndarray:
    return np.sqrt((movies**2).sum(axis=(1, 2, 3, 4)))


def test_a_linear_unit_prefers_its_filter() -> None:
    encoder, filters = linear_encoder()
    found = find_meis(encoder, "a", SCAN, [0, 1, 2], PLAIN)
    assert (found.stimuli.dtype, found.stimuli.shape) == (np.float32, (3, 1, 6, HEIGHT, WIDTH))
    movies = z_scored(found)
    np.testing.assert_allclose(norms(movies), 5, rtol=1e-4)
    for unit in range(3):
        best = np.zeros((6, HEIGHT, WIDTH))
        best[-LAGS:] = 5 * filters[unit] / np.linalg.norm(filters[unit])
        assert np.corrcoef(movies[unit, 0].ravel(), best.ravel())[0, 1] > 0.99
        np.testing.assert_allclose(movies[unit, 0], best, atol=0.1)
        # Cauchy and Schwarz: |w| |x| above the bias; elu + 1 adds 1
        highest = 5 * np.linalg.norm(filters[unit]) + (0.5, 1.0, 1.5)[unit] + 1
        assert 0.999 * highest < found.activation[unit] <= highest * (1 + 1e-5)
    np.testing.assert_allclose(found.grey_activation, [1.5, 2, 2.5], rtol=1e-5)


def respond(encoder: Encoder, movies: np.ndarray, **given: Tensor) -> np.ndarray:
    """Response of unit i to the last frame of movie i."""
    with torch.no_grad():
        return encoder(torch.tensor(movies).float(), "a", **given)[:, :, -1].diagonal().numpy()


def test_the_best_movie_met_is_kept(deep: tuple[Encoder, ScanInfo]) -> None:
    encoder, scan = deep
    # Steps as long as the norm overshoot, so that the last movie is not the best.
    settings = dataclasses.replace(PLAIN, step_start=2.5, step_end=2.5, iterations=40, norm=20.0)
    found = find_meis(encoder, "a", scan, [0, 1, 2], settings)
    assert found.trajectory.shape == (3, 41)
    np.testing.assert_array_equal(found.activation, found.trajectory.max(axis=1))
    np.testing.assert_array_equal(found.best_iteration, found.trajectory.argmax(axis=1))
    assert found.best_iteration.min() < 40
    np.testing.assert_allclose(respond(encoder, z_scored(found, scan)), found.activation, rtol=1e-4)
    assert (found.activation > found.grey_activation).all()


def test_movies_stay_on_the_screen_and_within_the_norm(deep: tuple[Encoder, ScanInfo]) -> None:
    encoder, _ = deep
    dim = dataclasses.replace(SCAN, input_mean=60.0, input_std=70.0)  # z-scores from -0.86 to 2.79
    settings = dataclasses.replace(PLAIN, norm=30.0, iterations=40)
    found = find_meis(encoder, "a", dim, [0, 1, 2], settings)
    assert found.stimuli.min() == 0
    assert found.stimuli.max() <= 255
    assert (norms(z_scored(found, dim)) <= 30 * (1 + 1e-5)).all()
    np.testing.assert_allclose(respond(encoder, z_scored(found, dim)), found.activation, rtol=1e-4)


def test_a_unit_does_not_depend_on_the_others_asked_for(deep: tuple[Encoder, ScanInfo]) -> None:
    encoder, scan = deep
    # Units converge after different numbers of steps; none may profit from waiting for the others.
    settings = dataclasses.replace(
        PLAIN, norm=20.0, iterations=60, patience=3, min_rise=0.02, step_start=0.1, step_end=0.05
    )
    every = find_meis(encoder, "a", scan, [0, 1, 2], settings)
    assert every.converged.all()
    assert len(set(every.best_iteration)) == 3
    for unit in range(3):
        alone = find_meis(encoder, "a", scan, [unit], settings)
        np.testing.assert_allclose(alone.stimuli[0], every.stimuli[unit], atol=0.05)
        np.testing.assert_allclose(alone.activation, every.activation[[unit]], rtol=1e-4)
        assert alone.best_iteration[0] == every.best_iteration[unit]
    turned = find_meis(encoder, "a", scan, [2, 0], settings)
    np.testing.assert_allclose(turned.stimuli, every.stimuli[[2, 0]], atol=0.05)


def test_more_units_than_fit_into_one_pass_get_the_movies_of_one_pass(
    deep: tuple[Encoder, ScanInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, scan = deep
    settings = dataclasses.replace(PLAIN, iterations=15, eye_position="training_mean", behavior="training_mean")
    together = find_meis(encoder, "a", scan, [2, 0, 1], settings)
    monkeypatch.setattr("pipeline.mei.engine.STIMULI_AT_ONCE", 2)
    apart = find_meis(encoder, "a", scan, [2, 0, 1], settings)
    np.testing.assert_allclose(apart.stimuli, together.stimuli, atol=1e-2)
    np.testing.assert_allclose(apart.trajectory, together.trajectory, rtol=1e-4)
    np.testing.assert_allclose(apart.grey_activation, together.grey_activation, rtol=1e-4)


def test_convergence_and_progress() -> None:
    encoder, _ = linear_encoder()
    settings = dataclasses.replace(PLAIN, patience=10)
    steps: list[None] = []
    found = find_meis(encoder, "a", SCAN, [0, 1], settings, on_step=lambda: steps.append(None))
    assert found.converged.all()
    assert len(steps) == found.trajectory.shape[1] - 1 < 120
    short = find_meis(encoder, "a", SCAN, [0, 1], dataclasses.replace(settings, iterations=5))
    assert not short.converged.any()
    assert short.trajectory.shape == (2, 6)
    assert (short.trajectory == found.trajectory[:, :6]).sum() >= 2  # the same start


def test_the_seed_decides_the_start(deep: tuple[Encoder, ScanInfo]) -> None:
    encoder, scan = deep
    settings = dataclasses.replace(PLAIN, iterations=3)
    torch.manual_seed(1)
    first = find_meis(encoder, "a", scan, [0], settings)
    torch.manual_seed(2)
    again = find_meis(encoder, "a", scan, [0], settings)
    other = find_meis(encoder, "a", scan, [0], dataclasses.replace(settings, mei_seed=1))
    assert np.array_equal(first.stimuli, again.stimuli)
    assert not np.allclose(first.stimuli, other.stimuli, atol=1)


def test_movies_too_short_for_a_response_are_refused() -> None:
    encoder, _ = linear_encoder()
    with pytest.raises(ConfigurationError, match=r"Movie.frames is 3, but this network needs 4 frames"):
        find_meis(encoder, "a", SCAN, [0], dataclasses.replace(PLAIN, frames=3))
    shortest = find_meis(encoder, "a", SCAN, [0], dataclasses.replace(PLAIN, frames=4, iterations=2))
    assert shortest.stimuli.shape == (1, 1, 4, HEIGHT, WIDTH)


def test_the_mean_eye_position_moves_the_movie() -> None:
    encoder, filters = linear_encoder()
    shift = torch.tensor([1 / ((WIDTH - 1) / 2), -1 / ((HEIGHT - 1) / 2)])  # one pixel to the right and up
    weights = torch.diag(torch.atanh(shift) / torch.tensor(SCAN.mean_pupil_center))
    with torch.no_grad():
        encoder.shifters["a"].layers[0].weight.copy_(weights)
    straight = z_scored(find_meis(encoder, "a", SCAN, [0], PLAIN))
    moved = z_scored(find_meis(encoder, "a", SCAN, [0], dataclasses.replace(PLAIN, eye_position="training_mean")))
    assert np.corrcoef(straight[0, 0, -LAGS:].ravel(), filters[0].ravel())[0, 1] > 0.99
    expected = np.roll(filters[0], (1, -1), axis=(2, 1))
    assert np.corrcoef(moved[0, 0, -LAGS:].ravel(), expected.ravel())[0, 1] > 0.99


def test_the_mean_behaviour_scales_the_drive() -> None:
    encoder, _ = linear_encoder()
    with torch.no_grad():
        encoder.modulators["a"].last.weight.copy_(torch.tensor([[0.2, 0.4], [-0.5, 0.0], [0.0, 0.0]]))
        encoder.modulators["a"].last.bias.zero_()
    gains = np.exp([0.4, -0.5, 0.0])  # of the mean behaviour (1, 0.5)
    still = find_meis(encoder, "a", SCAN, [0, 1, 2], PLAIN)
    running = find_meis(encoder, "a", SCAN, [0, 1, 2], dataclasses.replace(PLAIN, behavior="training_mean"))
    np.testing.assert_allclose(running.activation - 1, gains * (still.activation - 1), rtol=1e-3)
    np.testing.assert_allclose(running.grey_activation - 1, gains * (still.grey_activation - 1), rtol=1e-5)
    np.testing.assert_allclose(running.stimuli, still.stimuli, atol=1)


def test_scans_without_eye_or_behaviour_have_no_mean_to_tell() -> None:
    encoder, _ = linear_encoder()
    bare = dataclasses.replace(SCAN, mean_pupil_center=None, mean_behavior=None, n_behavior=0)
    asked = dataclasses.replace(PLAIN, iterations=5, eye_position="training_mean", behavior="training_mean")
    found = find_meis(encoder, "a", bare, [0], asked)
    expected = find_meis(encoder, "a", bare, [0], dataclasses.replace(PLAIN, iterations=5))
    assert np.array_equal(found.stimuli, expected.stimuli)


def roughness(movies: np.ndarray, axis: int) -> float:
    return float((np.diff(movies, axis=axis) ** 2).sum() / (movies**2).sum())


@pytest.mark.parametrize(("field", "axes"), [("blur_space", (3, 4)), ("blur_time", (2,))])
def test_blur_smooths_its_own_axes(field: str, axes: tuple[int, ...]) -> None:
    encoder, _ = linear_encoder()
    sharp = z_scored(find_meis(encoder, "a", SCAN, [0], PLAIN))
    smooth = z_scored(find_meis(encoder, "a", SCAN, [0], dataclasses.replace(PLAIN, **{field: 1.5})))
    for axis in axes:
        assert roughness(smooth, axis) < 0.6 * roughness(sharp, axis)


def test_planes_are_held_at_their_training_mean() -> None:
    core = Factorized3d(hidden_channels=(3,), spatial_kernels=(3,), temporal_kernels=(2,))
    means = (0.7, -1.5)
    scan = dataclasses.replace(SCAN, input_shape=(3, HEIGHT, WIDTH), plane_means=means)
    encoder = build_encoder(Network(core=core), {"a": scan}, seed=1).eval()
    settings = dataclasses.replace(PLAIN, frames=3, iterations=5)
    found = find_meis(encoder, "a", scan, [2, 0], settings)
    assert found.stimuli.shape == (2, 1, 3, HEIGHT, WIDTH)

    def responses(pixels: Tensor) -> Tensor:
        planes = torch.tensor(means)[None, :, None, None, None].expand(len(pixels), -1, *pixels.shape[2:])
        with torch.no_grad():
            return encoder(torch.cat([pixels, planes], dim=1), "a")[:, [2, 0], -1]

    pixels = torch.tensor(z_scored(found, scan)).float()
    np.testing.assert_allclose(found.activation, responses(pixels).diagonal(), rtol=1e-4)
    np.testing.assert_allclose(found.grey_activation, responses(torch.zeros(1, 1, 3, HEIGHT, WIDTH))[0], rtol=1e-5)
