"""Which units and models are looked into: choices, their ranking by reliability, and the best of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import datajoint as dj
import numpy as np
import pandas as pd

from pipeline.analysis.scores import MEASURES
from pipeline.analysis.selection import (
    Candidates,
    HighUnits,
    best_of_best_mean,
    field_of,
    is_linear,
    rank_by_oracle,
    select_high_units,
)
from pipeline.errors import ConfigurationError, DatasetError
from pipeline.models import Network
from schemas import config, dataset, model, recording
from schemas.connection import schema as open_schema
from schemas.provenance import provenance_columns, provenance_row
from schemas.restrictions import effective

schema = open_schema("selection")

Key = dict[str, Any]


@schema
class TargetModel(dj.Manual):
    """Models that MEIs are wanted of."""

    definition = """
    # Models that MEIs are wanted of
    -> model.Model
    """


@schema
class TargetDataset(dj.Manual):
    """A named choice of units of a group of datasets. A choice is not changed later; make another one."""

    definition = """
    # A named choice of units
    -> dataset.MultiDataset
    -> config.DataConfig
    target_name : varchar(64)  # name of the choice
    """

    class Unit(dj.Part):
        """One chosen unit."""

        definition = """
        # One chosen unit
        -> master
        -> dataset.MultiDataset.Member
        -> recording.Scan.Unit
        ---
        brain_area=null : varchar(64)  # as in AreaMembership when the choice was made
        layer=null : varchar(32)  # as in LayerMembership when the choice was made
        """

    @classmethod
    def fill(cls, key: Mapping[str, Any], target_name: str, units: Any) -> Key:
        """Choose units, unless a choice of this name is there already, and return the choice's key.

        Units that the data leave out, such as those of other areas, cannot be chosen.

        Parameters
        ----------
        key : mapping
            With ``group_id`` and ``data_hash``.
        target_name : str
            Name of the choice.
        units : query, list of keys or any restriction of the group's units
            ``{}`` chooses all.

        Raises
        ------
        DatasetError
            If no unit of the group matches.
        ConfigurationError
            If a restriction names nothing that units have.
        """
        target = {"group_id": key["group_id"], "data_hash": key["data_hash"], "target_name": target_name}
        if not len(cls & target):
            chosen = cls._chosen(target, units)
            try:
                with cls().connection.transaction:
                    cls.insert1(target)
                    cls.Unit.insert({**target, **row} for row in chosen)
            except dj.errors.DuplicateError:
                if not len(cls & target):  # otherwise another process has made this very choice meanwhile
                    raise
        return target

    @staticmethod
    def _chosen(target: Key, units: Any) -> list[Key]:
        """Return the keys of the chosen units with their areas and layers."""
        members = (dataset.MultiDataset.Member & target) * recording.Scan.Unit.proj()
        rows = (members & effective(units, members.heading.names, "units")).to_dicts()
        taken = {data_key: set(ids) for data_key, ids in dataset.units_of_data(target).items()} if rows else {}
        rows = [row for row in rows if row["unit_id"] in taken[row.pop("data_key")]]
        if not rows:
            raise DatasetError(
                f"no unit of group {target['group_id']} and its data matches the choice {target['target_name']!r}: "
                "change the restriction, or look for the group in MultiDataset.Member"
            )
        scans = (recording.Scan & (dataset.MultiDataset.Member & target).proj()).proj()
        areas = _by_unit(recording.AreaMembership & scans, "brain_area")
        layers = _by_unit(recording.LayerMembership & scans, "layer")
        return [{**row, "brain_area": areas.get(_unit(row)), "layer": layers.get(_unit(row))} for row in rows]


@schema
class OracleRankedUnit(dj.Computed):
    """The units of a choice, ranked within their scan by how well repeats of a stimulus predict each other."""

    definition = f"""
    # Units of a choice, ranked within their scan by their oracle
    -> TargetDataset
    -> dataset.Oracle
    ---
    ranked_units : int32  # units with an oracle
    unranked_units : int32  # units without one
    {provenance_columns("ranking")}
    """

    class Unit(dj.Part):
        """One unit that has an oracle."""

        definition = """
        # Rank of one unit among those of its scan
        -> master
        -> TargetDataset.Unit
        ---
        oracle_rank : int32  # 0 for the best; of equal ones the smaller unit_id comes first
        oracle_share : float64  # rank / number of ranked units of the scan: below 0.5 for the better half
        """

    def make(self, key: Key) -> None:
        """Rank each scan by itself."""
        started = time.perf_counter()
        joined = TargetDataset.Unit.proj() * dataset.Oracle.Unit & key
        units = pd.DataFrame(joined.to_dicts(order_by="KEY"), columns=joined.heading.names)
        chosen = len(TargetDataset.Unit & key)
        ranked = []
        for _, scan in units.groupby(dataset.MultiDataset.Member().primary_key):
            order = scan.iloc[rank_by_oracle(scan["oracle_correlation"].to_numpy(float))]
            ranked += [
                {**row, "oracle_rank": rank, "oracle_share": rank / len(order)}
                for rank, row in enumerate(order[TargetDataset.Unit().primary_key].to_dict("records"))
            ]
        counts = {"ranked_units": len(ranked), "unranked_units": chosen - len(ranked)}
        self.insert1({**key, **counts, **provenance_row("ranking", time.perf_counter() - started)})
        self.Unit.insert(ranked)

    @classmethod
    def unit_scores(cls, key: Mapping[str, Any], tier: str = "test") -> pd.DataFrame:
        """Return all units of a choice, with their oracle, rank, place and the scores of one model.

        As `ModelGroup.unit_scores`, but the measures have their own names.

        Parameters
        ----------
        key : mapping
            Of a choice and a model on its data.
        tier : str
            Trials of the scores.

        Raises
        ------
        ConfigurationError
            If the key does not name exactly one choice whose units are ranked, and one model.
        """
        choices, models = (cls & key).keys(), model.Model & key
        if len(choices) != 1 or len(models) != 1:
            raise ConfigurationError(
                f"{dict(key)} names {len(choices)} choices of ranked units and {len(models)} models: name one of each, "
                "and populate OracleRankedUnit"
            )
        return _unit_scores(choices[0], {"": models}, tier)


@schema
class ModelGroup(dj.Manual):
    """The best CNN and the best linear model for a choice of units, by which units are compared.

    They are looked for once, among the models that are trained by then: `fill` says how. A group is not changed later;
    make another one. MEIs of its models are wanted only if `TargetModel` says so.
    """

    definition = """
    # The best CNN and the best linear model for a choice of units
    -> TargetDataset
    model_group : varchar(64)  # name of the group
    """

    class CNNModel(dj.Part):
        """The best CNN."""

        definition = """
        # The best CNN
        -> master
        -> model.Model
        """

    class LinearModel(dj.Part):
        """The best linear model."""

        definition = """
        # The best linear model
        -> master
        -> model.Model
        """

    @classmethod
    def fill(cls, target: Mapping[str, Any], model_group: str = "best", cnn: Any = None, linear: Any = None) -> Key:
        """Find the two models, unless a group of this name is there already, and return the group's key.

        Of the models on the choice's data, ensembles left out, those of one network and trainer belong together: that
        with the highest mean validation correlation over its seeds is taken, and of it the best seed.

        Parameters
        ----------
        target : mapping
            Key of a `TargetDataset`.
        model_group : str
            Name of the group.
        cnn, linear : query, mapping or list of these, optional
            Which models count as CNNs and which as linear, such as ``config.CoreConfig.GaussianLaplace``. Without
            them: networks of ours that are linear up to their output (`pipeline.analysis.selection.is_linear`, which
            looks at the ``linear`` of the core), and all other networks of ours.

        Raises
        ------
        ConfigurationError
            If there is no such choice, no model of one of the two sorts is trained, or a restriction names nothing
            that models have.
        """
        found = (TargetDataset & {name: target[name] for name in TargetDataset().primary_key}).keys()
        if not found:
            raise ConfigurationError(f"there is no choice of units {dict(target)}: make one with TargetDataset.fill")
        key = {**found[0], "model_group": model_group}
        with cls().connection.transaction:
            if not len(cls & key):
                best_cnn, best_linear = _best_model(key, cnn, linear=False), _best_model(key, linear, linear=True)
                cls.insert1(key)
                cls.CNNModel.insert1({**key, **best_cnn})
                cls.LinearModel.insert1({**key, **best_linear})
        return key

    @classmethod
    def unit_scores(cls, key: Mapping[str, Any], tier: str = "test") -> pd.DataFrame:
        """Return all units of the choice, with their oracle, rank, place and the scores of both models.

        Parameters
        ----------
        key : mapping
            Of one group.
        tier : str
            Trials of the scores.

        Returns
        -------
        DataFrame
            One row a unit: its scan and ``unit_id``; ``brain_area``, ``layer``; ``oracle_correlation``,
            ``oracle_rank`` and ``oracle_share``; ``unit_x``, ``unit_y`` and ``unit_z`` (um); each of
            `pipeline.analysis.scores.MEASURES` with ``cnn_`` and ``lin_`` before it. Undefined values are NaN.

        Raises
        ------
        ConfigurationError
            If the key does not name exactly one group whose units are ranked.
        """
        groups = (cls & key).keys()
        if len(groups) != 1 or not len(OracleRankedUnit & groups[0]):
            raise ConfigurationError(
                f"{dict(key)} names {len(groups)} groups of models whose units are ranked: name one, and populate "
                "Oracle and OracleRankedUnit"
            )
        (group,) = groups
        return _unit_scores(group, {"cnn_": cls.CNNModel & group, "lin_": cls.LinearModel & group}, tier)


@schema
class FieldOfView(dj.Manual):
    """The field that a scan imaged, in the coordinates of `UnitPosition`.

    Only for choosing units by their distance to its edge; without it, the outermost units of the scan are the edge.
    """

    definition = """
    # The field that a scan imaged
    -> recording.Scan
    ---
    field_x_min : float64  # (um) edges in the first coordinate of UnitPosition
    field_x_max : float64  # (um)
    field_y_min : float64  # (um) edges in the second coordinate
    field_y_max : float64  # (um)
    """


@schema
class HighUnitSelection(dj.Computed):
    """The units of a choice that are worth an experiment; see `pipeline.analysis.selection.select_high_units`.

    Examples
    --------
    From all units of some data to those whose MEIs are wanted, of the best CNN and the best linear model:

    >>> target = TargetDataset.fill(data, "all", {})  # doctest: +SKIP
    >>> OracleRankedUnit.populate(target)  # doctest: +SKIP
    >>> group = ModelGroup.fill(target)  # doctest: +SKIP
    >>> rule = config.UnitSelectionConfig.HighUnits.fill()[0]  # doctest: +SKIP
    >>> HighUnitSelection.populate(group, rule)  # doctest: +SKIP
    >>> best = HighUnitSelection.Unit & group & rule & "hu_rank < 150"  # doctest: +SKIP
    >>> TargetDataset.fill(data, "high", best)  # doctest: +SKIP
    >>> for part in (ModelGroup.CNNModel, ModelGroup.LinearModel):  # doctest: +SKIP
    ...     TargetModel.insert((part & group).to_dicts(), ignore_extra_fields=True, skip_duplicates=True)
    """

    definition = f"""
    # Reliable units that both models predict well, the best first
    -> ModelGroup
    -> OracleRankedUnit
    -> config.UnitSelectionConfig
    ---
    reliable_units : int32  # units of high oracle
    inside_units : int32  # of these, units far from the edge of their field
    predicted_units : int32  # of these, units that both models predict well
    high_units : int32  # of these, units that are far apart: those selected
    {provenance_columns("high_unit")}
    """

    class Unit(dj.Part):
        """One selected unit."""

        definition = """
        # One selected unit
        -> master
        -> TargetDataset.Unit
        ---
        hu_rank : int32  # 0 for the unit with the largest advantage of the CNN
        cnn_fraction_oracle : float64  # correlation of the CNN / oracle
        lin_fraction_oracle : float64  # correlation of the linear model / oracle
        """

    def make(self, key: Key) -> None:
        """Select from a frame of all units."""
        started = time.perf_counter()
        rule = config.UnitSelectionConfig.load(key)
        if not isinstance(rule, HighUnits):
            raise ConfigurationError(f"no method to select units by a rule of kind {rule.kind()}")
        units = ModelGroup.unit_scores(key, rule.score_tier)
        found = select_high_units(_candidates(units), rule)
        self.insert1(
            {
                **key,
                "reliable_units": found.reliable,
                "inside_units": found.inside,
                "predicted_units": found.predicted,
                "high_units": len(found.units),
                **provenance_row("high_unit", time.perf_counter() - started),
            }
        )
        columns = [*TargetDataset.Unit().primary_key, "cnn_fraction_oracle", "lin_fraction_oracle"]
        chosen = units.iloc[found.units][columns].to_dict("records")
        self.Unit.insert({**key, **row, "hu_rank": rank} for rank, row in enumerate(chosen))


def _unit(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what names a unit: its scan and its number in it."""
    return tuple(row[name] for name in recording.Scan.Unit().primary_key)


def _by_unit(query: Any, column: str) -> dict[tuple[Any, ...], Any]:
    return {_unit(row): row[column] for row in query.to_dicts()}


def _beside(units: pd.DataFrame, query: Any, columns: Sequence[str], prefix: str = "") -> pd.DataFrame:
    """Return units with columns of a query beside them; NaN where it has no row for a unit."""
    shared = [name for name in query.primary_key if name in units]
    more = pd.DataFrame(query.to_dicts(), columns=[*shared, *columns]).astype(dict.fromkeys(columns, float))
    return units.merge(more.rename(columns={name: prefix + name for name in columns}), how="left", on=shared)


def _unit_scores(target: Key, models: Mapping[str, Any], tier: str) -> pd.DataFrame:
    """Return `ModelGroup.unit_scores` of some models, queries of one model each, by what stands before the measures."""
    units = pd.DataFrame((TargetDataset.Unit & target).to_dicts(order_by="KEY"))
    units = _beside(units, dataset.Oracle.Unit & target, ["oracle_correlation"])
    units = _beside(units, OracleRankedUnit.Unit & target, ["oracle_rank", "oracle_share"])
    scans = (recording.Scan & (dataset.MultiDataset.Member & target).proj()).proj()
    units = _beside(units, recording.UnitPosition & scans, ["unit_x", "unit_y", "unit_z"])
    for prefix, chosen in models.items():
        scores = model.Model.UnitScore & chosen.proj() & {"score_tier": tier}
        units = _beside(units, scores, list(MEASURES), prefix)
    return units.astype({"oracle_rank": "Int64"})  # NaN beside numbers made them floats


def _best_model(group: Key, restriction: Any, linear: bool) -> Key:
    """Return the key of the best model on a group's data, of those that a restriction allows or of all of one sort."""
    models = model.Model & {"group_id": group["group_id"], "data_hash": group["data_hash"]} & "seed >= 0"
    if restriction is None:
        keys = (config.NetworkConfig & config.NetworkConfig.CorePlusReadout & models.proj()).keys()
        networks = [(key, config.NetworkConfig.load_network(key)) for key in keys]
        models = models & [key for key, made in networks if isinstance(made, Network) and is_linear(made) == linear]
    else:
        source = model.Model().key_source
        models = models & (source & effective(restriction, source.heading.names, "models")).proj()
    rows = models.proj("validation_correlation").to_dicts(order_by="KEY")
    scores = np.array([row.pop("validation_correlation") for row in rows], float)
    if not np.isfinite(scores).any():
        sort, argument = ("linear model", "linear") if linear else ("CNN", "cnn")
        raise ConfigurationError(
            f"no {sort} with a validation correlation is trained on group {group['group_id']} and data "
            f"{group['data_hash'][:8]}: train one, or say with {argument}= which models count as such"
        )
    return rows[best_of_best_mean([(row["network_hash"], row["train_hash"]) for row in rows], scores)]


def _candidates(units: pd.DataFrame) -> Candidates:
    """Return the units of `ModelGroup.unit_scores` as the rule takes them."""
    scan_key = recording.Scan().primary_key
    scans = [tuple(row) for row in units[scan_key].itertuples(index=False)]
    fields = {scan: _field(dict(zip(scan_key, scan, strict=True))) for scan in set(scans)}
    return Candidates(
        scan=np.array([dataset.scan_name(dict(zip(scan_key, scan, strict=True))) for scan in scans]),
        unit_id=units["unit_id"].to_numpy(),
        oracle_share=units["oracle_share"].to_numpy(float),
        cnn_fraction_oracle=units["cnn_fraction_oracle"].to_numpy(float),
        lin_fraction_oracle=units["lin_fraction_oracle"].to_numpy(float),
        position=units[["unit_x", "unit_y", "unit_z"]].to_numpy(float),
        field=np.stack([fields[scan] for scan in scans]),
    )


def _field(scan: Key) -> np.ndarray:
    """Return the field of view of a scan as `field_of` does; NaN if nothing is known of it."""
    known = (FieldOfView & scan).to_dicts()
    if known:
        return np.array([[known[0][f"field_{axis}_{end}"] for end in ("min", "max")] for axis in "xy"])
    places = np.array((recording.UnitPosition & scan).to_arrays("unit_x", "unit_y", "unit_z"), float).T
    return field_of(places) if len(places) else np.full((2, 2), np.nan)
