"""Tables of another version are refused by name, before anything is asked of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import datajoint as dj

from pipeline.errors import GeniculateError

_COLUMN = re.compile(r"\s*(\w+)\s*(=[^:]*)?:")


class OutdatedTablesError(GeniculateError):
    """Tables on the server were declared by another version and lack columns of this one."""


def refuse_outdated(table: type[Any]) -> None:
    """Refuse a declared table if it, or one of its parts, lacks columns of its definition on the server.

    Raises
    ------
    OutdatedTablesError
        Naming the table, the columns and what to do.
    """
    parts = (part for part in vars(table).values() if isinstance(part, type) and issubclass(part, dj.Part))
    for each in (table, *parts):
        missing = [name for name in _own_columns(each.definition) if name not in each().heading.names]
        if missing:
            raise OutdatedTablesError(
                f"The table {each.full_table_name} was made by another version of Geniculate: it has no "
                f"{' and no '.join(missing)}. CHANGELOG.md says what to run after upgrading. To begin anew beside it, "
                "set GENICULATE_HOME or, on a server of your own, GENICULATE_PREFIX to another name."
            )


def _own_columns(definition: str) -> Iterator[str]:
    """Yield the columns that a definition names itself; those of foreign keys belong to other tables."""
    for line in definition.splitlines():
        named = _COLUMN.match(line)
        if named:
            yield named[1]
