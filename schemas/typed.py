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
import pandas as pd

from pipeline.configuration import Configuration
from pipeline.errors import ConfigurationError

Key = dict[str, Any]
Master = TypeVar("Master", bound=type)

_COLUMN_TYPES = {bool: "bool", int: "int32", float: "float64"}
_LARGEST_INTEGER = 2**31 - 1


def column(kind: type[Configuration], name: str) -> str:
    """Return the line of a table definition that declares one setting: type, unit in parentheses, meaning."""
    wanted, optional = kind.field_types()[name]
    known = kind.__dataclass_fields__[name].metadata["setting"]
    declared = _COLUMN_TYPES.get(wanted, f"varchar({known.length})")  # sequences are JSON
    unit = f"({known.unit}) " if known.unit else ""
    # Database drivers take a percent sign for a placeholder.
    comment = f"{unit}{known.doc}".replace("%", "percent")
    return f"{name}{'=null' if optional else ''} : {declared}  # {comment}"


def to_row(config: Configuration) -> Key:
    """Return the settings as a row: sequences as JSON text, everything else as it is.

    Raises
    ------
    ConfigurationError
        If a value does not fit its column, naming the field.
    """
    row = {n: json.dumps(v) if isinstance(v, tuple) else v for n, v in config.settings().items()}
    for name, value in row.items():
        if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
            raise ConfigurationError(f"{config.kind()}.{name}: {value} is beyond what a table holds (int32)")
        longest = config.__dataclass_fields__[name].metadata["setting"].length
        if isinstance(value, str) and len(value) > longest:
            raise ConfigurationError(
                f"{config.kind()}.{name}: its text has {len(value)} characters, a table holds {longest}"
            )
    return row


class Settings(pd.DataFrame):
    """What can be set, one row a setting, shown in full: no row and no word is cut off."""

    @property
    def _constructor(self) -> type[Settings]:
        return Settings

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            return self.to_html(index=False, justify="left")

    def __repr__(self) -> str:
        return self.to_string(index=False)


def settings_of(*kinds: type[Configuration]) -> Settings:
    """Return the settings of kinds: kind, setting, type, default, unit, allowed, meaning."""
    columns = ["kind", "setting", "type", "default", "unit", "allowed", "meaning"]
    nothing = [{"meaning": "has no settings"}]
    rows = [{"kind": kind.kind(), **row} for kind in kinds for row in kind.description() or nothing]
    # As objects: pandas would make 3 into 3.0 and None into NaN.
    return Settings([[row.get(name, "") for name in columns] for row in rows], columns=columns, dtype=object)


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
        configs = list(cls.kind.product(**values))
        for config in configs:
            to_row(config)  # before the first is written, all are known to be right
        return [cls.master.add(config) for config in configs]  # type: ignore[attr-defined]

    @classmethod
    def explain(cls) -> Settings:
        """Return what each setting of this kind is, as a pandas frame."""
        return settings_of(cls.kind)

    def restrict(self, restriction: Any, semantic_check: bool = True) -> Any:
        """Restrict by settings as they are written in Python: ``Factorized3d & {"hidden_channels": (16, 16)}``."""
        return super().restrict(self._as_stored(restriction), semantic_check)

    def _as_stored(self, restriction: Any) -> Any:
        """Return a restriction with sequences in JSON, as they are in the table."""
        if isinstance(restriction, Mapping):
            return {name: self._column_value(name, value) for name, value in restriction.items()}
        if isinstance(restriction, dj.Not):
            return dj.Not(self._as_stored(restriction.restriction))
        if isinstance(restriction, list | tuple):
            parts = [self._as_stored(part) for part in restriction]
            return dj.AndList(parts) if isinstance(restriction, dj.AndList) else parts
        return restriction

    def _column_value(self, name: str, value: Any) -> Any:
        sequence = typing.get_origin(self.kind.field_types().get(name, (None,))[0]) is tuple
        return json.dumps(self.kind.coerced(name, value)) if sequence and value is not None else value

    def insert(self, rows: Iterable[Mapping[str, Any]], **options: Any) -> None:
        """Validate rows of settings and add them all, or none; the hash follows from the settings and may be left out.

        Raises
        ------
        ConfigurationError
            If a setting is unknown or out of range, or a given hash is not that of the settings.
        """
        configs = [self._validated(row) for row in rows]
        with _transaction(self.connection):
            for config in configs:
                type(self).master.add(config)  # type: ignore[attr-defined]

    def _validated(self, row: Mapping[str, Any]) -> Configuration:
        hash_name = type(self).master.hash_name  # type: ignore[attr-defined]
        if not isinstance(row, Mapping):
            raise ConfigurationError(f"{self.kind.kind()}: {row!r} is not a mapping of settings to values")
        config = self.kind.from_dict({name: value for name, value in row.items() if name != hash_name})
        given = row.get(hash_name, config.hash())
        if given != config.hash():
            raise ConfigurationError(f"{self.kind.kind()}: {hash_name} {given!r} is not the hash of these settings")
        return config

    def update1(self, row: Mapping[str, Any]) -> None:
        """Refuse: what was computed with a configuration says so by its hash."""
        raise ConfigurationError(f"{self.kind.kind()}: a configuration never changes; add another one with fill()")

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
    def explain(cls, kind: str = "") -> Settings:
        """Return what each setting is, as a pandas frame: kind, setting, type, default, unit, allowed, meaning.

        Parameters
        ----------
        kind : str
            Name of one kind; all kinds if not given.

        Examples
        --------
        >>> CoreConfig.explain("Stacked2d")  # doctest: +SKIP

        Raises
        ------
        ConfigurationError
            If there is no such kind.
        """
        chosen = [known for known in cls.kinds if kind in ("", known.kind())]
        if not chosen:
            names = ", ".join(known.kind() for known in cls.kinds)
            raise ConfigurationError(f"{cls.__name__} has no kind {kind!r}: it has {names}")
        return settings_of(*chosen)

    @classmethod
    def add(cls, config: Configuration) -> Key:
        """Insert a configuration unless it is there, and return its key."""
        part = cls.part_of(type(config))
        key = {cls.hash_name: config.hash()}
        if not len(part & key):
            row, table = to_row(config), cls()
            with _transaction(table.connection):
                table._insert_validated({**key, cls.hash_name.replace("_hash", "_kind"): config.kind()})
                part()._insert_validated({**key, **row})
        return key

    def insert(self, rows: Iterable[Mapping[str, Any]], **options: Any) -> None:
        """Refuse: a row here without its settings would be a name for nothing."""
        raise ConfigurationError(f"{type(self).__name__}: use add(), or fill() of one of its kinds")

    def _insert_validated(self, row: Key) -> None:
        super().insert([row], skip_duplicates=True)

    @classmethod
    def load(cls, key: Mapping[str, Any]) -> Configuration:
        """Return the configuration that a key names.

        Raises
        ------
        ConfigurationError
            If there is no such configuration, or its kind is unknown to this version.
        """
        key = {cls.hash_name: key[cls.hash_name]}
        names = (cls & key).to_arrays(cls.hash_name.replace("_hash", "_kind"))
        if not len(names):
            raise ConfigurationError(f"{cls.__name__} has no {cls.hash_name} {key[cls.hash_name]!r}")
        if names[0] not in [kind.kind() for kind in cls.kinds]:
            raise ConfigurationError(f"{cls.__name__}: this version does not know the kind {names[0]!r}")
        part: type[ConfigurationPart] = getattr(cls, names[0])
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
