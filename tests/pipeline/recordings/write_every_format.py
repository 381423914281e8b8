"""A small valid example of every format, each with a test tier, and a way to leak into it."""

from __future__ import annotations

from tests.pipeline.recordings.write_image_formats import (
    ARRAYS,
    FILETREE,
    IMAGES,
    MOVING_ARRAYS,
    SENSORIUM2022,
    SENSORIUM2023,
)
from tests.pipeline.recordings.write_movie_formats import EXPERANTO, NWB_IMAGES, NWB_MOVIE, OPENRETINA, THESIS

EXAMPLES = (
    THESIS, FILETREE, SENSORIUM2022, SENSORIUM2023, OPENRETINA, EXPERANTO, NWB_IMAGES, NWB_MOVIE, IMAGES, ARRAYS,
    MOVING_ARRAYS,
)  # fmt: skip
