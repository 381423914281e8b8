"""The whole pipeline on a simulated recording: what a laboratory would do, step by step, with a known truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from rich.console import Console

from pipeline.configuration import Configuration
from pipeline.datasets.clips import MovieClips
from pipeline.datasets.preprocessing import Movie
from pipeline.mei.settings import Movie as MovieMEI
from pipeline.metrics import mean_of_defined
from pipeline.models import MLP, Factorized3d, FullGaussian2d, MLPGain, Network
from pipeline.recordings import open_recording
from pipeline.simulation import GroundTruth, SimulationSettings, load_ground_truth, simulate_dlgn
from pipeline.training import Default
from populate.ingest import ingest
from populate.report import write_report
from populate.results import MEIResults, ScanResults, best_model, mei_results, scan_results
from populate.work import populate_all
from schemas import analysis, config, dataset, mei, model, recording
from schemas.progress import bar

Key = dict[str, Any]

SCREEN_DEG = (108.0, 67.0)
SCAN = {"subject": "simulated", "session": 1, "scan_idx": 1}
WELL_PREDICTED = 0.8


def _network(linear: bool) -> Network:
    return Network(
        core=Factorized3d(
            hidden_channels=(12,),
            spatial_kernels=(13,),
            temporal_kernels=(15,),
            gamma_input_spatial=100.0,
            gamma_input_temporal=1.0,
            linear=linear,
        ),
        readout=FullGaussian2d(init_positions="triggered_average", init_sigma=0.03),
        shifter=MLP(),
        modulator=MLPGain(),
    )


@dataclass(frozen=True)
class DemoPlan:
    """What the demo does; the default takes a few minutes on two cores.

    Attributes
    ----------
    simulation : SimulationSettings
    scan : dict
        Key of the scan.
    preprocessing, data, trainer, mei : Configuration
    networks : tuple of Network
        To be compared: an encoder with an ELU after its filters, and the linearised one.
    seeds : tuple of int
        Of the trainings of each network.
    """

    simulation: SimulationSettings = SimulationSettings()
    scan: Key = field(default_factory=lambda: dict(SCAN))
    preprocessing: Configuration = Movie()
    data: Configuration = MovieClips(clip_frames=60)
    networks: tuple[Network, ...] = (_network(linear=False), _network(linear=True))
    trainer: Configuration = Default(batch_size=4, lr_init=0.01, max_epochs=9, patience=1, lr_decay_steps=2)
    mei: Configuration = MovieMEI(norm=10.0, iterations=60, blur_space=1.5, blur_time=0.7)
    seeds: tuple[int, ...] = (1009,)


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes
    ----------
    key : dict
        Of the selected model.
    computed : int
        Rows that this process computed; 0 if everything was there.
    scan : ScanResults
    meis : MEIResults
    test_correlation, oracle : float
        Means over units.
    report : Path
    """

    key: Key
    computed: int
    scan: ScanResults
    meis: MEIResults
    test_correlation: float
    oracle: float
    report: Path


def run_demo(home: Path, console: Console, plan: DemoPlan | None = None) -> DemoResult:
    """Simulate, ingest, convert, train, score, analyse, find MEIs and report. What is there already is not redone.

    Parameters
    ----------
    home : Path
        Folder for the simulated files and the report.
    console : Console
        Where progress is shown.
    plan : DemoPlan, optional
    """
    return _Demo(home, console, plan or DemoPlan()).run()


class _Demo:
    """One run, step by step; `computed` counts the rows that it made."""

    def __init__(self, home: Path, console: Console, plan: DemoPlan) -> None:
        self.home, self.console, self.plan = home, console, plan
        self.computed = 0
        self.steps = 0
        self.folder = home / "recording"

    def run(self) -> DemoResult:
        truth = self.simulate()
        self.ingest()
        group = self.convert()
        key = self.train(group)
        results = self.analyse(key)
        target = self.find_meis(results)
        meis = mei_results(results, target, truth)
        assert meis is not None
        report = self.report(key, truth, target)
        test, _ = mean_of_defined(results.scores["single_trial_correlation"].to_numpy(float))
        return DemoResult(key, self.computed, results, meis, test, mean_of_defined(results.oracle)[0], report)

    @contextmanager
    def step(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show one step: what it does, then what came of it and how long it took."""
        self.steps += 1
        started = time.perf_counter()
        said: list[str] = []
        self.console.print(f"[bold]{self.steps}  {what}[/bold]")
        yield said.append
        self.console.print(f"   {'; '.join(said)} [dim]({time.perf_counter() - started:.1f} s)[/dim]")

    def populate(self, table: Any, *restrictions: Any) -> int:
        made = populate_all(table, *restrictions, on_wait=lambda text: self.console.print(f"   [dim]{text}[/dim]"))
        self.computed += made
        return made

    def simulate(self) -> GroundTruth:
        size = self.plan.simulation
        with self.step("Simulated recording of dLGN neurons that watch natural movies") as say:
            self.home.mkdir(parents=True, exist_ok=True)
            with FileLock(self.home / ".recording.lock"):
                if self.folder.exists():
                    say(f"already in {self.folder}")
                else:
                    self.computed += 1
                    with bar(None, "simulating", "scenes and trials") as shown:

                        def progress(done: int, total: int) -> None:
                            shown.total = total
                            shown.update(done - shown.n)

                        simulate_dlgn(self.folder, size, progress)
                    say(f"{size.n_units} units, {len(size.scene_tiers)} movies in {self.folder}")
        return load_ground_truth(self.folder / "ground_truth.npz")

    def ingest(self) -> None:
        with self.step("Ingest: files of the thesis format into the tables") as say:
            if len(recording.Scan & self.plan.scan):
                say("already there")
                return
            source = open_recording(
                "thesis",
                responses=str(self.folder / "responses.pkl"),
                videos=str(self.folder / "videos"),
                behavior=str(self.folder / "resp_behav_df.pkl"),
            )
            done = ingest(source, **self.plan.scan, screen_deg=SCREEN_DEG)
            self.computed += int(done.is_new)
            say(f"{done.n_units} units, {done.n_trials} trials, {done.n_conditions} movies")

    def convert(self) -> Key:
        with self.step("Convert to a Deeplake dataset, and measure the units' reliability") as say:
            preprocessing = config.PreprocessingConfig.add(self.plan.preprocessing)
            wanted = {**self.plan.scan, **preprocessing}
            made = self.populate(dataset.Dataset, wanted)
            group = dataset.MultiDataset.fill(wanted, "demo: simulated dLGN")
            group |= config.DataConfig.add(self.plan.data)
            self.populate(dataset.Oracle, group)
            row = (dataset.Dataset & wanted).fetch1()
            oracle = (dataset.Oracle & group).fetch1("oracle_mean")
            say(f"{'' if made else 'already there: '}{row['dataset_bins']} bins; oracle correlation {oracle:.3f}")
        return group

    def train(self, group: Key) -> Key:
        with self.step("Train encoding models, and score them on validation and test") as say:
            networks = [config.NetworkConfig.add(network) for network in self.plan.networks]
            trainer = config.TrainConfig.add(self.plan.trainer)
            seeds = [{"seed": seed} for seed in self.plan.seeds]
            model.ModelSelection.fill(group, networks, trainer, seeds)
            wanted = [{**group, **network, **trainer, **seed} for network in networks for seed in seeds]
            made = self.populate(model.Model, wanted)
            key = best_model(wanted)
            row = (model.Model & key).fetch1()
            say(
                f"{f'{made} trained' if made else 'already there'}; the best has correlation "
                f"{row['validation_correlation']:.3f} on validation, {row['test_correlation']:.3f} on test"
            )
        return key

    def analyse(self, key: Key) -> ScanResults:
        with self.step("Look into the readouts of the best model") as say:
            made = self.populate(analysis.ReadoutAnalysis, key)
            _, info = model.Model.load_encoder(key)
            results = scan_results(key, info, next(iter(info)))
            say(f"{'' if made else 'already there: '}positions and features of {len(results.unit_names)} units")
        return results

    def find_meis(self, results: ScanResults) -> Key:
        with self.step("Find the most exciting movie of each well-predicted unit") as say:
            good = [{"unit_id": unit} for unit in well_predicted(results)]
            mei.TargetModel.insert1(results.key, skip_duplicates=True)
            target = mei.TargetDataset.fill(results.key, f"well predicted by {results.key['network_hash'][:8]}", good)
            target |= config.MEIConfig.add(self.plan.mei)
            made = self.populate(mei.MEI, results.key, target)
            row = (mei.MEI & results.key & target).fetch1()
            say(f"{'' if made else 'already there: '}{row['mei_units']} MEIs, {row['mei_converged']} converged")
        return target

    def report(self, key: Key, truth: GroundTruth, target: Key) -> Path:
        path = self.home / "report.html"
        with self.step("Write the report") as say:
            if self.computed or not path.exists():
                write_report(key, path, truth, queries(key))
                say(str(path))
            else:
                say(f"already there: {path}")
        return path


def well_predicted(results: ScanResults) -> list[int]:
    """Return the units whose test correlation reaches `WELL_PREDICTED` of their oracle; all if none does."""
    score = results.scores["single_trial_correlation"].to_numpy(float)
    units = np.array(results.info.unit_ids)
    good = units[score >= WELL_PREDICTED * results.oracle]
    return (good if len(good) else units).tolist()


def queries(key: Key) -> str:
    """Return Python that a user could type next; every line runs as it stands."""
    group = {"group_id": key["group_id"]}
    return f"""\
from schemas import analysis, config, dataset, mei, model, recording, stimulus

model.Model.leaderboard()                                  # all models, the best first
model.Model & (config.NetworkConfig.CorePlusReadout
               & (config.CoreConfig.Factorized3d & {{'linear': True}}))   # only linearised ones
(key,) = (model.Model & {group!r}).keys(order_by='validation_correlation DESC', limit=1)   # the best one
model.Model.UnitScore & key & {{'score_tier': 'test'}} & 'single_trial_correlation > 0.5'
(dataset.Oracle.Unit * model.Model.UnitScore & key & {{'score_tier': 'test'}}).to_pandas()
analysis.ReadoutAnalysis.Unit & key & 'position_x_deg > 0'    # units on the right of the screen
movies = (mei.MEI.Unit & key).to_arrays('mei_movie')       # most exciting movies, loaded when used
encoder, info = model.Model.load_encoder(key)              # the trained torch module
loaders = dataset.get_dataloaders(key)                     # {{tier: {{data_key: DataLoader}}}}
"""


def summary(result: DemoResult) -> list[str]:
    """Return what the demo showed, a sentence each."""
    correlations = result.meis.correlations
    assert correlations is not None
    good = int(np.sum(correlations > 0.7))
    return [
        f"The selected model predicts single test trials with correlation {result.test_correlation:.3f}, "
        f"{result.test_correlation / result.oracle:.2f} of the oracle ({result.oracle:.3f}).",
        f"{good} of {len(correlations)} MEIs correlate above 0.7 with the true receptive field at its best lag "
        f"(median {np.median(correlations):.2f}).",
    ]
