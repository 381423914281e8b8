"""What every recording is, whatever format it came in: units, stimuli, trials and the signals of each trial."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from pipeline.recordings.arrays import ArrayRecording

TIERS = ("train", "validation", "test", "final", "ood")
"""What a stimulus is for: training, choosing models, scoring them; a last test, and stimuli of another distribution."""

BEHAVIOR = ("pupil_size", "pupil_derivative", "run")
"""Signals that reach a modulator, in the order in which datasets hold them."""

PUPIL = ("pupil_x", "pupil_y")
"""Signals that reach a shifter."""

SIGNALS = BEHAVIOR + PUPIL


@dataclass(frozen=True)
class Unit:
    """One recorded neuron.

    Attributes
    ----------
    unit_id : int
        Number of the unit, unique within its recording.
    unit_name : str
        The name that the laboratory uses, for example ``m0123_s02_e04_u07``.
    area, layer : str or None
        Brain area, such as 'V1', and layer, such as 'L2/3', where the source tells them.
    position : tuple of float or None
        x, y and z (um) where the source tells them.
    match_id : int or None
        Which neuron it is: units of one animal with the same number are one. None where the source does not tell.
    """

    unit_id: int
    unit_name: str
    area: str | None = None
    layer: str | None = None
    position: tuple[float, float, float] | None = None
    match_id: int | None = None


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
    stimulus_type : str
        Class of stimuli that the source counts it to, such as 'imagenet' or 'drifting gabor'; empty if it tells none.
    """

    condition_hash: str
    frame_rate: float | None
    shape: tuple[int, int, int, int]
    stimulus_name: str
    stimulus_type: str = ""


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
        One of `TIERS` where the source says so.
    withheld : bool
        The source keeps the responses to itself, as competitions do: there is a stimulus, but nothing to learn from.
    exclusion : str
        Why no dataset may use the trial; empty if it may.
    """

    trial_idx: int
    condition_hash: str
    start: float
    duration: float
    tier: str | None
    withheld: bool = False
    exclusion: str = ""


@dataclass(frozen=True)
class SpikeTimes:
    """Spikes around one trial.

    Attributes
    ----------
    times : tuple of ndarray
        One sorted array of times on the recording's clock (s) for each unit.
    span : tuple of float or None
        First and last instant (s) of which the spikes are known; None: of the trial alone.
    """

    times: tuple[np.ndarray, ...]
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Traces:
    """Sampled responses around one trial, such as dF/F or deconvolved activity.

    Attributes
    ----------
    times : ndarray
        (sample,) on the recording's clock (s), increasing.
    values : ndarray
        (unit, sample).
    delays : ndarray or None
        (unit,) how much later than ``times`` each unit was sampled (s), as a scanner reaches units one after another.
    """

    times: np.ndarray
    values: np.ndarray
    delays: np.ndarray | None = None


@dataclass(frozen=True)
class TrialValues:
    """One number for each unit and trial, (unit,): the source has summed up the response already."""

    values: np.ndarray


Responses = SpikeTimes | Traces | TrialValues


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


class Recording(ABC):
    """What every reader gives. Everything is checked when it is opened; pixels, responses and signals are lazy.

    A reader takes strings only, so that a row can hold its arguments, and ends its constructor with
    ``self.source = pipeline.recordings.checks.sealed(self, location)``, which reads every trial once.

    Attributes
    ----------
    source : Source
    units : tuple of Unit
        In the order in which responses list them.
    stimuli : mapping of condition_hash to Stimulus
    trials : tuple of Trial
        In order of time.
    response_unit : str
        Of traces and trial values, such as 'dF/F'; of spike times 'spikes'.
    opto_groups : tuple of int
        For each unit the number of the light train, of those that `opto_pulses` returns, that its experiment had; all
        0 where all units were recorded at once, empty if there was no light source.
    """

    source_format: ClassVar[str]
    """Name of the format in `pipeline.recordings.FORMATS`."""

    example: ClassVar[str] = ""
    """Arguments of an example command, for ``--help``."""

    source: Source
    units: tuple[Unit, ...]
    stimuli: Mapping[str, Stimulus]
    trials: tuple[Trial, ...]
    response_unit: str = "spikes"
    opto_groups: tuple[int, ...] = ()

    @abstractmethod
    def frames(self, condition_hash: str) -> np.ndarray:
        """Return the pixels of one stimulus, (channel, time, height, width), in the source's dtype."""

    @abstractmethod
    def responses(self, trial_idx: int, margin: float = 0.0) -> Responses:
        """Return the responses of all units in one trial and, where the source has them, ``margin`` (s) around it."""

    def signals(self, trial_idx: int, margin: float = 0.0) -> dict[str, Trace]:
        """Return the behaviour of one trial and ``margin`` (s) around it.

        Any of 'run' (cm/s), 'pupil_size', 'pupil_derivative', 'pupil_x', 'pupil_y'. A signal that the source gives
        once a trial is a trace of one sample.
        """
        return {}

    def opto_pulses(self, trial_idx: int) -> tuple[np.ndarray, ...]:
        """Return the light pulses that touch one trial.

        One array (pulse, 2) for each train of light: start and end on the recording's clock (s).
        """
        return ()

    @classmethod
    def from_arrays(cls, folder: str, **arrays: Any) -> ArrayRecording:
        """Keep whatever a laboratory has in numpy as a recording; see `pipeline.recordings.arrays.save_arrays`."""
        from pipeline.recordings.arrays import ArrayRecording, save_arrays

        return ArrayRecording(str(save_arrays(folder, **arrays)))


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
