"""What trained models have learned."""

from __future__ import annotations

import time
from typing import Any

import datajoint as dj
import numpy as np

from pipeline.analysis.readouts import ReadoutProperties, pixels_to_degrees, readout_properties
from pipeline.errors import ConfigurationError
from pipeline.models import Encoder
from schemas import config, dataset, model, recording
from schemas.connection import schema as open_schema
from schemas.provenance import provenance_columns, provenance_row
from schemas.rows import null

schema = open_schema("analysis")

Key = dict[str, Any]


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
            scan = info[member["data_key"]]
            made = readout_properties(encoder, member["data_key"], scan)
            screen = member["screen_width_deg"], member["screen_height_deg"]
            degrees = np.full_like(made.positions, np.nan)
            if None not in screen:
                degrees = pixels_to_degrees(made.positions, scan.input_shape[1:], screen)
            found.append((member, scan.unit_ids, made, degrees))
        return found, time.perf_counter() - started

    def make_insert(
        self, key: Key, found: list[tuple[Key, tuple[int, ...], ReadoutProperties, np.ndarray]], seconds: float
    ) -> None:
        """Insert the model's row, its scans and their units."""
        self.insert1({**key, **provenance_row("readout", seconds)})
        for member, unit_ids, made, degrees in found:
            row = {**key, **{name: member[name] for name in dataset.MultiDataset.Member().primary_key}}
            in_order = made.feature_weights[np.argsort(unit_ids)]
            self.ScanReadout.insert1({**row, "feature_weights": in_order})
            self.Unit.insert(
                {
                    **row,
                    "unit_id": unit_id,
                    "position_x_px": float(made.positions[i, 0]),
                    "position_y_px": float(made.positions[i, 1]),
                    "position_x_deg": null(degrees[i, 0]),
                    "position_y_deg": null(degrees[i, 1]),
                    "spread_x_px": float(made.spread[i, 0]),
                    "spread_y_px": float(made.spread[i, 1]),
                    "feature_sparsity": null(made.sparsity[i]),
                }
                for i, unit_id in enumerate(unit_ids)
            )
