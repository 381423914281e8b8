"""Kinds of MEI configuration on networks whose best images are known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.configuration import Configuration
from pipeline.errors import ConfigurationError
from pipeline.mei.conditions import Conditions
from pipeline.mei.engine import find_meis, find_stimuli, steps_at_most
from pipeline.mei.objectives import Diverse, OneUnit, contrast_of_groups, least_exciting
from pipeline.mei.optimizer import Recipe, optimise
from pipeline.mei.settings import Frequency, Function, Modern, Movie, Staticnet
from pipeline.mei.smoothing import Linear
from pipeline.mei.steps import Adaptive, Plateau, Scheduled
from pipeline.models import Network, build_encoder
from pipeline.models.base import EncodingModel
from pipeline.models.cores import Stacked2d
from pipeline.models.ensemble import EnsembleEncoder
from tests.pipeline.mei.simulated import SCAN, Filters, correlations, gabors, simulated

MODERN = Modern(norm=8.0)
STATICNET = Staticnet(iterations=600, eye_position="center")
KINDS: tuple[Configuration, ...] = (MODERN, STATICNET, Frequency(norm=8.0, exponent=0.5))


def z_scored(stimuli: np.ndarray) -> np.ndarray:
    return (stimuli.astype(float) - SCAN.input_mean) / SCAN.input_std


@pytest.fixture(scope="module")
def deep() -> EncodingModel:
    """A network with random weights, for which no answer is known."""
    core = Stacked2d(hidden_channels=4, input_kern=5, hidden_kern=3, layers=2)
    encoder = build_encoder(Network(core), {"a": SCAN}, seed=2)
    torch.manual_seed(3)
    with torch.no_grad():
        encoder.readouts["a"].features.normal_()
    return encoder.eval()


@pytest.mark.parametrize("kind", ["linear", "simple"])
@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: settings.kind())
def test_linear_and_simple_units_prefer_their_filters(kind: str, settings: Configuration) -> None:
    found = find_meis(simulated(kind, 1.0), "a", SCAN, range(4), settings)
    assert found.stimuli.shape == (4, 1, 1, *SCAN.input_shape[1:])
    assert correlations(found.stimuli, gabors()).min() > 0.9
    assert 0 <= found.stimuli.min() < found.stimuli.max() <= 255
    grey = np.log(2) ** 2 if kind == "simple" else 0
    np.testing.assert_allclose(found.grey_activation, 1 + grey, atol=1e-5)
    filtered = np.einsum("uhw,uhw->u", z_scored(found.stimuli)[:, 0, 0], gabors())
    expected = 1 + (np.logaddexp(0, filtered) ** 2 if kind == "simple" else filtered)
    np.testing.assert_allclose(found.activation, expected, rtol=1e-3)


def test_modern_images_reach_the_optimum_and_converge() -> None:
    found = find_meis(simulated(), "a", SCAN, range(4), Modern(norm=4.0))
    assert found.converged.all()
    assert found.trajectory.shape[1] < 120
    # Cauchy and Schwarz: filters have norm 1
    assert (found.activation > 1 + 0.995 * 4).all() and (found.activation <= 1 + 4 * (1 + 1e-5)).all()
    images = z_scored(found.stimuli)
    np.testing.assert_allclose(np.linalg.norm(images.reshape(4, -1), axis=1), 4, rtol=1e-4)


def test_modern_and_staticnet_agree_on_linear_units() -> None:
    kinds = (MODERN, Staticnet(eye_position="center"))
    modern, staticnet = (find_meis(simulated(), "a", SCAN, range(4), settings).stimuli for settings in kinds)
    assert correlations(modern, staticnet).min() > 0.9


def test_a_norm_beyond_what_the_screen_can_show_is_kept_by_the_other_pixels() -> None:
    found = find_meis(simulated(), "a", SCAN, range(4), Modern(norm=16.0))
    assert (found.stimuli.min(), found.stimuli.max()) == (0, 255)
    norms = np.linalg.norm(z_scored(found.stimuli).reshape(4, -1), axis=1)
    np.testing.assert_allclose(norms, 16.0, rtol=1e-4)


def test_behaviour_and_eye_as_configured() -> None:
    plain = find_meis(simulated(), "a", SCAN, range(4), MODERN)
    running = find_meis(simulated(), "a", SCAN, range(4), dataclasses.replace(MODERN, behavior="training_mean"))
    np.testing.assert_allclose(running.activation, 2 * plain.activation, rtol=1e-3)
    np.testing.assert_allclose(running.grey_activation, 2.0, rtol=1e-5)
    aside = find_meis(simulated(), "a", SCAN, range(4), dataclasses.replace(MODERN, eye_position="training_mean"))
    assert correlations(aside.stimuli, np.roll(gabors(), 1, axis=2)).min() > 0.95
    assert correlations(aside.stimuli, gabors()).max() < 0.9


@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: settings.kind())
def test_a_batch_of_units_is_one_at_a_time(deep: EncodingModel, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(settings, iterations=12)
    together = find_meis(deep, "a", SCAN, [2, 0, 3], settings)
    for i, unit in enumerate([2, 0, 3]):
        alone = find_meis(deep, "a", SCAN, [unit], settings)
        np.testing.assert_allclose(alone.stimuli[0], together.stimuli[i], atol=0.05)
        np.testing.assert_allclose(alone.trajectory[0], together.trajectory[i], rtol=1e-3, atol=1e-4)
    monkeypatch.setattr("pipeline.mei.engine.STIMULI_AT_ONCE", 2)
    steps: list[None] = []
    apart = find_meis(deep, "a", SCAN, [2, 0, 3], settings, on_step=lambda: steps.append(None))
    np.testing.assert_allclose(apart.stimuli, together.stimuli, atol=0.05)
    assert len(steps) == steps_at_most(settings, 3) == 24


def test_the_best_is_kept_and_evaluated_as_shown(deep: EncodingModel) -> None:
    settings = dataclasses.replace(STATICNET, iterations=30, step_size_start=1e5, step_size_end=1e5)
    found = find_meis(deep, "a", SCAN, range(4), settings)
    np.testing.assert_array_equal(found.activation, found.trajectory.max(axis=1))
    np.testing.assert_array_equal(found.best_iteration, found.trajectory.argmax(axis=1))
    assert found.best_iteration.min() < 30
    with torch.no_grad():
        again = deep(torch.tensor(z_scored(found.stimuli)[:, :, 0]).float(), "a").diagonal()
    np.testing.assert_allclose(found.activation, again, rtol=1e-4)


def test_weights_are_free_again_afterwards(deep: EncodingModel) -> None:
    find_meis(deep, "a", SCAN, [0], dataclasses.replace(MODERN, iterations=1))
    assert all(parameter.requires_grad for parameter in deep.parameters())


def test_the_best_of_several_starts() -> None:
    """A unit that likes either sign of its filter, one of them more, is caught by the wrong one from some starts."""
    filters = gabors()

    class TwoPeaks(Filters):
        def forward(self, inputs: Tensor, **signals: Tensor) -> Tensor:  # type: ignore[override]
            drive = torch.einsum("bchw,uhw->bu", inputs, self.filters)
            return torch.where(drive > 0, 2 * drive**2, drive**2)

    from pipeline.models.foreign import ForeignEncoder

    encoder = ForeignEncoder(TwoPeaks(filters, "", 0), {"a": SCAN}, "peaks").eval()
    settings = dataclasses.replace(MODERN, norm=4.0)
    one = find_meis(encoder, "a", SCAN, range(4), settings)
    many = find_meis(encoder, "a", SCAN, range(4), dataclasses.replace(settings, starts=6))
    assert correlations(one.stimuli, filters).min() < -0.9
    assert correlations(many.stimuli, filters).min() > 0.9
    assert (many.activation >= one.activation - 1e-3).all()


def test_ensembles_by_the_mean_of_their_members() -> None:
    filters = gabors()
    members: dict[int, EncodingModel] = {1: simulated(), 2: simulated()}
    members[2].network.filters.data.copy_(torch.tensor(np.roll(filters, 2, axis=0)))  # type: ignore[union-attr, operator]
    found = find_meis(EnsembleEncoder(members), "a", SCAN, range(4), MODERN)
    assert correlations(found.stimuli, filters + np.roll(filters, 2, axis=0)).min() > 0.95


def test_penalties_and_channels_act(deep: EncodingModel) -> None:
    settings = dataclasses.replace(MODERN, iterations=40)
    rough = find_meis(deep, "a", SCAN, range(4), settings)
    smooth = find_meis(deep, "a", SCAN, range(4), dataclasses.replace(settings, total_variation=0.01))

    def variation(stimuli: np.ndarray) -> np.ndarray:
        return np.abs(np.diff(stimuli, axis=3)).sum(axis=(1, 2, 3, 4))

    assert (variation(smooth.stimuli) < 0.9 * variation(rough.stimuli)).all()
    with torch.no_grad():
        images = torch.tensor(z_scored(smooth.stimuli)[:, :, 0]).float()
        np.testing.assert_allclose(smooth.activation, deep(images, "a").diagonal(), rtol=1e-3)


def test_frequencies_above_the_highest_are_absent(deep: EncodingModel) -> None:
    found = find_meis(deep, "a", SCAN, [1], Frequency(norm=2.0, highest=0.2, iterations=30))
    spectrum = np.abs(np.fft.fft2(z_scored(found.stimuli)[0, 0, 0]))
    y, x = (np.fft.fftfreq(size) for size in SCAN.input_shape[1:])
    beyond = np.hypot(y[:, None], x[None]) > 0.2
    assert spectrum[beyond].max() < 1e-4 * spectrum.max()


def test_jitter_moves_all_images_alike(deep: EncodingModel) -> None:
    settings = Staticnet(iterations=60, jitter=2, mei_seed=4, blur=False)
    together = find_meis(deep, "a", SCAN, [2, 0], settings)
    alone = find_meis(deep, "a", SCAN, [0], settings)
    still = find_meis(deep, "a", SCAN, [0], dataclasses.replace(settings, jitter=0))
    np.testing.assert_allclose(alone.stimuli[0], together.stimuli[1], atol=0.05)
    assert np.abs(alone.stimuli - still.stimuli).max() > 1


def test_the_published_steps_by_hand() -> None:
    """Three steps of the published recipe on one linear unit, written out."""
    from scipy.ndimage import gaussian_filter

    filters = gabors()[:1].astype(np.float32)
    settings = Staticnet(iterations=3, precond=0.0, train_norm=11.0, eye_position="center")
    mean, std = SCAN.input_mean, SCAN.input_std
    noise = torch.randn((1, 1, *filters.shape[1:]), generator=torch.Generator().manual_seed(0))[0, 0].numpy()
    image = ((128 + 8 * noise).clip(0, 255) - mean) / std
    gradient, responses = filters[0], []
    for step in range(4):
        image = image * min(1.0, (11 / std) / image.std(ddof=1))
        responses.append(1 + float((image * filters[0]).sum()))
        size, sigma = (np.interp(step, [0, 2], ends) for ends in ([3.0, 0.125], [1.5, 0.01]))
        image = image + size / np.abs(gradient).mean() * 0.1 / 255 * gradient
        image = gaussian_filter(image.clip(-mean / std, (255 - mean) / std), sigma)
    found = find_meis(simulated(), "a", SCAN, [0], settings)
    np.testing.assert_allclose(found.trajectory[0], responses, rtol=1e-4)


def test_images_are_refused_for_networks_with_a_past() -> None:
    from tests.pipeline.mei.test_movies import SCAN as MOVIES
    from tests.pipeline.mei.test_movies import linear_encoder

    encoder, _ = linear_encoder()
    for kind in (Modern, Staticnet, Frequency):
        with pytest.raises(
            ConfigurationError, match=rf"{kind.__name__} is for images.* is 1, but this network needs 4"
        ):
            find_meis(encoder, "a", MOVIES, [0], kind())


def filters_of(model: EncodingModel, units: list[int], contrast: float, seed: int) -> np.ndarray:
    """A method of a laboratory's own."""
    return contrast * seed * gabors()[units][:, None]


def wrong(model: EncodingModel, units: list[int], how: str) -> Any:
    if how == "fails":
        raise ValueError("nothing found")
    return {"shape": np.zeros((1, 2, 3, 4)), "nan": np.full((1, *SCAN.input_shape), np.nan), "text": "image"}[how]


def test_a_function_of_ones_own() -> None:
    settings = Function(f"{__name__}.filters_of", '{"contrast": 2.0}', mei_seed=3, behavior="training_mean")
    found = find_meis(simulated(), "a", SCAN, [3, 1], settings)
    np.testing.assert_allclose(z_scored(found.stimuli)[:, 0, 0], np.clip(6 * gabors()[[3, 1]], -2.2, 2.9), atol=1e-4)
    np.testing.assert_allclose(found.activation, 2 * (1 + 6), rtol=1e-3)
    np.testing.assert_allclose(found.grey_activation, 2, rtol=1e-5)
    assert found.converged.all() and found.trajectory.shape == (2, 1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("fails", r"failed \(ValueError: nothing found\)"),
        ("shape", r"shape \(1, 2, 1, 3, 4\), not"),
        ("nan", "not finite"),
        ("text", "must return a tensor or an array, not a str"),
    ],
)
def test_functions_that_do_something_else_are_refused(how: str, message: str) -> None:
    settings = Function(f"{__name__}.wrong", f'{{"how": "{how}"}}')
    with pytest.raises(ConfigurationError, match=message):
        find_meis(simulated(), "a", SCAN, [0], settings)


def test_units_that_nothing_drives_have_not_converged() -> None:
    """Where a half-wave rectified unit is silent, no gradient says where to go; another start may tell."""
    silent = simulated("rectified")
    found = find_meis(silent, "a", SCAN, range(4), MODERN)
    stuck = correlations(found.stimuli, gabors()) < 0.9
    assert 0 < stuck.sum() < 4
    assert (found.converged != stuck).all()
    assert (
        correlations(
            find_meis(silent, "a", SCAN, range(4), dataclasses.replace(MODERN, starts=8)).stimuli, gabors()
        ).min()
        > 0.9
    )


def test_objectives_of_ones_own_and_what_has_converged_is_not_evaluated_again() -> None:
    """A paraboloid: each stimulus climbs to its own peak; the farther one takes longer."""
    peaks = torch.tensor([0.6, 6.1])[:, None, None, None, None] * torch.ones(2, 1, 1, 2, 2)
    asked: list[list[int]] = []

    def objective(stimuli: Tensor, index: Tensor) -> Tensor:
        asked.append(index.tolist())
        return -(stimuli - peaks[index]).square().sum(dim=(1, 2, 3, 4))

    recipe = Recipe(lambda shape, starts: torch.zeros(starts, *shape), Scheduled(Linear(0.5, 0.5)), Plateau(2, 0.0), 60)
    found = optimise(objective, recipe, torch.zeros(2, 1, 1, 2, 2))
    assert found.converged.all()
    torch.testing.assert_close(found.stimuli, peaks, atol=0.13, rtol=0)
    assert asked[0] == [0, 1] and asked[-1] == [1]
    assert found.best_iteration.tolist() == [2, 24]
    assert len(asked) == found.trajectory.shape[1] == 27
    assert (found.trajectory[0, 4:] == found.trajectory[0, 4]).all()


def test_adaptive_steps_find_the_peak_on_the_sphere() -> None:
    """The largest eigenvalue of a quadratic form."""
    torch.manual_seed(1)
    matrix = torch.randn(12, 12)
    matrix = matrix @ matrix.t()
    objective = lambda stimuli, index: ((rows := stimuli.flatten(1)) * (rows @ matrix)).sum(dim=1)  # noqa: E731
    from pipeline.mei.constraints import Norm

    recipe = Recipe(
        lambda shape, starts: torch.zeros(starts, *shape), Adaptive(), Plateau(20, 1e-6), 300, constraints=(Norm(2.0),)
    )
    found = optimise(objective, recipe, torch.randn(5, 1, 1, 3, 4))
    largest = float(torch.linalg.eigvalsh(matrix)[-1]) * 4
    torch.testing.assert_close(found.value, torch.full((5,), largest), rtol=1e-3, atol=0)


def test_diverse_images_of_one_unit() -> None:
    """At an angle t to the filter, norm cos(t) - weight cos(2 t) is largest where cos(t) = norm / (4 weight)."""
    conditions = Conditions(simulated(), "a", SCAN)
    settings = Modern(norm=2.0, start_contrast=0.5, min_rise=1e-6)
    objective = Diverse(OneUnit(conditions, [1, 1, 3, 3]), 2, weight=1.0, metric="cosine")
    found = find_stimuli(conditions, settings, objective, 4)
    images = found.stimuli.flatten(1)
    filters = torch.tensor(gabors()[[1, 1, 3, 3]]).flatten(1).float()
    torch.testing.assert_close((images * filters).sum(dim=1), torch.full((4,), 2 * 0.5), atol=0.05, rtol=0)
    torch.testing.assert_close(found.value, torch.full((4,), 1 + 2 * 0.5 + 0.5), atol=0.01, rtol=0)
    assert (found.best_iteration[::2] == found.best_iteration[1::2]).all()


def test_any_objective_of_units() -> None:
    """A linear contrast of two units: the difference of their filters. The least exciting image: minus the filter."""
    conditions = Conditions(simulated(), "a", SCAN)
    contrast = find_stimuli(conditions, MODERN, contrast_of_groups(conditions, [[0], [2, 3]], [[1], [0]]), 2)
    filters = gabors()
    wanted = np.stack([filters[0] - filters[1], filters[2:].mean(axis=0) - filters[0]])
    assert correlations(contrast.stimuli.numpy(), wanted).min() > 0.95
    least = find_stimuli(conditions, MODERN, least_exciting(conditions, [2]), 1)
    assert correlations(least.stimuli.numpy(), -filters[[2]]).min() > 0.95


def test_the_kind_of_the_movies_is_as_it_was() -> None:
    assert Movie().hash() == "75e035a43d6b2be2cd37c76589e2bef9a46a22a701cb1a97e4586473fb85255e"
