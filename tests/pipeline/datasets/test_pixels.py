from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage.transform import downscale_local_mean

from pipeline.datasets import pixels as pixels_module
from pipeline.datasets.pixels import choose_color, crop_frames, hold_frames, prepare_frames, resize_frames
from pipeline.datasets.preprocessing import Image
from pipeline.errors import DatasetError


@pytest.mark.parametrize("factors", [(4, 4), (8, 8), (3, 2), (1, 5)])
def test_integer_factors_average_blocks(factors: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    frames = rng.normal(size=(2, 3, 6 * factors[0], 5 * factors[1]))
    expected = downscale_local_mean(frames, (1, 1, *factors))
    resized = resize_frames(frames, 6, 5)
    assert resized.dtype == frames.dtype
    np.testing.assert_allclose(resized, expected, atol=1e-5)


def exact_area(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Average exactly, with fractions: expand each pixel so that old and new grids share their borders."""
    tall = np.repeat(frame.astype(float), height, axis=0).reshape(height, frame.shape[0], frame.shape[1]).mean(1)
    return np.repeat(tall, width, axis=1).reshape(height, width, frame.shape[1]).mean(2)


@pytest.mark.parametrize("size", [(33, 53), (10, 13), (64, 41), (1, 1), (65, 106)])
def test_fractional_factors_average_the_exact_area(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(3).integers(0, 256, (1, 2, 66, 107), dtype=np.uint8)
    resized = resize_frames(frames, *size)
    assert resized.dtype == np.uint8
    assert resized.shape == (1, 2, *size)
    exact = np.stack([exact_area(frame, *size) for frame in frames[0]])
    assert np.abs(resized[0] - exact).max() <= 0.5 + 1e-3  # rounded to nearest, not down


def test_uint8_is_rounded_to_nearest() -> None:
    frames = np.array([[0, 1, 3, 4], [0, 0, 4, 4]], np.uint8)[None, None]  # means 0.25 and 3.75
    assert resize_frames(frames, 1, 2).ravel().tolist() == [0, 4]
    white = np.full((1, 1, 66, 107), 255, np.uint8)
    assert (resize_frames(white, 33, 53) == 255).all()
    assert (resize_frames(white, 80, 200) == 255).all()


def test_frames_of_the_right_size_are_left_as_they_are() -> None:
    frames = np.random.default_rng(4).integers(0, 256, (1, 2, 5, 6), dtype=np.uint8)
    assert np.array_equal(resize_frames(frames, 5, 6), frames)


def test_enlarging_keeps_ramps() -> None:
    ramp = np.broadcast_to(np.arange(8.0)[:, None], (8, 8))[None, None]
    larger = resize_frames(ramp, 16, 16)
    assert larger.dtype == ramp.dtype
    np.testing.assert_allclose(larger[0, 0, 1:-1], np.broadcast_to(np.arange(14)[:, None] / 2 + 0.25, (14, 16)))


def index_movie(frames: int) -> np.ndarray:
    return np.arange(frames)[None, :, None, None] * np.ones((1, 1, 2, 2), int)


@pytest.mark.parametrize(
    ("source", "target", "bins", "shown"),
    [
        (30, 60, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (60, 60, 4, [0, 1, 2, 3]),
        # centres at (k + 1/2) 25 / 60 = 0.21, 0.63, 1.04, 1.46, 1.88, 2.29, 2.71, 3.13, 3.54, 3.96, 4.38, 4.79
        (25, 60, 12, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4]),
        # centres at 0.2, 0.6, 1.0, 1.4, 1.8: the third falls on a change and belongs to the new frame
        (24, 60, 5, [0, 0, 1, 1, 1]),
        (60, 30, 3, [1, 3, 5]),
        (30, 60, 10, [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]),  # four frames only: the last is held
    ],
)
def test_held_frames_by_hand(source: float, target: float, bins: int, shown: list[int]) -> None:
    movie = index_movie(4 if source == 30 else 12)
    assert hold_frames(movie, source, target, bins)[0, :, 1, 1].tolist() == shown


@pytest.mark.parametrize(("source", "target"), [(30, 60), (24, 60), (60, 30), (60, 20), (25, 60), (100, 60)])
def test_held_frames_in_exact_arithmetic(source: int, target: int) -> None:
    bins = 3000
    exact = [int(Fraction(2 * k + 1, 2) * source / target) for k in range(bins)]
    held = hold_frames(index_movie(exact[-1] + 1), source, target, bins)
    assert held[0, :, 0, 0].tolist() == exact


def test_bilinear_keeps_ramps_and_does_not_smooth() -> None:
    # the new pixel k lies over the old coordinate (k + 1/2) * 12 / 5 - 1/2
    at = (np.arange(5) + 0.5) * 12 / 5 - 0.5
    rows, columns = np.meshgrid(np.arange(12.0), np.arange(12.0), indexing="ij")
    resized = resize_frames((3 * rows - 2 * columns)[None, None], 5, 5, "bilinear")
    np.testing.assert_allclose(resized[0, 0], 3 * at[:, None] - 2 * at, atol=1e-4)
    stripes = np.tile([0.0, 0.0, 1.0], 4)[None, None, None] * np.ones((1, 1, 3, 1))
    assert resize_frames(stripes, 1, 4, "bilinear").ravel().tolist() == [0, 0, 0, 0]  # at every middle column
    np.testing.assert_allclose(resize_frames(stripes, 1, 4, "area").ravel(), 1 / 3, atol=1e-6)


def test_one_side_may_shrink_while_the_other_grows() -> None:
    frames = np.random.default_rng(5).normal(size=(1, 1, 6, 3))
    found = resize_frames(frames, 3, 6)
    shrunk = frames[0, 0].reshape(3, 2, 3).mean(1)
    at = np.clip((np.arange(6) + 0.5) / 2 - 0.5, 0, 2)
    np.testing.assert_allclose(found[0, 0], [np.interp(at, np.arange(3), row) for row in shrunk], atol=1e-6)


def colors(dtype: str = "uint8") -> np.ndarray:
    """Return (3, 2, 8, 10)."""
    return np.random.default_rng(6).integers(0, 256, (3, 2, 8, 10)).astype(dtype)


def settings(**changes: object) -> Image:
    return Image(**{"height": 8, "width": 10, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("resize", ["area", "bilinear"])
def test_the_settings_say_how_to_resize(resize: str) -> None:
    found = prepare_frames(colors(), settings(height=3, width=4, resize=resize), "x")
    np.testing.assert_array_equal(found, resize_frames(colors(), 3, 4, resize))


def test_crop_counts_from_the_four_sides() -> None:
    frames = np.arange(80).reshape(1, 1, 8, 10)
    assert crop_frames(frames, (1, 2, 3, 4), "x")[0, 0, :, 0].tolist() == [13, 23, 33, 43, 53]
    assert crop_frames(frames, (1, 2, 3, 4), "x")[0, 0, 0].tolist() == [13, 14, 15]
    assert crop_frames(frames, (0, 0, 0, 0), "x").shape == frames.shape
    prepared = prepare_frames(colors(), settings(crop=(1, 3, 4, 0), height=2, width=3), "x")
    expected = colors()[:, :, 1:5, 4:].reshape(3, 2, 2, 2, 3, 2).mean((3, 5))
    assert np.abs(prepared - expected).max() <= 0.5
    for crop in ((4, 4, 0, 0), (0, 0, 3, 7), (9, 0, 0, 0)):
        with pytest.raises(DatasetError, match=r"gull has 8 x 10 pixels, of which the crop .* leaves none"):
            crop_frames(frames, crop, "gull")


def test_grey_is_that_of_pillow_and_colours_are_channels() -> None:
    frames = colors()
    grey = prepare_frames(frames, settings(color="grey"), "x")
    assert (grey.dtype, grey.shape) == (np.uint8, (1, 2, 8, 10))
    for t in range(2):
        pillow = np.asarray(PillowImage.fromarray(frames[:, t].transpose(1, 2, 0)).convert("L"))
        assert np.abs(grey[0, t].astype(int) - pillow).max() <= 1  # Pillow's weights have 16 bits
        assert (grey[0, t] == pillow).mean() > 0.95
    for index, color in enumerate(("red", "green", "blue")):
        np.testing.assert_array_equal(prepare_frames(frames, settings(color=color), "x"), frames[index : index + 1])
    np.testing.assert_array_equal(prepare_frames(frames, settings(), "x"), frames)
    white = prepare_frames(np.full((3, 1, 8, 10), 255, np.uint8), settings(color="grey"), "x")
    assert (white == 255).all()


def test_a_single_channel_is_grey_and_two_are_no_colour() -> None:
    for color in ("grey", "green", "source"):
        np.testing.assert_array_equal(choose_color(colors()[:1], color, "x"), colors()[:1])
    with pytest.raises(DatasetError, match="gull has 2 channels: 'green' needs red, green and blue"):
        choose_color(colors()[:2], "green", "gull")
    assert prepare_frames(colors()[:2], settings(), "x").shape[0] == 2


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_luminance_is_the_closed_form(dtype: str) -> None:
    frames, calibration = colors(dtype)[:1], {"monitor_amplitude": 0.02, "monitor_gamma": 1.7, "monitor_offset": 0.3}
    gamma = prepare_frames(frames, settings(monitor="gamma", **calibration), "x")
    linear = prepare_frames(frames, settings(monitor="linear", **calibration), "x")
    assert gamma.dtype == linear.dtype == np.float32
    np.testing.assert_allclose(gamma, 0.02 * frames.astype(float) ** 1.7 + 0.3, rtol=1e-6)
    ends = 0.02 * np.array([0.0, 255.0]) ** 1.7 + 0.3
    np.testing.assert_allclose(linear, np.interp(frames, [0, 255], ends), rtol=1e-6)


def test_light_is_averaged_not_grey_values() -> None:
    checks = np.indices((8, 10)).sum(0) % 2 * np.uint8(200)
    calibration = {"monitor": "gamma", "monitor_amplitude": 0.01, "monitor_gamma": 2.0, "monitor_offset": 1.0}
    found = prepare_frames(checks[None, None].astype(np.uint8), settings(height=4, width=5, **calibration), "x")
    np.testing.assert_allclose(found, (0.01 * 200**2 + 1 + 1) / 2, rtol=1e-6)
    # of grey values first it would be 0.01 * 100 ** 2 + 1 = 101 instead of 201
    with pytest.raises(DatasetError, match=r"gull has the grey value -1: a monitor shows values from 0 to 255"):
        prepare_frames(np.full((1, 1, 8, 10), -1.0), settings(**calibration), "gull")


@pytest.mark.parametrize("dtype", ["bool", "uint16", "float16", "float64"])
def test_anything_but_uint8_is_stored_as_float32_without_rounding(dtype: str) -> None:
    frames = (np.indices((8, 10))[1] % 2)[None, None].astype(dtype)
    found = prepare_frames(frames, settings(height=4, width=5), "x")
    assert found.dtype == np.float32
    assert (found == 0.5).all()


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(7).integers(0, 256, (3, 7, 9, 11), dtype=np.uint8)
    for changes in ({"color": "grey"}, {"monitor": "gamma"}, {"height": 5, "width": 4}):
        whole = prepare_frames(frames, settings(**changes), "x")
        with monkeypatch.context() as small:
            small.setattr(pixels_module, "_BLOCK", 2 * 3 * 9 * 11)  # two frames at once
            np.testing.assert_allclose(prepare_frames(frames, settings(**changes), "x"), whole, rtol=1e-6)
