from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.datasets.batches import ImageBatch, MovieBatch
from pipeline.datasets.clips import MovieClips
from pipeline.datasets.function import Function
from pipeline.datasets.images import CorrectedAreaLayer
from pipeline.datasets.info import ScanInfo, data_info_from_json, data_info_to_json
from pipeline.datasets.loaders import open_loaders
from pipeline.datasets.selection import UnitTable
from pipeline.errors import ConfigurationError, DatasetError

ROOT = Path(__file__).resolve().parents[3]
TIERS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
CLIPS = MovieClips(clip_frames=8)


@pytest.fixture(scope="module")
def movies(written: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("movies") / "data", TIERS, 24).path


@pytest.fixture(scope="module")
def images(written: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("images") / "data", TIERS * 2, None).path


def equal(first: Iterable[Any], second: Iterable[Any]) -> bool:
    one, other = list(first), list(second)
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_loaders_are_nested_by_tier_and_data_key(movies: Path) -> None:
    loaders, info = open_loaders({"two": movies, "one": movies}, CLIPS, 4, 1)
    assert list(loaders) == ["train", "validation", "test"]
    assert all(list(of_tier) == ["two", "one"] for of_tier in loaders.values())
    assert list(info) == ["two", "one"]
    assert info["one"] == loaders["train"]["one"].dataset.info  # type: ignore[union-attr]


def test_further_tiers_are_there_where_a_scan_has_them(
    written: Callable[..., Any], tmp_path: Path, movies: Path
) -> None:
    other = written(tmp_path / "data", ["train", "validation", "final", "ood", "train"], 24, withheld=(4,)).path
    loaders, _ = open_loaders({"a": movies, "b": other}, CLIPS, 4, 1)
    assert {tier: list(of_tier) for tier, of_tier in loaders.items()} == {
        "train": ["a", "b"], "validation": ["a", "b"], "test": ["a", "b"],
        "final": ["b"], "ood": ["b"], "withheld": ["b"],
    }  # fmt: skip
    assert list(loaders["test"]["b"]) == []


def test_units_are_those_of_each_scans_table(movies: Path, images: Path) -> None:
    tables = {
        "a": UnitTable([101, 102, 103, 104], ["V1", "V1", "LM", "LM"], [None] * 4),
        "b": UnitTable([104, 103, 102, 101], ["LM", "V1", "LM", "LM"], [None] * 4),
    }
    config = MovieClips(clip_frames=8, brain_area="V1")
    loaders, info = open_loaders({"a": movies, "b": movies}, config, 4, 1, units=tables)
    assert (info["a"].unit_ids, info["b"].unit_ids) == ((101, 102), (103,))
    full = open_loaders({"a": movies}, CLIPS, 4, 1)[0]["train"]["a"]
    for batch, all_units in zip(loaders["train"]["b"], full, strict=True):
        assert torch.equal(batch.responses, all_units.responses[:, [2]])
    stills, info = open_loaders({"b": images}, CorrectedAreaLayer(brain_area="V1"), 4, 1, units=tables)
    assert info["b"].unit_ids == (103,)
    full = open_loaders({"b": images}, CorrectedAreaLayer(), 4, 1)[0]["train"]["b"]
    for batch, all_units in zip(stills["train"]["b"], full, strict=True):
        assert torch.equal(batch.responses, all_units.responses[:, [2]])


def test_positions_of_units_reach_the_data_information(movies: Path, images: Path) -> None:
    positions = [(float(i), 2.5, -1.0) for i in range(4)]
    tables = {
        "a": UnitTable([104, 103, 102, 101], ["V1", "V1", "LM", "V1"], [None] * 4, positions),
        "b": UnitTable([101, 102, 103, 104], ["V1"] * 4, [None] * 4, [None, *positions[:3]]),
    }
    info = open_loaders({"a": movies, "b": movies}, MovieClips(clip_frames=8, brain_area="V1"), 4, 1, units=tables)[1]
    assert info["a"].unit_ids == (101, 103, 104)
    assert info["a"].unit_positions == (positions[3], positions[1], positions[0])
    assert info["b"].unit_positions is None
    assert open_loaders({"a": images}, CorrectedAreaLayer(), 4, 1)[1]["a"].unit_positions is None
    assert data_info_from_json(data_info_to_json(info)) == info


def test_seed_and_epoch_decide_the_batches(movies: Path) -> None:
    def epochs(seed: int) -> list[Any]:
        loader = open_loaders({"a": movies}, CLIPS, 4, seed)[0]["train"]["a"]
        return [list(loader) for _ in range(3)]

    first, again, other = epochs(1), epochs(1), epochs(2)
    assert all(map(equal, first, again))
    assert not equal(first[0], first[1])
    assert not equal(first[0], other[0])
    resumed: Any = open_loaders({"a": movies}, CLIPS, 4, 1)[0]["train"]["a"]
    resumed.batch_sampler.epoch = 2
    assert equal(resumed, first[2])
    for tier in ("validation", "test"):
        one, two = (open_loaders({"a": movies}, CLIPS, 4, seed)[0][tier]["a"] for seed in (1, 2))
        assert equal(one, two)


@pytest.mark.parametrize("sort", ["movies", "images"])
def test_a_pickled_scan_opens_its_dataset_again(sort: str, movies: Path, images: Path) -> None:
    path, config = (movies, CLIPS) if sort == "movies" else (images, CorrectedAreaLayer())
    loader: Any = open_loaders({"a": path}, config, 2, 1)[0]["train"]["a"]
    asked = next(iter(loader.batch_sampler))
    wanted = loader.dataset.__getitems__(asked)  # and now it has data in memory
    pickled = pickle.dumps(loader.dataset)
    assert len(pickled) < 10_000
    assert equal([pickle.loads(pickled).__getitems__(asked)], [wanted])


@pytest.mark.parametrize("sort", ["movies", "images"])
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_the_same_batches(sort: str, method: str, movies: Path, images: Path) -> None:
    path, config = (movies, CLIPS) if sort == "movies" else (images, CorrectedAreaLayer())
    alone, shared = (open_loaders({"a": path}, config, 2, 1)[0]["train"]["a"] for _ in range(2))
    assert isinstance(shared, DataLoader)
    workers = DataLoader(
        shared.dataset,
        batch_sampler=shared.batch_sampler,
        collate_fn=shared.collate_fn,
        num_workers=2,
        multiprocessing_context=method,
        persistent_workers=True,
    )
    list(alone)  # has the data in memory when it is forked from; both are now at their second epoch
    list(shared)
    for _ in range(2):
        assert equal(alone, workers)


def test_workers_are_kept_for_training_only(movies: Path) -> None:
    alone, _ = open_loaders({"a": movies}, CLIPS, 2, 1)
    loaders, _ = open_loaders({"a": movies}, CLIPS, 2, 1, workers=2)
    train: Any = loaders["train"]["a"]
    for _ in range(2):
        assert equal(train, alone["train"]["a"])
    assert (train.num_workers, train.persistent_workers) == (2, True)
    assert equal(train.in_full(), alone["train"]["a"].in_full())
    assert loaders["validation"]["a"].num_workers == 0  # type: ignore[union-attr]


def set_aside(scans: int, workers: int) -> int:
    """What `movies`, asked for in batches of 4 clips of 8 frames, takes beside its data."""
    frame = 4 * (30 + 4 + 2 * 5)  # two signals of behaviour, two of the pupil, one train of light
    batches = max(scans * (2 + 2 * workers) * 4 * 8 * frame, 2 * 6 * 24 * frame)  # clips, whole training trials
    opened = scans * (1 + workers) * (8 * 2**20 + len(TIERS) * 2**10)
    return batches + opened + (1 + scans * workers) * 40 * 2**20


def test_batches_and_reading_count_as_memory(movies: Path) -> None:
    trial = 24 * (30 + 4 * (4 + 5))
    for workers in (0, 2):
        copies = max(workers, 1)
        for fitting in (0, 1, 3, 6):
            for missing in (0, 1):
                memory = set_aside(1, workers) + fitting * trial * copies + (-10 if missing else 10)
                loaders, _ = open_loaders({"a": movies}, CLIPS, 4, 1, workers=workers, memory=memory)
                scan: Any = loaders["train"]["a"].dataset  # type: ignore[union-attr]
                kept = scan._trials.kept.intersection(scan.trials["train"])  # what is left goes to other tiers
                assert len(kept) == max(fitting - missing, 0), (workers, fitting, missing)


@pytest.mark.parametrize("memory", [0, 5000, 40_000, 2**30])
@pytest.mark.parametrize("workers", [0, 3])
def test_what_stays_in_memory_fits_into_the_budget(movies: Path, memory: int, workers: int) -> None:
    given = memory + set_aside(2, workers)
    loaders, _ = open_loaders({"a": movies, "b": movies}, CLIPS, 4, 1, workers=workers, memory=given)
    held = 0
    for data_key in ("a", "b"):
        scan: Any = loaders["train"][data_key].dataset  # type: ignore[union-attr]
        for rows in scan.trials.values():
            scan.__getitems__([(row, 0, 24) for row in rows]) if rows else None
        copies = max(workers, 1)
        for row, arrays in scan._trials._held.items():
            held += sum(a.nbytes for a in arrays) * (copies if row < 6 else 1)
        for name, arrays in scan._movies._held.items():
            held += sum(a.nbytes for a in arrays) * (copies if int(name[1:]) < 6 else 1)
        kept = set(scan._trials._held)
        assert kept == (set(range(10)) if memory == 2**30 else kept)
        assert not kept or 0 in kept or memory == 5000  # training trials have precedence, where one fits
    assert held <= memory
    assert held > 0 or memory < 40_000


MEASURED = """
import sys
from pathlib import Path
import deeplake, psutil, torch
from pipeline.datasets.clips import MovieClips
from pipeline.datasets.images import CorrectedAreaLayer
from pipeline.datasets.loaders import open_loaders
torch.set_num_threads(1)
before = psutil.Process().memory_info().rss
config = MovieClips(clip_frames=20) if sys.argv[3] == "videos" else CorrectedAreaLayer()
loaders, _ = open_loaders({"a": Path(sys.argv[1])}, config, 2, 1, memory=int(sys.argv[2]))
for _ in range(3):
    for of_tier in loaders.values():
        for batch in of_tier["a"]:
            pass
print(psutil.Process().memory_info().rss - before)
"""


def grown(path: Path, budget: int, stimulus: str) -> int:
    """By how many bytes a fresh process grows that opens loaders and takes all their batches three times."""
    command = [sys.executable, "-c", MEASURED, str(path), str(budget), stimulus]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("stimulus", ["videos", "images"])
def test_memory_stays_within_the_budget(written: Callable[..., Any], tmp_path: Path, stimulus: str) -> None:
    budget, count = 80 * 2**20, 300 if stimulus == "videos" else 4000
    tiers = ["train"] * (count - 2) + ["validation", "test"]
    length, units, size = (60, 1200, (60, 80)) if stimulus == "videos" else (None, 8000, (6, 8))
    path = written(tmp_path / "data", tiers, length, units=units, size=size).path
    assert grown(path, budget, stimulus) < budget
    assert grown(path, 2**30, stimulus) > 1.5 * budget


def test_kinds_for_the_other_sort_of_stimuli_are_refused(movies: Path, images: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"CorrectedAreaLayer is for images, .* a holds videos: use MovieClips"
    ):
        open_loaders({"a": movies}, CorrectedAreaLayer(), 4, 1)
    with pytest.raises(
        ConfigurationError, match=r"MovieClips is for videos, .* a holds images: use CorrectedAreaLayer"
    ):
        open_loaders({"a": images}, MovieClips(), 4, 1)


def test_data_information_survives_json(movies: Path) -> None:
    config = MovieClips(clip_frames=8, behavior="both")
    info = {
        "full": open_loaders({"a": movies}, config, 4, 1)[1]["a"],
        "bare": ScanInfo((3,), (1, 4, 5), (0.1,)),
        "odd.name/ü": ScanInfo((1, 2), (2, 4, 5), (0.1, 1 / 3), field_centers=((1.5, 2.0), (0.0, 3.0))),
    }
    assert len(info["full"].plane_means) == 2
    again = data_info_from_json(data_info_to_json(info))
    assert again == info
    assert list(again) == list(info)
    assert hash(again["odd.name/ü"]) == hash(info["odd.name/ü"])  # tuples again, not lists


LABORATORY = """
from collections import namedtuple
import torch

Pair = namedtuple("Pair", ["images", "responses"])
calls = []


def stills(paths, batch_size, seed, scale=1.0):
    calls.append((paths, batch_size, seed, scale))
    generator = torch.Generator().manual_seed(seed)
    images = [scale * torch.randn(batch_size, 1, 4, 5, generator=generator) for _ in range(3)]
    made = [Pair(image, torch.rand(batch_size, 3)) for image in images]
    return {"train": {"lab": made[:2]}, "validation": {"lab": made[2:]}, "test": {"lab": made[2:] + made[2:]}}


def shuffled(seed):
    trials = [{"images": i + torch.randn(1, 4, 5), "responses": torch.rand(3)} for i in range(20)]
    loaders = {"lab": torch.utils.data.DataLoader(trials, batch_size=4, shuffle=True)}
    return {"train": loaders, "validation": loaders}


def clips(seed, **settings):
    batch = {"inputs": torch.ones(2, 1, 6, 4, 5), "targets": torch.full((2, 3, 6), 2), "behavior": torch.ones(2, 2, 6),
             "pupil_center": torch.zeros(2, 2, 6)}
    return {"train": {"lab": [batch]}, "validation": {"lab": [batch]}}


def flat(seed):
    return {"train": [1], "validation": [2]}


def no_validation(seed):
    return {"train": {"a": [1]}, "val": {"a": [1]}}


def nameless(seed):
    loaders = {"a": [{"pictures": 1}]}
    return {"train": loaders, "validation": loaders}


def misfit(seed):
    loaders = {"a": [{"images": torch.zeros(2, 1, 4, 5), "responses": torch.zeros(2, 3, 6)}]}
    return {"train": loaders, "validation": loaders}
"""


@pytest.fixture
def laboratory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "somelab.py").write_text(LABORATORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somelab", raising=False)
    return "somelab"


def test_a_function_is_called_with_what_its_signature_has(laboratory: str) -> None:
    config = Function(function=f"{laboratory}.stills", arguments='{"scale": 2.0}')
    loaders, info = open_loaders({"x": Path("/data/x"), "y": Path("/data/y")}, config, 4, 7)
    module = sys.modules[laboratory]
    assert module.calls == [(["/data/x", "/data/y"], 4, 7, 2.0)]
    batches = list(loaders["train"]["lab"])
    assert len(loaders["train"]["lab"]) == len(batches) == 2
    assert all(isinstance(batch, ImageBatch) for batch in batches)
    responses = torch.cat([batch.responses for batch in batches])
    np.testing.assert_allclose(info["lab"].mean_responses, responses.mean(0), rtol=1e-5)
    assert (info["lab"].unit_ids, info["lab"].input_shape, info["lab"].n_behavior) == ((0, 1, 2), (1, 4, 5), 0)
    conditions = loaders["test"]["lab"].conditions
    assert len(conditions) == 8
    assert conditions[:4] == conditions[4:]
    assert len(set(conditions)) == 4
    given = Function(function=f"{laboratory}.stills", arguments='{"batch_size": 2, "paths": [], "seed": 3}')
    open_loaders({"x": Path("/data/x")}, given, 4, 7)
    assert module.calls[1] == ([], 2, 3, 1.0)


def test_what_loaders_of_a_function_draw_depends_on_seed_and_epoch_only(laboratory: str) -> None:
    def opened(seed: int) -> Any:
        torch.rand(3)  # others draw in between
        return open_loaders({}, Function(function=f"{laboratory}.shuffled"), 4, seed)

    def seen(loader: Any) -> list[float]:
        return [value for batch in loader for value in batch.responses[:, 0].tolist() if torch.rand(1) >= 0]

    before = torch.get_rng_state()
    (loaders, info), (again, same_info), (others, other_info) = opened(7), opened(7), opened(8)
    training, validation = loaders["train"]["lab"], loaders["validation"]["lab"]
    assert info == same_info != other_info, "to the last bit, for checkpoints are found by it"
    first, second = seen(training), seen(training)
    assert first != second and sorted(first) == sorted(second)
    assert [seen(again["train"]["lab"]) for _ in range(2)] == [first, second]
    again["train"]["lab"].epoch = training.epoch - 1
    assert seen(again["train"]["lab"]) == second
    assert seen(validation) == seen(validation) == seen(again["validation"]["lab"]) != seen(others["validation"]["lab"])
    shown = [image for batch in validation for image in batch.inputs]
    digests = [hashlib.sha256(image.contiguous().numpy().data).hexdigest() for image in shown]
    assert validation.conditions == digests, "names belong to the trials of the next pass"
    torch.set_rng_state(before)
    torch.rand(9)
    expected = torch.rand(1)
    torch.set_rng_state(before)
    for seed in (7, 8, 9):
        opened(seed)
    assert torch.rand(1) == expected, "the global state is left as it was"


def test_movies_of_a_function(laboratory: str) -> None:
    loaders, info = open_loaders({}, Function(function=f"{laboratory}.clips"), 4, 7)
    (batch,) = loaders["train"]["lab"]
    assert isinstance(batch, MovieBatch)
    assert batch.responses.dtype == torch.float32
    scan = info["lab"]
    assert (scan.input_shape, scan.mean_responses, scan.n_behavior) == ((1, 4, 5), (2.0, 2.0, 2.0), 2)
    assert (scan.mean_behavior, scan.mean_pupil_center) == ((1.0, 1.0), (0.0, 0.0))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("flat", "must return {tier: {data_key: loader}}, but it returned a dictionary of list"),
        ("no_validation", "with the tier 'validation', but its tiers are train, val"),
        ("nameless", "a batch has no inputs, it has pictures; call them images or videos or inputs"),
        ("misfit", r"inputs \(2, 1, 4, 5\) and responses \(2, 3, 6\) are neither images"),
    ],
)
def test_what_a_function_returns_is_checked(laboratory: str, name: str, complaint: str) -> None:
    with pytest.raises(DatasetError, match=complaint):
        open_loaders({}, Function(function=f"{laboratory}.{name}"), 4, 7)


def test_arguments_of_functions_are_json_objects_with_one_hash() -> None:
    one = Function(function="a.b", arguments='{"x": 1,  "y": [2]}')
    assert one.hash() == Function(function="a.b", arguments='{"y":[2],"x":1}').hash()
    for wrong in ("{x: 1}", "[1]", ""):
        with pytest.raises(ConfigurationError, match=r"Function.arguments: .* JSON"):
            Function(function="a.b", arguments=wrong)
    with pytest.raises(ConfigurationError, match=r"Function.function is empty"):
        open_loaders({}, Function(), 4, 1)
