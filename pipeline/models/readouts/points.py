"""Readouts that look at one point in several resolutions of the feature maps: pooled, or as a pyramid of details."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.readouts.base import Readout, ReadoutConfiguration, ReadoutSite, UnitIndex
from pipeline.models.readouts.places import START, half_map, starting_points
from pipeline.models.readouts.sampling import weighed_at_own_point, weighed_at_points


class LevelsReadout(Readout):
    """Each unit reads one point, the same in all levels, which hold the feature maps in different resolutions.

    Attributes
    ----------
    grid : Parameter
        (unit, 2), x and y of the point; -1 and 1 are the centres of the outermost pixels of every level.
    features : Parameter
        (unit, level, channel).
    """

    def __init__(self, settings: PointPooled2d | SpatialTransformerPyramid2d, site: ReadoutSite, levels: int) -> None:
        super().__init__(site, settings.bias)
        self.gamma_readout = settings.gamma_readout
        self.size = site.height, site.width
        self.grid = nn.Parameter(starting_points(site, settings.init_range))
        self.features = nn.Parameter(torch.full((site.n_units, levels, site.in_channels), 1 / site.in_channels))

    @abstractmethod
    def levels(self, frames: Tensor) -> list[Tensor]:
        """Return the feature maps in each resolution, (frame, channel, height, width) each."""

    @abstractmethod
    def level_variances(self) -> Tensor:
        """Return the variance along x, or y, of the pixels that one pixel of each level comes from (px^2), (level,)."""

    def drive_of_frames(self, frames: Tensor, shift: Tensor | None, units: UnitIndex) -> Tensor:
        """See `Readout.drive_of_frames`."""
        points = self.grid[units].clamp(-1, 1).expand(len(frames), -1, -1)
        if shift is not None:
            points = points + shift[:, None]
        weights = self.features[units].unbind(dim=1)
        seen = zip(self.levels(frames), weights, strict=True)
        return torch.stack([weighed_at_points(level, points, w) for level, w in seen]).sum(dim=0)

    def paired_drive_of_frames(self, frames: Tensor, shift: Tensor | None, units: Tensor) -> Tensor:
        """See `Readout.paired_drive_of_frames`."""
        points = self.grid[units].clamp(-1, 1)
        points = points if shift is None else points + shift
        seen = zip(self.levels(frames), self.features[units].unbind(dim=1), strict=True)
        return torch.stack([weighed_at_own_point(level, points, w) for level, w in seen]).sum(dim=0)

    def constrain(self) -> None:
        """Bring points that an optimiser step carried out of the map back to its border."""
        with torch.no_grad():
            self.grid.clamp_(-1, 1)

    def positions(self) -> Tensor:
        """Return where units look, (unit, 2): x, y between -1 and 1, the centres of the outermost pixels."""
        return self.grid.detach().clamp(-1, 1)

    def position_spread(self) -> Tensor:
        """Return how wide units look, (unit, 2): a standard deviation in x and y.

        The variance is the mean of `level_variances`, each level by the share of its squared feature weights.
        """
        energy = self.features.detach().square().sum(dim=2) + torch.finfo(self.features.dtype).tiny
        variances = self.level_variances().to(energy)
        variance = (energy * variances).sum(dim=1) / energy.sum(dim=1)
        return variance.sqrt()[:, None] / half_map(*self.size).to(energy)

    def feature_weights(self) -> Tensor:
        """Return the length of each channel's weights over the levels, (unit, channel)."""
        return self.features.detach().norm(dim=1)

    def regularizer(self) -> dict[str, Tensor]:
        """Return the summed absolute feature weights."""
        return {"readout": self.gamma_readout * self.features.abs().sum()}


class PointPooled2dReadout(LevelsReadout):
    """Each level is the mean over squares of the one before; see `PointPooled2d`."""

    def __init__(self, settings: PointPooled2d, site: ReadoutSite) -> None:
        super().__init__(settings, site, settings.pool_steps + 1)
        self.pool_steps, self.pool_kern = settings.pool_steps, settings.pool_kern
        settings.require_maps(*self.size)

    def levels(self, frames: Tensor) -> list[Tensor]:
        """See `LevelsReadout.levels`."""
        levels = [frames]
        for _ in range(self.pool_steps):
            levels.append(F.avg_pool2d(levels[-1], self.pool_kern))
        return levels

    def level_variances(self) -> Tensor:
        """Return (n^2 - 1) / 12 for squares of n pixels, (level,)."""
        sides = torch.tensor([float(self.pool_kern**level) for level in range(self.pool_steps + 1)])
        return (sides.square() - 1) / 12


@dataclass(frozen=True)
class PointPooled2d(ReadoutConfiguration):
    """A point readout that also sees the feature maps pooled, so that points far away from their place find it.

    PointPooled2d of neuralpredictors, with the settings of Lurz et al. (2021) as defaults.
    """

    init_positions: str = setting(
        "random",
        "where points start: at random, or at the peak of each unit's response-triggered average",
        choices=START,
    )
    init_range: float = setting(0.2, "points start uniformly within plus or minus this", unit="half maps", gt=0, le=1)
    pool_steps: int = setting(2, "how often the feature maps are pooled", ge=0)
    pool_kern: int = setting(3, "side and stride of the squares over which the mean is taken", unit="px", ge=2)
    gamma_readout: float = setting(0.0207, "weight of the summed absolute feature weights", ge=0)
    bias: bool = setting(True, "a bias for each unit, starting at the drive of its mean response")

    def require_maps(self, height: int, width: int) -> None:
        """Refuse feature maps (px) that are too small to be pooled so often."""
        side = min(height, width)
        most = next(steps for steps in itertools.count() if self.pool_kern ** (steps + 1) > side)
        if self.pool_steps > most:
            raise ConfigurationError(
                f"{self.kind()}.pool_steps: {self.pool_steps} is not allowed, for feature maps of {height} x {width} "
                f"px cannot be pooled {self.pool_steps} times by {self.pool_kern}: it must be <= {most}, or use a "
                "smaller pool_kern or larger maps"
            )

    def build(self, site: ReadoutSite) -> PointPooled2dReadout:
        """Return the readout of one scan.

        Raises
        ------
        ConfigurationError
            If the feature maps are too small to be pooled so often.
        """
        return PointPooled2dReadout(self, site)


def _gaussian_taps() -> tuple[float, ...]:
    """Return a Gaussian with a standard deviation of one pixel, integrated over each of five pixels."""
    edges = [0.5 * math.erf(edge / math.sqrt(2)) for edge in (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)]
    return tuple((right - left) / (edges[-1] - edges[0]) for left, right in itertools.pairwise(edges))


FILTERS = {
    "gauss5x5": _gaussian_taps(),
    "gauss3x3": (1 / 4, 1 / 2, 1 / 4),
    "laplace5x5": (1 / 16, 1 / 4, 3 / 8, 1 / 4, 1 / 16),
}
"""Blurs of the pyramid, along one side; the filters are outer products."""


class SpatialTransformerPyramid2dReadout(LevelsReadout):
    """Each level holds the details that a blur takes away, the last one what is left; see the kind.

    Attributes
    ----------
    taps : Tensor
        (tap,), the blur along one side; a buffer that is not saved.
    """

    taps: Tensor

    def __init__(self, settings: SpatialTransformerPyramid2d, site: ReadoutSite) -> None:
        super().__init__(settings, site, settings.scale_n + 1)
        self.settings = settings
        self.register_buffer("taps", torch.tensor(FILTERS[settings.pyramid_type]), persistent=False)

    def levels(self, frames: Tensor) -> list[Tensor]:
        """See `LevelsReadout.levels`."""
        levels = []
        for _ in range(self.settings.scale_n):
            coarse = self._blurred(frames)
            levels.append(frames - (self._enlarged(coarse, *frames.shape[2:]) if self.settings.downsample else coarse))
            frames = coarse
        return [*levels, frames]

    def _filter(self, channels: int) -> Tensor:
        return torch.outer(self.taps, self.taps).expand(channels, 1, -1, -1)

    def _blurred(self, frames: Tensor) -> Tensor:
        channels, step = frames.shape[1], 2 if self.settings.downsample else 1
        return F.conv2d(frames, self._filter(channels), None, step, len(self.taps) // 2, groups=channels)

    def _enlarged(self, coarse: Tensor, height: int, width: int) -> Tensor:
        """Put zeros between the pixels and blur, so that the map has its former size and brightness."""
        channels, pad = coarse.shape[1], len(self.taps) // 2
        even = (height + 1) % 2, (width + 1) % 2
        return 4 * F.conv_transpose2d(coarse, self._filter(channels), None, 2, pad, even, channels)

    def level_variances(self) -> Tensor:
        """Return the variance of the blur that each level has gone through before its details are taken, (level,)."""
        offsets = torch.arange(len(self.taps)) - len(self.taps) // 2
        once = (self.taps.cpu() * offsets.square()).sum()
        blurs = torch.arange(self.settings.scale_n + 1)
        return once * ((4.0**blurs - 1) / 3 if self.settings.downsample else blurs)

    def constrain(self) -> None:
        """Bring points back into the map and, if weights are to be positive, these back to zero."""
        super().constrain()
        if self.settings.positive:
            with torch.no_grad():
                self.features.clamp_(min=0)


@dataclass(frozen=True)
class SpatialTransformerPyramid2d(ReadoutConfiguration):
    """A point readout of a pyramid: details of the feature maps at several scales, and the blurred rest.

    SpatialTransformerPyramid2d of attorch, PointPyramid2d of neuralpredictors (Sinz et al. 2018, Walker et al. 2019).
    """

    init_positions: str = setting(
        "random",
        "where points start: at random, or at the peak of each unit's response-triggered average",
        choices=START,
    )
    init_range: float = setting(0.1, "points start uniformly within plus or minus this", unit="half maps", gt=0, le=1)
    scale_n: int = setting(4, "levels of details", ge=1)
    pyramid_type: str = setting("gauss5x5", "blur between the levels", choices=tuple(FILTERS))
    downsample: bool = setting(True, "halve the maps from level to level")
    positive: bool = setting(False, "no negative feature weights")
    gamma_readout: float = setting(1.0, "weight of the summed absolute feature weights", ge=0)
    bias: bool = setting(True, "a bias for each unit, starting at the drive of its mean response")

    def build(self, site: ReadoutSite) -> SpatialTransformerPyramid2dReadout:
        """Return the readout of one scan."""
        return SpatialTransformerPyramid2dReadout(self, site)
