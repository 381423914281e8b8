"""Shifters: what all of them must do, and what each is known to compute."""

from __future__ import annotations

import pytest
import torch

from pipeline import legacy
from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import MLP, SHIFTERS, Factorized3d, Network, Stacked2d, StaticAffine2d, build_encoder
from pipeline.models.shifters import Shifter, ShifterConfiguration

MEAN = (0.7, -1.3)
KINDS: list[ShifterConfiguration] = [
    MLP(gamma_shifter=2.0),
    MLP(hidden_channels=4, layers=1, gamma_shifter=2.0),
    StaticAffine2d(gamma_shifter=2.0),
    StaticAffine2d(bias=False, gamma_shifter=2.0),
]


def name(kind: ShifterConfiguration) -> str:
    return f"{kind.kind()}-{kind.hash()[:4]}"


every_kind = pytest.mark.parametrize("kind", KINDS, ids=name)


def pupil(time: int = 7) -> torch.Tensor:
    torch.manual_seed(5)
    return torch.randn(3, 2, time)


def built(kind: ShifterConfiguration) -> Shifter:
    """Return a shifter with large weights, so that what it does can be seen."""
    torch.manual_seed(2)
    shifter = kind.build(MEAN)
    with torch.no_grad():
        for parameter in shifter.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return shifter


def test_every_kind_is_tested() -> None:
    assert {type(kind) for kind in KINDS} == {kind for kind in SHIFTERS if kind.kind() != "NoShifter"}


@every_kind
def test_start_is_nearly_no_shift_and_exactly_none_at_the_mean_position(kind: ShifterConfiguration) -> None:
    torch.manual_seed(0)
    shifter = kind.build(MEAN)
    shift = shifter(pupil())
    assert shift.shape == (3, 7, 2)
    assert 0 < shift.abs().max() < 0.02
    if getattr(kind, "bias", True):
        at_mean = shifter(torch.tensor(MEAN)[None, :, None])
        assert at_mean.abs().max() < 1e-5 * shift.abs().max() + 1e-12


@every_kind
def test_shift_depends_on_the_present_frame_only_and_stays_in_range(kind: ShifterConfiguration) -> None:
    shifter = built(kind)
    shift = shifter(pupil())
    assert shift.abs().max() > 0.1
    torch.testing.assert_close(shifter(pupil()[1:2, :, 4:5]), shift[1:2, 4:5])
    assert shifter(1e4 * pupil()).abs().max() <= 1


@every_kind
def test_penalty_is_the_mean_squared_weights_and_acts(kind: ShifterConfiguration) -> None:
    shifter = built(kind)
    weights = [weight for weight in shifter.parameters() if weight.dim() == 2]
    penalty = shifter.regularizer()["shifter"]
    torch.testing.assert_close(penalty, 2 * sum((weight**2).sum() / weight.numel() for weight in weights))
    penalty.backward()
    for weight in weights:
        torch.testing.assert_close(weight.grad, 4 * weight.detach() / weight.numel())


@every_kind
def test_every_parameter_gets_a_gradient_from_the_start(kind: ShifterConfiguration) -> None:
    torch.manual_seed(0)
    shifter = kind.build(MEAN)
    shifter(pupil()).sum().backward()
    assert [n for n, p in shifter.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@every_kind
def test_saved_and_loaded_shifters_give_the_same(kind: ShifterConfiguration) -> None:
    shifter, other = built(kind).eval(), kind.build().eval()
    other.load_state_dict(shifter.state_dict())
    assert torch.equal(other(pupil()), shifter(pupil()))


@every_kind
def test_graph_is_traced_as_a_whole_and_half_precision_is_close(kind: ShifterConfiguration) -> None:
    shifter = built(kind).eval()
    torch._dynamo.reset()
    traced = torch.compile(shifter, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(pupil()), shifter(pupil()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = shifter(pupil())
    assert (found.float() - shifter(pupil())).abs().max() < 0.03


@pytest.mark.parametrize("layers", [1, 3])
def test_network_equals_that_of_neuralpredictors(layers: int) -> None:
    shifter = built(MLP(hidden_channels=4, layers=layers))
    theirs = legacy.MLPShifter(["a"], hidden_channels_shifter=4, shift_layers=layers)["a"]
    theirs.mlp.load_state_dict(shifter.layers.state_dict())
    for frame, shift in zip(pupil().unbind(2), shifter(pupil()).unbind(1), strict=True):
        torch.testing.assert_close(shift, theirs(frame), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_affine_function_equals_that_of_neuralpredictors(bias: bool) -> None:
    shifter = built(StaticAffine2d(bias=bias, gamma_shifter=0.3))
    theirs = legacy.StaticAffine2dShifter(["a"], bias=bias, gamma_shifter=0.3)
    theirs["a"].load_state_dict(shifter.linear.state_dict())
    for frame, shift in zip(pupil().unbind(2), shifter(pupil()).unbind(1), strict=True):
        torch.testing.assert_close(shift, theirs["a"](frame), rtol=0, atol=1e-6)
    torch.testing.assert_close(shifter.regularizer()["shifter"], theirs.regularizer("a"))


@every_kind
def test_encoders_shift_each_frame_of_movies_and_each_image(kind: ShifterConfiguration) -> None:
    scan = ScanInfo((1, 2, 3), (1, 12, 14), (1.0, 0.5, 2.0), mean_pupil_center=MEAN, frame_rate=30.0)
    info = {"a": scan, "blind": ScanInfo((1,), (1, 12, 14), (1.0,), frame_rate=30.0)}
    core = Factorized3d(hidden_channels=(3,), spatial_kernels=(5,), temporal_kernels=(4,))
    movies = build_encoder(Network(core=core, shifter=kind), info, seed=1).eval()
    images = build_encoder(Network(core=Stacked2d(hidden_channels=3, layers=1), shifter=kind), info, seed=1).eval()
    assert list(movies.shifters) == ["a"]
    for encoder, inputs, eye in (
        (movies, torch.randn(3, 1, 7, 12, 14), pupil()),
        (images, torch.randn(3, 1, 12, 14), pupil()[..., 0]),
    ):
        encoder.shifters["a"].load_state_dict(built(kind).state_dict())
        found = encoder(inputs, "a", pupil_center=eye)
        assert not torch.allclose(found, encoder(inputs, "a"), atol=1e-3)
        moved = eye.clone()
        moved[1, :, ...] += 0.5
        changed = (found != encoder(inputs, "a", pupil_center=moved)).flatten(1).any(1)
        assert changed.tolist() == [False, True, False], "each movie or image follows its own eye position"


@every_kind
def test_encoders_start_unshifted_at_the_mean_position_of_each_scan(kind: ShifterConfiguration) -> None:
    info = {
        key: ScanInfo((1,), (1, 9, 9), (1.0,), mean_pupil_center=m) for key, m in {"a": MEAN, "b": (3.0, 9.0)}.items()
    }
    encoder = build_encoder(Network(core=Stacked2d(hidden_channels=3, layers=1), shifter=kind), info, seed=1)
    for key, scan in info.items():
        shift = encoder.shifters[key](torch.tensor(scan.mean_pupil_center)[None, :, None])
        assert shift.abs().max() < (1e-8 if getattr(kind, "bias", True) else 1e-4)


def test_scans_without_eye_position_are_refused() -> None:
    complaint = "StaticAffine2d needs the position of the pupil, which no scan has: use NoShifter"
    with pytest.raises(ConfigurationError, match=complaint):
        build_encoder(
            Network(Stacked2d(), shifter=StaticAffine2d()), {"a": ScanInfo((1,), (1, 30, 30), (1.0,))}, seed=0
        )
