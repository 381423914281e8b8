"""Readouts of every kind whose parameters are set by hand, on maps that begin 2 pixels inside the frame."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.analysis.readouts import GAZES, gaze_shifts, readout_properties
from pipeline.datasets.info import ScanInfo
from pipeline.models import (
    MLP,
    READOUTS,
    Encoder,
    Factorized3d,
    Network,
    NoShifter,
    StaticAffine2d,
    build_encoder,
)
from pipeline.models.readouts import (
    Attention,
    FullFactorized2d,
    FullGaussian2d,
    FullyConnected,
    GaussianMask,
    PointPooled2d,
    ReadoutConfiguration,
    SpatialTransformerPyramid2d,
)

ROWS, COLUMNS = 11, 21
SCAN = ScanInfo(
    (7, 8), (1, ROWS + 4, COLUMNS + 4), (1.0, 1.0), mean_pupil_center=(0.2, -0.4), std_pupil_center=(0.5, 2.0)
)


def encoder_with(readout: ReadoutConfiguration, shifter: object = None) -> Encoder:
    """Filters of 5 x 5 pixels without padding: maps of 11 x 21 places, three channels, on 15 x 25 pixels."""
    core = Factorized3d(hidden_channels=(3,), spatial_kernels=(5,), temporal_kernels=(1,), padding=False)
    return build_encoder(Network(core=core, readout=readout, shifter=shifter or NoShifter()), {"a": SCAN}, 0).eval()


def place_of(row: int, column: int) -> torch.Tensor:
    mask = torch.zeros(ROWS, COLUMNS)
    mask[row, column] = 1
    return mask


def test_full_gaussian() -> None:
    encoder = encoder_with(FullGaussian2d(gauss_type="uncorrelated"))
    with torch.no_grad():
        encoder.readouts["a"].mu.copy_(torch.tensor([(-0.5, 0.4), (1.0, 0.0)]))
        encoder.readouts["a"].sigma.copy_(torch.tensor([(0.1, 0.2), (0.3, -0.4)]))
    found = readout_properties(encoder, "a", SCAN)
    np.testing.assert_allclose(found.positions, [(2 + 5, 2 + 7), (22, 7)], rtol=1e-6)
    np.testing.assert_allclose(found.spread, [(1, 1), (3, 2)], rtol=1e-6)
    assert found.masks is None
    assert (found.first_place, found.pitch) == ((2, 2), 1)


def test_pooled_points_see_squares() -> None:
    encoder = encoder_with(PointPooled2d(pool_steps=2, pool_kern=3))
    readout = encoder.readouts["a"]
    with torch.no_grad():
        readout.grid.copy_(torch.tensor([(0.1, -0.2), (0.0, 0.0)]))
        readout.features.zero_()
        readout.features[0, 1] = torch.tensor([0.0, 2.0, 0.0])  # squares of 3 pixels only
        readout.features[1, 0] = torch.tensor([3.0, 0.0, 0.0])  # single pixels and squares of 9
        readout.features[1, 2] = torch.tensor([4.0, 0.0, 0.0])
    found = readout_properties(encoder, "a", SCAN)
    np.testing.assert_allclose(found.positions, [(13, 6), (12, 7)], rtol=1e-6)
    # a square of n pixels has the variance (n^2 - 1) / 12; levels count by their squared weights, 9 to 16
    wide = math.sqrt((9 * 0 + 16 * (81 - 1) / 12) / 25)
    np.testing.assert_allclose(found.spread, [(math.sqrt(2 / 3),) * 2, (wide, wide)], rtol=1e-5)
    np.testing.assert_allclose(found.feature_weights, [(0, 2, 0), (5, 0, 0)], rtol=1e-6)
    np.testing.assert_allclose(found.sparsity, [1, 1], rtol=1e-6)
    assert found.masks is None


def test_points_in_a_pyramid_see_its_blur() -> None:
    encoder = encoder_with(SpatialTransformerPyramid2d(scale_n=2, pyramid_type="gauss3x3"))
    readout = encoder.readouts["a"]
    with torch.no_grad():
        readout.grid.copy_(torch.tensor([(0.3, 0.2), (-1.0, -1.0)]))
        readout.features.zero_()
        readout.features[0, 0, 0] = 1  # details of single pixels
        readout.features[1, 2] = torch.tensor([1.0, -1.0, 0.0])  # the rest after two blurs
    found = readout_properties(encoder, "a", SCAN)
    np.testing.assert_allclose(found.positions, [(15, 8), (2, 2)], rtol=1e-6)
    # (1, 2, 1) / 4 has variance 1/2, and 4 times that on every second pixel
    np.testing.assert_allclose(found.spread, [(0, 0), (math.sqrt(2.5),) * 2], atol=1e-6)
    np.testing.assert_allclose(found.feature_weights, [(1, 0, 0), (1, 1, 0)], atol=1e-6)
    assert found.masks is None


@pytest.mark.parametrize("normalize", [True, False])
def test_factorized_masks(normalize: bool) -> None:
    encoder = encoder_with(FullFactorized2d(normalize=normalize))
    mask = 3 * place_of(2, 3) - 3 * place_of(2, 7)
    with torch.no_grad():
        encoder.readouts["a"].spatial.copy_(torch.stack([mask, place_of(10, 0)]))
        encoder.readouts["a"].features.copy_(torch.tensor([(1.0, 1.0, -1.0), (0.0, 0.0, 0.0)]))
    found = readout_properties(encoder, "a", SCAN)
    np.testing.assert_allclose(found.positions, [(2 + 5, 2 + 2), (2, 12)], rtol=1e-5)
    np.testing.assert_allclose(found.spread, [(2, 0), (0, 0)], atol=1e-5)
    np.testing.assert_allclose(found.masks[0], mask / (math.sqrt(18) if normalize else 1), atol=1e-5)
    np.testing.assert_allclose(found.masks[1], place_of(10, 0), atol=1e-5)
    np.testing.assert_allclose(found.sparsity, [0, np.nan], atol=1e-6)


def test_gaussian_masks() -> None:
    encoder = encoder_with(GaussianMask(gaussian_mean_scale=2.0, init_sigma=0.2))
    extent = torch.tensor([1.0, ROWS / COLUMNS])
    with torch.no_grad():
        encoder.readouts["a"].mask_mean.copy_(torch.tensor([(0.4, -0.2), (0.0, 0.0)]) * extent / 2)
    found = readout_properties(encoder, "a", SCAN)
    np.testing.assert_allclose(found.positions, [(2 + 14, 2 + 4), (12, 7)], rtol=1e-5)
    # 0.2 of the longer side's half, 10 px; the other side's half is 5 px and the ratio of the sides 11 / 21
    wide = (0.2 * 10, 0.2 * 5 * 21 / 11)
    np.testing.assert_allclose(found.spread, [wide, wide], rtol=1e-5)
    y, x = np.mgrid[:ROWS, :COLUMNS]
    gaussian = np.exp(-(((x - 14) / wide[0]) ** 2 + ((y - 4) / wide[1]) ** 2) / 2)
    np.testing.assert_allclose(found.masks[0], gaussian / gaussian.sum(), rtol=1e-3, atol=1e-9)


def test_dense_weights() -> None:
    encoder = encoder_with(FullyConnected())
    with torch.no_grad():
        weight = torch.zeros(2, 3, ROWS, COLUMNS)
        weight[0, 0, 4, 6], weight[0, 2, 4, 6] = 3, -4
        weight[1, 1, 0, 0] = weight[1, 1, 0, 20] = 1
        encoder.readouts["a"].weight.copy_(weight)
    found = readout_properties(encoder, "a", SCAN)
    np.testing.assert_allclose(found.positions, [(8, 6), (12, 2)], rtol=1e-5)
    np.testing.assert_allclose(found.spread, [(0, 0), (10, 0)], atol=1e-4)
    np.testing.assert_allclose(found.feature_weights, [(3, 0, 4), (0, math.sqrt(2), 0)], rtol=1e-6)
    np.testing.assert_allclose(found.masks, torch.stack([5 * place_of(4, 6), place_of(0, 0) + place_of(0, 20)]))


def test_attention_to_places() -> None:
    encoder = encoder_with(Attention())
    shares = 0.75 * place_of(3, 2) + 0.25 * place_of(3, 10)
    with torch.no_grad():
        encoder.readouts["a"].place[0] = (shares + 1e-20).log()
        encoder.readouts["a"].place[1] = 5.0  # the same everywhere
    found = readout_properties(encoder, "a", SCAN)
    even = [math.sqrt((size**2 - 1) / 12) for size in (COLUMNS, ROWS)]
    np.testing.assert_allclose(found.positions, [(2 + 4, 2 + 3), (12, 7)], rtol=1e-5)
    np.testing.assert_allclose(found.spread, [(8 * math.sqrt(0.75 * 0.25), 0), even], atol=1e-4)
    np.testing.assert_allclose(found.masks, [shares, np.full((ROWS, COLUMNS), 1 / (ROWS * COLUMNS))], atol=1e-6)


def test_attention_without_places_has_no_position_of_its_own() -> None:
    found = readout_properties(encoder_with(Attention(positional=False)), "a", SCAN)
    np.testing.assert_allclose(found.positions, [(12, 7)] * 2, rtol=1e-6)
    np.testing.assert_allclose(found.masks, 1 / (ROWS * COLUMNS), rtol=1e-5)


@pytest.mark.parametrize("kind", READOUTS, ids=lambda kind: kind.kind())
def test_masks_and_weights_of_every_kind_have_one_row_a_unit(kind: type[ReadoutConfiguration]) -> None:
    points = (FullGaussian2d, PointPooled2d, SpatialTransformerPyramid2d)
    found = readout_properties(encoder_with(kind()), "a", SCAN)
    assert found.positions.shape == found.spread.shape == (2, 2)
    assert found.feature_weights.shape == (2, 3) and found.sparsity.shape == (2,)
    assert (found.masks is None) == (kind in points)
    assert found.masks is None or found.masks.shape == (2, ROWS, COLUMNS)
    assert np.isfinite(found.positions).all() and (found.spread >= 0).all()


@pytest.mark.parametrize("kind", [FullGaussian2d, FullFactorized2d], ids=lambda kind: kind.kind())
def test_the_shifter_moves_readouts_as_its_shifts_say(kind: type[ReadoutConfiguration]) -> None:
    encoder = encoder_with(kind(), StaticAffine2d())
    linear = encoder.shifters["a"].linear
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([(0.4, 0.0), (0.0, -0.1)]))
        linear.bias.copy_(torch.tensor((0.02, 0.06)))
    found = gaze_shifts(encoder, "a", SCAN)
    assert tuple(found) == GAZES
    for (across, down), shift in found.items():
        eye = 0.2 + across * 0.5, -0.4 + down * 2.0
        expected = 10 * math.tanh(0.4 * eye[0] + 0.02), 5 * math.tanh(-0.1 * eye[1] + 0.06)
        assert shift == pytest.approx(expected, rel=1e-5)


def test_shifted_responses_are_those_of_the_shifted_place() -> None:
    encoder = encoder_with(FullGaussian2d(), MLP())
    with torch.no_grad():
        for parameter in encoder.shifters["a"].parameters():
            parameter.mul_(30).clamp_(-0.7, 0.7)
    shift = np.array(gaze_shifts(encoder, "a", SCAN)[0, 1])
    movie = torch.randn(1, 1, 1, ROWS + 4, COLUMNS + 4)
    eye = torch.tensor([0.2, -0.4 + 2.0])[None, :, None]
    with torch.no_grad():
        encoder.readouts["a"].mu.copy_(torch.tensor([(0.0, 0.1), (-0.2, 0.0)]))
        moved = encoder(movie, "a", pupil_center=eye)
        before = readout_properties(encoder, "a", SCAN).positions
        encoder.readouts["a"].mu.add_(torch.tensor(shift / (10, 5), dtype=torch.float32))
        assert np.abs(shift).max() > 0.5
        np.testing.assert_allclose(readout_properties(encoder, "a", SCAN).positions, before + shift, rtol=1e-5)
        torch.testing.assert_close(encoder(movie, "a"), moved)


def test_no_shifts_without_a_shifter_or_the_spread_of_the_gaze() -> None:
    assert gaze_shifts(encoder_with(FullGaussian2d()), "a", SCAN) == {}
    unknown = ScanInfo(SCAN.unit_ids, SCAN.input_shape, SCAN.mean_responses, mean_pupil_center=(0.0, 0.0))
    assert gaze_shifts(encoder_with(FullGaussian2d(), MLP()), "a", unknown) == {}
