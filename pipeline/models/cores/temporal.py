"""Convolutions over time."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class TemporalConv2d(nn.Conv2d):
    """A convolution over time at each place; parameters are those of a `torch.nn.Conv2d` over (time, place).

    Time lies along the last axis of what is convolved: there, oneDNN finds the gradient of the filters at a processor's
    full speed, but with time along the axis before at a third of it.

    Parameters
    ----------
    in_channels, out_channels : int
    taps : int
        Length of the filters (frames).
    dilation : int
        Frames between neighbouring taps.
    """

    def __init__(self, in_channels: int, out_channels: int, taps: int, dilation: int) -> None:
        super().__init__(in_channels, out_channels, (taps, 1), dilation=(dilation, 1), bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return filtered sequences.

        Parameters
        ----------
        input : Tensor
            (sequence, in channel, 1, time), channels last in memory.

        Returns
        -------
        Tensor
            (sequence, out channel, 1, time), shorter by what the filters need.
        """
        # Unlike a transposition, this gives the strides by which PyTorch knows what has its channels last.
        weight = self.weight.squeeze(3).unsqueeze(2)
        return F.conv2d(input, weight, dilation=(1, self.dilation[0]))
