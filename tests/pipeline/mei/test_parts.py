"""Every part of the optimiser against its closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from pipeline.errors import ConfigurationError
from pipeline.mei.conditions import Conditions
from pipeline.mei.constraints import Constraint, Contrast, Luminance, Norm, NormWithinRange, Range
from pipeline.mei.objectives import (
    Discriminating,
    Diverse,
    OneUnit,
    contrast_of_groups,
    least_exciting,
    mean_of_units,
    similarities,
)
from pipeline.mei.penalties import SimilarityTo, TotalVariation
from pipeline.mei.smoothing import FourierPower, GaussianBlur, Linear, StaticnetFourier
from pipeline.mei.starts import Given, Grey, Noise
from pipeline.mei.steps import Adaptive, Plateau, Scheduled, mean_abs
from tests.pipeline.mei.simulated import SCAN, gabors, simulated

EVERY = torch.arange(3)


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_starts() -> None:
    noise = Noise(0.5, mean=2.0, seed=3)((2, 4, 30, 40), 3)
    assert noise.shape == (3, 2, 4, 30, 40)
    assert abs(float(noise.mean()) - 2) < 0.01 and abs(float(noise.std()) - 0.5) < 0.01
    assert torch.equal(Noise(0.5, 2.0, 3)((2, 4, 30, 40), 1), noise[:1])
    assert not torch.equal(noise[0], noise[1])
    clipped = Noise(0.5, mean=2.0, seed=3, low=1.8, high=2.1)((2, 4, 30, 40), 3)
    assert torch.equal(clipped, noise.clamp(1.8, 2.1))
    assert torch.equal(Grey()((1, 1, 3, 4), 2), torch.zeros(2, 1, 1, 3, 4))
    given = some(2, 1, 1, 3, 4)
    assert torch.equal(Given(given)((1, 1, 3, 4), 2), given)
    with pytest.raises(ConfigurationError, match=r"shape \(2, 1, 1, 3, 4\), not \(2, 1, 1, 4, 4\)"):
        Given(given)((1, 1, 4, 4), 2)


STIMULI = some(3, 2, 2, 6, 7) * torch.tensor([0.3, 1.0, 4.0])[:, None, None, None, None] + 0.2


@pytest.mark.parametrize("per_channel", [False, True])
def test_norm_contrast_and_luminance_hold_exactly(per_channel: bool) -> None:
    groups = (2, 3, 4) if per_channel else (1, 2, 3, 4)
    norm = Norm(5.0, per_channel=per_channel)(STIMULI)
    torch.testing.assert_close(torch.linalg.vector_norm(norm, dim=groups), torch.full(norm.sum(groups).shape, 5.0))
    assert torch.equal(norm.sign(), STIMULI.sign())
    contrast = Contrast(0.7, per_channel=per_channel)(STIMULI)
    torch.testing.assert_close(contrast.std(groups), torch.full(norm.sum(groups).shape, 0.7))
    torch.testing.assert_close(contrast.mean(groups), STIMULI.mean(groups))
    luminance = Luminance(-0.3, per_channel=per_channel)(STIMULI)
    torch.testing.assert_close(luminance.mean(groups), torch.full(norm.sum(groups).shape, -0.3))
    torch.testing.assert_close(luminance.std(groups), STIMULI.std(groups))


def test_bounds_leave_alone_what_is_within_them() -> None:
    norms = STIMULI.flatten(1).norm(dim=1)
    bounded = Norm(float(norms[1]) + 0.1, at_most=True)(STIMULI)
    assert torch.equal(bounded[:2], STIMULI[:2])
    assert float(bounded[2].norm()) == pytest.approx(float(norms[1]) + 0.1, rel=1e-5)
    contrast = Contrast(1.2, at_most=True, about_grey=True)(STIMULI)
    assert torch.equal(contrast[:2], STIMULI[:2])
    torch.testing.assert_close(contrast[2], STIMULI[2] * (1.2 / STIMULI[2].std()))
    assert torch.equal(Range(-0.5, 1.0)(STIMULI), STIMULI.clamp(-0.5, 1.0))


def test_norm_within_range_makes_up_for_what_is_clipped() -> None:
    row = torch.tensor([3.0, 1.0, -1.0, 0.5])[None, None, None, None]
    found = NormWithinRange(2.0, -10, 1.5)(row)[0, 0, 0, 0]
    rest = math.sqrt((4 - 1.5**2) / (1 + 1 + 0.25))  # the first is clipped, the others share what is left
    torch.testing.assert_close(found, torch.tensor([1.5, rest, -rest, rest / 2]))
    stimuli = NormWithinRange(12.0, -1.8, 2.2)(STIMULI)
    torch.testing.assert_close(stimuli.flatten(1).norm(dim=1), torch.full((3,), 12.0))
    assert torch.equal(stimuli, stimuli.clamp(-1.8, 2.2))
    assert (stimuli.abs() > 1.79).any()
    impossible = NormWithinRange(1000.0, -1.0, 2.0)(STIMULI)
    assert torch.equal(impossible, torch.where(STIMULI > 0, 2.0, -1.0))
    each = NormWithinRange(6.0, -1.8, 2.2, per_channel=True)(STIMULI)
    torch.testing.assert_close(each.flatten(2).norm(dim=2), torch.full((3, 2), 6.0))


@pytest.mark.parametrize(
    "constraint", [Norm(3.0), NormWithinRange(3.0, -1, 1), Contrast(0.5), Luminance(0.1), Range(-1, 1)]
)
def test_constraints_change_nothing_that_obeys_them(constraint: Constraint) -> None:
    once = constraint(STIMULI)
    torch.testing.assert_close(constraint(once), once)


def test_blur_at_borders() -> None:
    stimuli = some(1, 1, 1, 9, 12)
    sigma = 1.3
    reflected = GaussianBlur(Linear(sigma, sigma), border="reflect")(stimuli, 0.0)
    np.testing.assert_allclose(reflected[0, 0, 0], gaussian_filter(stimuli[0, 0, 0].numpy(), sigma), atol=1e-5)
    flat = GaussianBlur(Linear(sigma, sigma), Linear(2.0, 2.0))(torch.ones(1, 1, 3, 9, 12), 0.0)
    torch.testing.assert_close(flat, torch.ones_like(flat))
    point = torch.zeros(1, 1, 15, 21, 21)
    point[..., 7, 10, 10] = 1
    blurred = GaussianBlur(Linear(0.5, 1.5), Linear(0.8, 0.8))(point, 0.5)[0, 0]
    places = torch.arange(-10, 11) ** 2
    row, frames = torch.exp(-places / 2), torch.exp(-(torch.arange(-7, 8) ** 2) / (2 * 0.8**2))
    torch.testing.assert_close(blurred[7, 10] / blurred[7, 10, 10], row)
    torch.testing.assert_close(blurred[:, 10, 10] / blurred[7, 10, 10], frames)
    assert GaussianBlur(Linear(1.0, 0.0))(point, 1.0) is point
    assert [Linear(2.0, 1.0, until=0.5).at(progress) for progress in (0, 0.25, 0.5, 1)] == [2, 1.5, 1, 1]


def test_powers_of_frequency() -> None:
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    waves = [(0, 0), (1, 0), (0, 2), (3, 4), (6, 8)]
    stimuli = torch.stack([torch.cos(2 * math.pi * (u * y / 12 + v * x / 16)) for u, v in waves])[:, None, None]
    kept = FourierPower(1.5)(stimuli, 0.0)
    lowest = 1 / 12
    for (u, v), wave, found in zip(waves, stimuli, kept, strict=True):
        gain = (max(math.hypot(u / 12, v / 16), lowest) / lowest) ** -1.5
        torch.testing.assert_close(found, gain * wave, atol=1e-5, rtol=1e-5)
    cut = FourierPower(0.0, highest=0.2)(stimuli, 0.0)
    torch.testing.assert_close(cut[:3], stimuli[:3], atol=1e-5, rtol=1e-5)
    assert float(cut[3:].abs().max()) < 1e-5


def test_the_published_preconditioner() -> None:
    """Against the sum over frequencies, by the definition of the transform."""
    stimuli = some(2, 1, 1, 4, 6)
    y, x = np.minimum(np.arange(4), np.arange(3, -1, -1)), np.minimum(np.arange(6), np.arange(5, -1, -1))
    gain = 1 / np.maximum(1, (x[None] ** 2.0 + y[:, None] ** 2.0) ** 0.3)
    gain /= gain.mean()
    half = np.fft.rfft2(stimuli.numpy()) * gain[:, :4]
    found = StaticnetFourier(0.3)(stimuli, 0.0)
    np.testing.assert_allclose(found, np.fft.irfft2(half, s=(4, 6)), atol=1e-5)
    assert StaticnetFourier(0.0)(stimuli, 0.0) is stimuli


def test_steps() -> None:
    gradient, stimuli = some(4, 1, 1, 5, 6), some(4, 1, 1, 5, 6, seed=1)
    ones = torch.ones(4)
    scheduled = Scheduled(Linear(3.0, 1.0))
    torch.testing.assert_close(
        scheduled.difference(gradient, stimuli, ones, 0.5).flatten(1).norm(dim=1), torch.full((4,), 2.0)
    )
    staticnet = Scheduled(Linear(3.0, 1.0), mean_abs).difference(gradient, stimuli, ones, 0.0)
    torch.testing.assert_close(staticnet[1], 3 * gradient[1] / gradient[1].abs().mean())
    pairs = Scheduled(Linear(3.0, 1.0), mean_abs, group_size=2).difference(gradient, stimuli, ones, 0.0)
    torch.testing.assert_close(pairs[2:], 3 * gradient[2:] / gradient[2:].abs().mean())
    adaptive = Adaptive(0.5, longer=1.5, shorter=0.4, longest=0.6)
    followed = adaptive.followed(gradient, stimuli)
    torch.testing.assert_close((followed * stimuli).flatten(1).sum(dim=1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(((gradient - followed) * followed).flatten(1).sum(1), torch.zeros(4), atol=1e-5, rtol=0)
    lengths = torch.tensor([0.1, 0.2, 0.5, 1.0])
    step = adaptive.difference(gradient, stimuli, lengths, 0.7)
    torch.testing.assert_close(step.flatten(1).norm(dim=1), lengths * stimuli.flatten(1).norm(dim=1))
    better = torch.tensor([True, False, True, False])
    torch.testing.assert_close(adaptive.adapted(lengths, better), torch.tensor([0.15, 0.08, 0.6, 0.4]))


def test_plateau() -> None:
    plateau = Plateau(3, 0.1)
    best = torch.tensor([-math.inf, 1.0, 1.0, -1.0, -1.0])
    assert plateau.rose(torch.tensor([-5.0, 1.09, 1.11, -0.91, -0.89]), best).tolist() == [
        True, False, True, False, True,
    ]  # fmt: skip


def conditions() -> Conditions:
    return Conditions(simulated(offset=0.5), "a", SCAN)


def drives(stimuli: Tensor) -> np.ndarray:
    return np.einsum("bchw,uhw->bu", stimuli[:, :, 0].numpy(), gabors()) + 0.5


def test_objectives_of_units() -> None:
    stimuli = some(3, 1, 1, *SCAN.input_shape[1:])
    rates = drives(stimuli)
    np.testing.assert_allclose(OneUnit(conditions(), [3, 0, 3])(stimuli, EVERY), rates[range(3), [3, 0, 3]], atol=1e-5)
    np.testing.assert_allclose(OneUnit(conditions(), [3, 0, 2])(stimuli[:1], EVERY[2:]), rates[0, [2]], atol=1e-5)
    mean = mean_of_units(conditions(), [[0, 1], [2], [1, 3, 2]])(stimuli, EVERY)
    np.testing.assert_allclose(
        mean, [rates[0, :2].mean(), rates[1, 2], rates[2, [1, 2, 3]].mean()], atol=1e-5
    )  # fmt: skip
    contrast = contrast_of_groups(conditions(), [[0], [1, 2], [3]], [[1, 2], [3], [0]])(stimuli, EVERY)
    expected = [
        rates[0, 0] - rates[0, 1:3].mean(), rates[1, 1:3].mean() - rates[1, 3], rates[2, 3] - rates[2, 0],
    ]  # fmt: skip
    np.testing.assert_allclose(contrast, expected, atol=1e-5)
    np.testing.assert_allclose(
        least_exciting(conditions(), [1, 1, 2])(stimuli, EVERY), -rates[range(3), [1, 1, 2]], atol=1e-5
    )


def test_the_most_discriminating_objective() -> None:
    stimuli = some(3, 1, 1, *SCAN.input_shape[1:])
    rates = drives(stimuli)
    means = np.stack([rates[:, :2].mean(axis=1), rates[:, 2], rates[:, 3]], axis=1) / 0.7
    expected = means[range(3), [2, 0, 1]] - np.log(np.exp(means).sum(axis=1))
    found = Discriminating(conditions(), [[0, 1], [2], [3]], [2, 0, 1], tau=0.7)(stimuli, EVERY)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean"])
def test_similarities(metric: str) -> None:
    rows = some(4, 9).numpy().astype(float) + 0.5
    found = similarities(torch.tensor(rows), metric)
    expected: Any = {
        "correlation": np.corrcoef(rows),
        "cosine": rows @ rows.T / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(rows, axis=1)),
        "euclidean": -np.linalg.norm(rows[:, None] - rows[None], axis=2),
    }[metric]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ConfigurationError, match="no metric 'angle'"):
        similarities(torch.tensor(rows), "angle")


@pytest.mark.parametrize(("linkage", "of"), [("minimum", np.min), ("average", np.mean)])
def test_the_diverse_objective(linkage: str, of: Any) -> None:
    stimuli = some(6, 1, 1, *SCAN.input_shape[1:])
    mask = torch.zeros(SCAN.input_shape[1:])
    mask[4:12, 5:20] = 1
    objective = Diverse(
        OneUnit(conditions(), [0, 0, 0, 2, 2, 2]), 3, weight=2.0, metric="cosine", linkage=linkage, mask=mask
    )
    rates, rows = drives(stimuli), (stimuli * mask).flatten(1).numpy()
    unit_rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = []
    for group, unit in ((slice(0, 3), 0), (slice(3, 6), 2)):
        distances = -(unit_rows[group] @ unit_rows[group].T)[np.triu_indices(3, 1)]
        expected += [rates[group, unit].mean() + 2 * of(distances)] * 3
    np.testing.assert_allclose(objective(stimuli, torch.arange(6)), expected, atol=1e-5)
    np.testing.assert_allclose(objective(stimuli[3:], torch.arange(3, 6)), expected[3:], atol=1e-5)
    with pytest.raises(ConfigurationError, match="at least 2 stimuli, not 1"):
        Diverse(OneUnit(conditions(), [0]), 1, weight=1.0)


def test_penalties() -> None:
    stimuli = torch.tensor([[1.0, 3.0, 2.0], [0.0, 3.0, -1.0]])[None, None, None]
    along_rows, along_columns = 1 + 0 + 3, (2 + 1) + (3 + 4)
    assert float(TotalVariation(0.5)(stimuli, torch.tensor([0]))) == pytest.approx(0.5 * (along_rows + along_columns))
    references = some(3, 2, 1, 1, 2, 3)
    like = SimilarityTo(references, 2.0)(references[[2], 1] * 3 + 1, torch.tensor([2]))
    assert float(like) == pytest.approx(2.0, abs=1e-5)
    wanted = max(np.corrcoef(stimuli.flatten(), reference.flatten())[0, 1] for reference in references[1])
    assert float(SimilarityTo(references, 2.0)(stimuli, torch.tensor([1]))) == pytest.approx(2 * wanted, abs=1e-5)
