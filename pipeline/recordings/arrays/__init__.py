"""Whatever a laboratory has in numpy, kept as a folder of arrays; `reader` describes the layout."""

from __future__ import annotations

from pipeline.recordings.arrays.reader import ArrayRecording, save_arrays

__all__ = ["ArrayRecording", "save_arrays"]
