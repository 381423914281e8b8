"""Ingest: every row right, the same again changes nothing, and a damaged source leaves nothing."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import GeniculateError, RecordingError
from pipeline.recordings import Recording, Source, SpikeTimes, Stimulus, Trial, Unit

pytestmark = pytest.mark.database
Key = dict[str, Any]


def tables() -> tuple[Any, ...]:
    from schemas import recording, stimulus

    return (
        recording.Subject, recording.Session, recording.Scan, recording.Scan.Unit, stimulus.Condition,
        stimulus.Condition.Video, stimulus.Condition.Image, stimulus.Trial, stimulus.ExcludedTrial,
        stimulus.ConditionTier,
    )  # fmt: skip


def counts() -> list[int]:
    return [len(table()) for table in tables()]


def test_every_row_is_right(scan: Key, simulated: Path) -> None:
    from schemas import recording, stimulus

    table = pd.read_pickle(simulated / "responses.pkl")
    row = (recording.Scan & scan).fetch1()
    assert (row["source_format"], row["scan_units"], row["scan_trials"]) == ("thesis", 6, 18)
    assert (row["screen_width_deg"], row["screen_height_deg"]) == (90.0, 60.0)
    assert str(simulated / "responses.pkl") in row["source_location"]
    units = (recording.Scan.Unit & scan).to_dicts(order_by="unit_id")
    assert [u["unit_id"] for u in units] == [1, 2, 3, 4, 5, 6]
    assert [u["unit_name"] for u in units] == [f"m0001_s01_e01_u{u:02d}" for u in range(1, 7)]

    shown = table[table["u"] == 1].copy()
    shown["start"] = [t[0] for t in shown["trange"]]
    shown = shown.sort_values("start")
    trials = (stimulus.Trial & scan).to_dicts(order_by="trial_idx")
    assert [t["trial_idx"] for t in trials] == list(range(18))
    assert [t["trial_start"] for t in trials] == list(shown["start"])
    assert [t["trial_duration"] for t in trials] == pytest.approx([2.0] * 18)
    light = [sum(stop - start for start, stop in pulses) for pulses in shown["opto_tranges"]]
    assert 0 < sum(second > 0 for second in light) < 18
    assert [t["trial_opto_seconds"] for t in trials] == pytest.approx(light)
    assert [t["stimulus_name"] for t in trials] == [
        f"hmovTrain_v3_106x66_scene-{s + 1:03d}.avi" for s in shown["scene_id"]
    ]

    tiers = dict(zip(*(stimulus.ConditionTier & scan).to_arrays("condition_hash", "tier"), strict=True))
    assert [tiers[t["condition_hash"]] for t in trials] == list(shown["train_vs_test"])
    videos = (stimulus.Condition.Video & (stimulus.ConditionTier & scan).proj()).to_dicts()
    assert len(videos) == len({t["condition_hash"] for t in trials}) == 12
    for video in videos:
        del video["condition_hash"]
        assert video == {
            "video_frames": 60,
            "video_rate": 30.0,
            "video_height": 66,
            "video_width": 106,
            "video_channels": 1,
        }


def test_time_of_ingest_is_now(scan: Key) -> None:
    from schemas import recording

    now = recording.Scan.connection.query("SELECT LOCALTIMESTAMP").fetchone()[0]
    assert abs((now - (recording.Scan & scan).fetch1("scan_ingested")).total_seconds()) < 3600


def test_the_same_again_is_a_no_op(scan: Key, simulated: Path, open_simulated: Any) -> None:
    from populate.ingest import ingest

    before = counts()
    again = ingest(open_simulated(simulated), "tiny", 1, 1, screen_deg=(90.0, 60.0))
    assert (again.key, again.is_new) == (scan, False)
    assert (again.n_units, again.n_trials, again.n_conditions) == (6, 18, 12)
    assert counts() == before


INGEST = """
from pathlib import Path
from pipeline.recordings import open_recording
from populate.ingest import ingest
folder = Path({folder!r})
source = open_recording("thesis", responses=str(folder / "responses.pkl"), videos=str(folder / "videos"),
                        behavior=str(folder / "resp_behav_df.pkl"))
print("ready", flush=True); input()
print(ingest(source, {subject!r}, 1, 1).is_new)
"""


@pytest.mark.slow
def test_two_processes_ingest_the_same_at_once(scan: Key, simulated: Path, together: Any) -> None:
    before = counts()
    code = INGEST.replace("{folder!r}", repr(str(simulated))).replace("{subject!r}", "'twice'")
    assert sorted(together(code, code)) == ["False", "True"]
    # one subject, session, scan, 6 units, 18 trials, 12 tiers; the conditions were there
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 1, 1, 6, 0, 0, 0, 18, 0, 12]


def test_another_recording_under_the_same_key_is_refused(
    scan: Key, simulated: Path, open_simulated: Any, tmp_path: Path
) -> None:
    from populate.ingest import ingest
    from schemas import recording

    folder = shutil.copytree(simulated, tmp_path / "copy")
    table = pd.read_pickle(folder / "responses.pkl")
    table[table["u"] != 6].to_pickle(folder / "responses.pkl")
    before, row = counts(), (recording.Scan & scan).fetch1()
    with pytest.raises(
        RecordingError, match=r"tiny, session 1, scan 1 already holds another recording .*choose another"
    ):
        ingest(open_simulated(folder), "tiny", 1, 1)
    assert counts() == before
    assert (recording.Scan & scan).fetch1() == row


@pytest.mark.parametrize("subject", ["", "a b", "mouse/1", "x" * 65, "Ä", "a\n"])
def test_bad_names_are_refused(subject: str, simulated: Path, open_simulated: Any) -> None:
    from populate.ingest import ingest

    with pytest.raises(RecordingError, match="use up to 64 letters, digits"):
        ingest(open_simulated(simulated), subject, 1, 1)


@pytest.mark.parametrize(("session", "scan_idx"), [(-1, 1), (1, -1)])
def test_negative_numbers_are_refused(session: int, scan_idx: int, simulated: Path, open_simulated: Any) -> None:
    from populate.ingest import ingest

    with pytest.raises(RecordingError, match="must be 0 or more"):
        ingest(open_simulated(simulated), "numbers", session, scan_idx)


def missing_video(folder: Path) -> None:
    next((folder / "videos").glob("*scene-004.avi")).unlink()


def truncated_video(folder: Path) -> None:
    path = next((folder / "videos").glob("*scene-003.avi"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shorter_video(folder: Path) -> None:
    from pipeline.recordings.video import read_video, write_video

    path = next((folder / "videos").glob("*scene-002.avi"))
    frames, rate = read_video(path)
    path.unlink()
    write_video(path, frames[:, :50], rate)


class Foreign:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.getenv, ("HOME",)


def foreign_class(folder: Path) -> None:
    table = pd.read_pickle(folder / "responses.pkl")
    table["extra"] = [Foreign()] * len(table)
    (folder / "responses.pkl").write_bytes(pickle.dumps(table))


def changed_spikes(change: Callable[[pd.DataFrame], pd.Series]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        table = pd.read_pickle(folder / "responses.pkl")
        table["spike_times"] = change(table)
        table.drop(columns="psth").to_pickle(folder / "responses.pkl")

    return damage


def silence(table: pd.DataFrame) -> pd.Series:
    return table["spike_times"].where(table["u"] != 4, other=pd.Series([np.empty(0)] * len(table), index=table.index))


def nan_spike(table: pd.DataFrame) -> pd.Series:
    spikes = table["spike_times"].copy()
    first = next(i for i in spikes.index if len(spikes[i]) > 1)
    spikes[first] = np.concatenate([spikes[first][:-1], [np.nan]])
    return spikes


def unit_missing_in_a_trial(folder: Path) -> None:
    table = pd.read_pickle(folder / "responses.pkl")
    table.drop(index=table[table["u"] == 4].index[3]).to_pickle(folder / "responses.pkl")


def truncated_table(folder: Path) -> None:
    path = folder / "responses.pkl"
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (missing_video, "scene 3 has no video"),
        (truncated_video, "scene-003.avi"),
        (shorter_video, "scene-002.avi has 50 frames"),
        (foreign_class, "responses.pkl.*getenv"),
        (changed_spikes(silence), "unit 4.*spike"),
        (changed_spikes(nan_spike), "(?i)nan|finite"),
        (unit_missing_in_a_trial, "unit"),
        (truncated_table, "responses.pkl"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_damaged_sources_leave_no_rows(
    damage: Any, complaint: str, scan: Key, simulated: Path, open_simulated: Any, tmp_path: Path
) -> None:
    from populate.ingest import ingest
    from schemas import recording

    folder = shutil.copytree(simulated, tmp_path / "copy")
    damage(folder)
    before = counts()
    with pytest.raises(GeniculateError, match=complaint):
        ingest(open_simulated(folder), "damaged", 1, 1)
    assert counts() == before
    assert not len(recording.Subject & {"subject": "damaged"})


class Made(Recording):
    """A recording of numbers alone, as large as one likes."""

    source_format = "thesis"

    def __init__(self, units: int, trials: int, conditions: list[Stimulus], pulses: Any = ()) -> None:
        self.source = Source("thesis", {"responses": "/nowhere"}, f"{units}-{trials}-{len(conditions)}".rjust(64, "0"))
        self.units = tuple(Unit(i, f"u{i}") for i in range(units))
        self.stimuli = {s.condition_hash: s for s in conditions}
        names = list(self.stimuli)
        self.trials = tuple(Trial(i, names[i % len(names)], 10.0 * i, 2.0, None) for i in range(trials))
        self.pulses = pulses

    def frames(self, condition_hash: str) -> np.ndarray:
        return np.zeros(self.stimuli[condition_hash].shape, np.uint8)

    def responses(self, trial_idx: int, margin: float = 0.0) -> SpikeTimes:
        return SpikeTimes(tuple(np.empty(0) for _ in self.units))

    def opto_pulses(self, trial_idx: int) -> tuple[np.ndarray, ...]:
        return tuple(np.array(train, float).reshape(-1, 2) + 10.0 * trial_idx for train in self.pulses)


def scenes(first: int, count: int, rate: float | None = 30.0) -> list[Stimulus]:
    return [
        Stimulus(f"{i:08x}".ljust(64, "e"), rate, (1, 60 if rate else 1, 4, 5), f"s{i}")
        for i in range(first, first + count)
    ]


def test_a_condition_in_two_scans_is_one_row() -> None:
    from populate.ingest import ingest
    from schemas import stimulus

    before = len(stimulus.Condition())
    shared = scenes(1000, 7)
    first = ingest(Made(2, 14, shared), "sharing", 1, 1)
    second = ingest(Made(3, 12, shared[3:] + scenes(1007, 2, None)), "sharing", 2, 1)
    assert (first.is_new, second.is_new) == (True, True)
    assert len(stimulus.Condition()) == before + 9
    images = stimulus.Condition.Image & stimulus.Condition & (stimulus.Trial & second.key).proj("condition_hash")
    both = stimulus.Trial & [first.key, second.key]
    assert len(stimulus.ConditionTier & first.key) == 7
    assert len(stimulus.ConditionTier & second.key) == 6
    assert len(stimulus.Condition & both.proj("condition_hash")) == 9
    assert [{**i, "condition_hash": ""} for i in images.to_dicts()] == [
        {"condition_hash": "", "image_height": 4, "image_width": 5, "image_channels": 1}
    ] * 2
    # a tier belongs to a condition of a scan: no second one can be added
    (row, *_) = (stimulus.ConditionTier & first.key).to_dicts()
    with pytest.raises(Exception, match=r"(?i)duplicate"):
        stimulus.ConditionTier.insert1({**row, "tier": "train" if row["tier"] != "train" else "test"})


def test_a_condition_in_two_tiers_is_refused() -> None:
    from populate.ingest import ingest
    from schemas import recording

    source = Made(2, 4, scenes(1100, 2))
    tiers = ("train", "validation", "test", "validation")
    source.trials = tuple(replace(trial, tier=tier) for trial, tier in zip(source.trials, tiers, strict=True))
    with pytest.raises(RecordingError, match="is in two tiers: train in trial 0, test in trial 2"):
        ingest(source, "torn", 1, 1)
    assert not len(recording.Subject & {"subject": "torn"})


LEAKING = ("train", "validation", "test", "validation", "train", "train")


@pytest.mark.parametrize(
    ("rule", "wanted", "excluded"),
    [("held-out", "test", 0), ("train", "train", 0), ("exclude", None, 3)],
)
def test_leaking_stimuli_follow_the_rule_and_are_counted(rule: str, wanted: str | None, excluded: int) -> None:
    from populate.ingest import ingest
    from schemas import recording, stimulus

    shown = scenes(1300, 4)
    source = Made(2, 6, shown)
    order = (0, 1, 0, 1, 0, 2)
    source.trials = tuple(
        replace(trial, tier=tier, condition_hash=shown[i].condition_hash)
        for trial, tier, i in zip(source.trials, LEAKING, order, strict=True)
    )
    done = ingest(source, f"leaks-{rule}", 1, 1, test_fraction=0.0, leaks=rule)
    assert (done.n_leaks, done.n_excluded) == (1, excluded)
    row = (recording.Scan & done.key).fetch1()
    assert (row["scan_leaks"], row["scan_leak_rule"]) == (1, rule)
    tiers = dict(zip(*(stimulus.ConditionTier & done.key).to_arrays("condition_hash", "tier"), strict=True))
    assert tiers.get(shown[0].condition_hash) == wanted
    assert tiers[shown[1].condition_hash] == "validation"
    gone = (stimulus.ExcludedTrial & done.key).to_dicts(order_by="trial_idx")
    assert [g["trial_idx"] for g in gone] == ([0, 2, 4] if excluded else [])
    assert all("in several tiers: train, test" in g["exclusion_comment"] for g in gone)


def test_open_stimuli_keep_the_tier_of_other_scans() -> None:
    from populate.ingest import ingest
    from schemas import stimulus

    shown = scenes(1400, 30)
    first = Made(1, 30, shown)
    first.trials = tuple(replace(t, tier=("train", "validation", "test")[t.trial_idx % 3]) for t in first.trials)
    one, two = ingest(first, "stable", 1, 1).key, ingest(Made(2, 60, shown[::-1]), "stable", 1, 2).key
    tiers = [
        dict(zip(*(stimulus.ConditionTier & k).to_arrays("condition_hash", "tier"), strict=True)) for k in (one, two)
    ]
    assert tiers[0] == tiers[1]
    assert len(tiers[0]) == 30


def test_withheld_and_excluded_trials_are_marked() -> None:
    from populate.ingest import ingest
    from schemas import recording, stimulus

    source = Made(1, 6, scenes(1500, 3))
    source.trials = (
        *source.trials[:4],
        replace(source.trials[4], withheld=True),
        replace(source.trials[5], exclusion="the projector was off " + "x" * 300),
    )
    source.response_unit = "dF/F"
    done = ingest(source, "marked", 1, 1)
    assert (done.n_withheld, done.n_excluded) == (1, 1)
    assert (recording.Scan & done.key).fetch1("response_unit", "stimulus_kind") == ("dF/F", "video")
    assert list((stimulus.Trial & done.key & {"trial_withheld": True}).to_arrays("trial_idx")) == [4]
    (gone,) = (stimulus.ExcludedTrial & done.key).to_dicts()
    assert gone["trial_idx"] == 5
    assert gone["exclusion_comment"].startswith("the projector was off")


def test_trials_of_a_converted_scan_are_not_excluded(stored: Key) -> None:
    from schemas import stimulus

    scan = {name: stored[name] for name in ("subject", "session", "scan_idx")}
    with pytest.raises(GeniculateError, match=r"was converted already.*delete its Dataset"):
        stimulus.ExcludedTrial.insert1({**scan, "trial_idx": 0, "exclusion_comment": "too late"})
    assert not len(stimulus.ExcludedTrial & scan)


def test_light_is_counted_within_the_trial() -> None:
    from populate.ingest import ingest
    from schemas import stimulus

    # 0.5 s before the trial, 0.25 s within, and 1.8 to 2.4 s of which 0.2 s are within its 2 s
    source = Made(1, 4, scenes(1200, 2), pulses=[[(-0.5, 0.0), (0.5, 0.75)], [(1.8, 2.4)]])
    key = ingest(source, "lit", 1, 1).key
    assert list((stimulus.Trial & key).to_arrays("trial_opto_seconds")) == pytest.approx([0.45] * 4)


OPPOSITE = """
import importlib.util
spec = importlib.util.spec_from_file_location("made", {path!r})
made = importlib.util.module_from_spec(spec); spec.loader.exec_module(made)
from populate.ingest import ingest
source = made.Made(3, 50, made.scenes(20000, 300)[::{step}])
print("ready", flush=True); input()
print(ingest(source, {subject!r}, 1, 1).is_new)
"""


@pytest.mark.slow
def test_scans_that_share_stimuli_enter_side_by_side(begin: Any, finish: Any) -> None:
    """Both list the same stimuli, in opposite order; a third session holds one from the middle until both wait."""
    from schemas import stimulus

    code = OPPOSITE.replace("{path!r}", repr(__file__))
    codes = [code.replace("{step}", step).replace("{subject!r}", f"'side{step}'") for step in ("1", "-1")]
    processes = [begin(code) for code in codes]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    connection = stimulus.Condition.connection
    connection.start_transaction()
    stimulus.Condition.insert1({"condition_hash": scenes(20150, 1)[0].condition_hash, "condition_kind": "video"})
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    time.sleep(2)
    connection.cancel_transaction()
    assert [finish(process) for process in processes] == ["True", "True"]
    assert len(stimulus.Condition & [{"condition_hash": s.condition_hash} for s in scenes(20000, 300)]) == 300


DIE = """
import os, signal
from pathlib import Path
from schemas import stimulus
insert = stimulus.ConditionTier.insert
import populate.ingest as module
class Deadly:
    def insert(self, rows):
        print("in the middle", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
tables = {"Condition": stimulus.Condition, "Trial": stimulus.Trial, "ConditionTier": Deadly()}
module.stimulus = type("Tables", (), tables)
"""


@pytest.mark.slow
def test_killed_in_the_middle_leaves_nothing(scan: Key, simulated: Path, begin: Any, finish: Any) -> None:
    before = counts()
    code = INGEST.replace("{folder!r}", repr(str(simulated))).replace("{subject!r}", "'killed'")
    process = begin(DIE + code.replace('print("ready", flush=True); input()', ""))
    assert finish(process, status=-signal.SIGKILL) == "in the middle"
    for _ in range(50):  # the server notices the lost session in its own time
        assert counts() == before
        time.sleep(0.01)
    assert finish(begin(code.replace("input()", "0"))) == "True"
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 1, 1, 6, 0, 0, 0, 18, 0, 12]


@pytest.mark.slow
def test_fifty_thousand_trials_enter_in_seconds() -> None:
    from populate.ingest import ingest
    from schemas import stimulus

    source = Made(200, 50_000, scenes(5000, 5000))
    began = time.monotonic()
    key = ingest(source, "large", 1, 1).key
    assert time.monotonic() - began < 60
    assert len(stimulus.Trial & key) == 50_000
    assert len(stimulus.ConditionTier & key) == 5000
