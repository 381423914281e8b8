"""Centre-surround and complex units: the best image of the first is their filter, of the second any of its phases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.configuration import Configuration
from pipeline.mei.engine import find_meis
from pipeline.mei.settings import Frequency, Modern, Staticnet
from pipeline.models.foreign import ForeignEncoder
from tests.pipeline.mei.simulated import HEIGHT, SCAN, WIDTH, Filters, correlations

KINDS: tuple[Configuration, ...] = (
    Modern(norm=8.0),
    Staticnet(iterations=300, eye_position="center"),
    Frequency(norm=8.0, exponent=0.5),
)
ANGLES = np.array([0.0, 0.7, 1.5, 2.5])  # of the stripes' normal, radians from x towards y down
FREQUENCY = 1 / 6  # cycles/px


def places() -> tuple[np.ndarray, np.ndarray]:
    """Return y and x of every pixel from the units' centres, (unit, height, width)."""
    y, x = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    rows, columns = np.array([8, 7, 9, 8]), np.array([11, 13, 10, 12])
    return y - rows[:, None, None], x - columns[:, None, None]


def unit_norm(filters: np.ndarray) -> np.ndarray:
    return filters / np.linalg.norm(filters, axis=(-2, -1), keepdims=True)


class Energy(nn.Module):
    """Complex units: the sum of squares of two filters a quarter of a cycle apart."""

    def __init__(self, pairs: np.ndarray) -> None:
        super().__init__()
        self.pairs = nn.Parameter(torch.tensor(pairs, dtype=torch.float32))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the responses, (batch, unit)."""
        return torch.einsum("bchw,puhw->bup", inputs, self.pairs).square().sum(dim=2)


@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: settings.kind())
def test_centre_surround_units_prefer_their_fields(settings: Configuration) -> None:
    y, x = places()
    distance = y**2 + x**2
    signs = np.array([1, -1, 1, -1])[:, None, None]
    fields = unit_norm(
        signs * (np.exp(-distance / 2 / 1.5**2) / 1.5**2 - 0.7 * np.exp(-distance / 2 / 3.0**2) / 3.0**2)
    )
    encoder = ForeignEncoder(Filters(fields, "linear", 1.0), {"a": SCAN}, "simulated").eval()
    found = find_meis(encoder, "a", SCAN, range(4), settings)
    assert correlations(found.stimuli, fields).min() > 0.9


@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: settings.kind())
def test_complex_units_prefer_their_orientation_and_frequency(settings: Configuration) -> None:
    y, x = places()
    along = x * np.cos(ANGLES)[:, None, None] + y * np.sin(ANGLES)[:, None, None]
    envelope = np.exp(-(x**2 + y**2) / 2 / 3.0**2)
    phases = [envelope * np.cos(2 * np.pi * FREQUENCY * along - phase) for phase in (0, np.pi / 2)]
    encoder = ForeignEncoder(Energy(unit_norm(np.stack(phases))), {"a": SCAN}, "simulated").eval()
    found = find_meis(encoder, "a", SCAN, range(4), settings)
    images = found.stimuli[:, 0, 0]
    images = images - images.mean(axis=(1, 2), keepdims=True)  # staticnet leaves the mean where it starts
    power = np.abs(np.fft.fft2(images, s=(512, 512))) ** 2
    fy, fx = np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512), indexing="ij")
    peaks = power.reshape(4, -1).argmax(axis=1)
    frequencies, angles = np.hypot(fx, fy).ravel()[peaks], np.arctan2(fy, fx).ravel()[peaks]
    np.testing.assert_allclose(frequencies, FREQUENCY, rtol=0.1)
    off = np.degrees((angles - ANGLES + np.pi / 2) % np.pi - np.pi / 2)
    assert np.abs(off).max() < 5
