from __future__ import annotations

from pipeline.analysis.comparison import differing_settings, flat_settings
from pipeline.models import ConvGRU, Factorized3d, NoRecurrence, Stacked2d


def test_settings_carry_the_name_of_their_part() -> None:
    flat = flat_settings({"core": Stacked2d(layers=2), "recurrent": NoRecurrence()})
    assert flat["core_kind"] == "Stacked2d"
    assert flat["core_layers"] == 2
    assert flat["recurrent_kind"] == "NoRecurrence"
    assert set(flat) == {"core_kind", "recurrent_kind", *(f"core_{name}" for name in Stacked2d().settings())}


def test_only_what_differs_is_shown() -> None:
    models = [{"core": Stacked2d(layers=2)}, {"core": Stacked2d(layers=4)}, {"core": Stacked2d(layers=4, skip=2)}]
    frame = differing_settings(models)
    assert list(frame.columns) == ["core_layers", "core_skip"]
    assert frame.to_numpy().tolist() == [[2, 0], [4, 0], [4, 2]]
    assert differing_settings(models[:1]).shape == (1, 0)


def test_kinds_without_a_setting_have_none_of_it() -> None:
    frame = differing_settings([{"r": NoRecurrence()}, {"r": ConvGRU()}, {"r": ConvGRU()}])
    assert frame["r_kind"].tolist() == ["NoRecurrence", "ConvGRU", "ConvGRU"]
    assert {name for name in frame if frame[name][0] is None} == {f"r_{name}" for name in ConvGRU().settings()}
    mixed = differing_settings([{"core": Stacked2d()}, {"core": Factorized3d()}])
    assert mixed["core_hidden_channels"].tolist() == [32, (16, 16)]
