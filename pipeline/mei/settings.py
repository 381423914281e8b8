"""Kinds of MEI configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.configuration import Configuration, setting
from pipeline.functions import FunctionConfiguration

EYE_POSITIONS = ("center", "training_mean")
BEHAVIORS = ("none", "training_mean")


@dataclass(frozen=True)
class Movie(Configuration):
    """Gradient ascent on a movie of fixed norm within the range of the screen; the best movie met is kept.

    Each step moves along the blurred gradient, whose length is set by the schedule and not by the gradient, and
    returns to the sphere of the norm. Blurring suppresses frequencies that the training stimuli hardly contained.
    """

    frames: int = setting(20, "length; the response to the last frame is what is maximised", unit="frames", ge=1)
    norm: float = setting(30.0, "L2 norm of the difference from mean grey, in std of the training stimuli", gt=0)
    iterations: int = setting(150, "steps at most", ge=1)
    step_start: float = setting(0.3, "length of the first step, as a fraction of the norm", gt=0)
    step_end: float = setting(0.01, "length of the last step, as a fraction of the norm", gt=0)
    blur_space: float = setting(1.0, "std of the Gaussian that blurs gradients in space; 0 for none", unit="px", ge=0)
    blur_time: float = setting(0.5, "std of the Gaussian that blurs gradients in time; 0 for none", unit="frames", ge=0)
    start_contrast: float = setting(0.1, "std of the noise to start from, in std of the training stimuli", gt=0)
    patience: int = setting(20, "steps without a rise after which a unit counts as converged", ge=1)
    min_rise: float = setting(1e-3, "relative rise of the response that counts", ge=0)
    eye_position: str = setting(
        "center", "what the shifter is told: nothing, or the training mean", choices=EYE_POSITIONS
    )
    behavior: str = setting("none", "what the modulator is told: nothing, or the training mean", choices=BEHAVIORS)
    mei_seed: int = setting(0, "seed of the noise to start from", ge=0)


@dataclass(frozen=True)
class Staticnet(Configuration):
    """Images as Walker et al. (2019) made them; the best image met is kept, theirs is the last one.

    Each step goes along the gradient, divided by its mean absolute value after a power of frequency was taken off its
    spectrum, for `step_gain` times the step size in grey levels over 255; then the image is clipped to the screen's
    range and blurred, less and less. The norm is free, or bounded by `norm` or `train_norm`. The defaults are the first
    published set of parameters; the second one is ``blur=False, train_norm=11.0``.
    """

    iterations: int = setting(1000, "steps", ge=1)
    sigma_start: float = setting(1.5, "std of the blur after the first step", unit="px", ge=0)
    sigma_end: float = setting(0.01, "std of the blur after the last step", unit="px", ge=0)
    step_size_start: float = setting(3.0, "first step size", gt=0)
    step_size_end: float = setting(0.125, "last step size", gt=0)
    precond: float = setting(0.1, "power of the squared frequency that divides the gradient's spectrum", ge=0)
    step_gain: float = setting(0.1, "factor of all step sizes", gt=0)
    jitter: int = setting(0, "largest shift of the image while it is evaluated", unit="px", ge=0)
    blur: bool = setting(True, "blur the image after each step")
    norm: float | None = setting(None, "largest contrast after a step, in std of the training stimuli", gt=0)
    train_norm: float | None = setting(None, "largest contrast when the image is evaluated", unit="grey levels", gt=0)
    start_mean: float = setting(128.0, "mean of the noise to start from", unit="grey levels", ge=0, le=255)
    start_std: float = setting(8.0, "std of the noise to start from", unit="grey levels", ge=0)
    patience: int = setting(100, "steps without a rise that mark a unit as converged; all steps are made", ge=1)
    min_rise: float = setting(1e-3, "relative rise of the response that counts", ge=0)
    eye_position: str = setting(
        "training_mean", "what the shifter is told: nothing, or the training mean", choices=EYE_POSITIONS
    )
    behavior: str = setting("none", "what the modulator is told: nothing, or the training mean", choices=BEHAVIORS)
    mei_seed: int = setting(0, "seed of the noise to start from, and of the jitter", ge=0)


@dataclass(frozen=True)
class _Still(Configuration):
    """What both kinds of images of fixed norm can be set to."""

    norm: float = setting(10.0, "L2 norm of the difference from mean grey, in std of the training stimuli", gt=0)
    iterations: int = setting(300, "steps at most", ge=1)
    starts: int = setting(1, "noises to start from; the best image of all is kept", ge=1)
    step_start: float = setting(0.5, "length of the first step, as a fraction of the norm", gt=0)
    start_contrast: float = setting(0.1, "std of the noise to start from, in std of the training stimuli", gt=0)
    channels: str = setting(
        "joint", "whether the norm is that of all channels or of each", choices=("joint", "per_channel")
    )
    total_variation: float = setting(0.0, "weight of the summed absolute differences of neighbouring pixels", ge=0)
    jitter: int = setting(0, "largest shift of the image while it is evaluated", unit="px", ge=0)
    patience: int = setting(15, "steps without a rise after which a unit counts as converged", ge=1)
    min_rise: float = setting(1e-4, "relative rise of the response that counts", ge=0)
    eye_position: str = setting(
        "center", "what the shifter is told: nothing, or the training mean", choices=EYE_POSITIONS
    )
    behavior: str = setting("none", "what the modulator is told: nothing, or the training mean", choices=BEHAVIORS)
    mei_seed: int = setting(0, "seed of the noise to start from, and of the jitter", ge=0)


@dataclass(frozen=True)
class Modern(_Still):
    """Images of a fixed norm within the screen's range, by steps that adapt to each unit until nothing is gained.

    A step starts from the best image so far, along the part of the gradient that is tangent to the sphere of the norm;
    it is longer after each rise and shorter after each miss. Blurring the gradient shapes the way, first and above all
    low frequencies, but hardly the end: it narrows within some steps.
    """

    blur_start: float = setting(1.5, "std of the Gaussian that blurs the first gradient; 0 for none", unit="px", ge=0)
    blur_end: float = setting(0.0, "std of the Gaussian to which it narrows", unit="px", ge=0)
    blur_steps: int = setting(50, "steps in which it narrows", ge=1)


@dataclass(frozen=True)
class Frequency(_Still):
    """`Modern` images by their Fourier coefficients, scaled by a power of frequency, none above a highest frequency.

    A step along the gradient for coefficients c with image = F^-1(scale c) is one along the image's gradient with its
    spectrum times scale^2, which is how it is made. The start is scaled too.
    """

    exponent: float = setting(1.0, "power of frequency that divides the coefficients", ge=0)
    highest: float = setting(0.5, "frequency above which there is nothing", unit="cycles/px", gt=0)


@dataclass(frozen=True)
class Function(FunctionConfiguration):
    """A method of one's own, named by its dotted path.

    It is called as ``function(model, units, **arguments)`` and with those of ``data_key``, ``scan_info``, ``seed``,
    ``behavior`` and ``pupil_center`` (each "mean" or None, as the model's ``forward`` takes them) that its signature
    has. It returns one stimulus for each unit, (unit, channel, height, width) or (unit, channel, time, height, width),
    a tensor or an array of pixels normalised as the model's inputs. Responses are computed from these.
    """

    reserved: ClassVar[tuple[str, ...]] = (
        "model", "units", "data_key", "scan_info", "seed", "behavior", "pupil_center",
    )  # fmt: skip

    eye_position: str = setting(
        "center", "what the shifter is told: nothing, or the training mean", choices=EYE_POSITIONS
    )
    behavior: str = setting("none", "what the modulator is told: nothing, or the training mean", choices=BEHAVIORS)
    mei_seed: int = setting(0, "seed given to the function, and of all random numbers meanwhile", ge=0)


MEI_KINDS: tuple[type[Configuration], ...] = (Staticnet, Modern, Movie, Frequency, Function)
