"""Neurodata Without Borders: one HDF5 file a session."""

from __future__ import annotations

from pipeline.recordings.nwb.reader import NWBRecording

__all__ = ["NWBRecording"]
