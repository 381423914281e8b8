"""Checkpoints: what training needs to go on as if it had not been interrupted. No pickle is written or read."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.optim import Optimizer

from pipeline.errors import TrainingError
from pipeline.models.encoder import Encoder
from pipeline.training.history import Epoch
from pipeline.training.stopping import Plateau, PlateauState


@dataclass(frozen=True)
class Progress:
    """How far training had come.

    Attributes
    ----------
    initial_correlation : float
        Score before training.
    history : tuple of Epoch
        Epochs so far.
    ended : bool
        Training had ended by itself.
    """

    initial_correlation: float
    history: tuple[Epoch, ...] = ()
    ended: bool = False


def save_checkpoint(
    path: Path, fingerprint: str, encoder: Encoder, optimizer: Optimizer, plateau: Plateau, progress: Progress
) -> None:
    """Write a checkpoint beside ``path`` and move it there, so that ``path`` is always complete.

    Parameters
    ----------
    path : Path
        File to be replaced.
    fingerprint : str
        Says which training this is; `load_checkpoint` must be given the same.
    encoder, optimizer, plateau : Encoder, Optimizer, Plateau
        Their state is written.
    progress : Progress
        How far training has come.
    """
    tensors = _prefixed("weights/", encoder.state_dict()) | _prefixed("best/", plateau.best_weights)
    for position, state in optimizer.state_dict()["state"].items():
        tensors |= _prefixed(f"optimizer/{position}/", state)
    text = {
        "fingerprint": fingerprint,
        "lr": optimizer.param_groups[0]["lr"],
        "plateau": dataclasses.asdict(plateau.state),
        "progress": dataclasses.asdict(progress),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    safetensors.torch.save_file(tensors, aside, metadata={"training": json.dumps(text)})
    os.replace(aside, path)


def load_checkpoint(path: Path, fingerprint: str, encoder: Encoder, optimizer: Optimizer, plateau: Plateau) -> Progress:
    """Put encoder, optimiser and plateau into the state of a checkpoint and return how far training had come.

    Raises
    ------
    TrainingError
        If the file is damaged or belongs to another training.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device=str(encoder.device)) as file:
            text = json.loads(file.metadata()["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"the checkpoint {path} is damaged ({error}): delete it to start again") from error
    if text["fingerprint"] != fingerprint:
        raise TrainingError(f"the checkpoint {path} belongs to another training: give another path or delete it")
    encoder.load_state_dict(_with_prefix("weights/", tensors))
    plateau.best_weights = _with_prefix("best/", tensors)
    plateau.state = PlateauState(**text["plateau"])
    _restore_optimizer(optimizer, _with_prefix("optimizer/", tensors), text["lr"])
    progress = text["progress"]
    return Progress(**(progress | {"history": tuple(Epoch(**epoch) for epoch in progress["history"])}))


def _restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], lr: float) -> None:
    content = optimizer.state_dict()
    content["state"] = {}
    for name, value in tensors.items():
        position, key = name.split("/")
        content["state"].setdefault(int(position), {})[key] = value
    for group in content["param_groups"]:
        group["lr"] = lr
    optimizer.load_state_dict(content)


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Cloned, because safetensors refuses tensors that share memory, as current and best buffers may.
    return {prefix + name: torch.as_tensor(value).detach().clone().contiguous() for name, value in tensors.items()}


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found: Iterable[str] = (name for name in tensors if name.startswith(prefix))
    return {name.removeprefix(prefix): tensors[name] for name in found}
