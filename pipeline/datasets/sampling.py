"""How each kind of preprocessing turns one trial's stimulus, responses, signals and light into arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pipeline.configuration import Configuration
from pipeline.datasets.binning import (
    n_bins,
    pulse_trace,
    resample_trace,
    resample_traces,
    sample_interval,
)
from pipeline.datasets.pixels import hold_frames, prepare_frames
from pipeline.datasets.preprocessing import Image, Movie
from pipeline.datasets.waveforms import waveform_of
from pipeline.datasets.windows import Box, window_of
from pipeline.errors import ConfigurationError, DatasetError
from pipeline.recordings.base import Recording, Responses, SpikeTimes, Stimulus, Trace, Traces, Trial, TrialValues

SLACK = 1.0
"""What is asked of a recording beyond what a preprocessing needs (s): samples to interpolate to, late units."""

_CLOSE = 1e-6
"""Clocks that differ by less (s) are the same."""


class Sampling(ABC):
    """Turns trials into arrays.

    Attributes
    ----------
    stimulus_tensor : str
        'videos' or 'images'.
    stimulus_axes, time_axis : str
        What the stimulus' axes are, and the end of everybody else's.
    margin : float
        How much around a trial the recording is asked for (s).
    derivative : bool
        Whether pupil_derivative is computed where the source has none.
    light_unit : str
        What the values of light mean.
    frame_rate : float or None
        Bins a second (Hz); None where a trial is one value.
    """

    stimulus_tensor: ClassVar[str]
    stimulus_axes: ClassVar[str]
    time_axis: ClassVar[str]
    light_unit: ClassVar[str]
    margin: float
    derivative: bool
    frame_rate: float | None

    @abstractmethod
    def response_unit(self, responses: Responses, source_unit: str) -> str:
        """Return the unit of stored responses, given some of the source's and their unit."""

    @abstractmethod
    def bins(self, trial: Trial) -> int:
        """Return how many values a trial holds of each unit."""

    @abstractmethod
    def stimulus(self, trial: Trial, stimulus: Stimulus, frames: np.ndarray) -> np.ndarray:
        """Return the stored pixels."""

    @abstractmethod
    def responses(self, trial: Trial, responses: Responses) -> np.ndarray:
        """Return the responses, (unit, time) or (unit,), float32."""

    @abstractmethod
    def unknown(self, trial: Trial, units: int) -> np.ndarray:
        """Return NaN in the shape of responses."""

    @abstractmethod
    def signal(self, trial: Trial, name: str, trace: Trace) -> np.ndarray:
        """Return a signal, (time,) or (), float32."""

    @abstractmethod
    def light(self, trial: Trial, pulses: np.ndarray) -> np.ndarray:
        """Return one train of light, (time,) or (), float32."""


class MovieSampling(Sampling):
    """Everything in bins of one frame rate. All repeats of a stimulus get equal length: that of the shortest.

    Raises
    ------
    DatasetError
        If a trial is shorter than a bin.
    """

    stimulus_tensor = "videos"
    stimulus_axes = "channel, time, height, width"
    time_axis = ", time"
    light_unit = "1 while the light is on"

    def __init__(self, movie: Movie, recording: Recording, trials: Sequence[Trial]) -> None:
        self._movie = movie
        self._waveform = waveform_of(movie)
        self.frame_rate: float = movie.frame_rate
        self.derivative = movie.derivative
        self.margin = max(self._waveform.support, movie.response_offset) + SLACK
        self._bins: dict[str, int] = {}
        for trial in trials:
            here = n_bins(self._length(recording, trial), movie.frame_rate)
            if not here:
                raise DatasetError(
                    f"trial {trial.trial_idx} with its responses is shorter than a bin of {1 / movie.frame_rate:g} s: "
                    "exclude it, or choose a higher frame_rate"
                )
            self._bins[trial.condition_hash] = min(here, self._bins.get(trial.condition_hash, here))

    def _length(self, recording: Recording, trial: Trial) -> float:
        """Return for how long (s) there is a stimulus and, where they are shifted, responses to it."""
        stimulus, offset = recording.stimuli[trial.condition_hash], self._movie.response_offset
        shown = stimulus.shape[1] / stimulus.frame_rate if stimulus.frame_rate else np.inf
        recorded = np.inf
        if offset and not trial.withheld:
            recorded = _end(recording.responses(trial.trial_idx, self.margin), trial) - trial.start - offset
        return min(trial.duration, shown, recorded)

    def response_unit(self, responses: Responses, source_unit: str) -> str:
        """Return 'spikes/bin' or 'spikes/s' of spike times, else the source's unit."""
        if not isinstance(responses, SpikeTimes):
            return source_unit
        return {"count": "spikes/bin", "rate": "spikes/s"}[self._movie.response]

    def bins(self, trial: Trial) -> int:
        """Return the number of bins."""
        return self._bins[trial.condition_hash]

    def stimulus(self, trial: Trial, stimulus: Stimulus, frames: np.ndarray) -> np.ndarray:
        """Return the frames that were on the screen, (channel, time, height, width); an image is held."""
        prepared = prepare_frames(frames, self._movie, f"stimulus {stimulus.stimulus_name}")
        return hold_frames(prepared, stimulus.frame_rate or self.frame_rate, self.frame_rate, self.bins(trial))

    def responses(self, trial: Trial, responses: Responses) -> np.ndarray:
        """Return binned spikes or resampled traces, (unit, time).

        Raises
        ------
        DatasetError
            If the source has a single number a trial, or traces that do not reach over the trial.
        ConfigurationError
            If a waveform is asked for and there are no spikes.
        """
        here, start = f"trial {trial.trial_idx}", trial.start + self._movie.response_offset
        clock = (start, self.frame_rate, self.bins(trial))
        if isinstance(responses, SpikeTimes):
            spikes = self._waveform.bin(responses.times, *clock)
            return spikes * np.float32(self.frame_rate) if self._movie.response == "rate" else spikes
        if self._movie.waveform != "none":
            raise ConfigurationError(
                f"{here}: Movie.waveform is {self._movie.waveform!r}, but the recording has no spike times: use 'none'"
            )
        if isinstance(responses, TrialValues):
            raise DatasetError(
                f"{here}: the recording has one response of each unit a trial, and movies need them over time: "
                "preprocess with Image, or read a source with spike times or traces"
            )
        _require_samples(responses, start, start + self.bins(trial) / self.frame_rate, f"{here}: responses")
        return resample_traces(responses, *clock)

    def unknown(self, trial: Trial, units: int) -> np.ndarray:
        """Return NaN, (unit, time)."""
        return np.full((units, self.bins(trial)), np.nan, np.float32)

    def signal(self, trial: Trial, name: str, trace: Trace) -> np.ndarray:
        """Return the signal in bins, (time,)."""
        return resample_trace(trace, trial.start, self.frame_rate, self.bins(trial))

    def light(self, trial: Trial, pulses: np.ndarray) -> np.ndarray:
        """Return 1 while the light is on, (time,)."""
        return pulse_trace(pulses, trial.start, self.frame_rate, self.bins(trial))


class ImageSampling(Sampling):
    """One value a trial, weighted by a window after the image's onset.

    Raises
    ------
    DatasetError
        If a trial shows a video.
    """

    stimulus_tensor = "images"
    stimulus_axes = "channel, height, width"
    time_axis = ""
    light_unit = "share of the window with light"
    frame_rate = None

    def __init__(self, image: Image, recording: Recording, trials: Sequence[Trial]) -> None:
        for trial in trials:
            stimulus = recording.stimuli[trial.condition_hash]
            if stimulus.frame_rate is not None:
                raise DatasetError(
                    f"trial {trial.trial_idx} shows the video {stimulus.stimulus_name}: preprocess with Movie, which "
                    "holds images for as long as they were shown, or exclude the trials with videos"
                )
        self._image = image
        self._window = window_of(image)
        self.derivative = image.derivative
        self.margin = image.offset + 1.5 * image.duration + SLACK

    def response_unit(self, responses: Responses, source_unit: str) -> str:
        """Return 'spikes' or 'spikes/s' of spike times, else the source's unit."""
        if not isinstance(responses, SpikeTimes):
            return source_unit
        return {"count": "spikes", "rate": "spikes/s"}[self._image.response]

    def bins(self, trial: Trial) -> int:
        """Return 1."""
        return 1

    def stimulus(self, trial: Trial, stimulus: Stimulus, frames: np.ndarray) -> np.ndarray:
        """Return the image, (channel, height, width)."""
        return prepare_frames(frames, self._image, f"stimulus {stimulus.stimulus_name}")[:, 0]

    def responses(self, trial: Trial, responses: Responses) -> np.ndarray:
        """Return one value a unit, (unit,); what the source gives once a trial, as it is.

        Raises
        ------
        DatasetError
            If the window's centre lies where the recording has no samples or spikes, or a box reaches beyond where
            spikes are known.
        """
        here = f"trial {trial.trial_idx}: responses"
        if isinstance(responses, TrialValues):
            return responses.values.astype(np.float32)
        if isinstance(responses, Traces):
            self._require_centre(responses, trial, here)
            return self._window.traces(responses, trial.start)
        centre = self._window.centre(trial.start)
        half = self._image.duration / 2 if isinstance(self._window, Box) else 0.0
        first, last = responses.span or (trial.start, trial.start + trial.duration)
        if centre - half < first - _CLOSE or centre + half > last + _CLOSE:
            raise DatasetError(
                f"{here} from {centre - half:.3f} to {centre + half:.3f} s are needed, but the recording knows spikes "
                f"from {first:.3f} to {last:.3f} s: choose a smaller offset and duration, or exclude the trial"
            )
        spikes = self._window.spikes(responses.times, trial.start)
        return spikes / np.float32(self._image.duration) if self._image.response == "rate" else spikes

    def unknown(self, trial: Trial, units: int) -> np.ndarray:
        """Return NaN, (unit,)."""
        return np.full(units, np.nan, np.float32)

    def signal(self, trial: Trial, name: str, trace: Trace) -> np.ndarray:
        """Return the signal in the window, (); running as speed without direction.

        Raises
        ------
        DatasetError
            If the window's centre lies where the signal has no samples.
        """
        values = np.abs(trace.values) if name == "run" else trace.values
        traces = Traces(trace.times, values[None])
        self._require_centre(traces, trial, f"trial {trial.trial_idx}: {name}")
        return self._window.traces(traces, trial.start)[0]

    def light(self, trial: Trial, pulses: np.ndarray) -> np.ndarray:
        """Return the share of the window with light, ()."""
        return np.asarray(self._window.light(pulses, trial.start), np.float32)

    def _require_centre(self, traces: Traces, trial: Trial, what: str) -> None:
        if len(traces.times) == 1:  # a source that gives one value a trial
            return
        centre = self._window.centre(trial.start)
        late = (0.0,) if traces.delays is None else (traces.delays.min(), traces.delays.max())
        first, last = traces.times[0] + max(late), traces.times[-1] + min(late)
        if not first - _CLOSE <= centre <= last + _CLOSE:
            raise DatasetError(
                f"{what} are needed at {centre:.3f} s, the centre of the window, but reach from {first:.3f} to "
                f"{last:.3f} s: choose a smaller offset or duration, or exclude the trial"
            )


def sampling_of(preprocessing: Configuration, recording: Recording, trials: Sequence[Trial]) -> Sampling:
    """Return what turns the given trials of a recording into arrays, for a kind of preprocessing."""
    if isinstance(preprocessing, Movie):
        return MovieSampling(preprocessing, recording, trials)
    if isinstance(preprocessing, Image):
        return ImageSampling(preprocessing, recording, trials)
    raise ConfigurationError(f"no converter for preprocessing of kind {preprocessing.kind()}")


def _end(responses: Responses, trial: Trial) -> float:
    """Return until when responses around a trial are known (s)."""
    if isinstance(responses, Traces) and len(responses.times) > 1:
        late = 0.0 if responses.delays is None else float(responses.delays.min())
        return float(responses.times[-1]) + sample_interval(responses.times) + late
    if isinstance(responses, SpikeTimes) and responses.span:
        return responses.span[1]
    return trial.start + trial.duration


def _require_samples(traces: Traces, start: float, stop: float, what: str) -> None:
    """Refuse traces that begin or end more than one sample within a trial: held constant they would be invented."""
    interval = sample_interval(traces.times) if len(traces.times) > 1 else 0.0
    late = (0.0,) if traces.delays is None else (traces.delays.min(), traces.delays.max())
    first, last = traces.times[0] + max(late) - interval, traces.times[-1] + min(late) + interval
    if first > start + _CLOSE or last < stop - _CLOSE:
        raise DatasetError(
            f"{what} from {start:.3f} to {stop:.3f} s are needed, but there are samples from {traces.times[0]:.3f} to "
            f"{traces.times[-1]:.3f} s only: exclude the trial"
        )
