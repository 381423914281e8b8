"""Small valid recordings in the layout ``data/<name>/{i}.npy`` + ``meta``: made in memory, changed by tests, written.

What is written is what a test compares with: `Example` keeps every array.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

UNITS = 5
SIZE = (6, 8)


@dataclass
class Example:
    """Arrays by name: of ``data`` one list of trials each, of ``meta`` one array each."""

    data: dict[str, list[np.ndarray]]
    trials: dict[str, np.ndarray]
    neurons: dict[str, np.ndarray] = field(default_factory=dict)
    statistics: dict[str, np.ndarray] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write everything as it is, also what is wrong, and return the folder."""
        for name, arrays in self.data.items():
            (folder / "data" / name).mkdir(parents=True, exist_ok=True)
            for index, values in enumerate(arrays):
                np.save(folder / "data" / name / f"{index}.npy", values)
        for kind in ("trials", "neurons", "statistics"):
            for name, values in getattr(self, kind).items():
                path = folder / "meta" / kind / f"{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, values)
        return folder


def zipped(folder: Path, inside: str = "") -> Path:
    """Return a .zip of a folder beside it, whose members lie below ``inside``."""
    path = folder.with_name(f"{folder.name}-{inside.strip('/') or 'flat'}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, inside + file.relative_to(folder).as_posix())
    return path


def neurons(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return what exporters write of units: bytes for text, small unsigned integers."""
    return {
        "unit_ids": np.array([3, 9, 4, 30, 12], np.uint16),
        "animal_ids": np.full(UNITS, 20457, np.uint16),
        "sessions": np.full(UNITS, 5, np.uint8),
        "scan_idx": np.full(UNITS, 9, np.uint8),
        "area": np.array([b"V1", b"V1", b"LM", b"V1", b"unset"]),
        "layer": np.array([b"L2/3", b"L2/3", b"L2/3", b"L4", b"L4"]),
        "cell_motor_coordinates": rng.normal(0, 100, (UNITS, 3)),
    }


def image_example(final: int = 0) -> Example:
    """Return 6 training, 2 validation and 4 test trials (2 images, twice), and ``final`` trials of a last test."""
    rng = np.random.default_rng(1)
    shown = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 9, *range(10, 10 + final)]
    pictures = rng.integers(0, 256, (10 + final, 1, *SIZE)).astype(np.float32)
    count = len(shown)
    tiers = ["train"] * 6 + ["validation"] * 2 + ["test"] * 4 + ["final_test"] * final
    return Example(
        data={
            "images": [pictures[i] for i in shown],
            "responses": list(rng.gamma(1.0, 2.0, (count, UNITS)).astype(np.float32)),
            "behavior": list(rng.normal(30, 5, (count, 3))),
            "pupil_center": list(rng.normal(100, 5, (count, 2))),
        },
        trials={
            "tiers": np.array(tiers, "S"),
            "trial_idx": rng.permutation(count) * 2 + 5,
            "frame_image_id": np.array(shown) + 1000,
            "frame_image_class": np.array([b"imagenet"] * count),
            "frame_presentation_time": np.full(count, 0.5, np.float32),
        },
        neurons=neurons(rng),
        statistics={"responses/all/std": np.ones(UNITS, np.float32)},
    )


LONGEST = 14
CLIPS = (12, 14, 12, 10, 12, 12, 12, 14, 12)
"""True lengths of the videos; all arrays are padded with NaN to `LONGEST`."""


def clip_example() -> Example:
    """Return 9 trials: 4 train (the third shows the clip of the first), 2 oracle, 2 live tests, 1 of no tier."""
    rng = np.random.default_rng(2)
    videos, groups = [], {"responses": UNITS, "behavior": 2, "pupil_center": 2}
    data: dict[str, list[np.ndarray]] = {name: [] for name in groups}
    for index, n_frames in enumerate(CLIPS):
        frames = rng.integers(0, 256, (*SIZE, n_frames)).astype(np.float32)
        videos.append(padded(videos[0][..., :n_frames] if index == 2 else frames))
        for name, rows in groups.items():
            data[name].append(padded(rng.gamma(1.0, 2.0, (rows, n_frames))))
    tiers = ["train"] * 4 + ["oracle"] * 2 + ["live_test_main", "live_test_bonus", "none"]
    return Example(
        data={"videos": videos, **data},
        trials={
            "tiers": np.array(tiers),
            "movie_names": np.array([f"clip{0 if i == 2 else i}" for i in range(len(CLIPS))]),
            "types": np.array(["stimulus.Clip"] * len(CLIPS)),
        },
        neurons=neurons(rng),
        statistics={"responses/all/std": np.ones((UNITS, LONGEST))},
    )


def padded(values: np.ndarray) -> np.ndarray:
    """Return an array whose last axis is filled with NaN up to `LONGEST`."""
    missing = np.full((*values.shape[:-1], LONGEST - values.shape[-1]), np.nan, values.dtype)
    return np.concatenate([values, missing], axis=-1)
