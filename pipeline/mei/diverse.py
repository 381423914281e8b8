"""Stimuli that drive a unit nearly as well as its MEI, and are as different from one another as that allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.configuration import Configuration, setting
from pipeline.mei.activation import Respond, own_responses
from pipeline.mei.conditions import GREY_LEVELS
from pipeline.mei.constraints import NormWithinRange, norms
from pipeline.mei.masks import fit_gaussians
from pipeline.mei.objectives import similarities
from pipeline.mei.optimizer import Recipe, optimise
from pipeline.mei.smoothing import GaussianBlur, Linear
from pipeline.mei.starts import Given
from pipeline.mei.steps import Plateau, Scheduled

STIMULI_AT_ONCE = 64
"""Stimuli that are optimised side by side."""
_SHARPNESS = 0.1
"""Similarities closer to the highest than this count beside it."""
_PRICE = 5.0
"""Similarity that is worth the whole of the MEI's response; above the exchange rate of units, none lacks any."""
_MARGIN = 0.005
"""Share of the MEI's response by which stimuli are kept above what is asked, for ascent ends on either side of it."""


@dataclass(frozen=True)
class DiverseStimuli(Configuration):
    """Sets of stimuli that keep a share of the MEI's response and are as different as possible.

    The highest similarity within a set is lowered while every stimulus keeps the share, at the contrast of the MEI;
    they start at the MEI with noise. After Cadena et al. (2018, Diverse feature visualizations reveal invariances in
    early layers of deep neural networks) and Ding et al. (2023, Bipartite invariance in mouse primary visual cortex).
    """

    set_size: int = setting(6, "stimuli of a set", ge=2)
    share: float = setting(0.85, "response that each keeps, relative to that to the MEI", gt=0, lt=1)
    metric: str = setting("correlation", "how similarity is measured", choices=("correlation", "cosine"))
    masked: bool = setting(True, "look for differences where the MEI is, in the mask of its Gaussian fit")
    start_noise: float = setting(1.0, "std of the noise in the start, in those of the MEI", gt=0)
    blur_start: float = setting(1.0, "std of the Gaussian that blurs the first gradient; 0 for none", unit="px", ge=0)
    iterations: int = setting(300, "steps", ge=1)
    step_start: float = setting(0.1, "length of the first step, as a fraction of the norm", gt=0)
    step_end: float = setting(0.002, "length of the last step, as a fraction of the norm", gt=0)
    diverse_seed: int = setting(0, "seed of the noise", ge=0)


@dataclass(frozen=True)
class DiverseSets:
    """Sets of stimuli, one for each unit.

    Attributes
    ----------
    stimuli : ndarray of float32
        (unit, stimulus, channel, time, height, width), grey values; the most exciting first.
    activation : ndarray
        (unit, stimulus), responses.
    similarity : ndarray
        (unit, stimulus, stimulus), where the differences were looked for.
    kept : ndarray of bool
        (unit,), whether all stimuli keep the share that was asked.
    """

    stimuli: np.ndarray
    activation: np.ndarray
    similarity: np.ndarray
    kept: np.ndarray

    @property
    def mean_similarity(self) -> np.ndarray:
        """Mean over pairs, (unit,)."""
        first, second = np.triu_indices(self.similarity.shape[1], 1)
        return np.asarray(self.similarity[:, first, second].mean(axis=1))


def diverse_sets(
    stimuli: np.ndarray, activation: np.ndarray, respond: Respond, grey: float, settings: DiverseStimuli
) -> DiverseSets:
    """Find a set of stimuli for each unit; all units and stimuli are optimised side by side.

    Parameters
    ----------
    stimuli : ndarray
        (unit, channel, time, height, width), MEIs in grey values that differ from mean grey.
    activation : ndarray
        (unit,), responses to them, above 0.
    respond : Respond
        Of these units.
    grey : float
        Mean grey.
    settings : DiverseStimuli
    """
    size = max(1, STIMULI_AT_ONCE // settings.set_size)
    parts = [np.arange(first, min(first + size, len(stimuli))) for first in range(0, len(stimuli), size)]
    found = [_part(stimuli[part], activation[part], part, respond, grey, settings) for part in parts]
    return DiverseSets(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def _part(
    meis: np.ndarray, activation: np.ndarray, units: np.ndarray, respond: Respond, grey: float, settings: DiverseStimuli
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    count = settings.set_size
    movies = torch.from_numpy(np.asarray(meis, dtype=np.float32)) - grey
    contrast = norms(movies)
    objective = _DifferentEnough(movies, activation, units, respond, grey, settings)
    low, high = ((level - grey) / contrast.repeat_interleave(count, dim=0) for level in GREY_LEVELS)
    unit_norm = movies / contrast
    start = unit_norm.repeat_interleave(count, dim=0) + _noise(unit_norm, settings)
    recipe = Recipe(
        Given(start),
        Scheduled(Linear(settings.step_start, settings.step_end)),
        # Objective and range are those of all stimuli, so none leaves before the others.
        Plateau(settings.iterations, 0.0, ends=False),
        settings.iterations,
        constraints=(NormWithinRange(1.0, low, high),),
        smooth_gradient=(GaussianBlur(Linear(settings.blur_start, 0.0)),),
    )
    best = optimise(objective, recipe, start).stimuli
    with torch.no_grad():
        responses, alike = objective.responses(best), objective.alike(best)
    order = responses.argsort(dim=1, descending=True)
    sets = objective.grey_values(best).clamp(*GREY_LEVELS).unflatten(0, (-1, count))
    at = torch.arange(len(sets))[:, None]
    responses = responses[at, order]
    kept = responses.amin(dim=1) >= settings.share * torch.from_numpy(np.asarray(activation, dtype=np.float32))
    alike = alike[at[:, :, None], order[:, :, None], order[:, None]]
    return sets[at, order].numpy(), responses.numpy(), alike.numpy(), kept.numpy()


class _DifferentEnough:
    """Minus the highest similarity within a set, and minus what its stimuli lack of the response that they must keep.

    All stimuli of a set, which are neighbours, get one value.
    """

    def __init__(
        self,
        movies: Tensor,
        activation: np.ndarray,
        units: np.ndarray,
        respond: Respond,
        grey: float,
        settings: DiverseStimuli,
    ) -> None:
        self._count, self._metric, self._grey, self._respond = settings.set_size, settings.metric, grey, respond
        self._owners = torch.from_numpy(units).repeat_interleave(settings.set_size)
        self._full = torch.from_numpy(np.asarray(activation, dtype=np.float32))[:, None]
        self._contrast = norms(movies).repeat_interleave(settings.set_size, dim=0)
        self._wanted = min(settings.share + _MARGIN, 1.0)
        self._mask = torch.ones(len(movies), 1, *movies.shape[-2:])
        if settings.masked:
            masks = fit_gaussians((movies + grey).numpy()).mask(*movies.shape[-2:])
            self._mask = torch.from_numpy(np.nan_to_num(masks, nan=1.0).astype(np.float32))[:, None]

    def __call__(self, stimuli: Tensor, index: Tensor) -> Tensor:
        """Return the value of each stimulus's set."""
        first, second = torch.triu_indices(self._count, self._count, 1)
        pairs = self.alike(stimuli)[:, first, second]
        highest = _SHARPNESS * torch.logsumexp(pairs / _SHARPNESS, dim=1)
        lacking = (self._wanted - self.responses(stimuli) / self._full).clamp(min=0).sum(dim=1)
        return (-highest - _PRICE * lacking).repeat_interleave(self._count)

    def responses(self, stimuli: Tensor) -> Tensor:
        """Return the responses, (unit, stimulus)."""
        shown = self.grey_values(stimuli)
        return own_responses(self._respond, shown, self._owners).unflatten(0, (-1, self._count))

    def grey_values(self, stimuli: Tensor) -> Tensor:
        """Return stimuli of norm 1 at the contrast of their MEIs."""
        return stimuli * self._contrast + self._grey

    def alike(self, stimuli: Tensor) -> Tensor:
        """Return the similarities of each set, (unit, stimulus, stimulus)."""
        sets = stimuli.unflatten(0, (-1, self._count))
        seen = sets * self._mask[:, :, None, None]
        return similarities(seen.flatten(2), self._metric)


def _noise(movies: Tensor, settings: DiverseStimuli) -> Tensor:
    """Return noise for each stimulus of each set, the same for all units, in the std of each unit's MEI."""
    random = torch.Generator().manual_seed(settings.diverse_seed)
    drawn = torch.randn(settings.set_size, *movies.shape[1:], generator=random)
    std = movies.std(dim=(1, 2, 3, 4), keepdim=True)
    return settings.start_noise * (drawn[None] * std[:, None]).flatten(0, 1)
