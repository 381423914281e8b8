"""The one door to neuralpredictors 0.3 and nnfabrik 0.2 on today's Python.

Both packages were written for Python 3.8 and name things that have since gone: ``collections.Iterable`` and
``collections.Mapping``, and (nnfabrik) a module of DataJoint 0.12. neuralpredictors also imports torchvision, of which
it uses only the image networks of its transfer core, and nnfabrik imports GitPython and DataJoint, of which its builder
uses nothing. `bygone_names` supplies all of these while one of the packages is imported and takes them away again.

Importing this module is cheap: the packages are imported when something of theirs is first asked for, by attribute
(``legacy.Stacked2dCore``), by module (`neuralpredictors_module`) or through `nnfabrik_builder`.
"""

from __future__ import annotations

import collections
import collections.abc
import importlib
import importlib.util
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from pipeline.errors import ConfigurationError

_BYGONE_COLLECTIONS = ("Iterable", "Mapping", "MutableMapping", "Sequence")
_EXPOSED = {
    "Stacked2dCore": ("layers.cores", "Stacked2dCore"),
    "RotationEquivariant2dCore": ("layers.cores", "RotationEquivariant2dCore"),
    "FullGaussian2d": ("layers.readouts", "FullGaussian2d"),
    "MLPShifter": ("layers.shifters", "MLPShifter"),
    "StaticAffine2dShifter": ("layers.shifters", "StaticAffine2dShifter"),
    "regularizers": ("regularizers", ""),
    "measures": ("measures", ""),
    "training": ("training", ""),
    "data": ("data", ""),
}
_lock = threading.RLock()


class _StandIn(ModuleType):
    """Stands for a module that is imported but not used; using it says what is missing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(f"{self.__name__}.{name} was asked for, but {self.__name__} is not available to this package")


class _Unused:
    """Stands for a class that is imported, perhaps derived from, but never made."""


def _stand_in(name: str, **names: Any) -> _StandIn:
    module = _StandIn(name)
    for key, value in names.items():
        setattr(module, key, value)
    return module


def _torchvision_if_missing() -> dict[str, ModuleType]:
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return {}
    return {"torchvision": _stand_in("torchvision")}


def _database_and_git() -> dict[str, ModuleType]:
    # Always replaced, even when installed: the builder uses no database, and the science must not load one.
    utils = _stand_in("datajoint.utils", to_camel_case=str)
    schema = _stand_in("datajoint.schema", Schema=_Unused)
    return {
        "datajoint": _stand_in("datajoint", utils=utils, schema=schema),
        "datajoint.utils": utils,
        "datajoint.schema": schema,
        "git": _stand_in("git", Repo=_Unused, cmd=_Unused),
    }


@contextmanager
def bygone_names(*, database: bool = False) -> Iterator[None]:
    """Supply what old packages need at import, and take it away at the end, also after an error.

    Parameters
    ----------
    database : bool
        Also stand in for DataJoint and GitPython, as `nnfabrik` needs. A real DataJoint that is already imported is put
        back afterwards.
    """
    with _lock:
        lent = [name for name in _BYGONE_COLLECTIONS if not hasattr(collections, name)]
        stand_ins = _torchvision_if_missing() | (_database_and_git() if database else {})
        before = {name: sys.modules.get(name) for name in stand_ins}
        try:
            for name in lent:
                setattr(collections, name, getattr(collections.abc, name))
            sys.modules.update(stand_ins)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", SyntaxWarning)
                yield
        finally:
            for name in lent:
                delattr(collections, name)
            for name, module in before.items():
                if module is None:
                    sys.modules.pop(name, None)
                else:
                    sys.modules[name] = module


def neuralpredictors_module(name: str) -> ModuleType:
    """Import one module of neuralpredictors.

    Parameters
    ----------
    name : str
        Its name inside the package, such as ``"layers.readouts"`` or ``"regularizers"``.

    Raises
    ------
    ConfigurationError
        If neuralpredictors is not installed or has no such module.
    """
    return _imported(f"neuralpredictors.{name}", database=False)


def nnfabrik_builder() -> ModuleType:
    """Import `nnfabrik.builder`, which finds functions by dotted path and calls them by nnfabrik's contract.

    Raises
    ------
    ConfigurationError
        If nnfabrik is not installed.
    """
    return _imported("nnfabrik.builder", database=True)


def resolve_function(path: str) -> Callable[..., Any]:
    """Find a function by its dotted path, as nnfabrik does; its module may import neuralpredictors.

    Parameters
    ----------
    path : str
        Such as ``"mylab.models.stacked_core_gaussian_readout"``.

    Raises
    ------
    ConfigurationError
        If the path does not lead to something callable; the message says which part failed.
    """
    if "." not in path:
        raise ConfigurationError(f"{path!r} is not a dotted path: give package.module.function")
    builder = nnfabrik_builder()
    with bygone_names():
        try:
            return builder.resolve_fn(path, "")
        except (ImportError, AttributeError, TypeError) as error:
            raise ConfigurationError(
                f"{path!r} does not lead to a function ({error}): check the spelling and that its package is installed"
            ) from error


def _imported(name: str, *, database: bool) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    try:
        with bygone_names(database=database):
            return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"{name} cannot be imported ({error}): pip install neuralpredictors nnfabrik"
        ) from error


def __getattr__(name: str) -> Any:
    if name not in _EXPOSED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _EXPOSED[name]
    found = neuralpredictors_module(module)
    return getattr(found, attribute) if attribute else found
