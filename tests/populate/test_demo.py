"""The demo at small scale: what it must reach, again, side by side, and killed at every step."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.database

PROCESS = Path(__file__).with_name("demo_process.py")
STEPS = 7
READ_EVERYTHING = """
import hashlib, json
import numpy as np
from populate.schema_map import tables
from schemas import dataset, mei, model
rows = {name: len(table()) for name, (_, table) in tables().items()}
weights = [hashlib.sha256(w.read()).hexdigest() for w in model.Model().to_arrays('model_weights', order_by='KEY')]
movies = mei.MEI.Unit().to_arrays('mei_movie', order_by='KEY')
movies = [hashlib.sha256(np.asarray(movie).tobytes()).hexdigest() for movie in movies]
scores = model.Model.UnitScore().to_arrays('single_trial_correlation', order_by='KEY').tolist()
oracle = dataset.Oracle.Unit().to_arrays('oracle_correlation', order_by='KEY').tolist()
print(json.dumps([rows, weights, movies, scores, oracle]))
"""


def environment(prefix: str) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "GENICULATE_PREFIX": prefix, "PYTHONPATH": root}


def start(home: Path, prefix: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", str(PROCESS), str(home)]
    return subprocess.Popen(command, env=environment(prefix), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict:
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, output + errors
    return json.loads(output.splitlines()[-1])


def read_everything(prefix: str) -> list:
    command = [sys.executable, "-c", READ_EVERYTHING]
    done = subprocess.run(command, env=environment(prefix), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def prefix() -> str:
    # It begins with the run's own prefix, so its schemas are dropped with the others at the end.
    return f"{os.environ['GENICULATE_PREFIX']}_{secrets.token_hex(3)}"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list]:
    """One demo that nothing disturbed: what it printed, and how many rows it made and its results."""
    prefix = f"{os.environ['GENICULATE_PREFIX']}_ref"
    printed = finish(start(tmp_path_factory.mktemp("reference"), prefix))
    return printed, read_everything(prefix)


@pytest.mark.slow
def test_two_demos_side_by_side_compute_no_key_twice(tmp_path: Path, prefix: str, reference: tuple) -> None:
    printed, results = reference
    both = [start(tmp_path, prefix), start(tmp_path, prefix)]
    done = [finish(process) for process in both]
    assert sum(one["computed"] for one in done) == printed["computed"]
    assert read_everything(prefix) == results
    again = finish(start(tmp_path, prefix))
    assert again["computed"] == 0


@pytest.mark.slow
def test_a_demo_killed_at_every_step_ends_in_the_same_rows(tmp_path: Path, prefix: str, reference: tuple) -> None:
    _, results = reference
    for step in range(1, STEPS + 1):
        process = start(tmp_path, prefix)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"{step}  "):
                break
        else:
            pytest.fail(f"step {step} was never reached: {process.communicate()[1]}")
        process.kill()
        process.communicate()
    finish(start(tmp_path, prefix))
    assert read_everything(prefix) == results


def run_readme(names: dict) -> None:
    """Run the Python of the README as it is printed, up to the training of eight models."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    exec(blocks[0], names)
    before = len(names["model"].ModelSelection())
    exec(blocks[1].split("model.Model.populate")[0], names)
    assert len(names["model"].ModelSelection()) == before + 8
    exec(blocks[1][blocks[1].index("linear = ") :], names)
    exec(blocks[2].replace("m0123", "small"), names)
    assert len(names["model"].ModelSelection()) == before + 12


def run_notebook(names: dict) -> None:
    """Run the code of the notebook, without the lines that only Jupyter understands."""
    text = (Path(__file__).parents[2] / "notebooks" / "first_steps.ipynb").read_text(encoding="utf-8")
    sources = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert len(sources) == 8
    for lines in sources:
        exec("".join(line for line in lines if not line.startswith("%")), names)


@pytest.mark.slow
def test_the_model_reaches_the_oracle_and_meis_find_the_receptive_fields(tmp_path: Path) -> None:
    from dataclasses import replace

    from rich.console import Console

    from pipeline.simulation import SimulationSettings
    from populate.demo import DemoPlan, queries, run_demo, well_predicted

    plan = DemoPlan()
    small = replace(
        plan,
        simulation=SimulationSettings(n_units=10, n_train=40, n_validation=4, n_test=4, test_repeats=6),
        scan={"subject": "small", "session": 1, "scan_idx": 1},
        networks=plan.networks[:1],
    )
    result = run_demo(tmp_path, Console(quiet=True), small)
    assert result.test_correlation >= 0.8 * result.oracle
    correlations = result.meis.correlations
    assert correlations is not None
    assert len(correlations) == len(well_predicted(result.scan)) >= 8
    assert np.mean(correlations > 0.7) >= 0.8
    page = result.report.read_text(encoding="utf-8")
    assert "<svg" in page or "data:image" in page
    for title in ("Predictions", "Scores", "Readouts", "Most exciting inputs", "Tables"):
        assert f">{title}<" in page
    names: dict = {}
    exec(queries(result.key), names)  # what a user is told to type next must run
    assert len(names["movies"]) == len(correlations)
    run_readme(names={})
    run_notebook(names={})
