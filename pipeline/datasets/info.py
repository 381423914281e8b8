"""What a model must know of its data to be built again without them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ScanInfo:
    """Shape and statistics of one scan's tensors, as the loaders give them.

    Attributes
    ----------
    unit_ids : tuple of int
        Units in the order of the responses.
    input_shape : tuple of int
        (channel, height, width) of the videos or images that enter the core, planes of behaviour included.
    mean_responses : tuple of float
        Mean of each unit's normalised training responses.
    n_behavior : int
        Channels of behaviour that reach the modulator; 0 without behaviour.
    mean_pupil_center : tuple of float or None
        Training mean of the normalised pupil position; None without it.
    std_pupil_center : tuple of float or None
        Standard deviation of the normalised pupil position in training; None without it, or if it is not known.
    mean_behavior : tuple of float or None
        Training mean of each channel of the normalised behaviour; None without it.
    frame_rate : float or None
        Hz; None for still images.
    input_mean, input_std : float
        Pixel statistics by which inputs were normalised: (grey value - mean) / std.
    field_centers : tuple of (float, float) or None
        Where readouts start to look: x and y in pixels, y down; None if they start at random.
    plane_means : tuple of float
        For each plane that follows the pixels in the input's channels (behaviour, pupil position, light) its training
        mean, normalised.
    clip_frames : int or None
        Frames of a training clip; None for still images.
    unit_positions : tuple of (float, float, float) or None
        x, y and z of each unit in the tissue (um); None unless they are known for all units.
    match_ids : tuple of int or None, or None
        Units with the same number, in one scan or in several of the group, are one neuron; None for units without a
        match, and instead of the tuple if no unit has one.
    n_opto : int
        Trains of light that are given apart, for a recurrent unit; 0 without, or if they are behaviour or planes.
    """

    unit_ids: tuple[int, ...]
    input_shape: tuple[int, int, int]
    mean_responses: tuple[float, ...]
    n_behavior: int = 0
    mean_pupil_center: tuple[float, float] | None = None
    mean_behavior: tuple[float, ...] | None = None
    frame_rate: float | None = None
    input_mean: float = 0.0
    input_std: float = 1.0
    field_centers: tuple[tuple[float, float], ...] | None = None
    plane_means: tuple[float, ...] = ()
    clip_frames: int | None = None
    unit_positions: tuple[tuple[float, float, float], ...] | None = None
    match_ids: tuple[int | None, ...] | None = None
    n_opto: int = 0
    std_pupil_center: tuple[float, float] | None = None

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.unit_ids)

    @property
    def shows_movies(self) -> bool:
        """Whether its stimuli are movies; the frame rate of movies that a function loads is not known."""
        return self.frame_rate is not None or self.clip_frames is not None

    @property
    def pixel_channels(self) -> int:
        """How many of the input's channels, the first ones, are pixels."""
        return self.input_shape[0] - len(self.plane_means)


DataInfo = dict[str, ScanInfo]
"""One `ScanInfo` for each data_key, in the order of the readouts."""


def data_info_to_json(info: DataInfo) -> str:
    """Return the data information as JSON."""
    return json.dumps({key: dataclasses.asdict(scan) for key, scan in info.items()})


def data_info_from_json(text: str) -> DataInfo:
    """Return the data information that `data_info_to_json` wrote."""

    def tuples(value: Any) -> Any:
        return tuple(tuples(item) for item in value) if isinstance(value, list) else value

    scans = json.loads(text)
    return {key: ScanInfo(**{name: tuples(value) for name, value in scan.items()}) for key, scan in scans.items()}
