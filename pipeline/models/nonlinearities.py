"""Output non-linearities: they turn a unit's drive into a positive rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import ConfigurationError

_SMALLEST_RATE = 1e-3


@dataclass(frozen=True)
class OutputNonlinearity:
    """A function from drive to rate and its inverse.

    Attributes
    ----------
    rate : callable
        Drive to rate, elementwise.
    drive : callable
        Rate (> 0) to drive, elementwise.
    """

    rate: Callable[[Tensor], Tensor]
    drive: Callable[[np.ndarray], np.ndarray]

    def drive_of_mean(self, mean_responses: tuple[float, ...]) -> Tensor:
        """Return the drive (unit,) at which units respond with their means; means below 0.001 count as 0.001."""
        rates = np.maximum(np.asarray(mean_responses, dtype=float), _SMALLEST_RATE)
        return torch.as_tensor(self.drive(rates), dtype=torch.float32)


def _elu_plus_one(drive: Tensor) -> Tensor:
    return F.elu(drive) + 1


def _inverse_elu_plus_one(rate: np.ndarray) -> np.ndarray:
    return np.where(rate < 1, np.log(np.minimum(rate, 1)), rate - 1)


def _inverse_softplus(rate: np.ndarray) -> np.ndarray:
    return rate + np.log(-np.expm1(-rate))


NONLINEARITIES: dict[str, OutputNonlinearity] = {
    "elu": OutputNonlinearity(_elu_plus_one, _inverse_elu_plus_one),
    "softplus": OutputNonlinearity(F.softplus, _inverse_softplus),
    "exp": OutputNonlinearity(torch.exp, np.log),
}
"""By name; ``elu`` is elu(x) + 1."""


def output_nonlinearity(name: str) -> OutputNonlinearity:
    """Return the non-linearity of this name.

    Raises
    ------
    ConfigurationError
        If there is none of this name.
    """
    if name not in NONLINEARITIES:
        raise ConfigurationError(f"there is no output non-linearity {name!r}: use one of {', '.join(NONLINEARITIES)}")
    return NONLINEARITIES[name]
