"""Most exciting inputs elsewhere: in their masks on natural images, and shown to the units of others.

As in `schemas.mei_analysis`, everything is wanted by adding its configuration.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import datajoint as dj
import numpy as np
import pandas as pd

from pipeline.datasets.distinct import distinct_stimuli
from pipeline.errors import ConfigurationError, DatasetError
from pipeline.mei.transplant import (
    TransplantResponses,
    cross_activations,
    matched,
    normalized,
    own_ranks,
    transplant_responses,
)
from schemas import config, dataset, model, stimulus
from schemas.connection import schema as open_schema
from schemas.found_meis import ScanMEIs, found_meis
from schemas.mei import MEI
from schemas.mei_analysis import TightMEIMask
from schemas.provenance import provenance_columns, provenance_row
from schemas.rows import null

schema = open_schema("mei_exchange")

Key = dict[str, Any]


@schema
class TransplantedMEI(dj.Computed):
    """Responses to MEIs in their tight masks on natural images; see `pipeline.mei.transplant.transplant`.

    Wanted by ``config.MEIAnalysisConfig.Transplant.fill()``, for every `TightMEIMask` that is there. Models on the data
    of a function are left out.
    """

    definition = f"""
    # Responses to most exciting inputs on natural images
    -> TightMEIMask
    -> config.MEIAnalysisConfig
    ---
    {provenance_columns("transplant")}
    """

    class Background(dj.Part):
        """One of the natural images; of movies, the last frames."""

        definition = """
        # One natural image
        -> master
        -> dataset.MultiDataset.Member
        background_idx : int32  # its position in the responses
        ---
        -> stimulus.Condition
        """

    class Unit(dj.Part):
        """The responses of one unit."""

        definition = """
        # Responses of one unit
        -> master
        -> TightMEIMask.Unit
        ---
        alone_mean : float64  # (normalised responses) mean response to the backgrounds alone
        transplanted_mean : float64  # (normalised responses) mean response to them with the MEI
        transplant_ratio=null : float64  # transplanted_mean relative to the response to the MEI; NULL unless above 0
        transplant_responses : <npy@main>  # (normalised responses) alone and with the MEI, background
        """

    @property
    def key_source(self) -> dj.expression.QueryExpression:
        """Every tight mask with every configuration of the kind."""
        wanted = TightMEIMask.proj() * config.MEIAnalysisConfig.Transplant.proj()
        return wanted - config.DataConfig.Function.proj()

    def make_fetch(self, key: Key) -> tuple[Any, ...]:
        """Fetch where the weights are, and the configuration."""
        return (model.Model & key).fetch1("model_weights").path, config.MEIAnalysisConfig.load(key)

    def make_compute(self, key: Key, weights_path: str, settings: Any) -> tuple[Any, ...]:
        """Put the MEIs of each scan's units on the same backgrounds."""
        started = time.perf_counter()
        loaders = dataset.get_dataloaders(key)
        found = []
        for scan in found_meis(key):
            rows = [{**row, "mask_hash": key["mask_hash"]} for row in scan.rows]
            masks = np.stack([np.asarray((TightMEIMask.Unit & row).fetch1("tight_mask")) for row in rows])
            natural = distinct_stimuli(loaders, scan.data_key, (settings.background_tier,))
            names, backgrounds = natural.draw(settings.backgrounds, scan.stimuli.shape[2], settings.background_seed)
            found.append((scan, names, transplant_responses(scan.stimuli, masks, backgrounds, scan.respond, settings)))
        return found, time.perf_counter() - started

    def make_insert(
        self, key: Key, found: list[tuple[ScanMEIs, tuple[str, ...], TransplantResponses]], seconds: float
    ) -> None:
        """Insert the row, the backgrounds and the units."""
        self.insert1({**key, **provenance_row("transplant", seconds)})
        for scan, names, responses in found:
            member = {name: scan.rows[0][name] for name in dataset.MultiDataset.Member().primary_key}
            self.Background.insert(
                {**key, **member, "background_idx": i, "condition_hash": name} for i, name in enumerate(names)
            )
            alone, with_mei = responses.alone.mean(axis=1), responses.transplanted.mean(axis=1)
            ratio = np.divide(with_mei, scan.activation, out=np.full_like(with_mei, np.nan), where=scan.activation > 0)
            self.Unit.insert(
                {
                    **key,
                    **row,
                    "alone_mean": float(alone[i]),
                    "transplanted_mean": float(with_mei[i]),
                    "transplant_ratio": null(ratio[i]),
                    "transplant_responses": np.stack([responses.alone[i], responses.transplanted[i]]),
                }
                for i, row in enumerate(scan.rows)
            )


@schema
class MEIConfusion(dj.Computed):
    """The responses of all units of a choice to the MEIs of all; see `pipeline.mei.transplant.cross_activations`.

    Wanted by ``config.MEIAnalysisConfig.CrossActivation.fill()``.
    """

    definition = f"""
    # Responses of all units of a choice to the most exciting inputs of all
    -> MEI
    -> config.MEIAnalysisConfig
    ---
    confusion_activations : <npy@main>  # (normalised responses) unit, MEI; both in order of confusion_idx
    own_best_share : float64  # share of units that respond to no other MEI more than to their own
    {provenance_columns("confusion")}
    """

    class Unit(dj.Part):
        """One unit's place in the matrix."""

        definition = """
        # One unit and its MEI in the matrix
        -> master
        -> MEI.Unit
        ---
        confusion_idx : int32  # row of the unit and column of its MEI
        own_activation : float64  # (normalised responses) response to its own MEI as it was shown
        own_mei_rank : int32  # rank of its own MEI among all, by its response; 1 for the best
        own_unit_rank : int32  # its rank among all units, by the response to its MEI; 1 for the best
        """

    @property
    def key_source(self) -> dj.expression.QueryExpression:
        """Every MEI with every configuration of the kind."""
        return MEI.proj() * config.MEIAnalysisConfig.CrossActivation.proj()

    def make_fetch(self, key: Key) -> tuple[Any, ...]:
        """Fetch where the weights are, and the configuration."""
        return (model.Model & key).fetch1("model_weights").path, config.MEIAnalysisConfig.load(key)

    def make_compute(self, key: Key, weights_path: str, settings: Any) -> tuple[Any, ...]:
        """Show every MEI to every unit.

        Raises
        ------
        DatasetError
            If frames of the scans differ in size: MEIs of one scan cannot be shown to units of another.
        """
        started = time.perf_counter()
        scans = found_meis(key)
        shapes = {scan.data_key: scan.stimuli.shape[1:] for scan in scans}
        if len(set(shapes.values())) > 1:
            raise DatasetError(
                f"the MEIs of {key['target_name']!r} differ in shape, {shapes}: choose units of one scan at a time"
            )
        stimuli = np.concatenate([scan.stimuli for scan in scans])
        if settings.match:
            stimuli = matched(stimuli, settings.mean, settings.contrast)
        matrix = cross_activations(stimuli, [(scan.respond, len(scan.rows)) for scan in scans])
        return [row for scan in scans for row in scan.rows], matrix, time.perf_counter() - started

    def make_insert(self, key: Key, rows: list[Key], matrix: np.ndarray, seconds: float) -> None:
        """Insert the matrix and its units."""
        of_meis, of_units = own_ranks(matrix, axis=1), own_ranks(matrix, axis=0)
        self.insert1(
            {
                **key,
                "confusion_activations": matrix,
                "own_best_share": float((of_meis == 1).mean()),
                **provenance_row("confusion", seconds),
            }
        )
        self.Unit.insert(
            {
                **key,
                **row,
                "confusion_idx": i,
                "own_activation": float(matrix[i, i]),
                "own_mei_rank": int(of_meis[i]),
                "own_unit_rank": int(of_units[i]),
            }
            for i, row in enumerate(rows)
        )

    @classmethod
    def matrix(cls, key: Mapping[str, Any], by: str | None = None) -> pd.DataFrame:
        """Return a matrix, one row a unit and one column an MEI, both named by scan and unit_id.

        Parameters
        ----------
        key : mapping
            Of one row.
        by : str, optional
            How to normalise it; see `pipeline.mei.transplant.normalized`.

        Raises
        ------
        ConfigurationError
            If the key does not name exactly one matrix.
        """
        if len(cls & key) != 1:
            raise ConfigurationError(
                f"{dict(key)} names {len(cls & key)} matrices: name one, and populate MEIConfusion after "
                "config.MEIAnalysisConfig.CrossActivation.fill()"
            )
        activations = np.asarray((cls & key).fetch1("confusion_activations"))
        rows = (cls.Unit & key).to_dicts(order_by="confusion_idx")
        names = ["subject", "session", "scan_idx", "unit_id"]
        units = pd.MultiIndex.from_tuples([tuple(row[name] for name in names) for row in rows], names=names)
        values = activations if by is None else normalized(activations, by)
        return pd.DataFrame(values, index=units, columns=units)
