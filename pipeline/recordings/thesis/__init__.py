"""The format of the dLGN thesis: a pickled table of responses, a folder of scene movies, a table of behaviour."""

from __future__ import annotations

from pipeline.recordings.thesis.reader import ThesisRecording

__all__ = ["ThesisRecording"]
