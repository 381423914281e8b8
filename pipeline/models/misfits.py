"""Networks that make no sense are refused: parts that no data could suit, and networks that these data do not suit.

Networks are checked when their configuration is entered, when they are selected for data and when they are built, by
the same rules: what a part needs it says itself (`NetworkPart.needs`), and how large frames must be follows from the
core.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from pipeline.configuration import Configuration
from pipeline.datasets.info import DataInfo, ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models.cores.base import Core, CoreConfiguration
from pipeline.models.needs import Need, movies
from pipeline.models.nonlinearities import output_nonlinearity
from pipeline.models.shifters import NoShifter

if TYPE_CHECKING:  # the encoder's module checks what it builds
    from pipeline.models.encoder import Network

_BOUNDLESS = 2**20

ANYTHING = ScanInfo(
    unit_ids=(1,),
    input_shape=(1, _BOUNDLESS, _BOUNDLESS),
    mean_responses=(1.0,),
    n_behavior=1,
    mean_pupil_center=(0.0, 0.0),
    mean_behavior=(0.0,),
    frame_rate=1.0,
    unit_positions=((0.0, 0.0, 0.0),),
    match_ids=(0,),
    n_opto=1,
)
"""A scan that has everything, on frames without end: what is refused for it is refused for all data."""


@lru_cache(maxsize=256)
def outline(kind: CoreConfiguration, in_channels: int) -> Core:
    """Return a core without weights, which knows its geometry: what it makes of frames and of time."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return kind.build(in_channels)


def refuse_parts(network: Network) -> None:
    """Refuse a network whose parts no data could suit.

    Raises
    ------
    ConfigurationError
        Naming the setting, what it may be and the remedy.
    """
    output_nonlinearity(network.nonlinearity)
    refuse_misfits(network, {"any scan": ANYTHING})


def refuse_misfits(
    network: Network, data_info: DataInfo, data: Configuration | None = None, core: Core | None = None
) -> None:
    """Refuse a network that does not suit the data.

    Parameters
    ----------
    network : Network
    data_info : DataInfo
        The scans; their statistics do not matter here.
    data : Configuration, optional
        How the scans are seen, if known, for messages.
    core : Core, optional
        The network's core, if it is built already.

    Raises
    ------
    ConfigurationError
        Naming the setting, what it may be and the remedy.
    """
    core = core or outline(network.core, input_channels(data_info))
    for need in _of_time(core):
        need.require(network.core, data_info, data)
    for part in network.parts():
        for need in part.needs():
            need.require(part, data_info, data)
    sizes = [_size(network.core, core, data_key, scan) for data_key, scan in data_info.items()]
    for height, width in sizes:
        network.readout.require_maps(height, width)
    if all(size == (1, 1) for size in sizes):
        _refuse_places(network)


def input_channels(data_info: DataInfo) -> int:
    """Return the number of input channels, which scans that share a core have in common.

    Raises
    ------
    ConfigurationError
        If there is no scan, or they differ.
    """
    if not data_info:
        raise ConfigurationError("a network needs at least one scan, and data_info has none")
    channels = {data_key: scan.input_shape[0] for data_key, scan in data_info.items()}
    if len(set(channels.values())) > 1:
        raise ConfigurationError(f"scans that share a core need the same number of input channels, not {channels}")
    return next(iter(channels.values()))


def _of_time(core: Core) -> tuple[Need, ...]:
    """Return what a core that loses frames needs; other cores see one frame at a time."""
    lost = core.lost_frames
    if not lost:
        return ()
    long_clips = Need(
        f"clips of more than {lost} frames, which it loses at their start",
        lambda scan: scan.clip_frames is None or scan.clip_frames > lost,
        "use shorter temporal filters",
        given_by={"clip_frames": range(lost + 1, 2**31)},
        everywhere=True,
    )
    frames = movies(f"it filters over {lost + 1} frames", "use a core for images, such as Stacked2d")
    return frames, long_clips


def _size(kind: CoreConfiguration, core: Core, data_key: str, scan: ScanInfo) -> tuple[int, int]:
    """Return height and width of the feature maps of a scan."""
    _, height, width = scan.input_shape
    size = core.out_size(height, width)
    if min(size) < 1:
        least = next(side for side in range(1, _BOUNDLESS) if min(core.out_size(side, side)) > 0)
        raise ConfigurationError(
            f"{kind.kind()}: the core's filters are larger than the {height} x {width} px frames of {data_key!r}, "
            f"which must have at least {least} x {least} px: use smaller filters, pad the frames, or store larger ones "
            "(height and width of the preprocessing)"
        )
    return size


def _refuse_places(network: Network) -> None:
    """Refuse what looks for places in maps that have one."""
    if not isinstance(network.shifter, NoShifter):
        raise ConfigurationError(
            f"{network.shifter.kind()} shifts places, but the maps of this {network.core.kind()} have only one: "
            "use NoShifter, or a core that keeps places"
        )
    if network.readout.needs_centers:
        raise ConfigurationError(
            f"{network.readout.kind()}.init_positions: 'triggered_average' is not allowed, for the maps of this "
            f"{network.core.kind()} have only one place: it must be 'random', or use a core that keeps places"
        )
