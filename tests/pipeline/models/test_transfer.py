from __future__ import annotations

import pytest
import torch

from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import Encoder, Factorized3d, Network, build_encoder
from pipeline.models.cores import Basic3d, CoreConfiguration
from pipeline.models.transfer import copy_core, freeze, unfreeze

LAYERS = {"hidden_channels": (3, 2), "spatial_kernels": (5, 3), "temporal_kernels": (2, 2)}


def encoder(core: CoreConfiguration, seed: int, units: int = 4, size: tuple[int, int] = (12, 10)) -> Encoder:
    scan = ScanInfo(tuple(range(units)), (2, *size), (0.5,) * units, frame_rate=30.0)
    made = build_encoder(Network(core=core), {"a": scan}, seed=seed)
    made(torch.randn(3, 2, 8, *size), "a")  # moves the running statistics
    return made


def trained(made: Encoder, size: tuple[int, int] = (12, 10)) -> Encoder:
    made.train()
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        penalty = torch.stack(list(made.regularizer("a").values())).sum()
        (made(torch.randn(3, 2, 8, *size), "a").square().mean() + penalty).backward()
        optimizer.step()
    return made


def state(made: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in made.state_dict().items()}


def test_copied_cores_see_the_same_and_the_rest_stays() -> None:
    source = encoder(Factorized3d(**LAYERS), seed=1)
    target = encoder(Factorized3d(**LAYERS, gamma_input_spatial=3.0), seed=2, units=6, size=(14, 11))
    readouts = state(target.readouts)
    copy_core(source, target)
    shown = torch.randn(2, 2, 7, 14, 11)
    assert torch.equal(target.eval().core(shown), source.eval().core(shown))
    assert all(torch.equal(value, readouts[name]) for name, value in target.readouts.state_dict().items())
    before = state(source.core)
    trained(target, (14, 11))  # the copy shares no memory with its source
    assert not any(torch.equal(value, before[name]) for name, value in target.core.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in source.core.state_dict().items())


def test_cores_of_other_kinds_and_shapes_are_refused_and_change_nothing() -> None:
    target = encoder(Factorized3d(**LAYERS), seed=2)
    before = state(target)
    other_kind = encoder(Basic3d(hidden_channels=(3,), input_kernel=(2, 3, 3)), seed=1)
    with pytest.raises(ConfigurationError, match="a Basic3dCore cannot be copied into a Factorized3dCore"):
        copy_core(other_kind, target)
    wider = encoder(Factorized3d(**LAYERS | {"hidden_channels": (3, 5)}), seed=1)
    with pytest.raises(ConfigurationError, match=r"hidden.0.norm.bias \(5,\) but \(2,\).* and others"):
        copy_core(wider, target)
    deeper = encoder(
        Factorized3d(hidden_channels=(3, 2, 2), spatial_kernels=(5, 3, 3), temporal_kernels=(2, 2, 1)), seed=1
    )
    with pytest.raises(ConfigurationError, match=r"hidden.1.norm.bias \(2,\) but None"):
        copy_core(deeper, target)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_training_leaves_frozen_cores_alone() -> None:
    made = encoder(Factorized3d(**LAYERS), seed=1)
    freeze(made.core)
    core, readouts = state(made.core), state(made.readouts)
    trained(made)
    assert made.training
    assert not any(module.training for module in made.core.modules())
    assert all(torch.equal(value, core[name]) for name, value in made.core.state_dict().items())
    assert not any(torch.equal(value, readouts[name]) for name, value in made.readouts.named_parameters())


def test_gradients_pass_through_frozen_cores_to_the_movie() -> None:
    made = encoder(Factorized3d(**LAYERS), seed=1).eval()
    freeze(made.core)
    shown = torch.randn(1, 2, 6, 12, 10, requires_grad=True)
    made(shown, "a").sum().backward()
    assert shown.grad is not None and shown.grad.abs().sum() > 0


def test_unfrozen_cores_are_trained_again() -> None:
    made = encoder(Factorized3d(**LAYERS), seed=1)
    freeze(made.core)
    unfreeze(made.core)
    before = state(made.core)
    trained(made)
    assert not any(torch.equal(value, before[name]) for name, value in made.core.state_dict().items())
    made.eval()
    assert not any(module.training for module in made.core.modules())
