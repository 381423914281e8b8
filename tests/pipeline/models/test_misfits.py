"""Networks are refused as early as they can be: by their parts alone, by the data's settings, by what scans have."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from pipeline.datasets.clips import MovieClips
from pipeline.datasets.images import CorrectedAreaLayer
from pipeline.datasets.info import ScanInfo
from pipeline.datasets.selection import DataConfiguration
from pipeline.errors import ConfigurationError
from pipeline.models import (
    CORES,
    MLP,
    MODULATORS,
    READOUTS,
    RECURRENTS,
    SHIFTERS,
    Attention,
    ConvGRU,
    Factorized3d,
    FullGaussian2d,
    History,
    MLPElu,
    MLPGain,
    Network,
    PointPooled2d,
    Stacked2d,
    StaticAffine2d,
    build_encoder,
)
from pipeline.models.cores import CNN, Basic3d, Depthwise3d, GaborEnergy, Pretrained
from pipeline.models.misfits import ANYTHING, outline, refuse_misfits
from pipeline.presets import PRESETS

POOLED = Depthwise3d(pool=True)
FULL = ScanInfo(
    unit_ids=(1, 2),
    input_shape=(1, 36, 64),
    mean_responses=(1.0, 0.5),
    n_behavior=2,
    mean_pupil_center=(0.0, 0.0),
    frame_rate=30.0,
    clip_frames=80,
    unit_positions=((0.0, 0.0, 0.0), (1.0, 1.0, 0.0)),
    match_ids=(3, 3),
    n_opto=1,
)
STILLS = dataclasses.replace(FULL, frame_rate=None, clip_frames=None)

PARTS_ALONE = [
    (Network(POOLED, readout=PointPooled2d(pool_steps=1)), r"PointPooled2d\.pool_steps: 1 is not .* must be <= 0"),
    (
        Network(POOLED, shifter=MLP()),
        "MLP shifts places, but the maps of this Depthwise3d have only one: use NoShift",
    ),
    (
        Network(POOLED, readout=FullGaussian2d(init_positions="triggered_average")),
        r"FullGaussian2d\.init_positions: 'triggered_average' is not allowed.*must be 'random'",
    ),
    (Network(nonlinearity="relu"), "no output non-linearity 'relu': use one of elu, "),
    (Network(Pretrained()), "Pretrained names a core but not its architecture"),
]
"""What no data could suit, and why."""

MISFITS: list[tuple[Network, DataConfiguration, dict[str, Any], str, str]] = [
    (
        Network(Factorized3d()), CorrectedAreaLayer(), {"frame_rate": None, "clip_frames": None},
        r"CorrectedAreaLayer\.stimulus: 'images' is not allowed with Factorized3d, .* 15 frames: it must be 'videos'",
        "Factorized3d needs movies, for it filters over 15 frames, which 'a' does not have: use a core for images",
    ),
    (
        Network(Stacked2d(), ConvGRU()), CorrectedAreaLayer(), {"frame_rate": None, "clip_frames": None},
        r"CorrectedAreaLayer\.stimulus: 'images' is not allowed with ConvGRU, .* 'videos', or use NoRecurrence",
        "ConvGRU needs movies, .* which 'a' does not have: use NoRecurrence",
    ),
    (
        Network(Stacked2d(), modulator=History()), CorrectedAreaLayer(), {"frame_rate": None, "clip_frames": None},
        r"CorrectedAreaLayer\.stimulus: 'images' is not allowed with History, .* it must be 'videos', or use MLPGain",
        "History needs movies, .* which 'a' does not have: use MLPGain",
    ),
    (
        Network(Factorized3d()), MovieClips(clip_frames=14), {"clip_frames": 14},
        r"MovieClips\.clip_frames: 14 is not allowed with Factorized3d, .* it must be >= 15, or use shorter temporal",
        "Factorized3d needs clips of more than 14 frames, .* which 'a' does not have",
    ),
    (
        Network(shifter=StaticAffine2d()), MovieClips(pupil="channels"), {"mean_pupil_center": None},
        r"MovieClips\.pupil: 'channels' is not allowed with StaticAffine2d, .* it must be 'apart' or 'both', or use",
        "StaticAffine2d needs the position of the pupil, which no scan has: use NoShifter",
    ),
    (
        Network(modulator=MLPElu()), MovieClips(behavior="none"), {"n_behavior": 0},
        r"MovieClips\.behavior: 'none' is not allowed with MLPElu, .* it must be 'apart' or 'both', or use NoModulator",
        "MLPElu needs behaviour, which no scan has: use NoModulator",
    ),
    (
        Network(recurrent=ConvGRU(opto="gates")), MovieClips(), {"n_opto": 0},
        r"MovieClips\.opto: 'behavior' is not allowed with ConvGRU\.opto: 'gates', .* it must be 'apart', or set opto",
        r"ConvGRU\.opto: 'gates' needs light for the gates, which no scan has: set opto of ConvGRU to 'none'",
    ),
    (
        Network(GaborEnergy()), MovieClips(pupil="both"), {"input_shape": (3, 36, 64), "plane_means": (0.0, 0.0)},
        r"MovieClips\.pupil: 'both' is not allowed with GaborEnergy, which needs inputs of pixels alone: .*'none' or",
        "GaborEnergy needs inputs of pixels alone, which 'a' does not have: use another core",
    ),
]  # fmt: skip
"""Network, data configuration, what it gives, and what is said if the configuration is known, and if it is not."""

LACKING = [
    (
        Network(readout=FullGaussian2d(grid_mean_predictor="cortex")), {"unit_positions": None},
        r"FullGaussian2d\.grid_mean_predictor: 'cortex' needs .* 'a' does not have: enter them in UnitPosition",
    ),
    (
        Network(readout=FullGaussian2d(share="grid")), {"match_ids": None},
        r"FullGaussian2d\.share: 'grid' needs .* no scan has: enter them in UnitMatch .* set it to 'none'",
    ),
    (
        Network(Stacked2d(input_kern=15)), {"input_shape": (1, 14, 64)},
        r"Stacked2d: the core's filters are larger than the 14 x 64 px frames of 'a', which must have at least 15 x 15",
    ),
    (
        Network(CNN(), readout=PointPooled2d()), {},
        r"PointPooled2d\.pool_steps: 2 is not allowed, .* 6 x 13 px cannot be pooled 2 times by 3: it must be <= 1",
    ),
    (Network(GaborEnergy()), {"input_shape": (4, 36, 64)}, "not frames of 4 channels"),
]  # fmt: skip
"""What data lack that no setting of theirs could give."""


@pytest.mark.parametrize(("network", "message"), PARTS_ALONE)
def test_parts_that_suit_no_data_are_refused_alone_and_with_everything(network: Network, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        network.check()
    with pytest.raises(ConfigurationError, match=message):
        build_encoder(network, {"a": FULL}, seed=0)


@pytest.mark.parametrize(("network", "data", "given", "with_data", "without_data"), MISFITS)
def test_the_setting_of_the_data_is_named_where_it_is_known(
    network: Network, data: DataConfiguration, given: dict[str, Any], with_data: str, without_data: str
) -> None:
    network.check()
    refuse_misfits(network, {"a": FULL})
    info = {"a": dataclasses.replace(FULL, **given)}
    with pytest.raises(ConfigurationError, match=with_data):
        refuse_misfits(network, info, data)
    with pytest.raises(ConfigurationError, match=without_data):
        refuse_misfits(network, info)
    with pytest.raises(ConfigurationError, match=without_data):
        build_encoder(network, info, seed=0)


@pytest.mark.parametrize(("network", "given", "message"), LACKING)
def test_what_scans_lack_is_named_whatever_the_settings(network: Network, given: dict[str, Any], message: str) -> None:
    network.check()
    info = {"a": dataclasses.replace(FULL, **given)}
    with pytest.raises(ConfigurationError, match=message):
        refuse_misfits(network, info, MovieClips())
    with pytest.raises(ConfigurationError, match=message):
        build_encoder(network, info, seed=0)


def test_signals_of_one_scan_are_enough_and_movies_must_be_everywhere() -> None:
    bare = dataclasses.replace(FULL, n_behavior=0, mean_pupil_center=None, n_opto=0, match_ids=None)
    network = Network(
        recurrent=ConvGRU(opto="gates"), readout=FullGaussian2d(share="grid"), shifter=MLP(), modulator=MLPGain()
    )
    refuse_misfits(network, {"full": FULL, "bare": bare})
    build_encoder(network, {"full": FULL, "bare": bare}, seed=0)
    with pytest.raises(ConfigurationError, match="MLP needs the position of the pupil, which no scan has"):
        refuse_misfits(network, {"bare": dataclasses.replace(bare, n_opto=1, match_ids=(1, 1))})
    with pytest.raises(ConfigurationError, match=r"Factorized3d needs movies, .* which 'stills' does not have"):
        refuse_misfits(Network(), {"full": FULL, "stills": STILLS})
    with pytest.raises(ConfigurationError, match="same number of input channels"):
        refuse_misfits(Network(), {"full": FULL, "rgb": dataclasses.replace(FULL, input_shape=(3, 36, 64))})


def test_movies_of_unknown_rate_are_movies() -> None:
    refuse_misfits(Network(recurrent=ConvGRU()), {"a": dataclasses.replace(FULL, frame_rate=None)})
    refuse_misfits(Network(Factorized3d(temporal_kernels=(1, 1))), {"a": STILLS})  # filters over a single frame


def test_every_kind_suits_a_scan_that_has_everything() -> None:
    for core in CORES:
        for readout in READOUTS:
            Network(core(), readout=readout()).check()
    for recurrent in RECURRENTS:
        for shifter in SHIFTERS:
            for modulator in MODULATORS:
                Network(recurrent=recurrent(), shifter=shifter(), modulator=modulator()).check()
    for preset in PRESETS.values():
        preset.network.check()
    assert ANYTHING.shows_movies


@pytest.mark.parametrize("kind", CORES, ids=lambda kind: kind.kind())
def test_outlines_have_the_geometry_of_built_cores(kind: Any) -> None:
    before = torch.get_rng_state()
    seen, built = outline(kind(), 1), kind().build(1)
    assert (seen.lost_frames, seen.out_channels, seen.pitch) == (built.lost_frames, built.out_channels, built.pitch)
    for size in ((36, 64), (20, 20), (100, 37)):
        assert seen.out_size(*size) == built.out_size(*size)
        assert seen.first_place(*size) == built.first_place(*size)
    assert all(x.is_meta for x in seen.parameters())
    outline.__wrapped__(kind(), 1)
    torch.set_rng_state(before)
    outline.__wrapped__(kind(), 1)
    assert torch.equal(torch.get_rng_state(), before), "nobody else's random numbers are drawn"


def test_huge_cores_need_no_memory_to_be_looked_at() -> None:
    Network(Basic3d(hidden_channels=(100_000, 100_000)), readout=Attention()).check()  # 10 TB of weights
