"""Receptive fields of models and of data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datajoint as dj
import numpy as np
import torch

from pipeline.analysis.fits import FieldFits
from pipeline.analysis.gradients import GradientFields
from pipeline.analysis.kinds import DescribedFields, gradient_fields, triggered_fields
from pipeline.analysis.triggered import TriggeredFields
from pipeline.configuration import Configuration
from schemas import config, dataset, model, recording
from schemas.connection import schema as open_schema
from schemas.provenance import provenance_columns, provenance_row
from schemas.restrictions import effective
from schemas.rows import null

schema = open_schema("receptive_field")

Key = dict[str, Any]

_FITTED = {
    "x": "fit_x_px=null : float64  # (px) centre of the fit, to the right of the first pixel of the stored frames",
    "y": "fit_y_px=null : float64  # (px) centre of the fit, below the first pixel; NULL if the field is zero",
    "sigma_major": "fit_sigma_major_px=null : float64  # (px) std of the centre along its longer axis",
    "sigma_minor": "fit_sigma_minor_px=null : float64  # (px) std of the centre along its shorter axis",
    "orientation": "fit_orientation_deg=null : float64  # (deg) of the longer axis, counter-clockwise from horizontal",
    "amplitude": "fit_amplitude=null : float64  # of the centre, in the unit of the spatial profile; negative for OFF",
    "surround_amplitude": "fit_surround_amplitude=null : float64  # of the surround; NULL for a single Gaussian",
    "surround_scale": "fit_surround_scale=null : float64  # std of the surround in those of the centre",
    "quality": "fit_quality=null : float64  # share of the energy of the spatial profile that the fit explains",
}
_DESCRIBED = "\n".join(
    (
        "center_x_px=null : float64  # (px) where the energy is, to the right of the first pixel of the stored frames",
        "center_y_px=null : float64  # (px) below the first pixel; NULL if the field is zero",
        "separability=null : float64  # share of the field's energy in one product of space and time",
        *_FITTED.values(),
    )
)


def best_device() -> str:
    """Return the device on which to compute: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _described_rows(found: DescribedFields) -> list[Key]:
    """Return the columns of `_DESCRIBED` for every unit."""
    columns: dict[str, np.ndarray] = {
        "center_x_px": found.centres[:, 0],
        "center_y_px": found.centres[:, 1],
        "separability": found.parts.separability,
        **{_FITTED[name].split("=")[0]: getattr(found.fits, name) for name in FieldFits.names()},
    }
    return [{name: null(values[unit]) for name, values in columns.items()} for unit in range(len(found.centres))]


def _profiles(found: DescribedFields) -> Key:
    return {
        "spatial_profiles": found.parts.spatial.astype(np.float32),
        "temporal_profiles": found.parts.temporal.astype(np.float32),
    }


def members_of(key: Mapping[str, Any]) -> list[Key]:
    """Return the members of a group with the size of their screens, in order of data_key."""
    scans = dataset.MultiDataset.Member * recording.Scan.proj("screen_width_deg", "screen_height_deg")
    return (scans & {"group_id": key["group_id"]}).to_dicts(order_by="data_key")  # type: ignore[no-any-return]


def scan_key(member: Mapping[str, Any]) -> Key:
    """Return the key of a member without what else is known of it."""
    return {name: member[name] for name in dataset.MultiDataset.Member().primary_key}


def _in_order(unit_ids: Sequence[int]) -> list[int]:
    """Return the positions of units in the readout in order of unit_id."""
    return [int(position) for position in np.argsort(unit_ids)]


def ask(table: Any, chosen: Any, configurations: Iterable[Mapping[str, Any]], name: str) -> int:
    """Insert every chosen key with every configuration into a selection, and return how many are new."""
    wanted = [{**key, name: other[name]} for key in chosen.keys() for other in configurations]
    there = (table & wanted).keys() if wanted else []
    new = [row for row in wanted if row not in there]
    table.insert(new, skip_duplicates=True)
    return len(new)


@schema
class GradientFieldSelection(dj.Manual):
    """Receptive fields of models that are wanted: `GradientReceptiveField.populate` finds these and no others."""

    definition = """
    # Receptive fields of models that are wanted
    -> model.Model
    -> config.FieldConfig
    """

    @classmethod
    def fill(cls, fields: Iterable[Mapping[str, Any]], *restrictions: Any) -> int:
        """Ask for the receptive fields of all models that the restrictions select, and return how many are new.

        Models on the data of a function are left out, for the units of such data have no names.

        Parameters
        ----------
        fields : iterable of mapping
            Keys of `config.FieldConfig`.
        *restrictions
            Of `model.Model`.

        Examples
        --------
        >>> GradientFieldSelection.fill(config.FieldConfig.AtGrey.fill(), {"group_id": 1})  # doctest: +SKIP
        """
        models = model.Model.proj() - config.DataConfig.Function.proj()
        for restriction in restrictions:
            models = models & effective(restriction, models.heading.names, "models")
        return ask(cls, models, fields, "field_hash")


@schema
class GradientReceptiveField(dj.Computed):
    """Receptive fields of models: gradients of the units' responses to images, or to movies over some lags."""

    definition = f"""
    # Receptive fields of a model's units
    -> GradientFieldSelection
    ---
    {provenance_columns("gradient_field")}
    """

    class ScanFields(dj.Part):
        """The fields of one scan's units."""

        definition = """
        # Receptive fields of one scan's units, in order of unit_id
        -> master
        -> dataset.MultiDataset.Member
        ---
        fields : <npy@main>  # (normalised response / std of a pixel) unit, channel, lag (latest last), height, width
        spatial_profiles : <npy@main>  # unit, height, width; times the temporal profile it is nearest to the field
        temporal_profiles : <npy@main>  # unit, channel, lag; of length 1, largest deviation positive
        field_stimuli : int32  # images or clips that gradients were averaged over
        """

    class Unit(dj.Part):
        """The field of one unit."""

        definition = f"""
        # Receptive field of one unit
        -> master
        -> dataset.MultiDataset.Member
        -> recording.Scan.Unit
        ---
        field_response : float64  # (normalised responses) to what was differentiated at
        {_DESCRIBED}
        """

    def make_fetch(self, key: Key) -> tuple[Any, ...]:
        """Fetch where the weights and the data are, the members and the configuration."""
        where = dataset.MultiDataset.paths(key), dataset.MultiDataset.units(key), config.DataConfig.load(key)
        weights = (model.Model & key).fetch1("model_weights").path
        return weights, members_of(key), config.FieldConfig.load(key), *where

    def make_compute(
        self,
        key: Key,
        weights_path: str,
        members: list[Key],
        settings: Configuration,
        paths: dict[str, str],
        units: dict[str, Any],
        data: Configuration,
    ) -> tuple[Any, ...]:
        """Differentiate the units of one scan after the other, many at a time."""
        started = time.perf_counter()
        encoder, info = model.Model.load_encoder(key)
        encoder.to(best_device())
        loaders, _ = dataset.loaders_of(paths, units, data, 1, 0)
        found = []
        for member in members:
            unit_ids = info[member["data_key"]].unit_ids
            order = _in_order(unit_ids)
            training = loaders["train"][member["data_key"]].in_full()
            described = gradient_fields(encoder, member["data_key"], order, settings, training)
            found.append((scan_key(member), [unit_ids[position] for position in order], described))
        return found, str(encoder.device), time.perf_counter() - started

    def make_insert(
        self, key: Key, found: list[tuple[Key, list[int], DescribedFields]], device: str, seconds: float
    ) -> None:
        """Insert the model's row, its scans and their units."""
        self.insert1({**key, **provenance_row("gradient_field", seconds, device)})
        for scan, unit_ids, described in found:
            assert isinstance(described.found, GradientFields)
            fields = {"fields": described.found.fields, "field_stimuli": described.found.stimuli}
            self.ScanFields.insert1({**key, **scan, **fields, **_profiles(described)})
            self.Unit.insert(
                {**key, **scan, "unit_id": unit_id, "field_response": float(response), **row}
                for unit_id, response, row in zip(
                    unit_ids, described.found.response, _described_rows(described), strict=True
                )
            )


@schema
class TriggeredAverageSelection(dj.Manual):
    """Triggered averages that are wanted: `SpikeTriggeredAverage.populate` finds these and no others."""

    definition = """
    # Triggered averages that are wanted
    -> dataset.MultiDataset
    -> config.DataConfig
    -> config.TriggeredConfig
    """

    @classmethod
    def fill(cls, averages: Iterable[Mapping[str, Any]], *restrictions: Any) -> int:
        """Ask for the averages of all groups and data configurations that fit and that the restrictions select.

        Parameters
        ----------
        averages : iterable of mapping
            Keys of `config.TriggeredConfig`.
        *restrictions
            Of `dataset.MultiDataset` joined with `config.DataConfig`.

        Returns
        -------
        int
            How many are new.
        """
        pairs = dataset.fitting() - config.DataConfig.Function.proj()
        for restriction in restrictions:
            pairs = pairs & effective(restriction, pairs.heading.names, "groups and data configurations")
        return ask(cls, pairs, averages, "triggered_hash")


@schema
class SpikeTriggeredAverage(dj.Computed):
    """Receptive fields of data, without any model: averages of training stimuli around responses, and their null."""

    definition = f"""
    # Response-triggered averages of the units of a group
    -> TriggeredAverageSelection
    ---
    {provenance_columns("triggered")}
    """

    class ScanFields(dj.Part):
        """The averages of one scan's units."""

        definition = """
        # Response-triggered averages of one scan's units, in order of unit_id
        -> master
        -> dataset.MultiDataset.Member
        ---
        fields : <npy@main>  # (std of the training stimuli) unit, channel, lag (latest last), height, width
        fields_z : <npy@main>  # the same in std of the null
        spatial_profiles : <npy@main>  # unit, height, width; times the temporal profile it is nearest to the field
        temporal_profiles : <npy@main>  # unit, channel, lag; of length 1, largest deviation positive
        triggered_samples : int32  # images or frames averaged
        """

    class Unit(dj.Part):
        """The average of one unit."""

        definition = f"""
        # Response-triggered average of one unit
        -> master
        -> dataset.MultiDataset.Member
        -> recording.Scan.Unit
        ---
        peak_z=null : float64  # log of the field's highest energy, in std from the mean of its null
        peak_p=null : float64  # share of permutations with an energy as high, the field itself counted as one
        {_DESCRIBED}
        """

    def make_fetch(self, key: Key) -> tuple[Any, ...]:
        """Fetch where the data are, the members and the configuration."""
        where = dataset.MultiDataset.paths(key), dataset.MultiDataset.units(key), config.DataConfig.load(key)
        return members_of(key), config.TriggeredConfig.load(key), *where

    def make_compute(
        self,
        key: Key,
        members: list[Key],
        settings: Configuration,
        paths: dict[str, str],
        units: dict[str, Any],
        data: Configuration,
    ) -> tuple[Any, ...]:
        """Average the training trials of one scan after the other, many units at a time."""
        started = time.perf_counter()
        loaders, info = dataset.loaders_of(paths, units, data, 1, 0)
        found = []
        for member in members:
            data_key = member["data_key"]
            training = loaders["train"][data_key].in_full()
            described = triggered_fields(training, info[data_key], settings, best_device())
            found.append((scan_key(member), info[data_key].unit_ids, described))
        return found, best_device(), time.perf_counter() - started

    def make_insert(
        self, key: Key, found: list[tuple[Key, tuple[int, ...], DescribedFields]], device: str, seconds: float
    ) -> None:
        """Insert the group's row, its scans and their units."""
        self.insert1({**key, **provenance_row("triggered", seconds, device)})
        for scan, unit_ids, described in found:
            average, order = described.found, _in_order(unit_ids)
            assert isinstance(average, TriggeredFields)
            arrays = {"fields": average.fields, "fields_z": average.z, **_profiles(described)}
            ordered = {name: values[order] for name, values in arrays.items()}
            self.ScanFields.insert1({**key, **scan, **ordered, "triggered_samples": average.samples})
            rows = _described_rows(described)
            self.Unit.insert(
                {
                    **key,
                    **scan,
                    "unit_id": unit_ids[i],
                    "peak_z": null(average.peak_z[i]),
                    "peak_p": null(average.peak_p[i]),
                    **rows[i],
                }
                for i in order
            )
