"""Restrictions by queries: by what names their rows, never by columns that happen to share a name."""

from __future__ import annotations

from typing import Any

import datajoint as dj


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
