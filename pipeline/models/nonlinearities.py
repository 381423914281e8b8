"""Output non-linearities: they turn a unit's drive into a positive rate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.configuration import Configuration, setting
from pipeline.errors import ConfigurationError

_SMALLEST_RATE = 1e-3


class OutputNonlinearity(nn.Module, ABC):
    """A rising function from drive to rate, elementwise, and its inverse as it is before training."""

    @abstractmethod
    def forward(self, drive: Tensor) -> Tensor:
        """Return the rate, of the drive's shape."""

    @abstractmethod
    def drive(self, rate: np.ndarray) -> np.ndarray:
        """Return the drive that gives a rate above 0."""

    def drive_of_mean(self, mean_responses: Sequence[float]) -> Tensor:
        """Return the drive (unit,) at which units respond with their means; means below 0.001 count as 0.001."""
        rates = np.maximum(np.asarray(mean_responses, dtype=float), _SMALLEST_RATE)
        return torch.as_tensor(self.drive(rates), dtype=torch.float32)


class Elu(OutputNonlinearity):
    """elu(x) + 1: a straight line above 0, an exponential below."""

    def forward(self, drive: Tensor) -> Tensor:
        """Return the rate."""
        return F.elu(drive) + 1

    def drive(self, rate: np.ndarray) -> np.ndarray:
        """Return the drive that gives a rate above 0."""
        return np.where(rate < 1, np.log(np.minimum(rate, 1)), rate - 1)


class Exp(OutputNonlinearity):
    """exp(x)."""

    def forward(self, drive: Tensor) -> Tensor:
        """Return the rate."""
        return torch.exp(drive)

    def drive(self, rate: np.ndarray) -> np.ndarray:
        """Return the drive that gives a rate above 0."""
        return np.log(rate)


class Softplus(OutputNonlinearity):
    """log(1 + exp(x))."""

    def forward(self, drive: Tensor) -> Tensor:
        """Return the rate."""
        return F.softplus(drive)

    def drive(self, rate: np.ndarray) -> np.ndarray:
        """Return the drive that gives a rate above 0."""
        return rate + np.log(-np.expm1(-rate))


class LearnedSoftplus(Softplus):
    """log(1 + exp(beta x)) / beta, whose sharpness beta > 0 all units learn together, from 1 on.

    A large beta makes it a threshold, a small one nearly a straight line. The best movie model of Sensorium 2023 used
    this function with a beta set by hand.

    Attributes
    ----------
    log_beta : Parameter
        Logarithm of beta, a scalar.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_beta = nn.Parameter(torch.zeros(()))

    def forward(self, drive: Tensor) -> Tensor:
        """Return the rate."""
        beta = self.log_beta.exp()
        return F.softplus(drive * beta) / beta


NONLINEARITIES: Mapping[str, type[OutputNonlinearity]] = MappingProxyType(
    {"elu": Elu, "softplus": Softplus, "exp": Exp, "learned": LearnedSoftplus}
)
"""By name; ``elu`` is elu(x) + 1, ``learned`` a softplus of learned sharpness."""


def output_nonlinearity(name: str) -> OutputNonlinearity:
    """Return a new non-linearity of this name.

    Raises
    ------
    ConfigurationError
        If there is none of this name.
    """
    if name not in NONLINEARITIES:
        raise ConfigurationError(f"there is no output non-linearity {name!r}: use one of {', '.join(NONLINEARITIES)}")
    return NONLINEARITIES[name]()


@dataclass(frozen=True)
class Output(Configuration):
    """The output non-linearity of a network, as a part of it that can be compared."""

    nonlinearity: str = setting("elu", "output non-linearity", choices=tuple(NONLINEARITIES))
