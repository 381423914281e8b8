"""The Python of docs/formats.md runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.recordings import Recording

pytestmark = pytest.mark.database


def test_from_a_scan_to_batches(tmp_path: Path) -> None:
    from populate.ingest import ingest

    rng = np.random.default_rng(5)
    source = Recording.from_arrays(
        str(tmp_path / "arrays"),
        images=rng.integers(0, 256, (40, 12, 20), dtype=np.uint8),
        responses=rng.poisson(3.0, (40, 4)).astype(float),
        durations=np.full(40, 0.5),
        areas=["V1", "V1", "LM", "V1"],
        layers=["L2/3", "L2/3", "L2/3", "L4"],
    )
    ingest(source, "m1", 1, 1)
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    info, loaders = names["info"], names["loaders"]
    assert [scan.unit_ids for scan in info.values()] == [(0, 1)]  # type: ignore[attr-defined]
    shapes = [b.images.shape[1:] for by_scan in loaders.values() for loader in by_scan.values() for b in loader]  # type: ignore[attr-defined]
    assert set(shapes) == {(1, 36, 64)}
