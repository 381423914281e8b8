"""Most exciting inputs of chosen units of chosen models."""

from __future__ import annotations

import time
from typing import Any

import datajoint as dj

from pipeline.mei.engine import MEIs, find_meis, steps_at_most
from schemas import config, dataset, model
from schemas.connection import schema as open_schema
from schemas.progress import bar
from schemas.provenance import provenance_columns, provenance_row
from schemas.rows import null
from schemas.selection import TargetDataset, TargetModel

schema = open_schema("mei")

Key = dict[str, Any]


@schema
class MEI(dj.Computed):
    """The most exciting inputs of all units of a choice, found side by side with one model."""

    definition = f"""
    # Most exciting inputs of a choice of units
    -> TargetModel
    -> TargetDataset
    -> config.MEIConfig
    ---
    mei_units : int32  # number of units
    mei_converged : int32  # units whose response had stopped rising
    {provenance_columns("mei")}
    """

    class Unit(dj.Part):
        """The most exciting input of one unit."""

        definition = """
        # Most exciting input of one unit
        -> master
        -> TargetDataset.Unit
        ---
        mei_movie : <npy@main>  # (grey value) channel, time, height, width; images have one frame
        mei_activation : float64  # (normalised responses) predicted response to the last frame
        mei_grey_activation : float64  # (normalised responses) predicted response to mean grey
        mei_best_frame : int32  # frame that differs most from mean grey
        mei_best_iteration : int32  # step at which it was met
        mei_unit_converged : bool  # whether the response had stopped rising
        mei_trajectory : <npy@main>  # (normalised responses) response at each step
        """

    def make_fetch(self, key: Key) -> tuple[Any, ...]:
        """Fetch where the weights are, the units and the configuration."""
        units = (TargetDataset.Unit.proj() * dataset.MultiDataset.Member & key).to_dicts(
            order_by=("data_key", "unit_id")
        )
        return (model.Model & key).fetch1("model_weights").path, units, config.MEIConfig.load(key)

    def make_compute(self, key: Key, weights_path: str, units: list[Key], settings: Any) -> tuple[Any, ...]:
        """Optimise one image or movie a unit, all units of a scan together, by the kind of the configuration."""
        started = time.perf_counter()
        encoder, info = model.Model.load_encoder(key)
        found = []
        for data_key in dict.fromkeys(unit["data_key"] for unit in units):
            chosen = [unit for unit in units if unit["data_key"] == data_key]
            positions = [info[data_key].unit_ids.index(unit["unit_id"]) for unit in chosen]
            with bar(steps_at_most(settings, len(chosen)), f"MEIs of {len(chosen)} units", "step") as shown:
                found.append((chosen, find_meis(encoder, data_key, info[data_key], positions, settings, shown.update)))
        return found, time.perf_counter() - started

    def make_insert(self, key: Key, found: list[tuple[list[Key], MEIs]], seconds: float) -> None:
        """Insert the MEIs."""
        self.insert1(
            {
                **key,
                "mei_units": sum(len(chosen) for chosen, _ in found),
                "mei_converged": sum(int(meis.converged.sum()) for _, meis in found),
                **provenance_row("mei", seconds),
            }
        )
        for chosen, meis in found:
            deviation = (meis.stimuli - meis.stimuli.mean(axis=(2, 3, 4), keepdims=True)) ** 2
            best_frames = deviation.sum(axis=(1, 3, 4)).argmax(axis=1)
            self.Unit.insert(
                {
                    **{name: value for name, value in unit.items() if name != "data_key"},
                    **key,
                    "mei_movie": meis.stimuli[i],
                    "mei_activation": null(meis.activation[i]),
                    "mei_grey_activation": null(meis.grey_activation[i]),
                    "mei_best_frame": int(best_frames[i]),
                    "mei_best_iteration": int(meis.best_iteration[i]),
                    "mei_unit_converged": bool(meis.converged[i]),
                    "mei_trajectory": meis.trajectory[i],
                }
                for i, unit in enumerate(chosen)
            )
