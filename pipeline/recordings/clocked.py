"""What recordings share whose stimuli, responses and behaviour each have a clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import Recording, Trace, Traces, Trial
from pipeline.recordings.sequences import Sequence, pulses_touching


class ClockedRecording(Recording):
    """A recording of sequences on one time axis; readers open the sequences and say which trials there are."""

    _path: Path
    _nan: str
    _sampled: Sequence | None = None
    _behavior: list[Sequence]
    _pulses: np.ndarray | None = None

    def signals(self, trial_idx: int, margin: float = 0.0) -> dict[str, Trace]:
        """Return the behaviour in one trial and ``margin`` (s) around it, as far as it was recorded."""
        start, stop = self._span(trial_idx)
        traces: dict[str, Trace] = {}
        for sequence in self._behavior:
            traces |= sequence.traces(start, stop, margin, self._nan)
        return traces

    def opto_pulses(self, trial_idx: int) -> tuple[np.ndarray, ...]:
        """Return the light pulses (pulse, 2) that touch one trial: one train, or none without a source of light."""
        span = self._span(trial_idx)
        return () if self._pulses is None else (pulses_touching(self._pulses, *span),)

    def _traces(self, trial_idx: int, margin: float) -> Traces:
        assert self._sampled is not None
        times, values = self._sampled.read(*self._span(trial_idx), margin, self._nan)
        return Traces(times, values, self._sampled.delays)

    def _obstacle(self, start: float, stop: float) -> str:
        """Return why traces or behaviour forbid a trial, empty if they do not."""
        sequences = [self._sampled, *self._behavior] if self._sampled else self._behavior
        return next(filter(None, (sequence.obstacle(start, stop, self._nan) for sequence in sequences)), "")

    def _trial(self, trial_idx: int) -> Trial:
        if not 0 <= trial_idx < len(self.trials):
            raise RecordingError(f"{self._path} has no trial {trial_idx}: trials are 0 to {len(self.trials) - 1}")
        return self.trials[trial_idx]

    def _span(self, trial_idx: int) -> tuple[float, float]:
        trial = self._trial(trial_idx)
        return trial.start, trial.start + trial.duration
