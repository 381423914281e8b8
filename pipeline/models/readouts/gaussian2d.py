"""Readouts that look at one point of the feature maps, drawn from a Gaussian while they train."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.configuration import setting
from pipeline.models.readouts.base import Readout, ReadoutConfiguration, ReadoutSite, UnitIndex


class FullGaussian2dReadout(Readout):
    """Each unit reads one point of the feature maps, drawn from its Gaussian while training; see `FullGaussian2d`.

    Parameters have the names of neuralpredictors' readout of the same name.

    Attributes
    ----------
    mu : Parameter
        (unit, 2), means in x, y; -1 and 1 are the centres of the outermost pixels.
    sigma : Parameter
        (unit, 2, 2), (unit, 2) or (unit, 1) for a full, uncorrelated or isotropic Gaussian: the matrix (or scale) that
        multiplies standard normal noise.
    features : Parameter
        (unit, channel).
    bias : Parameter
        (unit,), if the configuration has one.

    References
    ----------
    Lurz et al. (2021), Generalization in data-driven models of primary visual cortex, ICLR.
    """

    def __init__(self, settings: FullGaussian2d, site: ReadoutSite) -> None:
        super().__init__()
        self.settings = settings
        units = site.n_units
        shape = {"full": (units, 2, 2), "uncorrelated": (units, 2), "isotropic": (units, 1)}[settings.gauss_type]
        start = torch.empty(units, 2).uniform_(-settings.init_mu_range, settings.init_mu_range)
        self.mu = nn.Parameter(start if site.centers is None else site.centers.clamp(-1, 1))
        self.sigma = nn.Parameter(torch.empty(shape))
        if settings.gauss_type == "full":
            nn.init.uniform_(self.sigma, -settings.init_sigma, settings.init_sigma)
        else:
            nn.init.constant_(self.sigma, settings.init_sigma)
        self.features = nn.Parameter(torch.full((units, site.in_channels), 1 / site.in_channels))
        self.bias = nn.Parameter(site.mean_drive.clone()) if settings.bias else None

    def forward(self, features: Tensor, shift: Tensor | None = None, unit_idx: UnitIndex | None = None) -> Tensor:
        """Return the drive of each unit.

        Parameters
        ----------
        features : Tensor
            (batch, channel, time, height, width).
        shift : Tensor, optional
            (batch, time, 2), added to all positions of a frame, x and y in units of half the feature map. A point that
            is shifted out of the map reads zeros.
        unit_idx : sequence of int, Tensor or slice, optional
            Evaluate only these units.

        Returns
        -------
        Tensor
            (batch, unit, time).
        """
        batch, channel, time, height, width = features.shape
        units = slice(None) if unit_idx is None else unit_idx
        weights = self.features[units]
        grid = self._points(batch * time, units)
        if shift is not None:
            grid = grid + shift.reshape(batch * time, 1, 2)
        frames = features.permute(0, 2, 3, 4, 1).reshape(batch * time, height, width, channel).permute(0, 3, 1, 2)
        seen = F.grid_sample(frames, grid.unsqueeze(2), align_corners=True).squeeze(3)
        drive = (seen * weights.t()).sum(dim=1)
        if self.bias is not None:
            drive = drive + self.bias[units]
        return drive.unflatten(0, (batch, time)).transpose(1, 2)

    def _points(self, frames: int, units: UnitIndex) -> Tensor:
        """Return points (frame, unit, 2) inside the map: sampled for each frame in training, otherwise the means."""
        mean = self.mu[units]
        if not self.training:
            return mean.clamp(-1, 1).expand(frames, -1, -1)
        noise = torch.randn(frames, *mean.shape, device=mean.device, dtype=mean.dtype)
        sigma = self.sigma[units]
        full = self.settings.gauss_type == "full"
        offsets = (sigma @ noise.unsqueeze(3)).squeeze(3) if full else sigma * noise
        return (mean.clamp(-1, 1) + offsets).clamp(-1, 1)

    def constrain(self) -> None:
        """Bring means that an optimiser step carried out of the map back to its border."""
        with torch.no_grad():
            self.mu.clamp_(-1, 1)

    def positions(self) -> Tensor:
        """Return where units look, (unit, 2): x, y between -1 and 1, the centres of the outermost pixels."""
        return self.mu.detach().clamp(-1, 1)

    def position_spread(self) -> Tensor:
        """Return the standard deviation of the sampled positions in x and y, (unit, 2), before clamping to the map."""
        sigma = self.sigma.detach()
        if self.settings.gauss_type == "full":
            return sigma.square().sum(dim=2).sqrt()
        return sigma.abs().expand(-1, 2)

    def feature_weights(self) -> Tensor:
        """Return the weights of the channels, (unit, channel)."""
        return self.features.detach()

    def regularizer(self) -> dict[str, Tensor]:
        """Return the summed absolute feature weights."""
        return {"readout": self.settings.gamma_readout * self.features.abs().sum()}


@dataclass(frozen=True)
class FullGaussian2d(ReadoutConfiguration):
    """A point readout whose position is learned as a Gaussian: sampled while training, its mean otherwise."""

    init_positions: str = setting(
        "random",
        "where means start: at random, or at the peak of each unit's response-triggered average",
        choices=("random", "triggered_average"),
    )
    init_mu_range: float = setting(0.3, "means start uniformly within plus or minus this", unit="half maps", gt=0, le=1)
    init_sigma: float = setting(
        0.3, "start of the spread: the constant, or the range of the matrix", unit="half maps", gt=0
    )
    gauss_type: str = setting("isotropic", "shape of the Gaussian", choices=("full", "uncorrelated", "isotropic"))
    gamma_readout: float = setting(0.0076, "weight of the summed absolute feature weights", ge=0)
    bias: bool = setting(True, "a bias for each unit, starting at the drive of its mean response")

    @property
    def needs_centers(self) -> bool:
        """Whether means start at the peak of the response-triggered average."""
        return self.init_positions == "triggered_average"

    def build(self, site: ReadoutSite) -> FullGaussian2dReadout:
        """Return the readout of one scan."""
        return FullGaussian2dReadout(self, site)
