"""What holds of every registered core, whatever its family."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pipeline.models.cores import CORES, Core, CoreConfiguration, SE2d, Stacked2d
from tests.pipeline.models import test_cores_2d, test_cores_3d
from tests.pipeline.models.test_recurrent import small

STRIDED: tuple[CoreConfiguration, ...] = (
    Stacked2d(hidden_channels=3, input_kern=5, hidden_kern=3, stride=2),
    Stacked2d(hidden_channels=3, input_kern=5, hidden_kern=2, hidden_padding=0, layers=2, stride=3),
    SE2d(hidden_channels=3, input_kern=5, hidden_kern=5, layers=3, stride=2),
    SE2d(hidden_channels=3, input_kern=5, hidden_kern=3, layers=2, stride=4),
)
"""Cores with larger steps than at their defaults."""

every_core = pytest.mark.parametrize("kind", CORES, ids=lambda kind: kind.kind())


def test_every_kind_is_in_the_tables_of_checks() -> None:
    """Both files check shapes, gradients, determinism, saving, half precision and the compiler, for their KINDS."""
    assert {type(kind) for kind in (*test_cores_2d.KINDS, *test_cores_3d.KINDS)} == set(CORES)


def linearised(kind: type[CoreConfiguration]) -> CoreConfiguration:
    """A small core with ``linear=True``, which cores that are always linear do not have as a setting."""
    core = small(kind)
    return dataclasses.replace(core, linear=True) if "linear" in core.settings() else core


def departure(core: Core, movies: torch.Tensor) -> float:
    """How far the response to a sum of two movies is from the sum of their responses, in units of the latter."""
    first, second = movies.double().split(1)
    with torch.no_grad():
        dark = core(0 * first)
        apart = core(first) - dark + 3 * (core(second) - dark)
        together = core(first + 3 * second) - dark
    return ((together - apart).abs().max() / apart.abs().max()).item()


@every_core
def test_every_core_can_be_made_linear(kind: type[CoreConfiguration]) -> None:
    torch.manual_seed(0)
    core = linearised(kind).build(1)
    movies = torch.randn(2, 1, core.lost_frames + 2, 36, 40)
    core(movies)  # moves the running statistics
    assert departure(core.double().eval(), movies) < 1e-9
    if linearised(kind) != small(kind):
        plain = small(kind).build(1)
        plain(movies)
        assert departure(plain.double().eval(), movies) > 1e-3


@pytest.mark.parametrize("kind", (*map(small, CORES), *STRIDED), ids=lambda kind: f"{kind.kind()}-{kind.hash()[:4]}")
def test_cores_of_few_channels_are_trained_on_frames_of_the_usual_size(kind: CoreConfiguration) -> None:
    """Some gradients of oneDNN write beyond their memory at such sizes: then this does not fail, Python ends."""
    torch.manual_seed(0)
    core = kind.build(1)
    for _ in range(3):
        movies = torch.randn(2, 1, core.lost_frames + 2, 36, 64).requires_grad_()
        core(movies).square().sum().backward()
        assert movies.grad is not None and movies.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in core.parameters())
