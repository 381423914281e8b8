"""How a unit's response to its MEI grows with contrast, and how it compares with what natural images reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.configuration import Configuration, setting
from pipeline.errors import DatasetError
from pipeline.mei.activation import Respond, own_responses, parts
from pipeline.mei.conditions import GREY_LEVELS

ROUNDING = 1e-6
"""Falls of the response, relative to its highest, that are those of float32 and not of the unit."""
SATURATED = 0.95
"""Share of the response's rise at which it counts as saturated."""


@dataclass(frozen=True)
class ContrastTuning(Configuration):
    """Responses to the MEI at contrasts from nearly none to the highest that the screen shows without clipping.

    As ``contrast_tuning`` of Walker et al. (2019, https://doi.org/10.1038/s41593-019-0517-x).
    """

    steps: int = setting(1000, "contrasts, equally far apart", ge=2)
    lowest: float = setting(0.01, "lowest contrast", unit="grey values", gt=0)


@dataclass(frozen=True)
class NaturalStimuli(Configuration):
    """Responses to the stimuli of the data, each shown once, under the conditions of the MEI."""

    natural_tier: str = setting(
        "every", "tier that they are from", choices=("every", "train", "validation", "test"), length=16
    )

    @property
    def tiers(self) -> tuple[str, ...]:
        """The tiers that are meant."""
        return ("train", "validation", "test") if self.natural_tier == "every" else (self.natural_tier,)


@dataclass(frozen=True)
class ContrastCurves:
    """Responses of units to their own MEIs at rising contrast. NaN for units whose MEI is flat.

    Attributes
    ----------
    contrast : ndarray
        (unit, step), root mean square difference from the MEI's mean (grey values).
    activation : ndarray
        (unit, step), responses.
    limit : ndarray
        (unit,), contrast that the MEI could have without clipping if its mean were free (grey values).
    """

    contrast: np.ndarray
    activation: np.ndarray
    limit: np.ndarray

    @property
    def monotonic(self) -> np.ndarray:
        """Whether the response never falls, by more than rounding, as contrast rises, (unit,) bool."""
        highest = np.abs(self.activation).max(axis=1, keepdims=True)
        return np.asarray((np.diff(self.activation, axis=1) >= -ROUNDING * highest).all(axis=1))

    @property
    def max_activation(self) -> np.ndarray:
        """Highest response, (unit,)."""
        return np.asarray(self.activation.max(axis=1))

    @property
    def max_contrast(self) -> np.ndarray:
        """Lowest contrast with the highest response, (unit,)."""
        return self._contrast_at(self.activation.argmax(axis=1))

    @property
    def screen_contrast(self) -> np.ndarray:
        """Contrast beyond which the screen clips the MEI, (unit,); staticnet's ``sat_contrast``."""
        return self.contrast[:, -1]

    @property
    def saturation_contrast(self) -> np.ndarray:
        """Lowest contrast at which the response has risen by `SATURATED` of its way to the highest, (unit,)."""
        start = self.activation[:, :1]
        rise = self.activation.max(axis=1, keepdims=True) - start
        return self._contrast_at((self.activation - start >= SATURATED * rise).argmax(axis=1))

    def _contrast_at(self, step: np.ndarray) -> np.ndarray:
        return np.take_along_axis(self.contrast, step[:, None], axis=1)[:, 0]


def contrast_curves(stimuli: np.ndarray, respond: Respond, settings: ContrastTuning) -> ContrastCurves:
    """Measure the responses of all units to their own MEIs at rising contrast.

    With the mean mu of each channel and the difference d from it, gains g rise in equal steps from lowest / std to
    min((255 - mu) / max d, mu / -min d), and the response to mu + g d is taken.

    Parameters
    ----------
    stimuli : ndarray
        (unit, channel[, time], height, width), grey values; one for each unit of ``respond``, in its order.
    respond : Respond
    settings : ContrastTuning
    """
    movies = torch.from_numpy(np.asarray(stimuli, dtype=np.float64))
    over = tuple(range(2, movies.dim()))
    mean = movies.mean(dim=over, keepdim=True)
    difference = movies - mean
    std = difference.flatten(1).square().mean(dim=1).sqrt()
    low, high = GREY_LEVELS
    level, top, bottom = mean.flatten(1), difference.amax(dim=over), difference.amin(dim=over)
    gain = torch.minimum((high - level) / top, (level - low) / -bottom).amin(dim=1)
    grid = torch.linspace(0, 1, settings.steps, dtype=torch.float64)
    start = settings.lowest / std
    gains = start[:, None] + grid * (gain - start)[:, None]
    flat = std == 0
    gains[flat] = 0

    owners = torch.arange(len(movies)).repeat_interleave(settings.steps)
    activation = []
    with torch.no_grad():
        for part in parts(len(owners)):
            unit = owners[part]
            factor = gains.flatten()[part].view(-1, *[1] * (movies.dim() - 1))
            scaled = (mean[unit] + factor * difference[unit]).clamp(low, high)
            activation.append(own_responses(respond, scaled.float(), unit))
    curves = torch.cat(activation).view(len(movies), -1).double().cpu().numpy()
    limit = (high - low) / (top.amax(dim=1) - bottom.amin(dim=1)) * std
    undefined = flat.numpy()
    curves[undefined] = np.nan
    contrast = np.where(undefined[:, None], np.nan, (gains * std[:, None]).numpy())
    return ContrastCurves(contrast, curves, np.where(undefined, np.nan, limit.numpy()))


@dataclass(frozen=True)
class NaturalResponses:
    """Predicted responses to the stimuli of the data, under the conditions of the MEIs; all arrays are (unit,).

    Attributes
    ----------
    best : ndarray
        Highest response.
    best_stimulus : ndarray of int
        Position of its stimulus among all that were shown.
    best_frame : ndarray of int
        Frame of the stimulus at which it is reached; 0 for images.
    mean : ndarray
        Mean over all stimuli and frames.
    std : ndarray
        Standard deviation over all stimuli and frames.
    """

    best: np.ndarray
    best_stimulus: np.ndarray
    best_frame: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def mei_ratio(self, activation: np.ndarray) -> np.ndarray:
        """Return the best natural response relative to that to the MEI, (unit,); NaN unless that is above 0."""
        return np.divide(self.best, activation, out=np.full(len(self.best), np.nan), where=np.asarray(activation) > 0)


def natural_responses(
    batches: Iterable[Tensor], respond: Callable[[Tensor, Tensor], Tensor], units: int
) -> NaturalResponses:
    """Find the stimulus of the data that drives each unit best; all units are read out together, batch after batch.

    Parameters
    ----------
    batches : iterable of Tensor
        (stimulus, channel[, time], height, width), normalised as in training.
    respond : callable
        From a batch and positions of units to the responses (stimulus, unit[, time]), of the last frames of movies;
        `pipeline.mei.activation.Responses.of_inputs` is one.
    units : int
        Number of units.

    Raises
    ------
    DatasetError
        If there are no stimuli.
    """
    every = torch.arange(units)
    best = torch.full((units,), -torch.inf, dtype=torch.float64)
    place = torch.zeros((2, units), dtype=torch.long)
    total, squares = torch.zeros((2, units), dtype=torch.float64)
    shown = values = 0
    with torch.no_grad():
        for batch in batches:
            responses = respond(batch, every).double().cpu()
            lost = batch.shape[2] - responses.shape[2] if responses.dim() == 3 else 0
            by_frame = responses.unsqueeze(2) if responses.dim() == 2 else responses
            frames = by_frame.shape[2]
            flat = by_frame.permute(0, 2, 1).reshape(-1, units)
            highest, where = flat.max(dim=0)
            better = highest > best
            best = torch.where(better, highest, best)
            here = torch.stack([shown + where // frames, lost + where % frames])
            place = torch.where(better, here, place)
            total += flat.sum(dim=0)
            squares += flat.square().sum(dim=0)
            shown, values = shown + len(batch), values + len(flat)
    if not values:
        raise DatasetError("there is no stimulus to compare MEIs with: name a tier that the data have")
    mean = total / values
    std = (squares / values - mean.square()).clamp(min=0).sqrt()
    return NaturalResponses(best.numpy(), place[0].numpy(), place[1].numpy(), mean.numpy(), std.numpy())
