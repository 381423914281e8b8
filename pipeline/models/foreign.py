"""A laboratory's own torch module in the place of our encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.datasets.info import DataInfo
from pipeline.datasets.nnfabrik_form import stand_in
from pipeline.errors import ConfigurationError
from pipeline.functions import accepted, named, own_randomness
from pipeline.models.base import EncodingModel, Signal
from pipeline.models.readouts.base import UnitIndex

_PARTS = ("core", "readout", "shifter", "modulator")
_SIGNALS = ("behavior", "pupil_center", "optogenetic_signal")


class ForeignEncoder(EncodingModel):
    """Gives a torch module the interface of an `EncodingModel`.

    The module is called as ``module(inputs, data_key=..., behavior=..., pupil_center=..., optogenetic_signal=...)``
    with those of the keywords that its signature has (or all, if it ends in ``**kwargs``) and that there is something
    for. It returns (batch, unit) for images; for movies (batch, unit, time) or (batch, time, unit), where time may be
    shorter than that of the input by frames lost at the start. A module for images sees movies frame by frame.

    It is asked once for each scan what it predicts for mean grey, which tells these and refuses what does not fit.

    Attributes
    ----------
    network : nn.Module
        The module.
    name : str
        Where it is from, for messages.

    Raises
    ------
    ConfigurationError
        If it cannot be called, its predictions or penalties have other shapes, or its weights cannot be saved.
    """

    def __init__(self, network: nn.Module, data_info: DataInfo, name: str) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.data_info = data_info
        self._units_last = False
        self._takes = accepted(network.forward, dict.fromkeys(("data_key", *_SIGNALS)))
        if len(data_info) > 1 and "data_key" not in self._takes:
            raise ConfigurationError(f"{name}: forward must take data_key, because there are {len(data_info)} scans")
        self._lost_frames = self._measure()
        self._refuse_unsaveable()

    @property
    def lost_frames(self) -> int:
        """Frames at the start of a movie for which there is no prediction, as measured."""
        return self._lost_frames

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU if there are none."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    def forward(
        self,
        inputs: Tensor,
        data_key: str,
        behavior: Signal = None,
        pupil_center: Signal = None,
        unit_idx: UnitIndex | None = None,
        optogenetic_signal: Tensor | None = None,
    ) -> Tensor:
        """Predict the responses of one scan's units; see `pipeline.models.encoder.Encoder.forward`."""
        if data_key not in self.data_info:
            raise ConfigurationError(
                f"this model has nothing for the data_key {data_key!r}: it knows {', '.join(self.data_keys)}"
            )
        given: tuple[Signal, ...] = (behavior, pupil_center, optogenetic_signal)
        for_images = self.data_info[data_key].clip_frames is None
        if inputs.dim() == 4 and not for_images:
            raise ConfigurationError(f"{self.name} was made for movies: give (batch, channel, time, height, width)")
        if inputs.dim() == 4:  # a movie of one frame
            behavior, pupil_center, light = (x.unsqueeze(2) if isinstance(x, Tensor) else x for x in given)
            return self(inputs.unsqueeze(2), data_key, behavior, pupil_center, unit_idx, light).squeeze(2)
        signals = {name: self._given(name, x, inputs, data_key) for name, x in zip(_SIGNALS, given, strict=True)}
        if for_images:
            rate = self._frame_by_frame(inputs, data_key, signals)
        else:
            rate = self._called(inputs, data_key, signals)
            rate = rate.transpose(1, 2) if self._units_last else rate
        return rate if unit_idx is None else rate[:, list(unit_idx) if isinstance(unit_idx, tuple) else unit_idx]

    def _called(self, inputs: Tensor, data_key: str, signals: Mapping[str, Tensor | None]) -> Tensor:
        present = {name: value for name, value in signals.items() if value is not None and name in self._takes}
        if "data_key" in self._takes:
            return self.network(inputs, data_key=data_key, **present)  # type: ignore[no-any-return]
        return self.network(inputs, **present)  # type: ignore[no-any-return]

    def _frame_by_frame(self, inputs: Tensor, data_key: str, signals: Mapping[str, Tensor | None]) -> Tensor:
        """Show each frame of a movie to a module for images, (batch, unit, time)."""
        batch, _, time, _, _ = inputs.shape
        frames = {name: None if x is None else x.transpose(1, 2).flatten(0, 1) for name, x in signals.items()}
        rate = self._called(inputs.transpose(1, 2).flatten(0, 1), data_key, frames)
        return rate.unflatten(0, (batch, time)).transpose(1, 2)

    def regularizer(self, data_key: str) -> dict[str, Tensor]:
        """Return what the module's ``regularizer`` gives or, without one, the sum of those of core, readout and so on.

        They are called with the data_key if they take it. A module without any has no penalty.
        """
        own = getattr(self.network, "regularizer", None)
        parts = [getattr(self.network, part, None) for part in _PARTS]
        total = torch.zeros((), device=self.device)
        for penalty in [own] if callable(own) else [getattr(part, "regularizer", None) for part in parts]:
            if callable(penalty):
                value = torch.as_tensor(penalty(**named(penalty, {"data_key": data_key})))
                total = total + (value.reshape(()) if value.numel() == 1 else value)
        return {"regularizer": total}

    def _measure(self) -> int:
        """Return the frames lost, and learn where the units are; refuse what does not fit."""
        training = self.network.training
        self.network.eval()
        with torch.no_grad(), own_randomness(0):
            lost = {data_key: self._measured_on(data_key) for data_key in self.data_info}
        self.network.train(training)
        if len(set(lost.values())) > 1:
            raise ConfigurationError(f"{self.name}: scans lose different numbers of frames, {lost}")
        return next(iter(lost.values()))

    def _measured_on(self, data_key: str) -> int:
        scan = self.data_info[data_key]
        shape, frames = self._shape_for(data_key, 0), scan.clip_frames
        if frames is None:
            if shape[1:] != (scan.n_units,):
                raise ConfigurationError(self._misfit(shape, data_key, f"(batch, {scan.n_units} units)"))
            return 0
        if len(shape) == 3 and shape[1] == shape[2] == scan.n_units:  # as many frames as units: another length tells
            shape, frames = self._shape_for(data_key, 1), frames + 1
        if len(shape) != 3 or scan.n_units not in shape[1:]:
            wanted = f"(batch, {scan.n_units} units, time) or (batch, time, {scan.n_units} units)"
            raise ConfigurationError(self._misfit(shape, data_key, wanted))
        self._units_last = shape[1] != scan.n_units
        time = shape[1] if self._units_last else shape[2]
        if not 0 < time <= frames:
            raise ConfigurationError(f"{self.name} predicts {time} frames of {frames} for {data_key!r}")
        return frames - time

    def _shape_for(self, data_key: str, more_frames: int) -> tuple[int, ...]:
        batch = stand_in(self.data_info[data_key], more_frames=more_frames)
        fields = {name: None if x is None else x.to(self.device) for name, x in batch._asdict().items()}
        try:
            predicted: Any = self._called(
                batch.inputs.to(self.device), data_key, {name: fields[name] for name in _SIGNALS}
            )
            penalty = self.regularizer(data_key)["regularizer"]
        except Exception as error:
            shape = tuple(batch.inputs.shape)
            raise ConfigurationError(
                f"{self.name} makes a {type(self.network).__name__} that fails on inputs {shape} of {data_key!r} "
                f"({type(error).__name__}: {error})"
            ) from error
        if not isinstance(predicted, Tensor):
            raise ConfigurationError(self._misfit(f"a {type(predicted).__name__}", data_key, "a tensor"))
        if penalty.shape:
            raise ConfigurationError(f"{self.name}: its regularizer gives {tuple(penalty.shape)}, not one number")
        return tuple(predicted.shape)

    def _misfit(self, found: Any, data_key: str, wanted: str) -> str:
        return f"{self.name} makes a {type(self.network).__name__} that predicts {found} for {data_key!r}, not {wanted}"

    def _refuse_unsaveable(self) -> None:
        try:
            safetensors.torch.save({n: x.detach().cpu().contiguous() for n, x in self.state_dict().items()})
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ConfigurationError(
                f"{self.name}: the weights cannot be kept in a safetensors file ({reason}): state_dict() must hold "
                "nothing but tensors that share no memory"
            ) from error
