from __future__ import annotations

import logging
from typing import Any

import pytest

from pipeline.errors import ConfigurationError
from pipeline.training.history import Epoch
from pipeline.training.hooks import find_hooks, tell

EPOCH = Epoch(3, 0.5, {"core": 0.1}, 0.4, 0, 0.01, "improved", 1.0, 7)
told: list[tuple[Any, Epoch]] = []


def note(key: Any, epoch: Epoch) -> None:
    told.append((key, epoch))


def fail(key: Any, epoch: Epoch) -> None:
    raise RuntimeError("no network")


def test_hooks_are_found_by_name() -> None:
    assert find_hooks("json:dumps, os.path:join") == (__import__("json").dumps, __import__("os").path.join)
    assert find_hooks("") == find_hooks(" , ") == ()


@pytest.mark.parametrize("name", ["no_such_module:hook", "json:no_such_function", "json:", "os:sep", "a b"])
def test_hooks_that_are_not_there_are_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match="hook"):
        find_hooks(name)


def test_a_hook_that_fails_stops_neither_training_nor_the_others(caplog: pytest.LogCaptureFixture) -> None:
    told.clear()
    with caplog.at_level(logging.ERROR):
        tell((fail, note), {"seed": 7}, EPOCH)
    assert told == [({"seed": 7}, EPOCH)]
    assert "fail failed at epoch 3" in caplog.text and "no network" in caplog.text
