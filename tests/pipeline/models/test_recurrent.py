"""The recurrent unit behind each kind of core."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.datasets.batches import ImageBatch, MovieBatch
from pipeline.datasets.info import DataInfo, ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import (
    ConvGRU,
    Encoder,
    Factorized3d,
    Network,
    Stacked2d,
    build_encoder,
    encoder_to_bytes,
    load_encoder,
)
from pipeline.models.cores import CORES, CoreConfiguration
from pipeline.models.recurrent import ConvGRUModule

AT_MOST = {"hidden_channels": 6, "channels": 8, "blocks": 1, "embedding": 16, "depth": 2}


def small(kind: type[CoreConfiguration]) -> CoreConfiguration:
    """The kind at its defaults, with fewer channels and layers where it has such settings."""
    core = kind()
    settings = {}
    for name, most in AT_MOST.items():
        value = getattr(core, name, None)
        if value is not None:
            settings[name] = tuple(min(v, most) for v in value) if isinstance(value, tuple) else min(value, most)
    return dataclasses.replace(core, **settings)


@pytest.mark.parametrize("kind", CORES, ids=lambda kind: kind.kind())
def test_recurrent_unit_works_behind_every_core(kind: type[CoreConfiguration]) -> None:
    core = small(kind)
    scan = ScanInfo((1, 2), (1, 36, 40), (0.5, 1.0), frame_rate=30.0)
    network = Network(core=core, recurrent=ConvGRU(hidden_channels=3, input_kernel=3, recurrent_kernel=3))
    encoder = build_encoder(network, {"a": scan}, seed=0)
    torch.manual_seed(0)
    frames = encoder.lost_frames + 3
    shown = torch.randn(2, 1, frames, 36, 40)
    encoder(shown, "a").square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert all(p.grad.abs().sum() > 0 for p in encoder.recurrent.parameters())

    encoder.eval()
    with torch.no_grad():
        before = encoder(shown, "a")
        assert before.shape == (2, 2, 3)
        other = shown.clone()
        other[:, :, encoder.lost_frames + 1] *= -1.5  # the frame of the second prediction
        changed = (encoder(other, "a") - before).abs().amax(dim=(0, 1)) > 0
    assert changed.tolist() == [False, True, True]


GATED = ConvGRU(hidden_channels=3, input_kernel=3, recurrent_kernel=3, opto="gates")
MOVIES = Network(
    Factorized3d(hidden_channels=(2,), spatial_kernels=(3,), temporal_kernels=(4,)), GATED, nonlinearity="softplus"
)
STILLS = dataclasses.replace(MOVIES, core=Stacked2d(hidden_channels=2, layers=1))
LIT: DataInfo = {
    "a": ScanInfo((1, 2), (1, 9, 11), (0.5, 1.0), frame_rate=30.0, n_opto=2),
    "dark": ScanInfo((1, 2), (1, 9, 11), (0.5, 1.0), frame_rate=30.0),
}


def with_strong_light(network: Network, info: DataInfo = LIT) -> Encoder:
    """An encoder in evaluation mode whose gates light moves far."""
    encoder = build_encoder(network, info, seed=2).eval()
    torch.manual_seed(3)
    torch.nn.init.normal_(encoder.recurrent.light_to_gates, std=3)
    return encoder


def shown(time: int = 9) -> tuple[Tensor, Tensor]:
    """Movies, and two trains of light that go on and off at random."""
    torch.manual_seed(4)
    return torch.randn(2, 1, time, 9, 11), torch.randint(0, 2, (2, 2, time)).float()


def by_the_formula(unit: ConvGRUModule, features: Tensor, light: Tensor) -> Tensor:
    """The states, gate by gate and from one convolution of features and state."""
    hidden = unit.out_channels
    conv_r, conv_z, conv_n = zip(unit.from_input.weight.split(hidden), unit.from_input.bias.split(hidden), strict=True)
    state_r, state_z, state_n = zip(
        unit.from_state.weight.split(hidden), unit.from_state.bias.split(hidden), strict=True
    )
    to_reset, to_update = unit.light_to_gates.split(hidden)
    state = torch.zeros(len(features), hidden, *features.shape[-2:]) + unit.initial_state[:, None, None]
    states = []
    for t in range(features.shape[2]):
        both = torch.cat([features[:, :, t], state], dim=1)
        by_light = [torch.einsum("hl,bl->bh", w, light[..., t])[..., None, None] for w in (to_reset, to_update)]
        r, z = (
            1 / (1 + (-F.conv2d(both, torch.cat([wx, wh], dim=1), bx + bh, padding=1) - lit).exp())
            for (wx, bx), (wh, bh), lit in zip((conv_r, conv_z), (state_r, state_z), by_light, strict=True)
        )
        n = (F.conv2d(features[:, :, t], *conv_n, padding=1) + r * F.conv2d(state, *state_n, padding=1)).tanh()
        state = (1 - z) * n + z * state
        states.append(state)
    return torch.stack(states, dim=2)


def test_light_adds_to_the_gates_and_not_to_the_candidate() -> None:
    unit = GATED.build(4, n_opto=2)
    torch.manual_seed(0)
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter)
    features, light = torch.randn(2, 4, 6, 5, 7), torch.rand(2, 2, 6)
    torch.testing.assert_close(unit(features, light), by_the_formula(unit, features, light))
    torch.testing.assert_close(unit(features), by_the_formula(unit, features, torch.zeros(2, 2, 6)))
    assert not torch.allclose(unit(features), unit(features, light), atol=1e-2)


def test_light_changes_its_own_and_later_predictions() -> None:
    encoder = with_strong_light(MOVIES)
    movies, light = shown()
    assert encoder.lost_frames == 3
    before = encoder(movies, "a", optogenetic_signal=light)
    for frame in range(9):
        other = light.clone()
        other[:, 1, frame] = 1 - other[:, 1, frame]
        changed = (encoder(movies, "a", optogenetic_signal=other) != before).flatten(0, 1).any(0)
        assert changed.tolist() == [frame >= 3 and k >= frame - 3 for k in range(6)]


def test_before_training_light_does_nothing_but_can_be_learned() -> None:
    ungated = dataclasses.replace(MOVIES, recurrent=dataclasses.replace(GATED, opto="none"))
    encoder, plain = (build_encoder(network, LIT, seed=5).eval() for network in (MOVIES, ungated))
    assert encoder.state_dict().keys() - plain.state_dict().keys() == {"recurrent.light_to_gates"}
    movies, light = shown()
    found = encoder(movies, "a", optogenetic_signal=light)
    assert torch.equal(found, plain(movies, "a", optogenetic_signal=light))
    found.square().sum().backward()
    assert (encoder.recurrent.light_to_gates.grad != 0).all()


def test_dark_scans_and_light_that_is_placed_elsewhere_are_left_alone() -> None:
    encoder = with_strong_light(MOVIES)
    movies, light = shown()
    dark = encoder(movies, "dark")
    assert torch.equal(encoder(movies, "dark", optogenetic_signal=light), dark)
    torch.testing.assert_close(encoder(movies, "a"), encoder(movies, "a", optogenetic_signal=0 * light))
    plain = build_encoder(Network(MOVIES.core), LIT, seed=1).eval()
    assert torch.equal(plain(movies, "a", optogenetic_signal=light), plain(movies, "a"))


def test_batches_hand_their_light_to_the_gates() -> None:
    movies, light = shown()
    encoder = with_strong_light(MOVIES)
    found = encoder.respond(MovieBatch(movies, torch.zeros(2, 2, 9), optogenetic_signal=light), "a")
    assert torch.equal(found, encoder(movies, "a", optogenetic_signal=light))
    assert not torch.allclose(found, encoder(movies, "a"), atol=1e-3)

    stills = with_strong_light(STILLS)
    images, lit = movies[:, :, 0], light[..., 0]
    assert lit.any()
    found = stills.respond(ImageBatch(images, torch.zeros(2, 2), optogenetic_signal=lit), "a")
    assert found.shape == (2, 2)
    as_movies = stills(images[:, :, None], "a", optogenetic_signal=lit[..., None])
    torch.testing.assert_close(found, as_movies[..., 0])
    assert not torch.allclose(found, stills(images, "a"), atol=1e-4)


def test_gates_for_light_are_saved_compiled_and_run_in_bfloat16() -> None:
    encoder = with_strong_light(MOVIES)
    movies, light = shown()
    expected = encoder(movies, "a", optogenetic_signal=light)
    loaded = load_encoder(MOVIES, LIT, encoder_to_bytes(encoder))
    assert torch.equal(loaded(movies, "a", optogenetic_signal=light), expected)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(movies, "a", optogenetic_signal=light)
    torch.testing.assert_close(rough.float(), expected, atol=0.02, rtol=0.05)
    unit, features = encoder.recurrent, torch.randn(1, 2, 3, 4, 5)
    compiled = torch.compile(unit, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(features, light[:1, :, :3]), unit(features, light[:1, :, :3]))


def test_light_and_gates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"ConvGRU\.opto: 'gates' needs light for the gates, which no scan has"
    ):
        build_encoder(MOVIES, {"dark": LIT["dark"]}, seed=0)
    three = dataclasses.replace(LIT["a"], n_opto=3)
    with pytest.raises(ConfigurationError, match=r"equally many light trains, not \{'a': 2, 'b': 3\}"):
        build_encoder(MOVIES, LIT | {"b": three}, seed=0)
    build_encoder(dataclasses.replace(MOVIES, recurrent=ConvGRU()), LIT | {"b": three}, seed=0)
    with pytest.raises(ConfigurationError, match="'candidate' is not allowed, it must be one of 'none', 'gates'"):
        ConvGRU(opto="candidate")


def leaky(drive: Tensor, light: Tensor) -> Tensor:
    """A leaky integrator whose memory light takes away: of the last value it keeps 0.9, or 0.1 in light."""
    kept = 0.9 - 0.8 * light
    value, values = torch.zeros(len(drive)), []
    for t in range(drive.shape[1]):
        value = kept[:, t] * value + (1 - kept[:, t]) * drive[:, t]
        values.append(value)
    return torch.stack(values, dim=1)


def test_light_that_changes_the_dynamics_is_learned_by_the_gates() -> None:
    torch.manual_seed(6)
    drive = torch.randn(128, 16)
    light = torch.randint(0, 2, (128, 4)).float().repeat_interleave(4, dim=1)
    target = leaky(drive, light)
    unexplained = {}
    for opto in ("none", "gates"):
        torch.manual_seed(7)
        kind = ConvGRU(hidden_channels=4, input_kernel=1, recurrent_kernel=1, opto=opto)
        unit, last = kind.build(1, n_opto=1), torch.nn.Linear(4, 1)
        optimizer = torch.optim.Adam([*unit.parameters(), *last.parameters()], lr=0.03)
        for step in range(101):
            states = unit(drive[:, None, :, None, None], light[:, None])[..., 0, 0]
            error = (last(states.transpose(1, 2))[..., 0] - target).square().mean(dim=1)
            if step < 100:
                optimizer.zero_grad()
                error[:64].mean().backward()
                optimizer.step()
        unexplained[opto] = (error[64:].mean() / target[64:].var()).item()
    assert unexplained["gates"] < 0.2 * unexplained["none"]
