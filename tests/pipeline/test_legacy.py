from __future__ import annotations

import collections
import subprocess
import sys

import pytest
import torch

from pipeline import legacy
from pipeline.errors import ConfigurationError


def test_nothing_borrowed_is_left_behind() -> None:
    code = (
        "import collections, sys\n"
        "from pipeline import legacy\n"
        "assert 'torch' not in sys.modules, 'importing the door must be cheap'\n"
        "legacy.Stacked2dCore, legacy.FullGaussian2d, legacy.MLPShifter, legacy.regularizers, legacy.measures\n"
        "legacy.nnfabrik_builder()\n"
        "assert 'neuralpredictors.layers.cores' in sys.modules and 'nnfabrik.builder' in sys.modules\n"
        "assert not any(hasattr(collections, n) for n in ('Iterable', 'Mapping', 'Sequence', 'MutableMapping'))\n"
        "left = {'torchvision', 'datajoint', 'git'} & {name.split('.')[0] for name in sys.modules}\n"
        "assert not left, left\n"
    )
    done = subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_are_returned_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="inside"), legacy.bygone_names(database=True):
        assert collections.Iterable is collections.abc.Iterable  # type: ignore[attr-defined]
        assert sys.modules["git"].Repo
        raise RuntimeError("inside")
    assert not hasattr(collections, "Iterable")
    assert getattr(sys.modules.get("git"), "__file__", "") is not None


def test_a_module_that_was_imported_before_is_put_back() -> None:
    import datajoint

    with legacy.bygone_names(database=True):
        assert sys.modules["datajoint"] is not datajoint
    assert sys.modules["datajoint"] is datajoint


def test_stand_ins_say_what_is_missing() -> None:
    with legacy.bygone_names(database=True), pytest.raises(ImportError, match=r"datajoint\.Connection"):
        _ = sys.modules["datajoint"].Connection


def test_stacked_core_of_neuralpredictors_runs() -> None:
    core = legacy.Stacked2dCore(input_channels=1, hidden_channels=4, input_kern=5, hidden_kern=3, layers=2, stack=-1)
    assert core(torch.zeros(2, 1, 16, 20)).shape == (2, 4, 16, 20)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="Stacked9dCore"):
        _ = legacy.Stacked9dCore


def test_dotted_paths_lead_to_functions() -> None:
    builder = legacy.nnfabrik_builder()
    assert builder.resolve_model("pipeline.models.encoder.build_encoder").__name__ == "build_encoder"
    found = legacy.resolve_function("neuralpredictors.layers.readouts.FullGaussian2d")
    assert found is legacy.FullGaussian2d


@pytest.mark.parametrize(
    "path", ["build_encoder", "numpy.no_such_function", "no_such_package.model", "pipeline.errors.__doc__"]
)
def test_paths_that_lead_nowhere_are_refused_by_name(path: str) -> None:
    with pytest.raises(ConfigurationError, match=path.replace(".", r"\.")):
        legacy.resolve_function(path)


def test_nnfabrik_hashes_configurations() -> None:
    make_hash = sys.modules[legacy.nnfabrik_builder().__name__].utility.dj_helpers.make_hash
    assert make_hash({"a": 1, "b": [2]}) == make_hash({"b": [2], "a": 1}) != make_hash({"a": 1, "b": [3]})
