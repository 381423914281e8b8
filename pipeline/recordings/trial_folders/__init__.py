"""Folders with one file a trial and quantity: the FileTree layout of neuralpredictors and its Sensorium variants."""

from __future__ import annotations

from pipeline.recordings.trial_folders.filetree import FileTreeRecording
from pipeline.recordings.trial_folders.sensorium import Sensorium2022Recording, Sensorium2023Recording

__all__ = ["FileTreeRecording", "Sensorium2022Recording", "Sensorium2023Recording"]
