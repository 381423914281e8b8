"""How the engine of `pipeline.training` is run for a key: with a bar, hooks and checkpoints under the home folder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.configuration import Configuration
from pipeline.datasets.info import DataInfo, data_info_to_json
from pipeline.datasets.loaders import ScanLoaders
from pipeline.models import Network
from pipeline.models.base import EncodingModel
from pipeline.models.function import Function
from pipeline.training.checkpoints import Checkpointing
from pipeline.training.dispatch import train_models
from pipeline.training.history import Epoch, TrainingResult
from pipeline.training.hooks import find_hooks, tell
from schemas.connection import settings
from schemas.progress import bar

logger = logging.getLogger(__name__)

Key = dict[str, Any]


def train_encoders(
    key: Key,
    network: Network | Function,
    trainer: Configuration,
    encoders: Mapping[int, EncodingModel],
    loaders: ScanLoaders,
    info: DataInfo,
) -> dict[int, TrainingResult]:
    """Train the encoders of a key in place, by seed, and return how it went.

    A bar shows the epochs, hooks are told of each, units without a score are named in the log, and a training that was
    killed goes on from its checkpoint; whoever keeps the results deletes it.
    """
    if not encoders:
        return {}
    chosen, path = settings(), checkpoint_file(key, info, encoders)
    hooks = find_hooks(chosen.epoch_hooks)
    checkpointing = Checkpointing(path, chosen.checkpoint_seconds, chosen.checkpoint_epochs)
    name = network.core.kind() if isinstance(network, Network) else network.function
    epochs = getattr(trainer, "max_epochs", None)
    what = f"training {name} seed {', '.join(map(str, encoders))}"
    with bar(epochs and epochs * len(encoders), what, "epoch") as shown:

        def on_epoch(epoch: Epoch) -> None:
            shown.set_postfix(loss=f"{epoch.loss:.4g}", validation=f"{epoch.validation_correlation:.3f}")
            shown.update()
            tell(hooks, {**key, "seed": epoch.seed}, epoch)

        found = train_models(list(encoders.values()), loaders, trainer, list(encoders), on_epoch, checkpointing, key)
    results = dict(zip(encoders, found, strict=True))
    _warn_of_silent_units(results, info)
    return results


def checkpoint_file(key: Key, info: DataInfo, seeds: Iterable[int]) -> Path:
    """Return the file that an unfinished training is kept in.

    It is another one if the key, the statistics of the data or the seeds that are trained change.
    """
    name = json.dumps([key, sorted(seeds)], sort_keys=True) + data_info_to_json(info)
    return settings().home / "checkpoints" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"


def delete_checkpoints(key: Key, info: DataInfo, seeds: Iterable[int]) -> None:
    """Delete the file of a training that is done, and what was left of it by a process that was killed on writing."""
    file = checkpoint_file(key, info, seeds)
    for left in file.parent.glob(f"{file.name}*"):
        left.unlink(missing_ok=True)


def _warn_of_silent_units(results: Mapping[int, TrainingResult], info: DataInfo) -> None:
    """Name the units that have no score; they are no reason to stop."""
    for seed, result in results.items():
        for data_key, units in result.undefined_units.items():
            if units:
                named = ", ".join(str(info[data_key].unit_ids[unit]) for unit in units[:10])
                logger.warning(
                    "seed %d: %d of %d units of %s have no validation correlation, for their responses or predictions "
                    "are constant: unit_id %s%s",
                    *(seed, len(units), info[data_key].n_units, data_key, named, ", ..." if len(units) > 10 else ""),
                )
