"""Writes a small experanto folder whose clocks all differ and whose values are known functions of time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

SIZE = (6, 8)
VIDEO_RATE = 30.0
UNIT_IDS = (101, 205, 309)
SHIFTS = (0.0, 0.02, 0.07)

ENTRIES = (
    # modality, frames, tier, seed of the pixels
    ("image", 1, "train", 1),
    ("blank", 1, None, None),
    ("video", 9, "oracle", 2),
    ("image", 1, "train", 3),
    ("video", 9, "oracle", 2),
    ("image", 1, "live_test_main", 4),
    ("invalid", 1, None, None),
    ("image", 1, None, 5),
    ("image", 1, "train", 1),
)
"""What the screen shows, in order of time."""


def response(unit: int, time: np.ndarray | float) -> np.ndarray:
    return np.asarray(np.sin(2 * np.pi * 0.3 * np.asarray(time) + unit) + unit)


def signal(name: str, time: np.ndarray | float) -> np.ndarray:
    slope = {"pupil_size": 2.0, "pupil_x": -3.0, "pupil_y": 5.0, "run": 7.0}[name]
    return slope * np.asarray(time) + 1.0


def pixels(seed: int, n_frames: int | None = None) -> np.ndarray:
    shape = SIZE if n_frames is None else (n_frames, *SIZE)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_yaml(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


def write_screen(folder: Path, start: float = 20.0, combined: bool = True) -> np.ndarray:
    """Write the screen: images and blanks for 0.5 s, videos at 30 Hz with jitter. Returns the times of its frames."""
    (folder / "data").mkdir(parents=True)
    rng = np.random.default_rng(0)
    times: list[float] = []
    metas = {}
    for number, (modality, n_frames, tier, seed) in enumerate(ENTRIES):
        key = f"{number:05d}"
        meta = {
            "modality": modality,
            "image_size": list(SIZE),
            "first_frame_idx": len(times),
            "num_frames": n_frames if modality == "video" else 30,  # of images, exporters count the screen's own frames
            "stim_type": f"a {modality}",
        }
        if tier:
            meta["tier"] = tier
        if modality in ("blank", "invalid"):
            meta["interleave_value"] = 127
        else:
            np.save(folder / "data" / f"{key}.npy", pixels(seed, n_frames if modality == "video" else None))
        metas[key] = meta
        own = np.arange(n_frames) / VIDEO_RATE + rng.uniform(-1e-4, 1e-4, n_frames) * (n_frames > 1)
        times.extend(start + own)
        start += n_frames / VIDEO_RATE if modality == "video" else 0.5
    np.save(folder / "timestamps.npy", np.array(times))
    write_yaml(folder / "meta.yml", {"modality": "screen", "frame_rate": 60.0})
    if combined:
        (folder / "combined_meta.json").write_text(json.dumps(metas))
    else:
        for key, meta in metas.items():
            write_yaml(folder / "meta" / f"{key}.yml", meta)
    return np.array(times)


def write_sequence(
    folder: Path,
    values: np.ndarray,
    start: float,
    rate: float,
    shifts: tuple[float, ...] = (),
    mapped: bool = False,
    **more: object,
) -> None:
    """Write (sample, signal) values, as ``data.npy`` or memory-mapped."""
    (folder / "meta").mkdir(parents=True)
    meta = {
        "modality": "sequence", "sampling_rate": rate, "start_time": start, "end_time": start + len(values) / rate,
        "n_signals": values.shape[1], "n_timestamps": len(values), "dtype": str(values.dtype),
        "phase_shift_per_signal": bool(shifts), "is_mem_mapped": mapped, **more,
    }  # fmt: skip
    write_yaml(folder / "meta.yml", meta)
    if mapped:
        values.tofile(folder / "data.mem")
    else:
        np.save(folder / "data.npy", values)
    if shifts:
        np.save(folder / "meta" / "phase_shifts.npy", np.array(shifts))


def write_experanto(root: Path, combined: bool = True, mapped: bool = True) -> Path:
    """Write a recording: the screen from 20 s, responses from 18.9 s at 8 Hz, eye from 19.5 s, treadmill from 19 s."""
    write_screen(root / "screen", combined=combined)
    times = 18.9 + np.arange(70) / 8.0
    values = np.stack([response(unit, times + shift) for unit, shift in enumerate(SHIFTS)], axis=1)
    properties = {"unit_ids": "meta/unit_ids.npy", "cell_motor_coordinates": "meta/xyz.npy", "area": "meta/area.npy"}
    write_sequence(root / "responses", values, 18.9, 8.0, SHIFTS, mapped, neuron_properties=properties)
    np.save(root / "responses" / "meta" / "unit_ids.npy", np.array(UNIT_IDS))
    np.save(root / "responses" / "meta" / "xyz.npy", np.arange(9.0).reshape(3, 3))
    np.save(root / "responses" / "meta" / "area.npy", np.array(["V1", "LM", "V1"]))
    times = 19.5 + np.arange(220) / 29.7
    eye = np.stack([signal("pupil_size", times), times * 0, signal("pupil_x", times), signal("pupil_y", times)], axis=1)
    write_sequence(root / "eye_tracker", eye, 19.5, 29.7)
    times = 19.0 + np.arange(900) / 100.0
    write_sequence(root / "treadmill", signal("run", times)[:, None].astype(np.float32), 19.0, 100.0, mapped=True)
    write_yaml(
        root / "light" / "meta.yml",
        {"modality": "time_interval", "labels": {"on": "on.npy"}, "start_time": 0.0, "end_time": 100.0},
    )
    np.save(root / "light" / "on.npy", np.array([[21.9, 22.0], [20.1, 20.2], [20.4, 20.6]]))
    return root


def write_spikes(root: Path, bare: bool = False, stop: float = 60.0) -> list[np.ndarray]:
    """Write a modality of spikes; ``bare``: as earlier versions of the format did, numbers without a header."""
    trains = [np.sort(np.random.default_rng(unit).uniform(0, stop, 400)) for unit in range(3)]
    folder = root / "units"
    bounds = [0, *np.cumsum([len(train) for train in trains]).tolist()]
    meta = {"modality": "spikes", "n_signals": 3, "spike_indices": bounds, "start_time": 19.8, "end_time": stop}
    write_yaml(folder / "meta.yml", meta)
    if bare:
        np.concatenate(trains).tofile(folder / "spikes.npy")
    else:
        np.save(folder / "spikes.npy", np.concatenate(trains))
    return trains
