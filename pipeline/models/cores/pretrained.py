"""The core of a model that was trained before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import Core, CoreConfiguration


@dataclass(frozen=True)
class Pretrained(CoreConfiguration):
    """The core of another model, with its weights: kept as they are, or trained further."""

    source_group_id: int = setting(0, "group of datasets that the core was trained on", ge=0)
    source_data_hash: str = setting("", "what of them it saw", length=64)
    source_network_hash: str = setting("", "network that the core was part of", length=64)
    source_train_hash: str = setting("", "its trainer", length=64)
    source_seed: int = setting(0, "its seed; negative ones are of ensembles, which have no core in common", ge=0)
    frozen: bool = setting(True, "keep the weights and the statistics of normalisation as they are")

    @property
    def source(self) -> dict[str, Any]:
        """The key of the model that the core is from."""
        settings = self.settings()
        return {name.removeprefix("source_"): settings[name] for name in settings if name.startswith("source_")}

    def build(self, in_channels: int) -> Core:
        """Refuse: the architecture is that of the source's core, which the tables know."""
        raise ConfigurationError(
            "Pretrained names a core but not its architecture: load the network with NetworkConfig.load_network"
        )
