from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.analysis.readouts import hoyer_sparsity, pixels_to_degrees, readout_properties
from pipeline.datasets.info import ScanInfo
from pipeline.models import Encoder, Factorized3d, FullGaussian2d, Network, Stacked2d, build_encoder

HEIGHT, WIDTH = 15, 20


def encoder_at(
    mu: list[tuple[float, float]], kernel: int, padding: bool, gauss_type: str = "isotropic"
) -> tuple[Encoder, ScanInfo]:
    """Return an encoder whose units each average a square of ``kernel`` pixels around their place."""
    scan = ScanInfo(tuple(range(len(mu))), (1, HEIGHT, WIDTH), (1.0,) * len(mu))
    core = Factorized3d(
        hidden_channels=(2,), spatial_kernels=(kernel,), temporal_kernels=(1,), padding=padding, linear=True
    )
    encoder = build_encoder(Network(core=core, readout=FullGaussian2d(gauss_type=gauss_type)), {"a": scan}, seed=0)
    with torch.no_grad():
        encoder.core.first.spatial.weight.fill_(1.0)
        encoder.core.first.temporal.weight.fill_(1.0)
        encoder.readouts["a"].mu.copy_(torch.tensor(mu))
    return encoder.eval(), scan


CORNERS = [(-1.0, -1.0), (1.0, 1.0), (0.0, 0.0), (1.0, -1.0), (0.5, 0.0)]


@pytest.mark.parametrize(
    ("kernel", "padding", "expected"),
    [
        (5, True, [(0, 0), (19, 14), (9.5, 7), (19, 0), (14.25, 7)]),
        (5, False, [(2, 2), (17, 12), (9.5, 7), (17, 2), (13.25, 7)]),
        (4, False, [(1.5, 1.5), (17.5, 12.5), (9.5, 7), (17.5, 1.5), (13.5, 7)]),
        (1, False, [(0, 0), (19, 14), (9.5, 7), (19, 0), (14.25, 7)]),
    ],
)
def test_positions_by_hand(kernel: int, padding: bool, expected: list[tuple[float, float]]) -> None:
    encoder, scan = encoder_at(CORNERS, kernel, padding)
    np.testing.assert_allclose(readout_properties(encoder, "a", scan).positions, expected, atol=1e-5)


@pytest.mark.parametrize(("kernel", "padding"), [(3, True), (3, False), (4, False), (7, False)])
def test_positions_are_where_the_pixels_matter(kernel: int, padding: bool) -> None:
    rng = np.random.default_rng(0)
    mu = [tuple(place) for place in rng.uniform(-0.7, 0.7, (6, 2)).astype(np.float32).tolist()]
    encoder, scan = encoder_at(mu, kernel, padding)
    positions = readout_properties(encoder, "a", scan).positions
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for unit in range(6):
        frame = torch.zeros(1, 1, 1, HEIGHT, WIDTH, requires_grad=True)
        encoder(frame, "a")[0, unit, 0].backward()
        influence = frame.grad[0, 0, 0].numpy()
        influence = influence / influence.sum()
        assert (influence > 1e-6).sum() >= kernel**2
        np.testing.assert_allclose(positions[unit], [(columns * influence).sum(), (rows * influence).sum()], atol=1e-4)


def test_positions_of_a_two_dimensional_core() -> None:
    scan = ScanInfo((0, 1), (1, HEIGHT, WIDTH), (1.0, 1.0))
    network = Network(core=Stacked2d(input_kern=7, hidden_kern=3, layers=2, hidden_channels=2))
    encoder = build_encoder(network, {"a": scan}, seed=0)
    with torch.no_grad():
        encoder.readouts["a"].mu.copy_(torch.tensor([(-1.0, -1.0), (1.0, 1.0)]))
    # the first layer loses 3 pixels at each side, the second is padded
    np.testing.assert_allclose(readout_properties(encoder, "a", scan).positions, [(3, 3), (16, 11)], atol=1e-5)


@pytest.mark.parametrize(
    ("gauss_type", "sigma", "expected"),
    [
        ("isotropic", [[-0.2]], [(0.2 * 9.5, 0.2 * 7)]),
        ("uncorrelated", [[0.1, -0.3]], [(0.95, 2.1)]),
        ("full", [[[0.3, 0.4], [0.0, 0.1]]], [(0.5 * 9.5, 0.1 * 7)]),
    ],
)
def test_spread_in_pixels(gauss_type: str, sigma: list, expected: list[tuple[float, float]]) -> None:
    encoder, scan = encoder_at([(0.0, 0.0)], 3, True, gauss_type)
    with torch.no_grad():
        encoder.readouts["a"].sigma.copy_(torch.tensor(sigma))
    np.testing.assert_allclose(readout_properties(encoder, "a", scan).spread, expected, rtol=1e-5)


def test_feature_weights_and_their_sparsity() -> None:
    encoder, scan = encoder_at([(0.0, 0.0)] * 3, 3, True)
    weights = np.array([[0.5, -0.5], [0.0, 2.0], [3.0, 4.0]], np.float32)
    with torch.no_grad():
        encoder.readouts["a"].features.copy_(torch.tensor(weights))
    found = readout_properties(encoder, "a", scan)
    assert np.array_equal(found.feature_weights, weights)
    # (sqrt 2 - 7 / 5) / (sqrt 2 - 1) for the last
    np.testing.assert_allclose(found.sparsity, [0, 1, (2**0.5 - 1.4) / (2**0.5 - 1)], atol=1e-6)


def test_hoyer_sparsity_of_known_vectors() -> None:
    weights = np.array([[1, 1, 1, 1], [-2, 2, -2, 2], [0, 0, 5, 0], [1, 1, 0, 0], [0, 0, 0, 0]], float)
    # for two equal entries of four: (2 - 2 / sqrt 2) / (2 - 1)
    np.testing.assert_allclose(hoyer_sparsity(weights), [0, 0, 1, 2 - 2**0.5, np.nan], atol=1e-12)
    np.testing.assert_allclose(hoyer_sparsity(1e-6 * weights), hoyer_sparsity(weights), atol=1e-12)
    np.testing.assert_array_equal(hoyer_sparsity(np.array([[3.0], [0.0], [-1.0]])), [1, np.nan, 1])


def test_pixels_in_degrees() -> None:
    # 53 x 33 pixels on 106 x 66 degrees: two degrees a pixel, (26, 16) in the middle, y up
    found = pixels_to_degrees(np.array([[26, 16], [27, 16], [26, 17], [0, 0], [52, 32]]), (33, 53), (106.0, 66.0))
    np.testing.assert_allclose(found, [[0, 0], [2, 0], [0, -2], [-52, 32], [52, -32]])
    # an even number of pixels has its middle between two; the borders lie half a pixel outside
    found = pixels_to_degrees(np.array([[-0.5, 9.5], [19.5, -0.5]]), (10, 20), (60.0, 20.0))
    np.testing.assert_allclose(found, [[-30, -10], [30, 10]])
