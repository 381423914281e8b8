"""Image files and an array of responses come back value by value; a zip is read as the folder is; damage is named."""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RecordingError
from pipeline.metrics import oracle_correlation
from pipeline.recordings.base import hash_pixels
from pipeline.recordings.images import ImagesRecording
from pipeline.recordings.tiers import assign_tiers

N_UNITS, N_IMAGES, N_REPEATS = 4, 6, 3
HEIGHT, WIDTH = 7, 9
V4 = Path(__file__).parents[4] / "shared" / "data" / "macaque_v4_210325"


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def answers() -> np.ndarray:
    """Image i has i % 3 + 1 repeats; the rest is NaN."""
    values = np.random.default_rng(99).poisson(3, (N_UNITS, N_IMAGES, N_REPEATS)).astype(float)
    for image in range(N_IMAGES):
        values[:, image, image % N_REPEATS + 1 :] = np.nan
    return values


@dataclass
class Disk:
    """A folder of images and responses that tests damage before they `open` them."""

    folder: Path

    @property
    def responses(self) -> Path:
        return self.folder / "responses.npy"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def image(self, index: int) -> Path:
        return self.images / f"image{index:02d}.png"

    def draw(self, index: int, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(self.image(index))

    def table(self, *lines: str) -> str:
        (self.folder / "tiers.csv").write_text("\n".join(lines))
        return str(self.folder / "tiers.csv")

    def zipped(self, top: str = "") -> Path:
        with zipfile.ZipFile(self.folder / "images.zip", "w") as archive:
            for file in self.images.rglob("*"):
                archive.write(file, top + file.relative_to(self.images).as_posix())
        return self.folder / "images.zip"

    def open(self, **location: str) -> ImagesRecording:
        return ImagesRecording(**({"images": str(self.images), "responses": str(self.responses)} | location))


@pytest.fixture
def disk(tmp_path) -> Disk:
    disk = Disk(tmp_path)
    (disk.images / "__MACOSX").mkdir(parents=True)
    for index in range(N_IMAGES):
        disk.draw(index, picture(index))
    (disk.images / "readme.txt").write_text("no image")
    (disk.images / ".image00.png").write_text("a hidden file")
    (disk.images / "__MACOSX" / "image00.png").write_text("what macOS adds")
    np.save(disk.responses, answers())
    return disk


def test_every_pixel_and_response_comes_back(disk):
    recording = disk.open(presentation_time="0.25", response_unit="Hz")
    trials = [
        (image, repeat) for repeat in range(N_REPEATS) for image in range(N_IMAGES) if image % N_REPEATS >= repeat
    ]
    assert len(recording.trials) == len(trials) == 12
    assert len(recording.stimuli) == N_IMAGES
    for trial, (image, repeat) in zip(recording.trials, trials, strict=True):
        pixels = recording.frames(trial.condition_hash)
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, picture(image).transpose(2, 0, 1)[:, None])
        assert trial.condition_hash == hash_pixels(pixels, None)
        stimulus = recording.stimuli[trial.condition_hash]
        assert (stimulus.shape, stimulus.frame_rate) == ((3, 1, HEIGHT, WIDTH), None)
        assert stimulus.stimulus_name == f"image{image:02d}.png"
        assert np.array_equal(recording.responses(trial.trial_idx).values, answers()[:, image, repeat])
        assert (trial.start, trial.duration, trial.tier) == (0.25 * trial.trial_idx, 0.25, None)
    assert [unit.unit_id for unit in recording.units] == list(range(N_UNITS))
    assert recording.response_unit == "Hz"
    assert ImagesRecording(**recording.source.location).source == recording.source


@pytest.mark.parametrize("top", ["", "stimuli/set 1/"])
def test_a_zip_equals_its_folder(disk, top):
    folder, archive = disk.open(tiers="train,test"), disk.open(images=str(disk.zipped(top)), tiers="train,test")
    assert archive.trials == folder.trials
    assert archive.stimuli == folder.stimuli
    assert archive.source.fingerprint == folder.source.fingerprint
    for condition in folder.stimuli:
        assert np.array_equal(archive.frames(condition), folder.frames(condition))


def test_responses_without_repeats_and_without_nan(disk):
    np.save(disk.responses, np.arange(N_UNITS * N_IMAGES).reshape(N_UNITS, N_IMAGES))
    recording = disk.open()
    assert len(recording.trials) == N_IMAGES
    assert recording.responses(2).values.tolist() == [2, 8, 14, 20]


def test_tiers_are_dealt_in_turn(disk):
    recording = disk.open(tiers="train, train, val, test")
    names = {trial.condition_hash: trial.tier for trial in recording.trials}
    by_image = [names[condition] for condition in recording.stimuli]
    assert by_image == ["train", "train", "validation", "test", "train", "train"]


def test_tiers_from_a_table(disk):
    table = disk.table(
        "tier,image", *(f"{tier},image{i:02d}.png" for i, tier in enumerate(["test", "", *["train"] * 4]))
    )
    recording = disk.open(tiers=table)
    names = {trial.condition_hash: trial.tier for trial in recording.trials}
    assert [names[condition] for condition in recording.stimuli] == ["test", None, *["train"] * 4]
    assert recording.source.location["tiers"] == os.path.abspath(table)


def test_the_same_picture_under_two_names_is_one_condition(disk, caplog):
    disk.draw(5, picture(2))
    recording = disk.open(tiers="train")
    shared = hash_pixels(recording.frames(recording.trials[2].condition_hash), None)
    assert len(recording.stimuli) == N_IMAGES - 1
    assert recording.stimuli[shared].stimulus_name == "image02.png"
    assert sum(trial.condition_hash == shared for trial in recording.trials) == 6
    assert not caplog.text
    torn = disk.open(tiers="train,train,test")  # images 2 and 5 are both test
    assert {trial.tier for trial in torn.trials if trial.condition_hash == shared} == {"test"}
    torn = disk.open(tiers="train,train,train,test,test,test")
    assert "image02.png (train) and image05.png (test) have the same pixels" in caplog.text
    with pytest.raises(RecordingError, match="is in two tiers"):
        assign_tiers(torn.trials)


def test_a_partly_missing_repeat_is_refused_or_excluded(disk):
    values = answers()
    values[2, 4, 1] = np.nan
    np.save(disk.responses, values)
    with pytest.raises(RecordingError, match=r"image 4 \(image04.png\), repeat 1, unit 2 is NaN \(1 of 4 units"):
        disk.open()
    excluded = [trial.trial_idx for trial in disk.open(nan="exclude").trials if trial.exclusion]
    assert excluded == [8]  # after six first repeats, images 1 and 2 come before image 4
    assert disk.open(nan="exclude").trials[8].exclusion == "responses of 1 of 4 units are NaN"


def test_an_image_that_was_never_shown_is_left_out(disk, caplog):
    values = answers()
    values[:, 1] = np.nan
    np.save(disk.responses, values)
    disk.image(1).write_text("not even an image")
    recording = disk.open()
    assert [s.stimulus_name for s in recording.stimuli.values()] == [f"image{i:02d}.png" for i in (0, 2, 3, 4, 5)]
    assert "1 images without responses are left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "pixels", "dtype"),
    [
        ("grey.png", picture(0)[..., 0], np.uint8),
        ("grey.bmp", picture(0)[..., 0], np.uint8),
        ("colour.tif", picture(0), np.uint8),
        ("deep.png", picture(0)[..., 0].astype(np.uint16) * 257, np.uint16),
        ("deep.tiff", picture(0)[..., 0].astype(np.uint16) * 257, np.uint16),
        ("real.tif", picture(0)[..., 0] / np.float32(255), np.float32),
        ("bits.png", picture(0)[..., 0] > 127, np.uint8),
    ],
)
def test_kinds_of_images_keep_their_values(tmp_path, name, pixels, dtype):
    (tmp_path / "one").mkdir()
    Image.fromarray(pixels).save(tmp_path / "one" / name)
    np.save(tmp_path / "r.npy", np.ones((2, 1)))
    recording = ImagesRecording(str(tmp_path / "one"), str(tmp_path / "r.npy"))
    found = recording.frames(recording.trials[0].condition_hash)
    wanted = np.atleast_3d(pixels).transpose(2, 0, 1)[:, None]
    assert found.dtype == dtype
    assert np.array_equal(found, wanted * np.uint8(255) if pixels.dtype == bool else wanted)


def test_a_palette_is_only_a_way_to_write_colours(disk):
    few = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    few[:, :4], few[:, 4:] = (250, 10, 3), (1, 2, 200)
    Image.fromarray(few).quantize(4).save(disk.image(0))
    recording = disk.open()
    assert Image.open(disk.image(0)).mode == "P"
    assert np.array_equal(recording.frames(recording.trials[0].condition_hash)[:, 0], few.transpose(2, 0, 1))


def test_an_order_in_doubt_must_be_said(tmp_path):
    (tmp_path / "images").mkdir()
    for index in (1, 2, 10):
        Image.fromarray(picture(index)).save(tmp_path / "images" / f"im{index}.png")
    np.save(tmp_path / "r.npy", np.ones((2, 3)))
    location = {"images": str(tmp_path / "images"), "responses": str(tmp_path / "r.npy")}
    with pytest.raises(RecordingError, match=r"image 1 is im10\.png in order of name, but im2\.png in order of number"):
        ImagesRecording(**location)
    for order, names in (("name", ["im1.png", "im10.png", "im2.png"]), ("number", ["im1.png", "im2.png", "im10.png"])):
        found = ImagesRecording(**location, order=order)
        assert [stimulus.stimulus_name for stimulus in found.stimuli.values()] == names


def test_a_suffix_selects_files(disk):
    Image.fromarray(picture(7)).save(disk.images / "mean.bmp")
    with pytest.raises(RecordingError, match=r"responses to 6 images, but .* holds 7 image files"):
        disk.open()
    assert len(disk.open(suffix=".png").stimuli) == N_IMAGES


def _multipage(disk: Disk) -> None:
    disk.image(3).unlink()
    pages = [Image.fromarray(picture(index)) for index in (3, 4)]
    pages[0].save(disk.images / "image03.tif", save_all=True, append_images=pages[1:])


def _archived(disk: Disk, member: str) -> None:
    with zipfile.ZipFile(disk.folder / "images.zip", "w") as archive:
        archive.writestr(member, disk.image(0).read_bytes())


DAMAGE = {
    "no images": (lambda d: [p.unlink() for p in d.images.glob("*.png")], "holds no image files"),
    "an image is missing": (lambda d: d.image(3).unlink(), r"responses to 6 images, but .* holds 5 image files"),
    "an image is cut off": (
        lambda d: d.image(3).write_bytes(d.image(3).read_bytes()[:120]),
        r"image03\.png is damaged",
    ),
    "an image is no image": (lambda d: d.image(3).write_text("pixels"), r"image03\.png cannot be read as an image"),
    "a program for a printer is no image": (
        lambda d: d.image(3).write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 7\n"),
        r"image03\.png cannot be read as an image",
    ),
    "an image of another size": (
        lambda d: d.draw(3, picture(3)[1:]),
        r"image03\.png has 3 channels of 6 x 9 pixels, uint8, but .*image00\.png has 3 channels of 7 x 9",
    ),
    "a grey image among colours": (
        lambda d: d.draw(3, picture(3)[..., 0]),
        r"image03\.png has 1 channel of 7 x 9 .*image00\.png has 3 channels",
    ),
    "transparency": (
        lambda d: d.draw(3, np.dstack([picture(3), picture(4)[..., :1]])),
        r"image03\.png has the colour mode RGBA",
    ),
    "several images in one file": (_multipage, r"image03\.tif holds 2 images"),
    "no responses": (lambda d: d.responses.unlink(), r"responses\.npy: no such file of responses"),
    "responses of text": (lambda d: np.save(d.responses, np.full((4, 6), "a")), r"responses\.npy .*dtype <U1"),
    "pickled responses": (
        lambda d: np.save(d.responses, np.array([[{}]]), allow_pickle=True),
        r"responses\.npy \(responses\) cannot be read",
    ),
    "one axis": (lambda d: np.save(d.responses, np.ones(6)), r"shape \(6,\), but \(any, any, any\)"),
    "axes in another order": (
        lambda d: np.save(d.responses, answers().swapaxes(0, 1)),
        r"responses to 4 images, but .* holds 6",
    ),
    "infinity": (
        lambda d: np.save(d.responses, np.where(np.arange(6)[:, None] == 2, np.inf, answers())),
        "trial 2, unit unit_0: responses hold NaN or infinity",
    ),
    "no numbers at all": (lambda d: np.save(d.responses, np.full((4, 6), np.nan)), "no trials"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_by_name(disk, case):
    damage, message = DAMAGE[case]
    damage(disk)
    with pytest.raises(RecordingError, match=message):
        disk.open()


@pytest.mark.parametrize("member", ["../image00.png", "/image00.png", "a/../../b.png"])
def test_members_that_leave_the_archive_are_refused(disk, member):
    _archived(disk, member)
    with pytest.raises(RecordingError, match="leaves the archive"):
        disk.open(images=str(disk.folder / "images.zip"))


def test_a_damaged_archive_is_refused(disk):
    archive = disk.zipped()
    whole = bytearray(archive.read_bytes())
    at = whole.index(disk.image(3).read_bytes())
    whole[at + 60] ^= 255
    archive.write_bytes(whole)
    with pytest.raises(RecordingError, match=r"images\.zip/image03\.png cannot be read .*CRC"):
        disk.open(images=str(archive))
    archive.write_bytes(whole[:500])
    with pytest.raises(RecordingError, match=r"images\.zip is no zip file"):
        disk.open(images=str(archive))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": "nowhere"}, "nowhere: no such folder or zip file of images"),
        ({"tiers": "train,exam"}, "tiers: unknown tier 'exam'"),
        ({"tiers": "nowhere.csv"}, "nowhere.csv: no such file of tiers"),
        ({"suffix": ".gif"}, "suffix '.gif' must be one of .png"),
        ({"order": "size"}, "order 'size' must be one of name, number"),
        ({"nan": "guess"}, "nan 'guess' must be one of refuse, exclude"),
        ({"presentation_time": "short"}, "presentation_time 'short' must be a number"),
        ({"presentation_time": "0"}, "duration 0.0 s must be"),
    ],
)
def test_wrong_arguments_are_refused_by_name(disk, wrong, message):
    with pytest.raises(RecordingError, match=re.escape(message)):
        disk.open(**wrong)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,tier", "image00.png,exam"], "line 2, image00.png: unknown tier 'exam'"),
        (["image,tier", "other.png,test"], "line 2: 'other.png' is none of the image files"),
        (["image,tier", "image00.png,test", "image00.png,train"], "line 3: image00.png has a row already"),
        (["image,tier", "image00.png,test"], "has no row for image01.png (5 images in all)"),
        (["image,set", "image00.png,test"], "line 2: the columns image and tier are needed"),
        (["image,tier", "image00.png"], "line 2: the columns image and tier are needed"),
    ],
)
def test_wrong_tables_of_tiers_are_refused_by_line(disk, lines, message):
    with pytest.raises(RecordingError, match=re.escape(message)):
        disk.open(tiers=disk.table(*lines))


def test_changed_pixels_and_unknown_names(disk):
    recording = disk.open()
    disk.draw(0, picture(12))
    with pytest.raises(RecordingError, match=r"image00\.png changed since"):
        recording.frames(recording.trials[0].condition_hash)
    with pytest.raises(RecordingError, match="no condition abc"):
        recording.frames("abc")
    with pytest.raises(RecordingError, match="no trial 12: trials are 0 to 11"):
        recording.responses(12)


@pytest.mark.skipif(not V4.is_dir(), reason=f"{V4} is not there")
def test_macaque_v4():
    """50 neurons, 640 images, 6 to 10 repeats; the published oracle is 0.471 (see README.md beside the data)."""
    recording = ImagesRecording(
        str(V4 / "images_210325.zip"),
        str(V4 / "responses_raw_210325.npy"),
        tiers="train,train,train,validation,test",
    )
    assert len(recording.units) == 50
    assert len(recording.stimuli) == 640
    assert {stimulus.shape for stimulus in recording.stimuli.values()} == {(3, 1, 112, 112)}
    assert not any(trial.exclusion for trial in recording.trials)
    assigned = assign_tiers(recording.trials).tiers
    assert Counter(assigned.values()) == {"train": 384, "validation": 128, "test": 128}
    assert [assigned[condition] for condition in list(recording.stimuli)[:5]] == [
        "train", "train", "train", "validation", "test"
    ]  # fmt: skip
    repeats: dict[str, list[np.ndarray]] = {}
    for trial in recording.trials:
        repeats.setdefault(trial.condition_hash, []).append(recording.responses(trial.trial_idx).values[:, None])
    assert {len(trials) for trials in repeats.values()} == {6, 7, 8, 9, 10}
    test = [np.stack(trials) for condition, trials in repeats.items() if assigned[condition] == "test"]
    assert oracle_correlation(test).mean() == pytest.approx(0.471, abs=5e-4)
    assert oracle_correlation([np.stack(trials) for trials in repeats.values()]).mean() == pytest.approx(
        0.471, abs=5e-4
    )
