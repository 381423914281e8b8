"""Receptive fields have the sign, place, size and timing that their names say."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.simulation.fields import (
    DEGREES_PER_PIXEL,
    HEIGHT,
    N_LAGS,
    WIDTH,
    center_surround_field,
    make_fields,
    measured_fields,
    temporal_kernel,
)


def test_measured_fields_peak_late_and_where_the_data_do():
    fields = measured_fields()
    assert len(fields) == 3
    peaks = [(13, 3, 10), (14, 7, 10), (14, 6, 8)]  # lag, row, column in the 15 x 13 x 21 arrays
    for field, (lag, row, column) in zip(fields, peaks, strict=True):
        assert field.kind.startswith("measured Ntsr1Cre")
        assert field.strf.shape == (N_LAGS, HEIGHT, WIDTH)
        assert np.linalg.norm(field.strf) == pytest.approx(1, abs=1e-5)
        found = np.unravel_index(np.abs(field.strf).argmax(), field.strf.shape)
        assert found[0] == lag
        assert found[1] == pytest.approx((row + 0.5) / 13 * HEIGHT - 0.5, abs=1.5)
        assert found[2] == pytest.approx((column + 0.5) / 21 * WIDTH - 0.5, abs=1.5)
        assert (np.abs(field.strf[-5:]) ** 2).sum() > 0.5
        assert not field.surround.any()
    assert [field.polarity for field in fields] == [1, -1, 1]


@pytest.mark.parametrize("transient", [True, False])
def test_kernel_is_biphasic_and_causal(transient):
    kernel = temporal_kernel(transient)
    assert kernel.max() == 1
    age = (N_LAGS - 1 - kernel.argmax() + 0.5) / 60
    assert 0.025 < age < 0.07
    assert kernel.argmin() < kernel.argmax()  # the rebound belongs to older frames
    assert kernel[-1] < 0.2  # nothing answers within half a bin


def test_transient_kernels_ignore_what_stays_and_are_faster():
    transient, sustained = temporal_kernel(True), temporal_kernel(False)
    assert abs(transient.sum()) / np.abs(transient).sum() < abs(sustained.sum()) / np.abs(sustained).sum()
    assert transient.argmax() > sustained.argmax()


@pytest.mark.parametrize("polarity", [1, -1])
def test_center_surround_in_space(polarity):
    field = center_surround_field(row=16, column=26, sigma=2.5, polarity=polarity, transient=False)
    latest = field.strf[temporal_kernel(False).argmax()] * polarity
    assert np.unravel_index(latest.argmax(), latest.shape) == (16, 26)
    assert latest[16, 26 + 9] < 0  # the ring
    assert field.surround.sum() / field.center.sum() == pytest.approx(-0.7, abs=0.02)
    assert np.linalg.norm(field.strf) == pytest.approx(1, abs=1e-5)
    half_width = (field.center[temporal_kernel(False).argmax(), 16] * polarity > 0).sum()
    assert half_width > 5


def test_population_covers_the_screen_with_all_kinds():
    fields = make_fields(43, np.random.default_rng(0))
    kinds = [field.kind for field in fields]
    assert sum(kind.startswith("measured") for kind in kinds) == 3
    assert {kind: kinds.count(kind) for kind in set(kinds[3:])} == {
        "ON transient": 10, "OFF transient": 10, "ON sustained": 10, "OFF sustained": 10,
    }  # fmt: skip
    rows, columns = (np.array([getattr(field, axis) for field in fields[3:]]) for axis in ("row", "column"))
    for half in (rows < HEIGHT / 2, columns < WIDTH / 2):
        assert 12 <= half.sum() <= 28
    assert rows.min() >= 5
    assert columns.max() <= WIDTH - 7
    for field in fields[3:]:
        profile = np.abs(field.center).sum(axis=(0, 1))
        place = np.arange(WIDTH)
        sigma = np.sqrt((profile * (place - field.column) ** 2).sum() / profile.sum()) * DEGREES_PER_PIXEL
        assert 3.5 < sigma < 7.5


def test_fewer_units_than_measured_fields():
    assert [field.kind for field in make_fields(2, np.random.default_rng(0))] == [
        field.kind for field in measured_fields()[:2]
    ]
