"""Running populate() to its end: beside other processes, after killed ones, one table after the other."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import datajoint as dj
import psutil

from pipeline.errors import GeniculateError
from schemas import analysis, dataset, mei, mei_analysis, mei_exchange, model, receptive_field, selection, tuning

COMPUTED: tuple[type[dj.Table], ...] = (
    dataset.Dataset,
    dataset.Oracle,
    model.Model,
    selection.OracleRankedUnit,
    selection.HighUnitSelection,
    analysis.ReadoutAnalysis,
    analysis.Prediction,
    receptive_field.GradientReceptiveField,
    receptive_field.SpikeTriggeredAverage,
    tuning.UnitTuning,
    mei.MEI,
    mei_analysis.TightMEIMask,
    mei_analysis.GaussianMaskFit,
    mei_analysis.MEIContrast,
    mei_analysis.BestNaturalStimulus,
    mei_analysis.OptimalGabor,
    mei_analysis.DiverseMEI,
    mei_exchange.TransplantedMEI,
    mei_exchange.MEIConfusion,
)
"""The tables that populate() fills, each after those that it depends on."""

_INTERRUPTIONS = ("SystemExit", "KeyboardInterrupt")
_CLOCK_SLACK = 2.0
_LOST_RACE = 0.1
"""Pause after another process took the key that was next (s)."""


class WorkError(GeniculateError):
    """A key could not be computed."""


@dataclass(frozen=True)
class Progress:
    """How far one table is.

    Attributes
    ----------
    table : str
    computed, pending, reserved, errors : int
        Rows there, and keys that wait, are being computed or failed.
    """

    table: str
    computed: int
    pending: int
    reserved: int
    errors: int


def populate_all(
    table: type[dj.Table],
    *restrictions: Any,
    on_wait: Callable[[str], None] = lambda _: None,
    poll_seconds: float = 1.0,
) -> int:
    """Populate a table until every key that the restrictions select is there; return how many this process made.

    Keys that another live process computes are waited for; keys of processes that died on this machine are taken
    over; keys that are marked to be ignored are left out.

    Parameters
    ----------
    table : computed table
    *restrictions
        As for ``populate``.
    on_wait : callable, optional
        Called with a sentence when other processes are waited for.
    poll_seconds : float
        How often to look for what others have finished (s).

    Raises
    ------
    WorkError
        If a key failed, here or elsewhere, once nothing else is left to do; the message names the key, the error and
        the remedy.
    KeyboardInterrupt, SystemExit
        If this process is told to stop; the key that it was computing returns to the queue.
    """
    made, told = 0, False
    while True:
        release_interrupted(table)
        outcome = table.populate(
            *restrictions, reserve_jobs=True, max_calls=1, suppress_errors=True, return_exception_objects=True
        )
        made += outcome["success_count"]
        _stop_if_told(table, outcome["error_list"])
        if outcome["success_count"] or outcome["error_list"]:
            continue
        queue = _queue(table, restrictions)
        remaining, _ = table.progress(*restrictions)
        if remaining <= len(queue["ignore"]):
            return made
        if not queue["pending"]:
            _raise_failed(table, queue["error"])
        if queue["reserved"] and not told:
            told = True
            others = {f"{job['host']} (process {job['pid']})" for job in queue["reserved"]}
            on_wait(f"waiting for {', '.join(sorted(others))}, which computes {table.__name__}{_remedy(table, queue)}")
        time.sleep(min(poll_seconds, _LOST_RACE) if queue["pending"] else poll_seconds)


def _remedy(table: type[dj.Table], queue: dict[str, list[dict[str, Any]]]) -> str:
    """Say how to free the keys of other machines, whose processes cannot be seen from here."""
    elsewhere = sorted({job["host"] for job in queue["reserved"]} - {platform.node()})
    if not elsewhere:
        return ""
    freed = f"({table.__name__}.jobs.reserved & {{'host': {elsewhere[0]!r}}}).delete_quick()"
    return f"; if it is gone for good, free its keys in Python: {freed}"


def _stop_if_told(table: type[dj.Table], errors: list[tuple[Any, BaseException]]) -> None:
    """Pass on Ctrl-C, which ``suppress_errors`` keeps back as if it were a failure."""
    for _, error in errors:
        if isinstance(error, KeyboardInterrupt):
            release_interrupted(table)
            raise error


def _queue(table: type[dj.Table], restrictions: tuple[Any, ...]) -> dict[str, list[dict[str, Any]]]:
    """Return the jobs that the restrictions select, by status; interrupted ones wait as much as pending ones."""
    wanted = (table().key_source & dj.AndList(restrictions)).proj()
    queue: dict[str, list[dict[str, Any]]] = {"pending": [], "reserved": [], "error": [], "ignore": [], "success": []}
    for job in table.jobs.restrict(wanted, semantic_check=False).to_dicts():
        interrupted = job["status"] == "error" and job["error_message"].startswith(_INTERRUPTIONS)
        queue["pending" if interrupted else job["status"]].append(job)
    return queue


def _raise_failed(table: type[dj.Table], failed: list[dict[str, Any]]) -> None:
    if failed:
        job = failed[0]
        key = {name: job[name] for name in table.jobs.primary_key}
        raise WorkError(
            f"{table.__name__}: {len(failed)} key(s) failed, the first is {key}: {job['error_message']}. "
            "Mend the cause, then run 'geniculate retry' and this command again."
        )


def release_interrupted(table: type[dj.Table]) -> int:
    """Return keys to the queue whose process is gone from this machine, or was told to stop; return how many.

    Raises nothing and touches no other machine's keys: whether their processes live cannot be seen from here.
    """
    jobs = table.jobs
    now = jobs.connection.query("SELECT LOCALTIMESTAMP(3)").fetchone()[0]
    here = (jobs.reserved & {"host": platform.node()}).to_dicts()
    gone = [job for job in here if not _lives(job["pid"], (now - job["reserved_time"]).total_seconds())]
    gone += [job for job in jobs.errors.to_dicts() if job["error_message"].startswith(_INTERRUPTIONS)]
    for job in gone:
        key = {name: job[name] for name in jobs.primary_key}
        (jobs & key & {"status": job["status"], "pid": job["pid"]}).delete_quick()
    return len(gone)


def _lives(pid: int, reserved_for: float) -> bool:
    """Tell whether the process that reserved a key so many seconds ago runs: its number may have been reused since."""
    try:
        process = psutil.Process(pid)
        age = time.time() - process.create_time()
        return process.status() != psutil.STATUS_ZOMBIE and age >= reserved_for - _CLOCK_SLACK
    except psutil.NoSuchProcess:
        return False


def status() -> Iterator[Progress]:
    """Yield the progress of every computed table."""
    for table in COMPUTED:
        remaining, total = table.progress()
        reserved, errors, ignored = (len(jobs) for jobs in (table.jobs.reserved, table.jobs.errors, table.jobs.ignored))
        pending = max(remaining - reserved - errors - ignored, 0)
        yield Progress(table.__name__, total - remaining, pending, reserved, errors)


def retry() -> int:
    """Return all failed keys to the queue and return how many there were."""
    count = 0
    for table in COMPUTED:
        count += table.jobs.errors.delete_quick(get_count=True)
    return count
