"""Configuration tables: columns from dataclasses, nothing wrong gets in, everything comes back as it was."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import datajoint as dj
import pytest

from pipeline.analysis.settings import FIELD_KINDS, TRIGGERED_KINDS, TUNING_KINDS
from pipeline.configuration import Configuration
from pipeline.datasets.loaders import DATA_KINDS
from pipeline.datasets.preprocessing import PREPROCESSINGS
from pipeline.errors import ConfigurationError
from pipeline.mei.settings import MEI_KINDS
from pipeline.models import (
    CORES,
    MLP,
    MODULATORS,
    READOUTS,
    RECURRENTS,
    SHIFTERS,
    ConvGRU,
    Factorized3d,
    FullGaussian2d,
    MLPGain,
    Network,
)
from pipeline.training import TRAINERS

KINDS = {
    "CoreConfig": CORES,
    "RecurrentConfig": RECURRENTS,
    "ReadoutConfig": READOUTS,
    "ShifterConfig": SHIFTERS,
    "ModulatorConfig": MODULATORS,
    "DataConfig": DATA_KINDS,
    "PreprocessingConfig": PREPROCESSINGS,
    "TrainConfig": TRAINERS,
    "MEIConfig": MEI_KINDS,
    "FieldConfig": FIELD_KINDS,
    "TriggeredConfig": TRIGGERED_KINDS,
    "TuningConfig": TUNING_KINDS,
}
every_kind = pytest.mark.parametrize(
    ("master", "kind"), [pytest.param(m, k, id=f"{m}.{k.__name__}") for m, kinds in KINDS.items() for k in kinds]
)
SERVER_TYPES = {
    "postgresql": {bool: "boolean", int: "integer", float: "double precision", str: "character varying"},
    "mysql": {bool: "tinyint", int: "int", float: "double", str: "varchar"},
}


def table_of(master: str) -> Any:
    from schemas import config

    return getattr(config, master)


@every_kind
def test_columns_have_the_types_of_the_settings(master: str, kind: type[Configuration]) -> None:
    part = table_of(master).part_of(kind)()
    rows = part.connection.query(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
        "WHERE table_schema = %s AND table_name = %s",
        (part.database, part.table_name),
    ).fetchall()
    on_server = {row[0]: (row[1], row[2] == "YES") for row in rows if not row[0].startswith("_")}
    types = SERVER_TYPES[part.connection.adapter.backend]
    expected = {table_of(master).hash_name: (types[str], False)}
    for name, (wanted, optional) in kind.field_types().items():
        expected[name] = (types[str if typing.get_origin(wanted) is tuple else wanted], optional)
    assert on_server == expected


NEEDED = {
    "unit_exclude_n": {"unit_n": 3},
    "elu_shift": {"nonlinearity_type": "AdaptiveELU"},
    "embedding": {"heads": 1},
    "heads": {"embedding": 60},
}
"""Settings without which others make no sense."""


def variants(kind: type[Configuration]) -> Iterator[Configuration]:
    """One configuration a setting that has another than its default value there, and hard floats where allowed."""
    for name, (wanted, optional) in kind.field_types().items():
        default = getattr(kind(), name)
        choices = kind.__dataclass_fields__[name].metadata["setting"].choices
        if typing.get_origin(wanted) is tuple:
            candidates = [tuple(value + 2 for value in default)]
        elif wanted is bool:
            candidates = [not default]
        elif wanted is str:
            free = ("V1", "inputs", "math.sqrt", '{"a": [1, "b"]}')
            candidates = [choice for choice in choices or free if choice != default]
        elif wanted is int:
            candidates = [(default or 0) + 1, 2**31 - 1]
        else:
            candidates = [0.1 + 0.2, 1 / 3, 99.9, 1e-300, 1.7976931348623157e308]
        candidates += [None] if optional and default is not None else []
        made = 0
        for value in candidates:
            try:
                changed = dataclasses.replace(kind(), **{name: value}, **NEEDED.get(name, {}))
            except ConfigurationError:
                continue
            made += 1
            yield changed
        assert made or len(choices) == 1, f"no other value of {name} is allowed"


@every_kind
def test_comes_back_equal(master: str, kind: type[Configuration]) -> None:
    table = table_of(master)
    for config in [kind(), *variants(kind)]:
        key = table.add(config)
        loaded = table.load(key)
        assert loaded == config
        assert loaded.hash() == config.hash() == key[table.hash_name]
        assert (table & key).fetch1(table.hash_name.replace("_hash", "_kind")) == kind.kind()
        assert len(table.part_of(kind) & key) == 1


def test_restricts_by_a_setting() -> None:
    cores = table_of("CoreConfig")
    plain = cores.add(Factorized3d(momentum=0.21))
    linear = cores.add(Factorized3d(momentum=0.21, linear=True))
    wide = cores.add(Factorized3d(momentum=0.21, hidden_channels=(7, 9)))
    mine = cores.Factorized3d & {"momentum": 0.21}
    assert (mine & {"linear": True}).keys() == [linear]
    assert (mine & {"linear": False, "hidden_channels": "[7, 9]"}).keys() == [wide]
    assert len(mine & [{"linear": True}, {"hidden_channels": "[16, 16]"}]) == 2
    assert (mine & {"hidden_channels": (7, 9)}).keys() == (mine & [{"hidden_channels": [7, 9.0]}]).keys() == [wide]
    assert wide not in (mine - {"hidden_channels": "[7,9]"}).keys()
    assert len(mine - {"hidden_channels": (7, 9)}) == 2
    both = dj.AndList([{"hidden_channels": (16, 16), "linear": True}, "momentum > 0.2"])  # MySQL reserves LINEAR
    assert (mine & both).keys() == [linear]
    with pytest.raises(ConfigurationError, match="hidden_channels: 7 is not a sequence"):
        mine & {"hidden_channels": 7}
    assert (mine - {"linear": True} - wide).keys() == [plain]
    everything = cores & [cores.Factorized3d & {"linear": True}, cores.Stacked2d & {"layers": 999}]
    assert linear in everything.keys()
    assert plain not in everything.keys()


def counts() -> tuple[int, int]:
    cores = table_of("CoreConfig")
    return len(cores()), len(cores.Stacked2d())


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"hiden_kern": 7}, "no setting 'hiden_kern': did you mean 'hidden_kern'"),
        ({"hidden_kern": 0}, r"Stacked2d\.hidden_kern: 0 is not allowed, it must be >= 1"),
        ({"hidden_kern": 2**31 + 1}, r"Stacked2d\.hidden_kern: 2147483649"),
        ({"hidden_kern": 7.5}, r"Stacked2d\.hidden_kern: 7.5 is not int"),
        ({"momentum": float("nan")}, r"Stacked2d\.momentum: nan is not float"),
        ({"linear": "yes"}, r"Stacked2d\.linear: 'yes' is not bool"),
        ({"core_hash": "0" * 64}, "core_hash '000.*' is not the hash of these settings"),
    ],
)
def test_wrong_settings_are_refused_and_nothing_is_written(row: dict[str, Any], complaint: str) -> None:
    stacked = table_of("CoreConfig").Stacked2d
    before = counts()
    with pytest.raises(ConfigurationError, match=complaint):
        stacked.insert1(row)
    with pytest.raises(ConfigurationError, match=complaint):
        stacked.insert([{"input_kern": 77}, row])  # the first row is right, and new
    if "core_hash" not in row:
        with pytest.raises(ConfigurationError, match=complaint):
            stacked.fill(**row)
    assert counts() == before


def test_a_network_of_unknown_parts_leaves_nothing() -> None:
    from schemas import config

    before = len(config.NetworkConfig())
    with pytest.raises(ConfigurationError, match="CoreConfig has no core_hash '0000"):
        config.NetworkConfig.add(config.CorePlusReadout(core_hash="0" * 64))
    assert len(config.NetworkConfig()) == before


def test_text_longer_than_its_column_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Factorized3d\.hidden_channels: its text has \d+ characters"):
        table_of("CoreConfig").Factorized3d.fill(
            hidden_channels=(1000,) * 50, spatial_kernels=(3,) * 50, temporal_kernels=(3,) * 50
        )


def test_rows_get_in_with_and_without_their_hash() -> None:
    stacked = table_of("CoreConfig").Stacked2d
    stacked.insert1({"input_kern": 19})
    (key,) = (stacked & {"input_kern": 19}).keys()
    stacked.insert([{**key, "input_kern": 19}, {"input_kern": 21}])
    assert len(stacked & "input_kern in (19, 21)") == 2
    assert table_of("CoreConfig").load(key).input_kern == 19


def test_nothing_changes_or_stands_alone() -> None:
    cores = table_of("CoreConfig")
    key = cores.add(Factorized3d())
    with pytest.raises(ConfigurationError, match="never changes"):
        cores.Factorized3d.update1({**key, "linear": True})
    with pytest.raises(ConfigurationError, match="CoreConfig: use add"):
        cores.insert1({"core_hash": "f" * 64, "core_kind": "Factorized3d"})
    with pytest.raises(ConfigurationError, match=r"CoreConfig has no kind 'MLP'.*Factorized3d.*Stacked2d"):
        cores.add(MLP())
    with pytest.raises(ConfigurationError, match="CoreConfig has no core_hash 'ffff"):
        cores.load({"core_hash": "f" * 64})
    assert cores.load(key) == Factorized3d()
    assert not len(cores & {"core_hash": "f" * 64})


def test_fill_adds_the_product_once() -> None:
    stacked = table_of("CoreConfig").Stacked2d
    before = counts()
    keys = stacked.fill(hidden_kern=[13, 15, 17], layers=[5, 6], linear=[True, False], momentum=0.37)
    assert len({key["core_hash"] for key in keys}) == 12
    assert stacked.fill(hidden_kern=[13, 15, 17], layers=[5, 6], linear=[True, False], momentum=0.37) == keys
    assert counts() == (before[0] + 12, before[1] + 12)
    assert len(stacked & {"momentum": 0.37} & "hidden_kern = 15" & {"linear": True}) == 2


ADD = """
from pipeline.models import Stacked2d
from schemas.config import CoreConfig
print("ready", flush=True); input()
print(len([CoreConfig.add(Stacked2d(hidden_channels=n)) for n in range(500, 540)]))
"""


@pytest.mark.slow
def test_two_processes_add_the_same_at_once(together: Any) -> None:
    before = counts()
    assert together(ADD, ADD) == ["40", "40"]
    assert counts() == (before[0] + 40, before[1] + 40)


def test_networks_come_back_with_all_their_parts() -> None:
    networks = table_of("NetworkConfig")
    made = Network(
        Factorized3d(hidden_channels=(3, 5), momentum=1 / 7),
        ConvGRU(hidden_channels=6),
        FullGaussian2d(gamma_readout=0.1 + 0.2),
        MLP(layers=2),
        MLPGain(hidden_channels=4),
        nonlinearity="elu",
    )
    key = networks.add(made)
    assert networks.load_network(key) == made
    assert networks.add(made) == key
    joined = (networks.CorePlusReadout & key).fetch1()
    assert joined["core_hash"] == made.core.hash()
    assert len(networks.CorePlusReadout * table_of("CoreConfig").Factorized3d & key & {"momentum": 1 / 7}) == 1


def test_networks_fill_joins_every_combination() -> None:
    from schemas import config

    cores = config.CoreConfig.Factorized3d.fill(linear=[False, True], momentum=[0.41, 0.42])
    keys = config.NetworkConfig.fill(
        cores,
        config.RecurrentConfig.NoRecurrence.fill(),
        config.ReadoutConfig.FullGaussian2d.fill(gamma_readout=[0.5, 0.6, 0.7]),
        config.ShifterConfig.NoShifter.fill(),
        config.ModulatorConfig.NoModulator.fill(),
    )
    assert len({key["network_hash"] for key in keys}) == 12
    assert {config.NetworkConfig.load_network(key).core.momentum for key in keys} == {0.41, 0.42}
    readouts = [config.ReadoutConfig.FullGaussian2d & {"gamma_readout": gamma} for gamma in (0.5, 0.6)]
    others = (config.RecurrentConfig.NoRecurrence, config.ModulatorConfig.NoModulator.fill()[0])
    mine = config.CoreConfig.Factorized3d & {"linear": True} & "momentum > 0.405" & "momentum < 0.43"
    by_queries = config.NetworkConfig.fill(mine, readouts, *others, config.ShifterConfig.NoShifter())
    assert len(by_queries) == 4
    assert {key["network_hash"] for key in by_queries} < {key["network_hash"] for key in keys}
    with pytest.raises(ConfigurationError, match="no shifter is given: give keys of ShifterConfig"):
        config.NetworkConfig.fill(mine, readouts, *others)
    assert config.NetworkConfig.fill(mine & "momentum > 9", readouts, *others) == []
    with pytest.raises(ConfigurationError, match="no setting 'core_hsh'"):
        config.NetworkConfig.CorePlusReadout.insert1({"core_hsh": cores[0]["core_hash"]})
    with pytest.raises(ConfigurationError, match=r"CorePlusReadout\.nonlinearity: 'relu' is not allowed"):
        config.NetworkConfig.add(Network(nonlinearity="relu"))


def test_settings_are_explained_in_full() -> None:
    cores = table_of("CoreConfig")
    every, stacked = cores.explain(), cores.explain("Stacked2d")
    assert list(every["kind"].unique()) == [kind.kind() for kind in cores.kinds]
    assert stacked.equals(cores.Stacked2d.explain())
    assert stacked.equals(every[every["kind"] == "Stacked2d"].reset_index(drop=True))
    (row,) = stacked[stacked["setting"] == "hidden_padding"].to_dict("records")
    meaning = "zeros around the maps in the other layers; None for those that keep their size"
    assert row == {
        "kind": "Stacked2d", "setting": "hidden_padding", "type": "int or None", "default": None, "unit": "px",
        "allowed": ">= 0", "meaning": meaning,
    }  # fmt: skip
    assert meaning in repr(stacked)
    shown = every._repr_html_()
    assert meaning in shown and shown.count("<tr>") == len(every)
    assert table_of("ShifterConfig").explain("NoShifter")["meaning"].tolist() == ["has no settings"]
    with pytest.raises(ConfigurationError, match="CoreConfig has no kind 'stacked2d': it has Basic3d"):
        cores.explain("stacked2d")
