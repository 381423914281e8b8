"""Reading pandas tables from pickle files without letting the file run code.

A pickle is a small program that names the classes and functions it wants to call. The unpickler here serves only
the names that a table of numbers, strings, lists, arrays and dates needs; a file that asks for any other is refused
before that name is looked up. Names that pandas or numpy have moved since the file was written are translated, so
that tables written by pandas 1, 2 and 3 load alike.
"""

from __future__ import annotations

import builtins
import codecs
import datetime
import importlib
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas._libs.arrays import __pyx_unpickle_NDArrayBacked as _unpickle_backed
from pandas._libs.internals import _unpickle_block
from pandas.core.indexes.base import _new_Index
from pandas.core.internals import BlockManager

from pipeline.errors import RecordingError

_FOREIGN_REMEDY = (
    "a responses table may hold only numbers, strings, lists, arrays and dates: "
    "convert that column in the program that wrote the file and write it again"
)


class ForeignClassError(pickle.UnpicklingError):
    """The pickle asks for a class or function that no table needs."""


class _ArrowStrings:
    """Strings that pandas 3 keeps in Arrow buffers, read without pyarrow (stands in for ArrowStringArray)."""

    def __init__(self) -> None:
        self.strings: list[str | None] = []

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.strings = list(state["_pa_array"])


class _BlockManager:
    """Makes an empty manager where files of pandas 1.2 and older call it without arguments."""

    def __new__(cls, blocks: Any = (), axes: Any = (), verify_integrity: bool = False) -> Any:
        return BlockManager(tuple(blocks), list(axes), verify_integrity)


def _string_dtype(na_value: Any) -> pd.StringDtype:
    try:
        return pd.StringDtype("python", na_value=na_value)
    except TypeError:  # pandas before 2.3 knows one kind of missing string only
        return pd.StringDtype("python")


class _StringDtype:
    """Makes the string dtype with Python storage, whatever storage the writer had."""

    def __new__(cls, storage: str | None = None, na_value: Any = pd.NA) -> Any:
        return _string_dtype(na_value)


class _DatetimeArray:
    """Makes an empty array of dates for files that fill it afterwards."""

    def __new__(cls) -> Any:
        empty = np.array([], dtype="M8[ns]")
        return pd.arrays.DatetimeArray.__new__(pd.arrays.DatetimeArray, empty, empty.dtype)


class _TimedeltaArray:
    """Makes an empty array of durations for files that fill it afterwards."""

    def __new__(cls) -> Any:
        empty = np.array([], dtype="m8[ns]")
        return pd.arrays.TimedeltaArray.__new__(pd.arrays.TimedeltaArray, empty, empty.dtype)


class _Timestamp:
    """Makes a timestamp from (nanoseconds, frequency, time zone), as pandas up to 1.2 wrote it."""

    def __new__(cls, value: Any, freq: Any = None, tz: Any = None) -> Any:
        return pd.Timestamp(value) if tz is None else pd.Timestamp(value, tz=tz)


def _with_strings(values: Any) -> Any:
    """Return a pandas array for Arrow strings, anything else as it is."""
    if isinstance(values, _ArrowStrings):
        return pd.array(values.strings, dtype=_string_dtype(np.nan))
    return values


def _block(values: Any, placement: Any, ndim: int = 2) -> Any:
    return _unpickle_block(_with_strings(values), placement, ndim)


def _backed(kind: type, checksum: int, state: Any) -> Any:
    """Make an array of dates, durations or categories in its real class."""
    if kind is _DatetimeArray:
        kind = pd.arrays.DatetimeArray
    elif kind is _TimedeltaArray:
        kind = pd.arrays.TimedeltaArray
    return _unpickle_backed(kind, checksum, state)


def _index(kind: type, parts: dict[str, Any]) -> Any:
    return _new_Index(kind, {name: _with_strings(part) for name, part in parts.items()})


def _arrow_type(alias: str) -> str:
    if alias not in ("string", "large_string"):
        raise pickle.UnpicklingError(f"an Arrow column of type {alias!r}: only strings are read")
    return alias


def _arrow_strings(parts: tuple) -> list[str | None]:
    """Return the strings of one Arrow array, given as (type, length, nulls, offset, buffers, children, dictionary).

    Layout as in the Arrow columnar format: a bitmap of valid items (least significant bit first), the ends of the
    strings, and their UTF-8 text.
    """
    alias, length, _, first, (bitmap, ends, text) = parts[:5]
    bounds = np.frombuffer(ends or b"", "<i4" if alias == "string" else "<i8")[first : first + length + 1]
    valid = np.ones(length, bool)
    if bitmap is not None:
        valid = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")[first : first + length] == 1
    if length and (len(bounds) != length + 1 or len(valid) != length):
        raise pickle.UnpicklingError("an Arrow string column is shorter than it says")
    content = bytes(text or b"")
    pairs = zip(bounds[:-1].tolist(), bounds[1:].tolist(), valid.tolist(), strict=True) if length else ()
    return [content[begin:end].decode() if there else None for begin, end, there in pairs]


def _arrow_chunks(chunks: Iterable[list], alias: str | None = None) -> list[str | None]:
    return [text for chunk in chunks for text in chunk]


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for ``codecs.encode``, which pickles of protocol 2 use to write bytes as text."""
    if codecs.lookup(encoding).name != "iso8859-1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _nat(*_: Any) -> Any:
    return pd.NaT


def _utc() -> datetime.timezone:
    return datetime.timezone.utc


_REPLACED: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _latin1,
    ("builtins", "bytearray"): bytearray,
    ("builtins", "slice"): slice,
    ("builtins", "complex"): complex,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("datetime", "date"): datetime.date,
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"): _backed,
    ("pandas._libs.internals", "_unpickle_block"): _block,
    ("pandas.core.internals.blocks", "new_block"): _block,
    ("pandas.core.indexes.base", "_new_Index"): _index,
    ("pandas.core.internals.managers", "BlockManager"): _BlockManager,
    ("pandas._libs.tslibs.nattype", "__nat_unpickle"): _nat,
    ("pandas._libs.tslibs.nattype", "_nat_unpickle"): _nat,
    ("pandas._libs.tslibs.timestamps", "Timestamp"): _Timestamp,
    ("pyarrow.lib", "_restore_array"): _arrow_strings,
    ("pyarrow.lib", "chunked_array"): _arrow_chunks,
    ("pyarrow.lib", "py_buffer"): bytes,
    ("pyarrow.lib", "type_for_alias"): _arrow_type,
    ("pytz", "_UTC"): _utc,
}
"""What is served for a name that must not, or need not, be imported as it is written."""

_SAME: dict[str, tuple[str, ...]] = {
    "numpy": ("ndarray", "dtype"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.numeric": ("_frombuffer",),
    "pandas": (
        "BooleanDtype", "Categorical", "CategoricalDtype", "DataFrame", "DatetimeIndex", "DatetimeTZDtype",
        "Float32Dtype", "Float64Dtype", "Index", "Int16Dtype", "Int32Dtype", "Int64Dtype", "Int8Dtype", "MultiIndex",
        "NA", "RangeIndex", "Series", "TimedeltaIndex", "UInt16Dtype", "UInt32Dtype", "UInt64Dtype", "UInt8Dtype",
    ),
    "pandas.arrays": ("BooleanArray", "FloatingArray", "IntegerArray", "StringArray"),
    "pandas._libs.tslibs.timedeltas": ("_timedelta_unpickle", "Timedelta"),
    "pandas._libs.tslibs.timestamps": ("_unpickle_timestamp",),
    "pandas.core.indexes.datetimes": ("_new_DatetimeIndex",),
    "pandas.core.internals.managers": ("SingleBlockManager",),
}  # fmt: skip
"""Names served under the place where today's pandas and numpy keep them."""

_MOVED_MODULES = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
    "pandas._libs.missing": "pandas",
    "pandas.core.arrays.boolean": "pandas",
    "pandas.core.arrays.categorical": "pandas",
    "pandas.core.arrays.floating": "pandas",
    "pandas.core.arrays.integer": "pandas",
    "pandas.core.dtypes.dtypes": "pandas",
    "pandas.core.frame": "pandas",
    "pandas.core.indexes.base": "pandas",
    "pandas.core.indexes.datetimes": "pandas",
    "pandas.core.indexes.multi": "pandas",
    "pandas.core.indexes.numeric": "pandas",
    "pandas.core.indexes.range": "pandas",
    "pandas.core.indexes.timedeltas": "pandas",
    "pandas.core.series": "pandas",
}
_RENAMED = {"Int64Index": "Index", "UInt64Index": "Index", "Float64Index": "Index"}
_SHIMS: dict[str, type] = {
    "ArrowStringArray": _ArrowStrings,
    "ArrowStringArrayNumpySemantics": _ArrowStrings,
    "StringDtype": _StringDtype,
    "DatetimeArray": _DatetimeArray,
    "TimedeltaArray": _TimedeltaArray,
}
_SHIM_MODULES = (
    "pandas", "pandas.arrays", "pandas.core.arrays.string_", "pandas.core.arrays.string_arrow",
    "pandas.core.arrays.datetimes", "pandas.core.arrays.timedeltas",
)  # fmt: skip
_ARRAYS = ("BooleanArray", "FloatingArray", "IntegerArray", "StringArray")


class _TableUnpickler(pickle.Unpickler):
    """An unpickler that serves only what a table needs."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name in the pickle.

        Raises
        ------
        ForeignClassError
            If no table needs it. Nothing has been imported or called for it.
        """
        asked = f"{module}.{name}"
        if module in _SHIM_MODULES and name in _SHIMS:
            return _SHIMS[name]
        for key in ((module, name), (_MOVED_MODULES.get(module, module), name)):
            if key in _REPLACED:
                return _REPLACED[key]
        name = _RENAMED.get(name, name)
        if name in _ARRAYS and module.startswith("pandas."):
            module = "pandas.arrays"
        for place in (module, _MOVED_MODULES.get(module, module)):
            if name in _SAME.get(place, ()):
                return _load(place, name)
        raise ForeignClassError(asked)


def _load(module: str, name: str) -> Any:
    """Return an allowed name; numpy 1 keeps under ``numpy.core`` what numpy 2 has under ``numpy._core``."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return getattr(importlib.import_module(module.replace("numpy._core", "numpy.core")), name)


def read_pickled_frame(path: str | Path) -> pd.DataFrame:
    """Return the table in a pickle file, without running anything that the file brings.

    Parameters
    ----------
    path : str or Path
        A pickle of one DataFrame, written by pandas 1, 2 or 3.

    Raises
    ------
    RecordingError
        If the file is missing, is no pickle, is truncated, asks for a class that no table needs, or holds something
        else than a DataFrame. The message names the file and the class.
    """
    path = Path(path)
    if not path.is_file():
        raise RecordingError(f"{path}: no such file; give the path of the pickled table")
    try:
        with path.open("rb") as file:
            table = _TableUnpickler(file).load()
    except ForeignClassError as error:
        raise RecordingError(f"{path} asks for {error}, which was not loaded: {_FOREIGN_REMEDY}") from None
    except (builtins.EOFError, pickle.UnpicklingError) as error:
        raise RecordingError(f"{path} is no pickle, or it is truncated ({error}): copy or write it again") from error
    except Exception as error:  # a damaged pickle can make any of the allowed classes fail in its own way
        raise RecordingError(
            f"{path} is damaged, or a pandas newer than the {pd.__version__} here wrote it "
            f"({type(error).__name__}: {error}): copy it again, or update pandas"
        ) from error
    if not isinstance(table, pd.DataFrame):
        raise RecordingError(f"{path} holds a {type(table).__name__}, not a pandas DataFrame")
    return table
