"""Networks whose best images are known: filters of the whole frame, and what the units make of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.datasets.info import ScanInfo
from pipeline.models.base import EncodingModel
from pipeline.models.foreign import ForeignEncoder

HEIGHT, WIDTH = 18, 24
SCAN = ScanInfo(
    tuple(range(4)), (1, HEIGHT, WIDTH), (1.0,) * 4, mean_pupil_center=(0.2, 0.1), mean_behavior=(0.5,), n_behavior=1,
    input_mean=110.0, input_std=50.0,
)  # fmt: skip


def gabors() -> np.ndarray:
    """Return the filters of four units, (unit, height, width), each of norm 1."""
    y, x = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    found = []
    for row, column, angle, phase in ((8, 10, 0.3, 0.0), (6, 14, 1.2, 1.0), (10, 8, 2.0, 2.0), (9, 15, 2.8, 0.5)):
        dy, dx = y - row, x - column
        along = dx * np.cos(angle) + dy * np.sin(angle)
        wave = np.exp(-(dx**2 + dy**2) / (2 * 2.0**2)) * np.cos(2 * np.pi * along / 7 + phase)
        found.append(wave / np.linalg.norm(wave))
    return np.stack(found)


class Filters(nn.Module):
    """Units that filter the whole frame; behaviour scales them, the eye moves what they see."""

    def __init__(self, filters: np.ndarray, kind: str, offset: float) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.tensor(filters, dtype=torch.float32))
        self.kind, self.offset = kind, offset

    def forward(self, inputs: Tensor, behavior: Tensor | None = None, pupil_center: Tensor | None = None) -> Tensor:
        """Return the responses, (batch, unit)."""
        if pupil_center is not None:  # one pixel to the right of where the filters are
            inputs = inputs.roll(-1, dims=3)
        drive = torch.einsum("bchw,uhw->bu", inputs, self.filters)
        if self.kind == "simple":
            drive = F.softplus(drive) ** 2
        if self.kind == "rectified":
            drive = drive.relu()
        drive = drive + self.offset
        return drive if behavior is None else drive * 2


def simulated(kind: str = "linear", offset: float = 1.0) -> EncodingModel:
    """Return a network of ``linear``, ``rectified`` or ``simple`` units, the last of a squared soft threshold."""
    return ForeignEncoder(Filters(gabors(), kind, offset), {"a": SCAN}, "simulated").eval().requires_grad_(False)


def correlations(stimuli: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Return the correlation of each image (unit, 1, 1, height, width) with its filter, (unit,)."""
    rows, columns = stimuli.reshape(len(stimuli), -1), filters.reshape(len(filters), -1)
    return np.array([np.corrcoef(row, column)[0, 1] for row, column in zip(rows, columns, strict=True)])
