"""Restrictions by queries: by what names their rows, never by columns that happen to share a name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import datajoint as dj

from pipeline.errors import ConfigurationError


def by_key(restriction: Any) -> Any:
    """Return a restriction whose queries and tables are reduced to their primary keys.

    DataJoint refuses to restrict by a query that shares a column beside its key, such as a restricted `Dataset` by
    another one.
    """
    if isinstance(restriction, list | tuple):
        items = [by_key(item) for item in restriction]
        return dj.AndList(items) if isinstance(restriction, dj.AndList) else items
    if isinstance(restriction, type) and issubclass(restriction, dj.Table):
        restriction = restriction()
    return restriction.proj() if isinstance(restriction, dj.expression.QueryExpression) else restriction


def effective(restriction: Any, names: Iterable[str], what: str) -> Any:
    """Return a restriction by keys that restricts for certain: DataJoint ignores names that a query does not have.

    Parameters
    ----------
    restriction : Any
        Query, mapping, condition in SQL, or a list of these.
    names : iterable of str
        Columns of the query that is to be restricted.
    what : str
        What its rows are, for the error.

    Raises
    ------
    ConfigurationError
        If the restriction, or a part of it, names nothing that the query has.
    """
    names = list(names)
    restriction = by_key(restriction)
    for item in restriction if isinstance(restriction, list) else [restriction]:
        unknown: set[str] = set()
        if isinstance(item, list):
            effective(item, names, what)
        elif isinstance(item, dj.expression.QueryExpression) and not set(item.heading.names) & set(names):
            unknown = set(item.heading.names)
        elif isinstance(item, Mapping):
            unknown = set(item) - set(names)
        if unknown:
            raise ConfigurationError(
                f"{', '.join(sorted(unknown))} cannot choose {what}: restrict by {', '.join(names)}, or by a query "
                "that has one of them"
            )
    return restriction
