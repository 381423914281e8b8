"""What trained models have learned."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import datajoint as dj
import numpy as np
import pandas as pd

from pipeline.analysis.readouts import (
    ReadoutProperties,
    gaze_shifts,
    pixel_size,
    pixels_to_degrees,
    readout_properties,
)
from pipeline.analysis.scores import SCORED_TIERS
from pipeline.datasets.loaders import ScanLoader
from pipeline.errors import ConfigurationError
from pipeline.models import Encoder
from pipeline.training.prediction import predicted_trials
from schemas import config, dataset, model, recording, stimulus
from schemas.connection import schema as open_schema
from schemas.provenance import provenance_columns, provenance_row
from schemas.restrictions import effective
from schemas.rows import null

schema = open_schema("analysis")

Key = dict[str, Any]
Screen = tuple[float, float]

PREDICTED_TIERS = ("train", *SCORED_TIERS, "withheld")
"""Tiers of which predictions can be stored."""


@schema
class ReadoutAnalysis(dj.Computed):
    """Where the readouts of a model look and which features they weigh."""

    definition = f"""
    # Positions and features of a model's readouts
    -> model.Model
    ---
    {provenance_columns("readout")}
    """

    class ScanReadout(dj.Part):
        """The features of all readouts of one scan."""

        definition = """
        # Features of all readouts of one scan
        -> master
        -> dataset.MultiDataset.Member
        ---
        feature_weights : <npy@main>  # unit, channel; units in order of unit_id
        spatial_masks=null : <npy@main>  # unit, row, column of the feature maps; NULL if units look at a point
        map_x_px : float64  # (px) of the feature maps' first place, to the right of the first pixel
        map_y_px : float64  # (px) of the feature maps' first place, below the first pixel
        map_pitch_px : float64  # (px) between neighbouring places of the feature maps
        """

    class GazeShift(dj.Part):
        """How far an eye position moves all readouts of one scan; nothing for scans without a shifter."""

        definition = """
        # How far an eye position moves all readouts of one scan
        -> master
        -> dataset.MultiDataset.Member
        gaze_x : int32  # (std) horizontal eye position, from its training mean
        gaze_y : int32  # (std) vertical eye position, from its training mean
        ---
        shift_x_px : float64  # (px) to the right of where the readouts look without a shifter
        shift_y_px : float64  # (px) below it
        shift_x_deg=null : float64  # (deg) to the right; NULL if the screen's size is unknown
        shift_y_deg=null : float64  # (deg) above
        """

    class Unit(dj.Part):
        """The readout of one unit."""

        definition = """
        # Readout of one unit
        -> master
        -> dataset.MultiDataset.Member
        -> recording.Scan.Unit
        ---
        position_x_px : float64  # (px) to the right of the first pixel of the stored frames
        position_y_px : float64  # (px) below the first pixel of the stored frames
        position_x_deg=null : float64  # (deg) to the right of the screen's centre; NULL if its size is unknown
        position_y_deg=null : float64  # (deg) above the screen's centre
        spread_x_px : float64  # (px) standard deviation of the position
        spread_y_px : float64  # (px) standard deviation of the position
        spread_x_deg=null : float64  # (deg) the same as visual angle
        spread_y_deg=null : float64  # (deg) the same as visual angle
        feature_sparsity=null : float64  # 0: all channels alike, 1: a single one (Hoyer 2004)
        """

    @property
    def key_source(self) -> dj.expression.QueryExpression:
        """Every single model with readouts of ours; what a function made keeps them to itself."""
        return (model.Model.proj() & config.NetworkConfig.CorePlusReadout.proj()) - config.Seed.Member.proj()

    def make_fetch(self, key: Key) -> tuple[Any, ...]:
        """Fetch where the weights are and the size of the screens."""
        scans = dataset.MultiDataset.Member * recording.Scan.proj("screen_width_deg", "screen_height_deg")
        members = (scans & {"group_id": key["group_id"]}).to_dicts(order_by="data_key")
        return (model.Model & key).fetch1("model_weights").path, members

    def make_compute(self, key: Key, weights_path: str, members: list[Key]) -> tuple[Any, ...]:
        """Read positions and features out of the weights."""
        started = time.perf_counter()
        encoder, info = model.Model.load_encoder(key)
        if not isinstance(encoder, Encoder):
            raise ConfigurationError("a network that a function made has no readouts of ours to be analysed")
        found = []
        for member in members:
            data_key, scan = member["data_key"], info[member["data_key"]]
            made, shifts = readout_properties(encoder, data_key, scan), gaze_shifts(encoder, data_key, scan)
            screen = member["screen_width_deg"], member["screen_height_deg"]
            frame = scan.input_shape[1:]
            found.append(
                (
                    {**key, **{name: member[name] for name in dataset.MultiDataset.Member().primary_key}},
                    _scan_row(scan.unit_ids, made),
                    _shift_rows(shifts, frame, None if None in screen else screen),
                    _unit_rows(scan.unit_ids, made, frame, None if None in screen else screen),
                )
            )
        return found, time.perf_counter() - started

    def make_insert(self, key: Key, found: list[tuple[Key, Key, list[Key], list[Key]]], seconds: float) -> None:
        """Insert the model's row, its scans and their units."""
        self.insert1({**key, **provenance_row("readout", seconds)})
        for scan_key, scan, shifts, units in found:
            self.ScanReadout.insert1({**scan_key, **scan})
            self.GazeShift.insert({**scan_key, **row} for row in shifts)
            self.Unit.insert({**scan_key, **row} for row in units)


def _scan_row(unit_ids: tuple[int, ...], made: ReadoutProperties) -> Key:
    order = np.argsort(unit_ids)
    return {
        "feature_weights": made.feature_weights[order],
        "spatial_masks": None if made.masks is None else made.masks[order],
        "map_x_px": made.first_place[0],
        "map_y_px": made.first_place[1],
        "map_pitch_px": made.pitch,
    }


def _shift_rows(
    shifts: dict[tuple[int, int], tuple[float, float]], frame: tuple[int, int], screen: Screen | None
) -> list[Key]:
    width, height = (np.nan, np.nan) if screen is None else pixel_size(frame, screen)
    return [
        {
            "gaze_x": gaze_x,
            "gaze_y": gaze_y,
            "shift_x_px": x,
            "shift_y_px": y,
            "shift_x_deg": null(x * width),
            "shift_y_deg": null(-y * height),
        }
        for (gaze_x, gaze_y), (x, y) in shifts.items()
    ]


def _unit_rows(
    unit_ids: tuple[int, ...], made: ReadoutProperties, frame: tuple[int, int], screen: Screen | None
) -> list[Key]:
    degrees = spread = np.full_like(made.positions, np.nan)
    if screen is not None:
        degrees = pixels_to_degrees(made.positions, frame, screen)
        spread = made.spread * pixel_size(frame, screen)
    return [
        {
            "unit_id": unit_id,
            "position_x_px": float(made.positions[i, 0]),
            "position_y_px": float(made.positions[i, 1]),
            "position_x_deg": null(degrees[i, 0]),
            "position_y_deg": null(degrees[i, 1]),
            "spread_x_px": float(made.spread[i, 0]),
            "spread_y_px": float(made.spread[i, 1]),
            "spread_x_deg": null(spread[i, 0]),
            "spread_y_deg": null(spread[i, 1]),
            "feature_sparsity": null(made.sparsity[i]),
        }
        for i, unit_id in enumerate(unit_ids)
    ]


@schema
class PredictionSelection(dj.Manual):
    """Predictions that are wanted: they may be large, so `Prediction.populate` stores these and no others."""

    definition = """
    # Predictions that are wanted
    -> model.Model
    prediction_tier : varchar(16)  # 'train', 'validation', 'test', 'final', 'ood' or 'withheld'
    """

    @classmethod
    def fill(cls, *restrictions: Any, tiers: Sequence[str] = ("test",)) -> int:
        """Ask for the predictions of all models that the restrictions select, and return how many are new.

        Models on the data of a function are left out, for the trials of such data have no names.

        Raises
        ------
        ConfigurationError
            If there is no such tier, or a restriction names nothing that models have.
        """
        unknown = set(tiers) - set(PREDICTED_TIERS)
        if unknown:
            raise ConfigurationError(f"no tier {unknown.pop()!r}: it is one of {', '.join(PREDICTED_TIERS)}")
        models = model.Model.proj() - config.DataConfig.Function.proj()
        for restriction in restrictions:
            models = models & effective(restriction, models.heading.names, "models")
        wanted = [{**key, "prediction_tier": tier} for key in models.keys() for tier in tiers]
        there = (cls & wanted).keys() if wanted else []
        new = [row for row in wanted if row not in there]
        cls.insert(new, skip_duplicates=True)
        return len(new)


@schema
class Prediction(dj.Computed):
    """What a model predicts for every trial of a tier, whole and with the behaviour of that trial."""

    definition = f"""
    # Predicted responses to every trial of a tier
    -> PredictionSelection
    ---
    prediction_trials : int32  # trials in all scans
    {provenance_columns("prediction")}
    """

    class Scan(dj.Part):
        """The predictions for the trials of one scan, joined in time."""

        definition = """
        # Predictions for the trials of one scan
        -> master
        -> dataset.MultiDataset.Member
        ---
        predictions : <npy@main>  # (responses as loaders give them) unit, frame of all trials; units as in the loaders
        prediction_lost_frames : int32  # frames at the start of each movie that have no prediction
        """

    class Trial(dj.Part):
        """Where the prediction for one trial lies."""

        definition = """
        # Where the prediction for one trial lies
        -> master.Scan
        -> stimulus.Trial
        ---
        first_frame : int64  # position of its first predicted frame among those of all trials
        predicted_frames : int32  # frames that have a prediction; 1 for images
        """

    def make_fetch(self, key: Key) -> tuple[Any, ...]:
        """Fetch where the weights and the data are, and the members."""
        members = (dataset.MultiDataset.Member & {"group_id": key["group_id"]}).to_dicts(order_by="data_key")
        where = dataset.MultiDataset.paths(key), dataset.MultiDataset.units(key), config.DataConfig.load(key)
        return (model.Model & key).fetch1("model_weights").path, members, *where

    def make_compute(
        self, key: Key, weights_path: str, members: list[Key], paths: dict[str, str], units: dict[str, Any], data: Any
    ) -> tuple[Any, ...]:
        """Predict; in memory are all predictions for one tier."""
        started = time.perf_counter()
        encoder, _ = model.Model.load_encoder(key)
        loaders, _ = dataset.loaders_of(paths, units, data, 1, key["seed"])
        found = []
        for member in members:
            loader = loaders.get(key["prediction_tier"], {}).get(member["data_key"])
            if isinstance(loader, ScanLoader) and loader.trials:
                numbers = [loader.dataset.stored.trial_idx[row] for row in loader.trials]
                pairs = predicted_trials(encoder, loader.in_full(), member["data_key"])
                found.append((member, numbers, [predicted for _, predicted in pairs]))
        return found, encoder.lost_frames, time.perf_counter() - started

    def make_insert(
        self, key: Key, found: list[tuple[Key, list[int], list[np.ndarray]]], lost_frames: int, seconds: float
    ) -> None:
        """Insert the predictions and where each trial lies in them."""
        trials = sum(len(numbers) for _, numbers, _ in found)
        self.insert1({**key, "prediction_trials": trials, **provenance_row("prediction", seconds)})
        for member, numbers, predicted in found:
            row = {**key, **{name: member[name] for name in dataset.MultiDataset.Member().primary_key}}
            joined = np.concatenate(predicted, axis=1)
            self.Scan.insert1({**row, "predictions": joined, "prediction_lost_frames": lost_frames})
            lengths = [trial.shape[1] for trial in predicted]
            starts = np.cumsum([0, *lengths[:-1]]).tolist()
            self.Trial.insert(
                {**row, "trial_idx": number, "first_frame": start, "predicted_frames": length}
                for number, start, length in zip(numbers, starts, lengths, strict=True)
            )

    @classmethod
    def trials(cls, key: Mapping[str, Any]) -> pd.DataFrame:
        """Return the predictions for one scan, one row a trial in order of time.

        Parameters
        ----------
        key : mapping
            Of a model, with ``prediction_tier``, and of a scan if its group has several.

        Returns
        -------
        DataFrame
            By ``trial_idx``: ``condition_hash``, ``prediction`` (unit, time) and ``lost_frames``, the frames before its
            first. ``Prediction.trials(key).prediction.tolist()`` is a list of arrays.

        Raises
        ------
        ConfigurationError
            If the key does not name the predictions of exactly one scan.
        """
        scans = (cls.Scan & key).to_dicts()
        if len(scans) != 1:
            raise ConfigurationError(
                f"{dict(key)} names predictions of {len(scans)} scans: name one model, prediction_tier and scan, and "
                "populate Prediction after PredictionSelection.fill"
            )
        predictions = np.asarray(scans[0]["predictions"])
        one = {name: scans[0][name] for name in cls.Scan().primary_key}
        rows = ((cls.Trial & one) * stimulus.Trial.proj("condition_hash")).to_dicts(order_by="first_frame")
        columns = {
            "condition_hash": [row["condition_hash"] for row in rows],
            "prediction": [
                predictions[:, row["first_frame"] : row["first_frame"] + row["predicted_frames"]] for row in rows
            ],
            "lost_frames": scans[0]["prediction_lost_frames"],
        }
        return pd.DataFrame(columns, index=pd.Index([row["trial_idx"] for row in rows], name="trial_idx"))
