"""Opening and converting need as much memory for a large recording as for a small one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scans import Scan, file_tree

ROOT = Path(__file__).resolve().parents[3]
MIB = 2**20

CONVERT = """
import resource, sys
from pathlib import Path
from benchmarks.harness import one_core
from benchmarks.ingest import convert_recording, open_scan
one_core()
convert_recording(open_scan(Path(sys.argv[1])), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def peak(tree: Path) -> float:
    """Return the highest resident memory (MiB) of a process that opens and converts a recording."""
    command = [sys.executable, "-c", CONVERT, str(tree), str(tree.with_suffix(".stored"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) / MIB


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    """Both recordings are larger than all that waits to be written."""
    sizes = (40, 160)
    small, large = (Scan(trials, units=1000, frames=300) for trials in sizes)
    found = [peak(file_tree(scan, tmp_path / str(scan.trials))) for scan in (small, large)]
    assert np.diff([small.bytes, large.bytes]) / MIB > 200
    assert found[1] - found[0] < 40
