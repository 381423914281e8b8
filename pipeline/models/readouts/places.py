"""Places in feature maps, in half maps: x and y between -1 and 1, the centres of the outermost pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import ConfigurationError
from pipeline.models.cores.windows import Window
from pipeline.models.readouts.base import ReadoutSite, Sight

START = ("random", "triggered_average")
"""Where a kind may start to look: anywhere, or at the peak of each unit's response-triggered average."""


def starting_points(site: ReadoutSite, init_range: float) -> Tensor:
    """Return (unit, 2): the known centres of the receptive fields, else places drawn within plus or minus the range."""
    drawn = torch.empty(site.n_units, 2).uniform_(-init_range, init_range)
    return drawn if site.centers is None else site.centers.clamp(-1, 1)


def at_points(frames: Tensor, points: Tensor) -> Tensor:
    """Return the features at points between pixels, (frame, channel, unit): bilinear, zeros outside the map.

    Parameters
    ----------
    frames : Tensor
        (frame, channel, height, width).
    points : Tensor
        (frame, unit, 2).
    """
    return F.grid_sample(frames, points.unsqueeze(2), align_corners=True).squeeze(3)


def sight_of_points(points: Tensor, height: int, width: int) -> Sight:
    """Return the window around the four pixels of each point, in all frames.

    Parameters
    ----------
    points : Tensor
        (batch, time, 2), x and y in half maps.
    height, width : int
        Of the maps.
    """
    exact = (points + 1) * (torch.tensor([width - 1, height - 1], device=points.device) / 2)
    first = exact.detach().floor().amin(dim=1)
    across, down = (int(side) for side in (exact.detach().floor().amax(dim=1) - first).amax(dim=0) + 2)
    window = Window(first[:, 1].long(), first[:, 0].long(), down, across)
    half = torch.tensor([across - 1, down - 1], device=points.device) / 2
    return Sight(window, (exact - first[:, None]) / half - 1)


def pixel_places(height: int, width: int) -> Tensor:
    """Return x and y of the pixels' centres, (height, width, 2); a map of one pixel has its centre at 0."""
    y, x = (torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1) for size in (height, width))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=2)


def half_map(height: int, width: int) -> Tensor:
    """Return half the map in pixels, x and y, (2,): by what pixels are divided; 1/2 for a side of one pixel."""
    return torch.tensor([width - 1, height - 1]).clamp(min=1) / 2


def bumps(centers: Tensor, sigma: float, height: int, width: int) -> Tensor:
    """Return the exponents of Gaussians around places, -distance^2 / (2 sigma^2), (unit, height, width)."""
    from_centre = pixel_places(height, width) - centers[:, None, None]
    return -from_centre.square().sum(dim=3) / (2 * sigma**2)


def require_size(frames: Tensor, size: tuple[int, int]) -> None:
    """Refuse feature maps of another height and width than a readout has weights for."""
    if frames.shape[2:] != size:
        raise ConfigurationError(
            f"this readout has weights for feature maps of {size[0]} x {size[1]} px, not "
            f"{frames.shape[2]} x {frames.shape[3]}: give it frames of the size that it was trained with"
        )


def moved(frames: Tensor, shift: Tensor | None) -> Tensor:
    """Return frames in which each pixel holds what lies at the shifted place: bilinear, zeros from outside the map.

    A fixed mask on these frames gives what the mask, shifted, gives on the frames as they were.

    Parameters
    ----------
    frames : Tensor
        (frame, channel, height, width).
    shift : Tensor or None
        (frame, 2); None leaves them as they are.
    """
    if shift is None:
        return frames
    places = pixel_places(*frames.shape[2:]).to(shift)
    return F.grid_sample(frames, places + shift[:, None, None], align_corners=True)


def centroid(mask: Tensor) -> Tensor:
    """Return the mean place of a mask without negative values, (unit, 2); the map's centre for a mask of zeros.

    Parameters
    ----------
    mask : Tensor
        (unit, height, width).
    """
    mean = torch.einsum("uhw,hwd->ud", _share(mask), pixel_places(*mask.shape[1:]).to(mask))
    return mean.clamp(-1, 1)  # rounding may carry a mask of one pixel beyond the border


def spread(mask: Tensor) -> Tensor:
    """Return the standard deviation around `centroid` in x and y, (unit, 2)."""
    from_centre = pixel_places(*mask.shape[1:]).to(mask) - centroid(mask)[:, None, None]
    return torch.einsum("uhw,uhwd->ud", _share(mask), from_centre.square()).sqrt()


def _share(mask: Tensor) -> Tensor:
    total = mask.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, mask / total, 1 / mask[0].numel())
