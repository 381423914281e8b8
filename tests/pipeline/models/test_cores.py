from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline import legacy
from pipeline.configuration import Configuration
from pipeline.errors import ConfigurationError
from pipeline.models import ConvGRU, Factorized3d, NoRecurrence, Stacked2d
from pipeline.models.cores import Core
from pipeline.models.regularization import group_sparsity, spatial_laplace, temporal_laplace

KINDS = [
    Factorized3d(hidden_channels=(4, 3), spatial_kernels=(5, 3), temporal_kernels=(4, 3)),
    Factorized3d(hidden_channels=(4, 3), spatial_kernels=(4, 2), temporal_kernels=(5, 1), padding=False),
    Factorized3d(hidden_channels=(2,), spatial_kernels=(3,), temporal_kernels=(6,), linear=True),
    Stacked2d(hidden_channels=4, input_kern=6, hidden_kern=3, layers=3),
    Stacked2d(hidden_channels=4, input_kern=5, hidden_kern=3, layers=3, pad_input=True, skip=2, stack=None),
    Stacked2d(hidden_channels=4, input_kern=5, hidden_kern=3, layers=2, depth_separable=True),
]


def built(kind: Factorized3d | Stacked2d, channels: int = 2) -> Core:
    torch.manual_seed(0)
    core = kind.build(channels)
    with torch.no_grad():  # statistics that are not the trivial ones
        for module in core.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return core


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.kind()}-{kind.hash()[:4]}")
@pytest.mark.parametrize("size", [(16, 21), (17, 20)])
def test_output_has_the_announced_shape(kind: Factorized3d | Stacked2d, size: tuple[int, int]) -> None:
    core = built(kind)
    features = core(torch.randn(2, 2, 13, *size))
    assert features.shape == (2, core.out_channels, 13 - core.lost_frames, *core.out_size(*size))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.kind()}-{kind.hash()[:4]}")
def test_output_frame_sees_its_own_and_the_lost_frames_before(kind: Factorized3d | Stacked2d) -> None:
    core = built(kind).eval()
    movie = torch.randn(1, 2, 16, 12, 14)
    before = core(movie)
    for frame in range(16):
        other = movie.clone()
        other[:, :, frame] += 1
        changed = (core(other) - before).abs().amax(dim=(0, 1, 3, 4)) > 1e-6
        expected = [k for k in range(before.shape[2]) if k <= frame <= k + core.lost_frames]
        assert torch.nonzero(changed).flatten().tolist() == expected


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.kind()}-{kind.hash()[:4]}")
def test_every_parameter_gets_a_gradient(kind: Factorized3d | Stacked2d) -> None:
    core = built(kind)
    (core(torch.randn(2, 2, 13, 15, 16)) * torch.randn(core.out_channels, 1, 1, 1)).square().sum().backward()
    assert [name for name, p in core.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_factorized_core_equals_three_dimensional_convolutions() -> None:
    kind = Factorized3d(hidden_channels=(4, 3), spatial_kernels=(5, 3), temporal_kernels=(4, 3))
    core = built(kind).train()
    movie = torch.randn(3, 2, 12, 11, 14)
    expected = movie
    for layer in (core.first, *core.hidden):
        space, time = layer.spatial.weight, layer.temporal.weight
        pad = space.shape[-1] // 2
        expected = F.conv3d(expected, space[:, :, None], padding=(0, pad, pad))
        expected = F.conv3d(expected, time[..., None])
        mean = expected.mean(dim=(0, 2, 3, 4), keepdim=True)
        variance = expected.var(dim=(0, 2, 3, 4), keepdim=True, correction=0)
        expected = F.elu((expected - mean) / torch.sqrt(variance + 1e-5))
    torch.testing.assert_close(core(movie), expected, rtol=1e-4, atol=1e-4)


def test_stacked_core_equals_neuralpredictors_frame_by_frame() -> None:
    kind = Stacked2d(hidden_channels=4, input_kern=5, hidden_kern=3, layers=3, gamma_input=2.0, gamma_hidden=3.0)
    core = built(kind).eval()
    settings = {"hidden_channels": 4, "input_kern": 5, "hidden_kern": 3, "layers": 3, "stack": -1, "pad_input": False}
    theirs = legacy.Stacked2dCore(
        input_channels=2, bias=False, input_regularizer="LaplaceL2norm", laplace_padding=None, use_avg_reg=False,
        gamma_input=2.0, gamma_hidden=3.0, **settings,
    ).eval()  # fmt: skip
    constant = "_input_weights_regularizer.laplace.filter"
    theirs.load_state_dict({constant: theirs.state_dict()[constant]} | core.state_dict())
    movie = torch.randn(2, 2, 5, 12, 13)
    features = core(movie)
    for frame in range(5):
        torch.testing.assert_close(features[:, :, frame], theirs(movie[:, :, frame]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sum(core.regularizer().values()), theirs.regularizer())


def test_linear_core_is_linear() -> None:
    core = built(Factorized3d(hidden_channels=(3, 2), spatial_kernels=(5, 3), temporal_kernels=(3, 3), linear=True))
    core.eval()
    a, b = torch.randn(2, 1, 2, 8, 9, 9)
    zero = core(torch.zeros_like(a))
    torch.testing.assert_close(core(a + 2 * b) - zero, core(a) - zero + 2 * (core(b) - zero), rtol=1e-4, atol=1e-4)


def test_spatial_laplace_equals_neuralpredictors() -> None:
    weight = torch.randn(5, 3, 7, 7)
    expected = legacy.regularizers.LaplaceL2norm(padding=None)(weight)
    torch.testing.assert_close(spatial_laplace(weight), expected)


def test_roughness_of_single_taps() -> None:
    pixel = torch.zeros(1, 1, 5, 5)
    pixel[0, 0, 2, 2] = 3.0
    assert spatial_laplace(pixel).item() == pytest.approx(4**2 + 4 * 1)
    instant = torch.zeros(1, 1, 5, 1)
    instant[0, 0, 2, 0] = -2.0
    assert temporal_laplace(instant).item() == pytest.approx(2**2 + 2 * 1)


def test_group_sparsity_by_hand() -> None:
    weight = torch.zeros(2, 3, 1, 2)
    weight[0, 0, 0] = torch.tensor([3.0, 4.0])
    weight[1, 2, 0] = torch.tensor([0.0, -2.0])
    weight.requires_grad_()
    found = group_sparsity(weight)
    assert found.item() == pytest.approx((5 + 2) / 2, abs=1e-5)
    found.backward()
    assert torch.isfinite(weight.grad).all()


def test_regularizer_terms_are_weighted() -> None:
    plain = {"hidden_channels": (2, 3), "spatial_kernels": (5, 3), "temporal_kernels": (3, 4)}
    gammas = {"gamma_input_spatial": 2.0, "gamma_input_temporal": 3.0, "gamma_hidden": 5.0}
    core = built(Factorized3d(**plain, **gammas))
    terms = core.regularizer()
    hidden = core.hidden[0]
    expected = {
        "core_input_spatial": 2 * spatial_laplace(core.first.spatial.weight),
        "core_input_temporal": 3 * temporal_laplace(core.first.temporal.weight),
        "core_hidden": 5 * (group_sparsity(hidden.spatial.weight) + group_sparsity(hidden.temporal.weight)),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Factorized3d, {"hidden_channels": (4, 4, 4)}, "one value for each layer"),
        (Factorized3d, {"spatial_kernels": (9, 4)}, "even size"),
        (
            Factorized3d,
            {"spatial_kernels": (9, 1), "strides": (1, 2)},
            r"Factorized3d\.strides: 2 is not allowed in layer 2",
        ),
        (Stacked2d, {"hidden_kern": 4}, "even size"),
        (Stacked2d, {"layers": 2, "stack": 2}, "names none of the 2 layers"),
        (ConvGRU, {"recurrent_kernel": 4}, "recurrent_kernel: 4 is even"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(
    kind: type[Configuration], settings: dict, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kind(**settings)


def test_gated_recurrent_unit_equals_torch_on_single_pixels() -> None:
    torch.manual_seed(1)
    unit = ConvGRU(hidden_channels=3, input_kernel=1, recurrent_kernel=1).build(2)
    nn.init.normal_(unit.initial_state)
    theirs = nn.GRU(2, 3, batch_first=True)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(unit.from_input.weight.flatten(1))
        theirs.weight_hh_l0.copy_(unit.from_state.weight.flatten(1))
        theirs.bias_ih_l0.copy_(unit.from_input.bias)
        theirs.bias_hh_l0.copy_(unit.from_state.bias)
    features = torch.randn(4, 2, 9, 1, 1)
    expected, _ = theirs(features[..., 0, 0].transpose(1, 2), unit.initial_state.expand(1, 4, 3).contiguous())
    torch.testing.assert_close(unit(features)[..., 0, 0].transpose(1, 2), expected, rtol=1e-5, atol=1e-5)


def test_gated_recurrent_unit_is_causal_and_keeps_sizes() -> None:
    unit = ConvGRU(hidden_channels=3, input_kernel=3, recurrent_kernel=5).build(2)
    features = torch.randn(1, 2, 7, 6, 8)
    before = unit(features)
    assert before.shape == (1, 3, 7, 6, 8)
    other = features.clone()
    other[:, :, 4] += 1
    changed = (unit(other) - before).abs().amax(dim=(0, 1, 3, 4)) > 0
    assert changed.tolist() == [False] * 4 + [True] * 3
    before.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in unit.parameters())


def test_no_recurrence_changes_nothing() -> None:
    features = torch.randn(1, 2, 3, 4, 5)
    module = NoRecurrence().build(2)
    assert module.out_channels == 2
    np.testing.assert_array_equal(module(features), features)
