"""Responses under the conditions of MEIs: equal to the encoder asked directly, for images and movies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.datasets.info import ScanInfo
from pipeline.mei.activation import Responses, own_responses, parts
from pipeline.models import MLP, Encoder, Factorized3d, MLPGain, Network, Stacked2d, build_encoder
from pipeline.models.ensemble import EnsembleEncoder

UNITS = [3, 0, 2]


def info(movie: bool) -> ScanInfo:
    return ScanInfo(
        (1, 2, 3, 4), (2, 9, 11), (1.0, 1.5, 2.0, 1.0), n_behavior=2, mean_pupil_center=(0.5, -0.25),
        mean_behavior=(1.0, 0.5), frame_rate=30.0 if movie else None, input_mean=120.0, input_std=40.0,
        plane_means=(0.7,), clip_frames=10 if movie else None,
    )  # fmt: skip


def encoder(movie: bool, seed: int = 4) -> Encoder:
    core = (
        Factorized3d(hidden_channels=(4,), spatial_kernels=(5,), temporal_kernels=(3,))
        if movie
        else Stacked2d(hidden_channels=4, layers=1, input_kern=5)
    )
    network = Network(core=core, shifter=MLP(), modulator=MLPGain())
    built = build_encoder(network, {"a": info(movie)}, seed=seed).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        built.readouts["a"].features.normal_(std=1.0)
        built.modulators["a"].last.weight.normal_(std=0.5)
        built.shifters["a"].layers[0].weight.normal_(std=0.5)
    return built


@pytest.fixture(params=[False, True], ids=["images", "movies"])
def movie(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def grey(count: int, movie: bool) -> Tensor:
    shape = (count, 1, 6, 9, 11) if movie else (count, 1, 9, 11)
    return torch.tensor(np.random.default_rng(0).uniform(0, 255, shape)).float()


def asked(model: Encoder | EnsembleEncoder, stimuli: Tensor, movie: bool, **told: str) -> Tensor:
    plane = torch.full_like(stimuli, 0.7)
    with torch.no_grad():
        found = model(torch.cat([(stimuli - 120) / 40, plane], dim=1), "a", **told)[:, UNITS]
    return found[:, :, -1] if movie else found


@pytest.mark.parametrize("told", [False, True])
def test_units_see_what_the_encoder_is_shown(movie: bool, told: bool) -> None:
    model = encoder(movie)
    how = ("training_mean", "training_mean") if told else ("center", "none")
    respond = Responses(model, "a", info(movie), UNITS, *how)
    stimuli = grey(5, movie)
    direct = {"behavior": "mean", "pupil_center": "mean"} if told else {}
    expected = asked(model, stimuli, movie, **direct)
    with torch.no_grad():
        torch.testing.assert_close(respond(stimuli, torch.arange(3)), expected)
        torch.testing.assert_close(respond(stimuli, torch.tensor([2, 1])), expected[:, [2, 1]])
        torch.testing.assert_close(respond.only([2, 0])(stimuli, torch.arange(2)), expected[:, [2, 0]])
        owners = torch.tensor([1, 1, 0, 2, 0])
        torch.testing.assert_close(own_responses(respond, stimuli, owners), expected[torch.arange(5), owners])
    assert not torch.allclose(expected, asked(model, stimuli, movie, **({} if told else {"behavior": "mean"})))


def test_planes_of_the_data_are_replaced(movie: bool) -> None:
    model = encoder(movie)
    respond = Responses(model, "a", info(movie), UNITS)
    stimuli = grey(3, movie)
    inputs = torch.cat([(stimuli - 120) / 40, torch.randn_like(stimuli)], dim=1)
    with torch.no_grad():
        found = respond.of_inputs(inputs, torch.arange(3))
    assert found.dim() == (3 if movie else 2)
    torch.testing.assert_close(found[:, :, -1] if movie else found, asked(model, stimuli, movie))


def test_movies_of_one_frame_are_images() -> None:
    model = EnsembleEncoder({1: encoder(False, 1), 2: encoder(False, 2)})
    respond = Responses(model, "a", info(False), UNITS)
    stimuli = grey(4, False)
    with torch.no_grad():
        expected = asked(model, stimuli, False)
        torch.testing.assert_close(respond(stimuli[:, :, None], torch.arange(3)), expected)
        own = own_responses(respond, stimuli[:3, :, None], torch.arange(3))
        torch.testing.assert_close(own, expected[:3].diagonal())


def test_gradients_reach_the_pixels_of_many_stimuli() -> None:
    respond = Responses(encoder(False), "a", info(False), UNITS)
    stimuli = grey(130, False).requires_grad_(True)
    owners = torch.arange(130) % 3
    assert [part.stop - part.start for part in parts(130)] == [64, 64, 2]
    own_responses(respond, stimuli, owners).sum().backward()
    assert stimuli.grad is not None
    few = stimuli.detach()[127:130].requires_grad_(True)
    respond(few, torch.arange(3))[torch.arange(3), owners[127:130]].sum().backward()
    torch.testing.assert_close(stimuli.grad[127:130], few.grad)


def test_anything_that_responds_is_asked_for_the_units_of_a_part() -> None:
    seen = []

    def respond(stimuli: Tensor, units: Tensor) -> Tensor:
        seen.append(units.tolist())
        return stimuli.flatten(1).sum(dim=1, keepdim=True) * (units + 1)

    stimuli = torch.arange(4.0).view(4, 1, 1, 1)
    assert own_responses(respond, stimuli, torch.tensor([5, 2, 5, 2])).tolist() == [0, 3, 12, 9]
    assert seen == [[2, 5]]
