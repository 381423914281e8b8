"""docs/models.md names every kind there is, no others, and its Python runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.models import CORES, MODULATORS, READOUTS, RECURRENTS, SHIFTERS
from pipeline.models.cores import Pretrained
from pipeline.models.nonlinearities import NONLINEARITIES

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_tables_have_one_line_for_every_kind() -> None:
    named = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    registered = [*CORES, Pretrained, *RECURRENTS, *READOUTS, *SHIFTERS, *MODULATORS]
    assert sorted(named) == sorted(kind.kind() for kind in registered)
    assert all(f"`{name}`" in PAGE for name in NONLINEARITIES)


def test_cores_are_said_to_be_for_what_they_are_for() -> None:
    meant = dict(re.findall(r"^\| `(\w+)` \|.*\| (images|movies) \|$", PAGE, re.MULTILINE))
    for kind in CORES:
        assert meant[kind.kind()] == ("movies" if kind().build(1).lost_frames else "images")


@pytest.mark.parametrize("code", [code for code in SNIPPETS if "from schemas" not in code])
def test_snippets_without_tables_run(code: str) -> None:
    exec(code, {})


@pytest.mark.slow
@pytest.mark.database
def test_snippets_with_tables_run(trained: dict[str, Any]) -> None:
    with_tables = [code for code in SNIPPETS if "from schemas" in code and "core_candidates" not in code]
    assert len(with_tables) == 3
    for code in with_tables:
        names: dict[str, Any] = {"key": trained}
        exec(code, names)
        if "networks" in names:
            from schemas import config

            loaded = config.NetworkConfig.load_network(names["networks"][0])
            assert loaded.pretrained.frozen
            assert loaded.core == config.NetworkConfig.load_network(trained).core


@pytest.mark.database
def test_the_recipe_of_staticnet_plans_as_many_models_as_it_says(stored_images: dict[str, Any]) -> None:
    from schemas.dataset import MultiDataset
    from schemas.model import ModelSelection

    (recipe,) = (code for code in SNIPPETS if "core_candidates" in code)
    group = MultiDataset.fill(stored_images, "the recipe of the page on models")
    exec(recipe, {"group": group})
    assert len(ModelSelection & group) == 64
    (ModelSelection & group).delete_quick()  # nobody here wants to train them
