from __future__ import annotations

import math

import pytest
import torch

from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import Network, build_encoder, encoder_to_bytes, load_encoder
from pipeline.models.cores import Linear
from pipeline.models.nonlinearities import NONLINEARITIES, LearnedSoftplus, output_nonlinearity


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_biases_start_where_units_give_their_mean_response(name: str) -> None:
    means = (0.01, 0.4, 1.0, 7.5)
    made = output_nonlinearity(name)
    torch.testing.assert_close(made(made.drive_of_mean(means)), torch.tensor(means))
    assert torch.isfinite(made.drive_of_mean((0.0,))).all()


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_rates_are_positive_and_rise(name: str) -> None:
    rates = output_nonlinearity(name)(torch.linspace(-6, 6, 50))
    assert (rates > 0).all()
    assert (rates.diff() > 0).all()


def test_known_values() -> None:
    drive = torch.tensor([-1.0, 0.0, 2.0])
    torch.testing.assert_close(output_nonlinearity("elu")(drive), torch.tensor([math.exp(-1), 1.0, 3.0]))
    torch.testing.assert_close(output_nonlinearity("softplus")(drive), torch.log1p(drive.exp()))
    torch.testing.assert_close(output_nonlinearity("learned")(drive), torch.log1p(drive.exp()))


def test_sharpness_is_learned() -> None:
    """Responses of a threshold unit make the softplus sharper; beta = 4 gives log(1 + exp(4 x)) / 4."""
    made = LearnedSoftplus()
    drive = torch.linspace(-2, 2, 200)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    wanted = torch.log1p((4 * drive).exp()) / 4
    for _ in range(300):
        optimizer.zero_grad()
        (made(drive) - wanted).square().mean().backward()
        optimizer.step()
    assert made.log_beta.exp().item() == pytest.approx(4, rel=0.01)


def test_it_is_trained_and_kept_with_the_encoder() -> None:
    info = {"scan": ScanInfo((0, 1), (1, 20, 24), (0.5, 1.0))}
    network = Network(Linear(input_kern=5), nonlinearity="learned")
    encoder = build_encoder(network, info, seed=1)
    images = torch.randn(3, 1, 20, 24)
    encoder(images, "scan").sum().backward()
    assert encoder.output.log_beta.grad is not None
    with torch.no_grad():
        encoder.output.log_beta.fill_(1.5)
    encoder.eval()
    again = load_encoder(network, info, encoder_to_bytes(encoder))
    torch.testing.assert_close(again(images, "scan"), encoder(images, "scan"))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="no output non-linearity 'relu': use one of elu, softplus, exp, learned"
    ):
        output_nonlinearity("relu")
