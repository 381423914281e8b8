"""The benchmark of MEIs compares what is equal, and tells so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import OURS
from benchmarks.mei import QUICK, Case, gaps, loop
from benchmarks.networks import DATA_KEY
from pipeline.mei.engine import find_meis

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", QUICK)
def test_the_loop_does_what_ours_does(name: str) -> None:
    case = Case(QUICK[name], iterations=6)
    encoder = case.encoder()
    ours = find_meis(encoder, DATA_KEY, encoder.data_info[DATA_KEY], [7, 2], case.settings())
    run = loop(case)
    for i, unit in enumerate([7, 2]):
        responses = list(run(unit))
        assert len(responses) == 7 and max(responses) > responses[0]
        assert ours.trajectory[i] == pytest.approx(responses, rel=1e-3, abs=1e-4)
    assert gaps(case, 2)["activation_gap"] < 1e-3


@pytest.mark.slow
def test_the_command_writes_its_figures(tmp_path: Path) -> None:
    path = tmp_path / "mei.json"
    command = [sys.executable, "-m", "benchmarks", "mei", "--quick", "--levers", "--no-memory", "--repetitions", "1"]
    subprocess.run([*command, "--json", str(path)], check=True, cwd=ROOT, capture_output=True)
    found = json.loads(path.read_text())
    figures = found["figures"]
    assert OURS == "ours" and found["name"] == "mei"
    for part in ("images", "movies"):
        loop_seconds, seconds = (figures[f"{part}_seconds_per_unit{suffix}"] for suffix in ("_loop", ""))
        assert figures[f"{part}_ratio_loop"] == pytest.approx(loop_seconds / seconds)
        assert figures[f"{part}_activation_gap"] < 0.01
        assert figures[f"{part}_seconds_per_unit_all_units"] > 0 < figures[f"{part}_seconds_per_unit_whole_frames"]
    assert len(found["targets"]) == 5
