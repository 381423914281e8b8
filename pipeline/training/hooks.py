"""Functions of one's own that are told of every epoch: the way to TensorBoard, Weights & Biases or a log file."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.errors import ConfigurationError
from pipeline.training.history import Epoch

logger = logging.getLogger(__name__)

EpochHook = Callable[[Mapping[str, Any], Epoch], object]
"""Called with the key of the model and the epoch; what it returns is ignored."""


def find_hooks(names: str) -> tuple[EpochHook, ...]:
    """Return the functions that a text names.

    Parameters
    ----------
    names : str
        ``package.module:function``, several with commas between.

    Raises
    ------
    ConfigurationError
        If one of them is not there.

    Examples
    --------
    >>> find_hooks("logging:info")  # doctest: +ELLIPSIS
    (<function info at ...>,)
    """
    return tuple(_find(name.strip()) for name in names.split(",") if name.strip())


def _find(name: str) -> EpochHook:
    try:
        hook: EpochHook = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"there is no hook {name!r} ({error}): give package.module:function, and have the module on PYTHONPATH"
        ) from error
    if not callable(hook):
        raise ConfigurationError(f"the hook {name!r} is a {type(hook).__name__}, not a function of key and epoch")
    return hook


def tell(hooks: Sequence[EpochHook], key: Mapping[str, Any], epoch: Epoch) -> None:
    """Call the hooks one after the other. One that fails costs a line in the log, not the training."""
    for hook in hooks:
        try:
            hook(key, epoch)
        except Exception:
            name = getattr(hook, "__qualname__", repr(hook))
            logger.exception("the hook %s failed at epoch %d; training goes on", name, epoch.epoch)
