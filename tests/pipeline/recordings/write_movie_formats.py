"""Examples of formats that hold movies: thesis, openretina, experanto, and NWB, of which one holds still images."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from pipeline.datasets.preprocessing import Image, Movie
from pipeline.recordings.video import write_video
from tests.pipeline.recordings.example import Change, Example, copied, edit
from tests.pipeline.recordings.write_experanto import write_experanto

# --------------------------------------------------------------------------------------------------------------- thesis

SCENES = {0: "train", 1: "train", 2: "train", 3: "val", 4: "test", 5: "train"}
SCENES_SHOWN = (0, 1, 4, 2, 3, 4, 5)
"""Scene 5 has NaN in its behaviour."""

SCENE_FRAMES, SCENE_RATE = 12, 30.0


def scene(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (1, SCENE_FRAMES, 20, 32), dtype=np.uint8)


def scene_file(folder: Path, number: int) -> Path:
    return folder / "videos" / f"hmovTrain_v3_32x20_scene-{number + 1:03d}.avi"


def write_thesis(folder: Path) -> None:
    (folder / "videos").mkdir(parents=True)
    for number in SCENES:
        write_video(scene_file(folder, number), scene(number), SCENE_RATE)
    seconds = SCENE_FRAMES / SCENE_RATE
    responses, behavior = [], []
    for trial, number in enumerate(SCENES_SHOWN):
        rng = np.random.default_rng([7, trial])
        shared = {"m": "Mouse_0123", "s": 2, "e": 4, "scene_id": number, "trange": [float(trial), trial + seconds]}
        for unit in (2, 5, 11):
            responses.append(
                {
                    **shared,
                    "u": unit,
                    "train_vs_test": SCENES[number],
                    "spike_times": trial + np.sort(rng.uniform(0, seconds, rng.integers(3, 9))),
                    "opto_tranges": [[trial + 0.1, trial + 0.2]] if trial == 1 else [],
                }
            )
        run = np.full(24, np.nan) if number == 5 else rng.normal(size=24)
        behavior.append({**shared, "run": run, "pupil_size": rng.normal(size=24)})
    pd.DataFrame(responses).to_pickle(folder / "responses.pkl")
    pd.DataFrame(behavior).to_pickle(folder / "behavior.pkl")


def later_spike(folder: Path) -> None:
    table = pd.read_pickle(folder / "responses.pkl")
    table.at[0, "spike_times"] = table.at[0, "spike_times"] + np.eye(len(table.at[0, "spike_times"]))[-1] * 1e-6
    table.to_pickle(folder / "responses.pkl")


def scene_pixel(folder: Path) -> None:
    frames = scene(1)
    frames[0, 3, 4, 5] ^= 1
    write_video(scene_file(folder, 1), frames, SCENE_RATE)


def scene_tier(folder: Path, number: int = 0, tier: str = "test", start: float | None = None) -> None:
    """Give a scene, or one of its presentations, another tier."""
    table = pd.read_pickle(folder / "responses.pkl")
    rows = (table["scene_id"] == number) & table["trange"].map(lambda t: start in (None, t[0]))
    table.loc[rows, "train_vs_test"] = tier
    table.to_pickle(folder / "responses.pkl")


THESIS = Example(
    "thesis",
    "thesis",
    write_thesis,
    {"responses": "{}/responses.pkl", "videos": "{}/videos", "behavior": "{}/behavior.pkl", "nan": "exclude"},
    Movie(height=20, width=32, frame_rate=SCENE_RATE),
    {"train": 3, "validation": 1, "test": 2, "excluded": 1},
    response=later_spike,
    pixel=scene_pixel,
    tier=scene_tier,
    leaks={
        "one scene in two tiers": lambda folder: scene_tier(folder, 4, "train", start=5.0),
        "one movie under two scenes": lambda folder: write_video(scene_file(folder, 0), scene(4), SCENE_RATE),
    },
)


# ----------------------------------------------------------------------------------------------------------- openretina

RETINA_FRAMES = {"chirp": 30, "noise": 20, "probe": 24, "sharks": 11}
RETINA = {
    "session_file": "{}/session.h5", "frame_rate": "20", "test_names": "probe", "ood_names": "sharks",
    "clip_frames": "10", "validation_clips": "1",
}  # fmt: skip


def retina_movie(name: str) -> np.ndarray:
    rng = np.random.default_rng(list(name.encode()))
    return rng.integers(0, 256, (2, RETINA_FRAMES[name], 5, 6), dtype=np.uint8)


def write_openretina(folder: Path) -> None:
    (folder / "stimuli").mkdir(parents=True)
    rng = np.random.default_rng(3)
    with h5py.File(folder / "session.h5", "w") as session:
        for name, n_frames in RETINA_FRAMES.items():
            np.save(folder / "stimuli" / f"{name}.npy", retina_movie(name))
            session[f"responses_{name}"] = rng.normal(size=(3, n_frames)).astype(np.float32)
        session["responses_probe_by_trial"] = rng.normal(size=(3, 3, RETINA_FRAMES["probe"])).astype(np.float32)


def retina_response(folder: Path) -> None:
    with h5py.File(folder / "session.h5", "r+") as session:
        session["responses_noise"][1, 4] += 1


def same_movie(folder: Path) -> None:
    """Show the test's movie for training too, under another name; it is longer than two clips."""
    np.save(folder / "stimuli" / "again.npy", retina_movie("probe"))
    with h5py.File(folder / "session.h5", "r+") as session:
        session["responses_again"] = session["responses_probe"][:]


def same_clip(folder: Path) -> None:
    """Let the clip that validates recur in a movie for training."""
    noise = retina_movie("noise")
    noise[:, :10] = retina_movie("chirp")[:, 10:20]
    np.save(folder / "stimuli" / "noise.npy", noise)


OPENRETINA = Example(
    "openretina",
    "openretina",
    write_openretina,
    RETINA,
    Movie(height=5, width=6, frame_rate=20.0),
    {"train": 4, "validation": 1, "test": 3, "ood": 1},
    response=retina_response,
    pixel=lambda folder: edit(folder / "stimuli" / "noise.npy", 0, 3, 2, 2),
    tier=lambda folder: {"validation_clips": "2"},
    leaks={"one movie under two names": same_movie, "one clip in two movies": same_clip},
)


# ------------------------------------------------------------------------------------------------------------ experanto


def shown_on_screen(folder: Path, number: int) -> Path:
    return folder / "scan" / "screen" / "data" / f"{number:05d}.npy"


def screen_tier(folder: Path, number: int = 3, tier: str = "oracle") -> None:
    path = folder / "scan" / "screen" / "combined_meta.json"
    entries = json.loads(path.read_text())
    entries[f"{number:05d}"]["tier"] = tier
    path.write_text(json.dumps(entries))


def write_screen_and_responses(folder: Path) -> None:
    """Write the example of experanto's own tests, with the test image shown once more."""
    write_experanto(folder / "scan", mapped=False)
    copied(shown_on_screen(folder, 5), shown_on_screen(folder, 7))
    screen_tier(folder, 7, "live_test_main")


EXPERANTO = Example(
    "experanto",
    "experanto",
    write_screen_and_responses,
    {"path": "{}/scan", "eye_columns": "pupil_size=0,pupil_x=2,pupil_y=3", "opto": "light"},
    Movie(height=6, width=8, frame_rate=30.0),
    {"train": 4, "validation": 2, "test": 2, "excluded": 1},
    response=lambda folder: edit(folder / "scan" / "responses" / "data.npy", 20, 1),
    pixel=lambda folder: edit(shown_on_screen(folder, 3), 2, 2),
    tier=screen_tier,
    leaks={"one image in two tiers": lambda folder: copied(shown_on_screen(folder, 5), shown_on_screen(folder, 3))},
)


# ------------------------------------------------------------------------------------------------------------------ nwb


def write_nwb_images(folder: Path) -> None:
    """Write still images and spikes; the test image is shown once more in the row that the source leaves open."""
    pytest.importorskip("pynwb")
    from tests.pipeline.recordings import write_nwb as nwb

    folder.mkdir(exist_ok=True)
    nwb.write_nwb(folder / "session.nwb", nwb.rows_into_images, nwb.units, nwb.behavior, nwb.light)
    row(folder, "image_index", 4, 0)
    row(folder, "tier", 4, "test")
    row(folder, "image_index", 5, 5)
    row(folder, "tier", 5, "train")


def write_nwb_movie(folder: Path) -> None:
    """Write a movie cut by rows and dF/F; one row lies in the file's invalid times."""
    pytest.importorskip("pynwb")
    from tests.pipeline.recordings import write_nwb as nwb

    folder.mkdir(exist_ok=True)
    nwb.write_nwb(
        folder / "session.nwb",
        nwb.movie,
        nwb.ophys,
        lambda file: file.add_invalid_time_interval(start_time=12.9, stop_time=13.1),
    )


def row(folder: Path, column: str, number: int, value: float | str) -> None:
    with h5py.File(folder / "session.nwb", "r+") as file:
        file[f"intervals/trials/{column}"][number] = value


def later_unit_spike(folder: Path) -> None:
    """Move one spike within the first trial, which begins at 10 s."""
    with h5py.File(folder / "session.nwb", "r+") as file:
        times = file["units/spike_times"]
        times[int(np.flatnonzero(times[:] > 10)[0])] += 1e-9


def in_file(name: str, *index: int) -> Change:
    """Return what adds 1 to a value in an NWB file."""

    def change(folder: Path) -> None:
        with h5py.File(folder / "session.nwb", "r+") as file:
            file[name][index] = file[name][index] + 1

    return change


def same_frames(folder: Path) -> None:
    """Let the first row, for training, show the frames of the fourth, for testing: from 10.0 and 12.2 s."""
    with h5py.File(folder / "session.nwb", "r+") as file:
        frames = file["stimulus/presentation/film/data"]
        frames[1:11] = frames[45:55]


NWB_IMAGES = Example(
    "nwb images and spikes",
    "nwb",
    write_nwb_images,
    {"path": "{}/session.nwb"},
    Image(height=6, width=8, offset=0.0, duration=0.5, window="box"),
    {"train": 3, "validation": 1, "test": 2},
    response=later_unit_spike,
    pixel=in_file("stimulus/templates/scenes/im3", 1, 2),
    tier=lambda folder: row(folder, "tier", 1, "test"),
    leaks={"one image in two tiers": lambda folder: row(folder, "image_index", 2, 0)},
)
NWB_MOVIE = Example(
    "nwb movie and dF/F",
    "nwb",
    write_nwb_movie,
    {"path": "{}/session.nwb"},
    Movie(height=6, width=8, frame_rate=20.0),
    {"train": 3, "validation": 1, "test": 1, "excluded": 1},
    response=in_file("processing/ophys/DfOverF/dff/data", 20, 1),
    pixel=in_file("stimulus/presentation/film/data", 5, 2, 2),
    tier=lambda folder: row(folder, "tier", 1, "test"),
    leaks={"one clip in two tiers": same_frames},
)
