"""What a report needs of one model, read from the tables and predicted anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.readouts import pixels_to_degrees
from pipeline.datasets.info import ScanInfo
from pipeline.datasets.loaders import ScanLoaders
from pipeline.datasets.selection import DataConfiguration
from pipeline.errors import GeniculateError
from pipeline.mei.comparison import best_lag, match_receptive_field
from pipeline.models.base import EncodingModel
from pipeline.simulation import GroundTruth
from pipeline.training.prediction import predict
from schemas import analysis, config, dataset, mei, model, receptive_field, recording

Key = dict[str, Any]


@dataclass(frozen=True)
class ScanResults:
    """One model's results on one scan; units are in the order of the readout.

    Attributes
    ----------
    key : dict
        Of the model.
    member : dict
        Key of the scan's dataset in its group, with ``data_key``.
    info : ScanInfo
    unit_names : list of str
    scores : DataFrame
        `Model.UnitScore` on test (validation where nothing was tested), one row a unit.
    score_tier : str
    oracle : ndarray
        (unit,) oracle correlation, NaN where undefined.
    readout : DataFrame
        `ReadoutAnalysis.Unit`, one row a unit, with ``brain_area`` and ``unit_z`` (um), which may be None and NaN.
    feature_weights : ndarray
        (unit, channel).
    masks : SpatialMasks or None
        None if the units look at a point.
    gaze_shifts_deg : dict
        From horizontal and vertical eye position (std) to the shift of all readouts, right and up (deg); empty without
        a shifter or if the screen is unknown.
    screen_deg : tuple of float or None
        Width and height of the stimulus (deg).
    """

    key: Key
    member: Key
    info: ScanInfo
    unit_names: list[str]
    scores: pd.DataFrame
    score_tier: str
    oracle: np.ndarray
    readout: pd.DataFrame
    feature_weights: np.ndarray
    masks: SpatialMasks | None
    gaze_shifts_deg: dict[tuple[int, int], tuple[float, float]]
    screen_deg: tuple[float, float] | None


@dataclass(frozen=True)
class SpatialMasks:
    """How units weigh places.

    Attributes
    ----------
    masks : ndarray
        (unit, row, column) of the feature maps.
    first_place_px : tuple of float
        x and y of the maps' first place in the frame.
    pitch_px : float
        Pixels between neighbouring places.
    """

    masks: np.ndarray
    first_place_px: tuple[float, float]
    pitch_px: float


@dataclass(frozen=True)
class Responses:
    """Recorded and predicted responses to one movie.

    Attributes
    ----------
    time_s : ndarray
        (time,) since the movie's start.
    recorded, predicted : ndarray
        (unit, time), means over the movie's repeats.
    response_unit : str
        Of both.
    repeats : int
    """

    time_s: np.ndarray
    recorded: np.ndarray
    predicted: np.ndarray
    response_unit: str
    repeats: int


@dataclass(frozen=True)
class MEIResults:
    """Most exciting inputs beside receptive fields.

    Attributes
    ----------
    unit_ids : list of int
    unit_names : list of str
    stimuli : ndarray
        (unit, channel, time, height, width) grey values; images have one frame.
    activation : ndarray
        (unit,) predicted response.
    fields : ndarray or None
        (unit, lag, height, width), true ones where the truth is known, else gradients of the model where there are any.
    fields_name : str
        What they are.
    correlations : ndarray or None
        (unit,) of the MEI with the receptive field at its best lag.
    """

    unit_ids: list[int]
    unit_names: list[str]
    stimuli: np.ndarray
    activation: np.ndarray
    fields: np.ndarray | None
    fields_name: str
    correlations: np.ndarray | None

    @property
    def movies(self) -> np.ndarray:
        """First channel, (unit, time, height, width)."""
        return self.stimuli[:, 0]


def best_model(*restrictions: Any) -> Key:
    """Return the key of the model with the highest validation correlation among those that the restrictions select."""
    table = model.Model()
    for restriction in restrictions:
        table = table & restriction
    rows = (table & "validation_correlation IS NOT NULL").to_dicts(order_by="validation_correlation DESC", limit=1)
    if not rows:
        raise GeniculateError("no trained model matches: run 'geniculate work', or change the restriction")
    return {name: rows[0][name] for name in model.Model().primary_key}


def scan_results(key: Mapping[str, Any], info: Mapping[str, ScanInfo], data_key: str) -> ScanResults:
    """Collect what the tables hold on one model and scan.

    Raises
    ------
    GeniculateError
        If the model's readouts or the oracle of its data were not computed, or it has no readouts of ours.
    """
    key = dict(key)
    if not len(config.NetworkConfig.CorePlusReadout & {"network_hash": key["network_hash"]}):
        raise GeniculateError("a function made this model's network, so there are no readouts to show: choose another")
    missing = [table.__name__ for table in (dataset.Oracle, analysis.ReadoutAnalysis) if not len(table & key)]
    if missing:
        raise GeniculateError(f"{' and '.join(missing)} of this model wait to be computed: run 'geniculate work' first")
    member = (dataset.MultiDataset.Member & {"group_id": key["group_id"], "data_key": data_key}).fetch1()
    scan_key = {name: member[name] for name in recording.Scan().primary_key}
    units = list(info[data_key].unit_ids)
    scores = pd.DataFrame((model.Model.UnitScore & key & scan_key).to_dicts())
    tier = "test" if (scores["score_tier"] == "test").any() else "validation"
    scores = scores[scores["score_tier"] == tier].set_index("unit_id").loc[units]
    oracle = {r["unit_id"]: r["oracle_correlation"] for r in (dataset.Oracle.Unit & key & scan_key).to_dicts()}
    names = {r["unit_id"]: r["unit_name"] for r in (recording.Scan.Unit & scan_key).to_dicts()}
    in_order = np.argsort(np.argsort(units))
    scan_readout = (analysis.ReadoutAnalysis.ScanReadout & key & scan_key).fetch1()
    scan = (recording.Scan & scan_key).fetch1()
    screen = (scan["screen_width_deg"], scan["screen_height_deg"])
    return ScanResults(
        key=key,
        member=member,
        info=info[data_key],
        unit_names=[names[unit] for unit in units],
        scores=scores,
        score_tier=tier,
        oracle=np.array([np.nan if oracle.get(u) is None else oracle[u] for u in units], float),
        readout=_readout(key, scan_key).loc[units],
        feature_weights=np.asarray(scan_readout["feature_weights"])[in_order],
        masks=_masks(scan_readout, in_order),
        gaze_shifts_deg={
            (row["gaze_x"], row["gaze_y"]): (row["shift_x_deg"], row["shift_y_deg"])
            for row in (analysis.ReadoutAnalysis.GazeShift & key & scan_key & "shift_x_deg IS NOT NULL").to_dicts()
        },
        screen_deg=None if None in screen else (float(screen[0]), float(screen[1])),
    )


def _readout(key: Key, scan_key: Key) -> pd.DataFrame:
    """Return the readouts of one scan by unit_id, with each unit's area and depth."""
    readout = pd.DataFrame((analysis.ReadoutAnalysis.Unit & key & scan_key).to_dicts()).set_index("unit_id")
    for table, column in ((recording.AreaMembership, "brain_area"), (recording.UnitPosition, "unit_z")):
        known = {row["unit_id"]: row[column] for row in (table & scan_key).to_dicts()}
        readout[column] = pd.Series([known.get(unit) for unit in readout.index], readout.index, dtype=object)
    return readout.astype({"unit_z": float})


def _masks(scan_readout: Key, in_order: np.ndarray) -> SpatialMasks | None:
    if scan_readout["spatial_masks"] is None:
        return None
    first_place = scan_readout["map_x_px"], scan_readout["map_y_px"]
    return SpatialMasks(np.asarray(scan_readout["spatial_masks"])[in_order], first_place, scan_readout["map_pitch_px"])


def responses_to_one_movie(encoder: EncodingModel, loaders: ScanLoaders, results: ScanResults) -> Responses | None:
    """Predict the trials of the movie that was repeated most, and average its repeats; None of still images."""
    frame_rate = results.info.frame_rate
    if frame_rate is None:
        return None
    data_key = results.member["data_key"]
    loader = loaders[results.score_tier][data_key]
    conditions = loader.conditions
    chosen = max(dict.fromkeys(conditions), key=conditions.count)
    trials = [t for t, h in zip(predict(encoder, loader, data_key), conditions, strict=True) if h == chosen]
    scale, unit = _readable(results)
    recorded, predicted = (np.mean([t[i] for t in trials], axis=0) * scale[:, None] for i in (0, 1))
    time_s = (np.arange(recorded.shape[1]) + encoder.lost_frames) / frame_rate
    return Responses(time_s, recorded, predicted, unit, len(trials))


def _readable(results: ScanResults) -> tuple[np.ndarray, str]:
    """Return what turns responses of loaders into those that people read, (unit,), and their unit.

    Loaders may give multiples of each unit's std, and counts in bins, where people think in spikes a second.
    """
    stored = dataset.Dataset.open(results.member)
    data = config.DataConfig.load(results.key)
    positions = [stored.metadata["unit_ids"].index(unit) for unit in results.info.unit_ids]
    scale = np.ones(len(positions))
    if isinstance(data, DataConfiguration) and data.normalizes("responses"):
        scale = 1 / stored.statistics("responses", data.stats_source).precision()[positions]
    unit = stored.metadata["response_unit"]
    if unit == "spikes/bin":
        return scale * (results.info.frame_rate or 1.0), "spikes/s"
    return scale, unit


def true_positions(results: ScanResults, truth: GroundTruth) -> np.ndarray | None:
    """Return the true centre of each unit's receptive field, (unit, 2) in degrees; None if the screen is unknown."""
    if results.screen_deg is None:
        return None
    fields = truth.strf[[truth.unit_ids.index(unit) for unit in results.info.unit_ids]]
    peaks = [np.unravel_index(np.abs(field[best_lag(field)]).argmax(), field.shape[1:]) for field in fields]
    places = np.array([(column, row) for row, column in peaks], float)
    return pixels_to_degrees(places, results.info.input_shape[1:], results.screen_deg)


def mei_results(results: ScanResults, target: Mapping[str, Any], truth: GroundTruth | None) -> MEIResults | None:
    """Fetch the MEIs of one model and choice of units, with receptive fields where there are any."""
    scan_key = {name: results.member[name] for name in recording.Scan().primary_key}
    rows = (mei.MEI.Unit & results.key & dict(target) & scan_key).to_dicts(order_by="unit_id")
    if not rows:
        return None
    ids = [row["unit_id"] for row in rows]
    names = dict(zip(results.info.unit_ids, results.unit_names, strict=True))
    stimuli = np.stack([np.asarray(row["mei_movie"]) for row in rows])
    if truth is not None:
        fields_name = "True receptive field"
        fields: np.ndarray | None = np.stack([truth.strf[truth.unit_ids.index(unit)] for unit in ids])
    else:
        fields_name, fields = "Gradient of the model", _gradient_fields(results, ids, stimuli)
    correlations = None
    if fields is not None:
        with np.errstate(invalid="ignore", divide="ignore"):  # fields that are zero
            pairs = zip(stimuli[:, 0], fields, strict=True)
            correlations = np.array([match_receptive_field(movie, field).correlation for movie, field in pairs])
    return MEIResults(
        ids,
        [names[unit] for unit in ids],
        stimuli,
        np.array([row["mei_activation"] for row in rows], float),
        fields,
        fields_name,
        correlations,
    )


def _gradient_fields(results: ScanResults, ids: Sequence[int], stimuli: np.ndarray) -> np.ndarray | None:
    """Return the gradients (unit, lag, height, width) that were asked for first, no longer than the stimuli."""
    member = {name: results.member[name] for name in dataset.MultiDataset.Member().primary_key}
    table = receptive_field.GradientReceptiveField
    keys = (table.ScanFields & results.key & member).keys(order_by="field_hash")
    if not keys or stimuli.shape[1] > 1:
        return None
    units = (table.Unit & keys[0]).to_arrays("unit_id", order_by="unit_id").tolist()
    fields = np.asarray((table.ScanFields & keys[0]).fetch1("fields"))[:, 0, -stimuli.shape[2] :]
    return fields[[units.index(unit) for unit in ids]]
