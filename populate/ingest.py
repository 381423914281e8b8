"""A recording enters the database: all its rows, or none."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import datajoint as dj
import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings import Assignment, Recording, Stimulus, Trial, Unit, assign_tiers
from pipeline.recordings.base import TIERS
from pipeline.recordings.tiers import LEAK_RULES
from schemas import (
    dataset,  # noqa: F401 - ExcludedTrial asks its tables, and none can be declared within a transaction
    recording,
    stimulus,
)

IN_ONE_QUERY = 500
"""Conditions that one query asks for."""

_SUBJECT = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Ingested:
    """What an ingest did.

    Attributes
    ----------
    key : dict
        Of the scan: subject, session, scan_idx.
    is_new : bool
        False if the same recording was there already and nothing was written.
    n_units, n_trials, n_conditions : int
        In the recording.
    n_excluded, n_withheld : int
        Trials that no dataset may use, and trials whose responses the source keeps to itself.
    n_leaks : int
        Conditions that the source shows in several tiers.
    """

    key: dict[str, Any]
    is_new: bool
    n_units: int
    n_trials: int
    n_conditions: int
    n_excluded: int
    n_withheld: int
    n_leaks: int


def ingest(
    source: Recording,
    subject: str,
    session: int,
    scan_idx: int,
    screen_deg: tuple[float, float] | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    leaks: str = "refuse",
) -> Ingested:
    """Insert a recording in one transaction. The same recording again is a no-op.

    Parameters
    ----------
    source : Recording
        Open recording, from `pipeline.recordings.open_recording`.
    subject : str
        Name of the animal: letters, digits, '-' and '_'.
    session, scan_idx : int
        Numbers of the session and of the scan within it.
    screen_deg : tuple of float, optional
        Width and height of the stimulus (deg).
    validation_fraction, test_fraction : float
        Of the conditions, where the source does not give these tiers.
    leaks : str
        What becomes of conditions that the source shows in several tiers, one of
        `pipeline.recordings.tiers.LEAK_RULES`.

    Raises
    ------
    RecordingError
        If the name of the animal is not allowed, another recording has this key already, or conditions are in several
        tiers and the rule is to refuse them.
    """
    if not _SUBJECT.fullmatch(subject):
        raise RecordingError(f"subject {subject!r}: use up to 64 letters, digits, '-' and '_', for example 'm0123'")
    if session < 0 or scan_idx < 0:
        raise RecordingError(f"session {session} and scan {scan_idx} must be 0 or more")
    if leaks not in LEAK_RULES:
        raise RecordingError(f"leaks {leaks!r} must be one of {', '.join(LEAK_RULES)}")
    key = {"subject": subject, "session": session, "scan_idx": scan_idx}
    known = _tiers_elsewhere(key, {trial.condition_hash for trial in source.trials if trial.tier is None})
    assigned = assign_tiers(source.trials, validation_fraction, test_fraction, leaks, known)
    excluded = _excluded(source, assigned)
    done = Ingested(
        key,
        is_new=not _is_there(key, source),
        n_units=len(source.units),
        n_trials=len(source.trials),
        n_conditions=len(source.stimuli),
        n_excluded=len(excluded),
        n_withheld=sum(trial.withheld for trial in source.trials),
        n_leaks=len(assigned.leaks),
    )
    if not done.is_new:
        return done
    try:
        with recording.Scan().connection.transaction:
            _insert_scan(key, source, screen_deg, done.n_leaks, leaks)
            _insert_conditions(source)
            stimulus.Trial.insert(_trial_row(key, source, trial) for trial in source.trials)
            stimulus.ConditionTier.insert(
                {**key, "condition_hash": condition, "tier": tier} for condition, tier in assigned.tiers.items()
            )
            stimulus.ExcludedTrial().insert(
                {**key, "trial_idx": trial_idx, "exclusion_comment": why[:255]} for trial_idx, why in excluded.items()
            )
    except dj.errors.DuplicateError:
        if _is_there(key, source):  # another process ingested it meanwhile
            return dataclasses.replace(done, is_new=False)
        raise
    return done


def _excluded(source: Recording, assigned: Assignment) -> dict[int, str]:
    """Return why each trial is excluded that no dataset may use."""
    leaking = {
        trial.trial_idx: f"its stimulus is in several tiers: {', '.join(assigned.leaks[trial.condition_hash])}"
        for trial in source.trials
        if trial.condition_hash in assigned.excluded
    }
    return leaking | {trial.trial_idx: trial.exclusion for trial in source.trials if trial.exclusion}


def _tiers_elsewhere(key: dict[str, Any], conditions: set[str]) -> dict[str, str]:
    """Return the tiers that conditions have in other scans; of several, the one furthest from training."""
    found: dict[str, str] = {}
    wanted = sorted(conditions)
    for first in range(0, len(wanted), IN_ONE_QUERY):
        names = ", ".join(f"'{name}'" for name in wanted[first : first + IN_ONE_QUERY])
        # By a query: DataJoint negates only the first item of a mapping that is subtracted.
        there = (stimulus.ConditionTier - (recording.Scan & key).proj()) & f"condition_hash IN ({names})"
        for condition, tier in zip(*there.to_arrays("condition_hash", "tier"), strict=True):
            found[condition] = max(tier, found.get(condition, tier), key=TIERS.index)
    return found


def _is_there(key: dict[str, Any], source: Recording) -> bool:
    known = (recording.Scan & key).to_dicts()
    if not known:
        return False
    if known[0]["source_fingerprint"] != source.source.fingerprint:
        raise RecordingError(
            f"subject {key['subject']}, session {key['session']}, scan {key['scan_idx']} already holds another "
            f"recording ({known[0]['source_location']}): choose another scan number, or delete that scan first"
        )
    return True


def _insert_scan(
    key: dict[str, Any], source: Recording, screen_deg: tuple[float, float] | None, n_leaks: int, leaks: str
) -> None:
    recording.Subject.insert1(key, skip_duplicates=True, ignore_extra_fields=True)
    recording.Session.insert1(key, skip_duplicates=True, ignore_extra_fields=True)
    width, height = screen_deg or (None, None)
    recording.Scan.insert1(
        {
            **key,
            "source_format": source.source.source_format,
            "source_location": json.dumps(dict(source.source.location), sort_keys=True),
            "source_fingerprint": source.source.fingerprint,
            "scan_units": len(source.units),
            "scan_trials": len(source.trials),
            "response_unit": source.response_unit,
            "stimulus_kind": _stimulus_kind(source),
            "scan_leaks": n_leaks,
            "scan_leak_rule": leaks,
            "screen_width_deg": width,
            "screen_height_deg": height,
        }
    )
    recording.Scan.Unit.insert({**key, "unit_id": unit.unit_id, "unit_name": unit.unit_name} for unit in source.units)
    annotate(key, source.units)


def annotate(key: dict[str, Any], units: Iterable[Unit]) -> int:
    """Insert what is known of the units' areas, layers, positions and matches; the same again is a no-op.

    Parameters
    ----------
    key : dict
        Of the scan.
    units : iterable of Unit

    Returns
    -------
    int
        Number of rows that were new.

    Raises
    ------
    RecordingError
        If another area, layer, position or match is known already, naming the unit; nothing is inserted then.
    """
    units = tuple(units)
    wanted: list[tuple[type[dj.Manual], dict[int, dict[str, Any]]]] = [
        (recording.AreaMembership, {u.unit_id: {"brain_area": u.area} for u in units if u.area}),
        (recording.LayerMembership, {u.unit_id: {"layer": u.layer} for u in units if u.layer}),
        (
            recording.UnitPosition,
            {
                u.unit_id: dict(zip(("unit_x", "unit_y", "unit_z"), map(float, u.position), strict=True))
                for u in units
                if u.position
            },
        ),
        (recording.UnitMatch, {u.unit_id: {"match_id": u.match_id} for u in units if u.match_id is not None}),
    ]
    new: list[tuple[type[dj.Manual], list[dict[str, Any]]]] = []
    for table, said in wanted:
        there = {row["unit_id"]: row for row in (table & key).to_dicts()}
        for unit_id, values in said.items():
            known = {name: there[unit_id][name] for name in values} if unit_id in there else values
            if known != values:
                raise RecordingError(
                    f"unit {unit_id} of scan {key} has {known} already, not {values}: delete that first"
                )
        new.append((table, [{**key, "unit_id": i, **values} for i, values in said.items() if i not in there]))
    connection = recording.Scan().connection
    with contextlib.nullcontext() if connection.in_transaction else connection.transaction:
        for table, rows in new:
            table.insert(rows)
    return sum(len(rows) for _, rows in new)


def _stimulus_kind(source: Recording) -> str:
    kinds = {_kind(shown) for shown in source.stimuli.values()}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _insert_conditions(source: Recording) -> None:
    # Conditions are shared between scans: those that another scan has shown are there already. In one order for all:
    # two scans that are ingested at once would otherwise wait for each other's rows.
    shown = sorted(source.stimuli.values(), key=lambda s: s.condition_hash)
    stimulus.Condition.insert(
        [{"condition_hash": s.condition_hash, "condition_kind": _kind(s)} for s in shown], skip_duplicates=True
    )
    videos = [_video_row(s) for s in shown if _kind(s) == "video"]
    images = [_image_row(s) for s in shown if _kind(s) == "image"]
    for part, rows in ((stimulus.Condition.Video, videos), (stimulus.Condition.Image, images)):
        if rows:
            part.insert(rows, skip_duplicates=True)


def _kind(shown: Stimulus) -> str:
    return "image" if shown.frame_rate is None else "video"


def _video_row(shown: Stimulus) -> dict[str, Any]:
    channels, frames, height, width = shown.shape
    return {
        "condition_hash": shown.condition_hash,
        "video_frames": frames,
        "video_rate": shown.frame_rate,
        "video_height": height,
        "video_width": width,
        "video_channels": channels,
    }


def _image_row(shown: Stimulus) -> dict[str, Any]:
    channels, _, height, width = shown.shape
    return {
        "condition_hash": shown.condition_hash,
        "image_height": height,
        "image_width": width,
        "image_channels": channels,
    }


def _trial_row(key: dict[str, Any], source: Recording, trial: Trial) -> dict[str, Any]:
    trains = [
        np.clip(train, trial.start, trial.start + trial.duration) for train in source.opto_pulses(trial.trial_idx)
    ]
    shown = source.stimuli[trial.condition_hash]
    return {
        **key,
        "trial_idx": trial.trial_idx,
        "condition_hash": trial.condition_hash,
        "trial_start": trial.start,
        "trial_duration": trial.duration,
        "trial_opto_seconds": float(sum((train[:, 1] - train[:, 0]).sum() for train in trains)),
        "trial_withheld": trial.withheld,
        "stimulus_name": shown.stimulus_name[:255],
        "stimulus_type": shown.stimulus_type[:64],
    }
