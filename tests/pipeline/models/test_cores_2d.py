"""Cores that see one frame at a time: what all of them must do, and what each is known to compute."""

from __future__ import annotations

import dataclasses
import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline import legacy
from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import FullGaussian2d, Network, build_encoder
from pipeline.models.cores import CORES, Core, CoreConfiguration
from pipeline.models.cores.cnn import CNN, FastCNN
from pipeline.models.cores.gaussian_laplace import GaussianLaplace, StackedLinearGaussianLaplace
from pipeline.models.cores.layers2d import SqueezeExcitation
from pipeline.models.cores.linear2d import Dense, Linear
from pipeline.models.cores.rotation2d import RotationEquivariant2d, hermite_basis
from pipeline.models.cores.roughness import (
    INPUT_REGULARIZERS,
    gaussian_weights,
    weighted_laplace_l2,
)
from pipeline.models.cores.se2d import SE2d
from pipeline.models.cores.stacked2d import Stacked2d, Stacked2dCore
from pipeline.models.regularization import group_sparsity, laplace, spatial_laplace

SMALL = {"hidden_channels": 4, "input_kern": 5, "hidden_kern": 3}
ROTATING = {"hidden_channels": 2, "input_kern": 5, "hidden_kern": 3, "layers": 2, "num_rotations": 4}
KINDS: list[CoreConfiguration] = [
    CNN(hidden_channels=(4, 3, 2), kernels=(4, 3, 2), strides=(2, 1, 3), batch_norm=False),
    CNN(hidden_channels=(4, 3), kernels=(5, 3), strides=(2, 2), pooling=2, padding=True),
    CNN(hidden_channels=(4, 3), kernels=(5, 3), strides=(1,), linear=True),
    Dense(),
    FastCNN(),
    GaussianLaplace(**SMALL),
    GaussianLaplace(**SMALL, pad_input=True, batch_norm=False, bias=True, final_nonlinearity=False),
    Linear(hidden_channels=4, input_kern=6),
    Linear(hidden_channels=4, input_kern=5, pad_input=True, batch_norm=False),
    RotationEquivariant2d(**ROTATING),
    RotationEquivariant2d(**ROTATING | {"num_rotations": 3, "layers": 3}, pad_input=True, stack=None),
    RotationEquivariant2d(**ROTATING, rot_eq_batch_norm=False, linear=True),
    SE2d(**SMALL, n_se_blocks=2, se_reduction=2),
    SE2d(**SMALL, depth_separable=False, linear=True, layers=2),
    SE2d(**SMALL | {"hidden_kern": 5}, layers=3, stride=2, n_se_blocks=1, se_reduction=2),
    Stacked2d(**SMALL),
    Stacked2d(**SMALL, skip=2, stack=None, hidden_dilation=2, pad_input=True),
    Stacked2d(**SMALL | {"input_kern": 4, "hidden_kern": 4}, hidden_padding=1, layers=2, final_nonlinearity=False),
    Stacked2d(**SMALL | {"hidden_kern": 4}, hidden_dilation=2, layers=2, batch_norm=False, bias=True),
    Stacked2d(**SMALL, layers=2, nonlinearity_type="AdaptiveELU", elu_shift=(0.2, 1.0)),
    Stacked2d(**SMALL, layers=2, independent_bn_bias=False, bias=True, batch_norm_scale=False),
    Stacked2d(**SMALL, layers=2, independent_bn_bias=False),
    Stacked2d(**SMALL, stride=2, pad_input=True),
    Stacked2d(**SMALL | {"hidden_kern": 4}, stride=3, hidden_padding=1, hidden_dilation=2, layers=2, skip=2),
    Stacked2d(**SMALL | {"hidden_kern": 4}, stride=2, hidden_padding=0, depth_separable=True, bias=True),
    StackedLinearGaussianLaplace(**SMALL),
]
SIZES = [(24, 31), (25, 30)]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.kind()}-{kind.hash()[:4]}")


def built(kind: CoreConfiguration, channels: int = 2) -> Any:
    """A core that is far from its fresh state, statistics of the normalisation included."""
    torch.manual_seed(0)
    core = kind.build(channels)
    with torch.no_grad():
        for module in core.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        for parameter in core.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return core


def movie(time: int = 3, height: int = 24, width: int = 31, channels: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, channels, time, height, width)


def test_every_kind_of_this_file_is_registered_and_checked() -> None:
    modules = {kind.__module__ for kind in map(type, KINDS)}
    assert {type(kind) for kind in KINDS} == {kind for kind in CORES if kind.__module__ in modules}


@every_kind
@pytest.mark.parametrize("size", SIZES)
def test_output_has_the_announced_shape(kind: CoreConfiguration, size: tuple[int, int]) -> None:
    core: Core = built(kind)
    assert core.lost_frames == 0
    assert core(movie(3, *size)).shape == (2, core.out_channels, 3, *core.out_size(*size))


@every_kind
def test_frames_do_not_see_each_other(kind: CoreConfiguration) -> None:
    core = built(kind).eval()
    shown = movie(5)
    with torch.no_grad():
        together = core(shown)
        for frame in range(5):
            alone = core(shown[:1, :, frame : frame + 1])
            torch.testing.assert_close(together[:1, :, frame : frame + 1], alone, rtol=1e-4, atol=1e-5)


@every_kind
def test_every_parameter_gets_a_gradient_in_training(kind: CoreConfiguration) -> None:
    core = built(kind)
    features = core(movie().requires_grad_())
    features = features + 0 * sum(core.regularizer().values())  # penalties must not break gradients
    (features * torch.randn_like(features)).square().sum().backward()
    assert [name for name, p in core.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@every_kind
def test_saved_and_loaded_cores_give_the_same_features_each_time(kind: CoreConfiguration) -> None:
    core, other = built(kind).eval(), kind.build(2).eval()
    other.load_state_dict(core.state_dict())
    with torch.no_grad():
        before = core(movie())
        assert torch.equal(core(movie()), before)
        assert torch.equal(other(movie()), before)


@every_kind
def test_features_are_nearly_the_same_in_half_precision(kind: CoreConfiguration) -> None:
    core = built(kind).eval()
    with torch.no_grad():
        exact = core(movie())
        with torch.autocast("cpu", torch.bfloat16):
            rough = core(movie())
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@every_kind
def test_compiler_takes_each_core_as_one_graph(kind: CoreConfiguration) -> None:
    core = built(kind).eval()
    torch._dynamo.reset()
    compiled = torch.compile(core, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(movie()), core(movie()), rtol=1e-4, atol=1e-5)


@every_kind
def test_places_are_centred_where_the_core_says(kind: CoreConfiguration) -> None:
    if isinstance(kind, SE2d):
        kind = dataclasses.replace(kind, n_se_blocks=0)  # a gate sees the whole frame
    core = built(kind).eval()
    height, width = 40, 45
    for parameter in core.parameters():
        parameter.detach().uniform_(0.5, 1)
    shown = movie(1, height, width).requires_grad_()
    features = core(shown)
    row, column = features.shape[3] // 2, features.shape[4] // 2
    features[0, :, 0, row, column].sum().backward()
    rows, columns = torch.nonzero(shown.grad[0, :, 0].abs().amax(dim=0)).unbind(1)
    first = core.first_place(height, width)
    assert (rows.min() + rows.max()) / 2 == first[0] + core.pitch * row
    assert (columns.min() + columns.max()) / 2 == first[1] + core.pitch * column


@every_kind
def test_linear_cores_are_linear_and_others_are_not(kind: CoreConfiguration) -> None:
    core = built(kind).eval()
    a, b = movie(2).unbind(2)
    a, b, zero = (x.unsqueeze(2) for x in (a, b, torch.zeros_like(a)))
    with torch.no_grad():
        offset = core(zero)
        error = core(a + 2 * b) - offset - (core(a) - offset) - 2 * (core(b) - offset)
        size = (core(a) - offset).abs().mean()
    assert (error.abs().mean() < 1e-5 * size) == getattr(kind, "linear", isinstance(kind, Dense | Linear))


def theirs_and_ours(name: str, kind: Stacked2d, **settings: Any) -> tuple[Any, Stacked2dCore]:
    """Neuralpredictors' core with the weights of ours, both in evaluation."""
    core = built(kind).eval()
    shared = {n: v for n, v in kind.settings().items() if n != "nonlinearity_type"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = legacy.neuralpredictors_module("layers.cores")
        theirs = getattr(module, name)(input_channels=2, **shared | settings)
    # Theirs also have biases of 0 in front of the normalisation, which takes them away, and the Laplace filter.
    own = {n: v for n, v in theirs.state_dict().items() if n.endswith(("conv.bias", "laplace.filter", "gaussian2d"))}
    theirs.load_state_dict(own | core.state_dict())
    return theirs.eval(), core


@pytest.mark.parametrize(
    "kind",
    [k for k in KINDS if type(k) in (Stacked2d, SE2d)]
    + [
        Stacked2d(**SMALL, input_regularizer=name, laplace_padding=padding, use_avg_reg=average, gamma_hidden=3.0)
        for name, padding, average in [
            ("LaplaceL2", 0, True), ("LaplaceL2", None, False), ("LaplaceL2norm", 0, True), ("LaplaceL2norm", 1, False),
            ("GaussianLaplaceL2", None, False),
        ]
    ]
    + [SE2d(**SMALL, n_se_blocks=9, se_reduction=4, bias=True, independent_bn_bias=False, batch_norm_scale=True)],
    ids=lambda kind: f"{kind.kind()}-{kind.hash()[:4]}",
)  # fmt: skip
def test_stacked_cores_equal_neuralpredictors(kind: Stacked2d) -> None:
    theirs, core = theirs_and_ours(f"{kind.kind()}Core", kind)
    shown = movie(1)
    with torch.no_grad():
        torch.testing.assert_close(core(shown)[:, :, 0], theirs(shown[:, :, 0]), rtol=1e-5, atol=1e-5)
    for layer in theirs.features:  # their penalties cannot view channels-last weights
        if hasattr(layer, "conv"):
            layer.conv.weight.data = layer.conv.weight.data.contiguous()
    if isinstance(kind, SE2d):
        torch.testing.assert_close(core.regularizer()["core_input"], theirs.regularizer())
    else:
        torch.testing.assert_close(sum(core.regularizer().values()), theirs.regularizer())


def test_rotation_equivariant_core_equals_neuralpredictors(monkeypatch: pytest.MonkeyPatch) -> None:
    # Their basis asks for factorials of whole floats, which Python no longer answers.
    whole = SimpleNamespace(factorial=lambda number: math.factorial(int(number)))
    monkeypatch.setattr(legacy.neuralpredictors_module("layers.hermite"), "math", whole)
    kind = RotationEquivariant2d(hidden_channels=2, input_kern=7, hidden_kern=5, layers=3, num_rotations=8, stack=None)
    core = built(kind).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = legacy.RotationEquivariant2dCore(
            input_channels=2, hidden_channels=2, input_kern=7, hidden_kern=5, layers=3, num_rotations=8, pad_input=False
        )
    constants = {n: v for n, v in theirs.state_dict().items() if "rotate_hermite" in n or "laplace" in n}
    theirs.load_state_dict(constants | core.state_dict())
    shown = movie(1)
    with torch.no_grad():
        torch.testing.assert_close(core(shown)[:, :, 0], theirs.eval()(shown[:, :, 0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rotations", [4, 8])
def test_turned_frames_give_turned_maps_of_other_orientations(rotations: int) -> None:
    core = built(RotationEquivariant2d(**ROTATING | {"num_rotations": rotations, "layers": 3})).eval()
    shown = movie(1, 20, 20)
    with torch.no_grad():
        before = core(shown).unflatten(1, (rotations, 2))
        after = core(shown.rot90(1, dims=(3, 4))).unflatten(1, (rotations, 2))
    steps = [turn for turn in range(rotations) if torch.allclose(
        after, before.rot90(1, dims=(4, 5)).roll(turn, dims=1), rtol=1e-4, atol=1e-4
    )]  # fmt: skip
    assert steps in ([rotations // 4], [3 * rotations // 4])


def test_hermite_functions_are_orthonormal_where_the_square_holds_them() -> None:
    functions, frequencies = hermite_basis(4, 101, extent=9.0)
    gram = np.einsum("ahw,bhw->ab", functions, functions)
    np.testing.assert_allclose(gram, np.eye(10), atol=1e-6)
    assert frequencies.tolist() == [0, 1, -1, 0, 2, -2, 1, -1, 3, -3]


def test_gate_of_zeros_halves_and_a_closed_gate_silences() -> None:
    block = SqueezeExcitation(4, 2)
    frames = torch.randn(3, 4, 5, 6)
    last = block.se[3]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    torch.testing.assert_close(block(frames), frames / 2)
    nn.init.constant_(last.bias, -200.0)
    assert not block(frames).any()


def test_squeeze_excitation_follows_the_last_layers_but_never_the_first() -> None:
    def gated(blocks: int) -> list[int]:
        core = SE2d(**SMALL, layers=4, n_se_blocks=blocks, se_reduction=2).build(1)
        return [i for i, layer in enumerate(core.features) if hasattr(layer, "seg_ex_block")]

    assert [gated(n) for n in (0, 1, 3, 7)] == [[], [3], [1, 2, 3], [1, 2, 3]]


def test_linear_core_and_dense_core_by_hand() -> None:
    shown = movie(2)
    assert torch.equal(Dense().build(2)(shown), shown)
    assert Dense().build(2).regularizer() == {}
    core = built(Linear(hidden_channels=3, input_kern=7, batch_norm=False, gamma_input=2.0))
    (weight,) = core.parameters()
    expected = F.conv3d(shown, weight[:, :, None])
    torch.testing.assert_close(core(shown), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(core.regularizer(), {"core_input": 2 * spatial_laplace(weight)})


def test_averaging_pixels_first_is_a_filter_of_equal_taps() -> None:
    core = built(CNN(hidden_channels=(3,), kernels=(3,), strides=(1,), pooling=2, linear=True, batch_norm=False))
    weight, bias = core.parameters()
    wide = weight.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 4
    shown = movie(1)
    expected = F.conv2d(shown[:, :, 0], wide, bias, stride=2)
    torch.testing.assert_close(core(shown)[:, :, 0], expected, rtol=1e-4, atol=1e-4)


def test_penalties_of_the_plain_core_are_weighted() -> None:
    core = built(CNN(hidden_channels=(2, 3, 2), kernels=(5, 3, 3), gamma_input=2.0, gamma_hidden=5.0))
    first, *others = (layer.conv.weight for layer in core.layers)
    expected = {
        "core_input": 2 * spatial_laplace(first),
        "core_hidden": 5 * sum(group_sparsity(weight) for weight in others) / 2,
    }
    torch.testing.assert_close(core.regularizer(), expected)


def test_names_of_roughness_on_a_single_pixel() -> None:
    weight = torch.zeros(2, 1, 5, 5)
    weight[0, 0, 2, 2] = 3.0  # after the Laplace filter: 12 there and -3 at its four neighbours
    assert INPUT_REGULARIZERS["LaplaceL2norm"](weight, None, False).item() == pytest.approx(16 + 4)
    assert INPUT_REGULARIZERS["LaplaceL2norm"](weight, 0, True).item() == pytest.approx(20 * 25 / 9)
    assert INPUT_REGULARIZERS["LaplaceL2"](weight, None, False).item() == pytest.approx(9 * 20 / 2)
    assert INPUT_REGULARIZERS["LaplaceL2"](weight, None, True).item() == pytest.approx(9 * 20 / 2 / 50)
    middle, corner = math.exp(-1 / (2 * 1.25**2)), math.exp(-8 / (2 * 1.25**2))
    beside = 1 - (middle - corner) / (1 - corner)  # nothing is left of the 12 in the middle
    assert INPUT_REGULARIZERS["GaussianLaplaceL2"](weight, None, False).item() == pytest.approx(4 * beside**2)


def test_weights_of_staticnet_follow_the_formula() -> None:
    weights = gaussian_weights(15, sigma=0.5, bias=0.25)
    for row, column in [(7, 7), (7, 14), (0, 0), (3, 9)]:
        squared = ((row - 7) / 7) ** 2 + ((column - 7) / 7) ** 2
        assert weights[row, column].item() == pytest.approx(1 - math.exp(-squared / (2 * 0.25)) + 0.25)
    assert weights.min() == weights[7, 7] == 0.25


def test_penalties_of_the_staticnet_core() -> None:
    kind = GaussianLaplace(
        **SMALL | {"hidden_channels": 2}, gamma_input=50, gamma_hidden=0.1, gauss_sigma=0.5, gauss_bias=0.5
    )
    core = built(kind)
    first, *others = (layer.conv.weight for layer in core.features)
    rough = F.conv2d(first.reshape(4, 1, 5, 5), torch.tensor([[[[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]]]), padding=1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5), indexing="ij")
    mask = 1 - torch.exp(-(x**2 + y**2) / (2 * 0.5**2)) + 0.5
    norms = [weight.square().sum(dim=(2, 3)).sqrt().mean() for weight in others]
    expected = {"core_input": 50 * (mask * rough**2).mean() / 2, "core_hidden": 0.1 * sum(norms) / 2}
    torch.testing.assert_close(core.regularizer(), expected, rtol=1e-4, atol=1e-6)


def test_weighted_laplace_without_weights_is_neuralpredictors() -> None:
    weight = torch.randn(3, 2, 7, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = legacy.regularizers.LaplaceL2(padding=1)(weight, avg=True)
    torch.testing.assert_close(weighted_laplace_l2(weight, torch.ones(7, 7), padding=1), expected)
    assert laplace(weight, padding=0).shape == (3, 2, 5, 5)


def test_recipe_of_staticnet_makes_a_model_of_images() -> None:
    core = StackedLinearGaussianLaplace(gauss_bias=0, gauss_sigma=0.5, input_kern=15, hidden_kern=7)
    assert core.settings() | {"gauss_bias": 0.0, "skip": 3, "laplace_padding": 1, "bias": False} == core.settings()
    info = {"scan": ScanInfo((0, 1, 2, 3, 4), (1, 36, 64), (1.0,) * 5)}
    encoder = build_encoder(Network(core=core, readout=FullGaussian2d()), info, seed=1).eval()
    assert encoder.core.out_channels == 96
    assert encoder(torch.randn(4, 1, 36, 64), "scan").shape == (4, 5)
    encoder.core(torch.randn(2, 1, 1, 36, 64)).sum().backward()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Stacked2d, {"elu_shift": (1.0, 0.0)}, "shifts nothing: set nonlinearity_type"),
        (Stacked2d, {"elu_shift": (1.0,), "nonlinearity_type": "AdaptiveELU"}, "two numbers"),
        (Stacked2d, {"hidden_padding": 0, "skip": 2}, "changes the size of the maps"),
        (Stacked2d, {"hidden_padding": 0, "stack": None}, "changes the size of the maps"),
        (Stacked2d, {"stride": 2, "skip": 2}, r"Stacked2d\.stride: 2 .* must be 1, or set skip to 0 and stack to -1"),
        (SE2d, {"stride": 2, "stack": None}, r"SE2d\.stride: 2 .* must be 1, or set skip to 0 and stack to -1"),
        (
            Stacked2d,
            {"stride": 2, "hidden_kern": 1},
            r"Stacked2d\.stride: 2 is not allowed in layer 2, .* must be 1, or",
        ),
        (Stacked2d, {"input_kern": 2, "laplace_padding": 0}, "too small for LaplaceL2norm"),
        (Stacked2d, {"input_kern": 1, "input_regularizer": "GaussianLaplaceL2"}, "too small for GaussianLaplaceL2"),
        (Stacked2d, {"input_regularizer": "LaplaceL3"}, "one of 'LaplaceL2norm'"),
        (Stacked2d, {"hidden_kern": 4, "hidden_dilation": 3}, "even size"),
        (SE2d, {"hidden_channels": 16, "n_se_blocks": 1}, "leaves nothing of 16 channels"),
        (SE2d, {"linear": True, "n_se_blocks": 1}, "blocks are not linear"),
        (RotationEquivariant2d, {"hidden_kern": 4}, "even size"),
        (RotationEquivariant2d, {"input_kern": 4, "pad_input": True}, "even size"),
        (RotationEquivariant2d, {"stack": 3}, "names none of the 3 layers"),
        (Linear, {"input_kern": 4, "pad_input": True}, "even size"),
        (CNN, {"kernels": (5, 3)}, "one value for each layer"),
        (CNN, {"strides": (1, 2)}, "one value for all, or one for each"),
        (CNN, {"kernels": (4, 3, 3), "padding": True}, "even size"),
        (CNN, {"kernels": (5, 1, 3)}, r"CNN\.strides: 2 is not allowed in layer 2, .* it must be 1, or use larger"),
        (GaussianLaplace, {"hidden_kern": 4}, "even size"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(
    kind: type[CoreConfiguration], settings: dict, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kind(**settings)
