"""Threads that each work on some chunks of a batch, where operators that share out single steps would wait each time.

Operators let go of Python's lock while they work, so that Python's threads run side by side in them. That pays where
each takes long: waking a thread that has waited for the lock takes about as long as a short one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from threading import Barrier
from typing import TypeVar

import torch

_MOST = 8
"""Workers; between operators only one at a time runs Python."""

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


def workers() -> int:
    """Return how many threads work side by side: as many as PyTorch may use, up to a limit."""
    return min(torch.get_num_threads(), _MOST)


def side_by_side(work: Callable[[Sequence[Chunk]], Result], chunks: Sequence[Chunk], count: int) -> list[Result]:
    """Return what each worker makes of its share of the chunks; which these are is always the same.

    Parameters
    ----------
    work : callable
        Given some chunks. Gradients are not recorded in it, and it must not write where another share does.
    chunks : sequence
    count : int
        Workers: 1, the caller itself, or as many as `workers` says.

    Raises
    ------
    Exception
        What ``work`` raised for the first share that failed.
    """
    if count == 1:
        return [work(chunks)]
    shares = [chunks[first::count] for first in range(min(count, len(chunks)))]
    unrecorded = partial(_without_gradients, work, torch.is_inference_mode_enabled())
    return list(_pool(torch.get_num_threads()).map(unrecorded, shares))


def _without_gradients(work: Callable[[Sequence[Chunk]], Result], inference: bool, share: Sequence[Chunk]) -> Result:
    # Whether gradients are recorded is a thread's own setting.
    with torch.inference_mode() if inference else torch.no_grad():
        return work(share)


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return the workers among which so many threads are shared out."""
    count = min(threads, _MOST)
    all_started = Barrier(count)

    def start() -> None:
        torch.set_num_threads(threads // count)
        all_started.wait()

    pool = ThreadPoolExecutor(count, "side_by_side", start)
    for _ in range(count):
        pool.submit(int)
    pool.submit(int).result()
    torch.set_num_threads(threads)  # what threads started later begin with is what was set last
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads are not taken along
