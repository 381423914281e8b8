"""Run a small demo in a process of its own, for tests that watch, double or kill it: demo_process.py HOME."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from pipeline.datasets.clips import MovieClips
from pipeline.mei.settings import Movie as MovieMEI
from pipeline.models import MLP, Factorized3d, FullGaussian2d, MLPGain, Network
from pipeline.simulation import SimulationSettings
from pipeline.training import Default


def tiny_plan():
    """The demo's own steps on a recording that takes seconds."""
    from populate.demo import DemoPlan

    def network(linear: bool) -> Network:
        core = Factorized3d(hidden_channels=(4,), spatial_kernels=(7,), temporal_kernels=(9,), linear=linear)
        readout = FullGaussian2d(init_positions="triggered_average", init_sigma=0.03)
        return Network(core=core, readout=readout, shifter=MLP(), modulator=MLPGain())

    return DemoPlan(
        simulation=SimulationSettings(
            n_units=6, n_train=8, n_validation=2, n_test=2, test_repeats=4, scene_seconds=2.0
        ),
        data=MovieClips(clip_frames=40),
        networks=(network(False), network(True)),
        trainer=Default(batch_size=4, lr_init=0.01, max_epochs=3),
        mei=MovieMEI(norm=10.0, iterations=8),
    )


if __name__ == "__main__":
    from populate.demo import run_demo

    console = Console(file=sys.stdout, width=200)
    done = run_demo(Path(sys.argv[1]), console, tiny_plan())
    print(json.dumps({"computed": done.computed, "test": done.test_correlation, "report": str(done.report)}))
