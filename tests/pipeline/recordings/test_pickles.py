"""Tables load whatever pandas wrote them, and nothing in a file is ever run."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import RecordingError
from pipeline.recordings.thesis.pickles import read_pickled_frame

HERE = Path(__file__).parent
STORED = sorted((HERE / "tables").glob("*.pkl"))


def expected_table() -> pd.DataFrame:
    spec = importlib.util.spec_from_file_location("write_tables", HERE / "write_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.table()


def same(left: object, right: object) -> bool:
    if isinstance(left, list | np.ndarray):
        return np.array_equal(left, right)
    if pd.isna(left):
        return bool(pd.isna(right))
    return left == right


def test_tables_of_four_versions_are_stored():
    versions = {path.name.split("_")[1] for path in STORED}
    assert versions == {"1.0.5", "1.5.3", "2.2.3", "3.1.1"}


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_reads_every_value_of_each_pandas_version(path):
    if path.stem.startswith("pandas_3") and int(pd.__version__.split(".")[0]) < 3:
        with pytest.raises(RecordingError, match="update pandas"):
            read_pickled_frame(path)
        return
    expected, table = expected_table(), read_pickled_frame(path)
    if path.stem.endswith("_selected"):
        expected, table = expected[expected["u"] == 9], table.reset_index()
    assert sorted(table.columns) == sorted(expected.columns)
    assert len(table) == len(expected)
    for column in expected.columns:
        assert all(map(same, expected[column], table[column])), column


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_round_trip_of_every_protocol(tmp_path, protocol):
    table = expected_table()
    table.to_pickle(tmp_path / "t.pkl", protocol=protocol)
    again = read_pickled_frame(tmp_path / "t.pkl")
    for column in table.columns:
        assert all(map(same, table[column], again[column])), column


class Attack:
    """Unpickles into a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "argument", "named"),
    [
        (os.system, "touch {}", "system"),
        (subprocess.check_output, ["touch", "{}"], "subprocess.check_output"),
        (eval, "open('{}', 'w')", "builtins.eval"),
        (pd.eval, "1", "pandas"),
        (pd.read_pickle, "{}", "pandas"),
        (getattr, "{}", "builtins.getattr"),
        (np.load, "{}", "numpy.load"),
        (importlib.import_module, "os", "importlib.import_module"),
        (pickle.loads, b"", "pickle.loads"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_foreign_call_is_named_and_not_made(tmp_path, function, argument, named):
    mark, path = tmp_path / "mark", tmp_path / "attack.pkl"
    if isinstance(argument, str):
        argument = argument.format(mark)
    elif isinstance(argument, list):
        argument = [part.format(mark) for part in argument]
    pd.DataFrame({"a": [Attack(function, argument)]}).to_pickle(path)
    with pytest.raises(RecordingError, match=named) as caught:
        read_pickled_frame(path)
    assert str(path) in str(caught.value)
    assert not mark.exists()


def test_the_attack_would_have_worked(tmp_path):
    """The attack above is real: an ordinary unpickler falls for it."""
    path = tmp_path / "attack.pkl"
    pd.DataFrame({"a": [Attack(os.mkdir, str(tmp_path / "mark"))]}).to_pickle(path)
    with path.open("rb") as file:
        pickle.load(file)
    assert (tmp_path / "mark").exists()


def test_attributes_of_allowed_modules_are_out_of_reach(tmp_path):
    """Dotted names (protocol 4) must not walk from an allowed class to something else."""
    path = tmp_path / "dotted.pkl"
    for name in ("DataFrame.query", "DataFrame.to_pickle", "core.frame.DataFrame.eval", "io.pickle.read_pickle"):
        path.write_bytes(b"\x80\x04\x8c\x06pandas\x8c" + bytes([len(name)]) + name.encode() + b"\x93.")
        with pytest.raises(RecordingError, match=f"pandas.{name}"):
            read_pickled_frame(path)


def test_missing_file(tmp_path):
    with pytest.raises(RecordingError, match=r"no_such\.pkl: no such file"):
        read_pickled_frame(tmp_path / "no_such.pkl")


@pytest.mark.parametrize("content", [b"", b"not a pickle at all", b"m,s,e,u\n1,2,3,4\n", b"\x80\x04"])
def test_no_pickle(tmp_path, content):
    (tmp_path / "t.pkl").write_bytes(content)
    with pytest.raises(RecordingError, match=r"t\.pkl is (no pickle|damaged)"):
        read_pickled_frame(tmp_path / "t.pkl")


def test_every_truncation_is_refused(tmp_path):
    whole = (HERE / "tables" / "pandas_3.1.1_protocol_4.pkl").read_bytes()
    for length in range(1, len(whole) - 1, 97):
        (tmp_path / "t.pkl").write_bytes(whole[:length])
        with pytest.raises(RecordingError, match=r"t\.pkl"):
            read_pickled_frame(tmp_path / "t.pkl")


def test_something_else_than_a_table(tmp_path):
    (tmp_path / "t.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(RecordingError, match=r"t\.pkl holds a dict, not a pandas DataFrame"):
        read_pickled_frame(tmp_path / "t.pkl")


def test_arrow_strings_with_gaps_offsets_and_wrong_lengths(tmp_path):
    """A written-out Arrow layout: validity bits, ends, text; ends beyond the text must not read foreign memory."""
    from pipeline.recordings.thesis.pickles import _arrow_strings

    ends = np.array([0, 1, 1, 3, 6], "<i8").tobytes()
    assert _arrow_strings(("large_string", 4, 1, 0, [b"\x0d", ends, b"abcdef"], [], None)) == ["a", None, "bc", "def"]
    assert _arrow_strings(("large_string", 2, 0, 2, [None, ends, b"abcdef"], [], None)) == ["bc", "def"]
    assert _arrow_strings(("string", 0, 0, 0, [None, None, None], [], None)) == []
    with pytest.raises(pickle.UnpicklingError, match="shorter than it says"):
        _arrow_strings(("large_string", 9, 0, 0, [None, ends, b"abcdef"], [], None))
