"""Functions of a laboratory's own, called by nnfabrik's contracts: named by dotted path, arguments in JSON."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from pipeline import legacy
from pipeline.configuration import Configuration, setting
from pipeline.errors import ConfigurationError

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class FunctionConfiguration(Configuration):
    """Base of the kinds that name a function. The path is resolved by importing its module; nothing is evaluated.

    Attributes
    ----------
    reserved : tuple of str
        Arguments that the caller gives, which ``arguments`` must not hold.
    """

    function: str = setting("", "dotted path of the function")
    arguments: str = setting("{}", "its keyword arguments, a JSON object", length=4000)

    reserved: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            arguments = json.loads(self.arguments)
        except ValueError as error:
            raise ConfigurationError(f"{self.kind()}.arguments: {self.arguments!r} is not JSON ({error})") from error
        if not isinstance(arguments, dict):
            raise ConfigurationError(f"{self.kind()}.arguments: {self.arguments!r} is no JSON object, such as {{}}")
        taken = sorted(arguments.keys() & set(self.reserved))
        if taken:
            raise ConfigurationError(f"{self.kind()}.arguments: {', '.join(taken)} cannot be among them, it is given")
        # Written in one way, so that equal arguments have one hash.
        object.__setattr__(self, "arguments", json.dumps(arguments, sort_keys=True, separators=(",", ":")))

    @property
    def keywords(self) -> dict[str, Any]:
        """The arguments."""
        return dict(json.loads(self.arguments))

    def resolve(self) -> Callable[..., Any]:
        """Return the function.

        Raises
        ------
        ConfigurationError
            If there is none.
        """
        if not self.function:
            raise ConfigurationError(f"{self.kind()}.function is empty: give the dotted path of a function")
        return legacy.resolve_function(self.function)

    def refuse_misfit(self, function: Callable[..., Any], /, *values: Any, **named_values: Any) -> None:
        """Raise a ConfigurationError, before anything is called, if the function does not take these arguments."""
        try:
            inspect.signature(function).bind(*values, **named_values)
        except TypeError as error:
            raise ConfigurationError(
                f"{self.function} cannot be called with what it is given ({error}): correct its signature or "
                f"{self.kind()}.arguments"
            ) from error


def named(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of this the function has a parameter of that name for."""
    return {name: value for name, value in offered.items() if name in inspect.signature(function).parameters}


def accepted(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of this the function takes as keywords: all, if its signature ends in ``**kwargs``."""
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    return dict(offered) if inspect.Parameter.VAR_KEYWORD in kinds else named(function, offered)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and PyTorch; at the end their random states are as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def drawn_alike(items: Iterable[ItemT], *numbers: int) -> Iterator[ItemT]:
    """Yield what an iterable gives if these numbers seed Python's, NumPy's and PyTorch's random numbers (on the CPU).

    Whatever is drawn between two items changes nothing of the next, and is not changed by them.
    """
    (seed,) = np.random.SeedSequence(numbers).generate_state(1).tolist()
    with own_randomness(seed):
        iterator, own = iter(items), _random_states()
    while True:
        others = _random_states()
        _set_random_states(own)
        try:
            item = next(iterator)
        except StopIteration:
            return
        finally:
            own = _random_states()
            _set_random_states(others)
        yield item


def _random_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_random_states(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
