"""Networks that a laboratory's own function makes, after nnfabrik's contract ``model_fn(dataloaders, seed, ...)``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from pipeline import legacy
from pipeline.datasets.batches import Batch
from pipeline.datasets.info import DataInfo
from pipeline.datasets.nnfabrik_form import in_nnfabrik_form, nnfabrik_data_info, stand_in_loaders
from pipeline.errors import ConfigurationError
from pipeline.functions import FunctionConfiguration, named, own_randomness
from pipeline.models.foreign import ForeignEncoder

_STAND_INS = "on loaders of one mean batch, from which it must come out the same when it is loaded"


@dataclass(frozen=True)
class Function(FunctionConfiguration):
    """A network of a function of one's own, such as ``sensorium.models.stacked_core_full_gauss_readout``.

    It is called as ``function(dataloaders, seed=..., **arguments)`` with loaders ``{tier: {data_key: loader}}``, whose
    batches are named tuples with inputs and responses first, and with ``data_info`` if its signature has it; it returns
    a torch module: see `pipeline.models.foreign.ForeignEncoder`. When the model is loaded, it is called with loaders of
    one batch at the training means: the shapes of its weights must not depend on anything else.
    """

    reserved: ClassVar[tuple[str, ...]] = ("seed", "dataloaders")

    def build(
        self,
        data_info: DataInfo,
        seed: int,
        loaders: Mapping[str, Mapping[str, Iterable[Batch]]] | None = None,
    ) -> ForeignEncoder:
        """Call the function and return its network. The same arguments give the same weights.

        Parameters
        ----------
        data_info : DataInfo
            Of its scans.
        seed : int
            Given to the function, and of Python's, NumPy's and PyTorch's random numbers meanwhile.
        loaders : mapping, optional
            The data, ``{tier: {data_key: loader}}``. Without them, batches at the training means stand for them.

        Raises
        ------
        ConfigurationError
            If there is no such function, it fails, or what it returns cannot be used or would not be built again
            without data.
        """
        function = self.resolve()
        if loaders is None:
            return self._made(function, data_info, seed, stand_in_loaders(data_info), f" {_STAND_INS}")
        made = self._made(function, data_info, seed, loaders, "")
        again = self._made(function, data_info, seed, stand_in_loaders(data_info), f" {_STAND_INS}")
        shapes = [{name: tuple(x.shape) for name, x in model.state_dict().items()} for model in (made, again)]
        if shapes[0] != shapes[1]:
            different = sorted(n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n))
            raise ConfigurationError(f"{self.function} makes another network {_STAND_INS}: {different[0]} differs")
        return made

    def _made(
        self, function: Callable[..., Any], data_info: DataInfo, seed: int, loaders: Any, where: str
    ) -> ForeignEncoder:
        given = {**named(function, {"data_info": nnfabrik_data_info(data_info)}), **self.keywords}
        form = in_nnfabrik_form(loaders)
        self.refuse_misfit(function, form, seed=seed, **given)
        try:
            with own_randomness(seed):
                network = legacy.nnfabrik_builder().get_model(function, given, form, seed=seed)
        except Exception as error:
            raise ConfigurationError(f"{self.function} failed{where} ({type(error).__name__}: {error})") from error
        if not isinstance(network, nn.Module):
            raise ConfigurationError(
                f"{self.function} must return a torch module (nn.Module), but it returned a {type(network).__name__}"
            )
        return ForeignEncoder(network, dict(data_info), self.function)
