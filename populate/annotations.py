"""Areas, layers, positions and matches of units, from a table that a laboratory keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import RecordingError
from pipeline.recordings import Unit
from populate.ingest import annotate
from schemas import recording

POSITION = ("x", "y", "z")
COLUMNS = ("unit_id", "unit_name", "area", "layer", *POSITION, "match_id")
LARGEST_MATCH = 2**31 - 1


def annotate_from_csv(key: Mapping[str, Any], path: Path) -> int:
    """Insert areas, layers, positions and matches of a scan's units from a CSV file, all or nothing.

    Parameters
    ----------
    key : mapping
        Of the scan: subject, session, scan_idx.
    path : Path
        With a column ``unit_id`` or ``unit_name``, and any of ``area``, ``layer``, ``match_id`` (units of one animal
        with the same number are one neuron), and ``x``, ``y``, ``z`` together (um). Units may be left out and cells may
        be empty.

    Returns
    -------
    int
        Number of rows that were new.

    Raises
    ------
    RecordingError
        If there is no such scan, or the file is missing, has unknown columns, names an unknown unit or one twice, gives
        an incomplete position or a match_id that is no number, or contradicts what is known; nothing is inserted then.
    """
    scan = {name: key[name] for name in recording.Scan().primary_key}
    known = {row["unit_id"]: row["unit_name"] for row in (recording.Scan.Unit & scan).to_dicts()}
    if not known:
        raise RecordingError(f"there is no scan {scan}: ingest it first, see `geniculate ingest --help`")
    table = _read(path)
    named = "unit_id" if "unit_id" in table.columns else "unit_name"
    ids = {str(unit_id) if named == "unit_id" else name: unit_id for unit_id, name in known.items()}
    units = []
    for line, row in enumerate(table.to_dict("records"), start=2):
        where = f"{path}, line {line}"
        if row[named] not in ids:
            raise RecordingError(f"{where}: {named} {row[named]!r} is not in scan {scan}")
        unit_id = ids.pop(row[named])
        area, layer = row.get("area") or None, row.get("layer") or None
        units.append(Unit(unit_id, known[unit_id], area, layer, _position(row, where), _match(row, where)))
    return annotate(scan, units)


def _read(path: Path) -> pd.DataFrame:
    try:
        # As text: unit 7 is not 7.0, and a layer called 4 stays '4'.
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise RecordingError(f"{path} cannot be read as a CSV file: {error}") from error
    unknown = [name for name in table.columns if name not in COLUMNS]
    if unknown or not {"unit_id", "unit_name"} & set(table.columns) or len(table.columns) < 2:
        raise RecordingError(
            f"{path} has the columns {', '.join(table.columns)}: it needs unit_id or unit_name, and any of "
            f"{', '.join(COLUMNS[2:])}"
        )
    named = "unit_id" if "unit_id" in table.columns else "unit_name"
    if table[named].duplicated().any():
        raise RecordingError(f"{path} names {named} {table[named][table[named].duplicated()].iloc[0]!r} twice")
    return table


def _position(row: Mapping[str, str], where: str) -> tuple[float, float, float] | None:
    given = [row.get(name, "") for name in POSITION]
    if not any(given):
        return None
    try:
        x, y, z = (float(text) for text in given)
    except ValueError:
        raise RecordingError(
            f"{where}: position {', '.join(given)}: give x, y and z as numbers in um, or none"
        ) from None
    return x, y, z


def _match(row: Mapping[str, str], where: str) -> int | None:
    text = row.get("match_id", "")
    if text and not (text.isdecimal() and int(text) <= LARGEST_MATCH):
        raise RecordingError(f"{where}: match_id {text!r} is no whole number from 0 to {LARGEST_MATCH}")
    return int(text) if text else None
