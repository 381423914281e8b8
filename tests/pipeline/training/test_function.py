"""Trainers of functions on our networks and on those of functions, and our trainer on those."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

from pipeline.errors import ConfigurationError, TrainingError
from pipeline.models import Encoder, Factorized3d, FullGaussian2d, Network
from pipeline.models.base import EncodingModel
from pipeline.models.function import Function as NetworkFunction
from pipeline.models.transfer import freeze
from pipeline.training import Default, Function, score, train_models
from pipeline.training.function import OurModel
from tests import laboratory

NETWORK = Network(
    Factorized3d(hidden_channels=(3,), spatial_kernels=(5,), temporal_kernels=(8,)), readout=FullGaussian2d()
)
LINEAR = NetworkFunction(function="tests.laboratory.linear", arguments='{"frames": 8, "penalized": true}')


def trainer(name: str, **arguments: Any) -> Function:
    return Function(function=f"tests.laboratory.{name}", arguments=json.dumps(arguments), batch_size=8)


@pytest.fixture
def population(make_population: Any) -> Any:
    made = make_population()
    info = {data_key: dataclasses.replace(scan, clip_frames=40) for data_key, scan in made.info.items()}
    return dataclasses.replace(made, info=info)


def train_one(encoder: EncodingModel, loaders: Any, settings: Any, seed: int, *more: Any, **named: Any) -> Any:
    (result,) = train_models([encoder], loaders, settings, [seed], *more, **named)
    return result


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("network", [NETWORK, LINEAR], ids=["ours", "function's"])
def test_a_function_trains_every_network(network: Any, population: Any) -> None:
    def trained() -> tuple[EncodingModel, Any]:
        encoder = network.build(population.info, 2, population.loaders)
        settings = trainer("poisson_trainer", epochs=4, lr=0.02)
        return encoder, train_one(encoder, population.loaders, settings, 5, seen.append, uid={"group_id": 9})

    seen: list[Any] = []
    before = torch.random.get_rng_state()
    encoder, result = trained()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert laboratory.CALLS[-1]["uid"] == {"group_id": 9, "seed": 5}
    assert laboratory.CALLS[-1]["tiers"] == ["train", "validation"]
    assert laboratory.CALLS[-1]["model"] == ("OurModel" if network is NETWORK else "Penalized")
    now = score(encoder, population.loaders["validation"])
    assert result.validation_correlation == now.correlation > max(result.initial_correlation, 0) + 0.1
    assert (result.best_epoch, result.stopped_by, result.undefined_units) == (None, "function", {"lgn": ()})
    assert [epoch.epoch for epoch in result.history] == [epoch.epoch for epoch in seen] == [1, 2, 3, 4]
    assert all(math.isnan(epoch.validation_correlation) and epoch.seconds > 0 for epoch in result.history)
    assert not encoder.training
    again = weights(trained()[0])
    assert all(torch.equal(value, again[name]) for name, value in encoder.state_dict().items())


def test_each_member_of_an_ensemble_has_a_key_of_its_own(population: Any) -> None:
    encoders = [LINEAR.build(population.info, seed, population.loaders) for seed in (3, 4)]
    seen: list[Any] = []
    settings, key = trainer("poisson_trainer", epochs=2), {"group_id": 9, "seed": -17}
    train_models(encoders, population.loaders, settings, [3, 4], seen.append, uid=key)
    assert [call["uid"] for call in laboratory.CALLS[-2:]] == [{"group_id": 9, "seed": seed} for seed in (3, 4)]
    assert [(epoch.seed, epoch.epoch) for epoch in seen] == [(3, 1), (3, 2), (4, 1), (4, 2)]


def test_our_trainer_trains_the_network_of_a_function(population: Any) -> None:
    encoder = LINEAR.build(population.info, 2, population.loaders)
    result = train_one(encoder, population.loaders, Default(max_epochs=4, lr_init=0.02), 5)
    assert result.validation_correlation > max(result.initial_correlation, 0) + 0.1
    assert result.validation_correlation == score(encoder, population.loaders["validation"]).correlation
    assert result.best_epoch is not None and len(result.history) == 4


def test_what_is_not_reported_is_not_made_up(population: Any) -> None:
    encoder = LINEAR.build(population.info, 2, population.loaders)
    before = weights(encoder)
    results = [train_one(encoder, population.loaders, trainer("trainer_without_callback"), seed) for seed in (1, 1, 2)]
    assert all(result.history == () for result in results)
    moved = [(value - before[name]).std().item() for name, value in encoder.state_dict().items()]
    assert all(0.1 < distance < 0.25 for distance in moved), (
        "three times noise of 0.1, which only the function returned"
    )
    one, same, other = (call["noise"] for call in laboratory.CALLS[-3:])
    assert one == same != other


def test_penalties_of_our_networks_are_one_number(population: Any) -> None:
    encoder = NETWORK.build(population.info, 2)
    model = OurModel(encoder)
    terms = encoder.regularizer("lgn")
    assert model.regularizer("lgn").item() == pytest.approx(sum(term.item() for term in terms.values()))
    core = sum(term.item() for term in encoder.core.regularizer().values())
    assert core > 0
    assert model.core.regularizer().item() == pytest.approx(core)
    assert model.readout.regularizer("lgn").item() == pytest.approx(sum(term.item() for term in terms.values()) - core)
    freeze(encoder.core)
    assert model.core.regularizer().item() == 0
    assert not encoder.core.regularizer().keys() & encoder.regularizer("lgn").keys()
    assert model.regularizer("lgn").item() == pytest.approx(sum(x.item() for x in encoder.regularizer("lgn").values()))
    with pytest.raises(ConfigurationError, match="detach_core"):
        model(torch.zeros(1, 1, 9, 11, 13), data_key="lgn", detach_core=True)


def test_ranges_of_parameters_hold_whoever_steps(population: Any) -> None:
    encoder = NETWORK.build(population.info, 2)
    assert isinstance(encoder, Encoder)
    outside: list[bool] = []
    encoder.readouts["lgn"].register_forward_pre_hook(
        lambda readout, _: outside.append(bool(readout.mu.abs().max() > 1))
    )
    train_one(encoder, population.loaders, trainer("poisson_trainer", epochs=2, lr=1.0), 5)
    assert encoder.readouts["lgn"].mu.abs().max() == 1, "steps of 1 lead out of the map"
    assert not any(outside)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "complaint"),
    [
        ("nowhere", {}, ConfigurationError, r"'tests\.laboratory\.nowhere' does not lead to a function"),
        ("poisson_trainer", {"learning": 1}, ConfigurationError, "unexpected keyword argument 'learning'"),
        ("returns_weights_alone", {}, TrainingError, r"must return \(score, output, state_dict\), but .* OrderedDict"),
        ("returns_other_weights", {}, TrainingError, r"of the model that it was given, but other, weights differ"),
        ("poisson_trainer", {"lr": "fast"}, TrainingError, r"tests\.laboratory\.poisson_trainer failed \(TypeError"),
        ("returns_broken_weights", {}, TrainingError, "weights that are not finite: weights"),
    ],
)
def test_trainers_that_do_not_fit_are_refused(
    name: str, arguments: dict[str, Any], error: type[Exception], complaint: str, population: Any
) -> None:
    encoder = LINEAR.build(population.info, 2, population.loaders)
    before = weights(encoder)
    with pytest.raises(error, match=complaint):
        train_one(encoder, population.loaders, trainer(name, **arguments), 1)
    if error is ConfigurationError:
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_other_settings_and_reserved_arguments_are_refused(population: Any) -> None:
    with pytest.raises(ConfigurationError, match="no trainer for settings of kind Factorized3d"):
        train_one(NETWORK.build(population.info, 2), population.loaders, NETWORK.core, 1)
    with pytest.raises(ConfigurationError, match=r"Function\.arguments: cb, uid cannot be among them"):
        trainer("poisson_trainer", cb=1, uid=2)
