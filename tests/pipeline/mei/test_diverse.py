"""Sets of diverse stimuli for units of which it is known how different they can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.mei.activation import own_responses
from pipeline.mei.diverse import DiverseSets, DiverseStimuli, diverse_sets

HEIGHT, WIDTH, GREY = 18, 24, 110.0


def quadrature(row: float, column: float, angle: float) -> np.ndarray:
    """Two Gabors a quarter of a period apart, each of norm 1, (phase, height, width)."""
    y, x = np.meshgrid(np.arange(HEIGHT) - row, np.arange(WIDTH) - column, indexing="ij")
    along = x * np.cos(angle) + y * np.sin(angle)
    envelope = np.exp(-(x**2 + y**2) / (2 * 2.5**2))
    pair = np.stack([envelope * wave(2 * np.pi * along / 6) for wave in (np.cos, np.sin)])
    return pair / np.linalg.norm(pair, axis=(1, 2), keepdims=True)


FILTERS = torch.tensor(
    np.stack([quadrature(8, 10, 0.3), quadrature(7, 14, 1.2), quadrature(10, 9, 2.0)]), dtype=torch.float32
)


def drives(stimuli: Tensor, units: Tensor) -> Tensor:
    """(stimulus, unit, phase)."""
    return torch.einsum("bhw,uphw->bup", stimuli[:, 0, 0] - GREY, FILTERS[units]) / 50


def complex_cells(stimuli: Tensor, units: Tensor) -> Tensor:
    return drives(stimuli, units).square().sum(dim=2)


def linear_cells(stimuli: Tensor, units: Tensor) -> Tensor:
    return drives(stimuli, units)[:, :, 0]


MEIS = GREY + 400 * FILTERS[:, :1, None].numpy()


def found(respond, **settings) -> tuple[DiverseSets, np.ndarray]:
    activation = own_responses(respond, torch.from_numpy(MEIS), torch.arange(3)).numpy()
    return diverse_sets(MEIS, activation, respond, GREY, DiverseStimuli(**settings)), activation


def pairs(matrices: np.ndarray) -> np.ndarray:
    first, second = np.triu_indices(matrices.shape[-1], 1)
    return matrices[..., first, second]


def test_stimuli_for_complex_cells_cover_all_phases() -> None:
    sets, activation = found(complex_cells, set_size=4, share=0.85)
    assert sets.kept.all()
    assert (sets.activation >= 0.85 * activation[:, None]).all()
    assert pairs(sets.similarity).max() < 0
    components = np.einsum("ukhw,uphw->ukp", sets.stimuli[:, :, 0, 0] - GREY, FILTERS.numpy())
    phases = np.sort(np.degrees(np.arctan2(components[..., 1], components[..., 0])), axis=1)
    gaps = np.diff(np.concatenate([phases, phases[:, :1] + 360], axis=1), axis=1)
    np.testing.assert_allclose(gaps, 90, atol=25)


def test_repeated_meis_of_complex_cells_are_more_alike() -> None:
    """Random phases, each of the full response, come closer to one another than those of a set."""
    sets, _ = found(complex_cells, set_size=6)
    phase = np.random.default_rng(1).uniform(0, 2 * np.pi, (200, 6))
    repeated = np.cos(phase[:, :, None] - phase[:, None])
    assert pairs(sets.similarity).max() < np.quantile(pairs(repeated).max(axis=1), 0.05) - 0.2


def test_linear_cells_have_as_much_room_as_the_share_leaves() -> None:
    """Best are a part along the filter and, of the rest, the corners of a simplex: s^2 - (1 - s^2) / (n - 1)."""
    sets, activation = found(linear_cells, set_size=4, share=0.8, masked=False, metric="cosine")
    assert sets.kept.all()
    np.testing.assert_allclose(sets.activation.min(axis=1) / activation, 0.8, atol=0.01)
    share = 0.805
    np.testing.assert_allclose(pairs(sets.similarity), share**2 - (1 - share**2) / 3, atol=0.02)


def test_contrast_range_and_order_hold_and_what_is_told_is_true() -> None:
    sets, _ = found(complex_cells, set_size=3, iterations=50)
    shown = torch.from_numpy(sets.stimuli)
    assert 0 <= sets.stimuli.min() < sets.stimuli.max() <= 255
    np.testing.assert_allclose((shown - GREY).flatten(2).norm(dim=2), 400, rtol=1e-3)
    expected = np.stack([complex_cells(shown[unit], torch.tensor([unit]))[:, 0].numpy() for unit in range(3)])
    np.testing.assert_allclose(sets.activation, expected, rtol=1e-4)
    assert (np.diff(sets.activation, axis=1) <= 0).all()
    np.testing.assert_allclose(sets.mean_similarity, pairs(sets.similarity).mean(axis=1))


def test_differences_are_looked_for_where_the_mei_is() -> None:
    sets, _ = found(linear_cells, set_size=2)
    everywhere, _ = found(linear_cells, set_size=2, masked=False)
    assert sets.mean_similarity.max() < everywhere.mean_similarity.min() - 0.2
    away = np.abs(np.arange(WIDTH) - 10) > 8
    energy = [((s.stimuli[0, :, 0, 0] - GREY) ** 2)[..., away].sum() for s in (sets, everywhere)]
    assert energy[0] < energy[1] / 2


def test_units_do_not_depend_on_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    together, _ = found(complex_cells, set_size=2, iterations=20)
    monkeypatch.setattr("pipeline.mei.diverse.STIMULI_AT_ONCE", 2)
    alone, _ = found(complex_cells, set_size=2, iterations=20)
    np.testing.assert_allclose(together.stimuli, alone.stimuli, atol=0.05)


def test_a_set_that_cannot_be_reached_is_said_not_to_be_kept() -> None:
    activation = np.full(3, 1e6, dtype=np.float32)  # what no stimulus of this contrast gives
    sets = diverse_sets(MEIS, activation, complex_cells, GREY, DiverseStimuli(set_size=2, iterations=5))
    assert not sets.kept.any()
