"""The benchmark ``ingest``: how fast recordings are opened (checked and hashed) and converted, against the disk."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.harness import MIB, Alternative, Work, compare, one_core, print_comparison, report
from benchmarks.scans import Scan, file_tree

_LIBRARIES = ("pipeline.datasets.conversion", "pipeline.recordings.trial_folders.sensorium", "deeplake")
_WAITING = ("threading.py", "queue.py", "selectors.py", "_base.py", "thread.py")
"""Files of the standard library whose functions only wait for other threads."""


def ingest_both(
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    folder: Annotated[Path | None, typer.Option(help="where the scans lie; default: a temporary folder")] = None,
    trials: Annotated[int, typer.Option(help="movies of 300 frames in the scan")] = 120,
    units: Annotated[int, typer.Option(help="units of the scan of movies")] = 1000,
    images: Annotated[int, typer.Option(help="trials of the scan of still images")] = 6000,
    image_units: Annotated[int, typer.Option(help="units of the scan of still images")] = 5000,
    pixels: Annotated[str, typer.Option(help="dtype of pixels in the files: uint8 or float32")] = "uint8",
    repetitions: Annotated[int, typer.Option(help="repetitions of everything")] = 7,
    memory: Annotated[bool, typer.Option(help="measure peak memory too, each in a process of its own")] = True,
) -> None:
    """Opening and conversion of movies and of still images, against reading, hashing and copying their files.

    Everything on one core.
    """
    one_core()
    console, figures = Console(width=120), {}
    settings = {name: value for name, value in locals().items() if isinstance(value, int | str)}
    scans = {"": Scan(trials, units, 300, pixels=pixels), "images_": Scan(images, image_units, 0, pixels=pixels)}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=folder) as scratch:
        for prefix, scan in scans.items():
            tree = file_tree(scan, (folder or Path(scratch)) / ("images" if prefix else "movies"))
            found = ingest(console, scan, tree, Path(scratch), repetitions, memory)
            figures |= {f"{prefix}{name}": value for name, value in found.items()}
            trials_of_mb = scan.trials / (_size(files_in(tree)) / 1e6)
            for name in ("open", "convert"):
                figures[f"{prefix}{name}_trials_per_second"] = found[f"{name}_mb_per_second"] * trials_of_mb
    report(console, "ingest", figures, [], settings, json)


def ingest(console: Console, scan: Scan, tree: Path, scratch: Path, repetitions: int, memory: bool) -> dict[str, float]:
    """Measure opening and conversion of the scan at ``tree``; return figures in MB of source files a second.

    The files are dropped from the system's cache before each repetition where the system offers that.
    """
    size = sum(file.stat().st_size for file in files_in(tree))
    stored, copy = scratch / "converted", scratch / "copied"
    measured = compare(
        [
            Alternative("open", opened, {"tree": tree}, _LIBRARIES),
            Alternative("convert", converted, {"tree": tree, "stored": stored}, _LIBRARIES),
            Alternative("disk_read_hash", disk_read_hash, {"tree": tree}),
            Alternative("disk_copy", disk_copy, {"tree": tree, "copy": copy}),
        ],
        repetitions,
        memory,
    )
    print_comparison(console, f"Ingest: {size / 1e6:,.0f} MB in {len(files_in(tree)):,} files", measured, "bytes/s")
    figures = {f"{name}_mb_per_second": what.rate / 1e6 for name, what in measured.items()}
    figures["open_of_disk"] = measured["open"].rate / measured["disk_read_hash"].rate
    figures["convert_of_disk"] = measured["convert"].rate / measured["disk_copy"].rate
    if memory:
        figures |= {f"{name}_peak_mib": measured[name].peak / MIB for name in ("open", "convert")}
    _profile(console, "Opening", opened(tree))
    _profile(console, "Conversion", converted(tree, stored))
    return figures


def files_in(tree: Path) -> list[Path]:
    """Return the data files of a recording."""
    return sorted((tree / "data").rglob("*.npy"))


def open_scan(tree: Path) -> Any:
    """Open a scan of `benchmarks.scans`: movies as Sensorium 2023, images as FileTree."""
    from pipeline.recordings import open_recording

    # The reader warns of statistics that it ignores: neuralpredictors needs them as a column here.
    log = logging.getLogger("pipeline")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return open_recording("sensorium2023" if (tree / "data" / "videos").is_dir() else "filetree", path=str(tree))
    finally:
        log.setLevel(level)


def convert_recording(recording: Any, stored: Path) -> None:
    """Convert a recording as it is, without resizing."""
    from pipeline.datasets.conversion import convert
    from pipeline.datasets.preprocessing import Image, Movie
    from pipeline.recordings import assign_tiers

    stimulus = next(iter(recording.stimuli.values()))
    _, _, height, width = stimulus.shape
    if stimulus.frame_rate is None:
        preprocessing: Any = Image(height=height, width=width)
    else:
        preprocessing = Movie(frame_rate=stimulus.frame_rate, height=height, width=width)
    convert(recording, preprocessing, assign_tiers(recording.trials).tiers, stored)


def opened(tree: Path) -> Work:
    """Opening: every file read, checked and hashed."""
    files = files_in(tree)

    return _cold(files, lambda: open_scan(tree))


def converted(tree: Path, stored: Path) -> Work:
    """Conversion of the open recording."""
    files, recording = files_in(tree), open_scan(tree)

    return _cold(files, lambda: convert_recording(recording, stored))


def disk_read_hash(tree: Path) -> Work:
    """Every file read once and hashed by SHA-256."""
    files = files_in(tree)

    def work() -> None:
        for file in files:
            hashlib.sha256(file.read_bytes())

    return _cold(files, work)


def disk_copy(tree: Path, copy: Path) -> Work:
    """Every file read and written elsewhere, no hash."""
    files = files_in(tree)

    def work() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for number, file in enumerate(files):
            shutil.copyfile(file, copy / f"{number}.npy")

    return _cold(files, work)


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _cold(files: list[Path], work: Callable[[], object]) -> Work:
    """Return the work that begins with none of the files in the system's cache, where it can be told to forget them."""
    size = _size(files)

    def begin_cold() -> int:
        forget(files)
        work()
        return size

    return begin_cold


def forget(files: list[Path]) -> None:
    """Drop files from the system's cache; does nothing where that cannot be asked for."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _profile(console: Console, title: str, work: Work) -> None:
    with sampled() as samples:
        work()
    total = sum(samples.values())
    table = Table(title=f"{title}: where the time goes ({total} samples)", title_justify="left")
    table.add_column("in")
    table.add_column("share", justify="right")
    for place, count in samples.most_common(8):
        table.add_row(place, f"{count / max(total, 1):.0%}")
    console.print(table)


@contextmanager
def sampled(interval: float = 0.002) -> Iterator[Counter[str]]:
    """Count, while the block runs, which line of ours each thread that does not wait is in."""
    samples: Counter[str] = Counter()
    done = threading.Event()

    def look() -> None:
        while not done.wait(interval):
            for thread, frame in sys._current_frames().items():
                if thread != threading.get_ident() and Path(frame.f_code.co_filename).name not in _WAITING:
                    samples[_ours(frame)] += 1

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield samples
    finally:
        done.set()
        watcher.join()


def _ours(frame: FrameType | None) -> str:
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if "pipeline" in path.parts:
            inner = ".".join(path.with_suffix("").parts[path.parts.index("pipeline") :])
            return f"{inner}.{frame.f_code.co_name}, line {frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
