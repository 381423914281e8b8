from __future__ import annotations

import pytest
import torch

from pipeline import legacy
from pipeline.errors import ConfigurationError
from pipeline.models import FullGaussian2d
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


def test_training_samples_a_point_each_time(features: torch.Tensor) -> None:
    made = readout()
    assert not torch.equal(made(features), made(features))


def test_regularizer_is_the_weighted_sum_of_absolute_features() -> None:
    made = readout(gamma_readout=0.5)
    assert made.regularizer()["readout"].item() == pytest.approx(0.5 * made.features.abs().sum().item())


def with_predictor(units: int = UNITS, **settings: object) -> tuple[FullGaussian2dReadout, torch.Tensor]:
    torch.manual_seed(4)
    positions = torch.rand(units, 3) * torch.tensor([900.0, 400.0, 50.0]) + 300
    site = ReadoutSite(CHANNELS, HEIGHT, WIDTH, torch.zeros(units), unit_positions=positions)
    return FullGaussian2d(grid_mean_predictor="cortex", **settings).build(site), positions


@pytest.mark.parametrize(("hidden", "tanh", "dimensions"), [(0, False, 2), (1, True, 2), (2, False, 3)])
def test_predicted_means_equal_neuralpredictors(
    features: torch.Tensor, hidden: int, tanh: bool, dimensions: int
) -> None:
    ours, positions = with_predictor(
        predictor_hidden_layers=hidden, predictor_final_tanh=tanh, predictor_input_dimensions=dimensions,
        predictor_hidden_features=5,
    )  # fmt: skip
    theirs = legacy.FullGaussian2d(
        (CHANNELS, HEIGHT, WIDTH), UNITS, True, gauss_type="isotropic",
        grid_mean_predictor={"hidden_layers": hidden, "hidden_features": 5, "final_tanh": tanh},
        source_grid=positions[:, :dimensions].numpy(),
    ).eval()  # fmt: skip
    theirs.mu_transform.load_state_dict(ours.mu_transform.state_dict())
    torch.nn.init.normal_(ours.features)
    with torch.no_grad():
        theirs._features.copy_(ours.features.t()[None, :, None])
    torch.testing.assert_close(ours.source_grid, theirs.source_grid)
    ours.eval()
    torch.testing.assert_close(ours(features)[..., 1], theirs(features[:, :, 1]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.positions(), theirs.mu[0, :, 0].clamp(-1, 1))
    torch.testing.assert_close(ours(features, unit_idx=[3, 0]), ours(features)[:, [3, 0]])


def test_predictor_learns_to_place_all_units_at_once() -> None:
    made, _ = with_predictor(units=40, predictor_hidden_layers=0, predictor_final_tanh=False, init_sigma=0.01)
    # Where each unit should look is a turn of where it lies; a gradient through half of the units moves all of them.
    wanted = made.source_grid @ torch.tensor([[0.0, -0.6], [0.6, 0.0]])
    optimiser = torch.optim.Adam(made.mu_transform.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        (made._means(slice(0, 20)) - wanted[:20]).square().sum().backward()
        optimiser.step()
    torch.testing.assert_close(made.positions(), wanted, rtol=0, atol=1e-2)
    made.train()
    made(torch.randn(2, CHANNELS, 3, HEIGHT, WIDTH)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in made.parameters())


def test_predictor_needs_positions_and_no_other_start() -> None:
    site = ReadoutSite(CHANNELS, HEIGHT, WIDTH, torch.zeros(UNITS), data_key="mouse 7")
    with pytest.raises(
        ConfigurationError, match=r"grid_mean_predictor: 'cortex' needs .* 'mouse 7' does not have: .* UnitPosition"
    ):
        FullGaussian2d(grid_mean_predictor="cortex").build(site)
    with pytest.raises(ConfigurationError, match="cannot start at the triggered average and come from a network"):
        FullGaussian2d(grid_mean_predictor="cortex", init_positions="triggered_average")
    alone = ReadoutSite(CHANNELS, HEIGHT, WIDTH, torch.zeros(1), unit_positions=torch.tensor([[5.0, 7.0, 9.0]]))
    assert torch.isfinite(FullGaussian2d(grid_mean_predictor="cortex").build(alone).positions()).all()
