"""All tables together: keys that MySQL can index, values that every server takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import datajoint as dj
import numpy as np
import pytest

from schemas import connection
from schemas.outdated import OutdatedTablesError

MODULES = (
    "recording",
    "stimulus",
    "config",
    "dataset",
    "model",
    "analysis",
    "receptive_field",
    "tuning",
    "selection",
    "mei",
    "mei_analysis",
    "mei_exchange",
)
INNODB_INDEX_BYTES = 3072


def every_table() -> Iterator[Any]:
    import importlib

    for module in (importlib.import_module(f"schemas.{name}") for name in MODULES):
        schema = module.schema
        for name in schema.list_tables():
            yield dj.FreeTable(
                schema.connection, f"{schema.connection.adapter.make_full_table_name(schema.database, name)}"
            )
        for table in vars(module).values():
            if isinstance(table, type) and issubclass(table, dj.Computed) and table.__module__ == module.__name__:
                yield table().jobs


def index_bytes(attribute: Any) -> int:
    text = re.fullmatch(r"(?:varchar|character varying)\((\d+)\)", attribute.type)
    return 4 * int(text[1]) if text else 8  # utf8mb4; numbers take at most 8


def test_every_key_fits_an_index_of_mysql() -> None:
    tables = list(every_table())
    assert len(tables) > 40
    for table in tables:
        size = sum(index_bytes(table.heading[name]) for name in table.primary_key)
        assert 0 < size <= INNODB_INDEX_BYTES, table.full_table_name


def test_not_a_number_is_null(trained: dict[str, Any]) -> None:
    from schemas.analysis import ReadoutAnalysis
    from schemas.dataset import Oracle
    from schemas.rows import null

    assert [null(value) for value in (np.nan, np.inf, -np.inf, np.float32(0.5))] == [None, None, None, 0.5]
    Oracle.populate(trained)
    ReadoutAnalysis.populate(trained)
    if ReadoutAnalysis.connection.adapter.backend != "postgresql":
        return  # MySQL has no NaN: what is there is none
    for table in every_table():
        for name in table.heading.names:
            if table.heading[name].type == "double precision":
                assert not len(table & f"\"{name}\" = 'NaN'"), f"{table.full_table_name}.{name}"


def test_tables_of_another_version_are_refused_by_name() -> None:
    """A column of a part that the table on the server does not have, as after an upgrade without its migration."""
    old = connection.schema("versions")

    @old
    class Recipe(dj.Manual):
        definition = "recipe : int32  # number"

        class Step(dj.Part):
            definition = "-> master\n---\nseconds : float64  # (s) how long"

    class Step(dj.Part):
        definition = "-> master\n---\nseconds : float64  # (s) how long\nheat = null : float64  # (K) how hot"

    newer = type("Recipe", (dj.Manual,), {"definition": Recipe.definition, "Step": Step, "__module__": __name__})
    with pytest.raises(OutdatedTablesError, match=r"versions.*recipe__step.* has no heat\. CHANGELOG"):
        connection.schema("versions")(newer)
    assert connection.schema("versions")(Recipe) is Recipe  # the same columns are no other version
