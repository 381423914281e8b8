"""The encoding model: one core for all scans; for each scan a readout and, if asked for, a shifter and a modulator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.datasets.info import DataInfo, ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models.base import Architecture, EncodingModel, Signal
from pipeline.models.cores import Core, CoreConfiguration, Factorized3d, Pretrained
from pipeline.models.cores.windows import in_window
from pipeline.models.misfits import input_channels, refuse_misfits, refuse_parts
from pipeline.models.modulators import Modulator, ModulatorConfiguration, NoModulator
from pipeline.models.needs import NetworkPart
from pipeline.models.nonlinearities import output_nonlinearity
from pipeline.models.readouts import FullGaussian2d, Readout, ReadoutConfiguration, ReadoutSite, UnitIndex
from pipeline.models.recurrent import ConvGRU, NoRecurrence, Recurrent
from pipeline.models.shifters import NoShifter, Shifter, ShifterConfiguration
from pipeline.models.transfer import freeze


@dataclass(frozen=True)
class Network:
    """The kinds that make up an encoder.

    Attributes
    ----------
    core, recurrent, readout, shifter, modulator : Configuration
        One kind of each, with its settings.
    nonlinearity : str
        Name of the output non-linearity, of `pipeline.models.nonlinearities.NONLINEARITIES`; ``elu`` is elu(x) + 1.
    pretrained : Pretrained, optional
        Where the core's weights are from: `core` is the architecture of that model's core. It is built with fresh
        weights, which training replaces; see `pipeline.models.transfer`. A frozen one is built frozen.
    """

    core: CoreConfiguration = field(default_factory=Factorized3d)
    recurrent: NoRecurrence | ConvGRU = field(default_factory=NoRecurrence)
    readout: ReadoutConfiguration = field(default_factory=FullGaussian2d)
    shifter: NoShifter | ShifterConfiguration = field(default_factory=NoShifter)
    modulator: NoModulator | ModulatorConfiguration = field(default_factory=NoModulator)
    nonlinearity: str = "elu"
    pretrained: Pretrained | None = None

    def parts(self) -> tuple[NetworkPart, ...]:
        """Return the kinds in the order of evaluation."""
        return self.core, self.recurrent, self.readout, self.shifter, self.modulator

    def check(self) -> None:
        """Refuse parts that no data could suit; see `pipeline.models.misfits`."""
        refuse_parts(self)

    def build(self, data_info: DataInfo, seed: int, loaders: Any = None) -> Encoder:
        """Make the encoder with fresh weights; see `build_encoder`. The loaders are not looked at."""
        return build_encoder(self, data_info, seed)


ModuleT = TypeVar("ModuleT", bound=nn.Module)
ModelT = TypeVar("ModelT", bound=EncodingModel)


class PerScan(nn.Module, Generic[ModuleT]):
    """Modules by data_key, which may contain characters that PyTorch refuses in names.

    Raises
    ------
    ConfigurationError
        On asking for a data_key that there is no module for.
    """

    def __init__(self, modules: Mapping[str, ModuleT]) -> None:
        super().__init__()
        self.data_keys = tuple(modules)
        for data_key, module in modules.items():
            self.add_module(self._name(data_key), module)

    @staticmethod
    def _name(data_key: str) -> str:
        # PyTorch separates names with dots and would confuse "training" or "forward" with its own attributes.
        return "scan:" + data_key.replace("%", "%25").replace(".", "%2E")

    def __getitem__(self, data_key: str) -> ModuleT:
        if data_key not in self.data_keys:
            raise ConfigurationError(
                f"this model has nothing for the data_key {data_key!r}: it knows {', '.join(self.data_keys) or 'none'}"
            )
        return cast(ModuleT, self.get_submodule(self._name(data_key)))

    def __contains__(self, data_key: object) -> bool:
        return data_key in self.data_keys

    def __iter__(self) -> Iterator[str]:
        return iter(self.data_keys)

    def __len__(self) -> int:
        return len(self.data_keys)


class Encoder(EncodingModel):
    """Predicts responses to movies or still images: core, recurrent module, readout at the shifted place, gain, rate.

    Still images are movies of one frame, for cores that lose no frames.

    Attributes
    ----------
    core : Core
    recurrent : Recurrent
    readouts : PerScan
        A `Readout` for each data_key.
    shifters, modulators : PerScan
        For the data_keys that have one.
    nonlinearity : str
        Name of the output non-linearity.
    data_info : dict of str to ScanInfo
        What the encoder was built for, by data_key; no part of the weights.
    """

    def __init__(
        self,
        core: Core,
        recurrent: Recurrent,
        readouts: Mapping[str, Readout],
        shifters: Mapping[str, Shifter],
        modulators: Mapping[str, Modulator],
        nonlinearity: str,
        data_info: DataInfo,
    ) -> None:
        super().__init__()
        self.core = core
        self.recurrent = recurrent
        self.readouts = PerScan(readouts)
        self.shifters = PerScan(shifters)
        self.modulators = PerScan(modulators)
        self.nonlinearity = nonlinearity
        self.output = output_nonlinearity(nonlinearity)
        self.data_info = data_info

    @property
    def data_keys(self) -> tuple[str, ...]:
        """Names of the scans, in the order of the readouts."""
        return self.readouts.data_keys

    @property
    def lost_frames(self) -> int:
        """Frames at the start of a movie for which there is no prediction."""
        return self.core.lost_frames

    def forward(
        self,
        inputs: Tensor,
        data_key: str,
        behavior: Signal = None,
        pupil_center: Signal = None,
        unit_idx: UnitIndex | None = None,
        optogenetic_signal: Tensor | None = None,
    ) -> Tensor:
        """Predict the responses of one scan's units.

        Parameters
        ----------
        inputs : Tensor
            (batch, channel, time, height, width), or (batch, channel, height, width) for images, normalised as in
            training.
        data_key : str
            The scan.
        behavior : Tensor or 'mean', optional
            (batch, channel, time), or (batch, channel) for images; 'mean': the scan's training mean in every frame.
            Without it, gains are 1. Not used if the scan has no modulator.
        pupil_center : Tensor or 'mean', optional
            (batch, 2, time), or (batch, 2) for images; 'mean': the scan's training mean in every frame. Without it,
            nothing is shifted. Not used if the scan has no shifter.
        unit_idx : sequence of int, Tensor or slice, optional
            Evaluate only these units.
        optogenetic_signal : Tensor, optional
            (batch, train, time), or (batch, train) for images. Without it, the light is off. Not used if the scan's
            light is not given apart, or the recurrent unit has no way in for it.

        Returns
        -------
        Tensor
            (batch, unit, time - `lost_frames`): predictions for the last frames, in the units of the responses;
            (batch, unit) for images.

        Raises
        ------
        ConfigurationError
            If the model has no such data_key, the movie is too short for one prediction, or a mean is not known.
        """
        if inputs.dim() == 4:
            behavior, pupil_center, light = (
                x.unsqueeze(2) if isinstance(x, Tensor) else x for x in (behavior, pupil_center, optogenetic_signal)
            )
            return self(inputs.unsqueeze(2), data_key, behavior, pupil_center, unit_idx, light).squeeze(2)
        readout = self.readouts[data_key]
        if isinstance(unit_idx, tuple):  # which would index several axes
            unit_idx = list(unit_idx)
        if inputs.shape[2] <= self.lost_frames:
            raise ConfigurationError(
                f"a movie of {inputs.shape[2]} frames is too short: this model needs more than {self.lost_frames}"
            )
        behavior = self._given("behavior", behavior, inputs, data_key)
        pupil_center = self._given("pupil_center", pupil_center, inputs, data_key)
        features = self.core(inputs)
        time = features.shape[2]
        light = None
        if optogenetic_signal is not None and self.data_info[data_key].n_opto:
            light = optogenetic_signal[..., -time:]
        features = self.recurrent(features, light)
        shift = None
        if pupil_center is not None and data_key in self.shifters:
            shift = self.shifters[data_key](pupil_center[..., -time:])
        drive = readout(features, shift=shift, unit_idx=unit_idx)
        if behavior is not None and data_key in self.modulators:
            drive = self.modulators[data_key](drive, behavior, unit_idx=unit_idx)
        rate: Tensor = self.output(drive)
        return rate

    def respond_paired(
        self,
        inputs: Tensor,
        data_key: str,
        units: Tensor,
        behavior: Signal = None,
        pupil_center: Signal = None,
    ) -> Tensor:
        """See `EncodingModel.respond_paired`; each input is read by the readout of its own unit alone.

        Where core and readout allow it, only the part of the frame that the unit can see goes through the core.
        """
        if inputs.dim() == 4:
            behavior, pupil_center = (x.unsqueeze(2) if isinstance(x, Tensor) else x for x in (behavior, pupil_center))
            return self.respond_paired(inputs.unsqueeze(2), data_key, units, behavior, pupil_center).squeeze(1)
        behavior = self._given("behavior", behavior, inputs, data_key)
        pupil_center = self._given("pupil_center", pupil_center, inputs, data_key)
        shift = None
        if pupil_center is not None and data_key in self.shifters:
            shift = self.shifters[data_key](pupil_center[..., self.lost_frames :])
        drive = self._drive_in_sight(inputs, data_key, units, shift)
        if drive is None:
            drive = self.readouts[data_key].paired(self.recurrent(self.core(inputs)), units, shift)
        if behavior is not None and data_key in self.modulators:
            # Gains are cheap: those of all units for all inputs, of which the diagonal is wanted.
            drive = self.modulators[data_key](drive.unsqueeze(1), behavior, unit_idx=units).diagonal().transpose(0, 1)
        rate: Tensor = self.output(drive)
        return rate

    def _drive_in_sight(self, inputs: Tensor, data_key: str, units: Tensor, shift: Tensor | None) -> Tensor | None:
        """Return the drives (batch, time) from what units see alone; None where that is unknown or does not pay."""
        layers = None if self.core.training else self.core.local_layers()
        if layers is None or type(self.recurrent) is not Recurrent:
            return None
        readout = self.readouts[data_key]
        sight = readout.sight(units, shift, self.core.out_size(*inputs.shape[3:]))
        if sight is None:
            return None
        seen = in_window(layers, inputs, sight.window)
        return None if seen is None else readout.paired_in_sight(seen, units, sight)

    def regularizer(self, data_key: str) -> dict[str, Tensor]:
        """Return the weighted penalties that apply when this scan is trained, by name; none of a frozen core."""
        terms = {} if self.core.frozen else self.core.regularizer()
        terms |= self.recurrent.regularizer() | self.readouts[data_key].regularizer()
        if data_key in self.shifters:
            terms |= self.shifters[data_key].regularizer()
        if data_key in self.modulators:
            terms |= self.modulators[data_key].regularizer()
        return terms

    def constrain(self) -> None:
        """Bring parameters with a range back into it; the trainer calls this after every step."""
        for data_key in self.readouts:
            self.readouts[data_key].constrain()


def build_encoder(network: Network, data_info: DataInfo, seed: int) -> Encoder:
    """Make an encoder with fresh weights. The same arguments give the same weights; no data are read.

    Parameters
    ----------
    network : Network
        Its kinds. Scans without pupil position or without behaviour get no shifter or no modulator.
    data_info : DataInfo
        Shapes and mean responses of the scans. All must have the same number of input channels.
    seed : int
        Of the initial weights. PyTorch's global random state is left as it was.

    Raises
    ------
    ConfigurationError
        If the network does not fit the data; the message names the scan.
    """
    _refuse_other_means(data_info)
    channels = input_channels(data_info)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed GPUs too
        core = network.core.build(channels)
        refuse_misfits(network, data_info, core=core)
        if network.pretrained is not None and network.pretrained.frozen:
            freeze(core)
        recurrent = network.recurrent.build(core.out_channels, _light_trains(network.recurrent, data_info))
        nonlinearity = output_nonlinearity(network.nonlinearity)
        sites = {}
        for data_key, scan in data_info.items():
            drive = nonlinearity.drive_of_mean(scan.mean_responses)
            height, width = core.out_size(*scan.input_shape[1:])
            positions = None if scan.unit_positions is None else torch.tensor(scan.unit_positions)
            centers = _centers(core, scan)
            sites[data_key] = ReadoutSite(
                recurrent.out_channels, height, width, drive, centers, positions, data_key, scan.match_ids
            )
        readouts = network.readout.build_all(sites)
        shifters = _shifters(network.shifter, data_info)
        modulators = _modulators(network.modulator, data_info)
    return Encoder(core, recurrent, readouts, shifters, modulators, network.nonlinearity, dict(data_info))


def _centers(core: Core, scan: ScanInfo) -> Tensor | None:
    """Return the known centres of the receptive fields in half maps, the units of the readouts' positions."""
    if scan.field_centers is None:
        return None
    _, height, width = scan.input_shape
    out_height, out_width = core.out_size(height, width)
    first_row, first_column = core.first_place(height, width)
    middle = torch.tensor([out_width - 1, out_height - 1]) / 2
    places = (torch.tensor(scan.field_centers) - torch.tensor([first_column, first_row])) / core.pitch
    return (places - middle) / middle.clamp(min=0.5)


def _refuse_other_means(data_info: DataInfo) -> None:
    for data_key, scan in data_info.items():
        if len(scan.mean_responses) != scan.n_units:
            raise ConfigurationError(
                f"{data_key!r} has {scan.n_units} units but {len(scan.mean_responses)} mean responses"
            )


def _light_trains(kind: NoRecurrence | ConvGRU, data_info: DataInfo) -> int:
    """Return the number of light trains that a recurrent unit sees; scans without light do not count."""
    if isinstance(kind, NoRecurrence) or kind.opto == "none":
        return 0
    trains = {data_key: scan.n_opto for data_key, scan in data_info.items() if scan.n_opto}
    if len(set(trains.values())) > 1:
        raise ConfigurationError(f"scans that share a recurrent unit need equally many light trains, not {trains}")
    return next(iter(trains.values()), 0)


def _shifters(kind: NoShifter | ShifterConfiguration, data_info: DataInfo) -> dict[str, Shifter]:
    if isinstance(kind, NoShifter):
        return {}
    centers = {data_key: scan.mean_pupil_center for data_key, scan in data_info.items()}
    return {data_key: kind.build(center) for data_key, center in centers.items() if center is not None}


def _modulators(kind: NoModulator | ModulatorConfiguration, data_info: DataInfo) -> dict[str, Modulator]:
    if isinstance(kind, NoModulator):
        return {}
    with_behavior = {data_key: scan for data_key, scan in data_info.items() if scan.n_behavior}
    return {data_key: kind.build(scan.n_behavior, scan.n_units) for data_key, scan in with_behavior.items()}


def encoder_to_bytes(encoder: EncodingModel) -> bytes:
    """Return the weights in the safetensors format."""
    return safetensors.torch.save(
        {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    )


def load_encoder(network: Architecture[ModelT], data_info: DataInfo, data: bytes) -> ModelT:
    """Rebuild a model from what `encoder_to_bytes` returned, in evaluation mode on the CPU.

    Raises
    ------
    ConfigurationError
        If the weights are damaged or belong to another network; the message names the first tensors that differ.
    """
    encoder = network.build(data_info, seed=0)
    try:
        state = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ConfigurationError(f"the weights are damaged ({error}): train the model again") from error
    wanted = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if wanted != found:
        different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ConfigurationError(
            f"the weights belong to another network or other data: {', '.join(different[:3])}"
            f"{' and others' if len(different) > 3 else ''} differ"
        )
    encoder.load_state_dict(state)
    return encoder.eval()
