from __future__ import annotations

import pytest
import torch

from pipeline.datasets.info import ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import ConvGRU, Factorized3d, Network, Stacked2d
from pipeline.models.ensemble import EnsembleArchitecture, EnsembleEncoder
from pipeline.models.weights import pack, unpack

INFO = {
    "a": ScanInfo((4, 5, 6), (1, 12, 11), (0.5, 0.6, 0.7), frame_rate=30.0),
    "b": ScanInfo((1,), (1, 14, 13), (0.2,), frame_rate=30.0),
}
NETWORK = Network(core=Factorized3d(hidden_channels=(2,), spatial_kernels=(5,), temporal_kernels=(3,)))
MOVIE = torch.randn(2, 1, 7, 12, 11, generator=torch.Generator().manual_seed(0))


def ensemble(*seeds: int) -> EnsembleEncoder:
    return EnsembleArchitecture(NETWORK, seeds).build(INFO).eval()


def test_the_prediction_is_the_mean_of_the_members() -> None:
    made = ensemble(3, 1, 2)
    alone = [NETWORK.build(INFO, seed).eval()(MOVIE, "a") for seed in (1, 2, 3)]
    assert not torch.allclose(alone[0], alone[1])
    torch.testing.assert_close(made(MOVIE, "a"), sum(alone) / 3)
    torch.testing.assert_close(made(MOVIE, "a", unit_idx=[2, 0]), (sum(alone) / 3)[:, [2, 0]])
    assert made.seeds == (1, 2, 3)
    assert made.data_keys == ("a", "b")
    assert made.lost_frames == 2


def test_an_ensemble_of_one_is_its_member() -> None:
    torch.testing.assert_close(ensemble(5)(MOVIE, "a"), NETWORK.build(INFO, 5).eval()(MOVIE, "a"), rtol=0, atol=0)


def test_penalties_are_told_apart() -> None:
    made = ensemble(1, 2)
    alone = NETWORK.build(INFO, 2).regularizer("a")
    found = made.regularizer("a")
    assert len(found) == 2 * len(alone)
    for name, value in alone.items():
        torch.testing.assert_close(found[f"2/{name}"], value)


def test_ensembles_are_kept_in_one_file() -> None:
    made = ensemble(1, 2)
    back, info = unpack(EnsembleArchitecture(NETWORK, (1, 2)), pack(made, INFO))
    assert info == INFO
    assert not back.training
    torch.testing.assert_close(back(MOVIE, "a"), made(MOVIE, "a"), rtol=0, atol=0)
    with pytest.raises(ConfigurationError, match=r"members\.2"):
        unpack(EnsembleArchitecture(NETWORK, (1, 2, 3)), pack(made, INFO))


def test_images_too() -> None:
    made = EnsembleArchitecture(Network(core=Stacked2d(layers=1), recurrent=ConvGRU()), (1, 2)).build(INFO).eval()
    assert made(MOVIE[:, :, 0], "a").shape == (2, 3)
