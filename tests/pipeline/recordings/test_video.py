"""Movies come back pixel by pixel, and damaged ones are refused."""

from __future__ import annotations

import av
import numpy as np
import pytest

from pipeline.errors import RecordingError
from pipeline.recordings.video import read_video, write_video


def noise(n_frames: int = 25) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, n_frames, 33, 53), dtype=np.uint8)


@pytest.mark.parametrize("rate", [25.0, 30.0, 60.0, 30000 / 1001])
def test_round_trip_is_exact(tmp_path, rate):
    write_video(tmp_path / "a.avi", noise(), rate)
    frames, frame_rate = read_video(tmp_path / "a.avi")
    assert np.array_equal(frames, noise())
    assert frames.dtype == np.uint8
    assert frame_rate == rate


def test_a_colour_movie_of_another_codec_is_read_in_grey(tmp_path):
    colours = {"black": (0, 0, 0), "white": (255, 255, 255), "green": (0, 255, 0)}
    with av.open(str(tmp_path / "c.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for colour in colours.values():
            image = np.broadcast_to(np.array(colour, np.uint8), (48, 64, 3)).copy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    frames, _ = read_video(tmp_path / "c.avi")
    assert frames.shape == (1, 3, 48, 64)
    luma = frames.mean(axis=(0, 2, 3))
    assert luma == pytest.approx([0, 255, 0.587 * 255], abs=6)  # ITU-R BT.601


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_truncated_movie_is_refused_with_both_counts(tmp_path, share):
    write_video(tmp_path / "a.avi", noise(), 30)
    whole = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RecordingError, match=r"a\.avi is truncated or damaged: it states 25 frames, \d+ could"):
        read_video(tmp_path / "a.avi")


def test_a_file_cut_between_two_frames_is_refused(tmp_path):
    """The decoder sees nothing wrong there; only the count tells."""
    write_video(tmp_path / "a.avi", noise(), 30)
    whole = (tmp_path / "a.avi").read_bytes()
    sixth = [i for i in range(whole.index(b"movi"), len(whole)) if whole[i : i + 4] == b"00dc"][5]
    (tmp_path / "a.avi").write_bytes(whole[:sixth])
    with pytest.raises(RecordingError, match="states 25 frames, 5 could"):
        read_video(tmp_path / "a.avi")


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(RecordingError, match=r"b\.avi: no such video"):
        read_video(tmp_path / "b.avi")
    (tmp_path / "b.avi").write_text("these are no pixels")
    with pytest.raises(RecordingError, match=r"b\.avi cannot be read as a video"):
        read_video(tmp_path / "b.avi")


@pytest.mark.parametrize(
    "frames", [noise()[0], noise().astype(float), np.zeros((3, 2, 33, 53), np.uint8), noise()[:, :0]]
)
def test_only_grey_uint8_movies_are_written(tmp_path, frames):
    with pytest.raises(ValueError, match="must be uint8"):
        write_video(tmp_path / "a.avi", frames, 30)
