"""The tables and foreign keys of all schemas, for the diagram."""

from __future__ import annotations

import datajoint as dj

from pipeline.figures.diagram import TableNode
from schemas import (
    analysis,
    config,
    dataset,
    mei,
    mei_analysis,
    mei_exchange,
    model,
    receptive_field,
    recording,
    selection,
    stimulus,
    tuning,
)
from schemas.connection import connect

MODULES = {
    "recording": recording,
    "stimulus": stimulus,
    "config": config,
    "dataset": dataset,
    "model": model,
    "analysis": analysis,
    "receptive_field": receptive_field,
    "tuning": tuning,
    "selection": selection,
    "mei": mei,
    "mei_analysis": mei_analysis,
    "mei_exchange": mei_exchange,
}

_TIERS = ((dj.Part, "part"), (dj.Lookup, "lookup"), (dj.Imported, "imported"), (dj.Computed, "computed"))


def tables() -> dict[str, tuple[str, type[dj.Table]]]:
    """Return every table by its name, parts as ``Master.Part``, with the schema it belongs to."""
    found: dict[str, tuple[str, type[dj.Table]]] = {}
    for schema_name, module in MODULES.items():
        for name, table in vars(module).items():
            if _is_table(table) and table.__module__ == module.__name__:
                found[name] = (schema_name, table)
                parts = {n: p for n, p in vars(table).items() if _is_table(p) and issubclass(p, dj.Part)}
                found.update({f"{name}.{n}": (schema_name, p) for n, p in parts.items()})
    return found


def _is_table(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, dj.Table) and "definition" in vars(thing)


def schema_graph() -> tuple[list[TableNode], list[tuple[str, str, bool]]]:
    """Return the tables and, for every foreign key, its child, its parent and whether it is part of the child's key."""
    known = tables()
    nodes = [TableNode(name, schema_name, _tier(table)) for name, (schema_name, table) in known.items()]
    names = {table.full_table_name: name for name, (_, table) in known.items()}
    graph = connect().dependencies
    graph.load()
    edges = set()
    for parent, child, properties in graph.edges(data=True):
        # A foreign key that renames columns passes through a node that has a number for a name.
        children = [c for _, c in graph.out_edges(child)] if child.isdigit() else [child]
        edges |= {(names[c], names[parent], properties["primary"]) for c in children if c in names and parent in names}
    return nodes, sorted(edges)


def _tier(table: type[dj.Table]) -> str:
    return next((tier for base, tier in _TIERS if issubclass(table, base)), "manual")
