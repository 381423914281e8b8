"""The benchmark ``loading``: from a scan's files to normalised training batches, and into a stored dataset."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.harness import (
    MIB,
    OURS,
    Alternative,
    Measured,
    Target,
    Work,
    compare,
    one_core,
    print_comparison,
    ratios,
    report,
)
from benchmarks.ingest import convert_recording, ingest, open_scan
from benchmarks.scans import Scan, file_tree, hdf5_file

CLIP_FRAMES = 80
MOVIE_BATCH = 8
IMAGE_BATCH = 128

_OURS = ("pipeline.datasets.loaders", "pipeline.datasets.conversion", "deeplake")
_THEIRS = ("benchmarks.baselines",)


def loading(
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    folder: Annotated[Path | None, typer.Option(help="where the scans lie; default: a temporary folder")] = None,
    trials: Annotated[int, typer.Option(help="movies of 300 frames in the scan")] = 120,
    units: Annotated[int, typer.Option(help="units of the scan of movies")] = 1000,
    frames: Annotated[int, typer.Option(help="frames of a movie")] = 300,
    images: Annotated[int, typer.Option(help="trials of the scan of still images")] = 6000,
    image_units: Annotated[int, typer.Option(help="units of the scan of still images")] = 5000,
    budget: Annotated[int, typer.Option(help="MiB of memory for scans four times as large")] = 128,
    pixels: Annotated[str, typer.Option(help="dtype of pixels in the files: uint8 or float32")] = "uint8",
    batches: Annotated[int, typer.Option(help="batches of one repetition")] = 36,
    repetitions: Annotated[int, typer.Option(help="repetitions of everything")] = 7,
    memory: Annotated[bool, typer.Option(help="measure peak memory too, each in a process of its own")] = True,
) -> None:
    """Training loaders of ours, neuralpredictors' FileTree and plain h5py; opening and conversion of a recording.

    Everything on one core, without worker processes.
    """
    one_core()
    console = Console(width=120)
    settings = {name: value for name, value in locals().items() if isinstance(value, int | str)}
    movie = Scan(trials, units, frames, pixels=pixels)
    image = Scan(images, image_units, 0, pixels=pixels)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=folder) as scratch:
        place = folder or Path(scratch)
        figures = {
            **_movies(console, movie, place, batches, repetitions, memory),
            **_budget(console, movie, place, budget, batches, repetitions, memory),
            **_images(console, image, place, batches, repetitions, memory),
            **_images_budget(console, image, place, budget, batches, repetitions, memory),
            **ingest(console, movie, file_tree(movie, place / "movies"), Path(scratch), repetitions, memory),
        }
    targets = [
        Target("frames_per_second", at_least=10_000),
        Target("ratio_filetree", at_least=5),
        Target("published_ratio_filetree", at_least=5),
        Target("images_ratio_filetree", at_least=5),
        *([Target(f"{of}budget_peak_mib", at_most=budget) for of in ("", "images_")] if memory else []),
    ]
    report(console, "loading", figures, targets, settings, json)


def _movies(
    console: Console, scan: Scan, place: Path, batches: int, repetitions: int, memory: bool
) -> dict[str, float]:
    tree, hdf5, stored = (
        file_tree(scan, place / "movies"),
        hdf5_file(scan, place / "movies.h5"),
        place / "movies.stored",
    )
    convert_recording(open_scan(tree), stored)
    theirs = {"path": tree, "batches": batches}
    same = compare(
        [
            Alternative(OURS, our_movies, {"path": stored, "batches": batches}, _OURS),
            Alternative("filetree", filetree_movies, {**theirs, "cache": True}, _THEIRS),
            Alternative("filetree_uncached", filetree_movies, {**theirs, "cache": False}, _THEIRS),
            Alternative("h5py", h5_movies, {"path": hdf5, "tree": tree, "batches": batches}, _THEIRS),
        ],
        repetitions,
        memory,
    )
    _print(console, f"Movies, the same batches from all: {_size(scan)}", same, "frames/s")
    published = compare(
        [
            Alternative(OURS, our_movies, {"path": stored, "batches": batches, "behavior": "both"}, _OURS),
            Alternative("filetree", filetree_movies, {**theirs, "cache": True, "published": True}, _THEIRS),
            Alternative("filetree_uncached", filetree_movies, {**theirs, "cache": False, "published": True}, _THEIRS),
        ],
        repetitions,
        memory,
    )
    _print(console, "The same, with all that Sensorium 2023 does: behaviour as channels", published, "frames/s")
    return {**ratios(same, "frames_per_second"), **ratios(published, "frames_per_second", "published_")}


def _budget(
    console: Console, scan: Scan, place: Path, budget: int, batches: int, repetitions: int, memory: bool
) -> dict[str, float]:
    large = _four_times(scan, budget)
    tree, hdf5 = file_tree(large, place / "large"), hdf5_file(large, place / "large.h5")
    stored = place / "large.stored"
    convert_recording(open_scan(tree), stored)
    measured = compare(
        [
            Alternative(OURS, our_movies, {"path": stored, "batches": batches, "memory": budget * MIB}, _OURS),
            Alternative(
                "filetree_uncached", filetree_movies, {"path": tree, "batches": batches, "cache": False}, _THEIRS
            ),
            Alternative("h5py", h5_movies, {"path": hdf5, "tree": tree, "batches": batches}, _THEIRS),
        ],
        repetitions,
        memory,
    )
    _print(console, f"Four times larger than the budget of {budget} MiB: {_size(large)}", measured, "frames/s")
    return {"budget_mib": budget, **ratios(measured, "frames_per_second", "budget_")}


def _images(
    console: Console, scan: Scan, place: Path, batches: int, repetitions: int, memory: bool
) -> dict[str, float]:
    tree, stored = file_tree(scan, place / "images"), place / "images.stored"
    convert_recording(open_scan(tree), stored)
    measured = compare(
        [
            Alternative(OURS, our_images, {"path": stored, "batches": batches}, _OURS),
            Alternative("filetree", filetree_images, {"path": tree, "batches": batches, "cache": True}, _THEIRS),
            Alternative(
                "filetree_uncached", filetree_images, {"path": tree, "batches": batches, "cache": False}, _THEIRS
            ),
        ],
        repetitions,
        memory,
    )
    _print(console, f"Still images: {_size(scan)}", measured, "images/s")
    return ratios(measured, "per_second", "images_")


def _images_budget(
    console: Console, scan: Scan, place: Path, budget: int, batches: int, repetitions: int, memory: bool
) -> dict[str, float]:
    large = _four_times(scan, budget)
    tree, stored = file_tree(large, place / "large_images"), place / "large_images.stored"
    convert_recording(open_scan(tree), stored)
    theirs = {"path": tree, "batches": batches, "cache": False}
    measured = compare(
        [
            Alternative(OURS, our_images, {"path": stored, "batches": batches, "memory": budget * MIB}, _OURS),
            Alternative("filetree_uncached", filetree_images, theirs, _THEIRS),
        ],
        repetitions,
        memory,
    )
    _print(console, f"Four times larger than the budget of {budget} MiB: {_size(large)}", measured, "images/s")
    return ratios(measured, "per_second", "images_budget_")


def _four_times(scan: Scan, budget: int) -> Scan:
    """Return a scan of as many trials as are four times the budget (MiB)."""
    return replace(scan, trials=-(-4 * budget * MIB * scan.trials // scan.bytes))


def _size(scan: Scan) -> str:
    what = f"{scan.trials:,} movies of {scan.frames} frames" if scan.frames else f"{scan.trials:,} images"
    return f"{what}, {scan.height} x {scan.width} {scan.pixels}, {scan.units:,} units, {scan.bytes / MIB:,.0f} MiB"


def _print(console: Console, title: str, measured: dict[str, Measured], unit: str) -> None:
    print_comparison(console, title, measured, unit)


def our_movies(path: Path, batches: int, behavior: str = "apart", memory: int = 4 * 2**30) -> Work:
    """Open our training loader of movies."""
    from pipeline.datasets.clips import MovieClips
    from pipeline.datasets.loaders import open_loaders

    config = MovieClips(clip_frames=CLIP_FRAMES, behavior=behavior)
    loaders, _ = open_loaders({"scan": path}, config, MOVIE_BATCH, seed=1, memory=memory)
    return repeated(loaders["train"]["scan"], batches)


def our_images(path: Path, batches: int, memory: int = 4 * 2**30) -> Work:
    """Open our training loader of still images."""
    from pipeline.datasets.images import CorrectedAreaLayer
    from pipeline.datasets.loaders import open_loaders

    loaders, _ = open_loaders({"scan": path}, CorrectedAreaLayer(), IMAGE_BATCH, seed=1, memory=memory)
    return repeated(loaders["train"]["scan"], batches)


def filetree_movies(path: Path, batches: int, cache: bool, published: bool = False) -> Work:
    """Open neuralpredictors' training loader of movies."""
    from benchmarks import baselines

    return repeated(baselines.filetree_movies(path, CLIP_FRAMES, MOVIE_BATCH, cache, published), batches)


def filetree_images(path: Path, batches: int, cache: bool) -> Work:
    """Open neuralpredictors' training loader of still images."""
    from benchmarks import baselines

    return repeated(baselines.filetree_images(path, IMAGE_BATCH, cache), batches)


def h5_movies(path: Path, tree: Path, batches: int) -> Work:
    """Open the plain h5py training loader of movies."""
    from benchmarks import baselines

    return repeated(baselines.h5_movies(path, tree / "meta" / "statistics", CLIP_FRAMES, MOVIE_BATCH), batches)


def repeated(loader: Any, batches: int) -> Work:
    """Return work that takes a number of batches, from as many epochs as that needs, and counts frames or images."""

    def work() -> int:
        items, left = 0, batches
        while left:
            for batch in loader:
                inputs = batch[0]  # (batch, channel, time, height, width) or (batch, channel, height, width)
                items += len(inputs) * (inputs.shape[2] if inputs.ndim == 5 else 1)
                left -= 1
                if not left:
                    break
        return items

    return work
