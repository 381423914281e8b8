"""What was shown when, in an NWB file: three layouts of images and movies, and nothing that would have to be guessed.

(a) An IndexSeries into an Images container or an ImageSeries. Without a table of intervals every index is one
    presentation of a still image, until the next. With a table, every row is: an image if one index lies in it, a movie
    of those frames if several do.
(b) A table of intervals with a column of indices (or names) into an Images container or an ImageSeries among the
    templates: every row shows one still image.
(c) An ImageSeries among the stimuli, shown at its own times, cut into movies by a table of intervals.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.checks import text_array
from pipeline.recordings.nwb.contents import Contents, column, is_a, texts
from pipeline.recordings.sequences import channels_first, require_increasing

logger = logging.getLogger(__name__)

INDEX_COLUMNS = ("frame", "image_index", "frame_index")
TIER_COLUMNS = ("tier", "split")
TYPE_COLUMNS = ("stimulus_type", "stimulus_name", "stim_type")
AXES = ("height_width", "width_height")

SAME_FRAME = 1e-4
"""A frame belongs to a row that starts this much (s) later; tables and frames are often timed apart."""


@dataclass(frozen=True)
class Showing:
    """One presentation.

    Attributes
    ----------
    start, stop : float
        s.
    frames : tuple of int
        Which frames of the pool, in order.
    interval : float
        Median time between the frames (s); 0 for a still image.
    stimulus_type : str
    tier : str
        As the source calls it; empty where it says nothing.
    where : str
        Row or sample, for errors.
    """

    start: float
    stop: float
    frames: tuple[int, ...]
    interval: float
    stimulus_type: str
    tier: str
    where: str


class Pool:
    """The frames that presentations choose from: an Images container in its order, or an ImageSeries.

    Parameters
    ----------
    contents : Contents
    source : Images or ImageSeries
    axes : str
        One of `AXES`: what the first two axes of an image are. The schema calls them x and y; nearly all files hold
        height and width.
    """

    def __init__(self, contents: Contents, source: Any, axes: str) -> None:
        self.label, self._where, self._swapped = contents.label(source), contents.where(source), axes == AXES[1]
        if is_a(source, "Images"):
            order = source.order_of_images
            images = list(source.images.values()) if order is None else [order[n] for n in range(len(order.data))]
            self._images, self._series, self.ordered = images, None, order is not None
            self.names = [image.name for image in images]
        else:
            if source.external_file is not None:
                raise RecordingError(f"{self._where}: its frames are in other files; write them into the NWB file")
            self._images, self._series, self.ordered = [], source.data, True
            known = source.control_description
            self.names = [] if known is None else text_array(np.asarray(known[:]))
        self.count = len(self._images) or int(source.data.shape[0])

    def read(self, frames: tuple[int, ...]) -> np.ndarray:
        """Return chosen frames, (channel, time, height, width)."""
        if self._series is None:
            taken = np.stack([np.asarray(self._images[frame].data[()]) for frame in frames])
        else:
            # HDF5 reads each row once and in order.
            rows, places = np.unique(frames, return_inverse=True)
            whole = len(rows) == rows[-1] - rows[0] + 1
            taken = (self._series[rows[0] : rows[-1] + 1] if whole else self._series[rows])[places]
        if taken.ndim not in (3, 4):
            raise RecordingError(f"{self._where}: images of shape {taken.shape[1:]}, but 2 axes are needed, or 3")
        return channels_first(taken.swapaxes(1, 2) if self._swapped else taken, self._where)

    def name(self, frames: tuple[int, ...]) -> str:
        """Return a name for people."""
        if len(frames) > 1:
            return f"{self.label} {frames[0]}-{frames[-1]}"
        return self.names[frames[0]] if frames[0] < len(self.names) else f"{self.label} {frames[0]}"


def read_showings(
    contents: Contents, stimulus: str, intervals: str, rows: str, index_column: str, axes: str
) -> tuple[Pool, list[Showing]]:
    """Return the frames and the presentations of them, in order of time. See the module for the layouts.

    Raises
    ------
    RecordingError
        If the file has none of the layouts or several, saying what it contains; or naming the row that is wrong.
    """
    shown = _find_stimulus(contents, stimulus)
    table = contents.only(intervals, contents.tables(), "intervals", lambda item: True)
    if is_a(shown, "IndexSeries"):
        pool = Pool(contents, shown.indexed_images or shown.indexed_timeseries, axes)
        indices = np.asarray(shown.data[:])
        showings = _cut(contents, shown, indices, table, rows) if table else _singles(contents, shown, indices)
    else:
        if table is None:
            raise contents.lacking(f"{contents.label(shown)} needs a table of intervals that says when it was shown")
        pool = Pool(contents, shown, axes)
        by_own_clock = is_a(shown, "ImageSeries") and shown.name in contents.nwb.stimulus and not index_column
        if by_own_clock:
            showings = _cut(contents, shown, np.arange(pool.count), table, rows)
        else:
            showings = _listed(contents, pool, table, rows, index_column)
    if not pool.ordered and any(showing.frames for showing in showings) and not _by_name(table, index_column):
        raise RecordingError(f"{contents.path}: {pool.label} has no order_of_images, so indices mean nothing")
    for showing in showings:
        beyond = [frame for frame in showing.frames if not 0 <= frame < pool.count]
        if beyond:
            raise RecordingError(
                f"{contents.path}, {showing.where}: frame {beyond[0]}, but {pool.label} has {pool.count}; to leave "
                "rows out, choose those to read with rows"
            )
    if not showings:
        raise contents.lacking(f"nothing of {pool.label} was shown{f' in the rows with {rows}' if rows else ''}")
    return pool, sorted(showings, key=lambda showing: showing.start)


def _find_stimulus(contents: Contents, stimulus: str) -> Any:
    nwb = contents.nwb
    presented, templates = dict(nwb.stimulus), dict(nwb.stimulus_template)
    if stimulus:
        candidates = {**templates, **presented}
        visual = {name: item for name, item in candidates.items() if is_a(item, "IndexSeries", "ImageSeries", "Images")}
        return contents.named(stimulus, visual, "stimulus")
    for candidates, kinds in (
        (presented, ("IndexSeries",)),
        (presented, ("ImageSeries",)),
        (presented | templates, ("Images", "ImageSeries")),
    ):
        found = {name: item for name, item in candidates.items() if is_a(item, *kinds)}
        if found:
            return contents.only("", found, "stimulus", lambda item: True)
    raise contents.lacking("there are no stimuli: neither an IndexSeries nor an ImageSeries nor Images")


def _singles(contents: Contents, series: Any, indices: np.ndarray) -> list[Showing]:
    """Return one still image for each index, until the next; the last lasts as long as the median."""
    times = _clock(contents, series, len(indices))
    if len(times) < 2:
        raise RecordingError(f"{contents.where(series)}: one index does not tell how long it was shown; give intervals")
    stops = np.r_[times[1:], times[-1] + np.median(np.diff(times))]
    return [
        Showing(float(start), float(stop), (int(index),), 0.0, series.name, "", f"{series.name}, sample {n}")
        for n, (start, stop, index) in enumerate(zip(times, stops, indices, strict=True))
    ]


def _cut(contents: Contents, series: Any, indices: np.ndarray, table: Any, rows: str) -> list[Showing]:
    """Return what each row of a table shows of a series of frames; rows during which there is none are left out."""
    times = _clock(contents, series, len(indices))
    showings, empty = [], 0
    for start, stop, kind, tier, where, _ in _rows(contents, table, rows):
        first, last = np.searchsorted(times, [start - SAME_FRAME, stop - SAME_FRAME])
        if first == last:
            empty += 1
            continue
        interval = float(np.median(np.diff(times[first:last]))) if last - first > 1 else 0.0
        if interval and series.rate:
            interval = 1 / float(series.rate)
        frames = tuple(indices[first:last].tolist())
        showings.append(Showing(float(times[first]), stop, frames, interval, kind or series.name, tier, where))
    if empty:
        logger.info("%s: %d rows of %s show nothing of %s", contents.path, empty, table.name, series.name)
    return showings


def _listed(contents: Contents, pool: Pool, table: Any, rows: str, index_column: str) -> list[Showing]:
    """Return one still image for each row that has an index or a name; NaN, -1 and no name show nothing."""
    names = (index_column,) if index_column else INDEX_COLUMNS
    values = column(table, *names)
    if values is None:
        raise contents.lacking(f"{table.name} has no column {' or '.join(names)}: say index_column")
    if values.dtype.kind in "iuf":
        indices = [None if not np.isfinite(value) or value < 0 else float(value) for value in values]
    else:
        number = {name: float(n) for n, name in enumerate(pool.names)}
        indices = [None if name is None else number.get(name, -1.0) for name in texts(values, len(values))]
    showings = []
    for start, stop, kind, tier, where, row in _rows(contents, table, rows):
        index = indices[row]
        if index is None:
            continue
        if index != int(index) or index < 0:
            raise RecordingError(f"{contents.path}, {where}: {values[row]} is no image of {pool.label}")
        showings.append(Showing(start, stop, (int(index),), 0.0, kind or pool.label, tier, where))
    return showings


def _rows(contents: Contents, table: Any, rows: str) -> list[tuple[float, float, str, str, str, int]]:
    """Return start, stop, type, tier and name of every row that is wanted, and its number."""
    starts, stops = np.asarray(table["start_time"][:], float), np.asarray(table["stop_time"][:], float)
    kinds, tiers = (texts(column(table, *names), len(starts)) for names in (TYPE_COLUMNS, TIER_COLUMNS))
    wanted = _wanted(contents, table, rows)
    found = []
    for row in np.flatnonzero(wanted).tolist():
        where = f"{table.name}, row {row}"
        if not (np.isfinite([starts[row], stops[row]]).all() and starts[row] < stops[row]):
            raise RecordingError(
                f"{contents.path}, {where}: start {starts[row]} s and stop {stops[row]} s do not increase"
            )
        found.append((float(starts[row]), float(stops[row]), kinds[row] or "", tiers[row] or "", where, row))
    return found


def _wanted(contents: Contents, table: Any, rows: str) -> np.ndarray:
    """Return which rows have the wanted value, as ``stimulus_name=natural_scenes``."""
    if not rows:
        return np.ones(len(table), bool)
    name, _, value = (part.strip() for part in rows.partition("="))
    values = column(table, name)
    if values is None or not value:
        raise contents.lacking(f"rows is {rows!r}, but must be a column of {table.name} and a value, as column=value")
    return np.array([text == value for text in text_array(values)])


def _clock(contents: Contents, series: Any, count: int) -> np.ndarray:
    times = contents.times(series)
    if len(times) != count:
        raise RecordingError(f"{contents.where(series)}: {count} samples, but {len(times)} times")
    return require_increasing(times, contents.where(series))


def _by_name(table: Any, index_column: str) -> bool:
    values = None if table is None or not index_column else column(table, index_column)
    return values is not None and values.dtype.kind not in "iuf"


def invalid_spans(nwb: Any) -> np.ndarray:
    """Return the spans (span, 2) of time (s) that the file calls invalid."""
    table = nwb.invalid_times
    if table is None or not len(table):
        return np.zeros((0, 2))
    return np.stack([np.asarray(table[name][:], float) for name in ("start_time", "stop_time")], axis=1)
