"""Networks that training is measured with: ours, and the same of plain modules, which start with the same weights."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.datasets.info import ScanInfo
from pipeline.legacy import neuralpredictors_module
from pipeline.models import Encoder, FullGaussian2d, Network, build_encoder
from pipeline.models.cores import Factorized3d, Stacked2d
from pipeline.models.regularization import group_sparsity, spatial_laplace, temporal_laplace
from pipeline.presets import preset

DATA_KEY = "scan"


@dataclass(frozen=True)
class Task:
    """What is trained on: published networks and data of these sizes.

    Attributes
    ----------
    batch, units : int
    frames : int
        Of a clip of a movie; 0 for still images.
    channels : tuple of int
        Of each layer of the core; of images, one number for all layers.
    depth_separable : bool
        Whether the hidden layers are; of images only.
    height, width : int
        Pixels.
    """

    batch: int
    units: int
    frames: int
    channels: tuple[int, ...]
    depth_separable: bool = True
    height: int = 36
    width: int = 64

    @property
    def items(self) -> int:
        """Images, or frames of movies, in a batch."""
        return self.batch * max(1, self.frames)

    def network(self) -> Network:
        """Return the configuration: the preset's core, and means of the Gaussians learned for each unit by itself."""
        readout = FullGaussian2d(init_mu_range=0.3, init_sigma=0.1, gauss_type="full", gamma_readout=0.0076)
        core: Any
        if self.frames:
            core = preset("sensorium2023_factorized").network.core
            core = dataclasses.replace(core, hidden_channels=self.channels)
        else:
            core, channels = preset("lurz2020").network.core, self.channels[0]
            core = dataclasses.replace(core, hidden_channels=channels, depth_separable=self.depth_separable)
        return Network(core, readout=readout)

    def encoder(self) -> Encoder:
        """Return our encoder, always with the same weights."""
        rate = 30.0 if self.frames else None
        scan = ScanInfo(tuple(range(self.units)), (1, self.height, self.width), (1.0,) * self.units, frame_rate=rate)
        return build_encoder(self.network(), {DATA_KEY: scan}, seed=1)

    def batches(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Return stimuli and responses, always the same."""
        random = torch.Generator().manual_seed(2)
        time = (self.frames,) if self.frames else ()
        return [
            (
                torch.randn(self.batch, 1, *time, self.height, self.width, generator=random),
                torch.empty(self.batch, self.units, *time).exponential_(generator=random),
            )
            for _ in range(count)
        ]


def plain_network(task: Task, ours: Encoder) -> nn.Module:
    """Return the same network of plain modules, with the weights of ours.

    Images: neuralpredictors' core, readout and encoder. Movies: the factorised core of Sensorium 2023, of which
    neuralpredictors 0.3 has none, and neuralpredictors' readout of all frames at once.
    """
    readouts = neuralpredictors_module("layers.readouts")
    core: Any = _PlainFactorized3d(task) if task.frames else _plain_stacked2d(task)
    height, width = ours.core.out_size(task.height, task.width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on biases without mean responses; they are copied
        readout = readouts.MultiReadoutSharedParametersBase(
            in_shape_dict={DATA_KEY: (task.channels[-1], height, width)},
            n_neurons_dict={DATA_KEY: task.units},
            base_readout=readouts.FullGaussian2d,
            bias=True,
            gauss_type="full",
            feature_reg_weight=0.0076,
        )
    if task.frames:
        core.load_state_dict(_renamed(ours.core.state_dict()))
    else:
        core.features.load_state_dict(ours.core.get_submodule("features").state_dict())
    theirs, weights = readout[DATA_KEY], ours.readouts[DATA_KEY].state_dict()
    with torch.no_grad():
        theirs._mu.copy_(weights["mu"][None, :, None])
        theirs.sigma.copy_(weights["sigma"][None])
        theirs._features.copy_(weights["features"].t()[None, :, None])
        theirs.bias.copy_(weights["bias"])
    if task.frames:
        return _PlainMovieEncoder(core, readout)
    encoder: nn.Module = neuralpredictors_module("layers.encoders").FiringRateEncoder(core, readout)
    return encoder


def _plain_stacked2d(task: Task) -> nn.Module:
    settings = task.network().core
    assert isinstance(settings, Stacked2d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on depth-separable layers, which have no group sparsity
        core: nn.Module = neuralpredictors_module("layers.cores").Stacked2dCore(
            input_channels=1,
            hidden_channels=settings.hidden_channels,
            input_kern=settings.input_kern,
            hidden_kern=settings.hidden_kern,
            layers=settings.layers,
            gamma_input=settings.gamma_input,
            pad_input=False,
            bias=False,
            momentum=settings.momentum,
            stack=-1,
            depth_separable=settings.depth_separable,
            input_regularizer="LaplaceL2norm",
            laplace_padding=None,
            use_avg_reg=False,
        )
    return core


class _PlainFactorized3d(nn.Module):
    """Three-dimensional convolutions over space, then over time, batch normalisation and ELU; the standard layout."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        settings = task.network().core
        assert isinstance(settings, Factorized3d)
        self.settings = settings
        self.layers = nn.Sequential()
        channels = (1, *settings.hidden_channels)
        for index, (side, length) in enumerate(zip(settings.spatial_kernels, settings.temporal_kernels, strict=True)):
            layer = nn.Sequential()
            received, made = channels[index : index + 2]
            layer.add_module("spatial", nn.Conv3d(received, made, (1, side, side), bias=False))
            layer.add_module("temporal", nn.Conv3d(made, made, (length, 1, 1), bias=False))
            layer.add_module("norm", nn.BatchNorm3d(made, momentum=settings.momentum))
            layer.add_module("nonlinearity", nn.ELU())
            self.layers.append(layer)

    def forward(self, videos: Tensor) -> Tensor:
        features: Tensor = self.layers(videos)
        return features

    def regularizer(self) -> Tensor:
        spatial, temporal = ([getattr(layer, of).weight for layer in self.layers] for of in ("spatial", "temporal"))
        sparse = [group_sparsity(weight.flatten(2).unsqueeze(3)) for weight in (*spatial[1:], *temporal[1:])]
        return (
            self.settings.gamma_input_spatial * spatial_laplace(spatial[0].squeeze(2))
            + self.settings.gamma_input_temporal * temporal_laplace(temporal[0].squeeze(4))
            + self.settings.gamma_hidden * torch.stack(sparse).mean()
        )


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of our factorised core by the names, and in the shapes, of the plain one."""
    renamed = {}
    for name, value in state.items():
        # first.spatial.weight and hidden.0.spatial.weight become layers.0.spatial.weight and layers.1.spatial.weight.
        *where, part, parameter = name.split(".")
        layer = int(where[1]) + 1 if where[0] == "hidden" else 0
        if value.dim() == 4:
            value = value.unsqueeze(2 if part == "spatial" else 4)
        renamed[f"layers.{layer}.{part}.{parameter}"] = value
    return renamed


class _PlainMovieEncoder(nn.Module):
    """Folds time into the batch for the readout, as the encoder of Sensorium 2023 does."""

    def __init__(self, core: nn.Module, readout: nn.Module) -> None:
        super().__init__()
        self.core = core
        self.readout = readout

    def forward(self, videos: Tensor, data_key: str) -> Tensor:
        features = self.core(videos).transpose(1, 2)
        batch, time = features.shape[:2]
        drive = self.readout(features.flatten(0, 1), data_key=data_key)
        rates = nn.functional.elu(drive) + 1
        return rates.unflatten(0, (batch, time)).transpose(1, 2)

    def regularizer(self, data_key: str) -> Tensor:
        total: Tensor = self.core.regularizer() + self.readout.regularizer(data_key=data_key)
        return total
