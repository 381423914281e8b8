"""The distinct stimuli of one scan, each once: to compare others with them or to lay others over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.datasets.loaders import ScanLoader, ScanLoaders
from pipeline.datasets.scans import Scan, in_full
from pipeline.errors import DatasetError


@dataclass(frozen=True)
class DistinctStimuli:
    """Distinct stimuli of one scan; read from disk when they are asked for.

    Attributes
    ----------
    scan : Scan
    rows : tuple of int
        A trial of each stimulus.
    conditions : tuple of str
        Their names, condition_hash.
    """

    scan: Scan[Any]
    rows: tuple[int, ...]
    conditions: tuple[str, ...]

    def inputs(self) -> Iterator[Tensor]:
        """Yield all stimuli, normalised as in training, in batches (stimulus, channel[, time], height, width)."""
        for batch in in_full(self.scan, self.rows):
            yield batch.inputs

    def draw(self, count: int, frames: int, seed: int) -> tuple[tuple[str, ...], np.ndarray]:
        """Draw stimuli without repetition, and return their names and pixels.

        Parameters
        ----------
        count : int
            Stimuli at most; fewer if there are no more.
        frames : int
            Frames of each: the last ones of movies. Images are repeated.
        seed : int

        Returns
        -------
        conditions : tuple of str
        pixels : ndarray of float32
            (stimulus, channel, time, height, width), grey values.

        Raises
        ------
        DatasetError
            If a movie is shorter; the message names it.
        """
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self.rows))[:count])
        names = tuple(self.conditions[i] for i in chosen)
        drawn: list[np.ndarray] = []
        for batch in in_full(self.scan, [self.rows[i] for i in chosen]):
            pixels = batch.inputs[:, : self.scan.info.pixel_channels].numpy()
            if pixels.ndim == 4:
                pixels = np.repeat(pixels[:, :, None], frames, axis=2)
            if pixels.shape[2] < frames:
                raise DatasetError(
                    f"stimulus {names[len(drawn)][:12]} has {pixels.shape[2]} frames, but {frames} are wanted: "
                    "draw from another tier"
                )
            drawn += list(pixels[:, :, pixels.shape[2] - frames :])
        grey = np.stack(drawn) * self.scan.info.input_std + self.scan.info.input_mean
        return names, np.clip(grey, 0, 255).astype(np.float32)


def distinct_stimuli(loaders: ScanLoaders, data_key: str, tiers: Sequence[str]) -> DistinctStimuli:
    """Collect the distinct stimuli of one scan.

    Parameters
    ----------
    loaders : mapping
        ``{tier: {data_key: loader}}``.
    data_key : str
    tiers : sequence of str

    Raises
    ------
    DatasetError
        If there are none, or the loaders are those of a function.
    """
    first: dict[str, int] = {}
    scan: Scan[Any] | None = None
    for tier in tiers:
        loader = loaders.get(tier, {}).get(data_key)
        if isinstance(loader, ScanLoader):
            scan = loader.dataset
            for row, name in zip(loader.trials, loader.conditions, strict=True):
                first.setdefault(name, row)
    if scan is None or not first:
        raise DatasetError(f"{data_key!r} has no stimuli of its own in the tiers {', '.join(tiers)}: name another tier")
    return DistinctStimuli(scan, tuple(first.values()), tuple(first))
