from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pipeline import legacy
from pipeline.errors import ConfigurationError
from pipeline.training import Default
from pipeline.training.losses import unit_losses


def samples(shape: tuple[int, ...] = (64, 3)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    predictions = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.2
    return predictions, torch.poisson(3 * torch.rand(shape, generator=generator, dtype=torch.float64))


def loss(predictions: Tensor, responses: Tensor, **settings: object) -> Tensor:
    return unit_losses(Default(**settings))(predictions, responses)


def test_poisson_loss_is_that_of_torch_and_neuralpredictors() -> None:
    predictions, responses = samples()
    for full in (False, True):
        reference = nn.PoissonNLLLoss(log_input=False, full=full, eps=1e-8, reduction="none")(predictions, responses)
        torch.testing.assert_close(loss(predictions, responses, full_loss=full), reference.sum(dim=0))
    theirs = legacy.neuralpredictors_module("measures.modules").PoissonLoss(bias=1e-8, per_neuron=True, avg=False)
    torch.testing.assert_close(loss(predictions, responses), theirs(predictions, responses))


def test_full_poisson_loss_is_nearly_the_likelihood_of_the_counts() -> None:
    predictions = torch.full((1, 5), 6.0, dtype=torch.float64)
    counts = torch.tensor([[0.0, 1.0, 4.0, 9.0, 20.0]], dtype=torch.float64)
    expected = -stats.poisson.logpmf(counts.numpy()[0], 6.0)
    np.testing.assert_allclose(loss(predictions, counts, full_loss=True).numpy(), expected, atol=0.03)  # Stirling


def test_squared_error_by_hand() -> None:
    found = loss(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[0.0, 2.0], [1.0, 2.0]]), loss="mse")
    assert found.tolist() == [5.0, 9.0]


def test_exponential_loss_is_the_likelihood_and_that_of_neuralpredictors() -> None:
    predictions, responses = samples()
    found = loss(predictions, responses, loss="exponential")
    expected = -stats.expon.logpdf(responses.numpy(), scale=predictions.numpy()).sum(axis=0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    theirs = legacy.neuralpredictors_module("measures.modules").ExponentialLoss(target_bias=0.0, per_neuron=True)
    torch.testing.assert_close(found / len(predictions), theirs(predictions, responses), rtol=1e-6, atol=1e-6)


def test_gamma_loss_is_the_likelihood_of_shape_two() -> None:
    predictions, responses = samples()
    responses = responses + 0.1
    found = loss(predictions, responses, loss="gamma") - len(predictions) * 2 * math.log(2)
    expected = -stats.gamma.logpdf(responses.numpy(), a=2, scale=predictions.numpy() / 2).sum(axis=0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_correlation_loss_is_one_minus_pearson() -> None:
    predictions, responses = samples()
    expected = [1 - stats.pearsonr(predictions[:, unit], responses[:, unit])[0] for unit in range(3)]
    found = loss(predictions, responses, loss="correlation") / len(predictions)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    mixed = loss(predictions, responses, correlation_weight=2.5) - loss(predictions, responses)
    np.testing.assert_allclose(mixed.numpy() / len(predictions), 2.5 * np.array(expected), rtol=1e-6)


def test_correlation_loss_of_silent_units_has_finite_gradients() -> None:
    predictions = torch.ones(8, 2, requires_grad=True)
    loss(predictions, torch.zeros(8, 2), loss="correlation").sum().backward()
    assert predictions.grad is not None and torch.isfinite(predictions.grad).all()


@pytest.mark.parametrize("name", ["poisson", "mse", "exponential", "gamma", "correlation"])
def test_movies_are_samples_in_time_of_which_the_last_have_predictions(name: str) -> None:
    predictions, responses = samples((4, 3, 10))
    longer = torch.cat([torch.full((4, 3, 2), 99.0, dtype=torch.float64), responses], dim=2)
    found = loss(predictions, longer, loss=name)
    frames = (x.permute(0, 2, 1).reshape(40, 3) for x in (predictions, responses))
    torch.testing.assert_close(found, loss(*frames, loss=name))


@pytest.mark.parametrize("name", ["poisson", "mse", "exponential", "gamma"])
def test_losses_are_smallest_at_the_mean_response(name: str) -> None:
    responses = torch.tensor([1.0, 2.0, 6.0])[:, None]
    rates = torch.linspace(1, 6, 501)  # each a unit
    losses = loss(rates.expand(3, -1), responses.expand(-1, 501), loss=name)
    assert rates[losses.argmin()].item() == pytest.approx(3, abs=0.02)


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Default.full_loss: the loss 'mse' has no such terms"):
        Default(loss="mse", full_loss=True)
    with pytest.raises(ConfigurationError, match=r"Default\.correlation_weight"):
        Default(loss="correlation", correlation_weight=1.0)
