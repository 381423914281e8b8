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

    def get(self, name: Hashable, read: Callable[[], Arrays]) -> Arrays:
        """Return what has a name, read by ``read`` unless it is here."""
        found = self._held.get(name)
        if found is None:
            found = read()
            if name in self.kept:
                found = self._held[name] = tuple(np.array(array) for array in found)  # not views of what was read
        return found

    def __getstate__(self) -> dict[str, object]:
        return {"kept": self.kept, "_held": {}}


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
        parts = {group: np.flatnonzero(groups == group) for group in set(groups.tolist())}
        found = {
            group: read(rows[part]) if group < 0 else self._of_group(group, read).take(self._place[rows[part]], axis=0)
            for group, part in parts.items()
        }
        if len(found) == 1:
            return next(iter(found.values()))
        order = np.argsort(np.concatenate(list(parts.values())))
        return np.concatenate(list(found.values()))[order]

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
