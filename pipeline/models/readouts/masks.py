"""Readouts with a mask for each unit: how it weighs places, the same for all channels, times how it weighs channels."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.configuration import setting
from pipeline.models.readouts.base import Readout, ReadoutConfiguration, ReadoutSite, UnitIndex
from pipeline.models.readouts.places import START, bumps, centroid, moved, pixel_places, require_size, spread
from pipeline.models.regularization import spatial_laplace

_TINY = 1e-6


class MaskReadout(Readout):
    """The drive is the sum over places and channels of mask times feature weight times feature map.

    A shift moves the masks; the feature maps are resampled at the shifted places instead, which gives the same and is
    done once for all units.

    Attributes
    ----------
    features : Parameter
        (unit, channel).
    """

    def __init__(self, site: ReadoutSite, bias: bool) -> None:
        super().__init__(site, bias)
        self.size = site.height, site.width
        self.features = nn.Parameter(torch.empty(site.n_units, site.in_channels))

    @abstractmethod
    def masks(self, units: UnitIndex) -> Tensor:
        """Return the masks of some units, (unit, height, width)."""

    def drive_of_frames(self, frames: Tensor, shift: Tensor | None, units: UnitIndex) -> Tensor:
        """See `Readout.drive_of_frames`."""
        require_size(frames, self.size)
        pixels = moved(frames, shift).flatten(2).contiguous()  # one large product of matrices instead of one a frame
        return (F.linear(pixels, self.masks(units).flatten(1)) * self.features[units].t()).sum(dim=1)

    def paired_drive_of_frames(self, frames: Tensor, shift: Tensor | None, units: Tensor) -> Tensor:
        """See `Readout.paired_drive_of_frames`."""
        require_size(frames, self.size)
        weighed = torch.einsum("fchw,fc->fhw", moved(frames, shift), self.features[units])
        return (weighed * self.masks(units)).sum(dim=(1, 2))

    def spatial_masks(self) -> Tensor:
        """Return the masks as they weigh the feature maps, (unit, height, width)."""
        return self.masks(slice(None)).detach()

    def feature_weights(self) -> Tensor:
        """Return the weights of the channels, (unit, channel)."""
        return self.features.detach()


class FullFactorized2dReadout(MaskReadout):
    """Masks of any shape; see `FullFactorized2d`.

    Attributes
    ----------
    spatial : Parameter
        (unit, height, width), the masks before they are scaled to length 1.
    """

    def __init__(self, settings: FullFactorized2d, site: ReadoutSite) -> None:
        super().__init__(site, settings.bias)
        self.settings = settings
        noise = settings.init_noise * torch.randn(site.n_units, *self.size)
        if site.centers is not None:
            bump = bumps(site.centers.clamp(-1, 1), settings.init_sigma, *self.size).exp()
            noise = noise + bump / bump.norm(dim=(1, 2), keepdim=True)
        self.spatial = nn.Parameter(noise)
        nn.init.normal_(self.features, std=settings.init_noise)
        if settings.constrain_pos:
            with torch.no_grad():
                self.spatial.abs_()
                self.features.abs_()

    def masks(self, units: UnitIndex) -> Tensor:
        """See `MaskReadout.masks`."""
        spatial = self.spatial[units]
        if not self.settings.normalize:
            return spatial
        return spatial / (torch.linalg.vector_norm(spatial, dim=(1, 2), keepdim=True) + _TINY)

    def constrain(self) -> None:
        """Bring negative weights back to zero, if all are to be positive."""
        if self.settings.constrain_pos:
            with torch.no_grad():
                self.spatial.clamp_(min=0)
                self.features.clamp_(min=0)

    def positions(self) -> Tensor:
        """Return the mean place of the squared masks, (unit, 2): x, y between -1 and 1."""
        return centroid(self.spatial.detach().square())

    def position_spread(self) -> Tensor:
        """Return the standard deviation of the squared masks, (unit, 2): for a Gaussian, its own over sqrt(2)."""
        return spread(self.spatial.detach().square())

    def regularizer(self) -> dict[str, Tensor]:
        """Return the summed absolute products of mask and feature weights, and how rough the masks are.

        The products are those of each unit's own mask and features; neuralpredictors (0.3) multiplies the sum over all
        units' masks with the sum over all units' features.
        """
        masks = self.masks(slice(None))
        terms = {
            "readout": self.settings.gamma_readout
            * (masks.abs().sum(dim=(1, 2)) * self.features.abs().sum(dim=1)).sum()
        }
        if self.settings.gamma_smooth:
            terms["readout_smooth"] = self.settings.gamma_smooth * spatial_laplace(masks.unsqueeze(1))
        return terms


@dataclass(frozen=True)
class FullFactorized2d(ReadoutConfiguration):
    """A mask of any shape times feature weights for each unit (Klindt et al. 2017).

    FullFactorized2d of neuralpredictors, also known as SpatialXFeature; ``gamma_readout`` is its
    ``spatial_and_feature_reg_weight``. Unlike there, a shifter moves the masks.
    """

    init_positions: str = setting(
        "random",
        "masks start as noise, or as Gaussians around the peak of each unit's response-triggered average",
        choices=START,
    )
    init_sigma: float = setting(0.1, "standard deviation of those Gaussians", unit="half maps", gt=0)
    init_noise: float = setting(1e-3, "standard deviation of the noise in masks and feature weights at the start", gt=0)
    normalize: bool = setting(True, "scale each mask to a sum of squares of 1")
    constrain_pos: bool = setting(False, "no negative weights, neither in masks nor for channels")
    gamma_readout: float = setting(1.0, "weight of the summed absolute products of mask and feature weights", ge=0)
    gamma_smooth: float = setting(0.0, "weight of the roughness of the masks", ge=0)
    bias: bool = setting(True, "a bias for each unit, starting at the drive of its mean response")

    def build(self, site: ReadoutSite) -> FullFactorized2dReadout:
        """Return the readout of one scan."""
        return FullFactorized2dReadout(self, site)


class GaussianMaskReadout(MaskReadout):
    """Masks that are round Gaussians; see `GaussianMask`.

    Parameters have the names of openretina's readout. As there, lengths are in halves of the map's longer side: the
    outermost pixels lie at plus and minus 1 along it and at plus and minus the ratio of the sides along the other.

    Attributes
    ----------
    mask_mean : Parameter
        (unit, 2), x and y, times ``gaussian_mean_scale`` the middle of the mask.
    mask_log_var : Parameter
        (unit,), times ``gaussian_var_scale`` the logarithm of the variance.
    """

    extent: Tensor

    def __init__(self, settings: GaussianMask, site: ReadoutSite) -> None:
        super().__init__(site, settings.bias)
        self.settings = settings
        sides = torch.tensor([float(site.width), float(site.height)])
        self.register_buffer("extent", sides / sides.max(), persistent=False)
        centers = torch.zeros(site.n_units, 2) if site.centers is None else site.centers.clamp(-1, 1)
        self.mask_mean = nn.Parameter(centers * self.extent / settings.gaussian_mean_scale)
        log_variance = 2 * torch.tensor(settings.init_sigma).log() / settings.gaussian_var_scale
        self.mask_log_var = nn.Parameter(log_variance.repeat(site.n_units))
        nn.init.normal_(self.features, 1 / site.in_channels, 0.01)
        self.constrain()

    def _middles(self) -> Tensor:
        return self.mask_mean * self.settings.gaussian_mean_scale

    def _variances(self) -> Tensor:
        return (self.mask_log_var * self.settings.gaussian_var_scale).exp()

    def masks(self, units: UnitIndex) -> Tensor:
        """See `MaskReadout.masks`; each sums to 1."""
        places = pixel_places(*self.size).to(self.extent) * self.extent
        squares = (places - self._middles()[units][:, None, None]).square().sum(dim=3)
        exponents = -0.5 * squares / self._variances()[units][:, None, None]
        return exponents.flatten(1).softmax(dim=1).unflatten(1, self.size)

    def constrain(self) -> None:
        """Bring masks back whose middle left the map and, if weights are to be positive, these back to zero."""
        with torch.no_grad():
            farthest = self.extent / self.settings.gaussian_mean_scale
            self.mask_mean.clamp_(-farthest, farthest)
            if self.settings.positive:
                self.features.clamp_(min=0)

    def positions(self) -> Tensor:
        """Return the middles of the Gaussians, (unit, 2): x, y between -1 and 1."""
        return (self._middles().detach() / self.extent).clamp(-1, 1)

    def position_spread(self) -> Tensor:
        """Return the standard deviations of the Gaussians in x and y, (unit, 2), before the map's border cuts them."""
        return self._variances().detach().sqrt()[:, None] / self.extent

    def regularizer(self) -> dict[str, Tensor]:
        """Return the summed absolute feature weights, and the summed variances and squared places of the masks."""
        mask = self._variances().sum() + self._middles().square().sum()
        return {
            "readout": self.settings.feature_weights_l1_reg * self.features.abs().sum(),
            "readout_mask": self.settings.mask_l1_reg * mask,
        }


@dataclass(frozen=True)
class GaussianMask(ReadoutConfiguration):
    """A round Gaussian mask times feature weights for each unit, as in models of the retina (Hoefling et al. 2024).

    GaussianMaskReadout of openretina. The two scales make an optimiser's steps in place and width larger.
    """

    init_positions: str = setting(
        "center",
        "masks start in the map's centre, or at the peak of each unit's response-triggered average",
        choices=("center", "triggered_average"),
    )
    init_sigma: float = setting(
        1.0, "standard deviation of the masks at the start", unit="halves of the longer side", gt=0
    )
    gaussian_mean_scale: float = setting(6.0, "factor between the parameter of the place and the place", gt=0)
    gaussian_var_scale: float = setting(4.0, "factor between the parameter of the width and the log variance", gt=0)
    positive: bool = setting(True, "no negative feature weights")
    mask_l1_reg: float = setting(1.0, "weight of the summed variances and squared distances from the centre", ge=0)
    feature_weights_l1_reg: float = setting(1.0, "weight of the summed absolute feature weights", ge=0)
    bias: bool = setting(True, "a bias for each unit, starting at the drive of its mean response")

    def build(self, site: ReadoutSite) -> GaussianMaskReadout:
        """Return the readout of one scan."""
        return GaussianMaskReadout(self, site)
