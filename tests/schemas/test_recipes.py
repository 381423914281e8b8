"""Recipes of the systems that users come from, as they type them."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import ConfigurationError

Key = dict[str, Any]
SEEDS = (1009, 1215, 2606, 99999)


def test_staticnet_plans_sixty_four_models(stored_images: Key) -> None:
    """A list of core candidates, joined with networks, a trainer, the data and four seeds: 8 x 2 x 4."""
    from schemas.config import (
        CoreConfig,
        DataConfig,
        ModulatorConfig,
        NetworkConfig,
        ReadoutConfig,
        RecurrentConfig,
        ShifterConfig,
        TrainConfig,
    )  # fmt: skip
    from schemas.dataset import MultiDataset
    from schemas.model import Model, ModelSelection

    varied = {"gauss_bias": 0.0, "gauss_sigma": 0.5, "input_kern": 15, "hidden_kern": 7}
    gammas = {"gamma_input": [50.0, 100.0], "gamma_hidden": [0.1, 1.0]}
    cores = CoreConfig.GaussianLaplace.fill(**varied, **gammas)
    cores += CoreConfig.StackedLinearGaussianLaplace.fill(**varied, **gammas)
    readouts = ReadoutConfig.SpatialTransformerPyramid2d.fill(scale_n=5, downsample=[True, False])
    none = (RecurrentConfig.NoRecurrence.fill(), ShifterConfig.NoShifter.fill(), ModulatorConfig.NoModulator.fill())
    NetworkConfig.fill(cores, none[0], readouts, *none[1:])
    TrainConfig.Default.fill(batch_size=60)
    DataConfig.CorrectedAreaLayer.fill(brain_area="V1", layer="L2/3", behavior="none", pupil="none")

    wanted = {"gauss_bias": 0, "gauss_sigma": 0.5, "input_kern": 15, "hidden_kern": 7}
    core_candidates = [
        CoreConfig.GaussianLaplace & wanted,
        CoreConfig.StackedLinearGaussianLaplace
        & {"gauss_bias": 0, "gauss_sigma": 0.5, "input_kern": 15, "hidden_kern": 7},
    ]
    pyramids = ReadoutConfig.SpatialTransformerPyramid2d & {"scale_n": 5, "gamma_readout": 1.0}
    networks = NetworkConfig.CorePlusReadout & core_candidates & pyramids
    group = MultiDataset.fill(stored_images, "staticnet")
    chosen = (
        group,
        networks.proj(),
        TrainConfig.Default & {"batch_size": 60},
        DataConfig.CorrectedAreaLayer & {"brain_area": "V1", "layer": "L2/3", "stimulus_type": "", "behavior": "none"},
        [{"seed": seed} for seed in SEEDS],
    )
    assert ModelSelection.fill(*chosen) == 64
    assert ModelSelection.fill(*chosen) == 0
    linear = ModelSelection * NetworkConfig.CorePlusReadout & (CoreConfig.StackedLinearGaussianLaplace & wanted).proj()
    assert len(linear & group) == 32
    ((ModelSelection & group) - Model.proj()).delete_quick()  # nobody here wants to train them


def test_a_preset_is_one_key(stored_images: Key) -> None:
    from schemas import config
    from schemas.dataset import MultiDataset
    from schemas.model import ModelSelection

    key = config.add_preset("lurz2020")
    assert set(key) == {"network_hash", "data_hash", "train_hash"}
    assert config.add_preset("lurz2020") == key
    group = MultiDataset.fill(stored_images, "preset")
    before = len(ModelSelection & group)
    with pytest.raises(ConfigurationError, match=r"FullGaussian2d\.grid_mean_predictor: 'cortex'.*UnitPosition"):
        ModelSelection.fill(group, key, {"seed": 1009})
    assert len(ModelSelection & group) == before
    key = config.add_preset("lviv_ln")
    ModelSelection.fill(group, key, {"seed": 1009})
    assert len(ModelSelection & group) == before + 1
    (ModelSelection & group & key).delete_quick()
    with pytest.raises(ConfigurationError, match="no preset"):
        config.add_preset("vgg")
