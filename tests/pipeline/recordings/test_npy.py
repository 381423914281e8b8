"""What numpy writes is read as numpy reads it, from files and archives, and damage is told."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.recordings.trial_folders.npy import read_npy

ARRAYS = {
    "responses": np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32),
    "longer than what is read at once": np.arange(400_000.0),
    "columns first": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "other byte order": np.arange(5, dtype=">i4"),
    "single number": np.float64(3.5),
    "nothing": np.empty((0, 4), np.int16),
    "true or false": np.array([True, False]),
    "bytes": np.array([b"train", b"test"]),
    "text": np.array(["züge", ""]),
    "many axes": np.zeros((1,) * 30),  # whose header is too long for the usual form
    "fields": np.array([(1, 2.0)], [("name", "i4"), ("another", "f8")]),
}


def saved(values: np.ndarray, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=pickled)
    return stream.getvalue()


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("where", ["file", "zip"])
def test_arrays_come_back(tmp_path: Path, name: str, where: str) -> None:
    expected = np.asarray(ARRAYS[name])
    path = tmp_path / "array"
    if where == "file":
        path.write_bytes(saved(expected))
        with path.open("rb", buffering=0) as stream:
            found = read_npy(stream)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("array.npy", saved(expected))
        with zipfile.ZipFile(path) as archive, archive.open("array.npy") as stream:
            found = read_npy(stream)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.flags.f_contiguous == expected.flags.f_contiguous
    np.testing.assert_array_equal(found, expected)


def test_arrays_with_equal_headers_are_their_own() -> None:
    first, second = (read_npy(io.BytesIO(saved(np.full(3, value)))) for value in (1.0, 2.0))
    first[0] = 7
    assert (first.tolist(), second.tolist()) == ([7, 1, 1], [2, 2, 2])


def test_the_header_of_other_versions() -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.arange(4), version=(2, 0))
    stream.seek(0)
    assert read_npy(stream).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"neither numpy nor anything else" * 10,
        saved(np.arange(100))[:-1],
        saved(np.arange(100))[:128],
        saved(np.array([{"a": 1}]), pickled=True),
        saved(np.arange(100)).replace(b"(100,)", b"(-10,)"),
        saved(np.arange(100)).replace(b"'<i8'", b"'|O' "),
        saved(np.arange(100)).replace(b"(100,)", b"exit()"),
    ],
)
def test_damage_is_refused(content: bytes) -> None:
    for _ in range(2):  # what was refused once is not accepted later
        with pytest.raises((ValueError, EOFError)):
            read_npy(io.BytesIO(content))
