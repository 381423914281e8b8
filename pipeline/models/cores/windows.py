"""Feature maps at a few places only: the part of the frame that they depend on goes through the core, and nothing else.

A core that is local, layer by layer, says so by its `LocalLayers`. The maps in a window of its last layer depend on a
somewhat larger window of the layer before, and so on back to the frame. Layers are evaluated in these windows without
padding; what lies outside a layer's map is set to zero, which is what padding would have put there. So values and
gradients are those of the whole frame, also where a window reaches beyond the map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.cores.depthwise import DepthwiseConv2d, depthwise
from pipeline.models.cores.narrow import is_narrow, narrow


@dataclass(frozen=True)
class Taps:
    """What one layer sees along one axis: place j of its map sees j * stride - padding + i * dilation, i < kernel."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0

    def out_size(self, size: int) -> int:
        """Return the number of places for so many in the layer before."""
        return (size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


@dataclass(frozen=True)
class LocalLayer:
    """A layer whose maps at a place depend on a neighbourhood of that place.

    Attributes
    ----------
    run : callable
        Evaluates it without padding in space: (batch, channel, time, height, width) to the same axes.
    rows, columns : Taps
    sources : tuple of int
        Layers that it sees, joined along channels; -1 for the frame.
    """

    run: Callable[[Tensor], Tensor]
    rows: Taps
    columns: Taps
    sources: tuple[int, ...]


@dataclass(frozen=True)
class LocalLayers:
    """A core as local layers.

    Attributes
    ----------
    layers : tuple of LocalLayer
        In the order of evaluation.
    seen : tuple of int
        Layers whose maps are the core's, joined along channels; -1 for the frame.
    """

    layers: tuple[LocalLayer, ...]
    seen: tuple[int, ...] = (-1,)


@dataclass(frozen=True)
class Window:
    """Equally large parts of feature maps, one for each item of a batch; they may reach beyond the map.

    Attributes
    ----------
    rows, columns : Tensor of int
        (batch,), the first row and column.
    height, width : int
    """

    rows: Tensor
    columns: Tensor
    height: int
    width: int


@dataclass(frozen=True)
class _Span:
    """The part of a layer's map that a window needs along one axis: from start * scale + first to start * scale + last.

    ``start`` is where the window starts in the core's own map, and differs from item to item.
    """

    scale: int
    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def seen_by(self, taps: Taps) -> _Span:
        """Return the part of the layer before that this part depends on."""
        first = self.first * taps.stride - taps.padding
        last = self.last * taps.stride - taps.padding + taps.dilation * (taps.kernel - 1)
        return _Span(self.scale * taps.stride, first, last)

    def joined(self, other: _Span | None) -> _Span:
        if other is None:
            return self
        return _Span(self.scale, min(self.first, other.first), max(self.last, other.last))


class _Plan:
    """Which parts of which maps a window needs, and how large the maps are, along one axis."""

    def __init__(self, core: LocalLayers, taps: list[Taps], frame: int, window: int) -> None:
        self.spans: dict[int, _Span] = {index: _Span(1, 0, window - 1) for index in core.seen}
        self.seen = _Span(1, 0, window - 1)
        for index in reversed(range(len(core.layers))):
            if index in self.spans:  # otherwise nobody needs it
                for source in core.layers[index].sources:
                    self.spans[source] = self.spans[index].seen_by(taps[index]).joined(self.spans.get(source))
        self.sizes = {-1: frame}
        for index, layer in enumerate(core.layers):
            self.sizes[index] = taps[index].out_size(self.sizes[layer.sources[0]])

    def cut(self, index: int, wanted: _Span) -> slice:
        """Return where a part of a layer's map is in what was evaluated of it."""
        first = wanted.first - self.spans[index].first
        return slice(first, first + wanted.size)

    def inside(self, index: int, starts: Tensor) -> Tensor:
        """Return which places lie inside a layer's map, (batch, place)."""
        span = self.spans[index]
        places = self.places(index, starts, span)
        return (places >= 0) & (places < self.sizes[index])

    @staticmethod
    def places(index: int, starts: Tensor, span: _Span) -> Tensor:
        return (starts * span.scale + span.first)[:, None] + torch.arange(span.size, device=starts.device)


def in_window(core: LocalLayers, videos: Tensor, window: Window) -> Tensor | None:
    """Return the core's feature maps in a window, zero outside the maps; None where whole frames would cost less.

    Parameters
    ----------
    core : LocalLayers
    videos : Tensor
        (batch, channel, time, height, width).
    window : Window

    Returns
    -------
    Tensor or None
        (batch, channel, time, window height, window width).
    """
    rows = _Plan(core, [layer.rows for layer in core.layers], videos.shape[3], window.height)
    columns = _Plan(core, [layer.columns for layer in core.layers], videos.shape[4], window.width)
    if not _saves(rows, columns):
        return None
    maps = {-1: _cropped(videos, rows, columns, window)}
    for index, layer in enumerate(core.layers):
        if index not in rows.spans:
            continue
        seen = rows.spans[index].seen_by(layer.rows), columns.spans[index].seen_by(layer.columns)
        parts = [maps[source][..., rows.cut(source, seen[0]), columns.cut(source, seen[1])] for source in layer.sources]
        found = layer.run(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
        maps[index] = _zero_outside(found, index, rows, columns, window)
    parts = [maps[index][..., rows.cut(index, rows.seen), columns.cut(index, columns.seen)] for index in core.seen]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _saves(rows: _Plan, columns: _Plan) -> bool:
    """Tell whether all windows together have fewer places than all maps; layers cost about as much a place."""
    layers = [index for index in rows.spans if index >= 0] or [-1]
    windows = sum(rows.spans[index].size * columns.spans[index].size for index in layers)
    return windows < sum(rows.sizes[index] * columns.sizes[index] for index in layers)


def _cropped(videos: Tensor, rows: _Plan, columns: _Plan, window: Window) -> Tensor:
    """Return the part of each frame that its window needs, zero outside the frame."""
    batch, channel, time, height, width = videos.shape
    down = rows.places(-1, window.rows, rows.spans[-1]).clamp(0, height - 1)
    across = columns.places(-1, window.columns, columns.spans[-1]).clamp(0, width - 1)
    pixels = (down[:, :, None] * width + across[:, None, :]).flatten(1)[:, None].expand(-1, channel * time, -1)
    part = videos.reshape(batch, channel * time, height * width).gather(2, pixels)
    part = part.view(batch, channel, time, down.shape[1], across.shape[1])
    return _zero_outside(part, -1, rows, columns, window)


def _zero_outside(maps: Tensor, index: int, rows: _Plan, columns: _Plan, window: Window) -> Tensor:
    down, across = rows.inside(index, window.rows), columns.inside(index, window.columns)
    if bool(down.all()) and bool(across.all()):
        return maps
    # Not a product: infinity times zero is not zero.
    return maps.masked_fill(~(down[:, None, None, :, None] & across[:, None, None, None, :]), 0)


def taps_of(convolution: nn.Conv2d | nn.Conv3d) -> tuple[Taps, Taps]:
    """Return what a convolution sees along rows and columns."""
    settings = (convolution.kernel_size, convolution.stride, convolution.dilation, convolution.padding)
    rows, columns = (Taps(*(int(values[axis]) for values in settings)) for axis in (-2, -1))
    return rows, columns


def unpadded(convolution: nn.Conv2d, frames: Tensor) -> Tensor:
    """Return what a convolution makes of frames (frame, channel, height, width) without padding them."""
    if isinstance(convolution, DepthwiseConv2d) and convolution.goes_by_strips(frames):
        return depthwise(frames, convolution.weight, convolution.bias, 0)
    if is_narrow(convolution, frames):
        return narrow(frames, convolution)
    return F.conv2d(
        frames, convolution.weight, convolution.bias, convolution.stride, 0, convolution.dilation, convolution.groups
    )
