from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.analysis import presenting
from pipeline.analysis.presenting import harmonics, responses_to
from pipeline.analysis.settings import Gabors, Gratings, Plaids
from pipeline.analysis.tuning import grating_tuning, plaid_tuning
from pipeline.analysis.viewing import Viewer
from pipeline.errors import ConfigurationError
from tests.pipeline.analysis.known_units import KEY, model_of

HEIGHT, WIDTH, RATE, FRAMES = 36, 64, 30.0, 12
DEGREES = (128.0, 72.0)
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
RIGHT, UP = 2 * (COLUMNS - 31.5), 2 * (17.5 - ROWS)

TRUTH = [(20.0, 0.03), (75.0, 0.05), (140.0, 0.022), (3.0, 0.08), (110.0, 0.04)]
"""Orientation of the stripes (degrees) and spatial frequency (cycles/deg) of each unit."""
SPATIAL = tuple(0.01 * 2 ** (step / 2) for step in range(8))


def gabor(orientation: float, frequency: float, phase: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """A Gabor whose window is wide enough for many cycles, so that its peak frequency is its carrier's."""
    across = np.deg2rad(orientation + 90)
    right, up = RIGHT - x, UP - y
    carrier = np.cos(2 * np.pi * frequency * (right * np.cos(across) + up * np.sin(across)) + phase)
    return np.exp(-(right**2 + up**2) / (2 * (0.5 / frequency) ** 2)) * carrier


def filters(*phases: float) -> torch.Tensor:
    """(unit, filter, channel, height, width), scaled to length 1."""
    made = np.array([[gabor(*truth, phase) for phase in phases] for truth in TRUTH])[:, :, None]
    return torch.tensor(made / np.linalg.norm(made, axis=(3, 4), keepdims=True))


def viewer_of(encoder, **state) -> Viewer:
    return Viewer(encoder, KEY, encoder.data_info[KEY], **state)


def off_by(found: np.ndarray, truth: np.ndarray, period: float) -> np.ndarray:
    return np.abs((found - truth + period / 2) % period - period / 2)


@pytest.mark.parametrize(
    ("kind", "phases", "ratio"),
    [("linear", (0.7,), (1e6, np.inf)), ("simple", (0.7,), (1.5, 1.65)), ("energy", (0.0, np.pi / 2), (0.0, 0.3))],
)
def test_simple_and_complex_cells_prefer_what_they_are_made_of(kind, phases, ratio):
    viewer = viewer_of(model_of(filters(*phases), kind, offset=2.0))
    settings = Gratings(directions=12, spatial_frequencies=SPATIAL, phases=8)
    found = grating_tuning(viewer, range(5), settings, DEGREES)
    orientation, frequency = np.array(TRUTH).T
    assert off_by(found.preferred_orientation, orientation, 180).max() < 5
    assert np.abs(found.preferred_spatial_frequency / frequency - 1).max() < 0.1
    assert (found.modulation_ratio >= ratio[0]).all() and (found.modulation_ratio <= ratio[1]).all()
    assert (found.orientation_selectivity > 0.5).all() and (found.orientation_index > 0.8).all()
    assert np.isnan(found.preferred_direction).all() and np.isnan(found.direction_index).all()
    assert found.drive.shape == (5, 12, 8, 1)


def test_a_linear_unit_is_driven_by_the_amplitude_of_its_fourier_transform():
    weights = filters(0.7)
    viewer = viewer_of(model_of(weights))
    found = grating_tuning(
        viewer, [2, 0], Gratings(directions=4, spatial_frequencies=(0.02, 0.04), contrast=0.5), DEGREES
    )
    for position, unit in enumerate((2, 0)):
        for d, direction in enumerate((0, 45, 90, 135)):
            for f, frequency in enumerate((0.02, 0.04)):
                angle = np.deg2rad(direction)
                wave = np.exp(2j * np.pi * frequency * (RIGHT * np.cos(angle) + UP * np.sin(angle)))
                amplitude = abs((weights[unit, 0, 0].numpy() * wave).sum()) * 0.5 * 120 / 50
                assert found.drive[position, d, f, 0] == pytest.approx(amplitude, rel=1e-3, abs=1e-4)


def moving(direction: float, frequency: float, hertz: float) -> np.ndarray:
    """A space-time inseparable filter, (time, height, width), the last frame being the latest."""
    angle = np.deg2rad(direction)
    along = RIGHT * np.cos(angle) + UP * np.sin(angle)
    past = np.arange(FRAMES - 1, -1, -1)[:, None, None] / RATE
    window = np.exp(-(RIGHT**2 + UP**2) / (2 * 12**2)) * np.exp(-((past - 0.2) ** 2) / (2 * 0.07**2))
    made = window * np.cos(2 * np.pi * (frequency * along + hertz * past))
    return made / np.linalg.norm(made)


DIRECTIONS = [(20.0, 0.04, 4.0), (110.0, 0.05, 5.0), (250.0, 0.04, 6.0), (340.0, 0.045, 4.0)]


@pytest.mark.parametrize("kind", ["simple", "linear"])
def test_direction_of_inseparable_units(kind):
    weights = torch.tensor(np.array([moving(*unit) for unit in DIRECTIONS]))[:, None, None]
    viewer = viewer_of(model_of(weights, kind, offset=1.0))
    settings = Gratings(
        directions=16, spatial_frequencies=(0.024, 0.034, 0.048, 0.068), temporal_frequencies=(2.8, 4.0, 5.6, 8.0)
    )
    found = grating_tuning(viewer, range(4), settings, DEGREES)
    direction, frequency, hertz = np.array(DIRECTIONS).T
    assert off_by(found.preferred_direction, direction, 360).max() < 5
    assert off_by(found.preferred_orientation, direction - 90, 180).max() < 5
    assert np.abs(found.preferred_spatial_frequency / frequency - 1).max() < 0.1
    assert np.abs(found.preferred_temporal_frequency / hertz - 1).max() < 0.1
    assert (found.direction_index > 0.8).all() and (found.direction_selectivity > 0.5).all()


def test_a_separable_unit_prefers_no_direction():
    time = np.exp(-((np.arange(FRAMES) - 6) ** 2) / 8)
    weights = torch.tensor(time[:, None, None] * gabor(30.0, 0.04, 0.4))[None, None, None]
    settings = Gratings(directions=8, spatial_frequencies=(0.04,), temporal_frequencies=(2.0,))
    found = grating_tuning(viewer_of(model_of(weights)), [0], settings, DEGREES)
    assert found.direction_index == pytest.approx(0, abs=1e-4)
    assert found.direction_selectivity == pytest.approx(0, abs=1e-4)
    assert found.orientation_index > 0.8


def test_gabors_are_shown_where_each_unit_looks(monkeypatch):
    monkeypatch.setattr(presenting, "STIMULI_AT_ONCE", 7)
    places = [(-30.0, 10.0), (35.0, -12.0), (0.0, 0.0)]
    weights = torch.tensor(np.array([gabor(*TRUTH[unit], 0.3, *place) for unit, place in enumerate(places)]))
    viewer = viewer_of(model_of(weights[:, None, None]))
    centres = np.array([(31.5 + x / 2, 17.5 - y / 2) for x, y in places])
    settings = Gabors(directions=12, spatial_frequencies=SPATIAL, phases=4, window_sigma=15.0)
    found = grating_tuning(viewer, [2, 0, 1], settings, DEGREES, centres[[2, 0, 1]])
    orientation, frequency = np.array(TRUTH)[[2, 0, 1]].T
    assert off_by(found.preferred_orientation, orientation, 180).max() < 5
    assert np.abs(found.preferred_spatial_frequency / frequency - 1).max() < 0.1
    elsewhere = grating_tuning(viewer, [2, 0, 1], settings, DEGREES, centres[[0, 1, 2]])
    assert (found.drive.max(axis=(1, 2, 3)) > 1.5 * elsewhere.drive.max(axis=(1, 2, 3))).all()
    with pytest.raises(ConfigurationError, match="centres are needed"):
        grating_tuning(viewer, [0], settings, DEGREES)


def test_units_see_their_own_stimuli_in_any_batch(monkeypatch):
    weights = torch.randn((4, 1, 1, 5, 6), generator=torch.Generator().manual_seed(0))
    viewer = viewer_of(model_of(weights))
    shown = torch.randn((3, 1, 5, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    centres = np.array([(1.0, 2.0), (3.0, 0.0), (2.0, 2.0)])

    def render(numbers, places):
        return shown[numbers] * (1 if places is None else torch.as_tensor(places).prod(dim=1).view(-1, 1, 1, 1))

    for at_once in (1, 2, 5, 64):
        monkeypatch.setattr(presenting, "STIMULI_AT_ONCE", at_once)
        common = responses_to(viewer, [3, 0, 1], 3, render)[:, :, 0]
        expected = (weights[[3, 0, 1], 0, 0].double().flatten(1) @ shown.flatten(1).T).numpy() * 2.4
        np.testing.assert_allclose(common, expected, rtol=1e-4)
        own = responses_to(viewer, [3, 0, 1], 3, render, centres)[:, :, 0]
        np.testing.assert_allclose(own, expected * np.array([2, 0, 4])[:, None], rtol=1e-4, atol=1e-6)


def test_harmonics_need_no_whole_cycles():
    degrees = np.stack([np.arange(11) * 24.0, np.arange(11) * 37.0])
    signal = 3 + 2 * np.cos(np.deg2rad(degrees + 50))
    mean, harmonic = harmonics(signal[None], degrees)
    np.testing.assert_allclose(mean, 3)
    np.testing.assert_allclose(harmonic, 2)


def test_what_nothing_drives_is_undefined():
    weights = torch.zeros(2, 1, 1, HEIGHT, WIDTH)
    weights[1] = filters(0.7)[0]
    found = grating_tuning(viewer_of(model_of(weights, offset=3.0)), [0, 1], Gratings(directions=4), DEGREES)
    for name in found.names():
        assert np.isnan(getattr(found, name)[0]), name
    assert not np.isnan(found.preferred_orientation[1])


def test_pattern_and_component_cells():
    """A component cell adds what its filters say of gratings; a pattern cell is tuned to the plaid itself."""
    settings = Plaids(directions=12, plaid_angle=120.0, spatial_frequency=0.04, temporal_frequency=5.0)
    component = torch.tensor(np.array([moving(d, 0.04, 5.0) for d in (30.0, 200.0)]))[:, None, None]
    found = plaid_tuning(viewer_of(model_of(component, "simple")), [0, 1], settings, DEGREES)
    assert (found.pattern_index < -1.28).all() and (found.component_correlation > 0.9).all()
    assert found.grating_drive[0].argmax() == 1
    # at the plaid whose gratings drift at 30 degrees, the direction is 60 degrees to either side
    assert sorted(np.argsort(found.drive[0])[-2:].tolist()) == [3, 11]


def test_settings_that_cannot_be_shown_are_refused():
    viewer = viewer_of(model_of(filters(0.0)))
    with pytest.raises(ConfigurationError, match="multiple of 4"):
        grating_tuning(viewer, [0], Gratings(directions=10), DEGREES)
    with pytest.raises(ConfigurationError, match=r"0\.3 cycles/deg is more"):
        grating_tuning(viewer, [0], Gratings(spatial_frequencies=(0.3,)), DEGREES)
    with pytest.raises(ConfigurationError, match="no multiple of the step"):
        plaid_tuning(viewer, [0], Plaids(directions=8, plaid_angle=100.0), DEGREES)
    movies = torch.tensor(moving(0, 0.04, 4.0))[None, None, None]
    with pytest.raises(ConfigurationError, match="less than a cycle of 1 Hz"):
        grating_tuning(viewer_of(model_of(movies)), [0], Gratings(duration=0.5), DEGREES)
    with pytest.raises(ConfigurationError, match="frame rate of its movies is not known"):
        grating_tuning(viewer_of(model_of(movies, frame_rate=None)), [0], Gratings(), DEGREES)
