"""What the report shows of readouts with masks, a shifter, areas and depths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.database, pytest.mark.slow]

Key = dict[str, Any]


@pytest.fixture(scope="module")
def analysed(simulated: Any, open_simulated: Any) -> Key:
    from pipeline.models import MLP, Factorized3d, FullFactorized2d, Network, NoModulator, NoRecurrence
    from populate.ingest import ingest
    from schemas import analysis, config, dataset, model, recording

    scan = ingest(open_simulated(simulated), "reported", 1, 1, screen_deg=(90.0, 60.0)).key
    units = [{**scan, "unit_id": unit} for unit in range(1, 7)]
    recording.AreaMembership.insert([{**units[0], "brain_area": "V1"}, {**units[3], "brain_area": "LM"}])
    recording.UnitPosition.insert(
        {**unit, "unit_x": 0, "unit_y": 0, "unit_z": 10.5 * i} for i, unit in enumerate(units)
    )
    (preprocessing,) = config.PreprocessingConfig.Movie.fill(frame_rate=30.0, height=17, width=27)
    dataset.Dataset.populate({**scan, **preprocessing})
    core = Factorized3d(hidden_channels=(2,), spatial_kernels=(5,), temporal_kernels=(3,), padding=False)
    key = {
        **dataset.MultiDataset.fill({**scan, **preprocessing}),
        **config.DataConfig.MovieClips.fill(clip_frames=40)[0],
        **config.NetworkConfig.add(Network(core, NoRecurrence(), FullFactorized2d(), MLP(), NoModulator())),
        **config.TrainConfig.Default.fill(max_epochs=1, batch_size=4)[0],
        "seed": 1009,
    }
    model.ModelSelection.fill(key)
    for table in (dataset.Oracle, model.Model, analysis.ReadoutAnalysis):
        table.populate(key)
    return key


def test_results_hold_masks_shifts_areas_and_depths(analysed: Key) -> None:
    from populate.results import scan_results
    from schemas import model

    encoder, info = model.Model.load_encoder(analysed)
    (data_key,) = info
    found = scan_results(analysed, info, data_key)
    assert found.readout["brain_area"].tolist() == ["V1", None, None, "LM", None, None]
    assert found.readout["unit_z"].tolist() == [0, 10.5, 21, 31.5, 42, 52.5]
    assert found.masks is not None
    assert np.array_equal(found.masks.masks, encoder.readouts[data_key].masks(slice(None)).detach().numpy())
    assert (found.masks.first_place_px, found.masks.pitch_px) == ((2, 2), 1)
    assert set(found.gaze_shifts_deg) == {(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)}


def test_the_report_shows_them(analysed: Key, tmp_path: Path) -> None:
    from populate.report import write_report

    page = write_report(analysed, tmp_path / "report.html").read_text(encoding="utf-8")
    for alt in (
        "Readout positions over the screen",
        "Readout positions by brain area",
        "Positions by depth",
        "Shifts of the readouts with the eye",
        "Spatial masks of readouts",
        "Feature weights of all readouts",
    ):
        assert f'alt="{alt}"' in page


def test_the_report_leaves_out_what_there_is_not(trained: Key, tmp_path: Path) -> None:
    from populate.report import write_report
    from schemas import analysis, dataset

    dataset.Oracle.populate(trained)
    analysis.ReadoutAnalysis.populate(trained)
    page = write_report(trained, tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'alt="Readout positions over the screen"' in page
    for alt in ("Readout positions by brain area", "Positions by depth", "Shifts of", "Spatial masks"):
        assert f'alt="{alt}' not in page
