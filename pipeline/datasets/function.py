"""A laboratory's own function that makes loaders, after nnfabrik's contract ``dataset_fn(seed, **arguments)``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.datasets.batches import Batch, ImageBatch, MovieBatch
from pipeline.datasets.info import DataInfo, ScanInfo
from pipeline.errors import DatasetError
from pipeline.functions import FunctionConfiguration, drawn_alike, named, own_randomness

_NAMES = {
    "inputs": ("images", "videos", "inputs"),
    "responses": ("responses", "targets"),
    "behavior": ("behavior",),
    "pupil_center": ("pupil_center",),
    "optogenetic_signal": ("optogenetic_signal",),
}
"""What other packages call the fields of a batch."""


@dataclass(frozen=True)
class Function(FunctionConfiguration):
    """Loaders of a function of one's own, such as ``sensorium.datasets.static_loaders``.

    It is called as ``function(seed=..., **arguments)``, with ``paths`` (a list of the datasets' folders) and
    ``batch_size`` where its signature has them and the arguments do not, and must return ``{tier: {data_key: loader}}``
    with the tiers 'train' and 'validation'. Batches are named tuples or dictionaries with images (batch, channel,
    height, width) or videos (batch, channel, time, height, width), named images, videos or inputs, and responses
    (batch, unit) or (batch, unit, time), named responses or targets; behavior and pupil_center may be there.
    """


class ForeignLoader:
    """A loader from elsewhere whose batches come as ours do.

    Orders and clips that are drawn at random depend on seed and epoch only, whoever else draws random numbers.

    Parameters
    ----------
    loader : iterable
        With a length.
    name : str
        For messages.
    seed : int
    passes_differ : bool
        Whether each pass adds 1 to ``epoch``, as training wants it.

    Attributes
    ----------
    epoch : int
        Sets what is drawn in the next pass.
    """

    def __init__(self, loader: Any, name: str, seed: int = 0, passes_differ: bool = False) -> None:
        self._loader, self._name = loader, name
        self._seed, self._passes_differ = seed, passes_differ
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        batches = drawn_alike(self._loader, self._seed, self.epoch)
        self.epoch += self._passes_differ
        return (as_batch(batch, self._name) for batch in batches)

    @property
    def conditions(self) -> list[str]:
        """For each trial, in order, the SHA-256 of its input's pixels: repeats of a stimulus have the same."""
        return [hashlib.sha256(x.contiguous().numpy().data).hexdigest() for b in self for x in b.inputs.cpu()]

    def in_full(self) -> Iterator[Batch]:
        """Yield the batches as they come."""
        return iter(self)


def as_batch(batch: Any, name: str) -> Batch:
    """Return a named tuple or dictionary of tensors as one of our batches.

    Raises
    ------
    DatasetError
        If inputs or responses are missing or their shapes do not fit together; ``name`` says whose batch it is.
    """
    if hasattr(batch, "_asdict"):
        batch = batch._asdict()
    if not isinstance(batch, Mapping):
        raise DatasetError(f"{name}: a batch is a {type(batch).__name__}, but a named tuple or dictionary is needed")
    fields: dict[str, Tensor] = {}
    for field, names in _NAMES.items():
        found = [batch[other] for other in names if batch.get(other) is not None]
        if found:
            fields[field] = torch.as_tensor(found[0]).float()
    missing = [field for field in ("inputs", "responses") if field not in fields]
    if missing:
        raise DatasetError(
            f"{name}: a batch has no {missing[0]}, it has {', '.join(batch)}; "
            f"call them {' or '.join(_NAMES[missing[0]])}"
        )
    inputs, responses = fields.pop("inputs"), fields.pop("responses")
    if (inputs.dim(), responses.dim()) == (4, 2):
        return ImageBatch(inputs, responses, **fields)
    if (inputs.dim(), responses.dim()) == (5, 3) and inputs.shape[2] == responses.shape[2]:
        return MovieBatch(inputs, responses, **fields)
    raise DatasetError(
        f"{name}: inputs {tuple(inputs.shape)} and responses {tuple(responses.shape)} are neither images "
        "(batch, channel, height, width) and (batch, unit) nor movies (batch, channel, time, height, width) and "
        "(batch, unit, time)"
    )


def open_function(
    config: Function, paths: Mapping[str, Path], batch_size: int, seed: int
) -> tuple[dict[str, dict[str, ForeignLoader]], DataInfo]:
    """Call the function and return its loaders with the data information that their batches show.

    Units are numbered from 0. Means are those of the training loader, which is read once.

    Raises
    ------
    ConfigurationError
        If there is no such function.
    DatasetError
        If it does not return ``{tier: {data_key: loader}}``, or its batches cannot be understood.
    """
    function = config.resolve()
    offered = {"paths": [str(path) for path in paths.values()], "batch_size": batch_size}
    with own_randomness(seed):
        made = function(**{"seed": seed, **named(function, offered), **config.keywords})
    _check_nested(made, config.function)
    loaders = {
        tier: {
            str(k): ForeignLoader(loader, f"{config.function}, {tier}, {k!r}", seed, tier == "train")
            for k, loader in of_tier.items()
        }
        for tier, of_tier in made.items()
    }
    return loaders, {data_key: _info(loader) for data_key, loader in loaders["train"].items()}


def _check_nested(made: Any, function: str) -> None:
    wanted = f"{function} must return {{tier: {{data_key: loader}}}}"
    if not isinstance(made, Mapping) or not all(isinstance(of_tier, Mapping) for of_tier in made.values()):
        raise DatasetError(f"{wanted}, but it returned {_described(made)}")
    for tier in ("train", "validation"):
        if not made.get(tier):
            there = ", ".join(map(str, made)) or "none"
            raise DatasetError(f"{wanted} with the tier {tier!r}, but its tiers are {there}")
    if set(made["train"]) != set(made["validation"]):
        raise DatasetError(f"{wanted}, but its tiers train and validation have different data_keys")


def _described(made: Any) -> str:
    if isinstance(made, Mapping):
        return "a dictionary of " + ", ".join(sorted({type(value).__name__ for value in made.values()}))
    return f"a {type(made).__name__}"


def _info(batches: Iterable[Batch]) -> ScanInfo:
    sums: dict[str, Tensor] = {}
    shape: tuple[int, ...] = ()
    samples = trains = 0
    for batch in batches:
        shape = tuple(batch.inputs.shape)
        samples += batch.responses[:, 0].numel()
        trains = 0 if batch.optogenetic_signal is None else batch.optogenetic_signal.shape[1]
        for name in ("responses", "behavior", "pupil_center"):
            values = getattr(batch, name)
            if values is not None:
                total = values.double().transpose(0, 1).flatten(1).sum(dim=1)
                sums[name] = sums[name] + total if name in sums else total
    if not samples:
        raise DatasetError(f"{getattr(batches, '_name', 'a training loader')} gives no batch")
    means = {name: tuple((total / samples).tolist()) for name, total in sums.items()}
    behavior, pupil = means.get("behavior"), means.get("pupil_center")
    return ScanInfo(
        unit_ids=tuple(range(len(means["responses"]))),
        input_shape=(shape[1], shape[-2], shape[-1]),
        mean_responses=means["responses"],
        n_behavior=len(behavior or ()),
        mean_pupil_center=None if pupil is None else (pupil[0], pupil[1]),
        mean_behavior=behavior,
        n_opto=trains,
        clip_frames=shape[2] if len(shape) == 5 else None,
    )
