"""Typed configurations: one frozen dataclass for each kind of core, readout, trainer and so on.

A kind lists its settings once, with type, meaning, unit and range. Everything else follows from that list:
validation, the SHA-256 that names a configuration, the columns of its table and its documentation.

Examples
--------
>>> @dataclass(frozen=True)
... class Blur(Configuration):
...     sigma: float = setting(1.0, "std of the Gaussian", unit="px", gt=0)
>>> Blur(sigma=2)
Blur(sigma=2.0)
>>> Blur(sigma=-1)
Traceback (most recent call last):
...
pipeline.errors.ConfigurationError: Blur.sigma: -1.0 is not allowed, it must be > 0 (std of the Gaussian, px)
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import itertools
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import Self

from pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class Setting:
    """What is known about one field of a kind beside its type."""

    doc: str
    unit: str = ""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: tuple[Any, ...] = ()
    length: int = 255

    def complaint(self, value: Any) -> str:
        """Return why ``value`` is not allowed, or an empty string."""
        if self.choices and value not in self.choices:
            return "it must be one of " + ", ".join(map(repr, self.choices))
        items = value if isinstance(value, tuple) else (value,)
        bounds = (
            (self.ge, ">=", lambda v, b: v >= b),
            (self.gt, ">", lambda v, b: v > b),
            (self.le, "<=", lambda v, b: v <= b),
            (self.lt, "<", lambda v, b: v < b),
        )
        for bound, sign, holds in bounds:
            if bound is not None and any(v is not None and not holds(v, bound) for v in items):
                return f"it must be {sign} {bound:g}"
        return ""

    def allowed(self) -> str:
        """Return the choices or the range in words, such as ``> 0, <= 1``; empty if everything is allowed."""
        if self.choices:
            return ", ".join(map(repr, self.choices))
        bounds = (("> ", self.gt), (">= ", self.ge), ("< ", self.lt), ("<= ", self.le))
        return ", ".join(f"{sign}{bound:g}" for sign, bound in bounds if bound is not None)


def setting(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: tuple[Any, ...] = (),
    length: int = 255,
) -> Any:
    """Declare one field of a `Configuration`: its meaning, unit, allowed values, and characters that a table holds."""
    return dataclasses.field(default=default, metadata={"setting": Setting(doc, unit, ge, gt, le, lt, choices, length)})


@dataclass(frozen=True)
class Configuration:
    """Base class of all kinds. Subclasses are frozen dataclasses whose fields are made by `setting`.

    Allowed field types: ``bool``, ``int``, ``float``, ``str``, a tuple of any number of ints or floats,
    and each of the scalars ``| None``.

    Raises
    ------
    ConfigurationError
        At construction, if a value has the wrong type or is out of range; the message names the field.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = self.coerced(field.name, getattr(self, field.name))
            complaint = field.metadata["setting"].complaint(value) if value is not None else ""
            if complaint:
                raise ConfigurationError(
                    f"{self.kind()}.{field.name}: {value!r} is not allowed, {complaint} ({self._meaning(field.name)})"
                )
            object.__setattr__(self, field.name, value)

    @classmethod
    def kind(cls) -> str:
        """Name of the kind, which is also the name of its part table."""
        return cls.__name__

    @classmethod
    @functools.cache  # annotations are text, which takes long to evaluate
    def field_types(cls) -> Mapping[str, tuple[Any, bool]]:
        """Map each field to its type without ``None`` and whether ``None`` is allowed."""
        hints = typing.get_type_hints(cls)
        found = {}
        for field in dataclasses.fields(cls):
            hint = hints[field.name]
            options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            found[field.name] = (next(o for o in options if o is not types.NoneType), types.NoneType in options)
        return types.MappingProxyType(found)

    @classmethod
    def _meaning(cls, name: str) -> str:
        known = cls.__dataclass_fields__[name].metadata["setting"]
        return f"{known.doc}, {known.unit}" if known.unit else known.doc

    @classmethod
    def coerced(cls, name: str, value: Any) -> Any:
        """Return a value in the type of its setting; sequences may be JSON.

        Raises
        ------
        ConfigurationError
            If it has no such value; the range is not looked at.
        """
        wanted, optional = cls.field_types()[name]
        if value is None and optional:
            return None
        if isinstance(value, np.generic):
            value = value.item()
        if typing.get_origin(wanted) is tuple:
            item = typing.get_args(wanted)[0]
            if isinstance(value, str):  # a column holds sequences as JSON
                value = cls._from_json(name, value)
            if isinstance(value, list | tuple | np.ndarray):
                return tuple(cls._scalar(name, item, v) for v in value)
        else:
            return cls._scalar(name, wanted, value)
        raise ConfigurationError(f"{cls.kind()}.{name}: {value!r} is not a sequence ({cls._meaning(name)})")

    @classmethod
    def _from_json(cls, name: str, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigurationError(
                f"{cls.kind()}.{name}: {text!r} is not a sequence in JSON ({cls._meaning(name)})"
            ) from error

    @classmethod
    def _scalar(cls, name: str, wanted: type, value: Any) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        integral = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if wanted is bool and (isinstance(value, bool) or value in (0, 1)):
            return bool(value)
        if wanted is int and integral and not isinstance(value, bool):
            return int(value)
        if wanted is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value) + 0.0  # -0.0 equals 0.0, so it must have the same hash
        if wanted is str and isinstance(value, str):
            return value
        raise ConfigurationError(f"{cls.kind()}.{name}: {value!r} is not {wanted.__name__} ({cls._meaning(name)})")

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Make a configuration from a mapping of field names to values; absent fields take their defaults.

        Raises
        ------
        ConfigurationError
            If a name is not a field of this kind; the message suggests the nearest one.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'no settings'}"
                raise ConfigurationError(f"{cls.kind()} has no setting {name!r}: {hint}")
        return cls(**settings)

    @classmethod
    def product(cls, **values: Any) -> Iterator[Self]:
        """Yield every combination of the values; a list means alternatives, anything else one value.

        >>> @dataclass(frozen=True)
        ... class Patch(Configuration):
        ...     size: int = setting(9, "side", unit="px", ge=1)
        ...     shape: str = setting("disc", "outline", choices=("disc", "square"))
        >>> [(patch.size, patch.shape) for patch in Patch.product(size=[5, 7], shape="square")]
        [(5, 'square'), (7, 'square')]
        """
        choices = [value if isinstance(value, list) else [value] for value in values.values()]
        for combination in itertools.product(*choices):
            yield cls.from_dict(dict(zip(values, combination, strict=True)))

    @classmethod
    def description(cls) -> list[dict[str, Any]]:
        """Return what is known of each setting: setting, type, default, unit, allowed, meaning.

        >>> @dataclass(frozen=True)
        ... class Blur(Configuration):
        ...     sigma: float | None = setting(1.0, "std of the Gaussian", unit="px", gt=0)
        >>> Blur.description()[0]["type"], Blur.description()[0]["allowed"]
        ('float or None', '> 0')
        """
        rows = []
        for field in dataclasses.fields(cls):
            known = field.metadata["setting"]
            wanted, optional = cls.field_types()[field.name]
            name = f"{typing.get_args(wanted)[0].__name__}s" if typing.get_origin(wanted) is tuple else wanted.__name__
            rows.append(
                {
                    "setting": field.name,
                    "type": f"{name} or None" if optional else name,
                    "default": field.default,
                    "unit": known.unit,
                    "allowed": known.allowed(),
                    "meaning": known.doc,
                }
            )
        return rows

    def settings(self) -> dict[str, Any]:
        """Return the fields as a dictionary, in the order of declaration."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def canonical_json(self) -> str:
        """Return the one JSON text of this configuration: kind and settings, sorted, without spaces."""
        content = {"kind": self.kind(), "settings": self.settings()}
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def hash(self) -> str:
        """Return the SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()
