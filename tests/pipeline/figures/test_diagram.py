from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.figures.checks import FigureError
from pipeline.figures.diagram import TableNode, schema_diagram
from pipeline.figures.layout import arrange

TABLES = [
    TableNode("Model", "model", "computed"),
    TableNode("Model.UnitScore", "model", "part"),
    TableNode("Subject", "recording", "manual"),
    TableNode("Scan", "recording", "manual"),
    TableNode("Scan.Unit", "recording", "part"),
    TableNode("Seed", "config", "lookup"),
    TableNode("CoreConfig", "config", "lookup"),
    TableNode("CoreConfig.Stacked2d", "config", "part"),
    TableNode("Dataset", "dataset", "imported"),
    TableNode("Dataset.Unit", "dataset", "part"),
]
EDGES = [
    ("Scan", "Subject", True),
    ("Scan.Unit", "Scan", True),
    ("CoreConfig.Stacked2d", "CoreConfig", True),
    ("Dataset", "Scan", True),
    ("Dataset.Unit", "Dataset", True),
    ("Dataset.Unit", "Scan.Unit", True),
    ("Model", "Dataset", True),
    ("Model", "CoreConfig", True),
    ("Model", "Seed", False),
    ("Model.UnitScore", "Model", True),
    ("Model.UnitScore", "Dataset.Unit", True),
]


def test_every_table_and_every_edge_is_drawn_once():
    (axes,) = schema_diagram(TABLES, EDGES).axes
    drawn = [text.get_gid() for text in axes.texts if text.get_gid()]
    assert sorted(drawn) == sorted(f"table:{table.name}" for table in TABLES)
    curves = [patch.get_gid() for patch in axes.patches if (patch.get_gid() or "").startswith("edge:")]
    assert sorted(curves) == sorted(f"edge:{child}:{parent}" for child, parent, _ in EDGES)
    labels = {text.get_gid(): text.get_text() for text in axes.texts}
    assert labels["table:Scan.Unit"] == "Unit"


def test_secondary_edges_are_dashed():
    (axes,) = schema_diagram(TABLES, EDGES).axes
    dashed = {
        patch.get_gid() for patch in axes.patches if patch.get_gid() and patch.get_linestyle() not in ("-", "solid")
    }
    assert dashed == {"edge:Model:Seed"}


def test_curves_begin_at_the_parent_and_end_at_the_child():
    layout = arrange(TABLES, EDGES, ["recording", "config", "dataset", "model"], 6.8, 8.5)
    (axes,) = schema_diagram(TABLES, EDGES, schema_order=["recording", "config", "dataset", "model"]).axes
    (curve,) = [patch for patch in axes.patches if patch.get_gid() == "edge:Model:CoreConfig"]
    parent, child = layout.slots["CoreConfig"], layout.slots["Model"]
    vertices = curve.get_path().vertices
    np.testing.assert_allclose(vertices[0], (parent.x + parent.width, parent.middle))
    np.testing.assert_allclose(vertices[-1], (child.x, child.middle))


def test_schemas_stand_from_left_to_right_and_parts_below_their_masters():
    slots = arrange(TABLES, EDGES, ["recording", "config", "dataset", "model"], 6.8, 8.5).slots
    assert slots["Scan"].x < slots["Seed"].x < slots["Dataset"].x < slots["Model"].x
    assert slots["Scan"].middle < slots["Subject"].middle
    for table in TABLES:
        if table.master:
            assert slots[table.name].x > slots[table.master].x
            assert slots[table.name].middle < slots[table.master].middle


def test_tables_do_not_overlap_and_corridors_touch_none():
    layout = arrange(TABLES, EDGES, ["recording", "config", "dataset", "model"], 6.8, 8.5)
    for one, other in itertools.combinations(layout.slots.values(), 2):
        if one.column == other.column:
            assert one.y >= other.y + other.height or other.y >= one.y + one.height
    for slot in layout.slots.values():
        for corridor in layout.corridors[slot.column]:
            # Half of a corridor's five lanes.
            assert not slot.y - 0.036 < corridor < slot.y + slot.height + 0.036


def test_texts_stay_inside_their_boxes():
    figure = schema_diagram(TABLES, EDGES)
    (axes,) = figure.axes
    slots = arrange(TABLES, EDGES, ["recording", "stimulus", "config", "dataset", "model"], 6.8, 8.5).slots
    for text in axes.texts:
        if text.get_gid():
            extent = text.get_window_extent().transformed(axes.transData.inverted())
            slot = slots[text.get_gid().removeprefix("table:")]
            assert slot.x < extent.x0 and extent.x1 < slot.x + slot.width, text.get_text()


@pytest.mark.parametrize(
    ("tables", "edges", "message"),
    [
        ([], [], "No tables"),
        ([*TABLES, TABLES[0]], [], "appear twice: Model"),
        ([TableNode("A", "x", "magic")], [], "tier 'magic'"),
        ([TableNode("A.B", "x", "part")], [], "Part A.B has no master"),
        (TABLES, [("Model", "Nothing", True)], "names Nothing"),
    ],
)
def test_tables_that_do_not_fit_together_are_named(tables, edges, message):
    with pytest.raises(FigureError, match=message):
        schema_diagram(tables, edges)
