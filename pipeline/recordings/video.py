"""Reading and writing the movies that were shown, as grey pixels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipeline.errors import RecordingError


def read_video(path: str | Path) -> tuple[np.ndarray, float]:
    """Return every frame of a video file in grey, and its frame rate.

    Parameters
    ----------
    path : str or Path
        Any container and codec that FFmpeg reads; AVI in the thesis format.

    Returns
    -------
    frames : ndarray of uint8
        (channel = 1, time, height, width), full range (0 black, 255 white).
    frame_rate : float
        Hz, as the container states it.

    Raises
    ------
    RecordingError
        If the file is missing, is no video, or ends before the frames that it states; the message names the file
        and both counts.
    """
    path = Path(path)
    if not path.is_file():
        raise RecordingError(f"{path}: no such video file")
    frames: list[np.ndarray] = []
    stated, failure = 0, ""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise RecordingError(f"{path} has no video stream")
            stream = container.streams.video[0]
            stated, rate = stream.frames, stream.average_rate
            frames.extend(frame.to_ndarray(format="gray") for frame in container.decode(stream))
    except av.FFmpegError as error:
        if not stated:
            raise RecordingError(f"{path} cannot be read as a video ({error}): copy or write it again") from error
        failure = f" ({error})"
    if failure or len(frames) < stated:
        raise RecordingError(
            f"{path} is truncated or damaged: it states {stated} frames, "
            f"{len(frames)} could be decoded{failure}; copy or write it again"
        )
    if not frames or not rate:
        raise RecordingError(f"{path} holds no frames, or states no frame rate; write it again")
    return np.stack(frames)[None], float(rate)


def write_video(path: str | Path, frames: np.ndarray, frame_rate: float) -> None:
    """Write grey frames to a video file without loss (FFV1, every frame by itself).

    Parameters
    ----------
    path : str or Path
        Its ending chooses the container, for example ``.avi``.
    frames : ndarray of uint8
        (channel = 1, time, height, width).
    frame_rate : float
        Hz.

    Raises
    ------
    ValueError
        If the frames are not grey uint8, or there are none.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[0] != 1 or frames.shape[1] == 0:
        raise ValueError(f"{path}: frames must be uint8 (1, time, height, width), not {frames.dtype} {frames.shape}")
    with av.open(str(path), "w") as container:
        rate = Fraction(frame_rate).limit_denominator(1001)
        stream = container.add_stream("ffv1", rate=rate, options={"g": "1"})
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "gray"
        for image in np.ascontiguousarray(frames[0]):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode(None))
