"""What the settings of the trainer do beside loss and stopping."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, Dataset, RandomSampler

from pipeline.errors import TrainingError
from pipeline.models import Encoder, Factorized3d, FullGaussian2d, Network, build_encoder
from pipeline.training import Checkpointing, Default, Epoch, score, train, train_together
from pipeline.training.cycling import joint_batches

NETWORK = Network(
    core=Factorized3d(hidden_channels=(2,), spatial_kernels=(7,), temporal_kernels=(8,), gamma_input_spatial=0.1),
    readout=FullGaussian2d(init_mu_range=0.5, init_sigma=0.3),
)


@pytest.fixture
def population(make_population: Callable[..., Any]) -> Any:
    return make_population()


def fresh(population: Any, seed: int = 1) -> Encoder:
    return build_encoder(NETWORK, population.info, seed=seed)


def weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in encoder.state_dict().items()}


def assert_same(first: Encoder, second: Encoder) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


class Steps:
    """Watches the optimiser: the learning rate and the gradients of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def __enter__(self) -> Steps:
        self._handle = register_optimizer_step_pre_hook(
            lambda optimizer, *_: self.rates.append(optimizer.param_groups[0]["lr"])
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def test_the_learning_rate_rises_through_the_warm_up(population: Any) -> None:
    with Steps() as steps:
        result = train(fresh(population), population.loaders, Default(max_epochs=3, warmup_epochs=2, lr_init=0.6), 1)
    assert steps.rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6])
    assert [epoch.learning_rate for epoch in result.history] == pytest.approx([0.3, 0.6, 0.6])


def test_the_warm_up_ends_at_the_learning_rate_with_several_steps_at_a_time(population: Any) -> None:
    """Three times two batches, each a step: the rate rises by a sixth from step to step."""
    batches = population.loaders["train"]["lgn"]
    loaders = {tier: dict.fromkeys("ab", of["lgn"]) for tier, of in population.loaders.items()}
    settings = Default(max_epochs=2, warmup_epochs=1, lr_init=0.6, accumulate_scans=False)
    encoder = build_encoder(NETWORK, dict.fromkeys("ab", population.info["lgn"]), seed=1)
    with Steps() as steps:
        train(encoder, loaders, settings, 1)
    assert len(batches) == 3
    assert steps.rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6] + [0.6] * 6)


def test_each_stage_begins_with_fresh_moments(population: Any) -> None:
    """The trainer of staticnet: an optimiser has no state when the first batch of a stage has been seen."""
    states: list[int] = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: states.append(len(optimizer.state)))
    settings = Default(
        optimizer="adam",
        schedule=(0.3, 0.1, 0.03),
        patience=1,
        accumulate_scans=False,
        average_loss=True,
        scale_loss=False,
    )
    try:
        result = train(fresh(population), population.loaders, settings, seed=1)
    finally:
        handle.remove()
    verdicts = [epoch.verdict for epoch in result.history]
    assert verdicts.count("cut") == 2 and verdicts[-1] == "stop"
    assert len(states) == 3 * len(verdicts)
    begins = [0, *(number for number, verdict in enumerate(verdicts, 1) if verdict == "cut")]
    assert [step for step, known in enumerate(states) if not known] == [3 * begin for begin in begins]
    rates = [epoch.learning_rate for epoch in result.history]
    assert rates == sorted(rates, reverse=True) and set(rates) == {0.3, 0.1, 0.03}


def test_each_batch_is_a_step_unless_scans_are_added_up(population: Any) -> None:
    batches = population.loaders["train"]["lgn"]
    loaders = {
        "train": {"a": batches, "b": batches[:2]},
        "validation": dict.fromkeys("ab", population.loaders["validation"]["lgn"]),
    }
    info = dict.fromkeys("ab", population.info["lgn"])
    for settings, expected in ((Default(max_epochs=1), 3), (Default(max_epochs=1, accumulate_scans=False), 6)):
        with Steps() as steps:
            train(build_encoder(NETWORK, info, seed=1), loaders, settings, seed=1)
        assert len(steps.rates) == expected


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_step_is_that_of_the_plain_optimizer(population: Any, optimizer: str) -> None:
    """One step, against torch's unfused optimiser on gradients of our own."""
    ours, theirs = fresh(population).train(), fresh(population).train()
    loaders = population.loaders | {"train": {"lgn": population.loaders["train"]["lgn"][:1]}}
    settings = Default(max_epochs=1, optimizer=optimizer, weight_decay=0.1, lr_init=1e-4, scale_loss=False)
    for encoder in (ours, theirs):
        encoder.readouts["lgn"].sigma.requires_grad_(False).zero_()  # nothing sampled
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    trained = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    plain = kinds[optimizer](trained, lr=1e-4, weight_decay=0.1, **({"momentum": 0.9} if optimizer == "sgd" else {}))
    (batch,) = loaders["train"]["lgn"]
    predictions = theirs(batch.videos, "lgn")
    responses = batch.responses[..., -predictions.shape[-1] :]
    penalties = sum(theirs.regularizer("lgn").values())
    (torch.nn.functional.poisson_nll_loss(predictions, responses, False, reduction="sum") + penalties).backward()
    plain.step()
    ended: list[Encoder] = []
    train(ours, loaders, settings, seed=1, on_epoch=lambda _: ended.append(copy.deepcopy(ours)))
    for name, value in theirs.named_parameters():
        torch.testing.assert_close(ended[0].get_parameter(name), value, rtol=1e-4, atol=1e-6, msg=name)


def test_the_mean_of_the_weights_is_evaluated_and_kept(population: Any) -> None:
    encoder = fresh(population)
    seen: list[torch.Tensor] = []
    handle = register_optimizer_step_pre_hook(lambda *_: seen.append(encoder.readouts["lgn"].bias.detach().clone()))
    settings = Default(max_epochs=1, ema_decay=0.8, lr_init=0.05, patience=9)
    trained: list[torch.Tensor] = []
    try:
        result = train(
            encoder,
            population.loaders,
            settings,
            seed=1,
            on_epoch=lambda _: trained.append(encoder.readouts["lgn"].bias.detach().clone()),
        )
    finally:
        handle.remove()
    assert result.best_epoch == 1
    mean = seen[1]  # the weights after the first step begin the mean
    for after in (seen[2], trained[0]):
        mean = 0.8 * mean + 0.2 * after
    torch.testing.assert_close(encoder.readouts["lgn"].bias.detach(), mean)
    assert not torch.allclose(mean, trained[0])


def test_a_cut_goes_on_from_the_best_mean_of_the_weights(population: Any) -> None:
    encoder = fresh(population)
    seen: list[tuple[Epoch, float]] = []

    def look(epoch: Epoch) -> None:
        seen.append((epoch, score(encoder, population.loaders["validation"]).correlation))

    settings = Default(max_epochs=12, ema_decay=0.5, lr_init=0.5, patience=1, lr_decay_steps=5, min_lr=0)
    result = train(encoder, population.loaders, settings, seed=1, on_epoch=look)
    cuts = [(epoch, found) for epoch, found in seen if epoch.verdict == "cut"]
    assert cuts
    for epoch, found in cuts:  # what was descending now is what was evaluated best
        best = max(e.validation_correlation for e in result.history[: epoch.epoch])
        assert found == pytest.approx(max(best, result.initial_correlation), abs=1e-6)
        assert epoch.validation_correlation < found


class _KilledError(Exception):
    pass


class Killing(list):
    """A loader that dies on its way through the batches."""

    calls = 0

    def __init__(self, batches: list[Any], die_at: int) -> None:
        super().__init__(batches)
        self._die_at = die_at

    def __iter__(self):
        for batch in super().__iter__():
            Killing.calls += 1
            if Killing.calls == self._die_at:
                raise _KilledError
            yield batch


@pytest.mark.parametrize("more", [{}, {"ema_decay": 0.5, "warmup_epochs": 3}, {"optimizer": "sgd", "lr_init": 1e-4}])
def test_training_killed_within_an_epoch_goes_on_from_there(population: Any, tmp_path: Path, more: Any) -> None:
    settings = Default(
        **{"max_epochs": 6, "lr_init": 0.2, "patience": 1, "lr_decay_steps": 5, "accumulate_scans": False} | more
    )
    straight = [fresh(population, seed) for seed in (1, 2)]
    expected = train_together(straight, population.loaders, settings, [1, 2])
    file = tmp_path / "training.safetensors"
    Killing.calls = 0
    for die_at in (2, 8, 13):  # batches 1 of epoch 1, 1 of 3 and 0 of 4, those repeated counted
        batches = Killing(population.loaders["train"]["lgn"], die_at)
        killed = population.loaders | {"train": {"lgn": batches}}
        with pytest.raises(_KilledError):
            train_together(
                [fresh(population, seed) for seed in (1, 2)], killed, settings, [1, 2], None, Checkpointing(file, 0)
            )
    resumed = [fresh(population, 9) for _ in range(2)]
    found = train_together(resumed, population.loaders, settings, [1, 2], None, Checkpointing(file, 0))
    for one, other in zip(straight, resumed, strict=True):
        assert_same(one, other)
    for one, other in zip(expected, found, strict=True):
        timeless = [[dataclasses.replace(e, seconds=0) for e in result.history] for result in (one, other)]
        assert timeless[0] == timeless[1]


class Augmented(Dataset):
    """Clips at random, of all three sources of random numbers that loaders of others use."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches
        self.asked = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, row: int) -> Any:
        self.asked += 1
        batch, first = self._batches[row], int(np.random.randint(8))
        videos = batch.videos[:, :, first : first + 24] + 0.1 * torch.rand(1) * random.choice([-1, 1])
        return batch._replace(videos=videos, responses=batch.responses[:, :, first : first + 24])


def test_loaders_that_draw_at_random_give_the_same_batches_after_a_stop(population: Any, tmp_path: Path) -> None:
    """A loader that knows no epochs; others draw numbers meanwhile, and a member more must not change the order."""
    settings, file = Default(max_epochs=3, lr_init=0.02), tmp_path / "training.safetensors"

    def trained(seeds: list[int], stop_at: int = -1, **more: Any) -> list[Encoder]:
        dataset = Augmented(population.loaders["train"]["lgn"])
        loader = DataLoader(dataset, batch_size=None, sampler=RandomSampler(dataset))
        encoders = [fresh(population, seed) for seed in seeds]

        def disturb(*_: Any) -> None:
            np.random.rand(3), torch.rand(2), random.random()
            if dataset.asked == stop_at:
                raise _KilledError

        for encoder in encoders:
            encoder.register_forward_hook(disturb)
        train_together(encoders, population.loaders | {"train": {"lgn": loader}}, settings, seeds, **more)
        return encoders

    np.random.seed(1)
    random.seed(1)
    expected = trained([1, 2])
    (alone,) = trained([2])
    assert_same(expected[1], alone)
    with pytest.raises(_KilledError):
        trained([1, 2], stop_at=5, checkpointing=Checkpointing(file, 0))  # the second of three batches of epoch 2
    for one, other in zip(expected, trained([1, 2], checkpointing=Checkpointing(file, 0)), strict=True):
        assert_same(one, other)


def test_each_epoch_and_order_seed_has_an_order_of_its_own(population: Any) -> None:
    batches = [population.loaders["train"]["lgn"][0]._replace(behavior=torch.tensor(float(i))) for i in range(12)]
    loader = DataLoader(batches, batch_size=None, shuffle=True)

    def order(epoch: int, seed: int) -> list[float]:
        torch.rand(3)
        return [joint["a"].behavior.item() for joint in joint_batches({"a": loader}, epoch, seed)]

    assert sorted(order(1, 0)) == list(range(12))
    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(epoch, seed)) for epoch in (1, 2) for seed in (0, 1)}) == 4


def test_checkpoints_are_written_when_they_are_due(population: Any, tmp_path: Path) -> None:
    written: list[int] = []

    class Watched(Checkpointing):
        def save(self, fingerprint: str, members: Any, position: Any) -> None:
            written.append(position.epoch)
            super().save(fingerprint, members, position)

    train(
        fresh(population), population.loaders, Default(max_epochs=5), 1, None, Watched(tmp_path / "a", every_epochs=2)
    )
    assert written == [3, 5, 6]  # after epochs 2 and 4, and at the end
    written.clear()
    train(
        fresh(population), population.loaders, Default(max_epochs=2), 1, None, Watched(tmp_path / "b", every_seconds=0)
    )
    assert written == [1, 1, 1, 2, 2, 2, 2, 3]


def test_trained_together_is_trained_one_by_one(population: Any) -> None:
    """Members stop at different epochs and have different learning rates on the way."""
    settings = Default(max_epochs=30, lr_init=0.2, patience=1, lr_decay_steps=2)
    together = [fresh(population, seed) for seed in (1, 2, 3)]
    seen: list[Epoch] = []
    results = train_together(together, population.loaders, settings, [1, 2, 3], on_epoch=seen.append)
    assert len({len(result.history) for result in results}) > 1
    for seed, encoder, result in zip((1, 2, 3), together, results, strict=True):
        alone = fresh(population, seed)
        expected = train(alone, population.loaders, settings, seed)
        assert_same(alone, encoder)
        assert not encoder.training
        assert result.validation_correlation == expected.validation_correlation
        assert [e.loss for e in result.history] == [e.loss for e in expected.history]
        assert [e.epoch for e in seen if e.seed == seed] == [e.epoch for e in result.history]


def test_penalties_are_told_by_name(population: Any) -> None:
    encoder = fresh(population)
    expected = {name: value.item() for name, value in encoder.regularizer("lgn").items()}
    assert len(expected) >= 2
    loaders = population.loaders | {"train": {"lgn": population.loaders["train"]["lgn"][:1]}}
    (epoch,) = train(encoder, loaders, Default(max_epochs=1), seed=1).history
    assert epoch.penalties == pytest.approx(expected)
    assert epoch.regularization == pytest.approx(sum(expected.values()))


def test_frozen_parameters_stay(population: Any) -> None:
    encoder = fresh(population)
    encoder.readouts["lgn"].bias.requires_grad_(False)
    before = weights(encoder)
    train(encoder, population.loaders, Default(max_epochs=2, weight_decay=0.1), seed=1)
    assert torch.equal(encoder.readouts["lgn"].bias, before["readouts.scan:lgn.bias"])
    assert not torch.equal(encoder.readouts["lgn"].features, before["readouts.scan:lgn.features"])


def test_units_without_a_score_are_named(population: Any) -> None:
    batches = population.loaders["validation"]["lgn"]
    silent = [batch._replace(responses=batch.responses.clone()) for batch in batches]
    for batch in silent:
        batch.responses[:, 2] = 0
    loaders = population.loaders | {"validation": {"lgn": silent}}
    result = train(fresh(population), loaders, Default(max_epochs=1), seed=1)
    assert result.undefined_units == {"lgn": (2,)}
    assert result.history[0].undefined_units == 1


def broken(population: Any, field: str, value: float) -> Any:
    batches = list(population.loaders["train"]["lgn"])
    values = getattr(batches[1], field).clone()
    values[3, 0, -1] = value
    batches[1] = batches[1]._replace(**{field: values})
    return population.loaders | {"train": {"lgn": batches}}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("responses", "responses of trial 3 of the batch, unit 0"),
        ("videos", "videos of trial 3 of the batch, channel 0"),
    ],
)
def test_the_cause_of_a_loss_that_is_not_finite_is_named(population: Any, field: str, message: str) -> None:
    with pytest.raises(TrainingError, match=f"epoch 1, batch 1, 'lgn', unit 0.*{message}"):
        train(fresh(population), broken(population, field, math.nan), Default(max_epochs=1), seed=1)


def test_weights_that_diverge_are_told_from_bad_data(population: Any) -> None:
    encoder = build_encoder(dataclasses.replace(NETWORK, nonlinearity="exp"), population.info, seed=1)
    with torch.no_grad():
        encoder.readouts["lgn"].bias[1] = 1000.0
    with pytest.raises(TrainingError, match=r"epoch 1, batch 0, 'lgn', unit 1 .*diverged; lower lr_init"):
        train(encoder, population.loaders, Default(max_epochs=1), seed=1)


def test_the_member_of_a_loss_that_is_not_finite_is_named(population: Any) -> None:
    network = dataclasses.replace(NETWORK, nonlinearity="exp")
    encoders = [build_encoder(network, population.info, seed) for seed in (5, 6)]
    with torch.no_grad():
        encoders[1].readouts["lgn"].bias[1] = 1000.0
    with pytest.raises(TrainingError, match=r"epoch 1, batch 0, 'lgn', seed 6, unit 1 .*diverged"):
        train_together(encoders, population.loaders, Default(max_epochs=1), [5, 6])
    with pytest.raises(TrainingError, match=r"'lgn', seed 5, unit 0.*responses of trial 3 of the batch"):
        train_together(
            [fresh(population, seed) for seed in (5, 6)],
            broken(population, "responses", math.nan),
            Default(max_epochs=1),
            [5, 6],
        )


@pytest.mark.slow
def test_compiled_networks_learn_alike(population: Any) -> None:
    histories = []
    for compiled in (False, True):
        encoder = fresh(population)
        encoder.readouts["lgn"].sigma.requires_grad_(False).zero_()  # a compiler has random numbers of its own
        histories.append(train(encoder, population.loaders, Default(max_epochs=2, compiled=compiled), seed=1).history)
    for plain, fast in zip(*histories, strict=True):
        assert fast.loss == pytest.approx(plain.loss, rel=1e-3)


def test_networks_that_cannot_be_compiled_are_trained_all_the_same(
    population: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/no/such/compiler"))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    monkeypatch.setattr(inductor, "compile_threads", 1)
    torch._dynamo.reset()
    with caplog.at_level(logging.WARNING, "pipeline.training.gradients"):
        compiled = train(fresh(population), population.loaders, Default(max_epochs=2, compiled=True), seed=1)
    messages = [record.message for record in caplog.records if "cannot be compiled" in record.message]
    assert len(messages) == 1
    plain = train(fresh(population), population.loaders, Default(max_epochs=2), seed=1)
    assert [e.loss for e in compiled.history] == [e.loss for e in plain.history]


def test_an_epoch_in_the_middle_of_which_one_resumes_sees_the_same_batches(population: Any) -> None:
    loaders = {"a": population.loaders["train"]["lgn"], "b": population.loaders["train"]["lgn"][:2]}
    whole = list(joint_batches(loaders, 2))
    again = list(joint_batches(loaders, 2))
    assert all(one["b"] is other["b"] for one, other in zip(whole, again, strict=True))
