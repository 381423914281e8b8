"""What the reader of still images gives is what is on disk, from a folder or a .zip; damage is refused by name."""

from __future__ import annotations

import logging
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RecordingError
from pipeline.recordings.base import BEHAVIOR, PUPIL, Recording, TrialValues, hash_pixels
from pipeline.recordings.trial_folders import FileTreeRecording
from tests.pipeline.recordings.write_trial_folders import UNITS, Example, image_example, zipped

Change = Callable[[Example], None]


@pytest.fixture
def example() -> Example:
    return image_example()


def opened(example: Example, folder: Path, **arguments: str) -> FileTreeRecording:
    return FileTreeRecording(str(example.write(folder / "scan")), **arguments)


def test_every_value_comes_back(example: Example, tmp_path: Path) -> None:
    recording = opened(example, tmp_path)
    order = np.argsort(example.trials["trial_idx"])
    tiers = example.trials["tiers"].astype(str)[order]
    assert [trial.trial_idx for trial in recording.trials] == list(range(12))
    assert [trial.tier for trial in recording.trials] == list(tiers)
    assert [(t.start, t.duration, t.withheld, t.exclusion) for t in recording.trials] == [
        (float(i), 0.5, False, "") for i in range(12)
    ]
    for trial, file in zip(recording.trials, order, strict=True):
        image = example.data["images"][file][:, None]
        frames = recording.frames(trial.condition_hash)
        assert trial.condition_hash == hash_pixels(image, None)
        assert frames.dtype == np.float32
        np.testing.assert_array_equal(frames, image)
        stimulus = recording.stimuli[trial.condition_hash]
        assert (stimulus.frame_rate, stimulus.shape) == (None, (1, 1, 6, 8))
        assert stimulus.stimulus_name == f"imagenet {example.trials['frame_image_id'][file]}"
        assert stimulus.stimulus_type == "imagenet"
        responses = recording.responses(trial.trial_idx)
        assert isinstance(responses, TrialValues)
        np.testing.assert_array_equal(responses.values, example.data["responses"][file])
        signals = recording.signals(trial.trial_idx)
        assert set(signals) == {*BEHAVIOR, *PUPIL}
        for names, group in ((BEHAVIOR, "behavior"), (PUPIL, "pupil_center")):
            for name, value in zip(names, example.data[group][file], strict=True):
                assert signals[name].values.tolist() == [value]
                assert signals[name].times.tolist() == [trial.start + 0.25]
    assert len(recording.stimuli) == 10
    assert recording.response_unit == "a.u."


def test_units_keep_their_annotations(example: Example, tmp_path: Path) -> None:
    units = opened(example, tmp_path).units
    assert [unit.unit_id for unit in units] == [3, 9, 4, 30, 12]
    assert [unit.unit_name for unit in units] == [f"20457-5-9-{i}" for i in (3, 9, 4, 30, 12)]
    assert [unit.area for unit in units] == ["V1", "V1", "LM", "V1", None]
    assert [unit.layer for unit in units] == ["L2/3", "L2/3", "L2/3", "L4", "L4"]
    np.testing.assert_array_equal([unit.position for unit in units], example.neurons["cell_motor_coordinates"])


def test_units_without_distinct_ids_are_numbered(example: Example, tmp_path: Path) -> None:
    example.neurons["unit_ids"] = np.array([1, 2, 3, 1, 2])
    example.neurons["scan_idx"] = np.array([7, 7, 7, 8, 8])
    units = opened(example, tmp_path / "scans").units
    assert [unit.unit_id for unit in units] == [0, 1, 2, 3, 4]
    assert [unit.unit_name for unit in units][2:4] == ["20457-5-7-3", "20457-5-8-1"]
    example.neurons = {"unit_ids": np.array([1, 2, 3, 1, 2])}
    assert [unit.unit_name for unit in opened(example, tmp_path / "same").units] == ["0", "1", "2", "3", "4"]
    example.neurons = {}
    bare = image_example()
    bare.neurons = {}
    units = opened(bare, tmp_path / "bare").units
    assert [(u.unit_id, u.unit_name, u.area, u.layer, u.position) for u in units][4] == (4, "4", None, None, None)


def test_a_unit_without_a_position(example: Example, tmp_path: Path) -> None:
    example.neurons["cell_motor_coordinates"][3, 2] = np.nan
    assert [unit.position is None for unit in opened(example, tmp_path).units] == [False, False, False, True, False]


def same(one: Recording, other: Recording) -> None:
    assert (one.units, one.trials, one.stimuli) == (other.units, other.trials, other.stimuli)
    assert one.source.fingerprint == other.source.fingerprint
    for condition in one.stimuli:
        np.testing.assert_array_equal(one.frames(condition), other.frames(condition))


@pytest.mark.parametrize("inside", ["", "static20457-5-9/"])
def test_a_zip_is_the_folder(example: Example, tmp_path: Path, inside: str) -> None:
    recording = opened(example, tmp_path)
    (tmp_path / "scan/data/images/.DS_Store").write_bytes(b"what macOS leaves behind")
    path = zipped(tmp_path / "scan", inside)
    before = sorted(tmp_path.iterdir())
    from_zip = FileTreeRecording(str(path))
    same(recording, from_zip)
    assert from_zip.source.location == {"path": str(path), "presentation": "0.5"}
    assert sorted(tmp_path.iterdir()) == before


def test_opening_again_from_the_source(example: Example, tmp_path: Path) -> None:
    recording = opened(example, tmp_path, presentation="0.25")
    same(recording, FileTreeRecording(**recording.source.location))
    assert recording.source.source_format == "filetree"


def test_the_fingerprint_tells_of_any_value(example: Example, tmp_path: Path) -> None:
    before = opened(example, tmp_path / "a").source.fingerprint
    example.data["behavior"][7][1] += 1
    assert opened(example, tmp_path / "b").source.fingerprint != before


def test_images_without_channel_and_arrays_with_a_leading_one(example: Example, tmp_path: Path) -> None:
    recording = opened(example, tmp_path / "plain")
    example.data["images"] = [image[0] for image in example.data["images"]]
    for group in ("behavior", "pupil_center", "responses"):
        example.data[group] = [values[None] for values in example.data[group]]
    same(recording, opened(example, tmp_path / "other"))


def test_colour_and_bytes(example: Example, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    example.data["images"] = [rng.integers(0, 256, (3, 6, 8), dtype=np.uint8) for _ in range(12)]
    recording = opened(example, tmp_path)
    assert {s.shape for s in recording.stimuli.values()} == {(3, 1, 6, 8)}
    assert recording.frames(recording.trials[0].condition_hash).dtype == np.uint8


def test_behaviour_is_optional(example: Example, tmp_path: Path) -> None:
    del example.data["behavior"]
    assert set(opened(example, tmp_path / "eye").signals(0)) == {*PUPIL}
    del example.data["pupil_center"]
    assert opened(example, tmp_path / "eyeless").signals(0) == {}


def test_pixels_decide_what_a_condition_is(example: Example, tmp_path: Path) -> None:
    example.trials["frame_image_id"][:] = 7  # one id for ten pictures
    assert len(opened(example, tmp_path / "a").stimuli) == 10
    example.trials["frame_image_id"] = np.arange(12)  # two ids for one picture
    recording = opened(example, tmp_path / "b")
    tests = [trial.condition_hash for trial in recording.trials if trial.tier == "test"]
    assert len(tests) == 4
    assert len(set(tests)) == 2


@pytest.mark.parametrize(
    "trial_idx", [np.array([f"{i:x}f3" for i in range(12)]), np.full(12, 4)], ids=["hashed", "repeated"]
)
def test_without_an_order_the_files_are_in_order(example: Example, tmp_path: Path, trial_idx: np.ndarray) -> None:
    example.trials["trial_idx"] = trial_idx
    recording = opened(example, tmp_path)
    got = [recording.responses(i).values for i in range(12)]
    np.testing.assert_array_equal(got, example.data["responses"])


def test_the_clock_of_the_source(example: Example, tmp_path: Path) -> None:
    example.trials["trial_idx"] = np.arange(12)[::-1]
    stamps = [f"Timestamp('2018-03-05 14:08:{40 - 2 * i:02d}')" for i in range(12)]
    example.trials["frame_trial_ts"] = np.array(stamps)
    example.trials["frame_presentation_time"] = np.array(["Decimal('0.400')"] * 11 + ["nan"])
    trials = opened(example, tmp_path / "a", presentation="0.7").trials
    assert [trial.start for trial in trials] == [2.0 * i for i in range(12)]
    assert [trial.duration for trial in trials] == [0.7] + [0.4] * 11
    example.trials["frame_trial_ts"][5] = stamps[6]  # cut to whole seconds: two trials at once
    example.trials["frame_presentation_time"] = np.full(12, 1.5)
    assert [trial.start for trial in opened(example, tmp_path / "b").trials] == [2.0 * i for i in range(12)]


def test_a_trial_of_no_tier_is_excluded(example: Example, tmp_path: Path) -> None:
    example.trials["tiers"] = np.array(["none", *example.trials["tiers"].astype(str)[1:]])
    recording = opened(example, tmp_path)
    excluded = [trial for trial in recording.trials if trial.exclusion]
    assert [(trial.tier, trial.exclusion) for trial in excluded] == [
        (None, "the source puts the trial into no tier ('none')")
    ]


def test_pixels_are_read_when_asked_for(example: Example, tmp_path: Path) -> None:
    recording = opened(example, tmp_path)
    shown = {hash_pixels(image[:, None], None): file for file, image in enumerate(example.data["images"][:6])}
    (gone, gone_file), (changed, changed_file) = list(shown.items())[:2]
    (tmp_path / f"scan/data/images/{gone_file}.npy").unlink()
    np.save(tmp_path / f"scan/data/images/{changed_file}.npy", np.zeros((1, 6, 8), np.float32))
    with pytest.raises(RecordingError, match=rf"data/images/{gone_file}\.npy is missing"):
        recording.frames(gone)
    with pytest.raises(RecordingError, match=rf"trial {changed_file} .* changed since"):
        recording.frames(changed)
    with pytest.raises(RecordingError, match="no condition abc"):
        recording.frames("abc")
    with pytest.raises(RecordingError, match="trials are 0 to 11"):
        recording.responses(12)


def test_a_deviation_a_frame_is_named_and_ignored(
    example: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        opened(example, tmp_path / "right")
        assert not caplog.records
        example.statistics["responses/stimulus_Frame/std"] = np.ones((UNITS, 300))
        opened(example, tmp_path / "wrong")
    assert re.search(r"stimulus_Frame/std.npy is ignored: its shape is \(5, 300\)", caplog.text)


def test_behaviour_of_zeros_is_left_out(example: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    example.data["behavior"] = [np.zeros(3)] * 12
    assert set(opened(example, tmp_path).signals(0)) == {*PUPIL}
    assert "data/behavior holds nothing but zeros" in caplog.text


def silence(tier: str) -> Change:
    def change(example: Example) -> None:
        for index, name in enumerate(example.trials["tiers"].astype(str)):
            if name == tier:
                example.data["responses"][index] = np.zeros(UNITS, np.float32)

    return change


def put(name: str, index: int, value: object) -> Change:
    return lambda example: example.data[name].__setitem__(index, np.asarray(value))


def short(name: str, count: int) -> Change:
    return lambda example: example.data.update({name: example.data[name][:count]})


DAMAGE: dict[str, tuple[Change, str]] = {
    "responses end early": (short("responses", 10), r"data/responses/10.npy \(trial 10\) and 1 more is missing.*12 tr"),
    "a file too many": (lambda e: e.data["images"].append(e.data["images"][0]), "data/images/12.npy belongs to no"),
    "no responses": (lambda e: e.data.pop("responses"), "has no data/responses: it holds data/behavior"),
    "no tiers": (lambda e: e.trials.pop("tiers"), "meta/trials/tiers.npy is missing"),
    "fewer tiers": (
        lambda e: e.trials.update(tiers=e.trials["tiers"][:11]),
        "11.npy belongs to no trial: meta/trials/tiers.npy has 11 trials, data/images has 12",
    ),
    "numbers as tiers": (lambda e: e.trials.update(tiers=np.arange(12)), r"tiers.npy: int64 \(12,\), but one text"),
    "unknown tier": (
        lambda e: e.trials.update(tiers=np.array(["train"] * 7 + ["holdout"] * 5)),
        "tiers.npy, trial 7: unknown tier 'holdout'; known are train",
    ),
    "an odd trial meta": (lambda e: e.trials.update(trial_idx=np.arange(9)), r"trial_idx.npy: shape \(9,\).*12 trials"),
    "an odd unit meta": (lambda e: e.neurons.update(area=np.array(["V1"])), r"area.npy: shape \(1,\).* 5 neurons"),
    "flat positions": (
        lambda e: e.neurons.update(cell_motor_coordinates=np.zeros((5, 2))),
        r"cell_motor_coordinates.npy: shape \(5, 2\), but \(5, 3\)",
    ),
    "a unit less": (put("responses", 4, np.ones(4)), r"data/responses/4.npy: shape \(4,\), but \(5\) is needed"),
    "another size": (put("images", 4, np.ones((1, 6, 9))), r"data/images/4.npy: .*\(1, 1, 6, 9\), but \(1, 1, 6, 8\)"),
    "channels last": (put("images", 0, np.ones((6, 8, 3))), r"images/0.npy: shape \(6, 8, 3\), but \(1 to 4 channels"),
    "text": (put("responses", 3, ["a"] * 5), r"data/responses/3.npy: dtype <U1, but numbers"),
    "objects": (put("behavior", 3, np.array([1, 2, None])), "behavior/3.npy cannot be read.*Python objects are never"),
    "NaN response": (
        put("responses", 2, [0, 1, np.nan, 2, 3]), "data/responses/2.npy, unit 20457-5-9-4: NaN or infinity"),
    "NaN pixel": (put("images", 2, np.full((1, 6, 8), np.nan)), "data/images/2.npy: 48 pixels are NaN"),
    "NaN pupil": (put("behavior", 2, [np.nan, 0, 0]), "data/behavior/2.npy: pupil_size is nan"),
    "withheld": (silence("test"), "all 4 trials of the tier 'test'.*8.npy.*'sensorium2022'"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_refused_by_name(example: Example, tmp_path: Path, change: Change, message: str) -> None:
    change(example)
    with pytest.raises(RecordingError, match=message):
        opened(example, tmp_path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.unlink(), r"data/responses/5.npy \(trial 5\) is missing"),
        (cut, "data/responses/5.npy cannot be read"),
        (lambda p: p.write_bytes(b""), "data/responses/5.npy cannot be read"),
        (lambda p: p.write_bytes(b"PK\x03\x04 no array"), "data/responses/5.npy cannot be read"),
        (lambda p: p.rename(p.with_name("five.npy")), r"data/responses/5.npy \(trial 5\) is missing"),
    ],
    ids=["gone", "truncated", "empty", "no npy", "renamed"],
)
@pytest.mark.parametrize("as_zip", [False, True])
def test_damaged_files(
    example: Example, tmp_path: Path, spoil: Callable[[Path], object], message: str, as_zip: bool
) -> None:
    folder = example.write(tmp_path / "scan")
    spoil(folder / "data/responses/5.npy")
    with pytest.raises(RecordingError, match=message):
        FileTreeRecording(str(zipped(folder) if as_zip else folder))


def test_bad_archives(example: Example, tmp_path: Path) -> None:
    path = zipped(example.write(tmp_path / "scan"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../outside.npy", b"")
    with pytest.raises(RecordingError, match=r"the member '\.\./outside.npy' points outside"):
        FileTreeRecording(str(path))
    path = zipped(tmp_path / "scan")
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, of the second member of this name
        archive.writestr("data/images/0.npy", b"")
    with pytest.raises(RecordingError, match=r"holds data/images/0.npy twice"):
        FileTreeRecording(str(path))
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(RecordingError, match=r"scan-flat.zip is no .zip archive, or a damaged one"):
        FileTreeRecording(str(path))


def test_a_flipped_bit_in_an_archive(example: Example, tmp_path: Path) -> None:
    path = tmp_path / "stored.zip"
    folder = example.write(tmp_path / "scan")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.npy"):
            archive.write(file, file.relative_to(folder).as_posix())
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("data/responses/3.npy")
    content = bytearray(path.read_bytes())
    content[content.index(b"\x93NUMPY", member.header_offset) + 128] ^= 1
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"data/responses/3.npy cannot be read.*CRC"):
        FileTreeRecording(str(path))


def test_the_place_must_hold_one_recording(example: Example, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="nowhere: no such folder"):
        FileTreeRecording(str(tmp_path / "nowhere"))
    with pytest.raises(RecordingError, match=r"nowhere.zip: no such file"):
        FileTreeRecording(str(tmp_path / "nowhere.zip"))
    with pytest.raises(RecordingError, match="holds no folders data and meta"):
        FileTreeRecording(str(tmp_path))
    example.write(tmp_path / "one")
    assert len(FileTreeRecording(str(tmp_path)).trials) == 12
    example.write(tmp_path / "two")
    with pytest.raises(RecordingError, match=r"holds 2 recordings \(one/, two/\)"):
        FileTreeRecording(str(tmp_path))
    with pytest.raises(RecordingError, match="presentation is 'long'"):
        FileTreeRecording(str(tmp_path / "one"), presentation="long")
