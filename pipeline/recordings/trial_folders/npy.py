"""``.npy`` files, tens of thousands at a time: a header that was seen before is not parsed again."""

from __future__ import annotations

import functools
import io
import math
from typing import BinaryIO

import numpy as np

_USUAL = 128
"""Bytes in which numpy writes the header of an array with few axes, aligned to 64 (since 1.14)."""

_AT_ONCE = 2**20
"""Bytes read at once: an archive unpacks each piece into memory of its own first."""


def read_npy(stream: BinaryIO) -> np.ndarray:
    """Return the array in an open ``.npy`` file, as ``numpy.load`` does; nothing pickled is ever loaded.

    numpy compiles each header as Python source, which for an image's responses takes three times as long as reading
    them; files of one kind have equal headers. Whatever is not in numpy's usual form is left to numpy.

    Raises
    ------
    ValueError
        If the file is truncated, no ``.npy`` file, or holds Python objects.
    """
    form = _form(stream.read(_USUAL))
    if form is None:
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    shape, in_columns, dtype = form
    values = np.empty(math.prod(shape), dtype)
    _fill(values.view(np.uint8), stream)
    return values.reshape(shape[::-1]).T if in_columns else values.reshape(shape)


@functools.lru_cache(maxsize=1024)
def _form(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype] | None:
    """Return shape, whether columns come first, and dtype; None if the header is not in the usual form."""
    stream = io.BytesIO(header)
    if not header.startswith(np.lib.format.magic(1, 0)) or int.from_bytes(header[8:10], "little") + 10 != _USUAL:
        return None
    np.lib.format.read_magic(stream)
    shape, in_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    return None if dtype.hasobject or not dtype.itemsize else (shape, in_columns, dtype)


def _fill(content: np.ndarray, stream: BinaryIO) -> None:
    """Read the bytes of an array."""
    view, done = content.data, 0
    while done < len(view):
        count = stream.readinto(view[done : done + _AT_ONCE])  # type: ignore[attr-defined]
        if not count:
            raise ValueError(f"it ends {len(view) - done} bytes too early")
        done += count
