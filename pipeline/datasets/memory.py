"""What stays in memory of a dataset that may be larger than memory.

Which trials stay is decided before anything is read, and they stay for ever; the others are read each time. For trials
drawn at random, each once an epoch, this finds as many in memory as is possible. Dropping the least recently used would
find fewer: what was used long ago is exactly what an epoch draws next.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

AT_ONCE = 256
"""Rows of a `Block` that are read at once."""

SLAB_BYTES = 64 * 2**20
"""Memory that a `Shelf` asks for at once; the system provides what of it is written to."""

ALIGNMENT = 64

_NOTHING = np.empty(0, np.uint8)

Arrays = tuple[np.ndarray, ...]


class Shelf:
    """Arrays by name; those that are to be kept stay once they were read, whatever their shapes.

    Attributes
    ----------
    kept : set
        Names of what stays.
    """

    def __init__(self) -> None:
        self.kept: set[Hashable] = set()
        self._held: dict[Hashable, Arrays] = {}
        self._slab = _NOTHING

    def get(self, name: Hashable, read: Callable[[], Arrays]) -> Arrays:
        """Return what has a name, read by ``read`` unless it is here."""
        found = self._held.get(name)
        if found is None:
            found = read()
            if name in self.kept:
                found = self._held[name] = tuple(map(self._settled, found))
        return found

    def _settled(self, array: np.ndarray) -> np.ndarray:
        """Return a copy that lies among the others, not between arrays that come and go and would leave holes."""
        if self._slab.nbytes < array.nbytes:
            self._slab = np.empty(max(SLAB_BYTES, array.nbytes), np.uint8)
        copied = self._slab[: array.nbytes].view(array.dtype).reshape(array.shape)
        self._slab = self._slab[-(-array.nbytes // ALIGNMENT) * ALIGNMENT :]
        copied[...] = array
        return copied

    def __getstate__(self) -> dict[str, object]:
        return {"kept": self.kept, "_held": {}, "_slab": _NOTHING}


class Block:
    """Rows of equal shape; those that are to be kept lie in one array, read together when one of them is asked for.

    Parameters
    ----------
    count : int
        Number of rows.
    """

    def __init__(self, count: int) -> None:
        self._group = np.full(count, -1)
        self._place = np.full(count, -1)
        self._held: dict[int, np.ndarray] = {}

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, as a group that is read together, unless they are kept already."""
        new = np.array(sorted({row for row in rows if self._group[row] < 0}), int)
        self._group[new] = self._group.max(initial=-1) + 1
        self._place[new] = np.arange(len(new))

    def take(self, rows: np.ndarray, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return rows in this order, (row, ...), calling ``read(rows)`` for those that are not here."""
        groups = self._group[rows]
        present = sorted(set(groups.tolist()))
        if len(present) == 1:
            return self._of(present[0], rows, read)
        for group in present:
            part = groups == group
            values = self._of(group, rows[part], read)
            if group == present[0]:
                found = np.empty((len(rows), *values.shape[1:]), values.dtype)
            found[part] = values
        return found

    def _of(self, group: int, rows: np.ndarray, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return read(rows) if group < 0 else self._of_group(group, read).take(self._place[rows], axis=0)

    def _of_group(self, group: int, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        if group not in self._held:
            rows = np.flatnonzero(self._group == group)
            for first in range(0, len(rows), AT_ONCE):
                values = read(rows[first : first + AT_ONCE])
                if not first:
                    held = np.empty((len(rows), *values.shape[1:]), values.dtype)
                held[first : first + AT_ONCE] = values
            self._held[group] = held
        return self._held[group]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_held": {}}
