"""Checkpoints: what training needs to go on as if it had not been interrupted. No pickle is written or read."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.configuration import Configuration
from pipeline.errors import TrainingError
from pipeline.training.history import Epoch
from pipeline.training.member import Member, Sums
from pipeline.training.stopping import PlateauState


@dataclass(frozen=True)
class Position:
    """How far training has come.

    Attributes
    ----------
    epoch : int
        The one that is next or runs, counted from 1.
    step : int
        Steps of it that have been taken.
    seconds : float
        That they took.
    """

    epoch: int
    step: int = 0
    seconds: float = 0.0


def description(model: nn.Module) -> str:
    """Return all that the modules of a model and their settings say of it: what tells it from others of its shapes."""
    modules = [(name, type(module).__name__, _settings(module)) for name, module in model.named_modules()]
    return f"{modules} {[(name, tuple(value.shape)) for name, value in model.state_dict().items()]}"


def _settings(module: nn.Module) -> dict[str, Any]:
    found = {name: value for name, value in vars(module).items() if _is_setting(value)}
    found.pop("training", None)  # a mode, which evaluations change
    return found


def _is_setting(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_setting, value))
    return isinstance(value, bool | int | float | str | Configuration)


class Checkpointing:
    """Where and when checkpoints are written.

    Parameters
    ----------
    path : Path
        A file that is always complete: it is written beside and moved there.
    every_seconds : float
        A checkpoint is due once so much time has gone by since the last, also in the middle of an epoch.
    every_epochs : int, optional
        And after so many epochs.
    """

    def __init__(self, path: Path, every_seconds: float = 60.0, every_epochs: int | None = None) -> None:
        self.path = path
        self._seconds, self._epochs = every_seconds, every_epochs
        self._last = time.monotonic()

    def is_due(self, after_epoch: int | None = None) -> bool:
        """Tell whether to write now, after a step or after an epoch."""
        if after_epoch is not None and self._epochs is not None and after_epoch % self._epochs == 0:
            return True
        return time.monotonic() - self._last >= self._seconds

    def save(self, fingerprint: str, members: Sequence[Member], position: Position) -> None:
        """Write the state of all members; ``fingerprint`` says which training this is."""
        tensors: dict[str, Tensor] = {}
        described = []
        for number, member in enumerate(members):
            tensors |= _prefixed(f"{number}/", _tensors(member))
            described.append(_described(member))
        text = {"fingerprint": fingerprint, "position": dataclasses.asdict(position), "members": described}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        safetensors.torch.save_file(tensors, aside, metadata={"training": json.dumps(text)})
        os.replace(aside, self.path)
        self._last = time.monotonic()

    def load(self, fingerprint: str, members: Sequence[Member]) -> Position:
        """Put the members into the state of the checkpoint and return how far training had come.

        Raises
        ------
        TrainingError
            If the file is damaged or belongs to another training.
        """
        device = str(members[0].encoder.device)
        try:
            with safetensors.safe_open(self.path, framework="pt", device=device) as file:
                text = json.loads(file.metadata()["training"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"the checkpoint {self.path} is damaged ({error}): delete it to start again") from error
        if text["fingerprint"] != fingerprint:
            raise TrainingError(
                f"the checkpoint {self.path} belongs to another training: give another path or delete it"
            )
        for number, (member, described) in enumerate(zip(members, text["members"], strict=True)):
            _restore(member, _with_prefix(f"{number}/", tensors), described)
        return Position(**text["position"])


def _tensors(member: Member) -> dict[str, Tensor]:
    tensors = _prefixed("weights/", member.encoder.state_dict()) | _prefixed("best/", member.plateau.best_weights)
    if member.average is not None:
        tensors |= _prefixed("average/", member.average.state_dict())
    for position, state in member.optimizer.state_dict()["state"].items():
        tensors |= _prefixed(f"optimizer/{position}/", {name: v for name, v in state.items() if v is not None})
    return tensors | _prefixed("random/", member.random.states) | _prefixed("penalties/", member.sums.penalties)


def _described(member: Member) -> dict[str, Any]:
    return {
        "plateau": dataclasses.asdict(member.plateau.state),
        "history": [dataclasses.asdict(epoch) for epoch in member.history],
        "initial_correlation": member.initial_correlation,
        "ended": member.ended,
        "sums": {"loss": float(member.sums.loss), "batches": member.sums.batches, "steps": member.sums.steps},
    }


def _restore(member: Member, tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> None:
    member.encoder.load_state_dict(_with_prefix("weights/", tensors))
    member.plateau.best_weights = _with_prefix("best/", tensors)
    member.plateau.state = PlateauState(**described["plateau"])
    if member.average is not None:
        member.average.load_state_dict(_with_prefix("average/", tensors))
    _restore_optimizer(member.optimizer, _with_prefix("optimizer/", tensors))
    member.random.states = {name: state.cpu() for name, state in _with_prefix("random/", tensors).items()}
    member.sums = Sums(penalties=_with_prefix("penalties/", tensors), **described["sums"])
    member.history = [Epoch(**epoch) for epoch in described["history"]]
    member.initial_correlation, member.ended = described["initial_correlation"], described["ended"]


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    content = optimizer.state_dict()
    content["state"] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, value in tensors.items():
        position, key = name.split("/")
        parameter = parameters[int(position)]
        if value.shape == parameter.shape:
            # Fused optimisers go through memory: moments must lie as their parameters do.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        content["state"].setdefault(int(position), {})[key] = value
    optimizer.load_state_dict(content)


def _prefixed(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    # Cloned, because safetensors refuses tensors that share memory, as current and best buffers may.
    return {prefix + name: torch.as_tensor(value).detach().clone().contiguous() for name, value in tensors.items()}


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
