"""Recordings converted to Deeplake, groups of them that are trained together, and how reliable their units are."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import datajoint as dj

from pipeline.configuration import Configuration
from pipeline.datasets.conversion import Conversion, convert
from pipeline.datasets.info import DataInfo
from pipeline.datasets.loaders import ScanLoaders, open_loaders
from pipeline.datasets.repeats import unit_oracles
from pipeline.datasets.selection import DataConfiguration, UnitTable, choose_units, listed
from pipeline.datasets.store import FORMAT, FORMAT_VERSION, StoredDataset
from pipeline.errors import DatasetError, RecordingError
from pipeline.metrics import mean_of_defined
from pipeline.recordings import open_recording
from schemas import config, recording, stimulus
from schemas.connection import datasets_root, settings
from schemas.connection import schema as open_schema
from schemas.progress import bar
from schemas.provenance import provenance_columns, provenance_row
from schemas.restrictions import by_key
from schemas.rows import null

logger = logging.getLogger(__name__)

schema = open_schema("dataset")

Key = dict[str, Any]


@schema
class Dataset(dj.Imported):
    """A scan, preprocessed, as a Deeplake dataset. Still images go with `Image`, movies with `Movie` preprocessing."""

    definition = f"""
    # A scan as a Deeplake dataset
    -> recording.Scan
    -> config.PreprocessingConfig
    ---
    dataset_path : varchar(255)  # folder, relative to the root of the datasets
    dataset_format : varchar(32)  # 'deeplake'
    dataset_format_version : int32  # of the folder's layout
    dataset_trials : int32  # trials in it
    dataset_withheld : int32  # of these, trials whose responses the source withholds
    dataset_conditions : int32  # distinct stimuli in it
    dataset_bins : int64  # bins over all trials; of images one a trial
    {provenance_columns("dataset")}
    """

    class Unit(dj.Part):
        """Statistics of one unit over the training tier."""

        definition = """
        # Statistics of one unit over the training tier
        -> master
        -> recording.Scan.Unit
        ---
        response_mean : float64  # (unit of Tensor) mean
        response_std : float64  # (unit of Tensor) standard deviation, ddof 1
        response_total : float64  # (unit of Tensor) sum over all trials
        """

    class Tensor(dj.Part):
        """One tensor of the dataset."""

        definition = """
        # One tensor of the dataset
        -> master
        tensor : varchar(64)  # its name in Deeplake
        ---
        tensor_dtype : varchar(16)  # type of its values
        tensor_dimensions : varchar(128)  # what its axes are
        tensor_unit : varchar(64)  # unit of its values
        """

    @property
    def key_source(self) -> dj.expression.QueryExpression:
        """Every scan with every preprocessing that fits what was shown."""
        images = (recording.Scan & {"stimulus_kind": "image"}).proj()
        fits_images = images * config.PreprocessingConfig.Image.proj()
        fits_movies = (recording.Scan.proj() - images) * config.PreprocessingConfig.Movie.proj()
        return super().key_source & [fits_images, fits_movies]

    def make_fetch(self, key: Key) -> tuple[Any, ...]:
        """Fetch where the source is, how to preprocess it, the tiers and the excluded trials."""
        scan = (recording.Scan & key).fetch1()
        tiers = (stimulus.ConditionTier & key).to_dicts(order_by="condition_hash")
        excluded = (stimulus.ExcludedTrial & key).to_arrays("trial_idx", order_by="trial_idx")
        return (
            scan["source_format"],
            scan["source_location"],
            scan["source_fingerprint"],
            config.PreprocessingConfig.load(key),
            {row["condition_hash"]: row["tier"] for row in tiers},
            tuple(int(i) for i in excluded),
        )

    def make_compute(
        self,
        key: Key,
        source_format: str,
        location: str,
        fingerprint: str,
        preprocessing: Configuration,
        tiers: dict[str, str],
        excluded: tuple[int, ...],
    ) -> tuple[Any, ...]:
        """Convert the source; the folder appears under the root of the datasets when it is whole."""
        started = time.perf_counter()
        source = open_recording(source_format, **json.loads(location))
        if source.source.fingerprint != fingerprint:
            raise RecordingError(
                f"{scan_name(key)}: the source at {location} has changed since it was ingested; restore it, or delete "
                "the scan and ingest it again"
            )
        # Tables with another prefix may share the root of the datasets.
        path = f"{settings().prefix}/{scan_name(key)}_{key['preprocessing_hash'][:12]}"
        with bar(len(source.trials), f"converting {scan_name(key)}", "trial") as shown:
            made = convert(
                source, preprocessing, tiers, datasets_root() / path, excluded, lambda done, _: shown.update()
            )
        ids = [unit.unit_id for unit in source.units]
        return path, made, ids, time.perf_counter() - started

    def make_insert(self, key: Key, path: str, made: Conversion, unit_ids: list[int], seconds: float) -> None:
        """Insert the row, its units and its tensors."""
        self.insert1(
            {
                **key,
                "dataset_path": path,
                "dataset_format": FORMAT,
                "dataset_format_version": FORMAT_VERSION,
                "dataset_trials": made.n_trials,
                "dataset_withheld": made.n_withheld,
                "dataset_conditions": made.n_conditions,
                "dataset_bins": made.n_bins,
                **provenance_row("dataset", seconds),
            }
        )
        columns = zip(unit_ids, made.responses.mean, made.responses.std, made.totals, strict=True)
        names = ("unit_id", "response_mean", "response_std", "response_total")
        self.Unit.insert({**key, **dict(zip(names, values, strict=True))} for values in columns)
        self.Tensor.insert({**key, **vars(tensor)} for tensor in made.tensors)

    @classmethod
    def open(cls, key: Mapping[str, Any]) -> StoredDataset:
        """Open the stored dataset of one row, for reading."""
        return StoredDataset(datasets_root() / (cls & key).fetch1("dataset_path"))


def scan_name(key: Mapping[str, Any]) -> str:
    """Return the name of a scan for people and folders: subject-session-scan."""
    return f"{key['subject']}-{key['session']}-{key['scan_idx']}"


@schema
class MultiDataset(dj.Manual):
    """A group of datasets that models are trained on together."""

    definition = """
    # A group of datasets that models are trained on together
    group_id : int32  # number of the group
    ---
    group_description : varchar(255)  # what it is for
    group_members : varchar(64)  # SHA-256 of the members' keys
    unique index (group_members)
    """

    class Member(dj.Part):
        """One dataset of the group."""

        definition = """
        # One dataset of the group
        -> master
        -> Dataset
        ---
        data_key : varchar(128)  # its name in loaders and models
        """

    @classmethod
    def fill(cls, datasets: Any, description: str = "") -> Key:
        """Group datasets, unless the same group is there already, and return the group's key.

        Parameters
        ----------
        datasets : query, list of keys or any restriction of `Dataset`
        description : str
            What the group is for.

        Warns in the log if a stimulus trains in one scan of the group and is held out in another.
        """
        keys = (Dataset & by_key(datasets)).keys(order_by="KEY")
        if not keys:
            raise DatasetError("no dataset matches: run Dataset.populate() first, or change the restriction")
        _tell_leaks(keys)
        members = hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()
        while not len(cls & {"group_members": members}):
            taken = cls().to_arrays("group_id")
            group = {"group_id": int(max(taken, default=0)) + 1}
            try:
                with cls().connection.transaction:
                    cls.insert1({**group, "group_description": description, "group_members": members})
                    cls.Member.insert(
                        {**group, **key, "data_key": f"{scan_name(key)}-{key['preprocessing_hash'][:8]}"}
                        for key in keys
                    )
            except dj.errors.DuplicateError:
                continue  # another process took the number, or made this very group: look again
        return {"group_id": int((cls & {"group_members": members}).fetch1("group_id"))}

    @classmethod
    def paths(cls, key: Mapping[str, Any]) -> dict[str, str]:
        """Return the members' data_keys and folders, relative to the root of the datasets, in order of data_key."""
        rows = (cls.Member * Dataset.proj("dataset_path") & {"group_id": key["group_id"]}).to_dicts(order_by="data_key")
        return {row["data_key"]: row["dataset_path"] for row in rows}

    @classmethod
    def units(cls, key: Mapping[str, Any]) -> dict[str, UnitTable]:
        """Return what is known of the members' units, by data_key. Neurons have numbers of their own in each group."""
        members = (cls.Member & {"group_id": key["group_id"]}).to_dicts(order_by="data_key")
        tables = {member["data_key"]: _unit_table(member) for member in members}
        return _numbered(tables, {member["data_key"]: member["subject"] for member in members})


def _tell_leaks(datasets: list[Key]) -> None:
    """Warn of stimuli that train in one scan and are held out in another: a core that scans share has seen them."""
    scans = [{name: key[name] for name in recording.Scan().primary_key} for key in datasets]
    conditions, tiers = (stimulus.ConditionTier & scans).to_arrays("condition_hash", "tier")
    training = set(conditions[tiers == "train"])
    torn = training & set(conditions[tiers != "train"])
    if torn:
        logger.warning(
            "%d stimuli train in one scan of the group and are held out in another, such as %s: scores of models that "
            "share a core are too high. Ingest the scans with common tiers, or exclude those trials.",
            len(torn),
            min(torn)[:12],
        )


def _unit_table(scan: Key) -> UnitTable:
    scan = {name: scan[name] for name in recording.Scan().primary_key}
    areas = {row["unit_id"]: row["brain_area"] for row in (recording.AreaMembership & scan).to_dicts()}
    layers = {row["unit_id"]: row["layer"] for row in (recording.LayerMembership & scan).to_dicts()}
    rows = (recording.UnitPosition & scan).to_dicts()
    places = {row["unit_id"]: (row["unit_x"], row["unit_y"], row["unit_z"]) for row in rows}
    matches = {row["unit_id"]: int(row["match_id"]) for row in (recording.UnitMatch & scan).to_dicts()}
    ids = [int(i) for i in (recording.Scan.Unit & scan).to_arrays("unit_id", order_by="unit_id")]
    return UnitTable(
        ids,
        [areas.get(i) for i in ids],
        [layers.get(i) for i in ids],
        [places.get(i) for i in ids] if places else (),
        [matches.get(i) for i in ids] if matches else (),
    )


def _numbered(tables: Mapping[str, UnitTable], animals: Mapping[str, str]) -> dict[str, UnitTable]:
    """Return the tables with one number for each neuron of all animals, for match_ids count within an animal."""
    of_animals = {
        data_key: [None if match is None else (animals[data_key], match) for match in table.match_id]
        for data_key, table in tables.items()
    }
    known = sorted({neuron for neurons in of_animals.values() for neuron in neurons if neuron is not None})
    numbers = {neuron: number for number, neuron in enumerate(known)}
    return {
        data_key: replace(table, match_id=[None if n is None else numbers[n] for n in of_animals[data_key]])
        for data_key, table in tables.items()
    }


def fitting() -> dj.expression.QueryExpression:
    """Return the pairs of MultiDataset and DataConfig that fit: still images or movies. Functions fit every group."""
    kinds = config.DataConfig.kinds
    holds_images = MultiDataset.proj() & (MultiDataset.Member & (Dataset.Tensor & {"tensor": "images"}).proj())
    groups = {"images": holds_images, "videos": MultiDataset.proj() - holds_images}
    pairs = [
        groups.get(getattr(kind, "stimulus", ""), MultiDataset.proj()) * config.DataConfig.part_of(kind).proj()
        for kind in kinds
    ]
    return MultiDataset.proj() * config.DataConfig.proj() & pairs


def absolute(paths: Mapping[str, str]) -> dict[str, Path]:
    """Return the folders of `MultiDataset.paths` as they are on this machine."""
    return {data_key: datasets_root() / path for data_key, path in paths.items()}


def get_dataloaders(key: Mapping[str, Any], batch_size: int = 8, seed: int = 0, workers: int = 0) -> ScanLoaders:
    """Return the loaders ``{tier: {data_key: loader}}`` of a MultiDataset and DataConfig.

    See `pipeline.datasets.loaders.open_loaders`, which does it. ``GENICULATE_DATA_MEMORY`` (GiB) bounds what loaders
    take; data beyond it are read when they are needed.

    Parameters
    ----------
    key : mapping
        With ``group_id`` and ``data_hash``.
    batch_size : int
        Training clips or images in a batch.
    seed : int
        Of the order and places of training clips.
    workers : int
        Processes that prepare training batches.
    """
    data = config.DataConfig.load(key)
    return loaders_of(MultiDataset.paths(key), MultiDataset.units(key), data, batch_size, seed, workers)[0]


def get_data_info(key: Mapping[str, Any]) -> DataInfo:
    """Return what models must know of the data that `get_dataloaders` gives for a key, by data_key."""
    return loaders_of(MultiDataset.paths(key), MultiDataset.units(key), config.DataConfig.load(key), 1, 0)[1]


def units_of_data(key: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the unit_ids that a DataConfig takes of each member of a MultiDataset, by data_key; functions take all.

    Parameters
    ----------
    key : mapping
        With ``group_id`` and ``data_hash``.
    """
    data, tables = config.DataConfig.load(key), MultiDataset.units(key)
    if not isinstance(data, DataConfiguration):
        return {data_key: list(table.unit_id) for data_key, table in tables.items()}
    taken = {}
    for data_key, path in absolute(MultiDataset.paths(key)).items():
        stored = StoredDataset(path)
        chosen = choose_units(data, stored, tables[data_key], data_key)
        taken[data_key] = [int(stored.metadata["unit_ids"][position]) for position in chosen]
    return taken


def loaders_of(
    paths: Mapping[str, str],
    units: Mapping[str, UnitTable],
    data: Configuration,
    batch_size: int,
    seed: int,
    workers: int = 0,
) -> tuple[ScanLoaders, DataInfo]:
    """Return loaders and data information, for folders, units and a configuration that were fetched before."""
    return open_loaders(absolute(paths), data, batch_size, seed, units, workers, settings().data_memory)


@schema
class Oracle(dj.Computed):
    """How well each repeat of a test stimulus is predicted by the other repeats."""

    definition = f"""
    # Reliability of the responses to repeated test stimuli
    -> MultiDataset
    -> config.DataConfig
    ---
    oracle_mean=null : float64  # mean oracle correlation over units; NULL without repeats
    oracle_undefined : int32  # units whose oracle is undefined
    {provenance_columns("oracle")}
    """

    class Unit(dj.Part):
        """Oracle of one unit."""

        definition = """
        # Oracle of one unit
        -> master
        -> MultiDataset.Member
        -> recording.Scan.Unit
        ---
        oracle_correlation=null : float64  # single trial against the mean of the other repeats
        oracle_conservative=null : float64  # the same from variance components
        oracle_conditions : int32  # repeated conditions that it rests on
        """

    @property
    def key_source(self) -> dj.expression.QueryExpression:
        """Every group with every choice of its units and trials; functions choose for themselves."""
        return super().key_source & (fitting() - config.DataConfig.Function.proj())

    def make_fetch(self, key: Key) -> tuple[Any, ...]:
        """Fetch the members, their folders and units, and what is chosen of them."""
        members = (MultiDataset.Member & key).to_dicts(order_by="data_key")
        return members, MultiDataset.paths(key), MultiDataset.units(key), config.DataConfig.load(key)

    def make_compute(
        self,
        key: Key,
        members: list[Key],
        paths: dict[str, str],
        units: dict[str, UnitTable],
        data: DataConfiguration,
    ) -> tuple[Any, ...]:
        """Correlate each repeat with the mean of the others, unit by unit."""
        started = time.perf_counter()
        rows = []
        for member in members:
            data_key = member["data_key"]
            stored = StoredDataset(absolute(paths)[data_key])
            chosen = choose_units(data, stored, units[data_key], data_key)
            found = unit_oracles(stored, "test", chosen, listed(data.stimulus_type))
            scan_key = {name: value for name, value in member.items() if name != "data_key"}
            rows += [
                {
                    **scan_key,
                    "unit_id": stored.metadata["unit_ids"][position],
                    "oracle_correlation": null(value),
                    "oracle_conservative": null(other),
                    "oracle_conditions": found.conditions,
                }
                for position, value, other in zip(chosen, found.correlation, found.conservative, strict=True)
            ]
        return rows, time.perf_counter() - started

    def make_insert(self, key: Key, rows: list[Key], seconds: float) -> None:
        """Insert the units and their mean."""
        mean, undefined = mean_of_defined([row["oracle_correlation"] for row in rows])
        self.insert1(
            {
                **key,
                "oracle_mean": null(mean),
                "oracle_undefined": undefined,
                **provenance_row("oracle", seconds),
            }
        )
        self.Unit.insert({**key, **row} for row in rows)
