"""ModelSelection: what the restrictions select, no more, and the most urgent first."""

from __future__ import annotations

from typing import Any

import datajoint as dj
import pytest

from pipeline.errors import ConfigurationError

Key = dict[str, Any]


@pytest.fixture(scope="module")
def candidates(group: Key) -> dj.expression.QueryExpression:
    """Networks of two lists of cores, each with two readouts: 2 * (2 + 3) networks."""
    from schemas import config

    factorized = config.CoreConfig.Factorized3d.fill(
        hidden_channels=(4,), spatial_kernels=(5,), temporal_kernels=(5,), linear=[False, True], momentum=0.51
    )
    stacked = config.CoreConfig.Stacked2d.fill(layers=[1, 2, 3], momentum=0.51)
    config.NetworkConfig.fill(
        factorized + stacked,
        config.RecurrentConfig.NoRecurrence.fill(),
        config.ReadoutConfig.FullGaussian2d.fill(gamma_readout=[0.11, 0.12]),
        config.ShifterConfig.NoShifter.fill(),
        config.ModulatorConfig.NoModulator.fill(),
    )
    chosen = [
        config.CoreConfig.Factorized3d & {"momentum": 0.51} & {"linear": True},
        config.CoreConfig.Stacked2d & {"momentum": 0.51} & "layers >= 2",
    ]
    readouts = [config.ReadoutConfig.FullGaussian2d & {"gamma_readout": 0.11}]
    return config.NetworkConfig.CorePlusReadout & chosen & readouts


def test_fill_selects_the_product_of_the_restrictions(group: Key, candidates: Any) -> None:
    from schemas import config, model

    config.TrainConfig.Default.fill(max_epochs=[1, 2, 3], lr_init=0.007)
    trainers = config.TrainConfig.Default & {"lr_init": 0.007} & "max_epochs < 3"
    seeds = [{"seed": 1009}, {"seed": 2606}]
    wanted = (group, candidates, trainers, seeds)
    before = len(model.ModelSelection())
    # 1 linear factorised core and 2 stacked ones, 1 readout, 2 trainers, 2 seeds
    assert model.ModelSelection.fill(*wanted) == 3 * 1 * 2 * 2
    assert model.ModelSelection.fill(*wanted) == 0
    assert len(model.ModelSelection()) == before + 12
    selected = model.ModelSelection & group & candidates.proj() & trainers.proj()
    assert len(selected) == 12
    assert len(selected & {"seed": 2606}) == 6
    assert model.ModelSelection.fill(*wanted[:3], {"seed": 1215}, priority=0) == 6
    assert set(selected.to_arrays("selection_priority")) == {0, 5}


def test_parts_restrict_selection_and_models(group: Key, candidates: Any) -> None:
    from schemas import config, model

    (trainer,) = config.TrainConfig.Default.fill(max_epochs=1, lr_init=0.008)
    cores = [config.CoreConfig.Stacked2d & {"momentum": 0.51, "layers": 2}]
    readouts = config.ReadoutConfig.FullGaussian2d & {"gamma_readout": 0.12}
    assert model.ModelSelection.fill(group, trainer, cores, readouts, {"seed": 1009}) == 1
    assert model.ModelSelection.fill([group], trainer, candidates, {"seed": 1009}) == 3
    waiting = model.Model().key_source & group & trainer
    assert len(waiting) == 4
    assert len(waiting & cores) == 2
    assert len(waiting & cores & readouts) == 1
    assert model.Model.progress(group, trainer, cores, readouts) == (1, 1)


def test_what_is_not_restricted_is_taken_whole(group: Key, candidates: Any) -> None:
    from schemas import config, model

    (trainer,) = config.TrainConfig.Default.fill(max_epochs=1, lr_init=0.009)
    assert model.ModelSelection.fill(group, trainer, []) == 0  # an empty list is no alternative at all
    # Readouts, recurrent modules, seeds and so on of these cores, whatever else is in the tables.
    cores = config.CoreConfig.Factorized3d & {"momentum": 0.51}
    mine = len(config.NetworkConfig.CorePlusReadout & cores.proj())
    assert mine == 4
    assert model.ModelSelection.fill(group, trainer, cores) == mine * len(config.Seed())
    assert len(model.ModelSelection & trainer) == mine * len(config.Seed())


@pytest.mark.parametrize(
    ("restriction", "complaint"),
    [
        ({"groupid": 1}, "groupid cannot choose models: restrict by group_id, data_hash"),
        ([{"seed": 1009}, {"sed": 1215}], "sed cannot choose models"),
        ("Subject", "subject cannot choose models"),
    ],
)
def test_restrictions_that_restrict_nothing_are_refused(group: Key, restriction: Any, complaint: str) -> None:
    from schemas import model, recording

    before = len(model.ModelSelection())
    with pytest.raises(ConfigurationError, match=complaint):
        model.ModelSelection.fill(group, recording.Subject if restriction == "Subject" else restriction)
    assert len(model.ModelSelection()) == before


@pytest.mark.parametrize("priority", [-1, 128])
def test_priority_is_what_the_queue_can_hold(group: Key, priority: int) -> None:
    from schemas import model

    with pytest.raises(ConfigurationError, match=f"priority {priority} is out of range: 0 .* to 127"):
        model.ModelSelection.fill(group, priority=priority)


def test_populate_trains_exactly_those_and_the_most_urgent_first(group: Key, network: Key) -> None:
    from schemas import config, model

    linear = config.NetworkConfig.fill(
        config.CoreConfig.Factorized3d.fill(
            hidden_channels=(4,), spatial_kernels=(5,), temporal_kernels=(5,), linear=True
        ),
        config.RecurrentConfig.NoRecurrence.fill(),
        config.ReadoutConfig.FullGaussian2d.fill(),
        config.ShifterConfig.NoShifter.fill(),
        config.ModulatorConfig.NoModulator.fill(),
    )
    trainer, other = config.TrainConfig.Default.fill(max_epochs=1, batch_size=4, lr_init=[0.003, 0.004])
    candidates = config.NetworkConfig & [network, *linear]
    for seed, priority in ((1009, 9), (1215, 127)):
        model.ModelSelection.fill(group, candidates, trainer, {"seed": seed}, priority=priority)
    model.ModelSelection.fill(group, candidates, other, {"seed": 1009})  # selected, but not to be trained here
    mine = model.Model & group & trainer

    first = model.Model.populate(trainer, candidates, reserve_jobs=True, max_calls=1)
    assert first == {"success_count": 1, "error_list": []}
    assert list(mine.to_arrays("seed")) == [1009]
    # what is selected last but more urgent overtakes what waits in the queue already
    model.ModelSelection.fill(group, candidates, trainer, {"seed": 2606}, priority=0)
    model.Model.populate(trainer, candidates, reserve_jobs=True, max_calls=2)
    assert sorted(mine.to_arrays("seed")) == [1009, 2606, 2606]
    rest = model.Model.populate({"group_id": group["group_id"]}, trainer, candidates, reserve_jobs=True)
    assert rest["success_count"] == 3
    assert sorted(mine.to_arrays("seed")) == [1009, 1009, 1215, 1215, 2606, 2606]
    assert model.Model.populate(trainer, candidates, reserve_jobs=True)["success_count"] == 0
    assert not len(model.Model & other)
    assert len((model.ModelSelection & trainer).proj() - model.Model.proj()) == 0
