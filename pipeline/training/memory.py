"""Memory between the steps of a training."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of malloc.h


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, for the next step, instead of handing it back to the system.

    A step frees and asks for tensors of tens of megabytes, whose pages the system has to map and to fill with zeros
    each time. The process keeps its peak until it ends. Threads share one heap, for what one frees in a heap of its own
    would not serve the others. Only glibc offers this.

    Returns
    -------
    bool
        Whether it does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # other C libraries, and Windows
        return False
    kept = mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    return bool(kept and mallopt(_ARENA_MAX, 1))
