"""docs/meis.md names every kind and table, and its Python runs as it is printed."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.analysis.selection import SELECTION_KINDS
from pipeline.analysis.settings import FIELD_KINDS, TRIGGERED_KINDS, TUNING_KINDS
from pipeline.mei.analyses import MEI_ANALYSES
from pipeline.mei.masks import MASK_KINDS
from pipeline.mei.settings import MEI_KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "meis.md").read_text(encoding="utf-8")
Key = dict[str, Any]
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_kind_is_named() -> None:
    in_table = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(in_table) == sorted(kind.kind() for kind in MEI_KINDS)
    for kind in (*MASK_KINDS, *MEI_ANALYSES, *FIELD_KINDS, *TRIGGERED_KINDS, *TUNING_KINDS, *SELECTION_KINDS):
        assert f"`{kind.kind()}`" in PAGE


def test_figures_that_are_named_are_there() -> None:
    last = PAGE[PAGE.rindex("```") :]
    modules = [importlib.import_module(f"pipeline.figures.{name}") for name in ("meis", "mei_gallery", "mei_analysis")]
    modules += [importlib.import_module(f"pipeline.figures.{name}") for name in ("fields", "tuning")]
    names = [name for name in re.findall(r"`(\w+)`", last) if f"`{name}`)" not in last]
    assert len(names) >= 8
    for name in names:
        assert any(hasattr(module, name) for module in modules), name


@pytest.mark.slow
@pytest.mark.database
def test_tables_that_are_named_are_all_that_are_computed_of_models(scan: Any) -> None:
    from populate.work import COMPUTED

    in_table = re.findall(r"^\| `(\w+)\.(\w+)` \|", PAGE, re.MULTILINE)
    computed = [(table.__module__.removeprefix("schemas."), table.__name__) for table in COMPUTED]
    assert sorted(in_table) == sorted(names for names in computed if names[0] not in ("dataset", "model"))


@pytest.fixture(scope="module")
def key(group: Key, network: Key) -> Key:
    """A model on data of its own, so that what is asked for here is in nobody's way."""
    from schemas import config, model

    (data,) = config.DataConfig.MovieClips.fill(clip_frames=36)
    (trainer,) = config.TrainConfig.Default.fill(max_epochs=3, batch_size=4, lr_init=0.05)
    made = {**group, **data, **network, **trainer, "seed": 1009}
    model.ModelSelection.fill(made)
    model.Model.populate(made)
    return made


@pytest.mark.slow
@pytest.mark.database
def test_snippets_run(key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from schemas import mei_analysis, mei_exchange, receptive_field, selection, tuning

    monkeypatch.chdir(tmp_path)
    names: Key = {}
    for code in SNIPPETS:
        names = {"key": key}  # each stands on its own
        exec(code, names)
        if "matrix" in names:
            assert names["matrix"].shape == (3, 3)
    assert (tmp_path / "meis.gif").read_bytes() == names["gif"]
    for part in (
        mei_analysis.TightMEIMask.Unit,
        mei_analysis.GaussianMaskFit.Unit,
        mei_analysis.MEIContrast.Unit,
        mei_analysis.BestNaturalStimulus.Unit,
        mei_analysis.OptimalGabor.Unit,
        mei_exchange.TransplantedMEI.Unit,
        mei_exchange.MEIConfusion.Unit,
        receptive_field.GradientReceptiveField.Unit,
        tuning.UnitTuning.Grating,
    ):
        assert len(part & key) >= 3, part.__name__
    assert len(selection.HighUnitSelection & {"data_hash": key["data_hash"]}) == 1
