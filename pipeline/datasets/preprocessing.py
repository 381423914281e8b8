"""Kinds of preprocessing: what a dataset holds of each stimulus, and how responses and behaviour are brought to it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.configuration import Configuration, setting
from pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class Pixels(Configuration):
    """How pixels are stored, in this order: cropped, colour chosen, turned into luminance, resized.

    Luminance comes before resizing because it is light that adds up on the retina: the mean of two grey values is not
    the grey value of their mean light. Grey values run from 0 to 255. Luminance is stored as float32; otherwise uint8
    stays uint8, rounded once at the end, and any other type is stored as float32.

    'gamma' replaces a grey value g by amplitude * g ** gamma + offset (cd/m2), what a calibrated monitor emits.
    'linear' is for a monitor that was linearised: its luminance rises on a straight line between the darkest (g = 0)
    and the brightest (g = 255) luminance of the same calibration.
    """

    height: int = setting(36, "height of the stored frames", unit="px", ge=1)
    width: int = setting(64, "width of the stored frames", unit="px", ge=1)
    resize: str = setting(
        "area",
        "mean over the area of each new pixel, or linear between the nearest old ones without smoothing",
        choices=("area", "bilinear"),
    )
    color: str = setting(
        "source",
        "all channels of the source, their luma (ITU-R BT.601), or one of red, green, blue",
        choices=("source", "grey", "red", "green", "blue"),
    )
    crop: tuple[int, ...] = setting((), "cut off at top, bottom, left, right; or nothing", unit="source px", ge=0)
    monitor: str = setting("none", "grey values, or the luminance of a monitor", choices=("none", "gamma", "linear"))
    monitor_amplitude: float = setting(5e-4, "of the monitor's calibration", unit="cd/m2 per grey value ** gamma", gt=0)
    monitor_gamma: float = setting(2.2, "exponent of the monitor's calibration", gt=0)
    monitor_offset: float = setting(0.0, "luminance of the monitor at grey value 0", unit="cd/m2", ge=0)

    def __post_init__(self) -> None:
        """Validate each setting, then that a crop names all four sides."""
        super().__post_init__()
        if len(self.crop) not in (0, 4):
            raise ConfigurationError(
                f"{self.kind()}.crop: {self.crop} has {len(self.crop)} numbers; give four, for top, bottom, left and "
                "right, or none"
            )


@dataclass(frozen=True)
class Movie(Pixels):
    """Movies, responses and behaviour in bins of one frame rate.

    The defaults are those of the dLGN thesis: 60 Hz and an eighth of 424 x 264 pixels. Still images and blanks are held
    for as long as they were shown. Spikes are counted in bins, or convolved with a waveform as an estimate of the
    membrane voltage (see `pipeline.datasets.waveforms`); sampled traces are averaged within bins, or interpolated where
    they are slower. Frames, light and behaviour keep the stimulus' clock; ``response_offset`` shifts responses alone.
    """

    height: int = setting(33, "height of the stored frames", unit="px", ge=1)
    width: int = setting(53, "width of the stored frames", unit="px", ge=1)
    frame_rate: float = setting(60.0, "bins a second, of responses and frames alike", unit="Hz", gt=0)
    response: str = setting("count", "of spikes: number in each bin, or spikes/s", choices=("count", "rate"))
    response_offset: float = setting(0.0, "bins of responses begin so long after their frames", unit="s", ge=0)
    waveform: str = setting(
        "none",
        "what each spike adds: 1 to its bin, or a waveform that starts with it",
        choices=("none", "exponential", "alpha", "double_exponential", "custom"),
    )
    waveform_rise: float = setting(0.002, "time constant of the rise, of double_exponential", unit="s", gt=0)
    waveform_decay: float = setting(0.02, "time constant of the decay, of all but custom", unit="s", gt=0)
    waveform_samples: tuple[float, ...] = setting(
        (), "the custom waveform, one value a bin, the spike's own bin first", length=4096
    )
    derivative: bool = setting(False, "compute pupil_derivative (1/s) from pupil_size where the source has none")

    def __post_init__(self) -> None:
        """Validate each setting, then that the waveform has what it needs."""
        super().__post_init__()
        if self.waveform == "custom" and not any(self.waveform_samples):
            raise ConfigurationError("Movie.waveform is 'custom': give waveform_samples that are not all 0")
        if self.waveform == "double_exponential" and self.waveform_rise >= self.waveform_decay:
            raise ConfigurationError(
                f"Movie.waveform_rise: {self.waveform_rise:g} s is not allowed for 'double_exponential', it must be "
                f"below waveform_decay, {self.waveform_decay:g} s; where both are equal use 'alpha'"
            )


@dataclass(frozen=True)
class Image(Pixels):
    """Still images, each with one response of each unit and one value of each signal.

    The defaults are those of the static V1 models (staticnet): the response is low-passed by a Hamming window and read
    at onset + offset + duration / 2; 'box' takes the plain mean, or the spikes, between onset + offset and duration
    later (see `pipeline.datasets.windows`). Signals go through the same window, running as speed without direction.
    What a source gives once a trial is stored as it is.
    """

    offset: float = setting(0.05, "the window begins so long after the image", unit="s", ge=0)
    duration: float = setting(0.5, "length of the window; a Hamming window reaches half of it further", unit="s", gt=0)
    window: str = setting("hamming", "weights of the samples or spikes", choices=("hamming", "box"))
    response: str = setting("count", "of spikes: number in the window, or spikes/s", choices=("count", "rate"))
    derivative: bool = setting(True, "compute pupil_derivative (1/s) from pupil_size where the source has none")


PREPROCESSINGS: tuple[type[Configuration], ...] = (Movie, Image)
