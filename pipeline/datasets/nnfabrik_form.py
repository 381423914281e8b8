"""Loaders and data information in the form that functions written for nnfabrik and neuralpredictors expect."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.datasets.batches import Batch, ImageBatch, MovieBatch
from pipeline.datasets.info import DataInfo, ScanInfo

STAND_IN_TRIALS = 2
"""Trials in the batch that stands for the data."""

TIERS = ("train", "validation", "test", "final", "ood")
"""What functions are given. Trials whose responses are withheld are not among them."""


class FabrikLoader:
    """A loader whose batches are named tuples without empty fields: inputs first, then responses."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return map(without_empty, self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def dataset(self) -> Any:
        """The dataset of the loader, if it has one."""
        return self._loader.dataset


def without_empty(batch: Batch) -> Any:
    """Return a batch as a named tuple of the fields that there is something for."""
    fields = {name: value for name, value in batch._asdict().items() if value is not None}
    return _tuple_type(type(batch).__name__, tuple(fields))(**fields)


@functools.cache
def _tuple_type(name: str, fields: tuple[str, ...]) -> Any:
    return collections.namedtuple(name, fields)  # type: ignore[misc]


def in_nnfabrik_form(loaders: Mapping[str, Mapping[str, Iterable[Batch]]]) -> dict[str, dict[str, FabrikLoader]]:
    """Return loaders ``{tier: {data_key: loader}}`` of `FabrikLoader`."""
    return {tier: {k: FabrikLoader(v) for k, v in loaders[tier].items()} for tier in TIERS if loaders.get(tier)}


def stand_in(scan: ScanInfo, trials: int = STAND_IN_TRIALS, more_frames: int = 0) -> Batch:
    """Return a batch at the training means of a scan, of the shapes that its loaders give; inputs are mean grey.

    Parameters
    ----------
    scan : ScanInfo
    trials : int
        Length of the batch.
    more_frames : int
        Frames by which movies are longer than the clips of training.
    """
    channels, height, width = scan.input_shape
    time = () if scan.clip_frames is None else (scan.clip_frames + more_frames,)

    def constant(values: Any) -> Tensor:
        shape = (trials, len(values), *time)
        return torch.tensor(values).reshape(1, -1, *([1] * len(time))).expand(shape).clone()

    fields = {"responses": constant(scan.mean_responses)}
    if scan.n_behavior:
        fields["behavior"] = constant(scan.mean_behavior or (0.0,) * scan.n_behavior)
    if scan.mean_pupil_center is not None:
        fields["pupil_center"] = constant(scan.mean_pupil_center)
    if scan.n_opto:
        fields["optogenetic_signal"] = constant((0.0,) * scan.n_opto)
    inputs = torch.zeros(trials, channels, *time, height, width)
    for plane, mean in enumerate(scan.plane_means, start=scan.pixel_channels):
        inputs[:, plane] = mean
    return MovieBatch(inputs, **fields) if time else ImageBatch(inputs, **fields)


def stand_in_loaders(data_info: DataInfo) -> dict[str, dict[str, list[Batch]]]:
    """Return loaders of one such batch a scan and tier, to build a model again without its data."""
    return {tier: {k: [stand_in(scan)] for k, scan in data_info.items()} for tier in ("train", "validation", "test")}


def nnfabrik_data_info(data_info: DataInfo) -> dict[str, dict[str, Any]]:
    """Return what functions of neuralpredictors' users call ``data_info``, by data_key.

    ``input_dimensions`` is the shape of a batch of inputs, the number of trials first, as these functions read it off
    their loaders; ``output_dimension`` the number of units; ``img_mean`` and ``img_std`` normalised the pixels.
    """
    return {
        data_key: {
            "input_dimensions": tuple(stand_in(scan).inputs.shape),
            "input_channels": scan.input_shape[0],
            "output_dimension": scan.n_units,
            "img_mean": scan.input_mean,
            "img_std": scan.input_std,
        }
        for data_key, scan in data_info.items()
    }
