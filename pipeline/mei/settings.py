"""Kinds of MEI configuration."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.configuration import Configuration, setting


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
        "center", "what the shifter is told: nothing, or the training mean", choices=("center", "training_mean")
    )
    behavior: str = setting(
        "none", "what the modulator is told: nothing, or the training mean", choices=("none", "training_mean")
    )
    mei_seed: int = setting(0, "seed of the noise to start from", ge=0)


MEI_KINDS: tuple[type[Configuration], ...] = (Movie,)
