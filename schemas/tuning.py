"""How units of models respond to gratings, Gabors, plaids, spots and rings that are computed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import datajoint as dj
import numpy as np

from pipeline.analysis.kinds import Tuning, tuning_of
from pipeline.analysis.sizes import SizeTuning, SurroundTuning
from pipeline.analysis.tuning import GratingTuning, PlaidTuning
from pipeline.configuration import Configuration
from pipeline.errors import ConfigurationError
from schemas import config, dataset, model, recording
from schemas.connection import schema as open_schema
from schemas.provenance import provenance_columns, provenance_row
from schemas.receptive_field import GradientReceptiveField, ask, best_device, members_of, scan_key
from schemas.restrictions import effective
from schemas.rows import null

schema = open_schema("tuning")

Key = dict[str, Any]


@schema
class TuningSelection(dj.Manual):
    """Tuning that is wanted: `UnitTuning.populate` measures this and no other.

    Gabors, spots and rings are shown where a unit's receptive field is, and in the middle of the screen if it has none:
    fields at grey may miss complex cells, fields over stimuli find them.
    """

    definition = """
    # Tuning that is wanted; stimuli are shown where the receptive fields are
    -> GradientReceptiveField
    -> config.TuningConfig
    """

    @classmethod
    def fill(cls, stimuli: Iterable[Mapping[str, Any]], *restrictions: Any) -> int:
        """Ask for the tuning of all models whose receptive fields are known and that the restrictions select.

        Parameters
        ----------
        stimuli : iterable of mapping
            Keys of `config.TuningConfig`.
        *restrictions
            Of `GradientReceptiveField`.

        Returns
        -------
        int
            How many are new.

        Examples
        --------
        >>> TuningSelection.fill(config.TuningConfig.Gratings.fill(), {"group_id": 1})  # doctest: +SKIP
        """
        fields = GradientReceptiveField.proj()
        for restriction in restrictions:
            fields = fields & effective(restriction, fields.heading.names, "receptive fields")
        return ask(cls, fields, stimuli, "tuning_hash")


@schema
class UnitTuning(dj.Computed):
    """What a set of stimuli tells of a model's units. Which part holds it depends on the kind of the set."""

    definition = f"""
    # Tuning of a model's units to a set of stimuli
    -> TuningSelection
    ---
    {provenance_columns("tuning")}
    """

    class ScanCurves(dj.Part):
        """The tuning curves of one scan's units."""

        definition = """
        # Tuning curves of one scan's units, in order of unit_id
        -> master
        -> dataset.MultiDataset.Member
        ---
        drive : <npy@main>  # (normalised responses above grey) unit, then what the set of stimuli varies, in its order
        """

    class Grating(dj.Part):
        """Tuning of one unit to gratings or Gabors; NULL where nothing drives it, or images have no such thing."""

        definition = """
        # Tuning of one unit to gratings or Gabors
        -> master
        -> dataset.MultiDataset.Member
        -> recording.Scan.Unit
        ---
        preferred_orientation=null : float64  # (deg) counter-clockwise, 0 for horizontal stripes
        preferred_direction=null : float64  # (deg) counter-clockwise, 0 for drift to the right
        preferred_spatial_frequency=null : float64  # (cycles/deg) between those shown
        preferred_temporal_frequency=null : float64  # (Hz) between those shown
        orientation_selectivity=null : float64  # 1 - circular variance over orientation
        direction_selectivity=null : float64  # 1 - circular variance over direction
        orientation_index=null : float64  # (preferred - orthogonal) / (preferred + orthogonal)
        direction_index=null : float64  # (preferred - opposite) / (preferred + opposite)
        modulation_ratio=null : float64  # first harmonic / mean above grey; NULL also if the mean is not above grey
        """

    class Plaid(dj.Part):
        """Whether one unit follows plaids or their gratings; NULL where that cannot be told."""

        definition = """
        # Response of one unit to plaids
        -> master
        -> dataset.MultiDataset.Member
        -> recording.Scan.Unit
        ---
        pattern_correlation=null : float64  # partial, with a unit that follows the plaid
        component_correlation=null : float64  # partial, with a unit that follows the gratings
        pattern_index=null : float64  # difference of their z: above 1.28 pattern, below -1.28 component
        """

    class Size(dj.Part):
        """Tuning of one unit to size; NULL where no disc drives it."""

        definition = """
        # Tuning of one unit to the size of discs
        -> master
        -> dataset.MultiDataset.Member
        -> recording.Scan.Unit
        ---
        preferred_contrast=null : float64  # 1 for bright, -1 for dark discs
        preferred_diameter=null : float64  # (deg) of those shown
        suppression_index=null : float64  # (best - largest) / best
        """

    class Surround(dj.Part):
        """What rings do to one unit's response to a disc; NULL where the disc does not drive it."""

        definition = """
        # Effect of rings on one unit
        -> master
        -> dataset.MultiDataset.Member
        -> recording.Scan.Unit
        ---
        preferred_contrast=null : float64  # 1 for a bright, -1 for a dark disc
        suppression_by_same=null : float64  # 1 - response with a ring of the same contrast / that without
        suppression_by_opposite=null : float64  # 1 - response with a ring of the opposite contrast / that without
        """

    def make_fetch(self, key: Key) -> tuple[Any, ...]:
        """Fetch where the weights are, where units look, the members with their screens, and the stimuli."""
        units = (GradientReceptiveField.Unit & key).proj("center_x_px", "center_y_px").to_dicts(order_by="unit_id")
        weights = (model.Model & key).fetch1("model_weights").path
        return weights, units, members_of(key), config.TuningConfig.load(key)

    def make_compute(
        self, key: Key, weights_path: str, units: list[Key], members: list[Key], settings: Configuration
    ) -> tuple[Any, ...]:
        """Show the stimuli to the units of one scan after the other, many at a time."""
        started = time.perf_counter()
        encoder, info = model.Model.load_encoder(key)
        encoder.to(best_device())
        found = []
        for member in members:
            data_key, scan = member["data_key"], scan_key(member)
            size = member["screen_width_deg"], member["screen_height_deg"]
            if None in size:
                raise ConfigurationError(
                    f"{data_key}: the size of the screen is not known, so stimuli cannot be shown in degrees: ingest "
                    "the scan with screen_deg"
                )
            own = [unit for unit in units if all(unit[name] == value for name, value in scan.items())]
            positions = [info[data_key].unit_ids.index(unit["unit_id"]) for unit in own]
            centres = np.array([(unit["center_x_px"], unit["center_y_px"]) for unit in own], dtype=float)
            tuning = tuning_of(encoder, data_key, positions, settings, size, centres)
            found.append((scan, [unit["unit_id"] for unit in own], tuning))
        return found, str(encoder.device), time.perf_counter() - started

    def make_insert(self, key: Key, found: list[tuple[Key, list[int], Tuning]], device: str, seconds: float) -> None:
        """Insert the model's row, its scans and their units."""
        self.insert1({**key, **provenance_row("tuning", seconds, device)})
        parts = {
            GratingTuning: self.Grating,
            PlaidTuning: self.Plaid,
            SizeTuning: self.Size,
            SurroundTuning: self.Surround,
        }
        for scan, unit_ids, tuning in found:
            self.ScanCurves.insert1({**key, **scan, "drive": tuning.drive.astype(np.float32)})
            parts[type(tuning)].insert(
                {
                    **key,
                    **scan,
                    "unit_id": unit_id,
                    **{name: null(getattr(tuning, name)[i]) for name in tuning.names()},
                }
                for i, unit_id in enumerate(unit_ids)
            )
