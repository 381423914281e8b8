"""What holds of every kind that is registered, whatever its part: ranges, units, meanings, hashes."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.analysis.settings import FIELD_KINDS, TRIGGERED_KINDS, TUNING_KINDS
from pipeline.configuration import Configuration
from pipeline.datasets.loaders import DATA_KINDS
from pipeline.datasets.preprocessing import PREPROCESSINGS
from pipeline.errors import ConfigurationError
from pipeline.mei.analyses import MEI_ANALYSES
from pipeline.mei.masks import MASK_KINDS
from pipeline.mei.settings import MEI_KINDS
from pipeline.models import CORES, MLP, MODULATORS, READOUTS, RECURRENTS, SHIFTERS, NoShifter
from pipeline.models.cores import Pretrained
from pipeline.models.function import Function
from pipeline.training import TRAINERS


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        (NoShifter(), "a803f1c0d4828fc3d5feee8d8df3c24f82e3f2d8cca5c00ae12c180823140e54"),
        (MLP(), "e4b9d5109cd67cd6b057472931e73093ff60c4fbb18efb4c3822cf39aff3330b"),
    ],
)
def test_hashes_of_published_kinds_stay(kind: Configuration, digest: str) -> None:
    assert kind.hash() == digest


def test_arguments_of_functions_have_one_hash_if_and_only_if_they_are_equal() -> None:
    texts = ['{"a": 1}', '{"a": 1.0}', '{"a": true}', '{"a": "1"}', '{"a": [1]}', '{"a": null}', '{"b": 1}', "{}"]
    assert len({Function("f.g", text).hash() for text in texts}) == len(texts)
    same = ['{"a": 1, "b": {"c": 2, "d": [3]}}', '{ "b": {"d": [3], "c": 2},\n"a": 1 }']
    assert len({Function("f.g", text).hash() for text in same}) == 1
    assert Function("f.g", "{}").hash() != Function("f.h", "{}").hash()


PARTS_OF_MODELS = (*CORES, Pretrained, *RECURRENTS, *READOUTS, *SHIFTERS, *MODULATORS, Function)
REGISTERED = (
    *PARTS_OF_MODELS,
    *DATA_KINDS,
    *PREPROCESSINGS,
    *TRAINERS,
    *MEI_KINDS,
    *MASK_KINDS,
    *MEI_ANALYSES,
    *FIELD_KINDS,
    *TRIGGERED_KINDS,
    *TUNING_KINDS,
)
every_kind = pytest.mark.parametrize("kind", REGISTERED, ids=lambda kind: f"{kind.__module__}.{kind.kind()}")


def outside(kind: type[Configuration]) -> Iterator[tuple[str, Any, str]]:
    """Every field with a range, a value just outside of it, and how the range is named."""
    for name, (wanted, _) in kind.field_types().items():
        known = kind.__dataclass_fields__[name].metadata["setting"]
        ranges = ((">=", known.ge, -1), (">", known.gt, 0), ("<=", known.le, 1), ("<", known.lt, 0))
        for sign, bound, step in ranges:
            if bound is not None:
                sequence = typing.get_origin(wanted) is tuple
                value = (typing.get_args(wanted)[0] if sequence else wanted)(bound + step)
                yield name, (value,) if sequence else value, f"it must be {sign} {bound:g}"


@every_kind
def test_values_outside_their_range_are_refused_by_name_and_range(kind: type[Configuration]) -> None:
    for name, value, limit in outside(kind):
        with pytest.raises(ConfigurationError) as caught:
            kind.from_dict({name: value})
        assert str(caught.value).startswith(f"{kind.kind()}.{name}: {value!r} is not allowed, {limit} (")


def test_ranges_were_found() -> None:
    assert sum(len(list(outside(kind))) for kind in REGISTERED) > 150


MEASURED = re.compile(
    r"kern(el)?s?$|patch|strides?$|pool(ing|_kern)?$|padding$|dilations?$|sigma|frames$|height|width|wavelength|"
    r"duration|offset$|rate$|rise$|decay$|init_(mu_)?range|bandwidth|crop"
)
COUNTED = {"min_rise", "weight_decay", "ema_decay"}
"""Neither lengths nor times, whatever their names."""


@every_kind
def test_every_setting_says_what_it_means_and_every_length_and_time_its_unit(kind: type[Configuration]) -> None:
    for name, (wanted, _) in kind.field_types().items():
        known = kind.__dataclass_fields__[name].metadata["setting"]
        assert len(known.doc) >= 5, f"{name} has no meaning"
        number = wanted in (int, float) or typing.get_origin(wanted) is tuple
        if number and MEASURED.search(name) and name not in COUNTED:
            assert known.unit, f"{name} has no unit"


@every_kind
def test_descriptions_say_all_that_is_known(kind: type[Configuration]) -> None:
    rows = {row["setting"]: row for row in kind.description()}
    assert list(rows) == list(kind.field_types())
    for name, row in rows.items():
        known = kind.__dataclass_fields__[name].metadata["setting"]
        assert (row["meaning"], row["unit"], row["default"]) == (known.doc, known.unit, getattr(kind(), name))
