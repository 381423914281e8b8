"""What convolutions by way of spectra are made of: transforms along one axis, and products of spectra.

By the convolution theorem a convolution is a product of spectra, where a filter costs one complex product for each
frequency and pair of channels, however many taps it has. Axes are short here, so that their discrete Fourier
transforms are products with matrices, which run at a processor's full speed; `torch.fft` takes two to three times as
long. All steps are linear, so that gradients go through the same matrices turned round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipeline.errors import ConfigurationError
from pipeline.models.cores.products import products


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

    def _waves_of_taps(self) -> tuple[Tensor, Tensor]:
        return self._waves(torch.arange(self.taps) * self.dilation - self.padding)

    @cached_property
    def of_real(self) -> Tensor:
        """(half * part, place): transforms real values."""
        cos, sin = self._waves(torch.arange(self.size))
        return _interleaved(cos, -sin)[: 2 * self.half].float()

    @cached_property
    def to_real(self) -> Tensor:
        """(place, half * part): transforms back to the real values of the map."""
        cos, sin = (waves[: self.half] for waves in self._waves(torch.arange(self.out_size)))
        stand_for = torch.full((self.half, 1), 2.0, dtype=torch.float64)
        stand_for[0] = 1
        if self.length % 2 == 0:
            stand_for[-1] = 1
        return (_interleaved(cos * stand_for, -sin * stand_for) / self.length).t().contiguous().float()

    @cached_property
    def of_complex(self) -> Tensor:
        """(frequency * part, part * place): transforms complex values."""
        cos, sin = self._waves(torch.arange(self.size))
        return _interleaved(torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)).float()

    @cached_property
    def to_complex(self) -> Tensor:
        """(part * place, frequency * part): transforms back to the complex values of the map."""
        cos, sin = self._waves(torch.arange(self.out_size))
        back = _interleaved(torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)) / self.length
        return back.t().contiguous().float()

    @cached_property
    def of_real_taps(self) -> Tensor:
        """(half * part, tap): transforms real filters, which are correlated with places: the angle's sign is turned."""
        cos, sin = self._waves_of_taps()
        return _interleaved(cos, sin)[: 2 * self.half].float()

    @cached_property
    def of_complex_taps(self) -> Tensor:
        """(frequency * part, part * tap): transforms filters that have been transformed along another axis."""
        cos, sin = self._waves_of_taps()
        return _interleaved(torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)).float()


def _interleaved(real: Tensor, imaginary: Tensor) -> Tensor:
    """Return (frequency * part, place) of two tensors (frequency, place)."""
    return torch.stack([real, imaginary], dim=1).flatten(0, 1)


def can_be_spectral(inputs: Tensor, weight: Tensor) -> bool:
    """Tell whether a convolution can go by way of spectra here: on a CPU and in single precision."""
    return (
        inputs.device.type == "cpu"
        and inputs.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def paired(spectra: Tensor, channel: int) -> Tensor:
    """Return spectra (frequency * part, item * channel) with both parts of an item side by side.

    Returns
    -------
    Tensor
        (frequency, item, part * channel).
    """
    frequencies, values = len(spectra) // 2, spectra.shape[1]
    return spectra.view(frequencies, 2, values // channel, channel).transpose(1, 2).flatten(2)


def filter_blocks(spectra: Tensor, in_channel: int, out_channel: int) -> Tensor:
    """Return the matrices by which `paired` spectra are multiplied: [[a, b], [-b, a]] for filters a + ib.

    Parameters
    ----------
    spectra : Tensor
        (frequency * part, in channel * out channel).
    in_channel, out_channel : int

    Returns
    -------
    Tensor
        (frequency, part * in channel, part * out channel).
    """
    a, b = spectra.view(-1, 2, in_channel, out_channel).unbind(1)
    return torch.cat([torch.cat([a, b], dim=2), torch.cat([-b, a], dim=2)], dim=1)


def from_filter_blocks(blocks: Tensor) -> Tensor:
    """Return the gradient for the filters' spectra from that for their blocks; shapes are those of `filter_blocks`."""
    (of_a, of_b), (of_minus_b, again_a) = (half.chunk(2, dim=2) for half in blocks.chunk(2, dim=1))
    return torch.stack([of_a + again_a, of_b - of_minus_b], dim=1).flatten(0, 1).flatten(1)


def multiply(spectra: Tensor, blocks: Tensor) -> Tensor:
    """Return the spectra of what filters make.

    Parameters
    ----------
    spectra : Tensor
        (frequency, item, part * in channel), from `paired`.
    blocks : Tensor
        (frequency, part * in channel, part * out channel).

    Returns
    -------
    Tensor
        (frequency * part, item * out channel).
    """
    frequency, item, _ = spectra.shape
    made = spectra.new_empty(frequency, 2, item, blocks.shape[2] // 2)
    products(spectra, blocks, out=made.transpose(1, 2))
    return made.flatten(0, 1).flatten(1)


def correlate(spectra: Tensor, grads: Tensor) -> Tensor:
    """Return the gradient for the filters' blocks, summed over items, from `paired` spectra and those of the gradient.

    Parameters
    ----------
    spectra : Tensor
        (frequency, item, part * in channel).
    grads : Tensor
        (frequency, item, part * out channel).

    Returns
    -------
    Tensor
        (frequency, part * in channel, part * out channel).
    """
    made = spectra.new_empty(len(spectra), spectra.shape[2], grads.shape[2])
    products(spectra.transpose(1, 2), grads, out=made)
    return made
