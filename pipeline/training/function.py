"""Trainers that are a function of a laboratory's own: nnfabrik's ``trainer_fn(model, dataloaders, seed, ...)``."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from pipeline.configuration import setting
from pipeline.datasets.nnfabrik_form import in_nnfabrik_form
from pipeline.errors import ConfigurationError, GeniculateError, TrainingError
from pipeline.functions import FunctionConfiguration, accepted, own_randomness
from pipeline.models.base import EncodingModel
from pipeline.models.encoder import Encoder
from pipeline.models.foreign import ForeignEncoder
from pipeline.training.cycling import Loaders, refuse_empty
from pipeline.training.history import Epoch, TrainingResult
from pipeline.training.prediction import score

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Function(FunctionConfiguration):
    """A trainer of one's own, such as ``sensorium.training.standard_trainer``.

    It is called as ``function(model, dataloaders, seed, **arguments)``, with ``uid``, the key of the model, and ``cb``,
    to be called once an epoch, where its signature has them. It returns (score, output, state_dict); the weights are
    loaded, and scores are ours as for every model. A network of a function is given as that function made it. One of
    ours is called as ``model(inputs, data_key=..., **fields of the batch)`` and has ``regularizer(data_key)``.
    """

    batch_size: int = setting(8, "training clips or images in a batch of one scan", ge=1)
    order_seed: int = setting(1, "seed of the order of batches and the places of clips, the same for all models", ge=0)

    reserved: ClassVar[tuple[str, ...]] = ("model", "dataloaders", "seed", "uid", "cb")


class OurModel(nn.Module):
    """One of our encoders as the trainers of others call a model.

    ``core.regularizer()`` and ``readout.regularizer(data_key)`` are there too: together they are ``regularizer``.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor, *others: Any, data_key: str | None = None, **fields: Any) -> Tensor:
        """Predict the responses to a batch; of its fields, those that our encoders know are used."""
        if fields.get("detach_core"):
            raise ConfigurationError("our networks have no detach_core: freeze a pretrained core instead")
        offered = {name: value for name, value in fields.items() if isinstance(value, Tensor) and name != "inputs"}
        given = {name: value.to(inputs.device) for name, value in accepted(self.encoder.forward, offered).items()}
        prediction: Tensor = self.encoder(inputs, self._scan(data_key), **given)
        return prediction

    def regularizer(self, data_key: str | None = None) -> Tensor:
        """Return the sum of the penalties that apply when this scan is trained."""
        return self._total(self.encoder.regularizer(self._scan(data_key)))

    @property
    def core(self) -> Any:
        """Has the penalty of the core."""
        return SimpleNamespace(regularizer=lambda: self._total(self._of_core()))

    @property
    def readout(self) -> Any:
        """Has all other penalties."""

        def penalty(data_key: str | None = None) -> Tensor:
            terms, of_core = self.encoder.regularizer(self._scan(data_key)), self._of_core()
            return self._total({name: term for name, term in terms.items() if name not in of_core})

        return SimpleNamespace(regularizer=penalty)

    def _of_core(self) -> dict[str, Tensor]:
        return {} if self.encoder.core.frozen else self.encoder.core.regularizer()

    def _total(self, terms: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([torch.zeros((), device=self.encoder.device), *terms.values()]).sum()

    def _scan(self, data_key: str | None) -> str:
        if data_key is None and len(self.encoder.data_keys) > 1:
            raise ConfigurationError("there are several scans: call the model with data_key")
        return self.encoder.data_keys[0] if data_key is None else data_key


class _Epochs:
    """The callback: every call is an epoch, of which no more is known than how long it took."""

    def __init__(self, units: int, seed: int, on_epoch: Callable[[Epoch], None] | None) -> None:
        self.history: list[Epoch] = []
        self._units, self._seed, self._on_epoch = units, seed, on_epoch
        self._since = time.perf_counter()

    def __call__(self, *values: Any, **named_values: Any) -> None:
        now = time.perf_counter()
        epoch = Epoch(
            epoch=len(self.history) + 1,
            loss=math.nan,
            penalties={},
            validation_correlation=math.nan,
            undefined_units=self._units,
            learning_rate=math.nan,
            verdict="",
            seconds=now - self._since,
            seed=self._seed,
        )
        self._since = now
        self.history.append(epoch)
        if self._on_epoch is not None:
            self._on_epoch(epoch)


def train_by_function(
    encoder: EncodingModel,
    loaders: Loaders,
    settings: Function,
    seed: int,
    on_epoch: Callable[[Epoch], None] | None = None,
    uid: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Let a function train a model.

    Parameters
    ----------
    encoder : EncodingModel
        Trained in place; holds the returned weights in evaluation mode at the end, on the device where it was.
    loaders : mapping
        ``{tier: {data_key: loader}}``. Withheld trials are not given to the function.
    settings : Function
    seed : int
        Given to the function, and of Python's, NumPy's and PyTorch's random numbers meanwhile.
    on_epoch : callable, optional
        Called with an `Epoch` of unknown loss whenever the function calls ``cb``.
    uid : mapping, optional
        The key of the model.

    Raises
    ------
    ConfigurationError
        Before training, if there is no such function or it does not take its arguments.
    TrainingError
        If it fails, does not return (score, output, state_dict) with the weights of the model, or the model predicts
        nothing that could be correlated.
    """
    refuse_empty(loaders)
    function, form = settings.resolve(), in_nnfabrik_form(loaders)
    model: nn.Module
    if isinstance(encoder, ForeignEncoder):
        model = encoder.network
    elif isinstance(encoder, Encoder):
        model = OurModel(encoder)
    else:
        raise ConfigurationError(f"{settings.function} cannot train a {type(encoder).__name__}")
    epochs = _Epochs(sum(scan.n_units for scan in encoder.data_info.values()), seed, on_epoch)
    given = {**accepted(function, {"uid": dict(uid or {}), "cb": epochs}), **settings.keywords}
    settings.refuse_misfit(function, model, form, seed=seed, **given)
    device, before = encoder.device, score(encoder, loaders["validation"])
    encoder.train()
    try:
        with own_randomness(seed), _constrained(encoder):
            returned = function(model, form, seed=seed, **given)
    except GeniculateError:
        raise
    except Exception as error:
        raise TrainingError(f"{settings.function} failed ({type(error).__name__}: {error})") from error
    model.load_state_dict(_weights(returned, model, settings.function))
    encoder.to(device).eval()
    encoder.constrain()
    logger.debug("%s returned the score %s", settings.function, returned[0])
    after = score(encoder, loaders["validation"])
    if not math.isfinite(after.correlation):
        raise TrainingError(
            f"{settings.function} returned weights whose validation correlation is undefined for every unit"
        )
    return TrainingResult(
        tuple(epochs.history), None, after.correlation, before.correlation, "function", after.undefined
    )


@contextmanager
def _constrained(encoder: EncodingModel) -> Iterator[None]:
    """Bring parameters back into their ranges after every step of any optimiser."""
    hook = register_optimizer_step_post_hook(lambda *_: encoder.constrain())
    try:
        yield
    finally:
        hook.remove()


def _weights(returned: Any, model: nn.Module, function: str) -> Mapping[str, Tensor]:
    wanted = f"{function} must return (score, output, state_dict)"
    if not isinstance(returned, tuple | list):
        raise TrainingError(f"{wanted}, but it returned a {type(returned).__name__}")
    if len(returned) != 3:
        raise TrainingError(f"{wanted}, but it returned {len(returned)} values")
    state = returned[2]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TrainingError(f"{wanted}, but its state_dict is a {type(state).__name__}, not a mapping of tensors")
    shapes = [{name: tuple(value.shape) for name, value in x.items()} for x in (model.state_dict(), state)]
    if shapes[0] != shapes[1]:
        different = sorted(n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n))
        raise TrainingError(f"{wanted} of the model that it was given, but {', '.join(different[:3])} differ")
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise TrainingError(f"{function} returned weights that are not finite: {', '.join(broken[:3])}")
    return state
