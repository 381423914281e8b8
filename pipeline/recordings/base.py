"""What every recording is, whatever format it came in: units, stimuli, trials and the signals of each trial."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

TIERS = ("train", "validation", "test")


@dataclass(frozen=True)
class Unit:
    """One recorded neuron.

    Attributes
    ----------
    unit_id : int
        Number of the unit, unique within its recording.
    unit_name : str
        The name that the laboratory uses, for example ``m0123_s02_e04_u07``.
    """

    unit_id: int
    unit_name: str


@dataclass(frozen=True)
class Stimulus:
    """One distinct stimulus. Pixels are read with `Recording.frames`.

    Attributes
    ----------
    condition_hash : str
        From `hash_pixels`.
    frame_rate : float or None
        Frames a second (Hz); None for a still image.
    shape : tuple
        (channel, time, height, width) of the pixels in the source; time is 1 for an image.
    stimulus_name : str
        Name in the source, for people: a file's name or an image's number.
    """

    condition_hash: str
    frame_rate: float | None
    shape: tuple[int, int, int, int]
    stimulus_name: str


@dataclass(frozen=True)
class Trial:
    """One presentation of one stimulus.

    Attributes
    ----------
    trial_idx : int
        Number of the trial in order of time, from 0.
    condition_hash : str
        The stimulus that was shown.
    start, duration : float
        On the recording's clock (s).
    tier : str or None
        'train', 'validation' or 'test' where the source says so.
    """

    trial_idx: int
    condition_hash: str
    start: float
    duration: float
    tier: str | None


@dataclass(frozen=True)
class SpikeTimes:
    """Spikes of one trial: one sorted array of times on the recording's clock (s) for each unit."""

    times: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Trace:
    """A sampled signal: ``values`` (sample,) at ``times`` (sample,) on the recording's clock (s)."""

    times: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Source:
    """Where a recording came from: enough to open it again and to notice that it changed.

    Attributes
    ----------
    source_format : str
        Name in `pipeline.recordings.FORMATS`.
    location : dict
        Keyword arguments for the reader: absolute paths and selections, all strings.
    fingerprint : str
        SHA-256 over what was read (responses, stimuli, behaviour), 64 hexadecimal digits.
    """

    source_format: str
    location: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""


@runtime_checkable
class Recording(Protocol):
    """The protocol that every reader gives. Everything is checked when it is opened; pixels and traces are lazy.

    Attributes
    ----------
    source : Source
    units : tuple of Unit
        In the order in which responses list them.
    stimuli : mapping of condition_hash to Stimulus
    trials : tuple of Trial
        In order of time.
    """

    source: Source
    units: tuple[Unit, ...]
    stimuli: Mapping[str, Stimulus]
    trials: tuple[Trial, ...]

    def frames(self, condition_hash: str) -> np.ndarray:
        """Return the pixels of one stimulus, (channel, time, height, width), in the source's dtype."""

    def responses(self, trial_idx: int) -> SpikeTimes:
        """Return the spikes of all units in one trial."""

    def signals(self, trial_idx: int) -> dict[str, Trace]:
        """Return the behaviour of one trial: any of 'run' (cm/s), 'pupil_size', 'pupil_x', 'pupil_y'."""

    def opto_pulses(self, trial_idx: int) -> np.ndarray:
        """Return the light pulses that touch one trial, (pulse, 2): start and end on the recording's clock (s)."""


def hash_pixels(frames: np.ndarray, frame_rate: float | None) -> str:
    """Return the SHA-256 that names a stimulus: its shape, dtype, frame rate and every pixel.

    Parameters
    ----------
    frames : ndarray
        (channel, time, height, width).
    frame_rate : float or None
        Hz; None for a still image.
    """
    head = f"{frames.shape}|{frames.dtype.str}|{frame_rate!r}"
    digest = hashlib.sha256(head.encode())
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()
