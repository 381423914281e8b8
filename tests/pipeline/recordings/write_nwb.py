"""Writes small NWB files with pynwb, in each layout that is read, whose values are known functions of time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import h5py
import numpy as np
from pynwb import NWBHDF5IO, NWBFile
from pynwb.base import ImageReferences, Images, TimeSeries
from pynwb.behavior import BehavioralTimeSeries, EyeTracking, PupilTracking, SpatialSeries
from pynwb.image import GrayscaleImage, ImageSeries, IndexSeries
from pynwb.ogen import OptogeneticSeries
from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries

SIZE = (6, 8)
N_IMAGES = 12
ROWS = (
    # start, stop, image, tier, stimulus_name
    (10.0, 10.5, 3, "train", "scenes"),
    (10.7, 11.2, 11, "val", "scenes"),
    (11.5, 12.0, 3, "train", "scenes"),
    (12.2, 12.7, 0, "test", "scenes"),
    (13.0, 13.5, 7, "", "scenes"),
    (14.0, 14.5, -1, "", "grey"),
)
MOVIE_RATE = 20.0
UNIT_IDS = (11, 12, 40)

IMAGES = np.random.default_rng(1).integers(0, 256, (N_IMAGES, *SIZE), dtype=np.uint8)
"""What can be shown. Twelve, so that the order of names is not the order of numbers."""

MOVIE = np.random.default_rng(2).integers(0, 256, (120, *SIZE), dtype=np.uint8)


def response(unit: int, time: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * 0.4 * time + unit) + 2 * unit


def signal(name: str, time: np.ndarray) -> np.ndarray:
    return {"run": 9.0, "pupil_size": -2.0, "pupil_x": 4.0, "pupil_y": 6.0}[name] * np.asarray(time) + 3.0


def spikes(unit: int) -> np.ndarray:
    return np.sort(np.random.default_rng(unit).uniform(9.0, 16.0, 150))


def irregular(start: float, rate: float, count: int) -> np.ndarray:
    return start + (np.arange(count) + np.random.default_rng(5).uniform(0, 0.4, count)) / rate


def add_rows(file: NWBFile, indices: bool = True, table: str = "trials") -> None:
    columns = [("tier", "split"), ("stimulus_name", "kind"), *([("image_index", "image")] if indices else [])]
    if table == "trials":
        add, add_column = file.add_trial, file.add_trial_column
    else:
        intervals = file.create_time_intervals(name=table, description="presentations")
        add, add_column = intervals.add_row, intervals.add_column
    for name, description in columns:
        add_column(name=name, description=description)
    for start, stop, image, tier, name in ROWS:
        shown = {"image_index": image} if indices else {}
        add(start_time=start, stop_time=stop, tier=tier, stimulus_name=name, **shown)


def images() -> Images:
    """Return the images in a container that keeps them in another order than that of their names."""
    each = [GrayscaleImage(name=f"im{n}", data=image) for n, image in enumerate(IMAGES)]
    order = ImageReferences(name="order_of_images", data=each)
    return Images(name="scenes", images=each[::-1], order_of_images=order)


def template(name: str = "scenes") -> ImageSeries:
    return ImageSeries(name=name, data=IMAGES, unit="NA", format="raw", timestamps=np.full(N_IMAGES, np.nan))


def rows_into_images(file: NWBFile) -> None:
    file.add_stimulus_template(images())
    add_rows(file)


def rows_into_template(file: NWBFile) -> None:
    file.add_stimulus_template(template())
    add_rows(file, table="scenes_presentations")


def index_series(file: NWBFile) -> None:
    container = images()
    file.add_stimulus_template(container)
    shown = [row for row in ROWS if row[2] >= 0]
    file.add_stimulus(
        IndexSeries(
            name="shown", data=np.array([row[2] for row in shown], np.uint32), unit="N/A",
            timestamps=np.array([row[0] for row in shown]), indexed_images=container,
        )
    )  # fmt: skip


def rows_without_indices(file: NWBFile) -> None:
    add_rows(file, indices=False)


def movie(file: NWBFile) -> None:
    """The movie runs from 9.95 s on; rows cut it."""
    file.add_stimulus(
        ImageSeries(name="film", data=MOVIE, unit="NA", format="raw", starting_time=9.95, rate=MOVIE_RATE)
    )
    add_rows(file, indices=False)


MOVIE_ORDER = np.array([*range(20, 30), 9, 9, 5, 31, 7, 7, 2, 3, 60, 1, *range(20, 30)], np.uint32)
"""The second clip goes back and forth, and holds frames."""


def movie_by_indices(file: NWBFile) -> None:
    """Ten frames from each of the first three rows' starts, with jitter; the third clip is the first one again."""
    film = ImageSeries(name="film", data=MOVIE, unit="NA", format="raw", starting_time=0.0, rate=1.0)
    file.add_stimulus_template(film)
    container = images()
    file.add_stimulus_template(container)
    times = np.concatenate([row[0] + np.arange(10) / MOVIE_RATE for row in ROWS[:3]])
    times += np.random.default_rng(3).uniform(0, 2e-5, 30)
    file.add_stimulus(
        IndexSeries(name="clips", data=MOVIE_ORDER, unit="N/A", timestamps=times, indexed_images=container)
    )
    add_rows(file, indices=False)


def link_to_series(path: Path) -> None:
    """Let the clips point to the film, as files do that older versions of pynwb wrote; the present one refuses to."""
    with h5py.File(path, "r+") as file:
        clips = file["stimulus/presentation/clips"]
        del clips["indexed_images"]
        clips["indexed_timeseries"] = h5py.SoftLink("/stimulus/templates/film")


def units(file: NWBFile, observed: bool = False) -> None:
    for name in ("area", "layer", "x", "y", "z"):
        file.add_unit_column(name=name, description=name)
    for number, unit in enumerate(UNIT_IDS):
        spans = {"obs_intervals": np.array([[9.5, 12.1], [12.1 + 0.05 * number, 15.0]])} if observed else {}
        file.add_unit(
            id=unit, spike_times=spikes(unit), area="V1", layer="L4", x=1.0, y=2.0, z=float(number), **spans
        )  # fmt: skip


def ophys(file: NWBFile, fluorescence: bool = True) -> None:
    """dF/F at 7 Hz from 9.3 s on, of three of four regions; beside it, raw fluorescence."""
    device = file.create_device(name="microscope")
    channel = OpticalChannel(name="green", description="green", emission_lambda=500.0)
    plane = file.create_imaging_plane(
        name="plane", optical_channel=channel, description="plane", device=device, excitation_lambda=600.0,
        indicator="GCaMP", location="LM", imaging_rate=7.0,
    )  # fmt: skip
    segmentation = ImageSegmentation()
    module = file.create_processing_module(name="ophys", description="ophys")
    module.add(segmentation)
    rois = segmentation.create_plane_segmentation(name="rois", imaging_plane=plane, description="regions")
    for unit in (10, *UNIT_IDS):
        rois.add_roi(id=unit, image_mask=np.ones((2, 2)))
    region = rois.create_roi_table_region(region=[1, 2, 3], description="cells")
    times = 9.3 + np.arange(45) / 7
    values = np.stack([response(unit, times) for unit in range(3)], axis=1)
    module.add(DfOverF(roi_response_series=RoiResponseSeries(
        name="dff", data=values / 2, unit="n.a.", rois=region, starting_time=9.3, rate=7.0, conversion=2.0,
    )))  # fmt: skip
    if fluorescence:
        module.add(Fluorescence(roi_response_series=RoiResponseSeries(
            name="raw", data=values + 100, unit="counts", rois=region, starting_time=9.3, rate=7.0,
        )))  # fmt: skip


def behavior(file: NWBFile) -> None:
    module = file.create_processing_module(name="behavior", description="behavior")
    times = 9.0 + np.arange(300) / 50
    speed = TimeSeries(name="running_speed", data=signal("run", times) / 100, unit="m/s", starting_time=9.0, rate=50.0)
    module.add(BehavioralTimeSeries(time_series=speed))
    times = irregular(9.2, 30.0, 180)
    pupil = TimeSeries(name="diameter", data=signal("pupil_size", times), unit="px", timestamps=times)
    module.add(PupilTracking(time_series=pupil))
    times = irregular(9.1, 25.0, 150)
    places = np.stack([signal("pupil_x", times), signal("pupil_y", times)], axis=1)
    eye = SpatialSeries(name="gaze", data=places, unit="px", reference_frame="camera", timestamps=times)
    module.add(EyeTracking(spatial_series=eye))


def light(file: NWBFile) -> None:
    device = file.create_device(name="laser")
    site = file.create_ogen_site(
        name="site", device=device, description="d", excitation_lambda=470.0, location="V1"
    )  # fmt: skip
    power = np.zeros(700)
    power[[*range(120, 130), *range(140, 141), *range(695, 700)]] = 0.3
    file.add_stimulus(OptogeneticSeries(name="laser_power", data=power, site=site, starting_time=9.0, rate=100.0))


def write_nwb(path: Path, *parts: Callable[[NWBFile], None]) -> Path:
    """Write a file with what each part adds."""
    start = datetime(2024, 5, 6, tzinfo=timezone.utc)
    file = NWBFile(session_description="an example", identifier="example", session_start_time=start)
    for part in parts:
        part(file)
    with NWBHDF5IO(str(path), "w") as files:
        files.write(file)
    return path
