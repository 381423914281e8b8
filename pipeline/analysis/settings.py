"""Kinds of receptive fields and of stimulus sets by which units are characterised."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.configuration import Configuration, setting

_FITS = ("gaussian", "difference_of_gaussians")


@dataclass(frozen=True)
class AtGrey(Configuration):
    """The gradient at the grey screen: what a small change of each pixel does while nothing is shown."""

    lags: int = setting(15, "frames of a movie, up to that of the response; images have 1", unit="frames", ge=1)
    fit: str = setting("gaussian", "what is fitted to the spatial profile", choices=_FITS)
    eye_position: str = setting(
        "center", "what the shifter is told: nothing, or the training mean", choices=("center", "training_mean")
    )
    behavior: str = setting(
        "none", "what the modulator is told: nothing, or the training mean", choices=("none", "training_mean")
    )


@dataclass(frozen=True)
class OverStimuli(AtGrey):
    """The gradient averaged over stimuli of the training tier.

    Unlike that at grey it shows where complex cells look. It takes as many passes as there are units times stimuli.
    """

    stimuli: int = setting(100, "images, or clips of movies, to average over at most", ge=1)


FIELD_KINDS: tuple[type[Configuration], ...] = (AtGrey, OverStimuli)


@dataclass(frozen=True)
class Triggered(Configuration):
    """The response-triggered average of the training tier, with a null of permutations."""

    lags: int = setting(15, "frames of a movie, up to that of the response; images have 1", unit="frames", ge=1)
    fit: str = setting("gaussian", "what is fitted to the spatial profile", choices=_FITS)
    permutations: int = setting(100, "permuted images or shifts of the responses", ge=2)
    max_samples: int = setting(30_000, "images or frames averaged at most", ge=10)
    null_seed: int = setting(0, "seed of the permutations", ge=0)


TRIGGERED_KINDS: tuple[type[Configuration], ...] = (Triggered,)


@dataclass(frozen=True)
class Shown(Configuration):
    """What all stimulus sets have in common."""

    contrast: float = setting(1.0, "of the distance between mean grey and the nearer end of the range", gt=0, le=1)
    duration: float = setting(1.0, "how long movies show each stimulus; images have one frame", unit="s", gt=0)
    eye_position: str = setting(
        "center", "what the shifter is told: nothing, or the training mean", choices=("center", "training_mean")
    )
    behavior: str = setting(
        "none", "what the modulator is told: nothing, or the training mean", choices=("none", "training_mean")
    )


@dataclass(frozen=True)
class Gratings(Shown):
    """Gratings over the whole screen: at several phases for images, drifting for movies."""

    directions: int = setting(16, "directions over 360 degrees or, for images, over 180; a multiple of 4", ge=4)
    spatial_frequencies: tuple[float, ...] = setting(
        (0.01, 0.014, 0.02, 0.028, 0.04, 0.056, 0.08, 0.11, 0.16), "spatial frequencies", unit="cycles/deg", gt=0
    )
    temporal_frequencies: tuple[float, ...] = setting((1.0, 2.0, 4.0, 8.0), "of movies", unit="Hz", gt=0)
    phases: int = setting(8, "phases of images, over 360 degrees", ge=3)


@dataclass(frozen=True)
class Gabors(Gratings):
    """Gratings under a Gaussian window around each unit's receptive field."""

    window_sigma: float = setting(10.0, "std of the window", unit="deg", gt=0)


@dataclass(frozen=True)
class Plaids(Shown):
    """Gratings, and plaids of two of them at half the contrast each."""

    directions: int = setting(12, "directions over 360 degrees or, for images, over 180; a multiple of 4", ge=4)
    plaid_angle: float = setting(
        120.0, "angle between the gratings; half of it is a step of directions", unit="deg", gt=0, lt=180
    )
    spatial_frequency: float = setting(0.04, "spatial frequency", unit="cycles/deg", gt=0)
    temporal_frequency: float = setting(2.0, "of movies", unit="Hz", gt=0)
    phases: int = setting(8, "phases of images, over 360 degrees", ge=3)


@dataclass(frozen=True)
class Spots(Shown):
    """Bright and dark discs of growing size around each unit's receptive field."""

    diameters: tuple[float, ...] = setting(
        (4.0, 6.0, 8.0, 11.0, 16.0, 22.0, 32.0, 45.0, 64.0, 90.0), "diameters, ascending", unit="deg", gt=0
    )


@dataclass(frozen=True)
class CentreSurround(Shown):
    """A disc around each unit's receptive field alone, and with a ring of the same or the opposite contrast."""

    centre_diameter: float = setting(15.0, "diameter of the disc, and inner one of the ring", unit="deg", gt=0)
    surround_diameter: float = setting(60.0, "outer diameter of the ring", unit="deg", gt=0)


TUNING_KINDS: tuple[type[Configuration], ...] = (Gratings, Gabors, Plaids, Spots, CentreSurround)
