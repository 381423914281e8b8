"""Configuration tables made from dataclasses: a master that names configurations, one part for each kind.

The columns of a part are generated from the fields of its dataclass, so ``CoreConfig.Stacked2d & {'hidden_kern': 7}``
is an ordinary restriction and every row was validated before it got in.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import datajoint as dj

from pipeline.configuration import Configuration
from pipeline.errors import ConfigurationError

Key = dict[str, Any]
Master = TypeVar("Master", bound=type)

_COLUMN_TYPES = {bool: "bool", int: "int32", float: "float64", str: "varchar(255)"}


def column(kind: type[Configuration], name: str) -> str:
    """Return the line of a table definition that declares one setting: type, unit in parentheses, meaning."""
    wanted, optional = kind.field_types()[name]
    known = kind.__dataclass_fields__[name].metadata["setting"]
    declared = "varchar(255)" if typing.get_origin(wanted) is tuple else _COLUMN_TYPES[wanted]
    unit = f"({known.unit}) " if known.unit else ""
    return f"{name}{'=null' if optional else ''} : {declared}  # {unit}{known.doc}"


def to_row(config: Configuration) -> Key:
    """Return the settings as a row: sequences as JSON text, everything else as it is."""
    return {n: json.dumps(v) if isinstance(v, tuple) else v for n, v in config.settings().items()}


class ConfigurationPart(dj.Part):
    """One kind of configuration; `kind` is its dataclass."""

    kind: type[Configuration]

    @classmethod
    def fill(cls, **values: Any) -> list[Key]:
        """Add every combination of the values (a list means alternatives) and return their keys.

        Examples
        --------
        >>> CoreConfig.Stacked2d.fill(hidden_kern=[3, 7], layers=4)  # doctest: +SKIP
        """
        return [cls.master.add(config) for config in cls.kind.product(**values)]  # type: ignore[attr-defined]

    def insert(self, rows: Iterable[Mapping[str, Any]], **options: Any) -> None:
        """Validate rows of settings and add them; the hash follows from the settings and need not be given.

        Raises
        ------
        ConfigurationError
            If a setting is unknown or out of range, or a given hash is not that of the settings.
        """
        hash_name = self.master.hash_name  # type: ignore[attr-defined]
        for row in rows:
            settings = dict(row)
            given = settings.pop(hash_name, None)
            config = self.kind.from_dict(settings)
            if given is not None and given != config.hash():
                raise ConfigurationError(f"{self.kind.kind()}: {hash_name} {given!r} is not the hash of these settings")
            self.master.add(config)  # type: ignore[attr-defined]

    def _insert_validated(self, row: Key) -> None:
        super().insert([row], skip_duplicates=True)


class ConfigurationTable(dj.Lookup):
    """Base of the masters: `add`, `load` and one part a kind."""

    hash_name: str
    kinds: tuple[type[Configuration], ...]

    @classmethod
    def part_of(cls, kind: type[Configuration]) -> type[ConfigurationPart]:
        """Return the part table of a kind."""
        if kind not in cls.kinds:
            known = ", ".join(k.kind() for k in cls.kinds)
            raise ConfigurationError(f"{cls.__name__} has no kind {kind.kind()!r}: it has {known}")
        part: type[ConfigurationPart] = getattr(cls, kind.kind())
        return part

    @classmethod
    def add(cls, config: Configuration) -> Key:
        """Insert a configuration unless it is there, and return its key."""
        part = cls.part_of(type(config))
        key = {cls.hash_name: config.hash()}
        if not len(part & key):
            table = cls()
            with _transaction(table.connection):
                table.insert1({**key, cls.hash_name.replace("_hash", "_kind"): config.kind()}, skip_duplicates=True)
                part()._insert_validated({**key, **to_row(config)})
        return key

    @classmethod
    def load(cls, key: Mapping[str, Any]) -> Configuration:
        """Return the configuration that a key names."""
        key = {cls.hash_name: key[cls.hash_name]}
        name = (cls & key).fetch1(cls.hash_name.replace("_hash", "_kind"))
        part: type[ConfigurationPart] = getattr(cls, name)
        row = (part & key).fetch1()
        return part.kind.from_dict({n: row[n] for n in (f.name for f in dataclasses.fields(part.kind))})


class _transaction:
    """A transaction, or the one that is already open."""

    def __init__(self, connection: dj.Connection) -> None:
        self._context = None if connection.in_transaction else connection.transaction

    def __enter__(self) -> None:
        if self._context is not None:
            self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._context is not None:
            self._context.__exit__(*error)


def configured_by(
    what: str, *kinds: type[Configuration], references: Mapping[str, str] | None = None
) -> Callable[[Master], Master]:
    """Give a `ConfigurationTable` its definition and parts.

    Parameters
    ----------
    what : str
        First part of the column names: 'core' gives ``core_hash`` and ``core_kind``.
    *kinds : Configuration classes
        One part each.
    references : mapping, optional
        Fields that are foreign keys, and the table each refers to.
    """

    def decorate(cls: Master) -> Master:
        first_line = (cls.__doc__ or "").splitlines()[0]
        cls.hash_name = f"{what}_hash"  # type: ignore[attr-defined]
        cls.kinds = kinds  # type: ignore[attr-defined]
        cls.definition = (  # type: ignore[attr-defined]
            f"# {first_line}\n"
            f"{what}_hash : varchar(64)  # SHA-256 of kind and settings\n---\n"
            f"{what}_kind : varchar(64)  # name of the part that holds the settings\n"
        )
        for kind in kinds:
            lines = [
                f"-> {references[f.name]}" if references and f.name in references else column(kind, f.name)
                for f in dataclasses.fields(kind)
            ]
            summary = (kind.__doc__ or "").splitlines()[0]
            body = {
                "__doc__": kind.__doc__,
                "__module__": cls.__module__,
                "kind": kind,
                "definition": "\n".join([f"# {summary}", "-> master", *(["---", *lines] if lines else [])]),
            }
            setattr(cls, kind.kind(), type(kind.kind(), (ConfigurationPart,), body))
        return cls

    return decorate
