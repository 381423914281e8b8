"""Convolutions by way of spectra, against PyTorch's in double precision."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import ConfigurationError
from pipeline.models.cores import CNN, Factorized3d, RotationEquivariant2d, Stacked2d, products, spatial
from pipeline.models.cores.base import CoreConfiguration
from pipeline.models.cores.side_by_side import side_by_side, workers
from pipeline.models.cores.spatial import SpatialConv2d

FRAMES = [  # height, width, rows and columns of filters, padding, dilation
    (9, 13, 3, 3, 1, 1),
    (10, 12, 5, 5, 0, 1),
    (11, 8, 4, 3, 0, 1),
    (12, 17, 3, 3, 2, 2),
    (12, 17, 4, 4, 1, 1),
    (7, 6, 7, 6, 0, 1),
    (5, 1, 1, 1, 0, 1),
    (6, 7, 5, 5, 4, 1),
]


def _check(way: Callable[[Tensor, Tensor], Tensor], plain: Callable[[Tensor, Tensor], Tensor], *sizes: tuple) -> None:
    """Compare values and both gradients of a way in single precision with plain ones in double."""
    inputs, weight = (torch.randn(size, requires_grad=True) for size in sizes)
    exact_inputs, exact_weight = (of.detach().double().requires_grad_() for of in (inputs, weight))
    found, expected = way(inputs, weight), plain(exact_inputs, exact_weight)
    grad = torch.randn_like(found)
    found.backward(grad)
    expected.backward(grad.double())
    _assert_close(found, expected)
    _assert_close(inputs.grad, exact_inputs.grad)
    _assert_close(weight.grad, exact_weight.grad)


def _assert_close(found: Tensor | None, expected: Tensor | None, error: float = 1e-6) -> None:
    assert found is not None and expected is not None
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= error * expected.abs().max()


@pytest.mark.parametrize(("height", "width", "rows", "columns", "padding", "dilation"), FRAMES)
def test_convolution_over_frames(height: int, width: int, rows: int, columns: int, padding: int, dilation: int) -> None:
    torch.manual_seed(1)
    _check(
        lambda frames, weight: spatial.spectral(frames, weight, None, padding, dilation),
        lambda frames, weight: F.conv2d(frames, weight, padding=padding, dilation=dilation),
        (3, 5, height, width),
        (4, 5, rows, columns),
    )


def test_more_frames_than_are_transformed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spatial, "_FRAMES", 3)
    torch.manual_seed(3)
    _check(spatial.spectral, F.conv2d, (7, 3, 6, 5), (4, 3, 3, 3))


@pytest.mark.parametrize("way", ["a call for each", "one call", "without oneDNN"])
def test_products_of_matrices(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(9)
    monkeypatch.setattr(products, "_WORTH_A_CALL", 2**62 if way == "one call" else 0)
    if way == "without oneDNN":
        monkeypatch.setattr(products, "_LAYER", None)
    left, right = torch.randn(5, 40, 70), torch.randn(5, 70, 90)
    for first, second in ((left, right), (left.mT.contiguous().mT, right.mT.contiguous().mT), (left[::2], right[::2])):
        made = torch.empty(len(first), 45, 40, 2).permute(0, 2, 1, 3)
        products.products(first, second, out=made)
        _assert_close(made.flatten(2), first.double() @ second.double())
        _assert_close(products.product(first[1], second[1]), first[1].double() @ second[1].double())
    every_second = right[0, :, ::2]
    _assert_close(products.product(left[0], every_second), left[0].double() @ every_second.double())


@pytest.fixture(params=[2, 5, 12])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Give PyTorch some threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_several_threads(threads: int) -> None:
    torch.manual_seed(7)
    _check(spatial.spectral, F.conv2d, (7, 3, 6, 5), (4, 3, 3, 3))
    assert torch.get_num_threads() == threads
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == threads


def test_several_threads_give_the_same_each_time(threads: int) -> None:
    frames, weight = torch.randn(20, 3, 6, 5), torch.randn(4, 3, 3, 3, requires_grad=True)
    first, *others = (torch.autograd.grad(spatial.spectral(frames, weight).square().sum(), weight) for _ in range(5))
    assert all(torch.equal(first[0], other[0]) for other in others)


def test_several_threads_in_inference(threads: int) -> None:
    frames, weight = torch.randn(7, 3, 6, 5), torch.randn(4, 3, 3, 3)
    with torch.inference_mode():
        found = spatial.spectral(frames, weight)
    _assert_close(found, F.conv2d(frames.double(), weight.double()))


def test_shares_after_a_fork(threads: int) -> None:
    side_by_side(sum, range(20), workers())
    child = multiprocessing.get_context("fork").Process(target=side_by_side, args=(sum, range(20), workers()))
    child.start()
    child.join(60)
    hangs = child.is_alive()
    child.kill()
    assert not hangs and child.exitcode == 0


def test_a_share_that_fails_is_told(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda share: [1 // number for number in share], range(10), workers())


def test_shares_are_whole_and_record_no_gradients(threads: int) -> None:
    learned = torch.ones(1, requires_grad=True)
    shares = side_by_side(
        lambda share: [(number, (learned * number).requires_grad) for number in share], range(11), workers()
    )
    assert sorted(number for share in shares for number, _ in share) == list(range(11))
    assert not any(recorded for share in shares for _, recorded in share)
    assert len(shares) == workers() > 1


def test_sizes_that_a_circular_convolution_cannot_hold_are_refused() -> None:
    frames, weight = torch.zeros(1, 2, 6, 9), torch.zeros(3, 2, 3, 3)
    with pytest.raises(ConfigurationError, match=r"3 taps, 1 apart, on 6 places with padding 3: .* at most"):
        spatial.spectral(frames, weight, None, 3)
    with pytest.raises(ConfigurationError, match=r"3 taps, 3 apart, on 6 places"):
        spatial.spectral(frames, weight, None, 0, 3)


def test_bias_and_memory_layout() -> None:
    torch.manual_seed(4)
    frames, weight, bias = torch.randn(3, 5, 8, 9), torch.randn(4, 5, 3, 3), torch.randn(4)
    found = spatial.spectral(frames, weight, bias, 1)
    _assert_close(found, F.conv2d(frames.double(), weight.double(), bias.double(), padding=1))
    assert found.permute(3, 2, 0, 1).is_contiguous()
    by_frames = frames.contiguous(memory_format=torch.channels_last).requires_grad_()
    by_places = frames.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0).requires_grad_()
    for lying in (by_frames, by_places):
        maps = spatial.spectral(lying, weight, bias, 1)
        (grad,) = torch.autograd.grad(maps.square().sum(), lying)
        assert torch.equal(maps, found)
        assert grad.stride() == lying.stride(), "whoever gets the gradient computes in this layout"
    layer = SpatialConv2d(64, 64, 7, padding=3).requires_grad_(False)
    assert layer(LARGE).is_contiguous(memory_format=torch.channels_last)
    assert layer.in_any_layout(LARGE).permute(3, 2, 0, 1).is_contiguous()


@pytest.mark.parametrize("learned", ["inputs", "weight"])
def test_only_the_gradient_that_is_wanted(learned: str) -> None:
    torch.manual_seed(5)
    inputs, weight = torch.randn(3, 5, 8, 9), torch.randn(4, 5, 3, 3)
    wanted = {"inputs": inputs, "weight": weight}[learned].requires_grad_()
    (alone,) = torch.autograd.grad(spatial.spectral(inputs, weight).square().sum(), wanted)
    both = (inputs.detach().requires_grad_(), weight.detach().requires_grad_())
    together = torch.autograd.grad(spatial.spectral(*both).square().sum(), both)
    assert torch.equal(alone, together[learned == "weight"])


def test_a_second_derivative_is_refused() -> None:
    frames, weight = torch.randn(3, 5, 8, 9, requires_grad=True), torch.randn(4, 5, 3, 3)
    (grad,) = torch.autograd.grad(spatial.spectral(frames, weight).square().sum(), frames, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def _is_spectral(values: Tensor) -> bool:
    """Tell whether a convolution by way of spectra is among the operations that made these values."""
    nodes, seen = [values.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes.extend(before for before, _ in node.next_functions)
    return any(type(node).__name__ == "_SpatialBackward" for node in seen)


LARGE = torch.zeros(32, 64, 20, 24)
"""Frames for which filters of 7 x 7 pixels to 64 channels are faster by way of spectra."""


def test_the_faster_way_is_taken() -> None:
    assert _is_spectral(SpatialConv2d(64, 64, 7, padding=3, bias=False)(LARGE))
    assert not _is_spectral(SpatialConv2d(64, 64, 3, padding=1, bias=False)(LARGE))
    assert not _is_spectral(SpatialConv2d(64, 4, 3, padding=1, bias=False)(LARGE))
    assert not _is_spectral(SpatialConv2d(8, 8, 13, bias=False)(LARGE[:, :8]))
    assert not _is_spectral(SpatialConv2d(1, 64, 7, bias=False)(LARGE[:, :1]))


def test_what_spectra_cannot_do_goes_the_usual_way() -> None:
    wide = {"kernel_size": 7, "bias": False}
    assert not _is_spectral(SpatialConv2d(64, 64, stride=2, **wide)(LARGE))
    assert not _is_spectral(SpatialConv2d(64, 64, groups=64, **wide)(LARGE))
    assert not _is_spectral(SpatialConv2d(64, 64, padding=(3, 0), **wide)(LARGE))
    assert not _is_spectral(SpatialConv2d(64, 64, padding=7, **wide)(LARGE))
    assert not _is_spectral(SpatialConv2d(64, 64, **wide).double()(LARGE.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert SpatialConv2d(64, 64, **wide)(LARGE).dtype == torch.bfloat16
    compiled = torch.compile(SpatialConv2d(64, 64, **wide), backend="eager", fullgraph=True)
    assert not _is_spectral(compiled(LARGE))


@pytest.mark.parametrize(
    ("core", "size"),
    [
        (Stacked2d(hidden_channels=64, input_kern=5, hidden_kern=7, layers=2), (32, 1, 1, 16, 18)),
        (CNN(hidden_channels=(64, 64), kernels=(5, 7), strides=(1, 1)), (24, 1, 1, 26, 28)),
        (
            RotationEquivariant2d(hidden_channels=8, num_rotations=8, input_kern=5, hidden_kern=7, layers=2),
            (32, 1, 1, 16, 18),
        ),
        (Factorized3d((64, 128), (5, 7), (3, 5), padding=False), (3, 1, 40, 18, 20)),
    ],
    ids=lambda value: value.kind() if isinstance(value, CoreConfiguration) else None,
)
def test_cores_are_equal_to_themselves_in_double_precision(core: CoreConfiguration, size: tuple[int, ...]) -> None:
    torch.manual_seed(6)
    network = core.build(1).train()
    exact = core.build(1).double().train()
    exact.load_state_dict(network.state_dict())
    videos = torch.randn(size)
    features = network(videos)
    assert _is_spectral(features), "the test does not reach what it is about"
    expected = exact(videos.double())
    grad = torch.randn_like(features)
    features.backward(grad)
    expected.backward(grad.double())
    _assert_close(features, expected, 2e-5)  # batch normalisation adds up single-precision sums
    for found, wanted in zip(network.parameters(), exact.parameters(), strict=True):
        _assert_close(found.grad, wanted.grad, 2e-4)


def test_weights_keep_their_names_and_shapes() -> None:
    assert {name: value.shape for name, value in SpatialConv2d(3, 4, 5).state_dict().items()} == {
        name: value.shape for name, value in nn.Conv2d(3, 4, 5).state_dict().items()
    }
