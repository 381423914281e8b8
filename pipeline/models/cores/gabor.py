"""A core that is not trained: local energies of Gabor filters, for recordings of a few hundred images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.configuration import setting
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import Core, CoreConfiguration, to_frames, to_videos
from pipeline.models.needs import Need

_PLANES: dict[int, tuple[tuple[float, ...], ...]] = {
    1: ((1.0,),),
    2: ((0.5, 0.5), (1.0, -1.0)),
    3: ((1 / 3, 1 / 3, 1 / 3), (1.0, -1.0, 0.0), (-0.5, -0.5, 1.0)),
}
"""Luminance and, below it, opponent colours as weights of the channels, by the number of channels."""

_FINEST = 8.0  # px; filters of longer waves work on frames that are averaged down as far as their wave stays longer
_TINY = 1e-12


def quadrature_pairs(wavelength: float, orientations: int, bandwidth: float) -> Tensor:
    """Return Gabor filters in pairs of phases 90 degrees apart.

    Parameters
    ----------
    wavelength : float
        In px.
    orientations : int
        Number of directions in which the waves run, evenly spaced in 180 degrees from the direction of rows, so that
        the first filter sees upright bars.
    bandwidth : float
        Standard deviation of the round Gaussian window, in wavelengths.

    Returns
    -------
    Tensor
        (2 * orientation, 1, side, side), first the even filters, then the odd ones. The even filters sum to zero, and a
        grating of amplitude 1 of their wavelength and direction has an energy of nearly 1.
    """
    sigma = bandwidth * wavelength
    reach = math.ceil(2.5 * sigma)
    row, column = torch.meshgrid(*[torch.arange(-reach, reach + 1, dtype=torch.float64)] * 2, indexing="ij")
    window = torch.exp(-(row**2 + column**2) / (2 * sigma**2))
    window = 2 * window / window.sum()
    pairs = []
    for direction in range(orientations):
        angle = math.pi * direction / orientations
        phase = 2 * math.pi * (column * math.cos(angle) + row * math.sin(angle)) / wavelength
        even = window * torch.cos(phase)
        pairs.append((even - window * even.sum() / window.sum(), window * torch.sin(phase)))
    evens, odds = zip(*pairs, strict=True)
    return torch.stack(evens + odds)[:, None].float()


class GaborEnergyCore(Core):
    """Pooled energies of quadrature pairs of Gabor filters; see the kind `GaborEnergy`."""

    def __init__(self, settings: GaborEnergy, in_channels: int) -> None:
        super().__init__()
        if in_channels not in _PLANES:
            raise ConfigurationError(
                f"{settings.kind()} knows grey, two-colour and RGB frames, not frames of {in_channels} channels"
            )
        self.settings = settings
        self.lost_frames = 0
        self.pitch = settings.pool
        planes = torch.tensor(_PLANES[in_channels])[:, :, None, None]
        self.register_buffer("planes", planes)
        self.scales = [settings.downsampling(wavelength) for wavelength in settings.wavelengths]
        for i, (wavelength, scale) in enumerate(zip(settings.wavelengths, self.scales, strict=True)):
            filters = quadrature_pairs(wavelength / scale, settings.orientations, settings.bandwidth)
            self.register_buffer(f"filters_{i}", filters)
        filtered = len(planes) if settings.opponent_energy else 1
        each_scale = filtered * settings.orientations * (2 if settings.linear else 3 if settings.simple else 1)
        self.out_channels = each_scale * len(self.scales) + len(planes) * settings.local_mean
        self.norm = nn.BatchNorm2d(self.out_channels, affine=False) if settings.batch_norm else nn.Identity()

    def forward(self, videos: Tensor) -> Tensor:
        """See `Core.forward`."""
        frames = F.conv2d(self._cropped(to_frames(videos)), self.get_buffer("planes"))
        filtered = frames if self.settings.opponent_energy else frames[:, :1]
        features = [self._filter(filtered, i, scale) for i, scale in enumerate(self.scales)]
        if self.settings.local_mean:
            features.append(F.avg_pool2d(frames, self.settings.pool))
        return to_videos(self.norm(torch.cat(features, dim=1)), batch=videos.shape[0])

    def _cropped(self, frames: Tensor) -> Tensor:
        height, width = frames.shape[-2:]
        pool = self.settings.pool
        top, left = (height % pool) // 2, (width % pool) // 2
        return frames[..., top : top + height - height % pool, left : left + width - width % pool]

    def _filter(self, planes: Tensor, i: int, scale: int) -> Tensor:
        """Return the pooled responses of the filters of one wavelength, (frame, feature, row, column)."""
        filters = self.get_buffer(f"filters_{i}")
        edge = filters.shape[-1] // 2
        small = F.avg_pool2d(planes, scale).flatten(0, 1).unsqueeze(1)
        # Repeated edge pixels: zeros would be an edge that no eye has seen.
        simple = F.conv2d(F.pad(small, [edge] * 4, mode="replicate"), filters)
        found = F.avg_pool2d(self._responses(simple), self.settings.pool // scale)
        return found.unflatten(0, planes.shape[:2]).flatten(1, 2)

    def _responses(self, simple: Tensor) -> Tensor:
        """Return what is averaged of the responses of even filters and, behind them, odd ones."""
        if self.settings.linear:
            return simple
        even, odd = simple.chunk(2, dim=1)
        energy = torch.sqrt(even.square() + odd.square() + _TINY)
        return torch.cat([energy, simple], dim=1) if self.settings.simple else energy

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Core.out_size`."""
        return height // self.settings.pool, width // self.settings.pool

    def first_place(self, height: int, width: int) -> tuple[float, float]:
        """See `Core.first_place`."""
        pool = self.settings.pool
        return height % pool // 2 + (pool - 1) / 2, width % pool // 2 + (pool - 1) / 2

    def regularizer(self) -> dict[str, Tensor]:
        """Return nothing: there are no parameters."""
        return {}


@dataclass(frozen=True)
class GaborEnergy(CoreConfiguration):
    """A core without parameters: how much of each orientation and wavelength there is at each place of a coarse grid.

    For each pair of an even and an odd Gabor filter the energy sqrt(even^2 + odd^2), as of complex cells (Adelson and
    Bergen 1985), averaged over squares of `pool` pixels, on luminance, the mean of the channels. Besides, the mean
    luminance of the squares and, of colour frames, the mean opponent colours R - G and B - (R + G) / 2 (of two
    channels, their difference). What does not fill a square is cut off evenly on all sides. Only the readout is
    trained: the honest choice for recordings of a few hundred images.
    """

    wavelengths: tuple[float, ...] = setting((4.0, 8.0, 16.0), "wavelengths of the filters", unit="px", ge=2)
    orientations: int = setting(8, "orientations of the filters, evenly spaced", ge=1)
    bandwidth: float = setting(0.5, "std of the filters' Gaussian windows", unit="wavelengths", gt=0, le=2)
    pool: int = setting(8, "side of the squares over which responses are averaged", unit="px", ge=1)
    opponent_energy: bool = setting(False, "energies of the opponent colours too")
    simple: bool = setting(False, "the signed responses of the even and odd filters too, averaged")
    linear: bool = setting(False, "averaged signed responses in the place of energies: no non-linearity is left")
    local_mean: bool = setting(True, "mean luminance and opponent colours of the squares")
    batch_norm: bool = setting(True, "features in units of their std, around their mean, as of the training batches")

    def __post_init__(self) -> None:
        """Refuse settings that leave no filter."""
        super().__post_init__()
        if not self.wavelengths:
            raise ConfigurationError(f"{self.kind()}.wavelengths is empty: give at least one")

    def needs(self) -> tuple[Need, ...]:
        """Return inputs without planes of behaviour, which would be taken for colours."""
        apart = ("none", "apart")
        return (
            Need(
                "inputs of pixels alone",
                lambda scan: not scan.plane_means,
                "use another core",
                given_by={"behavior": apart, "pupil": apart, "opto": (*apart, "behavior")},
                everywhere=True,
            ),
        )

    def downsampling(self, wavelength: float) -> int:
        """Return the power of two by which frames are averaged down before filters of this wavelength."""
        scale = 1
        while self.pool % (2 * scale) == 0 and wavelength / (2 * scale) >= _FINEST:
            scale *= 2
        return scale

    def build(self, in_channels: int) -> GaborEnergyCore:
        """Return the core for movies with ``in_channels`` channels: 1, 2 or 3."""
        return GaborEnergyCore(self, in_channels)
