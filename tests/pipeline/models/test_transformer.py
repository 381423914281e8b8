from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigurationError
from pipeline.models.cores import ViT

SMALL = ViT(patch=4, stride=3, embedding=12, heads=3, depth=2, position_grid=5, dropout=0.2)


def test_tokens_equal_the_transformer_of_torch() -> None:
    torch.manual_seed(0)
    core = SMALL.build(2).eval()
    theirs = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(12, 3, 24, activation="gelu", batch_first=True, norm_first=True),
        num_layers=2,
        norm=nn.LayerNorm(12),
        enable_nested_tensor=False,
    ).eval()
    with torch.no_grad():
        for ours, layer in zip(core.blocks, theirs.layers, strict=True):
            layer.self_attn.in_proj_weight.copy_(ours.attention.query_key_value.weight)
            layer.self_attn.in_proj_bias.copy_(ours.attention.query_key_value.bias.normal_())
            layer.self_attn.out_proj.load_state_dict(ours.attention.project.state_dict())
            layer.linear1.load_state_dict(ours.mlp[0].state_dict())
            layer.linear2.load_state_dict(ours.mlp[3].state_dict())
            layer.norm1.weight.copy_(ours.attention_norm.weight.uniform_(0.5, 2))
            layer.norm2.bias.copy_(ours.mlp_norm.bias.normal_())
        theirs.norm.weight.copy_(core.norm.weight.uniform_(0.5, 2))
        movies = torch.randn(2, 2, 3, 16, 13)
        features = core(movies)
        for frame in range(3):
            patches = nn.functional.unfold(movies[:, :, frame], 4, stride=3)  # (batch, channel * row * column, patch)
            embedded = core.embed.weight.flatten(1) @ patches + core.embed.bias[:, None]
            position = nn.functional.interpolate(core.position, (5, 4), mode="bilinear", align_corners=True)
            expected = theirs((embedded + position.flatten(2)).transpose(1, 2)).transpose(1, 2).unflatten(2, (5, 4))
            torch.testing.assert_close(features[:, :, frame], expected, rtol=1e-4, atol=1e-5)


def test_without_positions_exchanged_patches_exchange_their_features() -> None:
    core = ViT(patch=4, stride=4, embedding=8, heads=2, depth=2).build(1).eval()
    torch.manual_seed(0)
    frame = torch.randn(1, 1, 1, 8, 12)
    exchanged = frame.roll(4, dims=4)
    with torch.no_grad():
        with_positions = core(exchanged)
        assert not torch.allclose(with_positions, core(frame).roll(1, dims=4), atol=1e-3)
        core.position.zero_()
        torch.testing.assert_close(core(exchanged), core(frame).roll(1, dims=4), rtol=1e-4, atol=1e-5)


def test_positions_span_frames_of_every_size() -> None:
    """The corners of the learned grid lie on the corner patches of small and of large frames."""
    core = ViT(patch=2, stride=2, embedding=4, heads=1, depth=1, position_grid=3).build(1).eval()
    core.blocks, core.norm = nn.Sequential(), nn.Identity()
    with torch.no_grad():
        core.embed.bias.zero_()
        for height, width in ((6, 6), (14, 20), (4, 4)):
            found = core(torch.zeros(1, 1, 1, height, width))[0, :, 0]
            torch.testing.assert_close(found[:, [0, -1]][:, :, [0, -1]], core.position[0][:, [0, -1]][:, :, [0, -1]])
        middle = core(torch.zeros(1, 1, 1, 6, 6))[0, :, 0]
        torch.testing.assert_close(middle, core.position[0])


def test_dropout_acts_in_training_only() -> None:
    core = SMALL.build(1)
    frame = torch.randn(1, 1, 1, 16, 16)
    assert not torch.equal(core(frame), core(frame))
    core.eval()
    assert torch.equal(core(frame), core(frame))


def test_heads_and_strides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="5 heads cannot share 64 channels"):
        ViT(heads=5)
    with pytest.raises(ConfigurationError, match="leaves gaps between patches of 8 px"):
        ViT(stride=9)
