"""Pixels on their way into a dataset: cropped, in one colour or all, as luminance, resized, held on the screen."""

from __future__ import annotations

import numpy as np

from pipeline.datasets.preprocessing import Pixels
from pipeline.errors import DatasetError

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, ITU-R BT.601, as in Pillow's mode L."""

WHITE = 255
"""The brightest grey value of a source."""

_BLOCK = 2**24
"""Source pixels that are worked on at once: a movie of full size as float32 would fill the memory."""


def prepare_frames(frames: np.ndarray, settings: Pixels, name: str) -> np.ndarray:
    """Return the frames that a dataset stores of one stimulus.

    Parameters
    ----------
    frames : ndarray
        (channel, time, height, width) from the source.
    settings : Pixels
    name : str
        Of the stimulus, for errors.

    Returns
    -------
    ndarray
        (channel, time, height, width), uint8 if the source is and there is no luminance, else float32.

    Raises
    ------
    DatasetError
        If the crop leaves nothing, the channels are not those that the colour needs, or grey values are below 0 where
        luminance is asked for.
    """
    whole_numbers = frames.dtype == np.uint8 and settings.monitor == "none"
    frames = crop_frames(frames, settings.crop, name)
    step = max(1, _BLOCK // max(1, frames[:, :1].size))
    blocks = [_prepare(frames[:, t : t + step], settings, name) for t in range(0, frames.shape[1], step)]
    if whole_numbers:
        return np.concatenate([_round(block, np.dtype(np.uint8)) for block in blocks], axis=1)
    return np.concatenate(blocks, axis=1).astype(np.float32, copy=False)


def _prepare(frames: np.ndarray, settings: Pixels, name: str) -> np.ndarray:
    known = frames if frames.dtype == np.uint8 else frames.astype(np.float32)
    pixels = choose_color(known, settings.color, name)
    if settings.monitor != "none":
        if pixels.min() < 0:
            raise DatasetError(f"{name} has the grey value {pixels.min():g}: a monitor shows values from 0 to {WHITE}")
        pixels = luminance(pixels, settings)
    return resize_frames(pixels, settings.height, settings.width, settings.resize)


def crop_frames(frames: np.ndarray, crop: tuple[int, ...], name: str) -> np.ndarray:
    """Return frames without the given numbers of pixels at top, bottom, left and right.

    Raises
    ------
    DatasetError
        If nothing would be left.
    """
    if not crop:
        return frames
    top, bottom, left, right = crop
    height, width = frames.shape[2:]
    if top + bottom >= height or left + right >= width:
        raise DatasetError(f"{name} has {height} x {width} pixels, of which the crop {crop} leaves none: crop less")
    return frames[:, :, top : height - bottom, left : width - right]


def choose_color(frames: np.ndarray, color: str, name: str) -> np.ndarray:
    """Return all channels ('source'), their luma ('grey', float32), or the one of a colour.

    A source with a single channel is grey already and has the same value in every colour.

    Raises
    ------
    DatasetError
        If the source has neither one nor three channels and a colour is asked for.
    """
    channels = len(frames)
    if color == "source" or channels == 1:
        return frames
    if channels != 3:
        raise DatasetError(
            f"{name} has {channels} channels: {color!r} needs red, green and blue; use color='source' to keep them all"
        )
    if color == "grey":
        return np.tensordot(np.array([LUMA], np.float32), frames.astype(np.float32), axes=1)
    index = ("red", "green", "blue").index(color)
    return frames[index : index + 1]


def luminance(grey: np.ndarray, settings: Pixels) -> np.ndarray:
    """Return what a monitor emits (cd/m2, float32) for grey values from 0 to 255; see `Pixels` for the formulas."""
    amplitude, gamma, offset = settings.monitor_amplitude, settings.monitor_gamma, settings.monitor_offset
    if settings.monitor == "linear":
        brightest = amplitude * WHITE**gamma
        return (brightest / WHITE * grey + offset).astype(np.float32)
    if grey.dtype == np.uint8:  # powers of all pixels take fifty times as long as looking them up
        return (amplitude * np.arange(256.0) ** gamma + offset).astype(np.float32)[grey]
    return (amplitude * grey.astype(np.float64) ** gamma + offset).astype(np.float32)


def resize_frames(frames: np.ndarray, height: int, width: int, resize: str = "area") -> np.ndarray:
    """Resize by averaging the area that each new pixel covers, or by linear interpolation between the nearest pixels.

    Where 'area' would enlarge it interpolates, as averaging cannot enlarge. 'bilinear' samples at the new pixels'
    centres, without smoothing before, as OpenCV's INTER_LINEAR does. Integers stay integers (rounded to nearest).

    Parameters
    ----------
    frames : ndarray
        (channel, time, height, width).
    height, width : int
        New size (px).
    resize : {'area', 'bilinear'}

    Returns
    -------
    ndarray
        (channel, time, height, width) in the source's dtype.
    """
    if frames.shape[2:] == (height, width):
        return frames
    weights_of = {"area": _area_weights, "bilinear": _bilinear_weights}[resize]
    rows, columns = (weights_of(old, new) for old, new in zip(frames.shape[2:], (height, width), strict=True))
    return _round(np.matmul(np.matmul(rows, frames.astype(np.float32, copy=False)), columns.T), frames.dtype)


def _round(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if values.dtype == dtype:
        return values
    return (np.rint(values) if np.issubdtype(dtype, np.integer) else values).astype(dtype)


def _area_weights(old: int, new: int) -> np.ndarray:
    """Return the (new, old) matrix whose rows average the exact, possibly fractional, span of each new pixel."""
    if new > old:
        return _bilinear_weights(old, new)
    edges = np.arange(new + 1) * old / new
    left = np.maximum(edges[:-1, None], np.arange(old))
    right = np.minimum(edges[1:, None], np.arange(1, old + 1))
    return (np.clip(right - left, 0, None) * new / old).astype(np.float32)


def _bilinear_weights(old: int, new: int) -> np.ndarray:
    """Return the (new, old) matrix that interpolates at the new pixels' centres, constant beyond the outer centres."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.clip(1 - np.abs(centres[:, None] - np.arange(old)), 0, None).astype(np.float32)


def hold_frames(frames: np.ndarray, frame_rate: float, new_rate: float, bins: int) -> np.ndarray:
    """Return the frame that is on the screen at each bin's centre: a monitor holds a frame until the next.

    Parameters
    ----------
    frames : ndarray
        (channel, time, height, width) at ``frame_rate`` (Hz).
    new_rate : float
        Bins a second (Hz).
    bins : int
        Number of bins wanted; the last frame is held if the movie is shorter by a rounding.

    Returns
    -------
    ndarray
        (channel, bins, height, width).
    """
    # Multiplied first: a centre that falls on the change of frames must not be rounded to the frame before.
    index = np.floor((np.arange(bins) + 0.5) * frame_rate / new_rate).astype(int)
    return frames[:, np.minimum(index, frames.shape[1] - 1)]
