from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline import legacy
from pipeline.errors import ConfigurationError
from pipeline.models.readouts import Attention, FullFactorized2d, FullyConnected, GaussianMask, ReadoutSite
from pipeline.models.regularization import spatial_laplace

UNITS, CHANNELS, TIME, HEIGHT, WIDTH = 5, 3, 4, 9, 12
Masked = FullFactorized2d | GaussianMask | FullyConnected | Attention


def built(kind: Masked, height: int = HEIGHT, width: int = WIDTH) -> torch.nn.Module:
    torch.manual_seed(1)
    made = kind.build(ReadoutSite(CHANNELS, height, width, torch.linspace(-1, 1, UNITS)))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    made.constrain()
    return made.eval()


def maps() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(2, CHANNELS, TIME, HEIGHT, WIDTH)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("constrain_pos", [True, False])
def test_factorized_readout_equals_neuralpredictors(normalize: bool, constrain_pos: bool) -> None:
    settings = {"normalize": normalize, "constrain_pos": constrain_pos}
    ours = built(FullFactorized2d(**settings))
    module = legacy.neuralpredictors_module("layers.readouts.factorized")
    theirs = module.FullFactorized2d((CHANNELS, HEIGHT, WIDTH), UNITS, True, **settings)
    with torch.no_grad():
        theirs.spatial.copy_(ours.spatial)
        theirs._features.copy_(ours.features)
        theirs.bias.copy_(ours.bias)
    found = ours(maps())
    for t in range(TIME):
        torch.testing.assert_close(found[..., t], theirs(maps()[:, :, t]), rtol=1e-5, atol=1e-5)


def test_sparsity_is_that_of_each_units_own_weights() -> None:
    made = built(FullFactorized2d(gamma_readout=0.3))
    masks = made.masks(slice(None))
    weight = masks[:, None] * made.features[:, :, None, None]
    torch.testing.assert_close(made.regularizer()["readout"], 0.3 * weight.abs().sum())
    torch.testing.assert_close(masks.square().sum(dim=(1, 2)), torch.ones(UNITS), rtol=1e-4, atol=1e-4)


def test_a_shift_moves_the_mask() -> None:
    made = built(FullFactorized2d())
    shift = torch.empty(2, TIME, 2).uniform_(-0.7, 0.7)
    masks = made.masks(slice(None)).detach().numpy()
    expected = np.empty((2, UNITS, TIME))
    for batch in range(2):
        for t in range(TIME):
            # Each pixel of the mask goes to the four pixels around its shifted place; what leaves the map is lost.
            dx, dy = shift[batch, t, 0].item() * (WIDTH - 1) / 2, shift[batch, t, 1].item() * (HEIGHT - 1) / 2
            moved = np.zeros((UNITS, HEIGHT, WIDTH))
            for row in range(HEIGHT):
                for column in range(WIDTH):
                    top, left = math.floor(row + dy), math.floor(column + dx)
                    for y in (top, top + 1):
                        for x in (left, left + 1):
                            if 0 <= y < HEIGHT and 0 <= x < WIDTH:
                                share = (1 - abs(row + dy - y)) * (1 - abs(column + dx - x))
                                moved[:, y, x] += share * masks[:, row, column]
            seen = np.einsum("chw,uhw->uc", maps()[batch, :, t].numpy(), moved)
            expected[batch, :, t] = (seen * made.features.detach().numpy()).sum(1) + made.bias.detach().numpy()
    np.testing.assert_allclose(made(maps(), shift=shift).detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [FullFactorized2d(gamma_smooth=0.5), FullyConnected(gamma_smooth=0.5)])
def test_roughness_is_that_of_the_masks(kind: FullFactorized2d | FullyConnected) -> None:
    made = built(kind)
    weight = made.weight if isinstance(kind, FullyConnected) else made.masks(slice(None))[:, None]
    torch.testing.assert_close(made.regularizer()["readout_smooth"], 0.5 * spatial_laplace(weight))
    assert "readout_smooth" not in built(type(kind)()).regularizer()


@pytest.mark.parametrize("kind", [FullFactorized2d(), FullyConnected()])
def test_positions_are_where_the_energy_is(kind: FullFactorized2d | FullyConnected) -> None:
    made, sigma = built(kind, 41, 61), 0.15
    y, x = torch.meshgrid(torch.linspace(-1, 1, 41), torch.linspace(-1, 1, 61), indexing="ij")
    mask = -(-((x - 0.3).square() + (y + 0.2).square()) / (2 * sigma**2)).exp()
    with torch.no_grad():
        weight = made.weight if isinstance(kind, FullyConnected) else made.spatial[:, None]
        weight[0] = mask
        weight[1] = 0.0
        weight[1, :, 0, 60] = 4.0
        weight[2] = 0.0
    torch.testing.assert_close(made.positions()[:2], torch.tensor([[0.3, -0.2], [1.0, -1.0]]), rtol=1e-3, atol=1e-3)
    expected = torch.tensor([sigma / math.sqrt(2)] * 2)
    torch.testing.assert_close(made.position_spread()[0], expected, rtol=1e-3, atol=1e-3)
    assert made.position_spread()[1].tolist() == [0, 0]
    torch.testing.assert_close(made.positions()[2], torch.zeros(2))  # a mask of zeros looks nowhere: at the centre


def test_fully_connected_readout_is_a_dense_layer() -> None:
    made = built(FullyConnected(gamma_readout=0.3))
    expected = torch.einsum("bcthw,uchw->but", maps(), made.weight) + made.bias[:, None]
    torch.testing.assert_close(made(maps()), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.regularizer()["readout"], 0.3 * made.weight.abs().sum())
    with torch.no_grad():
        made.weight[0] = 0.0
        made.weight[0, 1, 2:4, 5] = torch.tensor([3.0, -4.0])
    torch.testing.assert_close(made.feature_weights()[0], torch.tensor([0.0, 5.0, 0.0]))


@pytest.mark.parametrize("size", [(9, 12), (12, 9)])
def test_gaussian_masks_by_hand(size: tuple[int, int]) -> None:
    height, width = size
    kind = GaussianMask(gaussian_mean_scale=2.0, gaussian_var_scale=3.0, mask_l1_reg=0.5, feature_weights_l1_reg=0.25)
    made = built(kind, *size)
    means, log_var = made.mask_mean.detach().numpy() * 2, made.mask_log_var.detach().numpy() * 3
    xs = np.linspace(-1, 1, width) * width / max(size)
    ys = np.linspace(-1, 1, height) * height / max(size)
    masks = np.exp(
        -((xs - means[:, :1])[:, None] ** 2 + (ys - means[:, 1:])[:, :, None] ** 2)
        / (2 * np.exp(log_var))[:, None, None]
    )
    masks /= masks.sum(axis=(1, 2), keepdims=True)
    features = torch.randn(2, CHANNELS, TIME, *size)
    expected = np.einsum("bcthw,uhw,uc->but", features.numpy(), masks, made.features.detach().numpy())
    np.testing.assert_allclose(made(features).detach(), expected + made.bias.detach().numpy()[:, None], atol=1e-5)
    terms = made.regularizer()
    assert terms["readout_mask"].item() == pytest.approx(0.5 * (np.exp(log_var).sum() + (means**2).sum()), rel=1e-5)
    assert terms["readout"].item() == pytest.approx(0.25 * made.features.abs().sum().item())
    assert made.features.min() >= 0


def test_gaussian_masks_tell_their_place_and_width() -> None:
    made = GaussianMask(init_sigma=0.1).build(ReadoutSite(2, 41, 61, torch.zeros(1), torch.tensor([[0.25, -0.5]])))
    mask = made.masks(slice(None))[0].detach()
    assert mask.sum().item() == pytest.approx(1)
    x, y = torch.linspace(-1, 1, 61), torch.linspace(-1, 1, 41)
    for axis, places in enumerate((x, y[:, None])):
        mean = (mask * places).sum()
        assert made.positions()[0, axis].item() == pytest.approx(mean.item(), abs=1e-3)
        std = (mask * (places - mean).square()).sum().sqrt()
        assert made.position_spread()[0, axis].item() == pytest.approx(std.item(), rel=1e-2)


@pytest.mark.parametrize("kernel", [1, 3])
def test_attention_without_places_equals_neuralpredictors(kernel: int) -> None:
    ours = built(Attention(attention_kernel=kernel, positional=False, gamma_readout=0.3))
    module = legacy.neuralpredictors_module("layers.readouts.attention")
    theirs = module.AttentionReadout((CHANNELS, HEIGHT, WIDTH), UNITS, True, attention_kernel=kernel).eval()
    theirs.attention.conv1.padding = (kernel // 2, kernel // 2)  # theirs is a bool, which PyTorch refuses today
    with torch.no_grad():
        theirs.features.copy_(ours.features)
        theirs.attention.conv1.weight.copy_(ours.query)
        theirs.attention.conv1.bias.normal_()  # without effect
        theirs.bias.copy_(ours.bias)
    found = ours(maps())
    for t in range(TIME):
        torch.testing.assert_close(found[..., t], theirs(maps()[:, :, t]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.regularizer()["readout"], 0.3 * theirs.feature_l1())
    torch.testing.assert_close(ours.positions(), torch.zeros(UNITS, 2))


def test_attention_to_one_place_reads_that_place() -> None:
    made = built(Attention())
    with torch.no_grad():
        made.place[:, 2, 7] += 200.0
    expected = torch.einsum("bct,uc->but", maps()[..., 2, 7], made.features) + made.bias[:, None]
    torch.testing.assert_close(made(maps()), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.positions()[0], torch.tensor([2 * 7 / 11 - 1, 2 * 2 / 8 - 1]))
    torch.testing.assert_close(made.position_spread()[0], torch.zeros(2), rtol=0, atol=1e-6)


def test_attention_is_the_softmax_of_scores() -> None:
    made = built(Attention())
    frames = maps()[:, :, 0]
    attention = made.attention(frames, [3])[1, 0]
    scores = torch.einsum("chw,c->hw", frames[1], made.query[3, :, 0, 0]) + made.place[3]
    torch.testing.assert_close(attention, (scores.exp() / scores.exp().sum()).flatten())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"attention_kernel": 2}, "2 is even"), ({"positional": False, "init_positions": "triggered_average"}, "needs")],
)
def test_attention_refuses_what_does_not_fit(settings: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Attention(**settings)
