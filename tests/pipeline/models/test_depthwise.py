"""The gradient by strips is that of PyTorch's own convolution."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.models.cores import depthwise as module
from pipeline.models.cores.depthwise import DepthwiseConv2d, depthwise
from pipeline.models.cores.stacked2d import Stacked2d

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def tensors(side: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> Inputs:
    """Frames with channels last, filters and biases."""
    torch.manual_seed(0)
    frames = torch.randn(3, 2, height, width, dtype=dtype).to(memory_format=torch.channels_last)
    made = frames, torch.randn(2, 1, side, side, dtype=dtype), torch.randn(2, dtype=dtype)
    return tuple(tensor.requires_grad_() for tensor in made)  # type: ignore[return-value]


@pytest.mark.parametrize(("side", "padding"), [(4, 0), (5, 2), (6, 2), (7, 3), (7, 6)])
def test_gradients_are_derivatives(side: int, padding: int) -> None:
    def filtered(*inputs: torch.Tensor) -> torch.Tensor:
        return depthwise(*inputs, padding)

    assert torch.autograd.gradcheck(filtered, tensors(side, 4, 5))


def test_gradients_can_be_derived_again() -> None:
    assert torch.autograd.gradgradcheck(lambda *inputs: depthwise(*inputs, 2), tensors(5, 3, 4))


@pytest.mark.parametrize("chunk_bytes", [1, 2 * 2 * 9 * 11 * 4, 2**22])
def test_everything_equals_the_plain_convolution(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    """Whatever frames are computed together: each by itself, two and one, all."""
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    frames, weight, bias = inputs = tensors(7, 9, 11, torch.float32)
    found, expected = depthwise(*inputs, 3), F.conv2d(frames, weight, bias, padding=3, groups=2)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(result.sin().sum(), inputs) for result in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_strips_serve_wide_filters() -> None:
    def how(layer: DepthwiseConv2d) -> str:
        return str(layer(torch.randn(1, 3, 12, 12)).grad_fn)

    assert "Depthwise" in how(DepthwiseConv2d(3, 5, 2, 1, bias=False))
    assert "Convolution" in how(DepthwiseConv2d(3, 3, 1, 1, bias=True))
    assert "Convolution" in how(DepthwiseConv2d(3, 5, 2, 2, bias=True))
    assert "Convolution" in how(DepthwiseConv2d(3, 5, 2, 1, bias=True, stride=2))
    assert "Convolution" in how(DepthwiseConv2d(3, 5, 5, 1, bias=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    """Whether frames come in half precision, as from a layer before, or not yet."""
    torch.manual_seed(2)
    layer, frames = DepthwiseConv2d(3, 5, 2, 1, bias=True), torch.randn(2, 3, 12, 12).requires_grad_()
    results = []
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            filtered = layer(frames.to(dtype) if enabled else frames)
        assert filtered.dtype == (torch.bfloat16 if enabled else torch.float32)
        gradient = torch.autograd.grad(filtered.float().square().sum(), (frames, layer.weight, layer.bias))
        results.append([filtered.float(), *gradient])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("half", [False, True])
def test_training_compiles_in_one_piece(half: bool) -> None:
    torch.manual_seed(1)
    core = Stacked2d(hidden_channels=4, input_kern=5, hidden_kern=7, layers=2, depth_separable=True).build(1)
    compiled = torch.compile(core, backend="aot_eager", fullgraph=True)
    videos = torch.randn(3, 1, 1, 16, 18)
    gradients = []
    for module_ in (core, compiled):
        core.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = module_(videos)
        features.float().square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in core.named_parameters() if p.grad is not None})
    assert len(gradients[0]) == len(dict(core.named_parameters()))
    tolerance = 0.1 if half else 1e-4
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)
