"""Examples of formats that hold still images, and of those with the same layout that hold movies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from pipeline.datasets.preprocessing import Image, Movie
from pipeline.recordings.arrays import save_arrays
from tests.pipeline.recordings.example import Example, copied, edit
from tests.pipeline.recordings.write_trial_folders import clip_example, image_example

# -------------------------------------------------------------------------------------------------------- trial folders


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


# --------------------------------------------------------------------------------------------------------------- images

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


# --------------------------------------------------------------------------------------------------------------- arrays

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
