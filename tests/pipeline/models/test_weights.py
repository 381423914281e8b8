from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.datasets.info import DataInfo, ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import MLP, Encoder, Factorized3d, MLPGain, Network, build_encoder
from pipeline.models.weights import pack, unpack

NETWORK = Network(
    core=Factorized3d(hidden_channels=(4,), spatial_kernels=(3,), temporal_kernels=(3,)),
    shifter=MLP(),
    modulator=MLPGain(),
)
INFO: DataInfo = {
    "scan 1": ScanInfo(
        (3, 8), (1, 7, 9), (0.5, 1 / 3), 2, (0.1, -0.2), (1.0, 2.0), 60.0, 111.5, 50.25, ((1.0, 2.0), (8.0, 0.0))
    ),
    "b": ScanInfo((1, 2, 3), (1, 6, 6), (0.5, 0.2, 0.1), frame_rate=30.0),
}


@pytest.fixture
def encoder() -> Encoder:
    """An encoder that is far from its fresh weights, statistics of the normalisation included."""
    made = build_encoder(NETWORK, INFO, seed=3)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        made(torch.randn(4, 1, 8, 7, 9), "scan 1")
    return made


def test_packed_encoders_come_back_whole(encoder: Encoder) -> None:
    again, info = unpack(NETWORK, pack(encoder, INFO))
    assert info == INFO
    assert list(info) == list(INFO)
    assert not again.training
    encoder.eval()
    torch.manual_seed(1)
    given = {"behavior": torch.randn(2, 2, 6), "pupil_center": torch.randn(2, 2, 6)}
    videos = torch.randn(2, 1, 6, 7, 9)
    assert torch.equal(again(videos, "scan 1", **given), encoder(videos, "scan 1", **given))
    assert torch.equal(again(videos[..., :6, :6], "b"), encoder(videos[..., :6, :6], "b"))


def test_packing_is_deterministic(encoder: Encoder) -> None:
    first = pack(encoder, INFO)
    assert pack(unpack(NETWORK, first)[0], INFO) == first


@pytest.mark.parametrize("length", [0, 4, 8, 9, 200, -1000, -1])
def test_truncated_files_are_refused(encoder: Encoder, length: int) -> None:
    with pytest.raises(ConfigurationError, match="damaged"):
        unpack(NETWORK, pack(encoder, INFO)[:length])


def test_damaged_headers_give_a_clear_error_or_none_at_all(encoder: Encoder) -> None:
    """Whatever byte is changed, users meet one kind of error; a changed digit of a mean cannot be noticed."""
    data = pack(encoder, INFO)
    header = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, header, 150):
        damaged = bytearray(data)
        damaged[place] ^= int(rng.integers(1, 256))
        try:
            unpack(NETWORK, bytes(damaged))
        except ConfigurationError:
            refused += 1
    assert refused > 100


def saved(encoder: Encoder, **metadata: str) -> bytes:
    """Weights in a file with other metadata."""
    state = {name: value.contiguous() for name, value in encoder.state_dict().items()}
    return safetensors.torch.save(state, metadata=metadata or None)


@pytest.mark.parametrize("information", ["[]", "{}", '{"a": 3}', '{"a": {"color": 1}}', "7", "null"])
def test_foreign_data_information_is_refused(encoder: Encoder, information: str) -> None:
    with pytest.raises(ConfigurationError):
        unpack(NETWORK, saved(encoder, data_info=information))


def test_files_without_data_information_and_of_other_networks_are_refused(encoder: Encoder) -> None:
    with pytest.raises(ConfigurationError, match="damaged"):
        unpack(NETWORK, saved(encoder))
    other = Network(core=Factorized3d(hidden_channels=(5,), spatial_kernels=(3,), temporal_kernels=(3,)))
    with pytest.raises(ConfigurationError, match="another network"):
        unpack(other, pack(encoder, INFO))
