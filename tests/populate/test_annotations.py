"""Areas, layers, positions and matches: from the source, from a table, and never contradicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.errors import RecordingError

pytestmark = pytest.mark.database
Key = dict[str, Any]

TABLE = """unit_id,area,layer,x,y,z
1,dLGN,core,1.5,-2,300
2,dLGN,,,,
4,LP,4,0,0,0
"""


def known(scan: Key) -> tuple[dict[int, str], dict[int, str], dict[int, tuple[float, ...]]]:
    from schemas import recording

    areas = {r["unit_id"]: r["brain_area"] for r in (recording.AreaMembership & scan).to_dicts()}
    layers = {r["unit_id"]: r["layer"] for r in (recording.LayerMembership & scan).to_dicts()}
    places = {r["unit_id"]: (r["unit_x"], r["unit_y"], r["unit_z"]) for r in (recording.UnitPosition & scan).to_dicts()}
    return areas, layers, places


@pytest.fixture
def fresh(simulated: Path, open_simulated: Any, request: pytest.FixtureRequest) -> Key:
    from populate.ingest import ingest

    return ingest(open_simulated(simulated), f"annotated-{abs(hash(request.node.name)) % 10**8}", 1, 1).key


def test_a_table_is_entered_and_the_same_again_is_nothing_new(fresh: Key, tmp_path: Path) -> None:
    from populate.annotations import annotate_from_csv

    (tmp_path / "units.csv").write_text(TABLE)
    assert annotate_from_csv(fresh, tmp_path / "units.csv") == 3 + 2 + 2
    wanted = {1: "dLGN", 2: "dLGN", 4: "LP"}, {1: "core", 4: "4"}, {1: (1.5, -2.0, 300.0), 4: (0.0, 0.0, 0.0)}
    assert known(fresh) == wanted
    assert annotate_from_csv(fresh, tmp_path / "units.csv") == 0
    (tmp_path / "more.csv").write_text("unit_name,layer\nm0001_s01_e01_u03,shell\n")
    assert annotate_from_csv(fresh, tmp_path / "more.csv") == 1
    assert known(fresh)[1] == {1: "core", 3: "shell", 4: "4"}


def test_matches_reach_the_table_of_units_that_loaders_see(fresh: Key, tmp_path: Path) -> None:
    from populate.annotations import annotate_from_csv
    from schemas.dataset import _unit_table

    assert _unit_table(fresh).matches_of([1]) is None
    (tmp_path / "units.csv").write_text("unit_id,match_id,area\n1,30,LP\n2,,LP\n4,0,\n5,30,\n")
    assert annotate_from_csv(fresh, tmp_path / "units.csv") == 3 + 2
    assert annotate_from_csv(fresh, tmp_path / "units.csv") == 0
    assert _unit_table(fresh).matches_of([5, 4, 2, 1]) == (30, 0, None, 30)
    (tmp_path / "other.csv").write_text("unit_id,match_id\n2,7\n5,7\n")
    with pytest.raises(RecordingError, match=r"unit 5 .* has \{'match_id': 30\} already"):
        annotate_from_csv(fresh, tmp_path / "other.csv")
    assert _unit_table(fresh).matches_of([2]) is None


def test_positions_reach_the_table_of_units_that_loaders_see(fresh: Key, tmp_path: Path) -> None:
    from populate.annotations import annotate_from_csv
    from schemas.dataset import _unit_table

    assert _unit_table(fresh).positions_of([1]) is None
    (tmp_path / "units.csv").write_text(TABLE)
    annotate_from_csv(fresh, tmp_path / "units.csv")
    table = _unit_table(fresh)
    assert table.positions_of([4, 1]) == ((0.0, 0.0, 0.0), (1.5, -2.0, 300.0))
    assert table.positions_of([1, 2]) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("unit_id,area\n1,dLGN\n9,LP\n", "line 3: unit_id '9' is not in scan"),
        ("unit_id,area\n1,dLGN\n1,LP\n", "names unit_id '1' twice"),
        ("unit_id,aera\n1,dLGN\n", "has the columns unit_id, aera: it needs"),
        ("area,layer\ndLGN,4\n", "it needs unit_id or unit_name"),
        ("unit_id,x,y,z\n1,2,3,\n", "line 2: position 2, 3, : give x, y and z"),
        ("unit_id,x,y\n1,2,3\n", "give x, y and z as numbers"),
        ("unit_id,match_id\n1,3\n2,1.5\n", "line 3: match_id '1.5' is no whole number from 0 to 2147483647"),
        ("unit_id,match_id\n1,2147483648\n", "match_id '2147483648' is no whole number"),
        ("", "cannot be read as a CSV"),
    ],
)
def test_a_doubtful_table_is_refused_whole(fresh: Key, tmp_path: Path, text: str, complaint: str) -> None:
    from populate.annotations import annotate_from_csv

    (tmp_path / "units.csv").write_text(text)
    with pytest.raises(RecordingError, match=complaint):
        annotate_from_csv(fresh, tmp_path / "units.csv")
    assert known(fresh) == ({}, {}, {})


def test_what_is_known_is_not_contradicted(fresh: Key, tmp_path: Path) -> None:
    from populate.annotations import annotate_from_csv

    (tmp_path / "units.csv").write_text(TABLE)
    annotate_from_csv(fresh, tmp_path / "units.csv")
    before = known(fresh)
    (tmp_path / "other.csv").write_text("unit_id,area\n3,dLGN\n4,dLGN\n")
    with pytest.raises(RecordingError, match=r"unit 4 .* has \{'brain_area': 'LP'\} already"):
        annotate_from_csv(fresh, tmp_path / "other.csv")
    assert known(fresh) == before


def test_the_command(fresh: Key, tmp_path: Path) -> None:
    from populate.cli import app

    (tmp_path / "units.csv").write_text(TABLE)
    named = ["--subject", fresh["subject"], "--session", "1", "--scan", "1"]
    done = CliRunner().invoke(app, ["annotate", str(tmp_path / "units.csv"), *named])
    assert done.exit_code == 0, done.output
    assert "7 annotations" in done.output
    missing = CliRunner().invoke(app, ["annotate", str(tmp_path / "nowhere.csv"), *named])
    assert missing.exit_code == 1
    assert "nowhere.csv cannot be read" in missing.stderr
