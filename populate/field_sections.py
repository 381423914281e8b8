"""What the report shows of receptive fields and of tuning, where they were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.settings import Gratings, Spots
from pipeline.analysis.tuning import directions_of
from pipeline.figures.fields import receptive_fields
from pipeline.figures.tuning import direction_tuning, tuning_lines
from populate.report_page import Illustration, Section
from populate.results import ScanResults
from schemas import config, dataset, receptive_field, tuning

FIELDS, CURVES = 8, 10
"""Units shown at most, evenly spaced from the first to the last."""

_OUTLINE = ("fit_x_px", "fit_y_px", "fit_sigma_major_px", "fit_sigma_minor_px", "fit_orientation_deg")


def field_sections(scan: ScanResults) -> list[Section]:
    """Return sections on the receptive fields of a model, on those of its data, and on tuning; of each what there is.

    Positions are in degrees, so there is none if the size of the screen is not known.
    """
    if scan.screen_deg is None:
        return []
    member = {name: scan.member[name] for name in dataset.MultiDataset.Member().primary_key}
    data = {name: scan.key[name] for name in ("group_id", "data_hash")}
    figures = []
    for table, names, words in (
        (receptive_field.GradientReceptiveField, scan.key, "Gradient of each unit's response in the model"),
        (receptive_field.SpikeTriggeredAverage, data, "Average of the training stimuli around the recorded responses"),
    ):
        figures += [_fields(scan, table, row, words) for row in (table.ScanFields & names & member).keys()]
    sections = []
    if figures:
        text = (
            "The product of a place and a course in time that comes nearest to each field. Red is ON, blue is OFF; the "
            "outline is two standard deviations of the fitted Gaussian's centre, with the share of the energy that the "
            "fit explains."
        )
        code = "from schemas import receptive_field\nreceptive_field.GradientReceptiveField.Unit()"
        sections.append(Section("Receptive fields", text, tuple(figures), code=code))
    curves = [
        shown for row in (tuning.UnitTuning.ScanCurves & scan.key & member).keys() for shown in _tuning(scan, row)
    ]
    if curves:
        text = "Responses of the model to stimuli that are computed, above the response to grey."
        code = "from schemas import tuning\ntuning.UnitTuning.Grating()"
        sections.append(Section("Tuning", text, tuple(curves), code=code))
    return sections


def _names(scan: ScanResults, unit_ids: Sequence[int]) -> list[str]:
    named = dict(zip(scan.info.unit_ids, scan.unit_names, strict=True))
    return [named[unit] for unit in unit_ids]


def _chosen(count: int, shown: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(shown, count)).round().astype(int)


def _units(part: Any, row: dict[str, Any]) -> pd.DataFrame:
    """Return the rows of a part for one scan in order of unit_id, NULL as NaN."""
    return pd.DataFrame((part & row).to_dicts(order_by="unit_id")).fillna(np.nan)


def _fields(scan: ScanResults, table: Any, row: dict[str, Any], words: str) -> Illustration:
    assert scan.screen_deg is not None
    kept, units = (table.ScanFields & row).fetch1(), _units(table.Unit, row)
    chosen = _chosen(len(units), FIELDS)
    temporal = np.asarray(kept["temporal_profiles"])
    rate, lags = scan.info.frame_rate, temporal.shape[2]
    in_time = rate is not None and lags > 1
    figure = receptive_fields(
        np.asarray(kept["spatial_profiles"])[chosen],
        _names(scan, units["unit_id"].iloc[chosen].tolist()),
        screen_deg=scan.screen_deg,
        temporal=temporal[chosen] if in_time else None,
        lag_ms=-1000 / rate * np.arange(lags)[::-1] if rate is not None and in_time else None,
        outlines=units[list(_OUTLINE)].to_numpy(float)[chosen],
        quality=units["fit_quality"].to_numpy(float)[chosen],
    )
    return Illustration(figure, f"{words}.", words)


def _tuning(scan: ScanResults, row: dict[str, Any]) -> list[Illustration]:
    """Draw what a set of gratings or of spots found; of other sets the tables tell."""
    settings: Any = config.TuningConfig.load(row)
    drive = np.asarray((tuning.UnitTuning.ScanCurves & row).fetch1("drive"))
    chosen = _chosen(len(drive), CURVES)
    if isinstance(settings, Spots):
        units = _units(tuning.UnitTuning.Size, row).iloc[chosen]
        figure = tuning_lines(
            drive[chosen],
            np.array(settings.diameters),
            _names(scan, units["unit_id"].tolist()),
            label="Diameter (degrees)",
            preferred=units["preferred_diameter"].to_numpy(float),
            notes=[f"suppression {value:.2f}" for value in units["suppression_index"].to_numpy(float)],
        )
        return [Illustration(figure, "Responses to discs of the better contrast, by diameter.", "Tuning to size")]
    if isinstance(settings, Gratings):
        return _gratings(scan, row, settings, drive, chosen)
    return []


def _gratings(
    scan: ScanResults, row: dict[str, Any], settings: Gratings, drive: np.ndarray, chosen: np.ndarray
) -> list[Illustration]:
    units = _units(tuning.UnitTuning.Grating, row).iloc[chosen]
    names = _names(scan, units["unit_id"].tolist())
    movies = scan.info.clip_frames is not None or scan.info.frame_rate is not None
    shown = drive[chosen]
    best = np.unravel_index(shown.reshape(len(shown), -1).argmax(axis=1), shown.shape[1:])
    at = np.arange(len(shown))
    across = units["preferred_direction" if movies else "preferred_orientation"].to_numpy(float)
    around = direction_tuning(
        shown[at, :, best[1], best[2]],
        directions_of(settings, movies),
        names,
        preferred=across if movies else across + 90,
        selectivity=units["orientation_selectivity"].to_numpy(float),
    )
    frequency = tuning_lines(
        shown[at, best[0], :, best[2]],
        np.array(settings.spatial_frequencies),
        names,
        label="Spatial frequency (cycles/degree)",
        preferred=units["preferred_spatial_frequency"].to_numpy(float),
    )
    what = settings.kind().lower()
    return [
        Illustration(
            around, f"Responses to {what} by direction, at the best frequencies.", f"Direction tuning, {what}"
        ),
        Illustration(frequency, "The same by spatial frequency, at the best direction.", f"Frequency tuning, {what}"),
    ]
