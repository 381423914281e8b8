"""What the report shows of most exciting inputs, of movies and of images."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.database, pytest.mark.slow]

Key = dict[str, Any]


def with_meis(key: Key, settings: Key, units: str) -> Key:
    from schemas import analysis, config, dataset, mei, receptive_field, recording, selection

    target = selection.TargetDataset.fill(key, "shown", recording.Scan.Unit & units)
    selection.TargetModel.insert1(key, ignore_extra_fields=True, skip_duplicates=True)
    mei.MEI.populate({**key, **target, **settings})
    receptive_field.GradientFieldSelection.fill(config.FieldConfig.AtGrey.fill(lags=5), key)
    for table in (dataset.Oracle, analysis.ReadoutAnalysis, receptive_field.GradientReceptiveField):
        table.populate(key)
    return key


def pictures(page: str) -> dict[str, str]:
    """The kind of every picture by the words that stand for it."""
    return {alt: kind for kind, alt in re.findall(r'<img src="data:image/([a-z+]+);base64,[^"]*" alt="([^"]*)"', page)}


def test_movies_move(group: Key, network: Key, tmp_path: Path) -> None:
    from populate.report import write_report
    from schemas import config, model

    trained = {
        **group,
        **config.DataConfig.MovieClips.fill(clip_frames=32)[0],
        **network,
        **config.TrainConfig.Default.fill(max_epochs=1, batch_size=4)[0],
        "seed": 1009,
    }
    model.ModelSelection.fill(trained)
    model.Model.populate(trained)
    settings = config.MEIConfig.Movie.fill(frames=8, iterations=4, norm=4.0)[0]
    key = with_meis(trained, settings, "unit_id in (1, 2, 4)")
    page = write_report(key, tmp_path / "report.html").read_text(encoding="utf-8")
    assert pictures(page)["Most exciting movies"] == "gif"
    assert "MEIs beside receptive fields" in pictures(page)
    assert "the gradient of the model at the field&#39;s best lag" in page
    (gif,) = re.findall(r"data:image/gif;base64,([^\"]*)", page)
    assert base64.b64decode(gif).startswith(b"GIF89a")
    assert "The movie that each unit of &#39;shown&#39;" in page


def test_images_stand_in_a_gallery_and_beside_their_fields(stored_images: Key, tmp_path: Path) -> None:
    from pipeline.models import FullGaussian2d, Network, NoModulator, NoRecurrence, NoShifter, Stacked2d
    from populate.report import write_report
    from schemas import config, dataset, model

    core = Stacked2d(hidden_channels=3, layers=1, input_kern=5)
    network = Network(core, NoRecurrence(), FullGaussian2d(), NoShifter(), NoModulator())
    key = {
        **dataset.MultiDataset.fill(stored_images, "reported images"),
        **config.DataConfig.CorrectedAreaLayer.fill()[0],
        **config.NetworkConfig.add(network),
        **config.TrainConfig.Default.fill(max_epochs=1, batch_size=8)[0],
        "seed": 1009,
    }
    model.ModelSelection.fill(key)
    model.Model.populate(key)
    settings = config.MEIConfig.Modern.fill(iterations=4, norm=4.0)[0]
    page = write_report(with_meis(key, settings, "subject = 'still'"), tmp_path / "report.html").read_text("utf-8")
    assert {"Most exciting images", "Fields beside MEIs"} <= set(pictures(page))
    assert "gif" not in pictures(page).values()
    assert "The image that each unit of &#39;shown&#39;" in page
    assert "With the gradient of the model, " in page
