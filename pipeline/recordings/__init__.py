"""Readers: a source on disk becomes a `Recording` of trials, units, stimuli and behaviour."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType

from pipeline.errors import RecordingError
from pipeline.recordings.arrays import ArrayRecording
from pipeline.recordings.base import (
    BEHAVIOR,
    PUPIL,
    TIERS,
    Recording,
    Responses,
    Source,
    SpikeTimes,
    Stimulus,
    Trace,
    Traces,
    Trial,
    TrialValues,
    Unit,
    hash_pixels,
)
from pipeline.recordings.experanto import ExperantoRecording
from pipeline.recordings.images import ImagesRecording
from pipeline.recordings.nwb import NWBRecording
from pipeline.recordings.openretina import OpenRetinaRecording
from pipeline.recordings.thesis import ThesisRecording
from pipeline.recordings.tiers import LEAK_RULES, Assignment, assign_tiers
from pipeline.recordings.trial_folders import FileTreeRecording, Sensorium2022Recording, Sensorium2023Recording

__all__ = [
    "BEHAVIOR", "FORMATS", "LEAK_RULES", "PUPIL", "TIERS", "Assignment", "Recording", "Responses", "Source",
    "SpikeTimes", "Stimulus", "Trace", "Traces", "Trial", "TrialValues", "Unit", "assign_tiers", "hash_pixels",
    "open_recording",
]  # fmt: skip

FORMATS: Mapping[str, type[Recording]] = MappingProxyType(
    {
        "thesis": ThesisRecording,
        "filetree": FileTreeRecording,
        "sensorium2022": Sensorium2022Recording,
        "sensorium2023": Sensorium2023Recording,
        "openretina": OpenRetinaRecording,
        "experanto": ExperantoRecording,
        "nwb": NWBRecording,
        "images": ImagesRecording,
        "arrays": ArrayRecording,
    }
)
"""Readers by the name of their format. The command line has a command for each."""


def open_recording(source_format: str, **location: str) -> Recording:
    """Open a recording of any known format, with everything about it checked.

    Parameters
    ----------
    source_format : str
        A name in `FORMATS`.
    **location : str
        Arguments of that reader: paths and selections, as in `Source.location`.

    Raises
    ------
    RecordingError
        If the format is unknown, an argument is missing or unknown, or the source is damaged.
    """
    if source_format not in FORMATS:
        raise RecordingError(f"unknown format {source_format!r}: known are {', '.join(sorted(FORMATS))}")
    reader = FORMATS[source_format]
    known = inspect.signature(reader).parameters
    unknown = [name for name in location if name not in known]
    missing = [n for n, p in known.items() if p.default is inspect.Parameter.empty and n not in location]
    if unknown or missing:
        wrong = "; ".join(
            f"{what} {', '.join(names)}" for what, names in (("unknown", unknown), ("missing", missing)) if names
        )
        raise RecordingError(f"arguments of the format {source_format!r}: {wrong} (it takes {', '.join(known)})")
    return reader(**location)
