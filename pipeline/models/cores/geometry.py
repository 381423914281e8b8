"""Sizes and places of feature maps behind a stack of convolutions over space."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class Stack:
    """Convolutions over one axis of the frame, one after the other.

    Attributes
    ----------
    kernels, strides, dilations : tuple of int
        Taps of each layer's filter, steps in which it moves, and steps between its taps, in places of the layer before.
    padding : bool
        Whether frames are padded so that the filters' middles reach the first and, without strides, the last place.
    """

    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: bool

    @property
    def pitch(self) -> int:
        """Pixels between neighbouring places of the result."""
        pitch = 1
        for stride in self.strides:
            pitch *= stride
        return pitch

    def out_size(self, size: int) -> int:
        """Return the number of places for a frame of ``size`` pixels; below 1 where the filters do not fit."""
        for kernel, stride, dilation in zip(self.kernels, self.strides, self.dilations, strict=True):
            lost = 0 if self.padding else dilation * (kernel - 1)
            size = (size - 1 - lost) // stride + 1
        return size

    def first_place(self) -> float:
        """Return the pixel on which the first place is centred."""
        if self.padding:
            return 0.0
        first, pitch = 0.0, 1
        for kernel, stride, dilation in zip(self.kernels, self.strides, self.dilations, strict=True):
            first += pitch * dilation * (kernel - 1) / 2
            pitch *= stride
        return first


def for_each_layer(kind: str, field: str, values: tuple[int, ...], layers: int) -> tuple[int, ...]:
    """Return one value for each layer, of a setting that holds one for all layers or one for each.

    Raises
    ------
    ConfigurationError
        If it holds another number of values.
    """
    if len(values) not in (1, layers):
        raise ConfigurationError(f"{kind}.{field}: {values} must have one value for all, or one for each of {layers}")
    return values * layers if len(values) == 1 else values


def refuse_skipping_points(kind: str, kernels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Refuse filters of one pixel that move by more: they see nothing in between.

    With few channels, oneDNN's gradient of such layers writes beyond its memory, and Python ends.
    """
    for layer, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
        if kernel == 1 and stride > 1:
            raise ConfigurationError(
                f"{kind}.strides: {stride} is not allowed in layer {layer + 1}, whose filters of 1 px see nothing "
                "between their steps: it must be 1, or use larger filters"
            )
