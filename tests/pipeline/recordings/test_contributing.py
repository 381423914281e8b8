"""The reader that CONTRIBUTING.md shows is a whole one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import RecordingError
from pipeline.recordings import Recording, Stimulus, Trial, TrialValues, Unit, hash_pixels
from pipeline.recordings.checks import load_array, require_file, require_folder, sealed
from populate.ingest_commands import parameter_docs, reader_command

NAMES = (
    Recording, RecordingError, Stimulus, Trial, TrialValues, Unit, hash_pixels, load_array, require_file,
    require_folder, sealed,
)  # fmt: skip


@pytest.fixture
def reader() -> Any:
    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(class CsvRecording.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {"np": np, "__name__": __name__, **{item.__name__: item for item in NAMES}}
    exec(code, names)
    return names["CsvRecording"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    pixels, responses = rng.integers(0, 256, (5, 6, 7), dtype=np.uint8), rng.normal(size=(5, 3))
    (tmp_path / "images").mkdir()
    for i, image in enumerate(pixels):
        np.save(tmp_path / "images" / f"{i}.npy", image)
    np.savetxt(tmp_path / "responses.csv", responses, delimiter=",")
    return tmp_path / "images", tmp_path / "responses.csv", pixels, responses


def test_every_value_comes_through(reader: Any, files: Any) -> None:
    images, table, pixels, responses = files
    recording = reader(str(images), str(table))
    assert recording.source.source_format == "csv"
    assert len(recording.source.fingerprint) == 64
    for trial, image, values in zip(recording.trials, pixels, responses, strict=True):
        assert np.array_equal(recording.frames(trial.condition_hash)[0, 0], image)
        assert np.allclose(recording.responses(trial.trial_idx).values, values)


def test_wrong_counts_are_refused(reader: Any, files: Any) -> None:
    images, table, _, responses = files
    np.savetxt(table, responses[:4], delimiter=",")
    with pytest.raises(RecordingError, match="has 4 lines for 5 images"):
        reader(str(images), str(table))


def test_it_has_a_command(reader: Any) -> None:
    assert parameter_docs(reader).keys() == {"images", "responses"}
    options = {option for parameter in reader_command(reader).params for option in parameter.opts}
    assert {"--images", "--responses", "--subject", "--session", "--scan", "--leaks", "--screen"} <= options
