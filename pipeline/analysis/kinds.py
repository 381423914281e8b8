"""From kinds of receptive fields and stimulus sets to what they find."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.fits import FieldFits, fit_fields
from pipeline.analysis.gradients import (
    GradientFields,
    energy_centres,
    gradient_at_grey,
    gradient_over_stimuli,
)
from pipeline.analysis.separability import SeparableParts, separate
from pipeline.analysis.settings import AtGrey, CentreSurround, Gratings, OverStimuli, Plaids, Shown, Spots, Triggered
from pipeline.analysis.sizes import SizeTuning, SurroundTuning, size_tuning, surround_tuning
from pipeline.analysis.triggered import TriggeredFields, triggered_average
from pipeline.analysis.tuning import GratingTuning, PlaidTuning, grating_tuning, plaid_tuning
from pipeline.analysis.viewing import Viewer
from pipeline.configuration import Configuration
from pipeline.datasets.batches import Batch
from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models.base import EncodingModel

Tuning = GratingTuning | PlaidTuning | SizeTuning | SurroundTuning


@dataclass(frozen=True)
class DescribedFields:
    """Receptive fields of one scan's units, as a product of space and time, and what was fitted to the place.

    Attributes
    ----------
    found : GradientFields or TriggeredFields
    parts : SeparableParts
    fits : FieldFits
        Of the spatial profile.
    centres : ndarray
        (unit, 2) where units look: x and y in pixels, y down; see `energy_centres`.
    """

    found: GradientFields | TriggeredFields
    parts: SeparableParts
    fits: FieldFits
    centres: np.ndarray


def viewer_of(encoder: EncodingModel, data_key: str, settings: AtGrey | Shown) -> Viewer:
    """Return a model in the state that the settings ask for."""
    scan = encoder.data_info[data_key]
    return Viewer(encoder, data_key, scan, settings.eye_position, settings.behavior)


def gradient_fields(
    encoder: EncodingModel, data_key: str, units: Sequence[int], settings: Configuration, batches: Iterable[Batch]
) -> DescribedFields:
    """Differentiate a model's units as the settings say, and describe their fields.

    Parameters
    ----------
    encoder : EncodingModel
    data_key : str
    units : sequence of int
        Positions of the units in the readout.
    settings : Configuration
        One of `pipeline.analysis.settings.FIELD_KINDS`.
    batches : iterable of MovieBatch or ImageBatch
        Training trials in full, for gradients over stimuli.
    """
    if not isinstance(settings, AtGrey):
        raise ConfigurationError(f"no receptive fields of kind {settings.kind()}")
    viewer = viewer_of(encoder, data_key, settings)
    lags = settings.lags if viewer.sees_movies else 1
    if isinstance(settings, OverStimuli):
        found = gradient_over_stimuli(viewer, units, batches, lags, settings.stimuli)
    else:
        found = gradient_at_grey(viewer, units, lags)
    return _described(found, found.energy, settings)


def triggered_fields(batches: Iterable[Batch], scan: ScanInfo, settings: Configuration, device: str) -> DescribedFields:
    """Average training trials around the responses of all units as the settings say, and describe the fields."""
    if not isinstance(settings, Triggered):
        raise ConfigurationError(f"no triggered average of kind {settings.kind()}")
    movies = scan.clip_frames is not None or scan.frame_rate is not None
    found = triggered_average(
        batches,
        scan,
        settings.lags if movies else 1,
        settings.permutations,
        settings.max_samples,
        settings.null_seed,
        device,
    )
    return _described(found, np.square(found.fields).sum(axis=(1, 2)), settings)


def _described(
    found: GradientFields | TriggeredFields, energy: np.ndarray, settings: AtGrey | Triggered
) -> DescribedFields:
    # A unit without an average, whose responses never change, has no field: the decomposition needs numbers.
    parts = separate(np.nan_to_num(found.fields))
    fits = fit_fields(parts.spatial, settings.fit)  # type: ignore[arg-type]  # its choices are those of the setting
    return DescribedFields(found, parts, fits, energy_centres(np.nan_to_num(energy)))


def tuning_of(
    encoder: EncodingModel,
    data_key: str,
    units: Sequence[int],
    settings: Configuration,
    screen_deg: tuple[float, float],
    centres: np.ndarray,
) -> Tuning:
    """Show a set of stimuli to a model and describe its units' responses.

    Parameters
    ----------
    encoder : EncodingModel
    data_key : str
    units : sequence of int
        Positions of the units in the readout.
    settings : Configuration
        One of `pipeline.analysis.settings.TUNING_KINDS`.
    screen_deg : tuple of float
        Width and height of the screen (deg).
    centres : ndarray
        (unit, 2) where units look (px, y down); for those where it is not known, stimuli are in the screen's middle.
    """
    if not isinstance(settings, Shown):
        raise ConfigurationError(f"no stimuli of kind {settings.kind()}")
    viewer = viewer_of(encoder, data_key, settings)
    _, height, width = viewer.scan.input_shape
    centres = np.where(np.isfinite(centres), centres, ((width - 1) / 2, (height - 1) / 2))
    if isinstance(settings, Gratings):
        return grating_tuning(viewer, units, settings, screen_deg, centres)
    if isinstance(settings, Plaids):
        return plaid_tuning(viewer, units, settings, screen_deg)
    if isinstance(settings, Spots):
        return size_tuning(viewer, units, settings, screen_deg, centres)
    if isinstance(settings, CentreSurround):
        return surround_tuning(viewer, units, settings, screen_deg, centres)
    raise ConfigurationError(f"no stimuli of kind {settings.kind()}")
