from __future__ import annotations

import doctest
import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import configuration
from pipeline.configuration import Configuration, setting
from pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class Kind(Configuration):
    """Every type that a setting can have."""

    flag: bool = setting(True, "a switch")
    count: int = setting(3, "how many", ge=1, le=9)
    width: float = setting(0.5, "how wide", unit="px", gt=0, lt=10)
    mode: str = setting("plain", "which way", choices=("plain", "fancy", "1"))
    sizes: tuple[int, ...] = setting((1, 2), "sides", unit="px", ge=1)
    scales: tuple[float, ...] = setting((), "factors")
    limit: float | None = setting(None, "upper limit", gt=0)


@dataclass(frozen=True)
class Number(Configuration):
    value: int = setting(1, "a whole number")


@dataclass(frozen=True)
class Real(Configuration):
    value: float = setting(1.0, "a number")


@dataclass(frozen=True)
class Text(Configuration):
    value: str = setting("1", "a text")


@dataclass(frozen=True)
class Switch(Configuration):
    value: bool = setting(True, "a switch")


def test_the_examples_in_the_documentation_hold() -> None:
    result = doctest.testmod(configuration)
    assert result.attempted >= 5
    assert result.failed == 0


def test_canonical_json_and_hash_by_hand() -> None:
    text = (
        '{"kind":"Kind","settings":{"count":3,"flag":true,"limit":null,"mode":"plain",'
        '"scales":[],"sizes":[1,2],"width":0.5}}'
    )
    assert Kind().canonical_json() == text
    assert Kind().hash() == hashlib.sha256(text.encode()).hexdigest()


def test_equal_configurations_have_one_hash_however_they_were_written() -> None:
    same = [
        Kind(width=2, limit=4, sizes=(3, 5), scales=(0, 1)),
        Kind(width=2.0, limit=4.0, sizes=[3, 5], scales=[-0.0, 1.0]),  # type: ignore[arg-type]
        Kind(width=np.float64(2), limit=np.int32(4), sizes="[3, 5]", scales="[0, 1]"),  # type: ignore[arg-type]
        Kind(flag=1, count=3.0, width=np.int64(2), limit=4, sizes=np.array([3.0, 5.0]), scales=np.array([0, 1])),  # type: ignore[arg-type]
        Kind.from_dict(json.loads(Kind(width=2, limit=4, sizes=(3, 5), scales=(0, 1)).canonical_json())["settings"]),
    ]
    assert len({c.hash() for c in same}) == 1
    assert len(set(same)) == 1
    assert [type(v) for v in same[3].settings().values()] == [bool, int, float, str, tuple, tuple, float]
    assert {type(v) for v in same[3].sizes} == {int}
    assert math.copysign(1, Real(-0.0).value) == 1


def test_the_hash_tells_types_and_kinds_apart() -> None:
    assert len({c.hash() for c in (Number(1), Real(1.0), Text("1"), Switch(True))}) == 4
    values = {c.canonical_json().split('"value":')[1] for c in (Number(1), Real(1.0), Text("1"), Switch(True))}
    assert values == {"1}}", "1.0}}", '"1"}}', "true}}"}


def test_any_change_of_a_setting_changes_the_hash() -> None:
    changed = [
        Kind(), Kind(flag=False), Kind(count=4), Kind(width=0.5000001), Kind(mode="fancy"), Kind(sizes=(2, 1)),
        Kind(sizes=(1,)), Kind(scales=(1.0,)), Kind(limit=1),
    ]  # fmt: skip
    assert len({c.hash() for c in changed}) == len(changed)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("count", 0, "Kind.count: 0 is not allowed, it must be >= 1 (how many)"),
        ("count", 10, "it must be <= 9"),
        ("count", True, "Kind.count: True is not int"),
        ("count", 2.5, "Kind.count: 2.5 is not int"),
        ("count", "3", "Kind.count: '3' is not int"),
        ("count", None, "Kind.count: None is not int"),
        ("width", 0, "Kind.width: 0.0 is not allowed, it must be > 0 (how wide, px)"),
        ("width", 10, "it must be < 10"),
        ("width", math.nan, "Kind.width: nan is not float"),
        ("width", math.inf, "Kind.width: inf is not float"),
        ("width", False, "Kind.width: False is not float"),
        ("flag", 2, "Kind.flag: 2 is not bool"),
        ("flag", "true", "Kind.flag: 'true' is not bool"),
        ("mode", "odd", "it must be one of 'plain', 'fancy', '1' (which way)"),
        ("mode", 1, "Kind.mode: 1 is not str"),
        ("sizes", (1, 0), "Kind.sizes: (1, 0) is not allowed, it must be >= 1"),
        ("sizes", 3, "Kind.sizes: 3 is not a sequence (sides, px)"),
        ("sizes", "3", "Kind.sizes: 3 is not a sequence"),
        ("sizes", "3, 5", "Kind.sizes: '3, 5' is not a sequence in JSON"),
        ("sizes", "[1.5]", "Kind.sizes: 1.5 is not int"),
        ("limit", -1, "Kind.limit: -1.0 is not allowed, it must be > 0"),
    ],
)
def test_wrong_values_are_refused_by_name(field: str, value: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Kind(**{field: value})
    assert complaint in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("count", 1), ("count", 9), ("width", 9.999), ("limit", None)])
def test_limits_that_are_included_are_allowed(field: str, value: Any) -> None:
    assert getattr(Kind(**{field: value}), field) == value


def test_unknown_settings_suggest_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="Kind has no setting 'widht': did you mean 'width'"):
        Kind.from_dict({"widht": 1})
    with pytest.raises(ConfigurationError, match="Number has no setting 'zzz': it has value"):
        Number.from_dict({"zzz": 1})


def test_product_gives_every_combination_once_and_in_order() -> None:
    made = list(Kind.product(count=[1, 2], sizes=[(1,), (3, 3)], width=4))
    assert [(c.count, c.sizes, c.width) for c in made] == [
        (1, (1,), 4.0), (1, (3, 3), 4.0), (2, (1,), 4.0), (2, (3, 3), 4.0),
    ]  # fmt: skip
    assert list(Kind.product()) == [Kind()]
    with pytest.raises(ConfigurationError, match="did you mean 'count'"):
        list(Kind.product(counts=[1]))


def test_field_types_name_the_scalar_and_whether_none_is_allowed() -> None:
    assert Kind.field_types() == {
        "flag": (bool, False), "count": (int, False), "width": (float, False), "mode": (str, False),
        "sizes": (tuple[int, ...], False), "scales": (tuple[float, ...], False), "limit": (float, True),
    }  # fmt: skip


ODD = Kind(False, 9, 0.1 + 0.2, "fancy", (2**31 - 1, 1), (1e-300, 1e22, 1 / 3, 5e-324), 123456789.123)
GOLDEN = [
    (Kind(), "b6894f8f54ce94d523cbd1895893bb6a3465be57ee9c1c2fba02217a78fd308a"),
    (ODD, "bfaa64f2288a8e3e7011a94740c2ce0a2fe91aea4ee710821fe66075b23747f3"),
    (Text('Grün "µ" ∞ 🧠\n'), "eca4c5cf27c2bb91087316bccb40d87d6c5af947e1f857a49364b2881223d778"),
]


@pytest.mark.parametrize(("config", "digest"), GOLDEN, ids=lambda value: type(value).__name__)
def test_hashes_are_those_of_all_versions_of_python(config: Configuration, digest: str) -> None:
    assert config.hash() == digest


def test_hashes_are_the_same_in_another_process_and_in_any_order_of_fields() -> None:
    code = (
        "import json, sys; from test_configuration import Kind, ODD; "
        "given = json.loads(sys.argv[1]); print(Kind().hash(), ODD.hash(), Kind.from_dict(given).hash())"
    )
    backwards = json.dumps(dict(reversed(ODD.settings().items())))
    here = Path(__file__).parent
    for seed in ("0", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}"}
        found = subprocess.run(
            [sys.executable, "-c", code, backwards], env=environment, capture_output=True, text=True, check=True
        )
        assert found.stdout.split() == [Kind().hash(), ODD.hash(), ODD.hash()]


def test_another_default_leaves_the_hash_of_written_settings() -> None:
    old, new = (
        make_dataclass("Blur", [("sigma", float, setting(default, "std"))], bases=(Configuration,), frozen=True)
        for default in (1.0, 2.0)
    )
    row = old().settings()
    assert new.from_dict(row).hash() == old().hash()
    assert new().hash() != old().hash()


def test_a_description_by_hand() -> None:
    rows = {row.pop("setting"): row for row in Kind.description()}
    assert rows["count"] == {"type": "int", "default": 3, "unit": "", "allowed": ">= 1, <= 9", "meaning": "how many"}
    assert rows["width"] == {
        "type": "float",
        "default": 0.5,
        "unit": "px",
        "allowed": "> 0, < 10",
        "meaning": "how wide",
    }
    assert [rows[name]["type"] for name in ("flag", "mode", "sizes", "scales", "limit")] == [
        "bool", "str", "ints", "floats", "float or None",
    ]  # fmt: skip
    assert [rows[name]["allowed"] for name in ("flag", "mode", "scales")] == ["", "'plain', 'fancy', '1'", ""]
