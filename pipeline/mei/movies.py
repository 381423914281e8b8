"""Most exciting movies of many units at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.mei.settings import Movie
from pipeline.models.base import EncodingModel
from pipeline.models.encoder import Signal

GREY_LEVELS = (0.0, 255.0)
UNITS_AT_ONCE = 64
"""Movies in one pass through the network, which bounds its memory: each pass evaluates all its units on each movie."""


@dataclass(frozen=True)
class MovieMEIs:
    """The best movies met, one for each unit.

    Attributes
    ----------
    movies : ndarray of float32
        (unit, channel, time, height, width) in grey values, 0 to 255; pixels only.
    activation : ndarray
        (unit,) predicted response to the last frame, in normalised responses.
    grey_activation : ndarray
        (unit,) predicted response to mean grey.
    best_iteration : ndarray of int
        (unit,) step at which the movie was met.
    converged : ndarray of bool
        (unit,) whether the response had stopped rising before the last step.
    trajectory : ndarray
        (unit, iteration) response at each step.
    """

    movies: np.ndarray
    activation: np.ndarray
    grey_activation: np.ndarray
    best_iteration: np.ndarray
    converged: np.ndarray
    trajectory: np.ndarray


def movie_meis(
    encoder: EncodingModel,
    data_key: str,
    scan: ScanInfo,
    units: Sequence[int],
    settings: Movie,
    on_step: Callable[[], None] | None = None,
) -> MovieMEIs:
    """Find the movie of given norm that drives each unit best in its last frame.

    Planes of behaviour, pupil position or light among the input's channels stay at their training means.

    All units are optimised side by side, one movie each; the response is computed once a step, `UNITS_AT_ONCE` units at
    a time.

    Parameters
    ----------
    encoder : EncodingModel
        Trained, in evaluation mode.
    data_key : str
        Scan whose readout is used.
    scan : ScanInfo
        Its data information: size and pixel statistics.
    units : sequence of int
        Positions of the units in the readout.
    settings : Movie
    on_step : callable, optional
        Called after each step.

    Raises
    ------
    ConfigurationError
        If the movie is shorter than what the network needs for one response.
    """
    if settings.frames <= encoder.lost_frames:
        raise ConfigurationError(
            f"Movie.frames is {settings.frames}, but this network needs {encoder.lost_frames + 1} frames for a response"
        )
    ascent = _Ascent(encoder, data_key, scan, units, settings)
    waiting = torch.zeros(len(units), dtype=torch.long)
    trajectory = []
    for iteration in range(settings.iterations + 1):
        response, gradient = ascent.response_and_gradient()
        trajectory.append(response)
        waiting = torch.where(ascent.keep_best(response, iteration), 0, waiting + 1)
        if iteration == settings.iterations or bool((waiting >= settings.patience).all()):
            break
        ascent.step(gradient, iteration, moving=waiting < settings.patience)
        if on_step:
            on_step()
    with torch.no_grad():
        grey = ascent.response(torch.zeros_like(ascent.movies))
    return MovieMEIs(
        movies=(ascent.best * scan.input_std + scan.input_mean).clamp(*GREY_LEVELS).numpy(),
        activation=ascent.best_response.numpy(),
        grey_activation=grey.numpy(),
        best_iteration=ascent.best_iteration.numpy(),
        converged=(waiting >= settings.patience).numpy(),
        trajectory=torch.stack(trajectory, dim=1).numpy(),
    )


class _Ascent:
    """The movies, z-scored, and the best of them so far."""

    def __init__(
        self, encoder: EncodingModel, data_key: str, scan: ScanInfo, units: Sequence[int], settings: Movie
    ) -> None:
        self._encoder, self._data_key, self._units, self._settings = encoder, data_key, list(units), settings
        _, height, width = scan.input_shape
        channels = scan.pixel_channels
        self._planes = torch.tensor(scan.plane_means)[None, :, None, None, None]
        self._range = [(level - scan.input_mean) / scan.input_std for level in GREY_LEVELS]
        count, frames = len(self._units), settings.frames
        # The same noise for every unit, so that a unit's MEI does not depend on which others are asked for.
        noise = torch.randn(
            (channels, frames, height, width), generator=torch.Generator().manual_seed(settings.mei_seed)
        )
        self._blur = [
            _blur_matrix(size, sigma)
            for size, sigma in (
                (frames, settings.blur_time),
                (height, settings.blur_space),
                (width, settings.blur_space),
            )
        ]
        self.movies = self._constrain((noise * settings.start_contrast).expand(count, -1, -1, -1, -1))
        self.best = self.movies.clone()
        self.best_response = torch.full((count,), -math.inf)
        self.best_iteration = torch.zeros(count, dtype=torch.long)
        has_eye, has_behavior = scan.mean_pupil_center is not None, scan.mean_behavior is not None
        self._eye: Signal = "mean" if settings.eye_position == "training_mean" and has_eye else None
        self._behavior: Signal = "mean" if settings.behavior == "training_mean" and has_behavior else None

    def response(self, movies: Tensor) -> Tensor:
        """Return the response of unit i to the last frame of movie i, (unit,)."""
        return torch.cat([self._respond(movies[part], self._units[part]) for part in self._parts()])

    def response_and_gradient(self) -> tuple[Tensor, Tensor]:
        responses: list[Tensor] = []
        gradients: list[Tensor] = []
        for part in self._parts():
            movies = self.movies[part].detach().requires_grad_(True)
            response = self._respond(movies, self._units[part])
            gradients += torch.autograd.grad(response.sum(), movies)
            responses.append(response.detach())
        return torch.cat(responses), torch.cat(gradients)

    def _parts(self) -> list[slice]:
        return [slice(first, first + UNITS_AT_ONCE) for first in range(0, len(self._units), UNITS_AT_ONCE)]

    def _respond(self, movies: Tensor, units: list[int]) -> Tensor:
        """Return the responses of units to their own movies."""
        count, _, frames, height, width = movies.shape
        responses = self._encoder(
            torch.cat([movies, self._planes.expand(count, -1, frames, height, width)], dim=1),
            self._data_key,
            behavior=self._behavior,
            pupil_center=self._eye,
            unit_idx=torch.tensor(units),
        )
        return responses[:, :, -1].diagonal()

    def keep_best(self, response: Tensor, iteration: int) -> Tensor:
        """Keep movies that are better than all before, and tell which rose by what counts as a rise."""
        better = response > self.best_response
        rose = response > self.best_response + self._settings.min_rise * self.best_response.abs().nan_to_num(posinf=0)
        self.best[better] = self.movies[better]
        self.best_response = torch.where(better, response, self.best_response)
        self.best_iteration = torch.where(better, iteration, self.best_iteration)
        return rose

    def step(self, gradient: Tensor, iteration: int, moving: Tensor) -> None:
        """Move along the gradients; units that have converged stay, however long the others take."""
        settings = self._settings
        progress = iteration / max(settings.iterations - 1, 1)
        length = settings.norm * (settings.step_start + (settings.step_end - settings.step_start) * progress)
        in_time, in_height, in_width = self._blur
        smooth = torch.einsum("st,bcthw->bcshw", in_time, in_height @ gradient @ in_width.T)
        moved = self._constrain(self.movies + length * smooth / _norms(smooth).clamp(min=1e-12))
        self.movies = torch.where(moving[:, None, None, None, None], moved, self.movies)

    def _constrain(self, movies: Tensor) -> Tensor:
        scaled = movies * (self._settings.norm / _norms(movies).clamp(min=1e-12))
        return scaled.clamp(*self._range)


def _norms(movies: Tensor) -> Tensor:
    return movies.flatten(1).norm(dim=1)[:, None, None, None, None]


def _blur_matrix(size: int, sigma: float) -> Tensor:
    """Return the (size, size) matrix of a Gaussian blur whose weights add up to 1 at the borders too."""
    if sigma == 0:
        return torch.eye(size)
    distance = torch.arange(size)[:, None] - torch.arange(size)
    weights = torch.exp(-(distance**2) / (2 * sigma**2))
    return weights / weights.sum(dim=1, keepdim=True)
