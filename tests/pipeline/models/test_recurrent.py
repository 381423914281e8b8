"""The recurrent unit behind each kind of core."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pipeline.datasets.info import ScanInfo
from pipeline.models import ConvGRU, Network, build_encoder
from pipeline.models.cores import CORES, CoreConfiguration

AT_MOST = {"hidden_channels": 6, "channels": 8, "blocks": 1, "embedding": 16, "depth": 2}


def small(kind: type[CoreConfiguration]) -> CoreConfiguration:
    """The kind at its defaults, with fewer channels and layers where it has such settings."""
    core = kind()
    settings = {}
    for name, most in AT_MOST.items():
        value = getattr(core, name, None)
        if value is not None:
            settings[name] = tuple(min(v, most) for v in value) if isinstance(value, tuple) else min(value, most)
    return dataclasses.replace(core, **settings)


@pytest.mark.parametrize("kind", CORES, ids=lambda kind: kind.kind())
def test_recurrent_unit_works_behind_every_core(kind: type[CoreConfiguration]) -> None:
    core = small(kind)
    scan = ScanInfo((1, 2), (1, 36, 40), (0.5, 1.0))
    network = Network(core=core, recurrent=ConvGRU(hidden_channels=3, input_kernel=3, recurrent_kernel=3))
    encoder = build_encoder(network, {"a": scan}, seed=0)
    torch.manual_seed(0)
    frames = encoder.lost_frames + 3
    shown = torch.randn(2, 1, frames, 36, 40)
    encoder(shown, "a").square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert all(p.grad.abs().sum() > 0 for p in encoder.recurrent.parameters())

    encoder.eval()
    with torch.no_grad():
        before = encoder(shown, "a")
        assert before.shape == (2, 2, 3)
        other = shown.clone()
        other[:, :, encoder.lost_frames + 1] *= -1.5  # the frame of the second prediction
        changed = (encoder(other, "a") - before).abs().amax(dim=(0, 1)) > 0
    assert changed.tolist() == [False, True, True]
