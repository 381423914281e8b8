"""A simulated V1 recording in the layout of Lurz et al. (2020): simple and complex cells that watch still images."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline.errors import ConfigurationError, RecordingError

LEAVES = 120
RADII = (3.0, 24.0)
"""Leaves of an image, and their smallest and largest radius (px)."""
TISSUE = (600.0, 340.0)
"""Extent of the imaged tissue in x and y (um), on which the screen is mapped."""
SCATTER = 1.5
"""Standard deviation of receptive fields around where the map of the tissue puts them (px)."""
WAVELENGTHS = (8.0, 14.0)
"""Shortest and longest wavelength of the Gabor filters (px); their Gaussian windows have an std of 0.4 of it."""
SATURATION = 6.0
"""Drive, in units of its mean, at which the rate reaches half of its highest value."""


@dataclass(frozen=True)
class V1Settings:
    """Size and seed of a simulated recording.

    Attributes
    ----------
    n_units : int
    complex_share : float
        Share of complex cells, 0 to 1; the others are simple cells.
    n_train, n_validation, n_test : int
        Images in each tier.
    test_repeats : int
        Presentations of each test image; others are shown once.
    height, width : int
        Size of the images (px).
    seed : int

    Raises
    ------
    ConfigurationError
        If a number is out of range.
    """

    n_units: int = 100
    complex_share: float = 0.5
    n_train: int = 2000
    n_validation: int = 250
    n_test: int = 50
    test_repeats: int = 10
    height: int = 36
    width: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        smallest = {
            "n_units": 1, "n_train": 1, "n_validation": 1, "n_test": 1, "test_repeats": 1, "height": 16, "width": 16,
            "seed": 0,
        }  # fmt: skip
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ConfigurationError(f"V1Settings.{name}: {getattr(self, name)!r} is below {least}")
        if not 0 <= self.complex_share <= 1:
            raise ConfigurationError(f"V1Settings.complex_share: {self.complex_share!r} is not between 0 and 1")

    @property
    def image_tiers(self) -> np.ndarray:
        """Tier of each image."""
        return np.repeat(["train", "validation", "test"], [self.n_train, self.n_validation, self.n_test])


@dataclass(frozen=True)
class V1Truth:
    """What the simulated neurons really do; arrays are (unit,) where nothing else is said.

    Attributes
    ----------
    is_complex : ndarray of bool
    row, column : ndarray
        Middle of the receptive field (px).
    orientation : ndarray
        Direction in which the wave runs (rad), 0 for upright bars.
    wavelength : ndarray
        Px.
    phase : ndarray
        Of a simple cell's wave in the middle of its window (rad); without effect on complex cells.
    rate_scale : ndarray
        Expected spikes at half of the highest rate.
    position : ndarray
        (unit, 3), place in the tissue (um).
    shown : ndarray of int
        (trial,), the image of each file of the recording.
    expected : ndarray of float32
        (image, unit), expected number of spikes.
    """

    is_complex: np.ndarray
    row: np.ndarray
    column: np.ndarray
    orientation: np.ndarray
    wavelength: np.ndarray
    phase: np.ndarray
    rate_scale: np.ndarray
    position: np.ndarray
    shown: np.ndarray
    expected: np.ndarray


def load_v1_truth(directory: str | Path) -> V1Truth:
    """Read the truth of a recording that `simulate_v1` wrote.

    Raises
    ------
    RecordingError
        If there is none.
    """
    path = Path(directory) / "ground_truth.npz"
    if not path.is_file():
        raise RecordingError(f"{path}: no such file; only simulated recordings have a ground truth")
    with np.load(path, allow_pickle=False) as stored:
        return V1Truth(**{field.name: stored[field.name] for field in dataclasses.fields(V1Truth)})


def simulate_v1(directory: str | Path, settings: V1Settings | None = None) -> V1Truth:
    """Simulate a recording and write it for the format ``filetree``; the same settings give the same recording.

    Simple cells weigh the image with a Gabor filter and square what is positive. Complex cells add the squares of a
    pair of filters 90 degrees apart (Adelson and Bergen 1985), so that no linear model predicts them. The rate
    saturates, and the number of spikes is drawn from a Poisson distribution. Receptive fields follow the place of the
    neuron in the tissue, as in real cortex. The folder appears under its name only when it is complete.

    Parameters
    ----------
    directory : str or Path
        A folder that does not exist yet, or is empty.
    settings : V1Settings, optional

    Raises
    ------
    RecordingError
        If the folder holds something already.
    """
    settings = settings or V1Settings()
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RecordingError(f"{directory} is not empty: choose another folder for the simulated recording")
    # One generator for each purpose: more images leave the units as they are.
    units, pictures, order, noise = (
        np.random.default_rng(seed) for seed in np.random.SeedSequence(settings.seed).spawn(4)
    )
    tiers = settings.image_tiers
    images = dead_leaves(len(tiers), settings.height, settings.width, pictures)
    repeats = np.where(tiers == "test", settings.test_repeats, 1)
    shown = order.permutation(np.repeat(np.arange(len(tiers)), repeats))
    truth = _population(settings, images, shown, units)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _write(partial, images, tiers, truth, noise.poisson(truth.expected[shown]).astype(np.float32))
    if directory.exists():
        directory.rmdir()
    os.replace(partial, directory)
    return truth


def dead_leaves(n_images: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return images of discs that cover each other, (image, height, width) uint8 around 127.

    Discs of all sizes, with a density of radii of r^-3, give the edges, the occlusions and the power spectrum of
    natural scenes (Lee, Mumford and Huang 2001, https://doi.org/10.1023/A:1011109015675).
    """
    low, high = (radius**-2 for radius in RADII)
    margin = RADII[1] / 2
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    images = np.empty((n_images, height, width), np.float32)
    for image in images:
        squares = (1 / (low - rng.random(LEAVES) * (low - high))).astype(np.float32)
        middles = rng.uniform(-margin, (height + margin, width + margin), (LEAVES, 2)).astype(np.float32)
        down, right = (rows - middles[:, :1]) ** 2, (columns - middles[:, 1:]) ** 2
        covered = down[:, :, None] + right[:, None, :] < squares[:, None, None]
        image[:] = np.where(covered.any(axis=0), rng.normal(size=LEAVES)[covered.argmax(axis=0)], 0)
    images += 0.15 * gaussian_filter(rng.normal(size=images.shape), (0, 1, 1)) * np.sqrt(4 * np.pi)  # texture
    images = gaussian_filter(images, (0, 0.5, 0.5))  # edges of a pixel's width, as of a lens
    images -= images.mean(axis=(1, 2), keepdims=True)
    images *= 45 / images.std(axis=(1, 2), keepdims=True)
    return np.clip(np.round(images + 127), 0, 255).astype(np.uint8)


def gabor_pairs(truth: V1Truth, height: int, width: int) -> np.ndarray:
    """Return the filters of all units, (2, unit, height, width): with the unit's phase and 90 degrees later."""
    down = np.arange(height)[None, :, None] - truth.row[:, None, None]
    right = np.arange(width)[None, None, :] - truth.column[:, None, None]
    wavelength, angle, phase = (x[:, None, None] for x in (truth.wavelength, truth.orientation, truth.phase))
    window = np.exp(-(down**2 + right**2) / (2 * (0.4 * wavelength) ** 2))
    wave = 2 * np.pi * (right * np.cos(angle) + down * np.sin(angle)) / wavelength + phase
    filters = np.stack([window * np.cos(wave), window * np.cos(wave - np.pi / 2)])
    filters -= window * (filters.sum(axis=(2, 3)) / window.sum(axis=(1, 2)))[..., None, None]  # blind to mean luminance
    normalized: np.ndarray = filters / np.sqrt((filters**2).sum(axis=(2, 3), keepdims=True))
    return normalized


def _population(settings: V1Settings, images: np.ndarray, shown: np.ndarray, rng: np.random.Generator) -> V1Truth:
    """Draw the units and compute what they respond to each image."""
    n_units = settings.n_units
    place = rng.uniform(-0.5, 0.5, (n_units, 2))  # in shares of the tissue, x and y
    screen = np.array([settings.width, settings.height])
    column, row = (screen / 2 + 0.7 * place * screen + SCATTER * rng.normal(size=(n_units, 2))).T
    truth = V1Truth(
        is_complex=rng.permutation(n_units) < round(settings.complex_share * n_units),
        row=row,
        column=column,
        orientation=rng.uniform(0, np.pi, n_units),
        wavelength=rng.uniform(*WAVELENGTHS, n_units),
        phase=rng.uniform(0, 2 * np.pi, n_units),
        rate_scale=rng.uniform(2, 5, n_units),
        position=np.column_stack([place * TISSUE, rng.uniform(150, 250, n_units)]),
        shown=shown,
        expected=np.empty(0),
    )
    filters = gabor_pairs(truth, settings.height, settings.width).reshape(2 * n_units, -1)
    contrast = images.reshape(len(images), -1) / 127.5 - 1
    own, later = np.split(contrast @ filters.T, 2, axis=1)
    drive = np.where(truth.is_complex, own**2 + later**2, np.maximum(own, 0) ** 2)
    drive /= drive[settings.image_tiers == "train"].mean(axis=0)
    expected = truth.rate_scale * 2 * drive / (drive + SATURATION)
    return dataclasses.replace(truth, expected=expected.astype(np.float32))


def _write(folder: Path, images: np.ndarray, tiers: np.ndarray, truth: V1Truth, responses: np.ndarray) -> None:
    """Write the folder: one file a trial and quantity, and what is known of trials and neurons."""
    n_trials, n_units = responses.shape
    for name in ("images", "responses"):
        (folder / "data" / name).mkdir(parents=True)
    for index, image in enumerate(truth.shown.tolist()):
        np.save(folder / "data" / "images" / f"{index}.npy", images[image][None].astype(np.float32))
        np.save(folder / "data" / "responses" / f"{index}.npy", responses[index])
    about = {
        "trials": {
            "tiers": tiers[truth.shown].astype("S"),
            "trial_idx": np.arange(n_trials),
            "frame_image_id": truth.shown,
            "frame_image_class": np.full(n_trials, b"dead leaves"),
            "frame_presentation_time": np.full(n_trials, 0.5, np.float32),
        },
        "neurons": {
            "unit_ids": np.arange(1, n_units + 1, dtype=np.uint16),
            "animal_ids": np.ones(n_units, np.uint16),
            "sessions": np.ones(n_units, np.uint8),
            "scan_idx": np.ones(n_units, np.uint8),
            "area": np.full(n_units, b"V1"),
            "layer": np.full(n_units, b"L2/3"),
            "cell_motor_coordinates": truth.position,
        },
    }
    for kind, arrays in about.items():
        (folder / "meta" / kind).mkdir(parents=True)
        for name, values in arrays.items():
            np.save(folder / "meta" / kind / f"{name}.npy", values)
    (folder / "config.json").write_text(json.dumps({"links": {}}), encoding="utf-8")
    np.savez_compressed(folder / "ground_truth.npz", **vars(truth))
