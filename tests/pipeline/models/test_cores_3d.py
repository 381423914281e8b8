"""Space-time cores, and what every core that is not a stack of 2-D convolutions must do too."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.analysis.readouts import readout_properties
from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import FullGaussian2d, Network, build_encoder
from pipeline.models.cores import Basic3d, Core, CoreConfiguration, Depthwise3d, Factorized3d, GaborEnergy, ViT
from pipeline.models.cores.base import from_sequences, lies_by_places, to_frames, to_sequences
from pipeline.models.cores.depthwise3d import _DropPath, sinusoidal_position
from pipeline.models.cores.geometry import Stack
from pipeline.models.cores.temporal import TemporalConv2d
from pipeline.models.regularization import spatial_laplace, temporal_laplace

SMALL = {"hidden_channels": (4, 3), "input_kernel": (4, 5, 3), "hidden_kernel": (3, 3, 3)}
APART = {"strides": (2, 1), "spatial_dilations": (1, 2), "temporal_dilations": (2, 3)}
LAYERS = {"hidden_channels": (4, 3), "spatial_kernels": (5, 3), "temporal_kernels": (4, 3)}
BLOCKS = {"channels": (8, 12), "blocks": (2, 1), "strides": (1, 2), "temporal_kernel": 3, "expansion": 2}
LOCAL = [
    Basic3d(**SMALL),
    Basic3d(**SMALL, **APART),
    Basic3d(**SMALL | {"input_kernel": (3, 4, 2)}, padding=False, batch_norm=False, spatial_dilations=(2, 1)),
    Basic3d(hidden_channels=(3,), input_kernel=(5, 3, 3), strides=(3,), final_nonlinearity=False),
    Basic3d(**SMALL, linear=True),
    Factorized3d(**LAYERS, **APART),
    Factorized3d(**LAYERS | {"spatial_kernels": (4, 3)}, padding=False, strides=(2,), spatial_dilations=(1, 3)),
    GaborEnergy(wavelengths=(4, 8), orientations=3, pool=6),
    GaborEnergy(wavelengths=(4, 8), orientations=2, pool=3, linear=True),
]
KINDS: list[CoreConfiguration] = [
    *LOCAL,
    Depthwise3d(**BLOCKS),
    Depthwise3d(**BLOCKS | {"strides": (3, 1)}, position=False, pool=True, drop_path=0.0),
    Depthwise3d(**BLOCKS, linear=True),
    ViT(patch=5, stride=3, embedding=12, heads=2, depth=2),
    ViT(patch=5, stride=3, embedding=12, heads=2, depth=2, linear=True),
]
SIZES = [(24, 31), (25, 30)]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.kind()}-{kind.hash()[:4]}")


def built(kind: CoreConfiguration, channels: int = 3) -> Core:
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


def movie(time: int, height: int = 24, width: int = 31, batch: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 3, time, height, width)


@every_kind
@pytest.mark.parametrize("size", SIZES)
def test_output_has_the_announced_shape(kind: CoreConfiguration, size: tuple[int, int]) -> None:
    core = built(kind)
    time = core.lost_frames + 3
    assert core(movie(time, *size)).shape == (2, core.out_channels, 3, *core.out_size(*size))


@every_kind
def test_output_frame_sees_its_own_and_the_lost_frames_before(kind: CoreConfiguration) -> None:
    core = built(kind).eval().double()  # so that the least influence shows
    shown = movie(core.lost_frames + 4, batch=1).double()
    with torch.no_grad():
        before = core(shown)
        seen: list[set[int]] = [set() for _ in range(4)]
        for frame in range(shown.shape[2]):
            other = shown.clone()
            other[:, :, frame] *= -1.5
            changed = (core(other) - before).abs().amax(dim=(0, 1, 3, 4)) > 1e-13
            for k in torch.nonzero(changed).flatten().tolist():
                seen[k].add(frame)
    for k, frames in enumerate(seen):
        assert (min(frames), max(frames)) == (k, k + core.lost_frames)


@every_kind
def test_every_parameter_and_every_frame_get_a_gradient(kind: CoreConfiguration) -> None:
    core = built(kind)
    shown = movie(core.lost_frames + 3).requires_grad_()
    features = core(shown)
    (features * torch.randn_like(features)).square().sum().backward()
    assert shown.grad is not None and shown.grad.abs().amax(dim=(0, 1, 3, 4)).min() > 0
    assert [name for name, p in core.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@every_kind
def test_saved_and_loaded_cores_give_the_same_features_each_time(kind: CoreConfiguration) -> None:
    core = built(kind).eval()
    shown = movie(core.lost_frames + 2)
    other = kind.build(3)
    other.load_state_dict(core.state_dict())
    other.eval()
    with torch.no_grad():
        before = core(shown)
        assert torch.equal(core(shown), before)
        assert torch.equal(other(shown), before)
        torch.testing.assert_close(core(shown[1:]), before[1:], rtol=1e-4, atol=1e-5)  # nothing passes between movies


@every_kind
def test_features_are_nearly_the_same_in_half_precision(kind: CoreConfiguration) -> None:
    core = built(kind).eval()
    shown = movie(core.lost_frames + 2)
    with torch.no_grad():
        exact = core(shown)
        with torch.autocast("cpu", torch.bfloat16):
            rough = core(shown)
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.float().flatten(), dim=0) > 0.995


@every_kind
def test_cores_compile_in_one_piece(kind: CoreConfiguration) -> None:
    core = built(kind).eval()
    shown = movie(core.lost_frames + 2)
    torch._dynamo.reset()
    compiled = torch.compile(core, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(shown), core(shown))


@pytest.mark.parametrize("kind", LOCAL, ids=lambda kind: f"{kind.kind()}-{kind.hash()[:4]}")
def test_places_are_centred_on_the_pixels_that_they_see(kind: CoreConfiguration) -> None:
    core = built(kind).eval()
    height, width = 48, 45
    shown = movie(core.lost_frames + 1, height, width, batch=1).requires_grad_()
    features = core(shown)
    rows, columns = core.out_size(height, width)
    row, column = rows // 2, columns // 2
    (seen,) = torch.autograd.grad(features[0, :, 0, row, column].square().sum(), shown)
    pixels = torch.nonzero(seen.abs().amax(dim=(0, 1, 2)))
    first = torch.tensor(core.first_place(height, width))
    found = (pixels.amin(dim=0) + pixels.amax(dim=0)) / 2
    torch.testing.assert_close(found, first + core.pitch * torch.tensor([row, column]))


@pytest.mark.parametrize("padding", [True, False])
def test_readouts_find_their_pixels_through_strides(padding: bool) -> None:
    pixels = ((12.0, 8.0), (17.5, 13.25))
    scan = ScanInfo((1, 2), (3, 24, 31), (0.5, 1.0), frame_rate=30.0, field_centers=pixels)
    network = Network(
        core=Basic3d(**SMALL, strides=(2, 1), padding=padding),
        readout=FullGaussian2d(init_positions="triggered_average"),
    )
    found = readout_properties(build_encoder(network, {"a": scan}, seed=0), "a", scan).positions
    torch.testing.assert_close(torch.from_numpy(found).float(), torch.tensor(pixels))


def test_stack_by_hand() -> None:
    """5 taps in steps of 2, then 3 taps that are 2 apart: they see 13 of 20 pixels, from 4 places."""
    stack = Stack(kernels=(5, 3), strides=(2, 1), dilations=(1, 2), padding=False)
    assert (stack.pitch, stack.out_size(20), stack.first_place()) == (2, 4, 6.0)
    assert stack.out_size(12) < 1 <= stack.out_size(13)
    padded = Stack(kernels=(5, 3), strides=(2, 1), dilations=(1, 2), padding=True)
    assert (padded.out_size(20), padded.out_size(21), padded.first_place()) == (10, 11, 0.0)
    zeros = Stack(kernels=(5, 3), strides=(2, 1), dilations=(1, 2), padding=(1, 3))
    assert (zeros.out_size(20), zeros.first_place()) == (11, -1.0)
    assert Stack(kernels=(5, 3), strides=(1, 1), dilations=(1, 1), padding=(0, 9)).out_size(4) < 1


def convolved(core: Core, shown: torch.Tensor, weights: list[torch.Tensor], kind: CoreConfiguration) -> torch.Tensor:
    """The layers of the settings APART by F.conv3d and normalisation by the batch."""
    for layer, weight in enumerate(weights):
        gap, lag, stride = kind.spatial_dilations[layer], kind.temporal_dilations[layer], kind.strides[layer]
        pad = [gap * (side // 2) for side in weight.shape[-2:]]
        shown = F.conv3d(shown, weight, stride=(1, stride, stride), padding=(0, *pad), dilation=(lag, gap, gap))
        mean = shown.mean(dim=(0, 2, 3, 4), keepdim=True)
        variance = shown.var(dim=(0, 2, 3, 4), keepdim=True, correction=0)
        shown = F.elu((shown - mean) / torch.sqrt(variance + 1e-5))
    return shown


def test_basic_core_equals_convolutions() -> None:
    kind = Basic3d(**SMALL, **APART)
    torch.manual_seed(0)
    core = kind.build(3)
    weights = [layer.conv.weight for layer in core.layers]
    shown = movie(core.lost_frames + 5)
    torch.testing.assert_close(core(shown), convolved(core, shown, weights, kind), rtol=1e-4, atol=1e-4)


def test_factorized_core_with_strides_equals_convolutions_with_product_filters() -> None:
    kind = Factorized3d(**LAYERS, **APART)
    torch.manual_seed(0)
    core = kind.build(3)
    weights = [
        torch.einsum("ochw,pot->pcthw", layer.spatial.weight, layer.temporal.weight[..., 0])
        for layer in (core.first, *core.hidden)
    ]
    shown = movie(core.lost_frames + 5)
    torch.testing.assert_close(core(shown), convolved(core, shown, weights, kind), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dilation", [1, 3])
def test_filters_over_time_are_those_of_a_convolution_over_time_and_place(dilation: int) -> None:
    torch.manual_seed(1)
    ours = TemporalConv2d(3, 5, 4, dilation).double()
    theirs = nn.Conv2d(3, 5, (4, 1), dilation=(dilation, 1), bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    videos = torch.randn(2, 3, 17, 4, 6, dtype=torch.float64, requires_grad=True)
    found = from_sequences(ours.of_sequences(to_sequences(to_frames(videos), 2)), 4, 6)
    expected = theirs(videos.flatten(3)).unflatten(3, (4, 6))
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    ours_grad = torch.autograd.grad(found, (videos, ours.weight), grad)
    torch.testing.assert_close(ours_grad, torch.autograd.grad(expected, (videos, theirs.weight), grad))


def test_factorized_core_is_the_same_in_every_memory_layout() -> None:
    """Time lies last while filters are learned, or where spectra make the maps; otherwise movies lie by frames."""
    core = built(Factorized3d(**LAYERS), channels=2).double()
    videos = torch.randn(2, 2, 12, 9, 11, dtype=torch.float64)
    features = core(videos)
    with torch.no_grad():
        torch.testing.assert_close(core(videos), features)
    core.requires_grad_(False)
    torch.testing.assert_close(core(videos), features)
    assert lies_by_places(to_frames(features)) and not lies_by_places(to_frames(core(videos)))


def test_movies_that_lie_by_places_are_not_copied_between_space_and_time() -> None:
    sequences = torch.randn(6 * 4 * 2, 3, 1, 17).contiguous(memory_format=torch.channels_last)
    videos = from_sequences(sequences, 4, 6)
    assert videos.shape == (2, 3, 17, 4, 6)
    again = to_sequences(to_frames(videos), 2)
    assert torch.equal(again, sequences)
    assert again.data_ptr() == videos.data_ptr() == sequences.data_ptr()


def test_depthwise_block_by_hand() -> None:
    """A block that only projects, behind open gates: what is left of it are its depth-wise filters."""
    torch.manual_seed(0)
    kind = Depthwise3d(channels=(3,), blocks=(1,), strides=(2,), expansion=1, temporal_kernel=4, position=False)
    core = kind.build(3).eval()
    block = core.blocks[0]
    shown = movie(9)
    with torch.no_grad():
        for part in (core.stem, block.expand, block.project):
            part[0].weight.copy_(torch.eye(3)[:, :, None, None])
        block.squeeze_excite.excite.weight.zero_()
        block.squeeze_excite.excite.bias.fill_(100.0)
        found = core(shown)
        space, time = block.spatial[0].weight, block.temporal[0].weight
        expected = F.conv3d(F.silu(shown), space[:, :, None], stride=(1, 2, 2), padding=(0, 1, 1), groups=3)
        expected = F.silu(F.conv3d(F.silu(expected), time[..., None], groups=3))
        shortcut = F.conv3d(shown[:, :, 3:], block.shortcut[0].weight[..., None], stride=(1, 2, 2))
        torch.testing.assert_close(found, expected + shortcut, rtol=1e-3, atol=1e-4)
        block.squeeze_excite.excite.bias.fill_(-100.0)  # closed gates leave the shortcut
        torch.testing.assert_close(core(shown), shortcut, rtol=1e-4, atol=1e-4)


def test_squeezed_frames_gate_channels_of_the_same_frame() -> None:
    core = built(Depthwise3d(**BLOCKS))
    gate = core.blocks[0].squeeze_excite
    frames = torch.randn(3, 16, 5, 4)
    means = frames.mean(dim=(2, 3))
    squeezed = F.silu(means @ gate.squeeze.weight[:, :, 0, 0].T + gate.squeeze.bias)
    weights = torch.sigmoid(squeezed @ gate.excite.weight[:, :, 0, 0].T + gate.excite.bias)
    torch.testing.assert_close(gate(frames), frames * weights[:, :, None, None])


def test_dropped_paths_leave_the_shortcut_and_scale_the_others_up() -> None:
    torch.manual_seed(0)
    paths = _DropPath(0.25)
    dropped = paths(torch.ones(4000, 1, 1, 2, 2))
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(4 / 3).item()}
    assert dropped.amax(dim=(1, 2, 3, 4)).equal(dropped.amin(dim=(1, 2, 3, 4)))
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert paths.eval()(dropped) is dropped


def test_sinusoidal_positions_by_hand() -> None:
    code = sinusoidal_position(9, 5, 7, torch.device("cpu"))
    assert code[:, 3, 4].tolist() == pytest.approx(
        [wave(place * fast) for place in (3, 4) for wave in (math.sin, math.cos) for fast in (1, 0.01)] + [0.0]
    )


def test_final_nonlinearity_can_be_switched_off() -> None:
    shown = movie(12)
    off = built(Basic3d(**SMALL, final_nonlinearity=False))
    on = built(Basic3d(**SMALL))
    on.load_state_dict(off.state_dict())
    assert off(shown).min() < -1.5
    torch.testing.assert_close(on(shown), F.elu(off(shown)))


def test_basic_core_penalises_roughness_in_space_and_time_apart() -> None:
    core = built(Basic3d(**SMALL, gamma_input_spatial=2.0, gamma_input_temporal=3.0), channels=2)
    weight = core.layers[0].conv.weight
    terms = core.regularizer()
    out, channels, time, height, width = weight.shape
    pictures = weight.permute(0, 1, 2, 3, 4).reshape(out, channels * time, height, width)
    courses = weight.permute(0, 1, 3, 4, 2).reshape(out, channels * height * width, time, 1)
    torch.testing.assert_close(terms["core_input_spatial"], 2 * spatial_laplace(pictures))
    torch.testing.assert_close(terms["core_input_temporal"], 3 * temporal_laplace(courses))
    with torch.no_grad():  # one tap: the Laplace filter itself, 4 and four times -1, and in time 2 and twice -1
        weight.zero_()[1, 1, 2, 2, 1] = 5.0
    terms = core.regularizer()
    assert math.isclose(terms["core_input_spatial"].item(), 2 * 20, rel_tol=1e-5)
    assert math.isclose(terms["core_input_temporal"].item(), 3 * 6, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Basic3d, {"hidden_channels": ()}, "hidden_channels is empty"),
        (Basic3d, {"input_kernel": (3, 3)}, "must have frames, height, width"),
        (Basic3d, {"hidden_kernel": (3, 4, 3)}, "hidden_kernel: .* even size"),
        (Basic3d, {"strides": (1, 2, 1)}, "strides: .* one for each of 2"),
        (Depthwise3d, {"blocks": (2, 1)}, "one value for each group"),
        (Depthwise3d, {"spatial_kernel": 4}, "even size"),
        (Factorized3d, {"temporal_dilations": (1, 2, 1)}, "temporal_dilations: .* one for each of 2"),
        (Factorized3d, {"spatial_dilations": ()}, "spatial_dilations: .* one for each of 2"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(
    kind: type[CoreConfiguration], settings: dict, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kind(**settings)
