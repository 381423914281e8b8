"""Which models are wanted, the trained models and their scores."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import datajoint as dj
import pandas as pd

from pipeline.analysis.comparison import differing_settings, flat_settings, labels
from pipeline.analysis.scores import MEASURES, UnitScores, mean_over_units, score_loaders
from pipeline.configuration import Configuration
from pipeline.datasets.info import DataInfo
from pipeline.errors import ConfigurationError
from pipeline.models import Encoder, Network
from pipeline.models.base import Architecture, EncodingModel
from pipeline.models.cores import Pretrained
from pipeline.models.ensemble import EnsembleArchitecture, EnsembleEncoder
from pipeline.models.function import Function as NetworkFunction
from pipeline.models.nonlinearities import Output
from pipeline.models.transfer import copy_core
from pipeline.models.weights import pack, unpack
from pipeline.training.history import TrainingResult
from pipeline.training.start import initial_encoder
from schemas import config, dataset, recording
from schemas.connection import schema as open_schema
from schemas.misfits import refuse_misfits
from schemas.provenance import provenance_columns, provenance_row
from schemas.restrictions import effective
from schemas.rows import null
from schemas.training import delete_checkpoints, train_encoders

schema = open_schema("model")

Key = dict[str, Any]


def _scan_columns(measure: str) -> str:
    what = "slope of correlations on oracles" if measure == "fraction_oracle" else "mean"
    return f"""
        scan_{measure}=null : float64  # {what} over units
        scan_undefined_{measure} : int32  # units without it"""


SHOWN_SCORES = ("validation_correlation", "test_correlation")

LEAST_URGENT = 127
"""Largest priority that the queue of DataJoint holds."""


@schema
class ModelSelection(dj.Manual):
    """The models that are wanted; `Model.populate` trains exactly these.

    Attributes
    ----------
    selection_priority : int32
        Lower is more urgent.
    """

    definition = """
    # The models that are wanted
    -> dataset.MultiDataset
    -> config.DataConfig
    -> config.NetworkConfig
    -> config.TrainConfig
    -> config.Seed
    ---
    selection_priority : int32  # lower is more urgent
    """

    @classmethod
    def fill(cls, *restrictions: Any, priority: int = 5) -> int:
        """Add all combinations of group, data, network, trainer and seed that the restrictions select.

        Parameters
        ----------
        *restrictions
            Anything that restricts: ``{'group_id': 23}``, ``CoreConfig.Stacked2d & {'layers': 4}``,
            ``TrainConfig.Default & {'batch_size': 8}``, a list of keys, ``{'seed': 1009}``. What is not restricted is
            taken whole.
        priority : int
            0 to 127; lower is more urgent. Combinations that were selected before keep theirs.

        Returns
        -------
        int
            Number of combinations that were not selected before.

        Raises
        ------
        ConfigurationError
            If a restriction names nothing that could be selected, the priority is out of range, or a network does
            not suit its data.
        """
        if not 0 <= priority <= LEAST_URGENT:
            raise ConfigurationError(f"priority {priority} is out of range: 0 (most urgent) to {LEAST_URGENT}")
        wanted = dataset.fitting() * _networks() * config.TrainConfig.proj() * config.Seed.proj()
        for restriction in restrictions:
            wanted = wanted & effective(restriction, wanted.heading.names, "models")
        new = (wanted.proj() - cls.proj()).keys()
        cls().insert([{**key, "selection_priority": priority} for key in new], skip_duplicates=True)
        return len(new)

    def insert(self, rows: Any, **options: Any) -> None:
        """Select models, or none if a network does not suit its data; see `schemas.misfits`."""
        rows = rows.to_dicts() if isinstance(rows, dj.expression.QueryExpression) else list(rows)
        refuse_misfits(rows)
        super().insert(rows, **options)


def _networks() -> dj.expression.QueryExpression:
    """Networks and the hashes of their parts, NULL of functions, so that queries on the parts restrict them."""
    parts = config.NetworkConfig.CorePlusReadout.proj(*(f"{part}_hash" for part in config.NETWORK_PARTS))
    return config.NetworkConfig.proj().join(parts, left=True)


@schema
class Model(dj.Computed):
    """A trained model. Its network, data and weights come back with `Model.load_encoder`."""

    definition = f"""
    # A trained model
    -> ModelSelection
    ---
    validation_correlation=null : float64  # single-trial correlation, mean over units; what models are selected by
    test_correlation=null : float64  # the same on the test tier; NULL without test trials
    model_best_epoch=null : int32  # epoch whose weights were kept; NULL if a function trained, which does not tell
    model_epochs=null : int32  # epochs trained; NULL if a function trained that did not report them
    model_parameters : int64  # trainable numbers
    model_weights : <object@main>  # safetensors, with the data information that rebuilds the network
    {provenance_columns("model")}
    """

    class Member(dj.Part):
        """One of the seeds that a model consists of: its only one, or a member of an ensemble."""

        definition = """
        # One of the seeds that a model consists of
        -> master
        member_seed : int32
        ---
        member_validation_correlation=null : float64  # single-trial correlation, mean over units
        member_best_epoch=null : int32  # epoch whose weights were kept; NULL if a function trained
        member_epochs=null : int32  # epochs trained; NULL if a function trained that did not report them
        member_stopped_by : varchar(16)  # 'patience', 'max_epochs', 'function'; 'adopted' from the model of that seed
        """

    class Epoch(dj.Part):
        """One epoch of the training of one member; those of adopted members are with the models they are from."""

        definition = """
        # One epoch of the training
        -> master
        member_seed : int32
        epoch : int32  # number of the epoch, from 1
        ---
        epoch_loss=null : float64  # training loss of one response, without penalties
        epoch_regularization=null : float64  # penalties of a step
        epoch_validation_correlation=null : float64  # single-trial correlation, mean over units
        epoch_undefined_units : int32  # units for which it is undefined
        epoch_learning_rate=null : float64  # of the optimiser; NULL if a function trained
        epoch_seconds : float64  # (s) duration, of all members that were trained together
        """

    class EpochPenalty(dj.Part):
        """One penalty on the weights in one epoch."""

        definition = """
        # One penalty on the weights in one epoch
        -> master
        member_seed : int32
        epoch : int32  # number of the epoch, from 1
        penalty_name : varchar(64)  # part of the network and what is penalised
        ---
        penalty=null : float64  # weighted, summed over the scans, mean over the steps of the epoch
        """

    class UnitScore(dj.Part):
        """Scores of one unit on one tier; NULL where a measure is undefined. See `pipeline.metrics`."""

        definition = """
        # Scores of one unit on one tier
        -> master
        -> dataset.MultiDataset.Member
        -> recording.Scan.Unit
        score_tier : varchar(16)  # 'validation', 'test', 'final' or 'ood'
        ---
        """ + "\n".join(f"{name}=null : float64  # {comment}" for name, comment in MEASURES.items())

    class ScanScore(dj.Part):
        """Each measure over the units of one scan on one tier, and for how many units it is undefined."""

        definition = """
        # Scores of one scan on one tier
        -> master
        -> dataset.MultiDataset.Member
        score_tier : varchar(16)  # 'validation', 'test', 'final' or 'ood'
        ---
        """ + "\n".join(_scan_columns(name) for name in MEASURES)

    @property
    def key_source(self) -> dj.expression.QueryExpression:
        """What is selected, with the parts of each network: queries on cores and other parts restrict it."""
        return ModelSelection.proj() * _networks()

    def populate(
        self, *restrictions: Any, reserve_jobs: bool = False, refresh: bool | None = None, **options: Any
    ) -> dict[str, Any]:
        """Train what is selected; with ``reserve_jobs`` the most urgent first. See `datajoint.Table.populate`."""
        if refresh is None:
            refresh = dj.config.jobs.auto_refresh
        if reserve_jobs and refresh:
            waiting = ModelSelection & (self.key_source & dj.AndList(restrictions)).proj() - self.proj()
            # One priority a call is all that the queue can be told.
            for level in (dj.U("selection_priority") & waiting).to_arrays("selection_priority"):
                urgent = (ModelSelection & {"selection_priority": int(level)}).proj()
                self.jobs.refresh(*restrictions, urgent, priority=int(level), delay=-1)
        return super().populate(*restrictions, reserve_jobs=reserve_jobs, refresh=refresh, **options)

    def make_fetch(self, key: Key) -> tuple[Any, ...]:
        """Fetch the folders of the data, the configurations and where weights are that training starts from."""
        network = config.NetworkConfig.load_network(key)
        return (
            dataset.MultiDataset.paths(key),
            dataset.MultiDataset.units(key),
            config.DataConfig.load(key),
            network,
            config.TrainConfig.load(key),
            self._source_weights(network.pretrained) if isinstance(network, Network) and network.pretrained else None,
            config.Seed.members(key),
        )

    def make_compute(
        self,
        key: Key,
        paths: dict[str, str],
        units: dict[str, Any],
        data: Any,
        network: Network | NetworkFunction,
        trainer: Any,
        source_path: str | None,
        seeds: tuple[int, ...],
    ) -> tuple[Any, ...]:
        """Train and score; no transaction is open meanwhile. A training that was killed goes on where it was.

        Members of an ensemble that have been trained alone are adopted, the others are trained together.
        """
        started = time.perf_counter()
        loaders, info = dataset.loaders_of(paths, units, data, trainer.batch_size, trainer.order_seed)
        encoders: dict[int, EncodingModel] = {}
        # Asked now and not in make_fetch, whose answer must not change while others train members alone.
        adopted = (type(self) & [{**key, "seed": seed} for seed in seeds]).to_arrays("seed").tolist()
        for seed in sorted(set(seeds) - set(adopted)):
            if encoders:  # where readouts start to look is known from the first
                encoders[seed] = network.build(info, seed, loaders)
            else:
                encoders[seed], info = initial_encoder(network, info, loaders, seed)
        if isinstance(network, Network) and network.pretrained is not None:
            source = _ours(self.load_encoder(network.pretrained.source)[0])
            for encoder in encoders.values():
                copy_core(source, _ours(encoder))
        results = train_encoders(key, network, trainer, encoders, loaders, info)
        for seed in adopted:
            encoders[seed], of_member = self.load_encoder({**key, "seed": seed})
            info = info if results else of_member
        model = EnsembleEncoder(encoders) if len(encoders) > 1 else encoders[key["seed"]]
        return results, score_loaders(model, loaders), info, model, time.perf_counter() - started

    def make_insert(
        self,
        key: Key,
        results: dict[int, TrainingResult],
        scores: dict[tuple[str, str], UnitScores],
        info: DataInfo,
        encoder: EncodingModel,
        seconds: float,
    ) -> None:
        """Insert the model, its members, their epochs and its scores."""
        alone = results.get(key["seed"])
        epochs = [len(result.history) for result in results.values() if result.history]
        self.insert1(
            {
                **key,
                "validation_correlation": null(mean_over_units(scores, "validation")),
                "test_correlation": null(mean_over_units(scores, "test")),
                "model_best_epoch": None if alone is None else alone.best_epoch,
                "model_epochs": max(epochs) if epochs else None,
                "model_parameters": sum(p.numel() for p in encoder.parameters() if p.requires_grad),
                "model_weights": (".safetensors", pack(encoder, info)),
                **provenance_row("model", seconds, str(encoder.device)),
            }
        )
        self._insert_members(key, results)
        members = {m.pop("data_key"): m for m in (dataset.MultiDataset.Member & key).to_dicts()}
        for (tier, data_key), found in scores.items():
            row = {**key, **members[data_key], "score_tier": tier}
            measures = {name: [null(v) for v in values] for name, values in asdict(found).items()}
            self.UnitScore.insert(
                {**row, "unit_id": unit_id, **{name: values[i] for name, values in measures.items()}}
                for i, unit_id in enumerate(info[data_key].unit_ids)
            )
            together = {name: found.over_units(name) for name in MEASURES}
            self.ScanScore.insert1(
                {
                    **row,
                    **{f"scan_{name}": null(value) for name, (value, _) in together.items()},
                    **{f"scan_undefined_{name}": undefined for name, (_, undefined) in together.items()},
                }
            )
        # Should the commit after this fail, the training starts over.
        delete_checkpoints(key, info, results)

    def _insert_members(self, key: Key, results: Mapping[int, TrainingResult]) -> None:
        adopted = set(config.Seed.members(key)) - set(results)
        for row in (type(self).Member & [{**key, "seed": seed} for seed in adopted]).to_dicts() if adopted else ():
            self.Member.insert1({**row, **key, "member_stopped_by": "adopted"})
        for seed, result in results.items():
            row = {**key, "member_seed": seed}
            self.Member.insert1(
                {
                    **row,
                    "member_validation_correlation": null(result.validation_correlation),
                    "member_best_epoch": result.best_epoch,
                    "member_epochs": len(result.history) or None,
                    "member_stopped_by": result.stopped_by,
                }
            )
            self.Epoch.insert(
                {
                    **row,
                    "epoch": epoch.epoch,
                    "epoch_loss": null(epoch.loss),
                    "epoch_regularization": epoch.regularization if epoch.penalties else None,
                    "epoch_validation_correlation": null(epoch.validation_correlation),
                    "epoch_undefined_units": epoch.undefined_units,
                    "epoch_learning_rate": null(epoch.learning_rate),
                    "epoch_seconds": epoch.seconds,
                }
                for epoch in result.history
            )
            self.EpochPenalty.insert(
                {**row, "epoch": epoch.epoch, "penalty_name": name, "penalty": null(value)}
                for epoch in result.history
                for name, value in epoch.penalties.items()
            )

    @classmethod
    def load_encoder(cls, key: Mapping[str, Any]) -> tuple[EncodingModel, DataInfo]:
        """Return the trained encoder of one model, in evaluation mode, and the information on its data.

        It is an `Encoder`, a `ForeignEncoder` if a function made the network, or an `EnsembleEncoder` of several.
        """
        row = (cls & key).fetch1()
        network: Architecture[EncodingModel] = config.NetworkConfig.load_network(row)
        seeds = config.Seed.members(row)
        if len(seeds) > 1:
            network = EnsembleArchitecture(network, seeds)
        return unpack(network, row["model_weights"].read())

    @classmethod
    def core_of(cls, key: Mapping[str, Any], frozen: bool = True) -> Key:
        """Add the core of a trained model as one to build on, and return its key, for `NetworkConfig.fill`.

        Parameters
        ----------
        key : mapping
            Of one model.
        frozen : bool
            Keep its weights as they are and train the rest; otherwise training goes on from them.

        Raises
        ------
        ConfigurationError
            If this is not one trained model, or its network has no core of ours.

        Examples
        --------
        >>> config.NetworkConfig.fill([Model.core_of(key)], ...)  # doctest: +SKIP
        """
        found = (cls & key).keys()
        if len(found) != 1 or len(config.Seed.members(found[0])) > 1:
            what = f"{len(found)} trained models" if len(found) != 1 else "an ensemble"
            raise ConfigurationError(f"{dict(key)} names {what}, but a core is from exactly one single model")
        pretrained = Pretrained(**{f"source_{name}": value for name, value in found[0].items()}, frozen=frozen)
        config.NetworkConfig.source_core(pretrained)  # refuses sources without a core of ours
        return config.CoreConfig.add(pretrained)

    @classmethod
    def _source_weights(cls, pretrained: Pretrained) -> str:
        """Return where the weights are that a core starts from; a model that is gone is named."""
        found = (cls & pretrained.source).to_dicts()
        if not found:
            raise ConfigurationError(
                f"the model that a pretrained core is from is not there: train {pretrained.source} again, or choose "
                "another core"
            )
        path: str = found[0]["model_weights"].path
        return path

    @classmethod
    def leaderboard(cls, *restrictions: Any, parameters: bool = False) -> pd.DataFrame:
        """Return models with their scores and parts, the best on validation first.

        Parts are named by their kind and the settings in which the listed models differ. Of a network that a function
        made, the function stands in the place of the core. If there are ensembles, the seeds of their members are told.

        Parameters
        ----------
        *restrictions
            All must hold; see `ModelSelection.fill`.
        parameters : bool
            Add every setting of every part as a column: ``core_layers``, ``train_lr_init``, ``data_normalize`` ...
        """
        models = cls * _networks()
        names = models.heading.names
        models = models & dj.AndList(effective(restriction, names, "models") for restriction in restrictions)
        rows = models.proj(*SHOWN_SCORES, "model_epochs", "model_parameters").to_dicts()
        parts = [_parts(row) for row in rows]
        for name in config.NETWORK_PARTS:
            for row, label in zip(rows, labels([_shown(part, name) for part in parts]), strict=True):
                row[name] = label
        shown = [*config.NETWORK_PARTS, "seed", *SHOWN_SCORES]
        frame = pd.DataFrame(rows, columns=[*shown, "model_epochs", "model_parameters", *cls().primary_key[:-1]])
        frame = frame.astype({"model_epochs": "Int64"})  # NULL beside numbers would make them floats
        if (frame["seed"] < 0).any():
            frame.insert(frame.columns.get_loc("seed") + 1, "members", [_members(row) for row in rows])
        if parameters:
            frame = frame.join(pd.DataFrame([flat_settings(part) for part in parts], index=frame.index, dtype=object))
        return frame.sort_values("validation_correlation", ascending=False, ignore_index=True)

    @classmethod
    def compare(cls, *keys: Any) -> pd.DataFrame:
        """Return the settings in which models differ, beside their scores, the best on validation first.

        Models of several groups of datasets have their group beside the seed.

        Parameters
        ----------
        *keys
            Keys of models, or anything else that selects some; any of them may hold.

        Raises
        ------
        ConfigurationError
            If nothing is selected, or a key names nothing that models have.
        """
        names = (cls * _networks()).heading.names
        rows = (cls * _networks() & [effective(key, names, "models") for key in keys]).to_dicts()
        if not rows:
            raise ConfigurationError("no trained model is selected: give keys of models, such as Model.keys()")
        frame = differing_settings([_parts(row) for row in rows])
        groups = ["group_id"] if len({row["group_id"] for row in rows}) > 1 else []
        for name in (*groups, "seed", *SHOWN_SCORES):
            frame[name] = [row[name] for row in rows]
        return frame.sort_values("validation_correlation", ascending=False, ignore_index=True)


def _parts(row: Mapping[str, Any]) -> dict[str, Configuration]:
    """Return the configurations that a model was made with: the parts of its network, its data and its trainer."""
    network = config.NetworkConfig.load_network(row)
    parts = config.network_parts(network)
    if isinstance(network, Network):
        parts["output"] = Output(network.nonlinearity)
    return {**parts, "data": config.DataConfig.load(row), "train": config.TrainConfig.load(row)}


def _members(row: Mapping[str, Any]) -> str:
    """Return the seeds of an ensemble, nothing for a single model."""
    seeds = config.Seed.members(row)
    return ", ".join(map(str, seeds)) if len(seeds) > 1 else ""


def _shown(parts: Mapping[str, Configuration], name: str) -> Configuration | None:
    """Return a part as leaderboards show it: the function of a network in the place of its core, or nothing."""
    return parts.get(name, parts.get("network") if name == "core" else None)


def _ours(encoder: EncodingModel) -> Encoder:
    if not isinstance(encoder, Encoder):
        raise ConfigurationError("a network that a function made has no core that could be used again")
    return encoder
