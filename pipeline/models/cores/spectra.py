"""What convolutions by way of spectra are made of: transforms along one axis, and products of spectra.

By the convolution theorem a convolution is a product of spectra, where a filter costs one complex product for each
frequency and pair of channels, however many taps it has. Axes are short here, so that their discrete Fourier
transforms are products with matrices, which run at a processor's full speed; `torch.fft` takes two to three times as
long. Complex products take three real ones, after Gauss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipeline.errors import ConfigurationError
from pipeline.models.cores.side_by_side import workers

_CHUNK_VALUES = 2**19
"""Values of spectra that a thread works on together, so that they stay in its cache."""


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution, and the matrices that transform along it, in single precision.

    The circular convolution of `length` places is equal to the padded one: the zeros behind the last place are also
    those before the first. Complex values are pairs: their real and imaginary part.

    Attributes
    ----------
    size : int
        Places.
    taps : int
        Of a filter.
    dilation : int
        Places between neighbouring taps.
    padding : int
        Zeros before the first place and behind the last.
    """

    size: int
    taps: int
    dilation: int
    padding: int

    @property
    def length(self) -> int:
        """Return the places, and frequencies, of the circular convolution."""
        return self.size + self.padding

    @property
    def out_size(self) -> int:
        """Return the places of the map."""
        return self.size + 2 * self.padding - self.dilation * (self.taps - 1)

    @property
    def lost(self) -> int:
        """Return by how many places the map is smaller."""
        return self.size - self.out_size

    @property
    def half(self) -> int:
        """Return how many frequencies say all about real values; the others are their complex conjugates."""
        return self.length // 2 + 1

    @property
    def holds_map(self) -> bool:
        """Tell whether the circular convolution has all places of the map."""
        return 0 < self.out_size <= self.length

    def require_map(self) -> None:
        """Refuse sizes for which a circular convolution would give something else.

        Raises
        ------
        ConfigurationError
            If the filter is larger than the padded axis, or there is more padding than it reaches.
        """
        if not self.holds_map:
            raise ConfigurationError(
                f"{self.taps} taps, {self.dilation} apart, on {self.size} places with padding {self.padding}: filters "
                "must fit, and padding must be at most dilation * (taps - 1)"
            )

    def _waves(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of 2 pi f x / length, (frequency, place), in double precision."""
        turns = torch.outer(torch.arange(self.length), places) % self.length  # exact, unlike whole turns of an angle
        angles = turns.to(torch.float64) * (2 * math.pi / self.length)
        return angles.cos(), angles.sin()

    @cached_property
    def _place_waves(self) -> tuple[Tensor, Tensor]:
        return self._waves(torch.arange(self.length))

    @cached_property
    def _tap_waves(self) -> tuple[Tensor, Tensor]:
        return self._waves(torch.arange(self.taps) * self.dilation - self.padding)

    @cached_property
    def _weight(self) -> Tensor:
        """(half,): of each frequency in the transform back, where most stand for two."""
        counted = torch.full((self.half,), 2.0, dtype=torch.float64)
        counted[0] = 1
        if self.length % 2 == 0:
            counted[-1] = 1
        return counted / self.length

    @cached_property
    def of_real(self) -> Tensor:
        """(part, half, place): transforms real values."""
        cos, sin = (wave[: self.half] for wave in self._place_waves)
        return torch.stack([cos, -sin]).float()

    @cached_property
    def to_real(self) -> Tensor:
        """(place, part, half): transforms back to real values."""
        cos, sin = (wave[: self.half] * self._weight[:, None] for wave in self._place_waves)
        return torch.stack([cos, -sin]).permute(2, 0, 1).contiguous().float()

    @cached_property
    def of_complex(self) -> Tensor:
        """(part, frequency, place, part): transforms complex values."""
        cos, sin = self._place_waves
        return torch.stack([torch.stack([cos, sin], dim=2), torch.stack([-sin, cos], dim=2)]).float()

    @cached_property
    def to_complex(self) -> Tensor:
        """(place, part, part, frequency): transforms back to complex values."""
        cos, sin = (wave.t() / self.length for wave in self._place_waves)
        return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1).float()

    @cached_property
    def factors(self) -> Tensor:
        """(3, frequency, part, tap): from taps that are transformed along another axis to the factors of `multiply`."""
        cos, sin = self._tap_waves
        real = torch.stack([cos, sin - cos, sin + cos])
        imaginary = torch.stack([-sin, cos + sin, cos - sin])
        return torch.stack([real, imaginary], dim=2).float()

    @cached_property
    def real_factors(self) -> Tensor:
        """(3, half, tap): from real taps to the factors of `multiply`."""
        return self.factors[:, : self.half, 0].contiguous()

    @cached_property
    def tap_gradient(self) -> Tensor:
        """(part, tap, 3, frequency): from the products of `correlate` to the taps, transformed along another axis."""
        cos, sin = (wave.t() / self.length for wave in self._tap_waves)
        real = torch.stack([cos - sin, sin, -cos], dim=1)
        imaginary = torch.stack([-sin - cos, cos, sin], dim=1)
        return torch.stack([real, imaginary]).float()

    @cached_property
    def real_tap_gradient(self) -> Tensor:
        """(tap, 3, half): from the products of `correlate` to real taps."""
        scale = self._weight * self.length
        return (self.tap_gradient[0, :, :, : self.half] * scale).contiguous().float()

    @cached_property
    def taps_of_real(self) -> Tensor:
        """(half, part, tap): transforms real taps; the sign of the angle is that of `factors`."""
        cos, sin = (wave[: self.half] for wave in self._tap_waves)
        return torch.stack([cos, sin], dim=1).float()

    @cached_property
    def taps_to_real(self) -> Tensor:
        """(tap, half, part): sums what `tap_gradient` of another axis gives for each frequency of this one."""
        cos, sin = (wave[: self.half] * self._weight[:, None] for wave in self._tap_waves)
        return torch.stack([cos, sin], dim=1).permute(2, 0, 1).contiguous().float()


def can_be_spectral(inputs: Tensor, weight: Tensor) -> bool:
    """Tell whether a convolution can go by way of spectra here: on a CPU and in single precision."""
    return (
        inputs.device.type == "cpu"
        and inputs.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def shares(length: int, frequencies: int, weight: Tensor, items: int = 1) -> tuple[int, int]:
    """Return into how many chunks frames, or places, are split, and how many workers share these.

    Little work is one chunk for one worker, whose operators share out their steps among threads.

    Parameters
    ----------
    length : int
        Frames, or places of each item.
    frequencies : int
        Of the spectra that are worked on together.
    weight : Tensor
        Filters, (out channel, in channel, ..).
    items : int
        What is split alike.
    """
    values = length * 2 * frequencies * max(weight.shape[:2])
    count = workers()
    if items * values < count * _CHUNK_VALUES:
        return 1, 1
    rounded = count // math.gcd(count, items)
    return min(length, -(-values // (_CHUNK_VALUES * rounded)) * rounded), count


def empty_maps(batch: int, channel: int, height: int, width: int) -> Tensor:
    """Return room for maps, channels last in memory."""
    return torch.empty(batch, height, width, channel).permute(0, 3, 1, 2)


def transform(matrix: Tensor, values: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the product of (frequency or place, place or frequency) with each of (item, place or frequency, channel).

    One product for each item: MKL shares out one large product, of few rows and very many columns, so badly that two
    threads take longer than one.
    """
    return torch.bmm(matrix.expand(len(values), -1, -1), values, out=out)


def multiply(spectra: Tensor, factors: Tensor) -> Tensor:
    """Return the spectra of the maps: the products of x + iy with a + ib.

    The real part is (x + y) a - y (b + a), the imaginary one (x + y) a + x (b - a).

    Parameters
    ----------
    spectra : Tensor
        (part, frequency, item, in channel).
    factors : Tensor
        a, b - a and b + a, (3, frequency, in channel, out channel).

    Returns
    -------
    Tensor
        (part, frequency, item, out channel).
    """
    x, y = spectra
    a, b_minus_a, b_plus_a = factors
    product = _common_part(x, y, a)
    product[0].baddbmm_(y, b_plus_a, alpha=-1)
    product[1].baddbmm_(x, b_minus_a)
    return product


def multiply_conjugate(spectra: Tensor, factors: Tensor) -> Tensor:
    """Return the spectra of the inputs' gradient: the products of x + iy with a - ib, channels the other way round.

    The real part is (x + y) a + y (b - a), the imaginary one (x + y) a - x (b + a).

    Parameters
    ----------
    spectra : Tensor
        (part, frequency, item, out channel).
    factors : Tensor
        As for `multiply`.

    Returns
    -------
    Tensor
        (part, frequency, item, in channel).
    """
    x, y = spectra
    a, b_minus_a, b_plus_a = factors.transpose(2, 3)
    product = _common_part(x, y, a)
    product[0].baddbmm_(y, b_minus_a)
    product[1].baddbmm_(x, b_plus_a, alpha=-1)
    return product


def _common_part(x: Tensor, y: Tensor, a: Tensor) -> Tensor:
    product = x.new_empty(2, *x.shape[:2], a.shape[2])
    torch.bmm(x + y, a, out=product[0])
    product[1] = product[0]
    return product


def correlate(spectra: Tensor, grads: Tensor, products: Tensor) -> None:
    """Add to products what the gradient of the filters is made of.

    Its spectrum is that of the inputs, x + iy, times the conjugate of that of the maps' gradient, u + iv: the real part
    is (x + y) u - y (u - v), the imaginary one (x + y) u - x (u + v).

    Parameters
    ----------
    spectra : Tensor
        (part, frequency, item, in channel).
    grads : Tensor
        (part, frequency, item, out channel).
    products : Tensor
        (x + y) u, x (u + v) and y (u - v), summed over items, (3, frequency, in channel, out channel).
    """
    x, y = spectra.transpose(2, 3)
    u, v = grads
    products[0].baddbmm_(x + y, u)
    products[1].baddbmm_(x, u + v)
    products[2].baddbmm_(y, u - v)
