"""The command line: help, errors in one sentence, ingest and what follows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.recordings import FORMATS
from pipeline.simulation import SimulationSettings, simulate_dlgn
from populate.cli import app

runner = CliRunner()
COMMANDS = [
    "demo",
    "annotate",
    "work",
    "status",
    "retry",
    "report",
    "server start",
    "server stop",
    "server status",
    "ingest",
    *(f"ingest {name}" for name in FORMATS),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = runner.invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0
    assert len(done.output.splitlines()) > 5


@pytest.mark.parametrize("name", FORMATS)
def test_every_argument_of_every_reader_is_explained(name: str) -> None:
    import inspect

    from populate.ingest_commands import parameter_docs

    reader = FORMATS[name]
    assert reader.source_format == name
    assert reader.example
    explained = parameter_docs(reader)
    assert set(inspect.signature(reader).parameters) == set(explained)
    assert all(len(text) > 10 for text in explained.values())


def test_version_names_the_package() -> None:
    done = runner.invoke(app, ["--version"])
    assert done.exit_code == 0
    assert done.output.startswith("geniculate ")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "recording"
    simulate_dlgn(
        folder, SimulationSettings(n_units=3, n_train=3, n_validation=1, n_test=1, test_repeats=2, scene_seconds=1)
    )
    return folder


def arguments(source: Path, subject: str = "cli") -> list[str]:
    return [
        "ingest", "thesis", "--responses", str(source / "responses.pkl"), "--videos", str(source / "videos"),
        "--behavior", str(source / "resp_behav_df.pkl"), "--subject", subject, "--session", "1", "--scan", "1",
        "--screen", "108x67",
    ]  # fmt: skip


@pytest.mark.database
def test_ingest_then_again_then_damaged(source: Path, tmp_path: Path) -> None:
    from schemas import recording

    first = runner.invoke(app, arguments(source))
    assert first.exit_code == 0, first.output
    assert "Ingested cli-1-1: 3 units, 6 trials, 5 stimuli" in first.output
    scan = (recording.Scan & {"subject": "cli"}).fetch1()
    assert (scan["screen_width_deg"], scan["screen_height_deg"]) == (108.0, 67.0)

    second = runner.invoke(app, arguments(source))
    assert second.exit_code == 0
    assert "nothing was written" in second.output

    missing = runner.invoke(
        app, [a if a != str(source / "videos") else str(tmp_path) for a in arguments(source, "cli2")]
    )
    assert missing.exit_code == 1
    assert "Error:" in missing.stderr
    assert "scene-" in missing.stderr
    assert "Traceback" not in missing.output
    assert not len(recording.Scan & {"subject": "cli2"})


@pytest.mark.database
@pytest.mark.parametrize("screen", ["wide", "108", "0x67", "108x-67", "nanx67", "infx67"])
def test_bad_screen_is_refused_with_an_example(source: Path, screen: str) -> None:
    done = runner.invoke(app, [*arguments(source, "cli3")[:-1], screen])
    assert done.exit_code == 1
    assert "108x67" in done.stderr


@pytest.mark.database
def test_status_and_retry_speak_of_every_table() -> None:
    from populate.work import COMPUTED

    done = runner.invoke(app, ["status"])
    assert done.exit_code == 0, done.output
    assert all(table.__name__ in done.output for table in COMPUTED)
    assert runner.invoke(app, ["retry"]).exit_code == 0


@pytest.mark.database
def test_report_without_a_model_says_what_to_do() -> None:
    done = runner.invoke(app, ["report", "--group", "987654"])
    assert done.exit_code == 1
    assert "geniculate work" in done.stderr


@pytest.mark.database
def test_report_before_the_analysis_says_what_to_do(trained: dict[str, object], tmp_path: Path) -> None:
    from schemas import model
    from schemas.analysis import ReadoutAnalysis

    if len(ReadoutAnalysis & trained):
        (ReadoutAnalysis & trained).delete(prompt=False)
    assert len(model.Model & trained) == 1
    done = runner.invoke(app, ["report", "--group", str(trained["group_id"]), "--output", str(tmp_path / "page.html")])
    assert done.exit_code == 1
    assert "ReadoutAnalysis" in done.stderr
    assert "geniculate work" in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_undefined_scores_are_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd
    from rich.console import Console

    from populate.cli import _frame

    columns = {"core": "C", "seed": 1, "validation_correlation": [0.25, None], "test_correlation": [None, 0.5]}
    Console(width=100).print(_frame(pd.DataFrame({**columns, "model_epochs": 2}, index=[0, 1]), "Models"))
    shown = capsys.readouterr().out
    assert shown.count("undefined") == 2
    assert "0.250" in shown
    assert "nan" not in shown


@pytest.mark.slow
@pytest.mark.database
def test_new_failures_are_told_while_watching_and_old_ones_once(
    scan: dict[str, object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from populate import work
    from populate.cli import _work_once
    from schemas import config
    from schemas.dataset import Dataset
    from schemas.recording import Scan

    monkeypatch.setattr(work, "COMPUTED", (Dataset,))  # not what other tests left to train
    told: set[str] = set()
    _work_once(told, quiet=True)
    jobs = Dataset().jobs
    for job in jobs.errors.to_dicts():  # of scans that other tests have broken
        jobs.update1({**{name: job[name] for name in jobs.primary_key}, "status": "ignore"})
    capsys.readouterr()
    fingerprint = (Scan & scan).fetch1("source_fingerprint")
    (odd,) = config.PreprocessingConfig.Movie.fill(frame_rate=7.0, height=4, width=9)
    Scan.update1({**scan, "source_fingerprint": "changed"})
    try:
        assert _work_once(told, quiet=True)
        assert "has changed" in " ".join(capsys.readouterr().out.split())
        assert _work_once(told, quiet=True)
        assert "has changed" not in " ".join(capsys.readouterr().out.split())
    finally:
        Scan.update1({**scan, "source_fingerprint": fingerprint})
        (jobs & odd).delete_quick()
        jobs.ignored.delete_quick()
        (config.PreprocessingConfig & odd).delete(prompt=False)
