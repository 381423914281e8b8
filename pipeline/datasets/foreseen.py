"""What loaders will say of a scan, from what tables know of its dataset: nothing is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.datasets.conversion import TensorInfo
from pipeline.datasets.info import ScanInfo
from pipeline.datasets.selection import DataConfiguration, UnitTable
from pipeline.datasets.signals import LIGHT, place_signals


@dataclass(frozen=True)
class Contents:
    """What a dataset holds.

    Attributes
    ----------
    frame : tuple of int
        (channel, height, width) of the stored pixels.
    frame_rate : float or None
        Hz; None for still images.
    tensors : mapping
        By name.
    units : UnitTable
    """

    frame: tuple[int, int, int]
    frame_rate: float | None
    tensors: Mapping[str, TensorInfo]
    units: UnitTable


def foreseen_info(config: DataConfiguration, contents: Contents) -> ScanInfo:
    """Return shapes, and which signals, positions and matches there are, as a configuration will give them.

    All units are taken to be chosen, light to be one train, and positions to be known if that of any unit is. All
    statistics are 0.
    """
    tensors, units = contents.tensors, contents.units
    behavior = tensors["behavior"].channels if "behavior" in tensors and config.behavior != "none" else ()
    n_pupil = 2 if "pupil_location" in tensors and config.pupil != "none" else 0
    places = place_signals(config, len(behavior), n_pupil, int(LIGHT in tensors))
    channels, height, width = contents.frame
    ids = tuple(units.unit_id)
    return ScanInfo(
        unit_ids=ids,
        input_shape=(channels + len(places.planes), height, width),
        mean_responses=(0.0,) * len(ids),
        n_behavior=len(places.behavior),
        mean_pupil_center=(0.0, 0.0) if places.pupil else None,
        frame_rate=contents.frame_rate,
        plane_means=(0.0,) * len(places.planes),
        clip_frames=getattr(config, "clip_frames", None),
        unit_positions=((0.0, 0.0, 0.0),) * len(ids) if any(place is not None for place in units.position) else None,
        match_ids=units.matches_of(ids),
        n_opto=len(places.light) if config.opto == "apart" else 0,
    )
