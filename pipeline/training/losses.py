"""Training losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PoissonLoss(nn.Module):
    """Negative log-likelihood of Poisson counts: prediction - response * log(prediction + bias).

    Parameters
    ----------
    average : bool
        Mean over batch, units and time instead of the sum.
    bias : float
        Keeps the logarithm finite.
    """

    def __init__(self, average: bool = False, bias: float = 1e-8) -> None:
        super().__init__()
        self.average = average
        self.bias = bias

    def forward(self, predictions: Tensor, responses: Tensor) -> Tensor:
        """Return the loss over the frames that have predictions.

        Parameters
        ----------
        predictions : Tensor
            (batch, unit, time').
        responses : Tensor
            (batch, unit, time), time >= time'; the last time' frames are used.
        """
        terms = self.terms(predictions, responses)
        return terms.mean() if self.average else terms.sum()

    def terms(self, predictions: Tensor, responses: Tensor) -> Tensor:
        """Return the loss of each element, (batch, unit, time')."""
        aligned = responses[..., responses.shape[-1] - predictions.shape[-1] :]
        return predictions - aligned * torch.log(predictions + self.bias)
