from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline import legacy
from pipeline.models import MLP, FullGaussian2d, MLPGain
from pipeline.models.nonlinearities import NONLINEARITIES
from pipeline.models.readouts import FullGaussian2dReadout, ReadoutSite

UNITS, CHANNELS, TIME, HEIGHT, WIDTH = 7, 4, 5, 9, 12


def readout(**settings: object) -> FullGaussian2dReadout:
    torch.manual_seed(2)
    made = FullGaussian2d(**settings).build(ReadoutSite(CHANNELS, HEIGHT, WIDTH, torch.linspace(-1, 1, UNITS)))
    torch.nn.init.normal_(made.features)
    torch.nn.init.uniform_(made.mu, -1, 1)
    return made


@pytest.fixture
def features() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(2, CHANNELS, TIME, HEIGHT, WIDTH)


@pytest.mark.parametrize("gauss_type", ["full", "uncorrelated", "isotropic"])
@pytest.mark.parametrize("shifted", [False, True])
def test_readout_equals_neuralpredictors_in_evaluation(features: torch.Tensor, gauss_type: str, shifted: bool) -> None:
    ours = readout(gauss_type=gauss_type).eval()
    theirs = legacy.FullGaussian2d((CHANNELS, HEIGHT, WIDTH), UNITS, True, gauss_type=gauss_type).eval()
    with torch.no_grad():
        theirs._mu.copy_(ours.mu[None, :, None])
        theirs._features.copy_(ours.features.t()[None, :, None])
        theirs.bias.copy_(ours.bias)
    shift = torch.empty(2, TIME, 2).uniform_(-0.6, 0.6) if shifted else None
    found = ours(features, shift=shift)
    assert found.shape == (2, UNITS, TIME)
    for t in range(TIME):
        expected = theirs(features[:, :, t], shift=None if shift is None else shift[:, t])
        torch.testing.assert_close(found[..., t], expected, rtol=1e-5, atol=1e-5)


def test_readout_at_a_pixel_reads_that_pixel(features: torch.Tensor) -> None:
    made = readout().eval()
    x, y = 10, 2
    with torch.no_grad():
        made.mu[0] = torch.tensor([2 * x / (WIDTH - 1) - 1, 2 * y / (HEIGHT - 1) - 1])
    expected = torch.einsum("bct,c->bt", features[..., y, x], made.features[0]) + made.bias[0]
    torch.testing.assert_close(made(features)[:, 0], expected, rtol=1e-4, atol=1e-4)
    one_left = torch.tensor([-2 / (WIDTH - 1), 0.0]).expand(2, TIME, 2)
    expected = torch.einsum("bct,c->bt", features[..., y, x - 1], made.features[0]) + made.bias[0]
    torch.testing.assert_close(made(features, shift=one_left)[:, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unit_idx", [[4, 1], torch.tensor([6]), slice(2, 5), np.array([0, 3])])
def test_chosen_units_equal_a_slice_of_all(features: torch.Tensor, unit_idx: object) -> None:
    made = readout().eval()
    torch.testing.assert_close(made(features, unit_idx=unit_idx), made(features)[:, unit_idx])


@pytest.mark.parametrize("gauss_type", ["full", "uncorrelated", "isotropic"])
def test_sampled_points_have_the_announced_mean_and_spread(gauss_type: str) -> None:
    made = readout(gauss_type=gauss_type)
    torch.nn.init.uniform_(made.sigma, -0.08, 0.08)
    torch.nn.init.uniform_(made.mu, -0.3, 0.3)
    # A feature map whose channels are its own coordinates makes the sampled points visible.
    x, y = torch.linspace(-1, 1, 21), torch.linspace(-1, 1, 15)
    ones = torch.ones(15, 21)
    plane = torch.stack([ones * x, ones * y[:, None], ones * 0, ones * 0])
    with torch.no_grad():
        made.bias.zero_()
        seen = []
        for channel in range(2):
            made.features.zero_()
            made.features[:, channel] = 1
            torch.manual_seed(5)
            seen.append(made.train()(plane[None, :, None].expand(40, -1, 500, -1, -1)).transpose(0, 1).flatten(1))
    points = torch.stack(seen, dim=2)
    torch.testing.assert_close(points.mean(dim=1), made.positions(), rtol=0, atol=3e-3)
    torch.testing.assert_close(points.std(dim=1), made.position_spread(), rtol=0.05, atol=0)
    assert points[0].unique(dim=0).shape[0] > 15_000, "each frame has its own sample"
    assert made.feature_weights().shape == (UNITS, CHANNELS)


def test_evaluation_is_deterministic_and_training_is_not(features: torch.Tensor) -> None:
    made = readout()
    assert not torch.equal(made(features), made(features))
    made.eval()
    assert torch.equal(made(features), made(features))


def test_every_parameter_gets_a_gradient_and_means_stay_inside(features: torch.Tensor) -> None:
    made = readout()
    made(features).square().sum().backward()
    assert all(p.grad is not None and (p.grad.abs() > 0).any() for p in made.parameters())
    with torch.no_grad():
        made.mu[:] = 3.0
    made.constrain()
    assert made.mu.max() == 1


def test_regularizer_is_the_weighted_sum_of_absolute_features() -> None:
    made = readout(gamma_readout=0.5)
    assert made.regularizer()["readout"].item() == pytest.approx(0.5 * made.features.abs().sum().item())


@pytest.mark.parametrize("name", list(NONLINEARITIES))
def test_biases_start_where_units_give_their_mean_response(name: str) -> None:
    means = (0.01, 0.4, 1.0, 7.5)
    nonlinearity = NONLINEARITIES[name]
    torch.testing.assert_close(nonlinearity.rate(nonlinearity.drive_of_mean(means)), torch.tensor(means))
    assert torch.isfinite(nonlinearity.drive_of_mean((0.0,))).all()


def test_shifter_starts_at_nearly_no_shift_and_stays_in_range() -> None:
    shifter = MLP(hidden_channels=4, layers=3, gamma_shifter=2.0).build()
    pupil = torch.randn(3, 2, 11)
    shift = shifter(pupil)
    assert shift.shape == (3, 11, 2)
    assert 0 < shift.abs().max() < 0.02
    torch.nn.init.normal_(shifter.layers[-2].weight, std=100.0)
    assert shifter(pupil).abs().max() <= 1
    # Frame by frame: the shift of a frame depends on the pupil in that frame only.
    torch.testing.assert_close(shifter(pupil[..., 4:5]), shifter(pupil)[:, 4:5])


def test_shifter_penalty_acts_on_the_weights() -> None:
    shifter = MLP(hidden_channels=4, layers=2, gamma_shifter=2.0).build()
    expected = 2 * sum(shifter.layers[i].weight.square().mean() for i in (0, 2))
    penalty = shifter.regularizer()["shifter"]
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    assert shifter.layers[0].weight.grad.abs().sum() > 0


def test_gain_starts_at_nearly_one_and_can_suppress() -> None:
    torch.manual_seed(0)
    modulator = MLPGain(hidden_channels=6, layers=2, gamma_modulator=3.0).build(2, UNITS)
    behavior, drive = torch.randn(3, 2, 11), torch.randn(3, UNITS, 11)
    np.testing.assert_allclose(modulator.gain(behavior).detach(), 1, atol=0.02)
    torch.testing.assert_close(modulator(drive, behavior), drive, rtol=0.02, atol=0)
    torch.nn.init.normal_(modulator.last.weight, std=2.0)
    gain = modulator.gain(behavior)
    assert (gain > 0).all() and (gain < 0.5).any() and (gain > 2).any()
    torch.testing.assert_close(modulator(drive, behavior), gain * drive)
    torch.testing.assert_close(modulator.gain(behavior, [5, 0]), gain[:, [5, 0]])
    assert modulator.regularizer()["modulator"].item() == pytest.approx(3 * modulator.last.weight.abs().mean().item())
