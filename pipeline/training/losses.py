"""Training losses: what a prediction costs, summed for each unit.

All are negative log-likelihoods, or proportional to them, without terms that depend on the responses alone; with
``full`` those of Poisson counts are added.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.training.settings import Default

_BIAS = 1e-8
_TINY_VARIANCE = 1e-12


def unit_losses(settings: Default) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function of predictions and responses that a configuration asks for.

    It takes predictions (batch, unit[, time']) and responses (batch, unit[, time]), time >= time', of which the last
    time' frames are used, and returns the loss of each unit, (unit,), summed over batch and frames.
    """

    def losses(predictions: Tensor, responses: Tensor) -> Tensor:
        responses = aligned(predictions, responses)
        predictions, responses = _samples(predictions), _samples(responses)
        total = predictions.new_zeros(predictions.shape[1])
        if settings.loss == "poisson":
            total = poisson(predictions, responses, settings.full_loss).sum(dim=0)
        elif settings.loss != "correlation":
            total = _TERMS[settings.loss](predictions, responses).sum(dim=0)
        weight = 1.0 if settings.loss == "correlation" else settings.correlation_weight
        if weight:
            total = total + weight * len(predictions) * decorrelation(predictions, responses)
        return total

    return losses


def aligned(predictions: Tensor, responses: Tensor) -> Tensor:
    """Return the responses that have predictions: the last frames of movies, or those to images as they are."""
    return responses[..., responses.shape[-1] - predictions.shape[-1] :] if predictions.dim() == 3 else responses


def _samples(values: Tensor) -> Tensor:
    """Join batch and time: (batch, unit[, time]) to (sample, unit)."""
    return values.transpose(1, 2).flatten(0, 1) if values.dim() == 3 else values


def poisson(predictions: Tensor, responses: Tensor, full: bool = False) -> Tensor:
    """Return p - r log(p + 1e-8) for each element.

    With ``full``, log r! is added as Stirling has it, r log r - r + log(2 pi r) / 2 for r > 1 and 0 otherwise, so that
    the loss is that of the counts and can be compared between data sets.
    """
    terms = predictions - responses * torch.log(predictions + _BIAS)
    if not full:
        return terms
    many = responses.clamp(min=1)
    stirling = many * torch.log(many) - many + torch.log(2 * math.pi * many) / 2
    return terms + torch.where(responses > 1, stirling, 0)


def squared_error(predictions: Tensor, responses: Tensor) -> Tensor:
    """Return (p - r)^2 for each element."""
    return (predictions - responses).square()


def exponential(predictions: Tensor, responses: Tensor) -> Tensor:
    """Return r / p + log p for each element: responses are exponentially distributed with mean p."""
    positive = predictions + _BIAS
    return responses / positive + torch.log(positive)


def gamma(predictions: Tensor, responses: Tensor) -> Tensor:
    """Return 2 (r / p + log p) - log(r + 1e-8) for each element: Gamma-distributed responses of shape 2 and mean p.

    The constant -2 log 2 is left out. A Gamma distribution of another shape k would scale the gradient by k / 2 and
    change nothing else.
    """
    return 2 * exponential(predictions, responses) - torch.log(responses.clamp(min=0) + _BIAS)


def decorrelation(predictions: Tensor, responses: Tensor) -> Tensor:
    """Return one minus Pearson's correlation of each unit over the samples, (unit,); 1 where nothing varies.

    Variances are offset by 1e-12, so that gradients are finite.
    """
    p, r = predictions - predictions.mean(dim=0), responses - responses.mean(dim=0)
    variances = (p.square().mean(dim=0) + _TINY_VARIANCE) * (r.square().mean(dim=0) + _TINY_VARIANCE)
    return 1 - (p * r).mean(dim=0) / variances.sqrt()


_TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": squared_error,
    "exponential": exponential,
    "gamma": gamma,
}
