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
    padding : bool or tuple of int
        Whether frames are padded so that the filters' middles reach the first and, without strides, the last place; or
        the zeros around the maps that each layer sees, in places of the layer before.
    """

    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: bool | tuple[int, ...]

    @property
    def pitch(self) -> int:
        """Pixels between neighbouring places of the result."""
        pitch = 1
        for stride in self.strides:
            pitch *= stride
        return pitch

    def out_size(self, size: int) -> int:
        """Return the number of places for a frame of ``size`` pixels; below 1 where the filters do not fit."""
        for stride, lost in zip(self.strides, self._lost(), strict=True):
            size = (size - 1 - lost) // stride + 1
            if size < 1:  # padding of later layers brings nothing back
                break
        return size

    def first_place(self) -> float:
        """Return the pixel on which the first place is centred."""
        first, pitch = 0.0, 1
        for stride, lost in zip(self.strides, self._lost(), strict=True):
            first += pitch * lost / 2
            pitch *= stride
        return first

    def _lost(self) -> list[int]:
        """Return by how many places filters that move in single steps would shrink each layer's map."""
        reach = [dilation * (kernel - 1) for kernel, dilation in zip(self.kernels, self.dilations, strict=True)]
        if isinstance(self.padding, bool):
            return [0] * len(reach) if self.padding else reach
        return [wide - 2 * zeros for wide, zeros in zip(reach, self.padding, strict=True)]


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


def refuse_skipping_points(
    kind: str, kernels: tuple[int, ...], strides: tuple[int, ...], field: str = "strides"
) -> None:
    """Refuse filters of one pixel that move by more, naming the setting: they see nothing in between.

    With few channels, oneDNN's gradient of such layers writes beyond its memory, and Python ends.
    """
    for layer, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
        if kernel == 1 and stride > 1:
            raise ConfigurationError(
                f"{kind}.{field}: {stride} is not allowed in layer {layer + 1}, whose filters of 1 px see nothing "
                "between their steps: it must be 1, or use larger filters"
            )
