"""How rough the filters of a 2-D core's first layer are, by the names that neuralpredictors and staticnet gave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.models.regularization import laplace

_TINY = 1e-12


def laplace_l2norm(weight: Tensor, padding: int | None, average: bool) -> Tensor:
    """Return the sum (or mean) of squares after the Laplace filter over that before."""
    return _total(laplace(weight, padding).square(), average) / (_total(weight.square(), average) + _TINY)


def laplace_l2(weight: Tensor, padding: int | None, average: bool) -> Tensor:
    """Return half the sum (or mean) of squares after the Laplace filter."""
    return _total(laplace(weight, padding).square(), average) / 2


def gaussian_laplace_l2(weight: Tensor, padding: int | None, average: bool) -> Tensor:
    """Return `laplace_l2norm` with roughness in the middle of the filters forgiven.

    Notes
    -----
    GaussianLaplaceL2 of neuralpredictors: the result of the Laplace filter is multiplied by 1 - g. g is a Gaussian
    with a standard deviation of a quarter of the filter's side, scaled to 1 in the middle and 0 in the corners.
    """
    rough = laplace(weight, padding)
    side = rough.shape[-1]
    pixels = torch.arange(side, device=weight.device, dtype=weight.dtype) - (side - 1) / 2
    gaussian = torch.exp(-_squared_radius(pixels) / (2 * (side / 4) ** 2))
    gaussian = (gaussian - gaussian.min()) / (gaussian.max() - gaussian.min())
    return _total((rough * (1 - gaussian)).square(), average) / (_total(weight.square(), average) + _TINY)


def gaussian_weights(side: int, sigma: float, bias: float) -> Tensor:
    """Return staticnet's weights of roughness, (side, side): small in the middle of the filter, large at its border.

    Parameters
    ----------
    side : int
        Of the filters (px).
    sigma : float
        Standard deviation of the Gaussian, in half sides.
    bias : float
        Weight of the very middle.

    Notes
    -----
    1 - exp(-r^2 / (2 sigma^2)) + bias, where r is the distance from the middle and the outermost pixels of its row and
    column are at 1.
    """
    return 1 - torch.exp(-_squared_radius(torch.linspace(-1, 1, side)) / (2 * sigma**2)) + bias


def weighted_laplace_l2(weight: Tensor, weights: Tensor, padding: int) -> Tensor:
    """Return half the mean of squares after the Laplace filter, each multiplied by its place's weight."""
    return (weights * laplace(weight, padding).square()).mean() / 2


def _squared_radius(places: Tensor) -> Tensor:
    return places.square()[:, None] + places.square()[None, :]


def _total(values: Tensor, average: bool) -> Tensor:
    return values.mean() if average else values.sum()


INPUT_REGULARIZERS: dict[str, Callable[[Tensor, int | None, bool], Tensor]] = {
    "LaplaceL2norm": laplace_l2norm,
    "LaplaceL2": laplace_l2,
    "GaussianLaplaceL2": gaussian_laplace_l2,
}
"""By the name that neuralpredictors gives them: functions of weight, padding and whether to average."""
