"""What units can see, and nothing else, goes through the core: values and gradients are those of the whole frame."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.datasets.info import DataInfo, ScanInfo
from pipeline.models import MLP, Encoder, MLPGain, Network, build_encoder
from pipeline.models.cores import (
    CNN,
    Basic3d,
    CoreConfiguration,
    Dense,
    Depthwise3d,
    Factorized3d,
    FastCNN,
    GaborEnergy,
    GaussianLaplace,
    Linear,
    RotationEquivariant2d,
    SE2d,
    Stacked2d,
    StackedLinearGaussianLaplace,
    ViT,
)
from pipeline.models.cores.windows import Window, in_window
from pipeline.models.readouts import FullGaussian2d
from pipeline.models.recurrent import ConvGRU
from tests.pipeline.models.test_every_pair import CORE_SETTINGS, READOUT_SETTINGS

HEIGHT, WIDTH, FRAMES = 27, 34, 7
THREE: dict[str, Any] = {"hidden_channels": 3, "input_kern": 5, "hidden_kern": 3, "layers": 3}
MOVIES = (Basic3d, Depthwise3d, Factorized3d)

LOCAL: tuple[CoreConfiguration, ...] = (
    Stacked2d(**THREE),
    Stacked2d(**THREE, pad_input=True, skip=2, stack=None),
    Stacked2d(**THREE, hidden_dilation=2, batch_norm=False, bias=True, nonlinearity_type="AdaptiveELU"),
    Stacked2d(**THREE, hidden_padding=0, final_nonlinearity=False, independent_bn_bias=False, bias=True),
    Stacked2d(**{**THREE, "hidden_kern": 5}, depth_separable=True, batch_norm=False, bias=True),
    Stacked2d(**{**THREE, "hidden_kern": 4}, hidden_padding=3, skip=0),
    Stacked2d(**THREE, stride=2, pad_input=True),
    Stacked2d(**THREE | {"layers": 2}, stride=3, hidden_padding=0, hidden_dilation=2, batch_norm=False, bias=True),
    SE2d(**{**THREE, "hidden_kern": 5}, pad_input=True),
    SE2d(**{**THREE, "hidden_kern": 5}, stride=2, batch_norm=False, bias=True),
    GaussianLaplace(**THREE, skip=3, bias=True),
    StackedLinearGaussianLaplace(**THREE),
    Linear(hidden_channels=3, input_kern=7),
    Linear(hidden_channels=3, input_kern=7, pad_input=True),
    Dense(),
    CNN(hidden_channels=(3, 4, 3), kernels=(5, 3, 3), strides=(1, 2, 2), padding=True),
    CNN(hidden_channels=(3, 4), kernels=(5, 3), strides=(2, 1), pooling=2),
    FastCNN(hidden_channels=(3,), kernels=(3,), strides=(2,)),
    RotationEquivariant2d(**THREE, num_rotations=4),
    RotationEquivariant2d(**THREE, num_rotations=4, pad_input=True, stack=None, rot_eq_batch_norm=False),
    Basic3d(hidden_channels=(3, 3), input_kernel=(3, 5, 7), hidden_kernel=(2, 3, 3)),
    Basic3d(
        hidden_channels=(3, 3), input_kernel=(3, 5, 4), hidden_kernel=(2, 3, 3), padding=False, strides=(2, 1),
        spatial_dilations=(1, 2), temporal_dilations=(1, 2), batch_norm=False,
    ),
    Factorized3d(hidden_channels=(3, 3), spatial_kernels=(5, 3), temporal_kernels=(3, 2)),
    Factorized3d(
        hidden_channels=(3, 3), spatial_kernels=(5, 3), temporal_kernels=(3, 2), strides=(1, 2),
        spatial_dilations=(2, 1),
    ),
)  # fmt: skip
"""Every kind that is local, with what it can do to the borders of its maps."""

NOT_LOCAL = (
    SE2d(**THREE, n_se_blocks=1, se_reduction=1),
    *(c for c in CORE_SETTINGS if isinstance(c, (Depthwise3d, GaborEnergy, ViT))),
)
"""Kinds in which a place depends on the whole frame, or that read their frames in another way."""


def encoder_of(core: CoreConfiguration, readout: Any = None, channels: int = 1, **parts: Any) -> Encoder:
    is_movie = isinstance(core, MOVIES) or "recurrent" in parts
    scan = ScanInfo(
        tuple(range(6)), (channels, HEIGHT, WIDTH), (1.0,) * 6, n_behavior=1, mean_pupil_center=(0.3, -0.2),
        mean_behavior=(0.5,), frame_rate=30.0 if is_movie else None,
    )  # fmt: skip
    info: DataInfo = {"a": scan}
    network = Network(core, readout=readout or FullGaussian2d(), shifter=MLP(), modulator=MLPGain(), **parts)
    encoder = build_encoder(network, info, seed=3)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, values in (*encoder.named_parameters(), *encoder.named_buffers()):
            if values.is_floating_point() and not name.startswith("readouts") and "taps" not in name:
                values.add_(0.3 * torch.rand(values.shape, generator=random))
        if isinstance(network.readout, FullGaussian2d):  # all corners and borders, and the middle
            encoder.readouts["a"].mu.copy_(
                torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.05, -0.98], [0.97, 0.1], [-0.3, 0.2], [1.0, -1.0]])
            )
            encoder.readouts["a"].features.normal_(generator=random)
    return encoder.eval()


def inputs_for(core: CoreConfiguration, batch: int, channels: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(7)
    frames = (FRAMES,) if isinstance(core, MOVIES) else (1,)
    return torch.randn(batch, channels, *frames, HEIGHT, WIDTH, generator=random).requires_grad_(True)


def case(core: CoreConfiguration) -> str:
    return core.kind()


@pytest.mark.parametrize("learned", [True, False], ids=["learned", "frozen"])
@pytest.mark.parametrize("core", LOCAL, ids=case)
def test_windows_hold_what_the_whole_maps_hold(core: CoreConfiguration, learned: bool) -> None:
    module = encoder_of(core, channels=2).core.requires_grad_(learned)
    videos = inputs_for(core, 5, channels=2)
    layers = module.local_layers()
    assert layers is not None
    whole = module(videos)
    height, width = whole.shape[3:]
    rows, columns = torch.tensor([-1, 0, height - 2, 2, height - 1]), torch.tensor([0, -2, width - 1, 3, width - 2])
    found = in_window(layers, videos, Window(rows, columns, 3, 2))
    assert found is not None
    padded = F.pad(whole, (5, 5, 5, 5))
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    wanted = torch.stack([padded[i, :, :, r + 5 : r + 8, c + 5 : c + 7] for i, (r, c) in enumerate(places)])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(8))
    gradients = [torch.autograd.grad((x * weights).sum(), videos)[0] for x in (wanted, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5 * float(gradients[0].abs().max()))


def require_equal(encoder: Encoder, inputs: Tensor, cropped: bool, **signals: Any) -> None:
    """Compare one unit an input with all units on all inputs, in double precision, and check what the core saw."""
    encoder, inputs = copy.deepcopy(encoder).double(), inputs.detach().double().requires_grad_()
    signals = {name: value.double() if isinstance(value, Tensor) else value for name, value in signals.items()}
    units = torch.tensor([0, 3, 1, 2, 4, 5, 3])[: len(inputs)]
    everything = encoder(inputs, "a", **signals)
    wanted = torch.stack([everything[i, unit] for i, unit in enumerate(units)])
    seen: list[int] = []
    handle = encoder.core.register_forward_hook(lambda *_: seen.append(1))
    found = encoder.respond_paired(inputs, "a", units, **signals)
    handle.remove()
    assert (not seen) == cropped
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    weights = torch.linspace(1, 2, wanted.numel()).view_as(wanted)
    gradients = [torch.autograd.grad((x * weights).sum(), inputs)[0] for x in (wanted, found)]
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9 * float(gradients[0].abs().max()))


@pytest.mark.parametrize("core", LOCAL, ids=case)
def test_point_readouts_see_their_window_alone(core: CoreConfiguration) -> None:
    encoder, inputs = encoder_of(core), inputs_for(core, 7)
    require_equal(encoder, inputs, cropped=True)
    require_equal(encoder, inputs, cropped=True, behavior="mean", pupil_center="mean")
    time = inputs.shape[2]
    eye = torch.randn(7, 2, 1).expand(-1, -1, time) + 0.1 * torch.randn(7, 2, time)  # it moves during a movie
    with torch.no_grad():
        for parameter in encoder.shifters.parameters():
            parameter.mul_(0.3)
    require_equal(encoder, inputs, cropped=True, behavior=torch.randn(7, 1, time), pupil_center=eye)


@pytest.mark.parametrize("core", CORE_SETTINGS, ids=case)
@pytest.mark.parametrize("readout", READOUT_SETTINGS, ids=lambda readout: readout.kind())
def test_every_pair_gives_what_the_whole_frame_gives(core: CoreConfiguration, readout: Any) -> None:
    point = isinstance(readout, FullGaussian2d)
    encoder = encoder_of(core, readout)
    local = encoder.core.local_layers() is not None
    require_equal(encoder, inputs_for(core, 4), cropped=point and local, behavior="mean", pupil_center="mean")


@pytest.mark.parametrize("core", NOT_LOCAL, ids=case)
def test_cores_that_are_not_local_see_the_whole_frame(core: CoreConfiguration) -> None:
    assert encoder_of(core).core.local_layers() is None


def test_recurrent_modules_small_frames_and_training_see_the_whole_frame() -> None:
    core = Stacked2d(**THREE)
    require_equal(encoder_of(core, recurrent=ConvGRU(hidden_channels=3)), inputs_for(core, 7), cropped=False)
    wide = Stacked2d(**{**THREE, "input_kern": 21, "hidden_kern": 15})  # windows would be larger than the frame
    require_equal(encoder_of(wide), inputs_for(wide, 7), cropped=False)
    encoder = encoder_of(core).train()
    seen: list[int] = []
    encoder.core.register_forward_hook(lambda *_: seen.append(1))
    encoder.respond_paired(inputs_for(core, 7), "a", torch.arange(7) % 6)
    assert seen
