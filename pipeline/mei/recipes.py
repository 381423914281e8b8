"""Each kind of MEI configuration in the optimiser's parts."""

from __future__ import annotations

from functools import singledispatch

from torch import Tensor

from pipeline.configuration import Configuration
from pipeline.errors import ConfigurationError
from pipeline.mei.conditions import Conditions
from pipeline.mei.constraints import Constraint, Contrast, Norm, NormWithinRange, Range
from pipeline.mei.optimizer import Recipe
from pipeline.mei.penalties import TotalVariation
from pipeline.mei.settings import Frequency, Modern, Movie, Staticnet
from pipeline.mei.smoothing import FourierPower, GaussianBlur, Linear, StaticnetFourier
from pipeline.mei.starts import Noise, Shape, Start
from pipeline.mei.steps import Adaptive, Plateau, Scheduled, mean_abs


@singledispatch
def recipe_of(settings: Configuration, conditions: Conditions) -> Recipe:
    """Return how a kind optimises stimuli under these conditions.

    Raises
    ------
    ConfigurationError
        If the kind is no gradient ascent.
    """
    raise ConfigurationError(f"no recipe for MEIs of kind {settings.kind()}")


@recipe_of.register
def _(settings: Movie, conditions: Conditions) -> Recipe:
    start, end = settings.step_start * settings.norm, settings.step_end * settings.norm
    space, time = (Linear(sigma, sigma) for sigma in (settings.blur_space, settings.blur_time))
    return Recipe(
        Noise(settings.start_contrast, seed=settings.mei_seed),
        Scheduled(Linear(start, end)),
        Plateau(settings.patience, settings.min_rise),
        settings.iterations,
        constraints=(Norm(settings.norm), Range(*conditions.limits)),
        smooth_gradient=(GaussianBlur(space, time),),
    )


@recipe_of.register
def _(settings: Staticnet, conditions: Conditions) -> Recipe:
    mean, std = conditions.scan.input_mean, conditions.scan.input_std
    gain = settings.step_gain / 255
    bounded: tuple[Constraint, ...] = ()
    if settings.train_norm is not None:
        bounded = (Contrast(settings.train_norm / std, at_most=True, about_grey=True),)
    after: tuple[Constraint, ...] = ()
    if settings.norm is not None:
        after = (Contrast(settings.norm, at_most=True, about_grey=True),)
    blur = GaussianBlur(Linear(settings.sigma_start, settings.sigma_end), border="reflect")
    start = (settings.start_mean - mean) / std
    return Recipe(
        Noise(settings.start_std / std, start, settings.mei_seed, *conditions.limits),
        Scheduled(Linear(settings.step_size_start * gain, settings.step_size_end * gain), mean_abs),
        Plateau(settings.patience, settings.min_rise, ends=False),
        settings.iterations,
        constraints=bounded,
        jitter=settings.jitter,
        seed=settings.mei_seed,
        smooth_gradient=(StaticnetFourier(settings.precond),),
        after_step=(*after, Range(*conditions.limits)),
        smooth_stimuli=(blur,) if settings.blur else (),
    )


@recipe_of.register
def _(settings: Modern, conditions: Conditions) -> Recipe:
    share = min(1.0, settings.blur_steps / settings.iterations)
    blur = GaussianBlur(Linear(settings.blur_start, settings.blur_end, until=share))
    return _still(settings, conditions, Noise(settings.start_contrast, seed=settings.mei_seed), blur)


@recipe_of.register
def _(settings: Frequency, conditions: Conditions) -> Recipe:
    noise = Noise(settings.start_contrast, seed=settings.mei_seed)
    scale = FourierPower(settings.exponent, settings.highest)

    def start(shape: Shape, starts: int) -> Tensor:
        return scale(noise(shape, starts), 0.0)

    return _still(settings, conditions, start, FourierPower(2 * settings.exponent, settings.highest))


def _still(
    settings: Modern | Frequency, conditions: Conditions, start: Start, smooth: GaussianBlur | FourierPower
) -> Recipe:
    norm = NormWithinRange(settings.norm, *conditions.limits, per_channel=settings.channels == "per_channel")
    return Recipe(
        start,
        Adaptive(settings.step_start),
        Plateau(settings.patience, settings.min_rise),
        settings.iterations,
        constraints=(norm,),
        jitter=settings.jitter,
        seed=settings.mei_seed,
        smooth_gradient=(smooth,),
        penalties=(TotalVariation(settings.total_variation),) if settings.total_variation else (),
    )
