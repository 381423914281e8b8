"""Recordings of different nature through all tables: ingest, datasets, oracles, loaders, and models of still images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.datasets.clips import MovieClips
from pipeline.datasets.images import CorrectedAreaLayer
from pipeline.datasets.preprocessing import Image, Movie
from pipeline.models import FullGaussian2d, Network, NoModulator, NoRecurrence, NoShifter, Stacked2d
from pipeline.recordings import Recording, Trial, open_recording
from populate.cli import app
from tests.pipeline.recordings.example import Example, binned, bins_of, usable
from tests.pipeline.recordings.write_image_formats import ARRAYS, IMAGES, SENSORIUM2023, draw, picture
from tests.pipeline.recordings.write_movie_formats import EXPERANTO
from tests.populate.test_report_page import Page

pytestmark = pytest.mark.database
Key = dict[str, Any]

V4 = Path(__file__).parents[3] / "shared" / "data" / "macaque_v4_210325"

# Response unit, kind of stimuli, and the area of each unit whose area is known.
SCANS: dict[str, tuple[str, str, dict[int, str]]] = {
    "images": ("spikes", "image", {}),
    "sensorium2023": ("a.u.", "video", {3: "V1", 9: "V1", 4: "LM", 30: "V1"}),
    "experanto": ("dF/F", "mixed", {101: "V1", 205: "LM", 309: "V1"}),
    "arrays of images": ("Hz", "image", {30: "V1", 20: "LM", 40: "V1"}),
}

GREY, SIGNAL = "grey value, 0 to 255", "as in the source"
EYE = ("pupil_location", "float32", "channel (pupil_x, pupil_y), time", SIGNAL)
PUPIL_AND_RUN = ("behavior", "float32", "channel (pupil_size, run), time", SIGNAL)
TENSORS = {
    "images": [("images", "uint8", "channel, height, width", GREY), ("responses", "float32", "unit", "spikes")],
    "sensorium2023": [
        PUPIL_AND_RUN,
        EYE,
        ("responses", "float32", "unit, time", "a.u."),
        ("videos", "float32", "channel, time, height, width", GREY),
    ],
    "experanto": [
        PUPIL_AND_RUN,
        ("optogenetic_signal", "float32", "train, time", "1 while the light is on"),
        EYE,
        ("responses", "float32", "unit, time", "dF/F"),
        ("videos", "uint8", "channel, time, height, width", GREY),
    ],
    "arrays of images": [
        ("behavior", "float32", "channel (pupil_size)", SIGNAL),
        ("images", "uint8", "channel, height, width", GREY),
        ("responses", "float32", "unit", "Hz"),
    ],
}


@dataclass(frozen=True)
class Made:
    """An example in the tables: its scan, its dataset, and a group of that dataset with a DataConfig."""

    example: Example
    recording: Recording
    scan: Key
    dataset: Key
    group: Key

    def responses(self, trial: Trial) -> np.ndarray:
        """Return what the dataset must hold, (unit, time)."""
        preprocessing = self.example.preprocessing
        bins = 1
        if isinstance(preprocessing, Movie):
            bins = bins_of(self.recording, usable(self.recording), preprocessing.frame_rate)[trial.condition_hash]
        found = binned(self.recording, trial, preprocessing, bins)
        return found.reshape(len(found), -1)

    def trials(self, tier: str) -> list[Trial]:
        """Return the trials with responses that are of a tier: that of the source, and none of them is left open."""
        return [t for t in usable(self.recording) if not t.withheld and t.tier == tier]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Example], Made]:
    """Bring an example through the tables; each is made once."""
    known: dict[str, Made] = {}

    def made(example: Example) -> Made:
        if example.name not in known:
            known[example.name] = _made(example, tmp_path_factory.mktemp("format") / "source")
        return known[example.name]

    return made


def _made(example: Example, folder: Path) -> Made:
    from populate.ingest import ingest
    from schemas import config, dataset

    example.write(folder)
    recording = example.open(folder)
    done = ingest(recording, f"format-{example.source_format}", 1, 1)
    assert done.is_new
    key = {**done.key, **config.PreprocessingConfig.add(example.preprocessing)}
    dataset.Dataset.populate(key)
    movie = isinstance(example.preprocessing, Movie)
    data = MovieClips(clip_frames=8, normalize=False) if movie else CorrectedAreaLayer(normalize=False)
    group = {**dataset.MultiDataset.fill(key, example.name), **config.DataConfig.add(data)}
    dataset.Oracle.populate(group)
    return Made(example, recording, done.key, key, group)


@pytest.fixture(params=[IMAGES, SENSORIUM2023, EXPERANTO, ARRAYS], ids=lambda example: example.name)
def made(request: pytest.FixtureRequest, make: Callable[[Example], Made]) -> Made:
    return make(request.param)


# ------------------------------------------------------------------------------------------------------------- tables


def test_the_scan_is_what_the_source_says(made: Made) -> None:
    from schemas import recording, stimulus

    row = (recording.Scan & made.scan).fetch1()
    response_unit, kind, areas = SCANS[made.example.name]
    assert (row["source_format"], row["source_fingerprint"]) == (
        made.example.source_format,
        made.recording.source.fingerprint,
    )
    assert (row["response_unit"], row["stimulus_kind"]) == (response_unit, kind)
    assert (row["scan_leaks"], row["scan_trials"]) == (0, len(made.recording.trials))
    found = (recording.AreaMembership & made.scan).to_dicts()
    assert {unit["unit_id"]: unit["brain_area"] for unit in found} == areas
    tiers = dict(zip(*(stimulus.ConditionTier & made.scan).to_arrays("condition_hash", "tier"), strict=True))
    assert tiers == {trial.condition_hash: trial.tier for trial in usable(made.recording)}
    excluded = (stimulus.ExcludedTrial & made.scan).to_arrays("trial_idx", order_by="trial_idx").tolist()
    assert excluded == [trial.trial_idx for trial in made.recording.trials if trial.exclusion]
    withheld = (
        (stimulus.Trial & made.scan & {"trial_withheld": True}).to_arrays("trial_idx", order_by="trial_idx").tolist()
    )
    assert withheld == [trial.trial_idx for trial in made.recording.trials if trial.withheld]


def test_the_same_again_is_a_no_op(made: Made) -> None:
    from populate.ingest import ingest
    from schemas import recording, stimulus
    from schemas.dataset import Dataset

    tables = (recording.Scan, recording.Scan.Unit, stimulus.Condition, stimulus.Trial, stimulus.ConditionTier)
    before = [len(table()) for table in tables]
    again = ingest(
        open_recording(made.example.source_format, **made.recording.source.location), made.scan["subject"], 1, 1
    )
    assert (again.key, again.is_new) == (made.scan, False)
    assert [len(table()) for table in tables] == before
    assert Dataset.populate(made.dataset)["success_count"] == 0


def test_the_dataset_row_counts_trials_and_stimuli(made: Made) -> None:
    from schemas.dataset import Dataset

    row = (Dataset & made.dataset).fetch1()
    kept = usable(made.recording)
    assert row["dataset_trials"] == len(kept)
    assert row["dataset_withheld"] == made.example.trials.get("withheld", 0)
    assert row["dataset_conditions"] == len({trial.condition_hash for trial in kept})
    lengths = bins_of(made.recording, kept, getattr(made.example.preprocessing, "frame_rate", 0.0))
    movie = isinstance(made.example.preprocessing, Movie)
    assert row["dataset_bins"] == sum(lengths[trial.condition_hash] if movie else 1 for trial in kept)


def test_tensors_are_described(made: Made) -> None:
    from schemas.dataset import Dataset

    names = ("tensor", "tensor_dtype", "tensor_dimensions", "tensor_unit")
    rows = (Dataset.Tensor & made.dataset).to_dicts(order_by="tensor")
    assert [tuple(row[name] for name in names) for row in rows] == TENSORS[made.example.name]
    stored = Dataset.open(made.dataset)
    for row in rows:
        name = row["tensor"]
        first = stored.stimulus(stored.condition_hash[0]) if name in ("images", "videos") else stored.tensor(name, 0)
        assert str(first.dtype) == row["tensor_dtype"]


def test_units_have_the_statistics_of_the_training_tier(made: Made) -> None:
    from schemas.dataset import Dataset

    training = np.concatenate([made.responses(trial) for trial in made.trials("train")], axis=1)
    total = sum(made.responses(trial).sum(axis=1) for trial in usable(made.recording) if not trial.withheld)
    rows = {row["unit_id"]: row for row in (Dataset.Unit & made.dataset).to_dicts()}
    assert set(rows) == {unit.unit_id for unit in made.recording.units}
    for position, unit in enumerate(made.recording.units):
        row = rows[unit.unit_id]
        assert row["response_mean"] == pytest.approx(training[position].mean(), rel=1e-5)
        assert row["response_std"] == pytest.approx(training[position].std(ddof=1), rel=1e-5)
        assert row["response_total"] == pytest.approx(total[position], rel=1e-5)


def test_oracle_is_each_repeat_against_the_mean_of_the_others(made: Made) -> None:
    from schemas.dataset import Oracle

    repeats: dict[str, list[np.ndarray]] = {}
    for trial in made.trials("test"):
        repeats.setdefault(trial.condition_hash, []).append(made.responses(trial))
    single, others = [], []
    for trials in repeats.values():
        for i, trial in enumerate(trials):
            single.append(trial)
            others.append(np.mean(trials[:i] + trials[i + 1 :], axis=0))
    pairs = zip(np.concatenate(single, axis=1), np.concatenate(others, axis=1), strict=True)
    expected = [np.corrcoef(one, other)[0, 1] if min(one.std(), other.std()) else None for one, other in pairs]
    rows = {row["unit_id"]: row for row in (Oracle.Unit & made.group).to_dicts()}
    for unit, value in zip(made.recording.units, expected, strict=True):
        assert rows[unit.unit_id]["oracle_correlation"] == pytest.approx(value, abs=1e-5)
        assert rows[unit.unit_id]["oracle_conditions"] == len(repeats)
    whole = (Oracle & made.group).fetch1()
    assert whole["oracle_undefined"] == 0
    assert whole["oracle_mean"] == pytest.approx(np.mean(expected), abs=1e-5)


def test_loaders_keep_every_stimulus_in_its_tier(made: Made) -> None:
    from schemas.dataset import get_data_info, get_dataloaders

    loaders = get_dataloaders(made.group, batch_size=2, seed=1)
    (data_key,) = get_data_info(made.group)
    counts = {tier: len(of_tier[data_key].trials) for tier, of_tier in loaders.items()}
    assert counts == {tier: n for tier, n in made.example.trials.items() if tier != "excluded"}
    for tier, of_tier in loaders.items():
        if tier != "withheld":
            assert set(of_tier[data_key].conditions) == {trial.condition_hash for trial in made.trials(tier)}
    shown = [condition for of_tier in loaders.values() for condition in set(of_tier[data_key].conditions)]
    assert len(shown) == len(set(shown))
    batch = next(iter(loaders["train"][data_key]))
    assert batch.responses.shape[1] == len(made.recording.units)
    assert tuple(batch.inputs.shape[-2:]) == (made.example.preprocessing.height, made.example.preprocessing.width)


def test_still_images_go_with_image_preprocessing_and_movies_with_movie(make: Callable[[Example], Made]) -> None:
    from schemas import config
    from schemas.dataset import Dataset, fitting

    kinds = {
        "Image": config.PreprocessingConfig.add(Image(height=3, width=3))["preprocessing_hash"],
        "Movie": config.PreprocessingConfig.add(Movie(height=3, width=3))["preprocessing_hash"],
    }
    both = [{"preprocessing_hash": kind} for kind in kinds.values()]
    for example, wanted in ((IMAGES, "Image"), (ARRAYS, "Image"), (SENSORIUM2023, "Movie"), (EXPERANTO, "Movie")):
        made = make(example)
        pairs = (Dataset().key_source & made.scan & both).to_dicts()
        assert [pair["preprocessing_hash"] for pair in pairs] == [kinds[wanted]]
        data = {"Image": config.DataConfig.CorrectedAreaLayer, "Movie": config.DataConfig.MovieClips}[wanted]
        group = {"group_id": made.group["group_id"]}
        assert made.group["data_hash"] in (fitting() & group).to_arrays("data_hash")
        known = set(config.DataConfig.MovieClips().to_arrays("data_hash"))
        fits = set((fitting() & group).to_arrays("data_hash"))
        assert fits & known == (known if wanted == "Movie" else set())
        assert set(data().to_arrays("data_hash")) <= fits


# ------------------------------------------------------------------------------------------------- shared still images


def tiers_by_hash(scan: Key) -> dict[str, str]:
    from schemas import stimulus

    return dict(zip(*(stimulus.ConditionTier & scan).to_arrays("condition_hash", "tier"), strict=True))


def test_scans_that_share_pictures_agree_on_their_tiers(make: Callable[[Example], Made], tmp_path: Path) -> None:
    """Once from files in another order, without tiers, and once from arrays, with new ones and repeats among them."""
    from populate.ingest import ingest
    from schemas import stimulus

    first = tiers_by_hash(make(IMAGES).scan)
    (tmp_path / "images").mkdir()
    for place, number in enumerate((8, 3, 0, 12, 4, 1, 11)):
        draw(tmp_path, place, picture(number))
    np.save(tmp_path / "responses.npy", np.random.default_rng(0).normal(size=(2, 7, 2)))
    files = open_recording("images", images=str(tmp_path / "images"), responses=str(tmp_path / "responses.npy"))
    numbers = (11, 5, 7, 2, 12, 20, 4)
    arrays = Recording.from_arrays(
        str(tmp_path / "arrays"),
        images=[picture(number).transpose(2, 0, 1) for number in numbers],
        shown=[*range(7), 1, 1, 3],
        responses=np.random.default_rng(1).normal(size=(10, 3)),
        durations=0.5,
    )
    scans = [ingest(source, "sharing-pictures", 1, n).key for n, source in enumerate((files, arrays), 1)]
    second, third = (tiers_by_hash(scan) for scan in scans)
    assert (len(second), len(second.keys() & first.keys())) == (7, 5)
    assert (len(third), len(third.keys() & first.keys()), len(third.keys() & second.keys())) == (7, 4, 3)
    for one, other in ((first, second), (first, third), (second, third)):
        shared = one.keys() & other.keys()
        assert {c: one[c] for c in shared} == {c: other[c] for c in shared}
    everything = {**first, **second, **third}
    assert len(stimulus.Condition & [{"condition_hash": condition} for condition in everything]) == len(everything)


# ---------------------------------------------------------------------------------------------- a model of still images


@pytest.fixture(scope="module")
def image_model(make: Callable[[Example], Made]) -> Key:
    """A model of the example's still images, trained for two epochs, with its readouts analysed."""
    from schemas import config, model
    from schemas.analysis import ReadoutAnalysis

    core = Stacked2d(hidden_channels=4, input_kern=3, layers=1, pad_input=True)
    network = Network(core, NoRecurrence(), FullGaussian2d(), NoShifter(), NoModulator())
    (trainer,) = config.TrainConfig.Default.fill(max_epochs=2, batch_size=4)
    key = {**make(IMAGES).group, **config.NetworkConfig.add(network), **trainer, "seed": 1009}
    assert model.ModelSelection.fill(key) == 1
    model.Model.populate(key)
    ReadoutAnalysis.populate(key)
    return key


def test_a_model_of_still_images_is_scored(image_model: Key, make: Callable[[Example], Made]) -> None:
    from schemas.dataset import get_dataloaders
    from schemas.model import Model

    row = (Model & image_model).fetch1()
    assert row["model_epochs"] == 2
    encoder, info = Model.load_encoder(image_model)
    (data_key,) = info
    assert info[data_key].input_shape == (3, 7, 9)
    units = make(IMAGES).recording.units
    for tier in ("validation", "test"):
        loader = get_dataloaders(image_model)[tier][data_key]
        batches = list(loader)
        responses = np.concatenate([batch.responses.numpy() for batch in batches])
        predicted = np.concatenate([encoder(batch.images, data_key).detach().numpy() for batch in batches])
        assert responses.shape == predicted.shape == (IMAGES.trials[tier], len(units))
        with np.errstate(invalid="ignore"):  # a unit may answer two images alike
            expected = [np.corrcoef(*pair)[0, 1] for pair in zip(responses.T, predicted.T, strict=True)]
        rows = (Model.UnitScore & image_model & {"score_tier": tier}).to_dicts(order_by="unit_id")
        found = [row["single_trial_correlation"] for row in rows]
        assert found == pytest.approx([None if np.isnan(value) else value for value in expected], abs=1e-5)
        assert row[f"{tier}_correlation"] == pytest.approx(np.nanmean(expected), abs=1e-5)
    averaged = (Model.UnitScore & image_model & {"score_tier": "test"}).to_arrays("correlation_to_average")
    assert np.isfinite(averaged.astype(float)).all()


def test_readouts_of_still_images_look_at_their_pixels(image_model: Key) -> None:
    from schemas.analysis import ReadoutAnalysis
    from schemas.model import Model

    encoder, info = Model.load_encoder(image_model)
    (data_key,) = info
    grid = encoder.readouts[data_key].positions().detach().numpy()
    rows = (ReadoutAnalysis.Unit & image_model).to_dicts(order_by="unit_id")
    assert [row["position_x_px"] for row in rows] == pytest.approx((grid[:, 0] + 1) / 2 * 8)
    assert [row["position_y_px"] for row in rows] == pytest.approx((grid[:, 1] + 1) / 2 * 6)
    assert all(row["position_x_deg"] is None for row in rows), "the screen's size is not known"


def test_a_model_of_still_images_is_reported(image_model: Key, tmp_path: Path) -> None:
    from schemas.model import Model

    path = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["report", "--group", str(image_model["group_id"]), "--output", str(path)])
    assert done.exit_code == 0, done.output
    page = Page(path.read_text(encoding="utf-8"))
    assert page.texts["h2"] == ["Models", "Scores", "Readouts", "Tables"], "no responses over time"
    assert "4" in page.texts["dd"]
    test = (Model & image_model).fetch1("test_correlation")
    assert f"{test:.3f}" in page.texts["dd"]


# ------------------------------------------------------------------------------------------------------ real recording


@pytest.mark.skipif(not V4.is_dir(), reason=f"{V4} is not there")
def test_macaque_v4_from_the_command_line_to_its_oracle() -> None:
    """50 neurons, 640 colour images, 6 to 10 repeats; the published oracle is 0.471 (see README.md beside the data)."""
    from schemas import config, stimulus
    from schemas.dataset import Dataset, MultiDataset, Oracle

    done = CliRunner().invoke(
        app,
        [
            "ingest", "images", "--images", str(V4 / "images_210325.zip"), "--responses",
            str(V4 / "responses_raw_210325.npy"), "--tiers", "train,train,train,validation,test", "--subject", "v4",
            "--session", "210325", "--scan", "1",
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Ingested v4-210325-1: 50 units," in done.output
    scan = {"subject": "v4", "session": 210325, "scan_idx": 1}
    assert Counter(tiers_by_hash(scan).values()) == {"train": 384, "validation": 128, "test": 128}
    key = {**scan, **config.PreprocessingConfig.add(Image(height=28, width=28, color="grey"))}
    Dataset.populate(key)
    stored = Dataset.open(key)
    assert len(stored.trial_idx) == len(stimulus.Trial & scan)
    assert stored.stimulus(stored.condition_hash[0]).shape == (1, 28, 28)
    group = {**MultiDataset.fill(key, "macaque V4"), **config.DataConfig.add(CorrectedAreaLayer())}
    Oracle.populate(group)
    oracle = (Oracle & group).fetch1()
    assert oracle["oracle_mean"] == pytest.approx(0.471, abs=0.002)
    assert oracle["oracle_undefined"] == 0
    assert set((Oracle.Unit & group).to_arrays("oracle_conditions")) == {128}
