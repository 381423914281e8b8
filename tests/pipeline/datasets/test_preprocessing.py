from __future__ import annotations

from typing import Any

import pytest

from pipeline.configuration import Configuration
from pipeline.datasets.preprocessing import PREPROCESSINGS, Image, Movie
from pipeline.errors import ConfigurationError


def test_defaults_are_those_of_the_thesis_and_of_staticnet() -> None:
    movie, image = Movie(), Image()
    assert (movie.frame_rate, movie.height, movie.width) == (60, 33, 53)
    assert (image.height, image.width, image.offset, image.duration, image.window) == (36, 64, 0.05, 0.5, "hamming")
    assert (movie.waveform, movie.response_offset, movie.derivative, image.derivative) == ("none", 0, False, True)
    assert (Movie, Image) == PREPROCESSINGS


@pytest.mark.parametrize("kind", PREPROCESSINGS)
def test_rows_of_tables_come_back_equal(kind: type[Configuration]) -> None:
    config: Any = kind.from_dict({"crop": "[1, 2, 3, 4]", "monitor": "linear", "resize": "bilinear"})
    assert config.crop == (1, 2, 3, 4)
    assert kind.from_dict(config.settings()) == config
    assert config.hash() != kind().hash()


@pytest.mark.parametrize(
    ("kind", "settings", "complaint"),
    [
        (Image, {"crop": (1, 2)}, r"Image\.crop: \(1, 2\) has 2 numbers; give four"),
        (Movie, {"crop": (1, 2, 3, -4)}, r"Movie\.crop: .* must be >= 0"),
        (Movie, {"color": "pink"}, r"Movie\.color: 'pink' is not allowed"),
        (Movie, {"waveform": "custom"}, r"waveform is 'custom': give waveform_samples"),
        (Movie, {"waveform": "custom", "waveform_samples": (0.0, 0.0)}, "that are not all 0"),
        (Movie, {"waveform": "double_exponential", "waveform_rise": 0.02}, r"must be below waveform_decay, 0\.02 s"),
        (Movie, {"response_offset": -0.1}, r"response_offset: -0\.1 is not allowed, it must be >= 0"),
        (Image, {"duration": 0}, r"Image\.duration: 0\.0 is not allowed, it must be > 0"),
    ],
)
def test_what_cannot_be_is_refused(kind: type[Configuration], settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        kind(**settings)
