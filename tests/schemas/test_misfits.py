"""Networks of no sense are refused when they are entered, misfits when they are selected; nothing is written then."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.datasets.clips import MovieClips
from pipeline.datasets.images import CorrectedAreaLayer
from pipeline.errors import ConfigurationError
from pipeline.models import (
    MLP,
    ConvGRU,
    Factorized3d,
    FullGaussian2d,
    History,
    MLPGain,
    Network,
    NoRecurrence,
    NoShifter,
    PointPooled2d,
    Stacked2d,
)
from pipeline.models.cores import Depthwise3d, GaborEnergy, Pretrained
from pipeline.models.function import Function
from pipeline.models.needs import NetworkPart
from pipeline.presets import PRESETS

Key = dict[str, Any]
POOLED = Depthwise3d(pool=True, momentum=0.123)
SMALL = Factorized3d(hidden_channels=(2,), spatial_kernels=(5,), temporal_kernels=(5,), momentum=0.124)
PLAIN = Stacked2d(layers=1, input_kern=5, momentum=0.124)


def rows() -> dict[str, int]:
    """The number of rows in all tables that a network or a selection could be written to."""
    from schemas import config
    from schemas.model import ModelSelection

    masters = [*config.PART_TABLES.values(), config.NetworkConfig]
    parts = [master.part_of(kind) for master in masters for kind in master.kinds]
    return {table.__name__: len(table()) for table in (*masters, *parts, ModelSelection)}


@contextmanager
def refused(message: str) -> Iterator[None]:
    """Something is refused with a message, and writes nothing."""
    before = rows()
    with pytest.raises(ConfigurationError, match=message):
        yield
    assert rows() == before


def added(*parts: NetworkPart) -> Key:
    """The keys of parts, which make sense each by itself, to be joined to a row."""
    from schemas import config

    keys: Key = {}
    for part in parts:
        (table,) = (table for table in config.PART_TABLES.values() if type(part) in table.kinds)
        keys |= table.add(part)
    return keys


SENSELESS = {
    "pool_steps": (
        Network(POOLED, readout=PointPooled2d(pool_steps=2, init_range=0.123)),
        r"PointPooled2d\.pool_steps: 2 is not allowed, .* it must be <= 0",
    ),
    "shifter": (Network(POOLED, shifter=MLP(gamma_shifter=0.123)), "MLP shifts places, .* only one: use NoShifter"),
    "init_positions": (
        Network(POOLED, readout=FullGaussian2d(init_positions="triggered_average", init_sigma=0.123)),
        r"FullGaussian2d\.init_positions: 'triggered_average' is not allowed.* it must be 'random'",
    ),
    "nonlinearity": (Network(SMALL, nonlinearity="relu"), r"CorePlusReadout\.nonlinearity: 'relu' is not allowed"),
    "source_network_hash": (
        Network(Pretrained(source_network_hash="abc")),
        r"Pretrained\.source_network_hash: 'abc' is not allowed, it must be that of a network",
    ),
    "core": (Network(MLP()), "CoreConfig has no kind 'MLP': it has Basic3d"),
}  # fmt: skip


@pytest.mark.parametrize("name", SENSELESS)
def test_networks_of_no_sense_are_refused_with_their_parts(name: str) -> None:
    from schemas import config

    network, message = SENSELESS[name]
    with refused(message):
        config.NetworkConfig.add(network)


@pytest.mark.parametrize("name", ["pool_steps", "shifter", "init_positions", "source_network_hash"])
def test_rows_and_products_of_no_sense_are_refused_whole(name: str) -> None:
    from schemas import config

    network, message = SENSELESS[name]
    senseless, sensible = added(*network.parts()), added(SMALL, *network.parts()[1:])
    joined = config.NetworkConfig.CorePlusReadout
    with refused(message):
        joined.insert1(senseless)
    with refused(message):
        joined.insert([sensible, senseless])
    with refused(message):
        config.NetworkConfig.add(config.CorePlusReadout(**senseless))
    hashes = [[{n: keys[n]} for keys in (sensible, senseless)] for n in senseless]
    with refused(message):
        config.NetworkConfig.fill(hashes[0], *([keys[0]] for keys in hashes[1:]))  # the first core makes sense
    with refused("no core is given: give keys of CoreConfig"):
        config.NetworkConfig.fill(hashes[2], hashes[3])


def test_values_of_products_are_refused_before_the_first_is_written() -> None:
    from schemas import config

    for wrong in (0, 2**31 + 1):
        with refused(r"Stacked2d\.hidden_kern"):
            config.CoreConfig.Stacked2d.fill(hidden_kern=[5, wrong], momentum=0.1234)


def test_pretrained_cores_must_be_what_was_trained() -> None:
    from schemas import config

    source = config.NetworkConfig.add(Network(SMALL))
    pretrained = Pretrained(source_network_hash=source["network_hash"])
    with refused("the core beside a pretrained one, a Stacked2d, is not that which was trained, a Factorized3d"):
        config.NetworkConfig.add(Network(PLAIN, pretrained=pretrained))
    key = config.NetworkConfig.add(Network(SMALL, pretrained=pretrained))
    assert config.NetworkConfig.add(Network(pretrained)) == key
    assert config.NetworkConfig.load_network(key) == Network(SMALL, pretrained=pretrained)
    foreign = config.NetworkConfig.add(Function("laboratory.linear", '{"frames": 123}'))
    with refused(r"the network of laboratory\.linear cannot give its core to another"):
        config.NetworkConfig.add(Network(Pretrained(source_network_hash=foreign["network_hash"])))
    with refused(r"Pretrained\.source_seed: -5 is not allowed, it must be >= 0"):
        config.CoreConfig.Pretrained.insert1({"source_seed": -5})


def test_published_networks_are_let_in() -> None:
    from schemas import config

    there = config.NetworkConfig().keys()
    for name, published in PRESETS.items():
        key = config.add_preset(name)
        assert config.NetworkConfig.load_network(key) == published.network
    (config.NetworkConfig - there).delete(prompt=False)  # recipes of other tests count the networks of their parts


MOVIE_MISFITS = {
    "clip_frames": (
        Network(SMALL), MovieClips(clip_frames=4),
        r"MovieClips\.clip_frames: 4 is not allowed with Factorized3d, .* it must be >= 5, or use shorter temporal",
    ),
    "pupil": (
        Network(SMALL, shifter=MLP()), MovieClips(clip_frames=40, pupil="channels"),
        r"MovieClips\.pupil: 'channels' is not allowed with MLP, .* it must be 'apart' or 'both', or use NoShifter",
    ),
    "behavior": (
        Network(SMALL, modulator=MLPGain()), MovieClips(clip_frames=40, behavior="none", opto="none"),
        r"MovieClips\.behavior: 'none' is not allowed with MLPGain, .* 'apart' or 'both', or use NoModulator",
    ),
    "opto": (
        Network(SMALL, ConvGRU(opto="gates")), MovieClips(clip_frames=40, opto="channels"),
        r"MovieClips\.opto: 'channels' is not allowed with ConvGRU\.opto: 'gates', .* it must be 'apart', or set opto",
    ),
    "planes": (
        Network(GaborEnergy(wavelengths=(4.0,))), MovieClips(clip_frames=40, behavior="channels"),
        r"MovieClips\.behavior: 'channels' is not allowed with GaborEnergy, .* it must be 'none' or 'apart', or use",
    ),
    "frame": (
        Network(dataclasses.replace(PLAIN, input_kern=18)), MovieClips(clip_frames=40),
        r"Stacked2d: .* larger than the 17 x 27 px frames of 'tiny-1-1-.*', which must have at least 18 x 18",
    ),
    "pool_steps": (
        Network(PLAIN, readout=PointPooled2d(pool_steps=3)), MovieClips(clip_frames=40),
        r"PointPooled2d\.pool_steps: 3 is not allowed, .* 13 x 23 px cannot be pooled 3 times by 3: it must be <= 2",
    ),
    "grid_mean_predictor": (
        Network(SMALL, readout=FullGaussian2d(grid_mean_predictor="cortex")), MovieClips(clip_frames=40),
        r"FullGaussian2d\.grid_mean_predictor: 'cortex' needs .* 'tiny-1-1-.*' does not have: enter them in UnitPos",
    ),
    "share": (
        Network(SMALL, readout=FullGaussian2d(share="both")), MovieClips(clip_frames=40),
        r"FullGaussian2d\.share: 'both' needs .* no scan has: enter them in UnitMatch",
    ),
}  # fmt: skip
"""What the tiny scan, of movies with running, pupil and light, does not suit."""

IMAGE_MISFITS = {
    "stimulus": (
        Network(SMALL),
        "'images' is not allowed with Factorized3d, .* over 5 frames: it must be 'videos', or",
    ),
    "recurrent": (
        Network(PLAIN, ConvGRU(hidden_channels=2)),
        "'images' is not allowed with ConvGRU, .* it must be 'videos', or use NoRecurrence",
    ),
    "shifter": (Network(PLAIN, shifter=MLP()), "MLP needs the position of the pupil, which no scan has: use NoShifter"),
    "modulator": (Network(PLAIN, modulator=MLPGain()), "MLPGain needs behaviour, which no scan has: use NoModulator"),
    "history": (Network(PLAIN, modulator=History()), "History needs behaviour, which no scan has: use NoModulator"),
}
"""What the still images, without any signal, do not suit."""


def require_refusal(wanted: Key, network: Network, message: str) -> None:
    """A selection is refused, with one that fits and by itself, by fill and as a row."""
    from schemas import config, model

    (trainer,) = config.TrainConfig.Default.fill(max_epochs=1, lr_init=0.0123)
    fits = config.NetworkConfig.add(Network(PLAIN, NoRecurrence(), FullGaussian2d(), NoShifter()))
    wanted = {**wanted, **trainer, "seed": 1009}
    misfit = config.NetworkConfig.add(network)
    with refused(rf"{message}.*group_id {wanted['group_id']}, data_hash .*1 of 2 combinations .* nothing was selected"):
        model.ModelSelection.fill(wanted, [fits, misfit])
    row = {**wanted, **misfit, "selection_priority": 5}
    with refused(message):
        model.ModelSelection.insert1(row)
    with refused(message):
        model.ModelSelection.insert([{**row, **fits}, row])


@pytest.mark.parametrize("name", MOVIE_MISFITS)
def test_misfits_of_movies_are_refused_when_they_are_selected(group: Key, name: str) -> None:
    from schemas import config

    network, data, message = MOVIE_MISFITS[name]
    require_refusal({**group, **config.DataConfig.add(data)}, network, message)


@pytest.mark.parametrize("name", IMAGE_MISFITS)
def test_misfits_of_images_are_refused_when_they_are_selected(stored_images: Key, name: str) -> None:
    from schemas import config, dataset

    network, message = IMAGE_MISFITS[name]
    wanted = {**dataset.MultiDataset.fill(stored_images, "misfits"), **config.DataConfig.add(CorrectedAreaLayer())}
    require_refusal(wanted, network, message)


def test_cores_are_used_again_on_as_many_channels(group: Key) -> None:
    from schemas import config, model

    (trainer,) = config.TrainConfig.Default.fill(max_epochs=1, lr_init=0.0124)
    source = config.NetworkConfig.add(Network(SMALL))
    data = config.DataConfig.add(MovieClips(clip_frames=40, pupil="channels"))
    names = {f"source_{name}": value for name, value in {**group, **source, **trainer, "seed": 1009}.items()}
    again = config.NetworkConfig.add(Network(Pretrained(**names)))
    wanted = {**group, **again, **trainer, "seed": 1009}
    with refused(r"Pretrained\.source_data_hash: .* knows inputs of 1 channels, and these have 3: choose data of 1"):
        model.ModelSelection.fill({**wanted, **data})
    assert model.ModelSelection.fill(wanted) == 1
    (model.ModelSelection & wanted).delete(prompt=False)
    with refused("MultiDataset has no group_id 123456"):
        model.ModelSelection.insert1({**wanted, "group_id": 123456, "selection_priority": 5})
    images = config.DataConfig.add(CorrectedAreaLayer())
    of_group = {"group_id": group["group_id"]}
    assert model.ModelSelection.fill(of_group, images, source, trainer) == 0, "what does not fit groups is left out"
    with refused("CorrectedAreaLayer is for images, but the dataset of tiny-1-1-.* holds videos: use MovieClips"):
        model.ModelSelection.insert1({**wanted, **source, **images, "selection_priority": 5})
    with refused("NetworkConfig has no network_hash 'abc'"):
        model.ModelSelection.insert1({**wanted, "network_hash": "abc", "selection_priority": 5})


def known(info: Any) -> dict[str, Any]:
    """What can be foreseen of the data information."""
    scans = {}
    for data_key, scan in info.items():
        scans[data_key] = {
            **{n: getattr(scan, n) for n in ("unit_ids", "input_shape", "n_behavior", "frame_rate", "clip_frames")},
            **{n: getattr(scan, n) is None for n in ("mean_pupil_center", "unit_positions", "match_ids")},
            "planes": len(scan.plane_means),
            "light": scan.n_opto > 0,
        }
    return scans


def test_what_is_foreseen_is_what_loaders_say(group: Key, stored_images: Key) -> None:
    from schemas import config, dataset
    from schemas.misfits import foresee

    kinds: list[tuple[Key, Any]] = [
        (group, MovieClips(clip_frames=40, behavior=behavior, pupil=pupil, opto=opto))
        for behavior, pupil, opto in (
            ("apart", "apart", "behavior"), ("both", "channels", "channels"), ("none", "both", "apart"),
            ("channels", "none", "none"), ("none", "none", "behavior"),
        )
    ]  # fmt: skip
    kinds.append((dataset.MultiDataset.fill(stored_images, "misfits"), CorrectedAreaLayer(behavior="both")))
    for chosen, data in kinds:
        found = known(foresee(chosen["group_id"], data))
        assert found == known(dataset.get_data_info({**chosen, **config.DataConfig.add(data)}))
