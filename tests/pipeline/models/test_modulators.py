"""Modulators: what all of them must do, and what each is known to compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import (
    MODULATORS,
    Factorized3d,
    History,
    MLPElu,
    MLPGain,
    Network,
    Stacked2d,
    build_encoder,
)
from pipeline.models.modulators import Modulator, ModulatorConfiguration

BEHAVIOR, UNITS, TIME = 3, 6, 11
MEANS = (0.6, 0.8, 1.2, 1.4, 1.6, 1.8)
KINDS: list[ModulatorConfiguration] = [
    MLPGain(gamma_modulator=3.0),
    MLPGain(hidden_channels=4, layers=1),
    MLPElu(gamma_modulator=3.0),
    MLPElu(hidden_channels=4, layers=3),
    History(history_frames=4, gamma_modulator=3.0),
    History(history_frames=1, layers=3),
]
FRAMEWISE = [kind for kind in KINDS if not isinstance(kind, History)]


def name(kind: ModulatorConfiguration) -> str:
    return f"{kind.kind()}-{kind.hash()[:4]}"


every_kind = pytest.mark.parametrize("kind", KINDS, ids=name)


def behavior(time: int = TIME) -> torch.Tensor:
    torch.manual_seed(5)
    return torch.randn(2, BEHAVIOR, time)


def drive(time: int = TIME) -> torch.Tensor:
    torch.manual_seed(6)
    return torch.randn(2, UNITS, time)


def built(kind: ModulatorConfiguration) -> Modulator:
    """Return a modulator with large weights, so that what it does can be seen."""
    torch.manual_seed(2)
    modulator = kind.build(BEHAVIOR, UNITS)
    with torch.no_grad():
        for parameter in modulator.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return modulator


def test_every_kind_is_tested() -> None:
    assert {type(kind) for kind in KINDS} == {kind for kind in MODULATORS if kind.kind() != "NoModulator"}


@every_kind
def test_gains_start_at_nearly_one(kind: ModulatorConfiguration) -> None:
    torch.manual_seed(0)
    gain = kind.build(BEHAVIOR, UNITS).gain(behavior())
    assert gain.shape == (2, UNITS, TIME)
    assert 0 < (gain - 1).abs().max() < 0.03
    if isinstance(kind, MLPElu):
        assert (gain > 1).all(), "where the last ReLU gives zero, nothing would be learned"


@every_kind
def test_drives_are_scaled_by_the_gains_of_the_chosen_units(kind: ModulatorConfiguration) -> None:
    modulator = built(kind)
    gain = modulator.gain(behavior())
    torch.testing.assert_close(modulator(drive(), behavior()), gain * drive())
    for unit_idx in ([5, 0], torch.tensor([3]), slice(1, 4)):
        found = modulator(drive()[:, unit_idx], behavior(), unit_idx)
        torch.testing.assert_close(found, (gain * drive())[:, unit_idx])


@every_kind
def test_last_frames_of_behavior_belong_to_the_drives(kind: ModulatorConfiguration) -> None:
    modulator = built(kind)
    found = modulator(drive()[..., 6:], behavior())
    torch.testing.assert_close(found, modulator(drive(), behavior())[..., 6:])


@pytest.mark.parametrize("kind", FRAMEWISE, ids=name)
def test_gain_depends_on_the_present_frame_only(kind: ModulatorConfiguration) -> None:
    modulator = built(kind)
    torch.testing.assert_close(modulator.gain(behavior()[1:, :, 4:5]), modulator.gain(behavior())[1:, :, 4:5])


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_history_reaches_as_far_back_as_its_window_and_not_forward(frames: int) -> None:
    modulator, pulse = built(History(history_frames=frames)), behavior()
    pulse[:, :, 3] += 10.0
    changed = (modulator.gain(pulse) - modulator.gain(behavior())).abs().amax((0, 1)) > 1e-4
    assert changed.tolist() == [3 <= t < 3 + frames for t in range(TIME)]


def test_history_is_a_weighted_sum_over_the_window_before_the_network() -> None:
    modulator = built(History(history_frames=3, hidden_channels=4))
    padded = torch.cat([behavior()[..., :1]] * 2 + [behavior()], dim=2)  # the first frame lasted before it
    window = torch.stack([padded[..., t : t + 3] for t in range(TIME)], dim=1)
    hidden = torch.einsum("btck,hck->bth", window, modulator.filters.weight) + modulator.filters.bias
    expected = (hidden.relu() @ modulator.last.weight.T + modulator.last.bias).exp().transpose(1, 2)
    torch.testing.assert_close(modulator.gain(behavior()), expected)


def test_history_of_one_frame_is_the_network_without_history() -> None:
    modulator, plain = built(History(history_frames=1, layers=3)), MLPGain(layers=3).build(BEHAVIOR, UNITS)
    weights = {name: value for name, value in modulator.state_dict().items() if name.startswith("last.")}
    weights |= {"hidden.2." + name[9:]: v for name, v in modulator.state_dict().items() if name.startswith("hidden.0.")}
    filters = modulator.filters
    plain.load_state_dict(weights | {"hidden.0.weight": filters.weight[..., 0], "hidden.0.bias": filters.bias})
    torch.testing.assert_close(plain.gain(behavior()), modulator.gain(behavior()))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_elu_equals_the_definition_of_neuralpredictors(layers: int) -> None:
    modulator = built(MLPElu(hidden_channels=5, layers=layers, gamma_modulator=0.7))
    network = nn.Sequential(*modulator.hidden, modulator.last, nn.ReLU())  # it has a ReLU after every layer
    for b, d, found in zip(
        behavior().unbind(2), drive().unbind(2), modulator(drive(), behavior()).unbind(2), strict=True
    ):
        torch.testing.assert_close(found, d * (F.elu(network(b)) + 1), rtol=0, atol=1e-5)
    assert sum(isinstance(module, nn.Linear) for module in network) == layers


@every_kind
def test_only_the_exponential_can_suppress(kind: ModulatorConfiguration) -> None:
    modulator = built(kind)
    nn.init.normal_(modulator.last.weight, std=3.0)
    gain = modulator.gain(behavior())
    assert (gain > 2).any()
    assert gain.min() == 1 if isinstance(kind, MLPElu) else 0 < gain.min() < 0.5


@every_kind
def test_penalty_is_the_mean_absolute_last_weight_and_acts(kind: ModulatorConfiguration) -> None:
    modulator = built(kind)
    weight = modulator.last.weight
    penalty = modulator.regularizer()["modulator"]
    assert penalty.item() == pytest.approx(kind.gamma_modulator * weight.abs().sum().item() / weight.numel())
    penalty.backward()
    torch.testing.assert_close(weight.grad, kind.gamma_modulator * weight.detach().sign() / weight.numel())


@every_kind
def test_every_unit_gets_a_gradient_from_the_start(kind: ModulatorConfiguration) -> None:
    torch.manual_seed(0)
    modulator = kind.build(BEHAVIOR, UNITS)
    modulator(drive(), behavior()).square().sum().backward()
    assert [n for n, p in modulator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert (modulator.last.weight.grad.abs().sum(1) > 0).all(), "no unit is stuck at gain 1"
    assert (modulator.last.bias.grad != 0).all()


@every_kind
def test_saved_and_loaded_modulators_give_the_same(kind: ModulatorConfiguration) -> None:
    modulator, other = built(kind).eval(), kind.build(BEHAVIOR, UNITS).eval()
    other.load_state_dict(modulator.state_dict())
    assert torch.equal(other(drive(), behavior()), modulator(drive(), behavior()))


@every_kind
def test_graph_is_traced_as_a_whole_and_half_precision_is_close(kind: ModulatorConfiguration) -> None:
    modulator = built(kind).eval()
    expected = modulator(drive(), behavior())
    torch._dynamo.reset()
    traced = torch.compile(modulator, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(drive(), behavior()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = modulator(drive().bfloat16(), behavior().bfloat16())
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


@every_kind
def test_movies_use_the_behavior_before_the_first_prediction_as_its_past(kind: ModulatorConfiguration) -> None:
    scan = ScanInfo(tuple(range(UNITS)), (1, 12, 14), MEANS, n_behavior=BEHAVIOR, frame_rate=30.0)
    core = Factorized3d(hidden_channels=(3,), spatial_kernels=(5,), temporal_kernels=(4,))
    encoder = build_encoder(Network(core=core, modulator=kind, nonlinearity="exp"), {"a": scan}, seed=1).eval()
    modulator = encoder.modulators["a"]
    modulator.load_state_dict(built(kind).state_dict())
    modulator.last.weight.data *= 0.1  # or exponentials of exponentials leave single precision
    movies = torch.randn(2, 1, TIME, 12, 14)
    found = encoder(movies, "a", behavior=behavior())
    gain = modulator.gain(behavior())[..., encoder.lost_frames :]
    assert encoder.lost_frames == 3
    torch.testing.assert_close(found.log(), encoder(movies, "a").log() * gain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FRAMEWISE, ids=name)
def test_images_have_one_gain_each(kind: ModulatorConfiguration) -> None:
    scan = ScanInfo(tuple(range(UNITS)), (1, 12, 14), MEANS, n_behavior=BEHAVIOR)
    network = Network(core=Stacked2d(hidden_channels=3, layers=1), modulator=kind, nonlinearity="exp")
    encoder = build_encoder(network, {"a": scan}, seed=1).eval()
    modulator = encoder.modulators["a"]
    modulator.load_state_dict(built(kind).state_dict())
    modulator.last.weight.data *= 0.1  # or exponentials of exponentials leave single precision
    images = torch.randn(2, 1, 12, 14)
    found = encoder(images, "a", behavior=behavior()[..., 0])
    gain = modulator.gain(behavior())[..., 0]
    torch.testing.assert_close(found.log(), encoder(images, "a").log() * gain, rtol=1e-4, atol=1e-5)


def test_history_of_still_images_is_refused() -> None:
    scan = ScanInfo((1,), (1, 12, 14), (1.0,), n_behavior=BEHAVIOR)
    with pytest.raises(ConfigurationError, match=r"History needs movies, .* no past, which 'a' does not have: use MLP"):
        build_encoder(Network(core=Stacked2d(), modulator=History()), {"a": scan}, seed=0)
