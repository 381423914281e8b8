from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.figures.checks import FigureError
from pipeline.figures.mei_gallery import fields_beside_meis, mei_gallery, mei_gif, screen_colours

NAMES = ["first", "second", "third"]


@pytest.fixture
def meis():
    """Three images about 100 whose largest deviations are 40, -30 and 0."""
    images = np.full((3, 1, 8, 12), 100.0)
    images[0, 0, 2, 5], images[1, 0, 6, 1] = 140, 70
    return images


def test_images_are_signed_about_grey_under_unit_and_activation(meis):
    figure = mei_gallery(meis, NAMES, np.array([2.345, np.nan, -1.0]), grey=100, columns=2)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in panels] == [
        "first: 2.35",
        "second: undefined",
        "third: \N{MINUS SIGN}1.00",
    ]
    assert [axes.images[0].get_clim() for axes in panels] == [(-40, 40), (-30, 30), (-1, 1)]
    assert all(axes.images[0].get_cmap().name == "RdBu_r" for axes in panels)
    for axes, image in zip(panels, meis[:, 0], strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image - 100)


def test_without_grey_the_mean_of_each_image_is_white(meis):
    figure = mei_gallery(meis, NAMES, np.zeros(3))
    np.testing.assert_allclose([axes.images[0].get_array().mean() for axes in figure.axes], 0, atol=1e-12)


def test_colour_images_are_shown_as_they_are(meis):
    colour = np.concatenate([meis, meis / 2, np.zeros_like(meis)], axis=1)
    figure = mei_gallery(colour, NAMES, np.ones(3), grey=100)
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (8, 12, 3)
    np.testing.assert_allclose(shown[2, 5], [140 / 255, 70 / 255, 0])
    np.testing.assert_allclose(screen_colours(colour[0, :2])[2, 5], [0, 140 / 255, 70 / 255])
    with pytest.raises(FigureError, match="4 channels"):
        mei_gallery(np.ones((1, 4, 2, 2)), NAMES[:1], np.ones(1))


def test_receptive_fields_stand_beside_meis(meis):
    fields = np.zeros((3, 8, 12))
    fields[:, 1, 1] = (0.5, -0.2, 0.0)
    figure = fields_beside_meis(
        meis[:, 0], fields, NAMES, np.array([0.914, np.nan, -0.5]), grey=100, rf_title="Gradient at grey"
    )
    left, right = figure.axes[2:4]
    np.testing.assert_array_equal(left.images[0].get_array(), meis[1, 0] - 100)
    np.testing.assert_array_equal(right.images[0].get_array(), fields[1])
    assert right.images[0].get_clim() == (-0.2, 0.2)
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["first: MEI", "r = 0.91", "second: MEI", "r undefined", "third: MEI", "r = \N{MINUS SIGN}0.50"]
    assert figure.get_suptitle() == "Most exciting input, and gradient at grey"


def frames_of(gif: bytes) -> tuple[list[np.ndarray], list[int]]:
    image = Image.open(io.BytesIO(gif))
    assert (image.format, image.info["loop"]) == ("GIF", 0)
    frames, durations = [], []
    for number in range(image.n_frames):
        image.seek(number)
        frames.append(np.asarray(image.convert("RGB")).astype(int))
        durations.append(image.info["duration"])
    return frames, durations


def test_movies_move_side_by_side(meis):
    movies = np.full((3, 1, 4, 8, 12), 100.0)
    movies[0, 0, 0, 1, 2], movies[0, 0, 1, 1, 2] = 140, 80
    movies[0, 0, 3, 1, 2], movies[1, 0, 2, 3, 4] = 120, 30
    frames, durations = frames_of(mei_gif(movies, frame_ms=33.3, grey=100, columns=2, scale=3))
    assert durations == [30, 30, 30, 30, 400]
    assert frames[0].shape == (3 * (8 + 2 + 8), 3 * (12 + 2 + 12), 3)
    seen = [frame[1::3, 1::3, 0] for frame in frames]
    np.testing.assert_allclose([frame[1, 2] for frame in seen], [255, 64, 128, 191, 128], atol=2)
    np.testing.assert_allclose([frame[3, 12 + 2 + 4] for frame in seen], [128, 128, 0, 128, 128], atol=2)
    assert np.abs(seen[0][10:, :12] - 128).max() <= 2  # the third, which is flat


def test_movies_in_colour_keep_their_colours():
    movies = np.zeros((1, 3, 2, 4, 4))
    movies[0, 0, 0], movies[0, 2, 1] = 200, 90
    frames, _ = frames_of(mei_gif(movies, frame_ms=5, grey=100, scale=1))
    np.testing.assert_array_equal(frames[0][0, 0], [200, 0, 0])
    np.testing.assert_array_equal(frames[1][0, 0], [0, 0, 90])


def test_what_does_not_fit_is_refused(meis):
    with pytest.raises(FigureError, match="unit_names 2"):
        mei_gallery(meis, NAMES[:2], np.ones(3))
    with pytest.raises(FigureError, match=r"rf has shape \(3, 8, 11\)"):
        fields_beside_meis(meis[:, 0], np.zeros((3, 8, 11)), NAMES)
    with pytest.raises(FigureError, match="must be above 0"):
        mei_gif(meis[:, :, None], frame_ms=0, grey=100)
