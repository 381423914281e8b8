"""A recording enters the database: all its rows, or none."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import datajoint as dj
import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings import Recording, Stimulus, Trial, assign_tiers
from schemas import recording, stimulus

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
    """

    key: dict[str, Any]
    is_new: bool
    n_units: int
    n_trials: int
    n_conditions: int


def ingest(
    source: Recording,
    subject: str,
    session: int,
    scan_idx: int,
    screen_deg: tuple[float, float] | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
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

    Raises
    ------
    RecordingError
        If the name of the animal is not allowed, or another recording has this key already.
    """
    if not _SUBJECT.fullmatch(subject):
        raise RecordingError(f"subject {subject!r}: use up to 64 letters, digits, '-' and '_', for example 'm0123'")
    if session < 0 or scan_idx < 0:
        raise RecordingError(f"session {session} and scan {scan_idx} must be 0 or more")
    key = {"subject": subject, "session": session, "scan_idx": scan_idx}
    done = Ingested(key, True, len(source.units), len(source.trials), len(source.stimuli))
    tiers = assign_tiers(source.trials, validation_fraction, test_fraction)
    if _is_there(key, source):
        return Ingested(key, False, done.n_units, done.n_trials, done.n_conditions)
    try:
        with recording.Scan().connection.transaction:
            _insert_scan(key, source, screen_deg)
            _insert_conditions(source)
            stimulus.Trial.insert(_trial_row(key, source, trial) for trial in source.trials)
            stimulus.ConditionTier.insert({**key, "condition_hash": h, "tier": tier} for h, tier in tiers.items())
    except dj.errors.DuplicateError:
        if _is_there(key, source):  # another process ingested it meanwhile
            return Ingested(key, False, done.n_units, done.n_trials, done.n_conditions)
        raise
    return done


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


def _insert_scan(key: dict[str, Any], source: Recording, screen_deg: tuple[float, float] | None) -> None:
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
            "screen_width_deg": width,
            "screen_height_deg": height,
        }
    )
    recording.Scan.Unit.insert({**key, "unit_id": unit.unit_id, "unit_name": unit.unit_name} for unit in source.units)


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
    pulses = np.clip(source.opto_pulses(trial.trial_idx), trial.start, trial.start + trial.duration).reshape(-1, 2)
    return {
        **key,
        "trial_idx": trial.trial_idx,
        "condition_hash": trial.condition_hash,
        "trial_start": trial.start,
        "trial_duration": trial.duration,
        "trial_opto_seconds": float((pulses[:, 1] - pulses[:, 0]).sum()),
        "stimulus_name": source.stimuli[trial.condition_hash].stimulus_name,
    }
