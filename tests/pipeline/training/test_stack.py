"""Members that are evaluated as one are trained as they are alone; on GPUs they are, here it is asked for."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.errors import TrainingError
from pipeline.models import (
    MLP,
    ConvGRU,
    Encoder,
    Factorized3d,
    FullFactorized2d,
    FullGaussian2d,
    MLPGain,
    Network,
    PointPooled2d,
    Stacked2d,
    build_encoder,
)
from pipeline.models.cores import ViT
from pipeline.models.readouts import gaussian2d
from pipeline.models.readouts.places import at_points
from pipeline.training import Default, train, train_together
from pipeline.training.gradients import Gradients
from pipeline.training.stack import Stack

MOVIES = Factorized3d(hidden_channels=(2,), spatial_kernels=(7,), temporal_kernels=(8,), gamma_input_spatial=0.1)
GAUSSIAN = Network(core=MOVIES, readout=FullGaussian2d(init_mu_range=0.5, init_sigma=0.3, gauss_type="full"))
NETWORKS = {
    "gaussian": GAUSSIAN,
    "behaviour and eyes": Network(MOVIES, readout=FullFactorized2d(), shifter=MLP(), modulator=MLPGain()),
    "recurrent": Network(
        Stacked2d(hidden_channels=3, layers=2), ConvGRU(hidden_channels=2), PointPooled2d(pool_steps=1)
    ),
}


@pytest.fixture
def stacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have members evaluated as one on this CPU, whose own way of reading points knows single models only."""
    made: list[int] = []
    begin = Gradients.__init__

    def always(self: Gradients, *arguments: Any) -> None:
        begin(self, *arguments)
        self.stacked = True

    class Counted(Stack):
        def losses(self, *arguments: Any) -> Any:
            made.append(len(self._members))
            return super().losses(*arguments)

    monkeypatch.setattr(Gradients, "__init__", always)
    monkeypatch.setattr("pipeline.training.gradients.Stack", Counted)
    monkeypatch.setattr(
        gaussian2d,
        "weighed_at_points",
        lambda frames, points, weights: (at_points(frames, points) * weights.t()).sum(1),
    )
    return made


@pytest.fixture
def population(make_population: Callable[..., Any]) -> Any:
    made = make_population(train=16, validation=8, frames=24)
    info = {"lgn": dataclasses.replace(made.info["lgn"], n_behavior=2, mean_pupil_center=(0.1, -0.2))}

    def with_behavior(batches: list[Any]) -> list[Any]:
        generator = torch.Generator().manual_seed(0)
        shapes = [(len(batch.videos), 2, batch.videos.shape[2]) for batch in batches]
        behavior, pupil = ([torch.randn(s, generator=generator) for s in shapes] for _ in range(2))
        return [b._replace(behavior=x, pupil_center=y) for b, x, y in zip(batches, behavior, pupil, strict=True)]

    loaders = {tier: {"lgn": with_behavior(of["lgn"])} for tier, of in made.loaders.items()}
    return dataclasses.replace(made, loaders=loaders, info=info)


def fresh(network: Network, population: Any, seed: int) -> Encoder:
    return build_encoder(network, population.info, seed).double()


def doubled(population: Any) -> Any:
    """In double precision rounding cannot hide what differs."""
    return {
        tier: {
            key: [type(b)(**{n: v.double() for n, v in b._asdict().items() if v is not None}) for b in batches]
            for key, batches in of_tier.items()
        }
        for tier, of_tier in population.loaders.items()
    }


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("more", [{}, {"optimizer": "sgd", "lr_init": 1e-4, "average_loss": True, "ema_decay": 0.5}])
def test_stacked_members_end_in_the_weights_of_single_ones(
    name: str, more: dict[str, Any], population: Any, stacked: list[int]
) -> None:
    settings = Default(**{"max_epochs": 4, "lr_init": 0.05, "patience": 1, "max_gradient_norm": 50.0} | more)
    loaders, seeds = doubled(population), [1, 2, 3]
    together = [fresh(NETWORKS[name], population, seed) for seed in seeds]
    results = train_together(together, loaders, settings, seeds)
    assert stacked and set(stacked) <= {2, 3}
    for seed, encoder, result in zip(seeds, together, results, strict=True):
        alone = fresh(NETWORKS[name], population, seed)
        expected = train(alone, loaders, settings, seed)
        for part, value in alone.state_dict().items():
            torch.testing.assert_close(encoder.state_dict()[part], value, rtol=1e-5, atol=1e-6, msg=part)
        assert [e.loss for e in result.history] == pytest.approx([e.loss for e in expected.history], rel=1e-6)
        for one, other in zip(result.history, expected.history, strict=True):
            assert one.penalties == pytest.approx(other.penalties, rel=1e-6)


def test_the_member_whose_weights_diverge_in_the_stack_is_named(population: Any, stacked: list[int]) -> None:
    network = dataclasses.replace(GAUSSIAN, nonlinearity="exp")
    members = [build_encoder(network, population.info, seed) for seed in (1, 2)]
    with torch.no_grad():
        members[1].readouts["lgn"].bias[3] = 1000.0
    with pytest.raises(TrainingError, match=r"epoch 1, batch 0, 'lgn', seed 2, unit 3 .*diverged"):
        train_together(members, population.loaders, Default(max_epochs=1), [1, 2])
    assert stacked


def test_tensors_keep_their_layout_in_the_stack(population: Any) -> None:
    """Fused optimisers go through memory: a parameter must lie as its moments do."""
    from pipeline.training.losses import unit_losses
    from pipeline.training.member import Member

    members = [Member(build_encoder(NETWORKS["recurrent"], population.info, s), Default(), s) for s in (1, 2)]
    before = [{n: (v.stride(), v.clone()) for n, v in m.encoder.state_dict().items()} for m in members]
    assert any(len(s) == 4 and s[1] == 1 for s, _ in before[0].values()), "some lie channels last"
    Stack(members, unit_losses(Default()))
    for member, tensors in zip(members, before, strict=True):
        for name, value in member.encoder.state_dict().items():
            assert value.stride() == tensors[name][0]
            assert torch.equal(value, tensors[name][1])


def test_networks_that_cannot_be_stacked_are_trained_in_turn(
    population: Any, stacked: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Drop-out draws random numbers inside the core."""
    network = Network(ViT(dropout=0.3, embedding=8, heads=2, depth=1, patch=4, stride=2), readout=FullFactorized2d())
    settings, seeds = Default(max_epochs=2), [1, 2]
    together = [build_encoder(network, population.info, seed) for seed in seeds]
    with caplog.at_level(logging.WARNING, "pipeline.training.gradients"):
        train_together(together, population.loaders, settings, seeds)
    assert [r.message for r in caplog.records if "only in turn" in r.message] and len(stacked) == 1
    for seed, encoder in zip(seeds, together, strict=True):
        alone = build_encoder(network, population.info, seed)
        train(alone, population.loaders, settings, seed)
        assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in alone.state_dict().items())
