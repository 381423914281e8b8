"""What a reader hashed while it opened is what its recording returns, and a changed value is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.recordings import open_recording
from pipeline.recordings.base import Recording
from pipeline.recordings.checks import sealed
from tests.pipeline.recordings.write_trial_folders import UNITS, Example, clip_example, image_example


def damaged_clips() -> Example:
    """NaN within trial 0, longer responses in 1, shorter behaviour in 2, zeros in tests."""
    example = clip_example()
    example.data["responses"][0][1, 3] = np.nan
    example.data["responses"][1] = np.random.default_rng(0).gamma(1.0, 2.0, (UNITS, 16))
    example.data["behavior"][2][:, 6:] = np.nan
    for index in (6, 7):
        example.data["responses"][index] = np.zeros_like(example.data["responses"][index])
    return example


def images_without_tests() -> Example:
    example = image_example()
    for index in range(8, 12):
        example.data["responses"][index][:] = 0
    return example


def behaviour_of_zeros() -> Example:
    """Behaviour that is withheld ends earlier than the responses: only once all is read it is clear that it is."""
    example = clip_example()
    example.data["behavior"] = [np.zeros((2, 5)) for _ in example.data["behavior"]]
    return example


SCANS = {
    "clips": (clip_example, "sensorium2023", {}),
    "interpolated": (damaged_clips, "sensorium2023", {"nan": "interpolate"}),
    "excluded": (damaged_clips, "sensorium2023", {"nan": "exclude"}),
    "withheld behaviour": (behaviour_of_zeros, "sensorium2023", {}),
    "images": (image_example, "filetree", {}),
    "withheld images": (images_without_tests, "sensorium2022", {}),
}


def opened(name: str, folder: Path) -> Recording:
    make, source_format, arguments = SCANS[name]
    return open_recording(source_format, path=str(make().write(folder / "scan")), **arguments)


@pytest.mark.parametrize("name", SCANS)
def test_reading_everything_again_gives_the_same_fingerprint(name: str, tmp_path: Path) -> None:
    recording = opened(name, tmp_path)
    assert sealed(recording, recording.source.location) == recording.source


@pytest.mark.parametrize("name", ["clips", "interpolated", "images"])
def test_one_response_changes_the_fingerprint(name: str, tmp_path: Path) -> None:
    before = opened(name, tmp_path)
    changed = tmp_path / "scan" / "data" / "responses" / "3.npy"
    responses = np.load(changed)
    responses.flat[2] += 1
    np.save(changed, responses)
    after = open_recording(before.source.source_format, **before.source.location)
    assert after.source.fingerprint != before.source.fingerprint
    assert after.trials == before.trials
