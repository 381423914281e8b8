"""A small valid example of every format, each with a test tier that repeats, and what can be changed in it.

An `Example` writes its source into any folder; its changes alter one value there, its leaks show what trains in the
test tier as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image as Picture

from pipeline.datasets.preprocessing import Image, Movie
from pipeline.recordings import Recording, Responses, SpikeTimes, Traces, Trial, open_recording
from pipeline.recordings.arrays import save_arrays
from pipeline.recordings.video import write_video
from tests.pipeline.recordings.write_experanto import write_experanto
from tests.pipeline.recordings.write_trial_folders import clip_example, image_example

Change = Callable[[Path], Mapping[str, str] | None]
"""Alters the source in a folder; returns what changes among the arguments of its reader, if anything."""


@dataclass(frozen=True)
class Example:
    """One small recording on disk.

    Attributes
    ----------
    name, source_format : str
    write : callable
        Writes the source into a folder.
    arguments : mapping
        Of the reader; ``{}`` stands for the folder.
    preprocessing : Movie or Image
        Leaves size and frame rate as they are.
    trials : mapping
        How many trials each tier's loader has; 'withheld' and 'excluded' count apart.
    response, pixel, tier : callable
        Change one value of each kind.
    leaks : mapping
        Ways in which a training stimulus gets into the test tier.
    """

    name: str
    source_format: str
    write: Callable[[Path], object]
    arguments: Mapping[str, str]
    preprocessing: Movie | Image
    trials: Mapping[str, int]
    response: Change
    pixel: Change
    tier: Change
    leaks: Mapping[str, Change] = field(default_factory=dict)

    def open(self, folder: Path, change: Change | None = None) -> Recording:
        """Open the source in a folder, after a change if one is given."""
        changed = (change(folder) if change else None) or {}
        location = {name: text.replace("{}", str(folder)) for name, text in {**self.arguments, **changed}.items()}
        return open_recording(self.source_format, **location)


def binned(recording: Recording, trial: Trial, preprocessing: Movie | Image, bins: int = 1) -> np.ndarray:
    """Return the responses of one trial as a dataset must hold them, (unit, time) or (unit,), by numpy alone.

    Sampled traces are interpolated, so their clock must not be faster than the bins.
    """
    found: Responses = recording.responses(trial.trial_idx, margin=1.0)
    if isinstance(preprocessing, Image):
        edges = trial.start + preprocessing.offset + np.array([0, preprocessing.duration])
    else:
        edges = trial.start + np.arange(bins + 1) / preprocessing.frame_rate
    if isinstance(found, SpikeTimes):
        counts = np.stack([np.histogram(times, edges)[0] for times in found.times])
        return counts if isinstance(preprocessing, Movie) else counts[:, 0]
    if isinstance(found, Traces):
        delays = np.zeros(len(found.values)) if found.delays is None else found.delays
        centres = (edges[1:] + edges[:-1]) / 2
        pairs = zip(found.values, delays, strict=True)
        return np.stack([np.interp(centres, found.times + delay, trace) for trace, delay in pairs])
    return found.values


def usable(recording: Recording) -> list[Trial]:
    """Return the trials that the source does not exclude."""
    return [trial for trial in recording.trials if not trial.exclusion]


def bins_of(recording: Recording, trials: list[Trial], frame_rate: float) -> dict[str, int]:
    """Return for how many bins each condition was shown in every one of the trials."""
    found: dict[str, int] = {}
    for trial in trials:
        stimulus = recording.stimuli[trial.condition_hash]
        seconds = [trial.duration, *([stimulus.shape[1] / stimulus.frame_rate] if stimulus.frame_rate else [])]
        here = int(min(seconds) * frame_rate + 1e-6)
        found[trial.condition_hash] = min(here, found.get(trial.condition_hash, here))
    return found


def edit(path: Path, *index: int, by: float = 1) -> None:
    """Add to one value of an array on disk; pixels wrap around."""
    values = np.load(path)
    values[index] += np.asarray(by).astype(values.dtype)
    np.save(path, values)


def copied(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


# ------------------------------------------------------------------------------------------------------------ thesis

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


# ----------------------------------------------------------------------------------------------------- trial folders


def write_filetree(folder: Path) -> None:
    example = image_example()
    example.trials["tiers"][0] = "none"
    example.write(folder / "scan")


def write_sensorium2022(folder: Path) -> None:
    """Write a scan whose last test, of three images, is withheld."""
    example = image_example(final=3)
    example.data["responses"][12:] = [np.zeros_like(values) for values in example.data["responses"][12:]]
    example.write(folder / "scan")


def write_sensorium2023(folder: Path) -> None:
    """Write a scan whose test clip was shown twice and whose clip of another distribution is withheld."""
    example = clip_example()
    for arrays in example.data.values():
        arrays.append(arrays[6])
    example.data["responses"][9] = example.data["responses"][6] * 1.5 + 1
    example.data["responses"][7] = example.data["responses"][7] * 0
    for name, last in (("tiers", "live_test_main"), ("movie_names", "clip6"), ("types", "stimulus.Clip")):
        example.trials[name] = np.append(example.trials[name], last)
    example.write(folder / "scan")


def source_tier(folder: Path) -> None:
    path = folder / "scan" / "meta" / "trials" / "tiers.npy"
    tiers = np.load(path)
    tiers[1] = "validation"
    np.save(path, tiers.astype("U16"))


def of_data(name: str) -> Callable[[Path, int], Path]:
    return lambda folder, index: folder / "scan" / "data" / name / f"{index}.npy"


an_image, a_video, a_response = of_data("images"), of_data("videos"), of_data("responses")


def trial_folder(
    source_format: str,
    write: Callable[[Path], None],
    preprocessing: Movie | Image,
    trials: Mapping[str, int],
    stimulus: Callable[[Path, int], Path],
    tested: int,
) -> Example:
    """Return an example in which the trial with the number ``tested`` is of the test tier, as 2 is of training."""
    return Example(
        source_format,
        source_format,
        write,
        {"path": "{}/scan"},
        preprocessing,
        trials,
        response=lambda folder: edit(a_response(folder, 3), 2),
        pixel=lambda folder: edit(stimulus(folder, 3), 0, 1, 2),
        tier=source_tier,
        leaks={"one stimulus in two tiers": lambda folder: copied(stimulus(folder, tested), stimulus(folder, 3))},
    )


FILETREE = trial_folder(
    "filetree",
    write_filetree,
    Image(height=6, width=8),
    {"train": 5, "validation": 2, "test": 4, "excluded": 1},
    an_image,
    tested=8,
)
SENSORIUM2022 = trial_folder(
    "sensorium2022",
    write_sensorium2022,
    Image(height=6, width=8),
    {"train": 6, "validation": 2, "test": 4, "withheld": 3},
    an_image,
    tested=8,
)
SENSORIUM2023 = trial_folder(
    "sensorium2023",
    write_sensorium2023,
    Movie(height=6, width=8, frame_rate=30.0),
    {"train": 4, "validation": 2, "test": 2, "withheld": 1, "excluded": 1},
    a_video,
    tested=6,
)


# -------------------------------------------------------------------------------------------------------- openretina

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


# --------------------------------------------------------------------------------------------------------- experanto


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


# --------------------------------------------------------------------------------------------------------------- nwb


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


# ------------------------------------------------------------------------------------------------------------ images

PICTURE_TIERS = ("train", "train", "train", "validation", "test", "train", "train", "validation", "test", "train")
PICTURE_UNITS = 4


def picture(number: int) -> np.ndarray:
    """Return (height, width, channel)."""
    return np.random.default_rng(number).integers(0, 256, (7, 9, 3), dtype=np.uint8)


def draw(folder: Path, number: int, pixels: np.ndarray) -> None:
    Picture.fromarray(pixels).save(folder / "images" / f"image{number:02d}.png")


def write_images(folder: Path) -> None:
    """Write ten images, those for testing with three repeats, and a tenth of which one unit's response is unknown."""
    (folder / "images").mkdir(parents=True)
    responses = np.full((PICTURE_UNITS, len(PICTURE_TIERS), 3), np.nan)
    for number, tier in enumerate(PICTURE_TIERS):
        draw(folder, number, picture(number))
        repeats = 3 if tier == "test" else 1
        drive = np.random.default_rng([1, number]).gamma(2.0, 3.0, (PICTURE_UNITS, 1))
        responses[:, number, :repeats] = np.random.default_rng([2, number]).poisson(drive, (PICTURE_UNITS, repeats))
    responses[2, 9, 0] = np.nan
    np.save(folder / "responses.npy", responses)
    write_tiers(folder, PICTURE_TIERS)


def write_tiers(folder: Path, tiers: tuple[str, ...]) -> None:
    lines = ["image,tier", *(f"image{number:02d}.png,{tier}" for number, tier in enumerate(tiers))]
    (folder / "tiers.csv").write_text("\n".join(lines))


IMAGES = Example(
    "images",
    "images",
    write_images,
    {"images": "{}/images", "responses": "{}/responses.npy", "tiers": "{}/tiers.csv", "nan": "exclude"},
    Image(height=7, width=9),
    {"train": 5, "validation": 2, "test": 6, "excluded": 1},
    response=lambda folder: edit(folder / "responses.npy", 1, 2, 0),
    pixel=lambda folder: draw(folder, 1, picture(1) ^ (np.arange(27 * 7) == 40).reshape(7, 9, 3).astype(np.uint8)),
    tier=lambda folder: write_tiers(folder, ("validation", *PICTURE_TIERS[1:])),
    leaks={"one picture in two files": lambda folder: draw(folder, 0, picture(4))},
)


# ------------------------------------------------------------------------------------------------------------ arrays

ARRAY_TIERS = ["train", "train", "train", "validation", "test"]
ARRAYS_SHOWN = (0, 4, 1, 2, 4, 3, 4)


def write_still_arrays(folder: Path) -> None:
    rng = np.random.default_rng(5)
    save_arrays(
        folder / "scan",
        images=rng.integers(0, 256, (5, 6, 7), dtype=np.uint8),
        shown=ARRAYS_SHOWN,
        responses=rng.gamma(2.0, 1.0, (len(ARRAYS_SHOWN), 4)),
        durations=0.5,
        tiers=ARRAY_TIERS,
        response_unit="Hz",
        unit_ids=[30, 10, 20, 40],
        areas=["V1", None, "LM", "V1"],
        pupil_size=rng.gamma(2.0, 1.0, len(ARRAYS_SHOWN)),
    )


def write_moving_arrays(folder: Path) -> None:
    rng = np.random.default_rng(6)
    movies = [rng.integers(0, 256, (n_frames, 6, 7), dtype=np.uint8) for n_frames in (9, 12, 10, 8, 11)]
    seconds = [len(movies[number]) / 10 for number in ARRAYS_SHOWN]
    spikes = [[np.sort(rng.uniform(0, length, rng.integers(30))) for _ in range(3)] for length in seconds]
    save_arrays(
        folder / "scan",
        videos=movies,
        frame_rate=10,
        shown=ARRAYS_SHOWN,
        spike_times=spikes,
        tiers=ARRAY_TIERS,
        opto_pulses=[[[0.2, 0.4]], *[[]] * (len(ARRAYS_SHOWN) - 1)],
    )


def described_tier(folder: Path) -> None:
    path = folder / "scan" / "recording.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tiers": ["test", *ARRAY_TIERS[1:]]}))


def same_stimulus(folder: Path, name: str, rows: slice, tested: slice) -> None:
    path = folder / "scan" / f"{name}.npy"
    values = np.load(path)
    values[rows] = values[tested]
    np.save(path, values)


def same_video(folder: Path) -> None:
    """Let the first video be the last, which is longer."""
    path, counts = folder / "scan" / "videos.npy", folder / "scan" / "videos_counts.npy"
    frames = np.load(path)
    np.save(path, np.concatenate([frames[-11:], frames[9:]]))
    edit(counts, 0, by=2)


ARRAYS = Example(
    "arrays of images",
    "arrays",
    write_still_arrays,
    {"path": "{}/scan"},
    Image(height=6, width=7),
    {"train": 3, "validation": 1, "test": 3},
    response=lambda folder: edit(folder / "scan" / "responses.npy", 3, 2),
    pixel=lambda folder: edit(folder / "scan" / "images.npy", 1, 0, 2, 2),
    tier=described_tier,
    leaks={"one image twice": lambda folder: same_stimulus(folder, "images", slice(0, 1), slice(4, 5))},
)
MOVING_ARRAYS = Example(
    "arrays of movies and spikes",
    "arrays",
    write_moving_arrays,
    {"path": "{}/scan"},
    Movie(height=6, width=7, frame_rate=10.0),
    {"train": 3, "validation": 1, "test": 3},
    response=lambda folder: edit(folder / "scan" / "spike_times.npy", 0, by=-1e-9),
    pixel=lambda folder: edit(folder / "scan" / "videos.npy", 3, 0, 2, 2),
    tier=described_tier,
    leaks={"one video twice": same_video},
)

EXAMPLES = (
    THESIS, FILETREE, SENSORIUM2022, SENSORIUM2023, OPENRETINA, EXPERANTO, NWB_IMAGES, NWB_MOVIE, IMAGES, ARRAYS,
    MOVING_ARRAYS,
)  # fmt: skip
