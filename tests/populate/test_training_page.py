"""docs/training.md names every loss, and its Python runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.training import Default

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_loss_and_no_other_setting_is_named() -> None:
    losses = Default.__dataclass_fields__["loss"].metadata["setting"].choices
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)[1:] == list(losses)
    code = re.findall(r"`(\w+)(?:=[^`]*)?`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
    others = {
        "Model",
        "ModelSelection",
        "TrainConfig",
        "Epoch",
        "seed",
        "uid",
        "cb",
        "adam",
        "adamw",
        "sgd",
        "PYTHONPATH",
        "transfer",
        "frozen",
    }
    named = {name for name in code if not name.startswith("GENICULATE_")} - others - set(losses)
    assert named <= set(Default.__dataclass_fields__), named - set(Default.__dataclass_fields__)


@pytest.mark.slow
@pytest.mark.database
def test_snippets_run(trained: dict[str, Any]) -> None:
    from schemas import model

    for code in SNIPPETS:
        exec(code, {"key": trained})
    assert len(model.Model.Member() & "member_stopped_by = 'adopted'") >= 1
