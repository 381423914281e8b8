"""Convolutions over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TemporalConv2d(nn.Conv2d):
    """A convolution over time at each place; parameters are those of a `torch.nn.Conv2d` over (time, place).

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

    @property
    def likes_sequences(self) -> bool:
        """Whether `of_sequences` is faster: where the gradient of the filters is wanted, on a CPU.

        With time along the last axis oneDNN finds it at a processor's full speed, along the axis before at a third.
        """
        return self.weight.device.type == "cpu" and self.weight.requires_grad and torch.is_grad_enabled()

    def of_sequences(self, sequences: Tensor) -> Tensor:
        """Return filtered sequences, shorter by what the filters need; `forward` does the same for (time, place).

        Parameters
        ----------
        sequences : Tensor
            (sequence, in channel, 1, time), channels last in memory.

        Returns
        -------
        Tensor
            (sequence, out channel, 1, time).
        """
        # Unlike a transposition, this gives the strides by which PyTorch knows what has its channels last.
        weight = self.weight.squeeze(3).unsqueeze(2)
        return F.conv2d(sequences, weight, dilation=(1, self.dilation[0]))
