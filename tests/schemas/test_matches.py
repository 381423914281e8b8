"""Matches of units, from a laboratory's table to a model whose readouts share neurons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

Key = dict[str, Any]

MATCHES = {
    ("matched", 1): "unit_id,match_id\n1,900\n4,20\n5,900\n",
    ("matched", 2): "unit_id,match_id\n2,20\n6,900\n",
    ("other", 1): "unit_id,match_id\n3,20\n",
}


@pytest.fixture(scope="module")
def matched(simulated: Path, open_simulated: Any, tmp_path_factory: pytest.TempPathFactory) -> Key:
    """A MultiDataset of two scans of one animal and one of another, annotated, with a DataConfig."""
    from populate.annotations import annotate_from_csv
    from populate.ingest import ingest
    from schemas import config, dataset

    (preprocessing,) = config.PreprocessingConfig.Movie.fill(frame_rate=30.0, height=17, width=27)
    table, keys = tmp_path_factory.mktemp("matches") / "units.csv", []
    for (subject, scan_idx), text in MATCHES.items():
        keys.append({**ingest(open_simulated(simulated), subject, 1, scan_idx).key, **preprocessing})
        table.write_text(text)
        annotate_from_csv(keys[-1], table)
    dataset.Dataset.populate(keys)
    (data,) = config.DataConfig.MovieClips.fill(clip_frames=40)
    return {**dataset.MultiDataset.fill(keys, "matched scans"), **data}


def test_matches_travel_to_a_model_that_shares_neurons(matched: Key) -> None:
    from pipeline.models import Factorized3d, FullGaussian2d, Network, build_encoder
    from schemas.dataset import get_data_info, get_dataloaders

    info = get_data_info(matched)
    # Numbers count within an animal: 20 and 900 of the first, and another neuron 20 of the second.
    assert [scan.match_ids for scan in info.values()] == [
        (1, None, None, 0, 1, None),
        (None, 0, None, None, None, 1),
        (None, None, 2, None, None, None),
    ]
    core = Factorized3d(hidden_channels=(4,), spatial_kernels=(5,), temporal_kernels=(5,))
    encoder = build_encoder(Network(core=core, readout=FullGaussian2d(share="both")), info, seed=1)
    readouts = [encoder.readouts[data_key] for data_key in info]
    assert readouts[0].neurons.copies.tolist() == [2, 3, 1] + 12 * [1]
    a, b, c = (readout.positions() for readout in readouts)
    assert torch.equal(a[[3, 0, 0]], torch.stack([b[1], b[5], a[4]]))
    assert not torch.equal(a[3], c[2])
    assert not torch.equal(a[1], b[0]), "units without a match are a neuron each"
    loaders = get_dataloaders(matched, batch_size=2)["train"]
    for data_key, loader in loaders.items():
        batch = next(iter(loader))
        predicted = encoder(batch.inputs, data_key)
        assert predicted.shape[:2] == (2, 6)
