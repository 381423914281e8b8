"""Which units and models are looked into: choices, their ranking by reliability, and the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datajoint as dj

from pipeline.errors import DatasetError
from schemas import config, dataset, model, recording
from schemas.connection import schema as open_schema
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

        Parameters
        ----------
        key : mapping
            With ``group_id`` and ``data_hash``.
        target_name : str
            Name of the choice.
        units : query, list of keys or any restriction of the group's units

        Raises
        ------
        DatasetError
            If no unit of the group matches.
        ConfigurationError
            If a restriction names nothing that units have.
        """
        target = {"group_id": key["group_id"], "data_hash": key["data_hash"], "target_name": target_name}
        members = (dataset.MultiDataset.Member & target).proj() * recording.Scan.Unit.proj()
        with cls().connection.transaction:
            if not len(cls & target):
                chosen = (members & effective(units, members.heading.names, "units")).keys()
                if not chosen:
                    raise DatasetError(
                        f"no unit of group {target['group_id']} matches the choice {target_name!r}: change the "
                        "restriction, or look for the group in MultiDataset.Member"
                    )
                scans = (recording.Scan & (dataset.MultiDataset.Member & target).proj()).proj()
                areas = _by_unit(recording.AreaMembership & scans, "brain_area")
                layers = _by_unit(recording.LayerMembership & scans, "layer")
                cls.insert1(target)
                cls.Unit.insert(
                    {**target, **row, "brain_area": areas.get(_unit(row)), "layer": layers.get(_unit(row))}
                    for row in chosen
                )
        return target


def _unit(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what names a unit: its scan and its number in it."""
    return tuple(row[name] for name in recording.Scan.Unit().primary_key)


def _by_unit(query: Any, column: str) -> dict[tuple[Any, ...], Any]:
    return {_unit(row): row[column] for row in query.to_dicts()}
