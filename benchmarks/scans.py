"""Simulated scans as FileTree and HDF5: random pixels and responses, which nobody can compress or guess."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

TIERS = (*["train"] * 8, "validation", "test")
"""Tiers of trials, again and again; all are given, so that every loader trains with the same trials."""


@dataclass(frozen=True)
class Scan:
    """Size of a simulated scan; every trial shows another stimulus.

    Attributes
    ----------
    trials, units : int
    frames : int
        Of a trial's movie; 0 for still images.
    height, width : int
        Pixels.
    pixels : str
        dtype of movies and images in the files.
    """

    trials: int
    units: int
    frames: int
    height: int = 36
    width: int = 64
    pixels: str = "uint8"

    @property
    def tiers(self) -> np.ndarray:
        """Tier of each trial."""
        return np.array([TIERS[i % len(TIERS)] for i in range(self.trials)])

    def trial(self, index: int) -> dict[str, np.ndarray]:
        """Return the arrays of one trial in the layout of FileTree, time last."""
        rng = np.random.default_rng([2023, index])
        responses = rng.standard_exponential((self.units, max(1, self.frames)), np.float32)
        pupil = rng.normal(60, 5, (2, max(1, self.frames))).astype(np.float32)
        behavior = rng.gamma(2, 10, (2 if self.frames else 3, max(1, self.frames))).astype(np.float32)
        if self.frames:
            shape: tuple[int, ...] = (self.height, self.width, self.frames)
            name = "videos"
        else:
            shape, name = (1, self.height, self.width), "images"
            responses, pupil, behavior = responses[:, 0], pupil[:, 0], behavior[:, 0]
        pixels = rng.integers(0, 256, shape, np.uint8).astype(self.pixels)
        return {name: pixels, "responses": responses, "behavior": behavior, "pupil_center": pupil}

    @property
    def bytes(self) -> int:
        """Bytes of all trials' arrays."""
        return self.trials * sum(values.nbytes for values in self.trial(0).values())


def _once(scan: Scan, path: Path, write: Callable[[Scan, Path], None]) -> Path:
    """Write a scan unless it is there already, whole and of the same size."""
    note = path.with_name(f"{path.name}.json")
    if not note.exists() or json.loads(note.read_text()) != asdict(scan):
        note.unlink(missing_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(scan, path)
        note.write_text(json.dumps(asdict(scan)))
    return path


def file_tree(scan: Scan, path: Path) -> Path:
    """Write a scan in the layout of FileTree (images) or Sensorium 2023 (movies), if it is not there; return ``path``.

    Statistics are those of the training tier, one deviation a unit. The tree links 'inputs' to 'videos', by which name
    neuralpredictors 0.3 normalises movies.
    """
    return _once(scan, path, _write_tree)


def _write_tree(scan: Scan, path: Path) -> None:
    learned: dict[str, list[np.ndarray]] = {}
    count: Counter[str] = Counter()
    for index, tier in enumerate(scan.tiers):
        for name, values in scan.trial(index).items():
            (path / "data" / name).mkdir(parents=True, exist_ok=True)
            np.save(path / "data" / name / f"{index}.npy", values)
            if tier == "train":
                rows = values.reshape(1 if name in ("videos", "images") else len(values), -1).astype(np.float64)
                learned.setdefault(name, []).append(np.stack([rows.sum(axis=1), (rows**2).sum(axis=1)]))
                count[name] += rows.shape[1]
    for name, sums in learned.items():
        total, squares = np.sum(sums, axis=0)
        mean = total / count[name]
        std = np.sqrt((squares - count[name] * mean**2) / (count[name] - 1))
        folder = path / "meta" / "statistics" / name / "all"
        folder.mkdir(parents=True)
        for what, by_row in (("mean", mean), ("std", std)):
            column = by_row[0] if len(by_row) == 1 else by_row[:, None] if scan.frames else by_row
            np.save(folder / f"{what}.npy", np.float32(column))
    (path / "meta" / "trials").mkdir()
    np.save(path / "meta" / "trials" / "tiers.npy", scan.tiers)
    (path / "meta" / "neurons").mkdir()
    np.save(path / "meta" / "neurons" / "unit_ids.npy", np.arange(scan.units))
    (path / "config.json").write_text(json.dumps({"links": {"inputs": "videos"} if scan.frames else {}}))


def hdf5_file(scan: Scan, path: Path) -> Path:
    """Write a scan of movies as one HDF5 file, if it is not there; return ``path``.

    Datasets without chunks or compression: 'videos' (trial, time, height, width), the others (trial, time, row).
    """
    return _once(scan, path, _write_hdf5)


def _write_hdf5(scan: Scan, path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for index in range(scan.trials):
            for name, values in scan.trial(index).items():
                time_first = np.moveaxis(values, -1, 0)
                if not index:
                    file.create_dataset(name, (scan.trials, *time_first.shape), values.dtype)
                file[name][index] = time_first
        file["tiers"] = scan.tiers.astype("S")
