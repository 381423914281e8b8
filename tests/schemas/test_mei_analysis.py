"""What is measured of MEIs: rows equal what the stored model answers, for movies and for images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

Key = dict[str, Any]


def meis_of(trained: Key, settings: Key, units: str) -> Key:
    from schemas import recording
    from schemas.mei import MEI
    from schemas.selection import TargetDataset, TargetModel

    target = TargetDataset.fill(trained, "measured", recording.Scan.Unit & units)
    TargetModel.insert1(trained, ignore_extra_fields=True, skip_duplicates=True)
    key = {**trained, **target, **settings}
    MEI.populate(key)
    return key


@pytest.fixture(scope="module")
def movies(trained: Key) -> Key:
    from schemas import config

    return meis_of(trained, config.MEIConfig.Movie.fill(frames=8, iterations=6, norm=5.0)[0], "unit_id in (2, 3, 5)")


@pytest.fixture(scope="module")
def images(stored_images: Key) -> Key:
    from pipeline.models import FullGaussian2d, Network, NoModulator, NoRecurrence, NoShifter, Stacked2d
    from schemas import config, dataset, model

    core = Stacked2d(hidden_channels=4, layers=1, input_kern=5)
    network = Network(core, NoRecurrence(), FullGaussian2d(), NoShifter(), NoModulator())
    key = {
        **dataset.MultiDataset.fill(stored_images, "still images"),
        **config.DataConfig.CorrectedAreaLayer.fill()[0],
        **config.NetworkConfig.add(network),
        **config.TrainConfig.Default.fill(max_epochs=2, batch_size=8)[0],
        "seed": 1009,
    }
    model.ModelSelection.fill(key)
    model.Model.populate(key)
    return meis_of(key, config.MEIConfig.Modern.fill(iterations=8, norm=5.0)[0], "unit_id > 0 and subject = 'still'")


class Model:
    """The stored model with its data, asked one stimulus at a time."""

    def __init__(self, key: Key) -> None:
        from schemas import dataset
        from schemas.mei import MEI
        from schemas.model import Model

        self.encoder, info = Model.load_encoder(key)
        ((self.data_key, self.info),) = info.items()
        self.loaders = dataset.get_dataloaders(key)
        self.rows = (MEI.Unit & key).to_dicts(order_by="unit_id")
        self.units = [row["unit_id"] for row in self.rows]

    def responses(self, inputs: torch.Tensor) -> np.ndarray:
        """(stimulus, chosen unit, time) of normalised inputs."""
        positions = [self.info.unit_ids.index(unit) for unit in self.units]
        with torch.no_grad():
            found = self.encoder(inputs, self.data_key)[:, positions].numpy()
        return found[:, :, None] if found.ndim == 2 else found

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """(chosen unit,) of one stimulus in grey values, (channel, time, height, width)."""
        inputs = (torch.tensor(np.asarray(grey)).float() - self.info.input_mean) / self.info.input_std
        return self.responses(inputs[None])[0, :, -1]


@pytest.fixture(params=["movies", "images"], scope="module")
def key(request: pytest.FixtureRequest) -> Key:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def asked(key: Key) -> Model:
    return Model(key)


def test_what_is_wanted_are_the_configurations_of_a_kind(key: Key) -> None:
    from schemas import mei_analysis as tables
    from schemas.config import MEIAnalysisConfig

    for table, kind in (
        (tables.MEIContrast, MEIAnalysisConfig.ContrastTuning),
        (tables.BestNaturalStimulus, MEIAnalysisConfig.NaturalStimuli),
        (tables.OptimalGabor, MEIAnalysisConfig.GaborSearch),
        (tables.DiverseMEI, MEIAnalysisConfig.DiverseStimuli),
    ):
        wanted = (table().key_source & key).to_arrays("mei_analysis_hash")
        assert sorted(wanted) == sorted(kind().to_arrays("mei_analysis_hash"))


@pytest.fixture(scope="module")
def masks(key: Key) -> Key:
    from schemas import config
    from schemas.mei_analysis import GaussianMaskFit, TightMEIMask

    (tight,), (gaussian,) = config.MaskConfig.TightMask.fill(blur=1.0), config.MaskConfig.GaussianMask.fill()
    TightMEIMask.populate(key)
    GaussianMaskFit.populate(key)
    assert len(TightMEIMask & key & tight) == len(GaussianMaskFit & key & gaussian) == 1
    return {"tight": {**key, **tight}, "gaussian": {**key, **gaussian}}


def test_masks(masks: Key, asked: Model) -> None:
    from schemas.mei_analysis import GaussianMaskFit, TightMEIMask

    rows = (TightMEIMask.Unit & masks["tight"]).to_dicts(order_by="unit_id")
    fits = (GaussianMaskFit.Unit & masks["gaussian"]).to_dicts(order_by="unit_id")
    assert [row["unit_id"] for row in rows] == [row["unit_id"] for row in fits] == asked.units
    for row, fit, mei in zip(rows, fits, asked.rows, strict=True):
        movie, mask = np.asarray(mei["mei_movie"]), np.asarray(row["tight_mask"])
        assert mask.shape == np.asarray(fit["gaussian_mask"]).shape == movie.shape[-2:]
        assert row["mask_converged"] == (row["reduction_ratio"] <= 0.9)
        weights = ((movie - movie.mean()) ** 2).sum(axis=(0, 1))
        assert fit["mu_x"] == pytest.approx((weights.sum(axis=0) * np.arange(movie.shape[-1])).sum() / weights.sum())
        assert np.asarray(fit["frame_fits"]).shape == (movie.shape[1], 5)


def test_contrast_curves(key: Key, asked: Model) -> None:
    from schemas import config
    from schemas.mei_analysis import MEIContrast

    (settings,) = config.MEIAnalysisConfig.ContrastTuning.fill(steps=40)
    MEIContrast.populate(key, settings)
    rows = (MEIContrast.Unit & key & settings).to_dicts(order_by="unit_id")
    for position, (row, mei) in enumerate(zip(rows, asked.rows, strict=True)):
        movie = np.asarray(mei["mei_movie"]).astype(float)
        contrast, response = np.asarray(row["contrast_curve"])
        scaled = movie.mean() + (movie - movie.mean()) * contrast[17] / movie.std()
        assert response[17] == pytest.approx(asked(scaled)[position], rel=1e-4)
        assert row["max_activation"] == response.max()
        assert row["sat_contrast"] == contrast[-1]
        assert 0 < row["saturation_contrast"] <= row["max_contrast"] <= row["sat_contrast"] <= row["lim_contrast"]


def test_the_best_natural_stimulus(key: Key, asked: Model) -> None:
    from schemas import config
    from schemas.mei_analysis import BestNaturalStimulus

    (settings,) = config.MEIAnalysisConfig.NaturalStimuli.fill()
    BestNaturalStimulus.populate(key, settings)
    rows = (BestNaturalStimulus.Unit & key & settings).to_dicts(order_by="unit_id")
    best: list[tuple[float, str]] = [(-np.inf, "")] * len(rows)
    for tier in ("train", "validation", "test"):
        loader = asked.loaders[tier][asked.data_key]
        inputs = [stimulus for batch in loader.in_full() for stimulus in batch.inputs]
        for stimulus, name in zip(inputs, loader.conditions, strict=True):
            highest = asked.responses(stimulus[None])[0].max(axis=1)
            best = [max(old, (float(new), name)) for old, new in zip(best, highest, strict=True)]
    for row, mei, (activation, name) in zip(rows, asked.rows, best, strict=True):
        assert row["natural_activation"] == pytest.approx(activation, rel=1e-4)
        assert row["condition_hash"] == name
        assert row["natural_ratio"] == pytest.approx(row["natural_activation"] / mei["mei_activation"])
        assert row["natural_mean"] < row["natural_activation"]


def test_the_best_gabor(key: Key, asked: Model) -> None:
    from schemas import config
    from schemas.mei_analysis import OptimalGabor

    small: Key = {"wavelengths": [(6, 10)], "sigmas": [(2, 4)], "rows": 2, "columns": 2, "iterations": 5}
    (own,) = config.MEIAnalysisConfig.GaborSearch.fill(**small, contrast=None)
    (common,) = config.MEIAnalysisConfig.GaborSearch.fill(**small, contrast=8.0)
    OptimalGabor.populate(key, [own, common])
    for settings in (own, common):
        rows = (OptimalGabor.Unit & key & settings).to_dicts(order_by="unit_id")
        for position, (row, mei) in enumerate(zip(rows, asked.rows, strict=True)):
            movie, image = np.asarray(mei["mei_movie"]), np.asarray(row["best_gabor"])
            shown = np.broadcast_to(image, movie.shape)
            assert row["best_activation"] == pytest.approx(asked(shown)[position], rel=1e-3)
            assert row["best_activation"] >= row["grid_activation"]
            assert row["gabor_contrast"] == pytest.approx(8.0 if settings is common else movie.std(), rel=0.05)
            assert row["gabor_ratio"] == pytest.approx(row["best_activation"] / mei["mei_activation"])
            assert 0 <= row["best_orientation"] < 180


def test_diverse_stimuli(key: Key, asked: Model) -> None:
    from schemas import config
    from schemas.mei_analysis import DiverseMEI

    (settings,) = config.MEIAnalysisConfig.DiverseStimuli.fill(set_size=3, share=0.8, iterations=40)
    DiverseMEI.populate(key, settings)
    rows = (DiverseMEI.Unit & key & settings).to_dicts(order_by="unit_id")
    usable = [i for i, mei in enumerate(asked.rows) if mei["mei_activation"] > 0]
    assert [row["unit_id"] for row in rows] == [asked.units[i] for i in usable] != []
    for position, row in zip(usable, rows, strict=True):
        mei = asked.rows[position]
        sets, responses = np.asarray(row["diverse_stimuli"]), np.asarray(row["diverse_activations"])
        assert sets.shape == (3, *np.asarray(mei["mei_movie"]).shape)
        np.testing.assert_allclose(responses, [asked(shown)[position] for shown in sets], rtol=1e-3)
        assert row["lowest_share"] == pytest.approx(responses.min() / mei["mei_activation"])
        assert row["share_kept"] == (row["lowest_share"] >= 0.8)
        alike = np.asarray(row["diverse_similarities"])
        assert row["mean_similarity"] == pytest.approx(alike[np.triu_indices(3, 1)].mean())
        assert row["mean_similarity"] < 0.99


def test_transplants(key: Key, masks: Key, asked: Model) -> None:
    from schemas import config
    from schemas.mei_exchange import TransplantedMEI

    (settings,) = config.MEIAnalysisConfig.Transplant.fill(backgrounds=3, background_tier="train")
    tight = masks["tight"]
    TransplantedMEI.populate(tight, settings)
    names = (TransplantedMEI.Background & tight & settings).to_arrays("condition_hash", order_by="background_idx")
    assert len(set(names)) == 3
    loader = asked.loaders["train"][asked.data_key]
    stimuli = dict(zip(loader.conditions, (s for b in loader.in_full() for s in b.inputs), strict=True))
    frames = np.asarray(asked.rows[0]["mei_movie"]).shape[1]
    alone = []
    for name in names:
        stimulus = stimuli[name] if stimuli[name].dim() == 3 else stimuli[name][:, -frames:]
        alone.append(asked.responses(stimulus[None])[0, :, -1])
    rows = (TransplantedMEI.Unit & tight & settings).to_dicts(order_by="unit_id")
    for position, row in enumerate(rows):
        found = np.asarray(row["transplant_responses"])
        np.testing.assert_allclose(found[0], [responses[position] for responses in alone], rtol=1e-3)
        assert row["alone_mean"] == pytest.approx(found[0].mean())
        assert row["transplanted_mean"] == pytest.approx(found[1].mean())
        assert (found[1] != found[0]).any()


def test_every_mei_is_shown_to_every_unit(key: Key, asked: Model) -> None:
    from pipeline.errors import ConfigurationError
    from schemas import config
    from schemas.mei_exchange import MEIConfusion

    (plain,), (equal,) = (config.MEIAnalysisConfig.CrossActivation.fill(match=match) for match in (False, True))
    MEIConfusion.populate(key, [plain, equal])
    expected = np.stack([asked(row["mei_movie"]) for row in asked.rows], axis=1)
    found = MEIConfusion.matrix({**key, **plain})
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.index.get_level_values("unit_id").tolist() == asked.units
    rows = (MEIConfusion.Unit & key & plain).to_dicts(order_by="confusion_idx")
    for i, row in enumerate(rows):
        assert row["own_activation"] == pytest.approx(asked.rows[i]["mei_activation"], rel=1e-4)
        assert row["own_mei_rank"] == 1 + (expected[i] > expected[i, i]).sum()
        assert row["own_unit_rank"] == 1 + (expected[:, i] > expected[i, i]).sum()
    share = (MEIConfusion & key & plain).fetch1("own_best_share")
    assert share == np.mean([row["own_mei_rank"] == 1 for row in rows])
    np.testing.assert_allclose(np.diagonal(MEIConfusion.matrix({**key, **plain}, by="own_mei")), 1)
    assert not np.allclose(MEIConfusion.matrix({**key, **equal}), expected, rtol=1e-4)
    with pytest.raises(ConfigurationError, match="2 matrices"):
        MEIConfusion.matrix(key)


def test_configurations_stay_parts_of_their_own_tables() -> None:
    from populate.schema_map import tables
    from schemas import config

    assert config.MaskConfig.TightMask.master is config.MaskConfig
    assert config.MEIAnalysisConfig.GaborSearch.master is config.MEIAnalysisConfig
    parts = [name for name, (schema, _) in tables().items() if schema in ("mei_analysis", "mei_exchange")]
    assert {name.split(".")[1] for name in parts if "." in name} == {"Unit", "Background"}
