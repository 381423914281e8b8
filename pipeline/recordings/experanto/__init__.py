"""experanto's folders of modalities with their own clocks."""

from __future__ import annotations

from pipeline.recordings.experanto.reader import ExperantoRecording

__all__ = ["ExperantoRecording"]
