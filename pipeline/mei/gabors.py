"""Gabor stimuli, and for each unit the one that drives it best."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.configuration import Configuration, setting
from pipeline.errors import ConfigurationError
from pipeline.mei.activation import Respond, own_responses, parts
from pipeline.mei.conditions import GREY_LEVELS

CONTRAST_ROUNDS = 4
"""Corrections of gain and offset where the screen clips a Gabor."""

NAMES = ("orientation", "phase", "wavelength", "sigma", "dy", "dx")


@dataclass(frozen=True)
class GaborSearch(Configuration):
    """A grid of Gabors that all units see, then gradient ascent from each unit's best ones.

    Grid and limits are those of ``BestGabor`` and ``OptimalGabor`` of Walker et al. (2019,
    https://doi.org/10.1038/s41593-019-0517-x), 72,800 Gabors; contrast is that of grey values, not of luminance.
    """

    orientations: tuple[float, ...] = setting(
        tuple(180 * i / 8 for i in range(8)), "orientations of the grid, 0 for horizontal stripes", unit="deg"
    )
    phases: tuple[float, ...] = setting((0.0, 90.0, 180.0, 270.0), "phases of the grid", unit="deg")
    wavelengths: tuple[float, ...] = setting((4.0, 7.0, 10.0, 15.0, 20.0), "wavelengths of the grid", unit="px", gt=0)
    sigmas: tuple[float, ...] = setting((2.0, 3.0, 5.0, 7.0, 9.0), "std of envelopes of the grid", unit="px", gt=0)
    rows: int = setting(7, "places of the grid down the screen", ge=1)
    columns: int = setting(13, "places of the grid along the screen", ge=1)
    grid_shift: float = setting(0.3, "largest shift of the grid, as a fraction of height and width", ge=0, le=1)
    max_shift: float = setting(0.35, "largest shift of the ascent, as a fraction of height and width", gt=0, le=1)
    min_wavelength: float = setting(4.0, "shortest wavelength of the ascent", unit="px", gt=0)
    max_wavelength: float = setting(20.0, "longest wavelength of the ascent", unit="px", gt=0)
    min_sigma: float = setting(2.0, "smallest std of the ascent", unit="px", gt=0)
    max_sigma: float = setting(9.0, "largest std of the ascent", unit="px", gt=0)
    contrast: float | None = setting(
        16.0, "root mean square contrast, where the screen allows it; without it, that of the MEI", unit="grey values"
    )
    mean: float | None = setting(
        None, "mean of the Gabors; without it, that of the training stimuli", unit="grey values", ge=0, le=255
    )
    starts: int = setting(3, "orientations of the grid from which each unit starts", ge=1)
    iterations: int = setting(100, "steps of the ascent", ge=0)
    step: float = setting(0.05, "length of the first step, in fractions of each parameter's range", gt=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("wavelength", "sigma"):
            if getattr(self, f"min_{name}") >= getattr(self, f"max_{name}"):
                raise ConfigurationError(f"{self.kind()}.min_{name} is not below max_{name}")
        if self.contrast is not None and self.contrast <= 0:
            raise ConfigurationError(f"{self.kind()}.contrast: {self.contrast:g} is not above 0")


@dataclass(frozen=True)
class Gabors:
    """Parameters of Gabors; all are (gabor,).

    Attributes
    ----------
    orientation : Tensor
        Degrees counter-clockwise; 0 for horizontal stripes, 90 for upright ones.
    phase : Tensor
        Of the sine in the middle of the envelope (deg). staticnet counts phases from the top of its padded canvas: add
        180 (height + 2 max(height, width) - 1) / wavelength to them.
    wavelength : Tensor
        Px.
    sigma : Tensor
        Standard deviation of the round envelope (px).
    dy, dx : Tensor
        Shift of the whole from the middle of the screen, down as a fraction of height, right of width; staticnet
        truncates to whole pixels, here fractions count.
    """

    orientation: Tensor
    phase: Tensor
    wavelength: Tensor
    sigma: Tensor
    dy: Tensor
    dx: Tensor

    def __len__(self) -> int:
        return len(self.phase)

    def __getitem__(self, chosen: slice | Tensor) -> Gabors:
        return Gabors(*(getattr(self, name)[chosen] for name in NAMES))

    def pattern(self, height: int, width: int) -> Tensor:
        """Return exp(-r^2 / (2 sigma^2)) sin(2 pi u / wavelength + phase), (gabor, height, width), -1 to 1.

        r is the distance from the middle of the envelope, u that across the stripes: downwards for orientation 0.
        """
        like = self.phase
        rows = torch.arange(height, dtype=like.dtype, device=like.device) - (height - 1) / 2
        columns = torch.arange(width, dtype=like.dtype, device=like.device) - (width - 1) / 2
        down = (rows - self.dy[:, None] * height)[:, :, None]
        right = (columns - self.dx[:, None] * width)[:, None, :]
        angle, phase = (x.deg2rad()[:, None, None] for x in (self.orientation, self.phase))
        across = right * angle.sin() + down * angle.cos()
        envelope = torch.exp(-(down**2 + right**2) / (2 * self.sigma[:, None, None] ** 2))
        return envelope * torch.sin(2 * math.pi * across / self.wavelength[:, None, None] + phase)

    def canonical(self) -> Gabors:
        """Return the same Gabors with orientations of 0 to 180 and phases of 0 to 360 degrees."""
        angle = _angle(self.orientation)
        phase = _angle(torch.where(angle >= 180, 180 - self.phase, self.phase))
        return Gabors(angle.where(angle < 180, angle - 180), phase, self.wavelength, self.sigma, self.dy, self.dx)


def gabor_images(gabors: Gabors, height: int, width: int, mean: float, contrast: Tensor | float) -> Tensor:
    """Return Gabors as the screen shows them, (gabor, height, width) in grey values.

    Where the screen clips them, gain and offset are corrected `CONTRAST_ROUNDS` times in proportion to what is missing.

    Parameters
    ----------
    gabors : Gabors
    height, width : int
    mean : float
        Mean of each image (grey values).
    contrast : Tensor or float
        Root mean square contrast of each, (gabor,), or of all (grey values).
    """
    pattern = gabors.pattern(height, width)
    centred = pattern - pattern.mean(dim=(1, 2), keepdim=True)
    wanted = torch.as_tensor(contrast, dtype=pattern.dtype, device=pattern.device).expand(len(pattern))[:, None, None]
    gain, offset = wanted / _std(centred), torch.zeros_like(centred[:, :1, :1])
    for _ in range(CONTRAST_ROUNDS):
        shown = (mean + offset + gain * centred).clamp(*GREY_LEVELS)
        gain, offset = gain * wanted / _std(shown), offset + mean - shown.mean(dim=(1, 2), keepdim=True)
    return (mean + offset + gain * centred).clamp(*GREY_LEVELS)


@dataclass(frozen=True)
class OptimalGabors:
    """The Gabor that drives each unit best.

    Attributes
    ----------
    gabors : Gabors
        (unit,), in the ranges of `Gabors.canonical`.
    images : ndarray of float32
        (unit, height, width), grey values.
    activation : ndarray
        (unit,), responses.
    grid_activation : ndarray
        (unit,), responses to the best Gabors of the grid.
    contrast : ndarray
        (unit,), root mean square contrast that the screen allowed (grey values).
    """

    gabors: Gabors
    images: np.ndarray
    activation: np.ndarray
    grid_activation: np.ndarray
    contrast: np.ndarray


class _Screen:
    """Shows Gabors to units."""

    def __init__(
        self, respond: Respond, shape: tuple[int, ...], mean: float, contrast: np.ndarray, dtype: torch.dtype
    ) -> None:
        self._respond, self._shape, self._mean = respond, shape, mean
        self._contrast = torch.as_tensor(contrast, dtype=dtype)
        self.size = shape[-2:]

    def images(self, gabors: Gabors, contrast: Tensor | float) -> Tensor:
        height, width = self._shape[-2:]
        return gabor_images(gabors, height, width, self._mean, contrast)

    def _stimuli(self, images: Tensor) -> Tensor:
        return images.view(-1, *[1] * (len(self._shape) - 2), *self._shape[-2:]).expand(-1, *self._shape)

    def every(self, gabors: Gabors, contrast: float, units: Tensor) -> Tensor:
        """Responses of units to all Gabors, (gabor, unit)."""
        found = [
            self._respond(self._stimuli(self.images(gabors[part], contrast)), units) for part in parts(len(gabors))
        ]
        return torch.cat(found)

    def own(self, gabors: Gabors, owners: Tensor) -> Tensor:
        """Responses of each Gabor's own unit, at that unit's contrast."""
        return own_responses(self._respond, self._stimuli(self.images(gabors, self._contrast[owners])), owners)

    def of_units(self, gabors: Gabors) -> tuple[np.ndarray, np.ndarray]:
        """The images of one Gabor a unit, and their contrasts."""
        images = self.images(gabors, self._contrast)
        return images.float().numpy(), _std(images)[:, 0, 0].numpy()

    def contrasts(self) -> list[tuple[float, Tensor]]:
        """Each contrast with the positions of its units."""
        return [(float(value), torch.nonzero(self._contrast == value)[:, 0]) for value in self._contrast.unique()]


def optimal_gabors(
    respond: Respond, shape: tuple[int, ...], contrast: np.ndarray, mean: float, settings: GaborSearch
) -> OptimalGabors:
    """Find the Gabor that drives each unit best: all units see the grid together, and ascend side by side.

    The best Gabor of each orientation of the grid is kept; from the ``starts`` best of these, Adam (Kingma and Ba 2015)
    ascends in parameters that sigmoids keep within their limits, with steps that shrink to nothing along a cosine. The
    best Gabor met is returned, never the last.

    Parameters
    ----------
    respond : Respond
    shape : tuple of int
        (channel[, time], height, width) of a stimulus; all channels and frames show the Gabor.
    contrast : ndarray
        (unit,), root mean square contrast of each unit's Gabors (grey values). Units with the same contrast share the
        grid.
    mean : float
        Of all Gabors (grey values).
    settings : GaborSearch
        Its ``contrast`` and ``mean`` are not looked at.

    Raises
    ------
    ConfigurationError
        If a contrast is not a number above 0; the message tells the position of the unit.
    """
    contrast = np.asarray(contrast, dtype=np.float64)
    if len(bad := np.flatnonzero(~(contrast > 0))):
        raise ConfigurationError(f"unit {bad[0]} has a contrast of {contrast[bad[0]]:g}: Gabors need one above 0")
    dtype = torch.get_default_dtype()
    screen = _Screen(respond, shape, mean, contrast, dtype)
    best, response = _best_of_grid(screen, len(contrast), settings, dtype)
    starts = min(settings.starts, response.shape[1])
    order = response.topk(starts, dim=1).indices.flatten()  # orientations, the best first
    owners = torch.arange(len(contrast)).repeat_interleave(starts)
    climbed, highest = _ascend(screen, best[owners, order], response[owners, order], owners, settings)
    winner = highest.view(-1, starts).argmax(dim=1) + starts * torch.arange(len(contrast))
    gabors = Gabors(*climbed[winner].T).canonical()
    images, reached = screen.of_units(gabors)
    return OptimalGabors(
        gabors, images, highest[winner].numpy(), response.amax(dim=1).numpy(), reached.astype(np.float64)
    )


def _grid(settings: GaborSearch, orientation: float, dtype: torch.dtype) -> Tensor:
    """Return the parameters of the grid's Gabors of one orientation, (gabor, parameter) as in `NAMES`."""
    shift = settings.grid_shift
    down = torch.linspace(-shift, shift, settings.rows).tolist() if settings.rows > 1 else [0.0]
    right = torch.linspace(-shift, shift, settings.columns).tolist() if settings.columns > 1 else [0.0]
    combined = itertools.product([orientation], settings.phases, settings.wavelengths, settings.sigmas, down, right)
    return torch.tensor(list(combined), dtype=dtype)


def _best_of_grid(screen: _Screen, units: int, settings: GaborSearch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the best Gabor of each unit and orientation (unit, orientation, parameter), and the responses."""
    best = torch.empty((units, len(settings.orientations), len(NAMES)), dtype=dtype)
    response = torch.empty((units, len(settings.orientations)), dtype=dtype)
    with torch.no_grad():
        for index, orientation in enumerate(settings.orientations):
            grid = _grid(settings, orientation, dtype)
            for contrast, sharing in screen.contrasts():
                highest, where = screen.every(Gabors(*grid.T), contrast, sharing).cpu().max(dim=0)
                best[sharing, index], response[sharing, index] = grid[where], highest.to(dtype)
    return best, response


def _ascend(
    screen: _Screen, start: Tensor, response: Tensor, owners: Tensor, settings: GaborSearch
) -> tuple[Tensor, Tensor]:
    """Return the best Gabors met on the way up, (gabor, parameter), and their responses."""
    limits = {
        "wavelength": (settings.min_wavelength, settings.max_wavelength),
        "sigma": (settings.min_sigma, settings.max_sigma),
        "dy": (-settings.max_shift, settings.max_shift),
        "dx": (-settings.max_shift, settings.max_shift),
    }
    low, span = torch.tensor([[limits[n][0], limits[n][1] - limits[n][0]] for n in NAMES[2:]], dtype=start.dtype).T
    turn = torch.tensor([180.0, 360.0], dtype=start.dtype)

    # The envelope moves over stripes that stay: were phase that of the envelope's middle, a Gabor beside the best one,
    # with its stripes in the right place, could only reach it through worse ones.
    anchor, size = start[:, 4:], torch.tensor(screen.size, dtype=start.dtype)

    def parameters(free: Tensor, part: slice) -> Tensor:
        angle, phase = (free[:, :2] * turn).T
        wavelength, sigma, *shift = (low + span * torch.sigmoid(4 * free[:, 2:])).T
        down, right = ((torch.stack(shift, dim=1) - anchor[part]) * size).T
        moved = down * angle.deg2rad().cos() + right * angle.deg2rad().sin()
        return torch.stack([angle, phase + 360 * moved / wavelength, wavelength, sigma, *shift], dim=1)

    inside = ((start[:, 2:] - low) / span).clamp(0.02, 0.98)  # at a limit, the sigmoid has no slope
    free = torch.cat([start[:, :2] / turn, torch.logit(inside) / 4], dim=1).requires_grad_(True)
    best, highest = start.clone(), response.clone()
    optimizer = torch.optim.Adam([free], lr=settings.step, betas=(0.8, 0.99), maximize=True)
    for iteration in range(settings.iterations + 1):
        gradient = torch.zeros_like(free)
        for part in parts(len(owners)):
            some = free.detach()[part].requires_grad_(True)
            shown = parameters(some, part)
            reached = screen.own(Gabors(*shown.T), owners[part])
            (gradient[part],) = torch.autograd.grad(reached.sum(), some)
            reached = reached.detach().to(highest)
            better = reached > highest[part]
            highest[part] = torch.where(better, reached, highest[part])
            best[part] = torch.where(better[:, None], shown.detach(), best[part])
        if iteration < settings.iterations:
            optimizer.param_groups[0]["lr"] = (
                settings.step * (1 + math.cos(math.pi * iteration / settings.iterations)) / 2
            )
            free.grad = gradient
            optimizer.step()
    return best, highest


def _angle(degrees: Tensor) -> Tensor:
    """Return angles of 0 to below 360 degrees."""
    angle = torch.remainder(degrees, 360)
    return angle.where(angle < 360, 0)  # that of a tiny negative number rounds to 360 itself


def _std(images: Tensor) -> Tensor:
    """Standard deviation of each image, with a gradient for flat ones too."""
    variance = images.var(dim=(1, 2), correction=0, keepdim=True)
    return variance.clamp(min=1e-12).sqrt()
