"""Several models that differ in their seed only, as one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.datasets.info import DataInfo
from pipeline.models.base import Architecture, EncodingModel, Signal
from pipeline.models.readouts.base import UnitIndex


class EnsembleEncoder(EncodingModel):
    """Predicts the mean of what its members predict.

    Attributes
    ----------
    seeds : tuple of int
        Of the members, in ascending order.
    members : ModuleList
        One model for each seed, built for the same data.
    """

    def __init__(self, members: Mapping[int, EncodingModel]) -> None:
        super().__init__()
        self.seeds = tuple(sorted(members))
        self.members = nn.ModuleList(members[seed] for seed in self.seeds)
        self.data_info = members[self.seeds[0]].data_info

    def member(self, seed: int) -> EncodingModel:
        """Return the model of one seed."""
        model = self.members[self.seeds.index(seed)]
        assert isinstance(model, EncodingModel)
        return model

    @property
    def lost_frames(self) -> int:
        """Frames at the start of a movie for which there is no prediction."""
        return self.member(self.seeds[0]).lost_frames

    def forward(
        self,
        inputs: Tensor,
        data_key: str,
        behavior: Signal = None,
        pupil_center: Signal = None,
        unit_idx: UnitIndex | None = None,
        optogenetic_signal: Tensor | None = None,
    ) -> Tensor:
        """Return the mean of the members' predictions; see `pipeline.models.encoder.Encoder.forward`."""
        given = (inputs, data_key, behavior, pupil_center, unit_idx, optogenetic_signal)
        return torch.stack([member(*given) for member in self.members]).mean(dim=0)

    def respond_paired(
        self,
        inputs: Tensor,
        data_key: str,
        units: Tensor,
        behavior: Signal = None,
        pupil_center: Signal = None,
    ) -> Tensor:
        """Return the mean of the members' predictions; see `EncodingModel.respond_paired`."""
        given = (inputs, data_key, units, behavior, pupil_center)
        return torch.stack([self.member(seed).respond_paired(*given) for seed in self.seeds]).mean(dim=0)

    def regularizer(self, data_key: str) -> dict[str, Tensor]:
        """Return the penalties of the members, each with its seed in front: they are trained apart."""
        return {
            f"{seed}/{name}": value
            for seed in self.seeds
            for name, value in self.member(seed).regularizer(data_key).items()
        }


class EnsembleArchitecture:
    """Builds ensembles of one architecture.

    Parameters
    ----------
    architecture : Network or Function
        Of every member.
    seeds : sequence of int
    """

    def __init__(self, architecture: Architecture[EncodingModel], seeds: tuple[int, ...]) -> None:
        self._architecture, self._seeds = architecture, seeds

    def build(self, data_info: DataInfo, seed: int = 0, loaders: object = None) -> EnsembleEncoder:
        """Make the members with fresh weights, each from its own seed; ``seed`` is not used."""
        built = {own: self._architecture.build(data_info, own, loaders) for own in self._seeds}
        return EnsembleEncoder(built)
