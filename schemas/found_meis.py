"""The MEIs that are there, as what is measured of them needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.datasets.info import ScanInfo
from pipeline.mei.activation import Responses
from schemas import config, dataset, model
from schemas.mei import MEI

Key = dict[str, Any]


@dataclass(frozen=True)
class ScanMEIs:
    """The MEIs of one scan's chosen units.

    Attributes
    ----------
    data_key : str
    info : ScanInfo
    rows : list of dict
        Key of each unit's MEI.
    stimuli : ndarray of float32
        (unit, channel, time, height, width), grey values; images have one frame.
    activation : ndarray
        (unit,), response to the MEI.
    respond : Responses
        Of these units, with eye and behaviour as they were for the MEIs.
    """

    data_key: str
    info: ScanInfo
    rows: list[Key]
    stimuli: np.ndarray
    activation: np.ndarray
    respond: Responses


def found_meis(key: Mapping[str, Any]) -> list[ScanMEIs]:
    """Load the MEIs that a key of `MEI` names and their model, scan by scan, units in order of unit_id."""
    settings: Any = config.MEIConfig.load(key)
    encoder, infos = model.Model.load_encoder(dict(key))
    members = dataset.MultiDataset.Member.proj("data_key")
    units = (MEI.Unit.proj("mei_movie", "mei_activation") * members & key).to_dicts(order_by=("data_key", "unit_id"))
    scans = []
    for data_key in dict.fromkeys(unit["data_key"] for unit in units):
        own = [unit for unit in units if unit["data_key"] == data_key]
        positions = [infos[data_key].unit_ids.index(unit["unit_id"]) for unit in own]
        told = settings.eye_position, settings.behavior
        scans.append(
            ScanMEIs(
                data_key,
                infos[data_key],
                [{name: unit[name] for name in MEI.Unit().primary_key} for unit in own],
                np.stack([np.asarray(unit["mei_movie"]) for unit in own]).astype(np.float32),
                np.array([np.nan if unit["mei_activation"] is None else unit["mei_activation"] for unit in own]),
                Responses(encoder, data_key, infos[data_key], positions, *told),
            )
        )
    return scans
