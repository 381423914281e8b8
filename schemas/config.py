"""Configurations, one master for each part of the work and one typed part table for each kind."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import datajoint as dj

from pipeline.analysis.selection import SELECTION_KINDS
from pipeline.analysis.settings import FIELD_KINDS, TRIGGERED_KINDS, TUNING_KINDS
from pipeline.configuration import Configuration, setting
from pipeline.datasets.loaders import DATA_KINDS
from pipeline.datasets.preprocessing import PREPROCESSINGS
from pipeline.errors import ConfigurationError
from pipeline.mei.analyses import MEI_ANALYSES
from pipeline.mei.masks import MASK_KINDS
from pipeline.mei.settings import MEI_KINDS
from pipeline.models import CORES, MODULATORS, READOUTS, RECURRENTS, SHIFTERS
from pipeline.models.cores import CoreConfiguration, Pretrained
from pipeline.models.encoder import Network
from pipeline.models.function import Function
from pipeline.models.nonlinearities import NONLINEARITIES
from pipeline.presets import preset
from pipeline.training import TRAINERS
from schemas.connection import schema as open_schema
from schemas.restrictions import by_key
from schemas.typed import ConfigurationTable, Key, configured_by, to_row

schema = open_schema("config")

NETWORK_PARTS = ("core", "recurrent", "readout", "shifter", "modulator")


@schema
class Seed(dj.Lookup):
    """Seeds of the random numbers in training, and ensembles of them.

    A model with the seed of an ensemble has one member for each of its seeds and predicts their mean.
    """

    definition = """
    # Seeds of the random numbers in training, and ensembles of them
    seed : int32  # negative for an ensemble
    """
    contents = tuple({"seed": seed} for seed in (1009, 1215, 2606, 99999))

    class Member(dj.Part):
        """The seeds of an ensemble."""

        definition = """
        # Seeds of an ensemble
        -> master
        member_seed : int32
        """

    @classmethod
    def ensemble(cls, seeds: Iterable[int]) -> Key:
        """Add an ensemble unless it is there, and return its key; equal members have the same key everywhere.

        Parameters
        ----------
        seeds : iterable of int
            Of the members, at least two, none negative; those that are new are added, too.

        Raises
        ------
        ConfigurationError
            If there are fewer than two, or one is out of range.

        Examples
        --------
        >>> ModelSelection.fill(group, networks, trainer, Seed.ensemble([1009, 1215, 2606]))  # doctest: +SKIP
        """
        members = sorted({int(seed) for seed in seeds})
        if len(members) < 2 or members[0] < 0 or members[-1] >= 2**31:
            raise ConfigurationError(
                f"the seeds {members} make no ensemble: give two or more different ones, from 0 to {2**31 - 1}"
            )
        digest = hashlib.sha256(json.dumps(members).encode()).digest()
        key = {"seed": -(int.from_bytes(digest[:4], "big") >> 1) - 1}
        with cls().connection.transaction:
            cls.insert(({"seed": seed} for seed in (*members, key["seed"])), skip_duplicates=True)
            cls.Member.insert(({**key, "member_seed": seed} for seed in members), skip_duplicates=True)
        return key

    @classmethod
    def members(cls, key: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the seeds of an ensemble in ascending order, or the one seed of a single model."""
        found = (cls.Member & {"seed": key["seed"]}).to_arrays("member_seed", order_by="member_seed")
        return tuple(int(seed) for seed in found) or (int(key["seed"]),)


@schema
@configured_by("preprocessing", *PREPROCESSINGS)
class PreprocessingConfig(ConfigurationTable):
    """How a recording becomes a dataset."""


@schema
@configured_by("data", *DATA_KINDS)
class DataConfig(ConfigurationTable):
    """How a model sees datasets."""


@schema
@configured_by("core", *CORES, Pretrained)
class CoreConfig(ConfigurationTable):
    """Cores: shared features of the stimulus."""


@schema
@configured_by("recurrent", *RECURRENTS)
class RecurrentConfig(ConfigurationTable):
    """Recurrent modules between core and readout."""


@schema
@configured_by("readout", *READOUTS)
class ReadoutConfig(ConfigurationTable):
    """Readouts: from features to each unit."""


@schema
@configured_by("shifter", *SHIFTERS)
class ShifterConfig(ConfigurationTable):
    """Shifters: where the receptive fields go when the eye moves."""


@schema
@configured_by("modulator", *MODULATORS)
class ModulatorConfig(ConfigurationTable):
    """Modulators: the gain that behaviour gives each unit."""


PART_TABLES = {
    "core": CoreConfig,
    "recurrent": RecurrentConfig,
    "readout": ReadoutConfig,
    "shifter": ShifterConfig,
    "modulator": ModulatorConfig,
}


def load_part(name: str, digest: str) -> Any:
    """Return a part of `NETWORK_PARTS` by its hash. Whoever joins many networks passes ``cache(load_part)`` instead."""
    return PART_TABLES[name].load({f"{name}_hash": digest})


@dataclass(frozen=True)
class CorePlusReadout(Configuration):
    """Core, recurrent module, readout, shifter and modulator, joined to a network."""

    core_hash: str = setting("", "the core")
    recurrent_hash: str = setting("", "the recurrent module")
    readout_hash: str = setting("", "the readout")
    shifter_hash: str = setting("", "the shifter")
    modulator_hash: str = setting("", "the modulator")
    nonlinearity: str = setting("elu", "output non-linearity", choices=tuple(NONLINEARITIES))


@schema
@configured_by(
    "network",
    CorePlusReadout,
    Function,
    references={f"{name}_hash": table.__name__ for name, table in PART_TABLES.items()},
)
class NetworkConfig(ConfigurationTable):
    """Networks, joined from the configurations of their parts or made by a function."""

    @classmethod
    def add(cls, config: Configuration | Network) -> Key:
        """Insert a network, and its parts if they are new, and return its key.

        Raises
        ------
        ConfigurationError
            If its parts make no sense together, whatever the data; nothing is written then.
        """
        if not isinstance(config, Network):
            cls._require_sense(config)
            return super().add(config)
        parts = network_parts(config)
        hashes = {f"{name}_hash": part.hash() for name, part in parts.items()}
        row = CorePlusReadout(**hashes, nonlinearity=config.nonlinearity)
        for name, part in parts.items():
            PART_TABLES[name].part_of(type(part))
            to_row(part)  # all are known to be right before the first is written
        cls._require_sense(row, config)
        for name, part in parts.items():
            PART_TABLES[name].add(part)
        return super().add(row)

    @classmethod
    def fill(cls, *parts: Any, nonlinearity: str = "elu") -> list[Key]:
        """Add every network that combines one of each choice of parts, or none, and return their keys.

        Parameters
        ----------
        *parts : key, query, table, or a list of these
            Which cores, recurrent modules, readouts, shifters and modulators, in any order.
        nonlinearity : str
            Of the output of all.

        Raises
        ------
        ConfigurationError
            If no choice of one of the parts is given, or parts make no sense together.

        Examples
        --------
        >>> NetworkConfig.fill(CoreConfig.Factorized3d.fill(linear=[False, True]),
        ...                    RecurrentConfig.NoRecurrence.fill(), ReadoutConfig.FullGaussian2d.fill(),
        ...                    ShifterConfig.NoShifter.fill(), ModulatorConfig.NoModulator.fill())  # doctest: +SKIP
        """
        choices = [_keys(part) for part in parts]
        given = {name for choice in choices for key in choice for name in key}
        without = [name for name in NETWORK_PARTS if f"{name}_hash" not in given]
        if without and all(choices):
            raise ConfigurationError(
                f"a network is made of {', '.join(NETWORK_PARTS)}, and no {without[0]} is given: give keys of "
                f"{PART_TABLES[without[0]].__name__}, such as what fill() of one of its kinds returns"
            )
        combined = itertools.product(*choices)
        networks = ({name: value for key in keys for name, value in key.items()} for keys in combined)
        made = [CorePlusReadout.from_dict({**keys, "nonlinearity": nonlinearity}) for keys in networks]
        part = cache(load_part)
        for row in made:
            cls._require_sense(row, part=part)
        return [super(NetworkConfig, cls).add(row) for row in made]

    @classmethod
    def _require_sense(
        cls, row: Configuration, network: Network | None = None, part: Callable[[str, str], Any] = load_part
    ) -> None:
        """Refuse a new row whose parts are not there or suit no data; what functions make is not looked at."""
        if isinstance(row, CorePlusReadout) and not len(cls & {cls.hash_name: row.hash()}):
            _with_architecture(network or cls.joined(row, part)).check()

    @classmethod
    def load_network(cls, key: Mapping[str, Any], part: Callable[[str, str], Any] = load_part) -> Network | Function:
        """Return the network that a key names, with all its parts, or the function that makes it.

        A pretrained core has the architecture of the core that it is from.

        Raises
        ------
        ConfigurationError
            If there is no such network, or its core is from a network that is not there or has no core of ours.
        """
        found = cls.load(key)
        return cls.joined(found, part) if isinstance(found, CorePlusReadout) else cast(Function, found)

    @classmethod
    def joined(cls, config: CorePlusReadout, part: Callable[[str, str], Any] = load_part) -> Network:
        """Return the network whose parts, which must be in their tables, a row names."""
        settings = config.settings()
        parts = {name: part(name, settings[f"{name}_hash"]) for name in NETWORK_PARTS}
        if isinstance(parts["core"], Pretrained):
            parts["pretrained"] = parts["core"]
            parts["core"] = cls.source_core(parts["core"])
        return Network(**parts, nonlinearity=settings["nonlinearity"])

    @classmethod
    def source_core(cls, pretrained: Pretrained) -> CoreConfiguration:
        """Return the architecture of a core that is used again, which may itself have been used again.

        Raises
        ------
        ConfigurationError
            If the source's network is not there or was made by a function.
        """
        if not len(cls & {"network_hash": pretrained.source_network_hash}):
            raise ConfigurationError(
                f"{pretrained.kind()}.source_network_hash: {pretrained.source_network_hash!r} is not allowed, it must "
                "be that of a network that is there; Model.core_of names the core of a trained model"
            )
        source = cls.load_network({"network_hash": pretrained.source_network_hash})
        if isinstance(source, Function):
            raise ConfigurationError(
                f"the network of {source.function} cannot give its core to another: only networks of ours can"
            )
        return source.core


def _keys(given: Any) -> list[Key]:
    """Return the keys that are given: one of them, a query or a table, or a list of these."""
    if isinstance(given, Mapping):
        return [dict(given)]
    given = by_key(given)
    if isinstance(given, dj.expression.QueryExpression):
        return list(given.to_dicts())
    return [key for item in given for key in _keys(item)]


def network_parts(network: Network | Function) -> dict[str, Configuration]:
    """Return the configurations that make up a network: those of `NETWORK_PARTS`, or the function as ``network``."""
    if isinstance(network, Function):
        return {"network": network}
    parts = {name: getattr(network, name) for name in NETWORK_PARTS}
    return parts if network.pretrained is None else {**parts, "core": network.pretrained}


def _with_architecture(network: Network) -> Network:
    """Return a network whose pretrained core, if it has one, has the architecture of the core that it is from."""
    pretrained = network.core if isinstance(network.core, Pretrained) else network.pretrained
    if pretrained is None:
        return network
    core = NetworkConfig.source_core(pretrained)
    if network.core not in (pretrained, core):
        raise ConfigurationError(
            f"the core beside a pretrained one, a {network.core.kind()}, is not that which was trained, a "
            f"{core.kind()}: give the network what NetworkConfig.source_core returns, or no pretrained core"
        )
    return replace(network, core=core, pretrained=pretrained)


@schema
@configured_by("train", *TRAINERS)
class TrainConfig(ConfigurationTable):
    """Trainers: loss, optimiser and when to stop."""


@schema
@configured_by("unit_selection", *SELECTION_KINDS)
class UnitSelectionConfig(ConfigurationTable):
    """By which rule units are selected."""


@schema
@configured_by("mei", *MEI_KINDS)
class MEIConfig(ConfigurationTable):
    """How most exciting inputs are found."""


@schema
@configured_by("mask", *MASK_KINDS)
class MaskConfig(ConfigurationTable):
    """How masks of most exciting inputs are made."""


@schema
@configured_by("mei_analysis", *MEI_ANALYSES)
class MEIAnalysisConfig(ConfigurationTable):
    """What is measured of most exciting inputs once they are found."""


@schema
@configured_by("field", *FIELD_KINDS)
class FieldConfig(ConfigurationTable):
    """How receptive fields of models are found."""


@schema
@configured_by("triggered", *TRIGGERED_KINDS)
class TriggeredConfig(ConfigurationTable):
    """How receptive fields of data are found."""


@schema
@configured_by("tuning", *TUNING_KINDS)
class TuningConfig(ConfigurationTable):
    """Sets of stimuli by which units of models are characterised."""


def add_preset(name: str) -> Key:
    """Add the network, data and trainer of a published model, and return their keys in one mapping.

    Parameters
    ----------
    name : str
        Of `pipeline.presets.PRESETS`, such as 'lurz2020'.

    Examples
    --------
    >>> model.ModelSelection.fill({"group_id": 1}, add_preset("lurz2020"), {"seed": 1009})  # doctest: +SKIP
    """
    published = preset(name)
    return {
        **NetworkConfig.add(published.network),
        **DataConfig.add(published.data),
        **TrainConfig.add(published.train),
    }
