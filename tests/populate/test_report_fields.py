"""What the report shows of receptive fields and tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.database, pytest.mark.slow]

Key = dict[str, Any]


def test_the_report_shows_what_was_asked_for(trained: Key, tmp_path: Path) -> None:
    from populate.report import write_report
    from schemas import analysis, config, dataset, receptive_field, tuning

    dataset.Oracle.populate(trained)
    analysis.ReadoutAnalysis.populate(trained)
    without = write_report(trained, tmp_path / "without.html").read_text(encoding="utf-8")
    receptive_field.GradientFieldSelection.fill(config.FieldConfig.AtGrey.fill(lags=5), trained)
    receptive_field.TriggeredAverageSelection.fill(
        config.TriggeredConfig.Triggered.fill(lags=5, permutations=3),
        {name: trained[name] for name in ("group_id", "data_hash")},
    )
    receptive_field.GradientReceptiveField.populate(trained)
    receptive_field.SpikeTriggeredAverage.populate({name: trained[name] for name in ("group_id", "data_hash")})
    stimuli = [
        *config.TuningConfig.Gratings.fill(
            directions=8, spatial_frequencies=[(0.02, 0.05, 0.1)], temporal_frequencies=[(4.0,)], duration=0.4
        ),
        *config.TuningConfig.Spots.fill(diameters=[(10.0, 30.0, 60.0)], duration=0.2),
    ]
    tuning.TuningSelection.fill(stimuli, trained)
    tuning.UnitTuning.populate(trained)
    page = write_report(trained, tmp_path / "report.html").read_text(encoding="utf-8")
    for alt in (
        "Gradient of each unit&#39;s response in the model",
        "Average of the training stimuli around the recorded responses",
        "Direction tuning, gratings",
        "Frequency tuning, gratings",
        "Tuning to size",
    ):
        assert f'alt="{alt}"' in page, alt
        assert f'alt="{alt}"' not in without
