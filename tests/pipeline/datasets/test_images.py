from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.datasets.batches import ImageBatch
from pipeline.datasets.images import (
    EVALUATION_IMAGES,
    CorrectedAreaLayer,
    MultipleAreasMultipleLayers,
    MultipleAreasOneLayer,
    ScanImages,
)
from pipeline.datasets.loaders import PROCESS_BYTES, SCAN_BYTES, TRIAL_BYTES, ScanLoader, open_loaders
from pipeline.datasets.memory import Block
from pipeline.errors import ConfigurationError, DatasetError

TIERS = ["train"] * 20 + ["validation"] * 5 + ["test"] * 8
CONDITIONS = [*range(25), 25, 26, 27, 25, 26, 27, 25, 25]


@pytest.fixture(scope="module")
def scan(written: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("images") / "data"
    light = {3: np.array([1.0]), 21: np.array([1.0])}
    return written(path, TIERS, None, CONDITIONS, units=4, light=light)


def load(scan: Any, seed: int = 1, memory: int = 2**30, **settings: Any) -> dict[str, ScanLoader]:
    loaders, _ = open_loaders({"a": scan.path}, CorrectedAreaLayer(**settings), 8, seed, memory=memory)
    return {tier: of_tier["a"] for tier, of_tier in loaders.items()}  # type: ignore[misc]


def images(scan: Any, **settings: Any) -> ScanImages:
    dataset = load(scan, **settings)["train"].dataset
    assert isinstance(dataset, ScanImages)
    return dataset


def expected(scan: Any, row: int) -> list[np.ndarray]:
    trial = scan.trials[row]
    (pixel_mean,), (pixel_std,) = scan.moments("inputs")
    pupil_mean, pupil_std = scan.moments("pupil_x", "pupil_y")
    behavior = trial["behavior"] / scan.moments("pupil_size", "run")[1]
    return [
        (scan.stimuli[trial["condition_hash"]] - pixel_mean) / pixel_std,
        trial["responses"] / scan.moments("responses")[1],
        np.concatenate([behavior, trial["optogenetic_signal"]]),
        (trial["pupil_location"] - pupil_mean) / pupil_std,
        trial["optogenetic_signal"],
    ]


ASIDE = PROCESS_BYTES + SCAN_BYTES + 33 * TRIAL_BYTES + 2 * 20 * 4 * (30 + 4 + 2 * 5)
"""What loaders of `scan` take beside its data; batches of 20 images, 4 units and 5 signals are the largest."""


@pytest.mark.parametrize(("memory", "kept"), [(2**30, 33), (ASIDE + 1500, 22), (0, 0)])
def test_batches_are_the_normalised_tensors(scan: Any, memory: int, kept: int) -> None:
    loaders = load(scan, memory=memory)
    for _ in range(2):  # also once everything that may be is in memory
        order = [int(row) for batch in _again(loaders["train"]) for row in batch]
        rows = {"train": order, "validation": list(range(20, 25)), "test": list(range(25, 33))}
        for tier, wanted in rows.items():
            batches = list(loaders[tier])
            assert {field.dtype for batch in batches for field in batch} == {torch.float32}
            for found, row in zip(
                zip(*(torch.cat(f) for f in zip(*batches, strict=True)), strict=True), wanted, strict=True
            ):
                for one, other in zip(found, expected(scan, row), strict=True):
                    np.testing.assert_allclose(one, other, atol=1e-4)
    dataset: Any = loaders["train"].dataset
    assert sum(map(len, dataset._responses._held.values())) == kept


def _again(loader: ScanLoader) -> list[list[int]]:
    """The batches that the loader is about to give."""
    sampler: Any = loader.batch_sampler
    batches = list(sampler)
    sampler.epoch -= 1
    return batches


def test_an_epoch_sees_each_training_image_once(scan: Any) -> None:
    loader = load(scan)["train"]
    first, second = list(loader.batch_sampler), list(loader.batch_sampler)
    assert [len(batch) for batch in first] == [8, 8, 4]
    assert len(loader) == 3
    assert all(sorted(row for batch in epoch for row in batch) == list(range(20)) for epoch in (first, second))
    assert first != second
    again = load(scan)["train"].batch_sampler
    assert list(again) == first
    again.epoch = 1  # type: ignore[union-attr]
    assert list(again) == second
    assert list(load(scan, seed=2)["train"].batch_sampler) != first


def test_evaluation_is_in_order_of_time_and_knows_its_stimuli(scan: Any) -> None:
    loader = load(scan)["test"]
    assert loader.conditions == [f"c{c}" for c in CONDITIONS[25:]]
    dataset = images(scan)
    batches = dataset.whole_batches(list(range(EVALUATION_IMAGES + 3)))
    assert [len(batch) for batch in batches] == [EVALUATION_IMAGES, 3]


def test_batches_can_be_pickled(scan: Any) -> None:
    batch = next(iter(load(scan)["train"]))
    again = pickle.loads(pickle.dumps(batch))
    assert isinstance(again, ImageBatch)
    assert again.inputs is again.images
    assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))


def test_information_is_that_of_the_training_tier(scan: Any) -> None:
    dataset = images(scan)
    train = dataset.__getitems__(list(range(20)))
    info = dataset.info
    assert (info.unit_ids, info.input_shape, info.frame_rate) == ((101, 102, 103, 104), (1, 5, 6), None)
    np.testing.assert_allclose(info.mean_responses, train.responses.mean(0), rtol=1e-5)
    torch.testing.assert_close(train.responses.std(0), torch.ones(4))
    np.testing.assert_allclose(info.mean_behavior, train.behavior.mean(0), rtol=1e-5)
    assert info.mean_behavior[2] == pytest.approx(1 / 20)
    np.testing.assert_allclose(info.mean_pupil_center, (0, 0), atol=1e-5)
    torch.testing.assert_close(train.images.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_each_image_may_lose_its_own_mean(scan: Any) -> None:
    batch = images(scan, normalize_per_image=True).__getitems__([2, 24])
    std = scan.moments("inputs")[1][0]
    for found, name in zip(batch.images, ("c2", "c24"), strict=True):
        pixels = scan.stimuli[name].astype(float)
        np.testing.assert_allclose(found, (pixels - pixels.mean()) / std, atol=1e-5)
    raw = images(scan, normalize_per_image=True, exclude="images").__getitems__([2])
    assert np.array_equal(raw.images[0], scan.stimuli["c2"])


def test_channels_hold_the_normalised_signals_at_every_place(scan: Any) -> None:
    dataset = images(scan, behavior="channels", pupil="both", opto="channels")
    batch, plain = dataset.__getitems__([3, 5]), images(scan).__getitems__([3, 5])
    planes = torch.cat([plain.behavior[:, :2], plain.pupil_center, plain.optogenetic_signal], dim=1)
    assert torch.equal(batch.images[:, 1:], planes[..., None, None].expand(-1, -1, 5, 6))
    assert torch.equal(batch.images[:, :1], plain.images)
    assert batch.behavior is None
    assert torch.equal(batch.pupil_center, plain.pupil_center)
    assert (dataset.info.input_shape[0], dataset.info.pixel_channels) == (6, 1)
    means = [*images(scan).info.mean_behavior[:2], 0, 0, 1 / 20]
    np.testing.assert_allclose(dataset.info.plane_means, means, atol=1e-6)


def test_light_apart_is_a_field_of_its_own(scan: Any) -> None:
    dataset = images(scan, opto="apart")
    batch, plain = dataset.__getitems__([3, 5]), images(scan).__getitems__([3, 5])
    assert batch.optogenetic_signal.tolist() == [[1.0], [0.0]]
    assert torch.equal(batch.behavior, plain.behavior[:, :2])
    assert torch.equal(batch.images, plain.images)
    assert (dataset.info.n_opto, dataset.info.n_behavior, images(scan).info.n_opto) == (1, 2, 0)


def test_kinds_take_as_many_areas_and_layers_as_they_say() -> None:
    MultipleAreasMultipleLayers(brain_area="V1,LM", layer="L4,L2/3")
    MultipleAreasOneLayer(brain_area="V1,LM", layer="L4")
    CorrectedAreaLayer(brain_area="V1", layer="L4")
    with pytest.raises(ConfigurationError, match="'LM,V1' names several, use MultipleAreasOneLayer"):
        CorrectedAreaLayer(brain_area="V1,LM")
    for kind in (CorrectedAreaLayer, MultipleAreasOneLayer):
        with pytest.raises(ConfigurationError, match=f"{kind.__name__}.layer.*use MultipleAreasMultipleLayers"):
            kind(layer="L4,L5")


def test_withheld_responses_are_nan(written: Callable[..., Any], tmp_path: Any) -> None:
    made = written(tmp_path / "data", ["train"] * 3 + ["validation", "final"], None, withheld=(2, 4))
    loaders = load(made)
    assert loaders["train"].trials == [0, 1]
    (batch,) = loaders["withheld"]
    assert torch.isnan(batch.responses).all()
    assert "final" not in loaders
    np.testing.assert_allclose(batch.images[0], expected(made, 2)[0], atol=1e-4)


@pytest.mark.parametrize("name", ["responses", "behavior"])
def test_nan_is_refused_by_trial(written: Callable[..., Any], tmp_path: Any, name: str) -> None:
    made = written(tmp_path / "data", ["train"] * 3 + ["validation"], None, spoil={3: name})
    loaders = load(made, memory=0)
    list(loaders["train"])
    with pytest.raises(DatasetError, match=f"trial 13 of .* NaN or infinity in its .*{name}"):
        list(loaders["validation"])


def test_a_block_reads_what_it_keeps_once_and_the_rest_each_time() -> None:
    read: list[list[int]] = []

    def values(rows: np.ndarray) -> np.ndarray:
        read.append(rows.tolist())
        return np.stack([rows, rows**2], axis=1)

    block = Block(10)
    block.keep([7, 1, 4, 1])
    block.keep([4, 9])
    for rows in ([4, 0, 9, 7, 4], [9, 1], [0, 2]):
        assert block.take(np.array(rows), values).tolist() == [[row, row**2] for row in rows]
    assert sorted(read) == [[0], [0, 2], [1, 4, 7], [9]]
    again = pickle.loads(pickle.dumps(block))
    read.clear()
    again.take(np.array([7]), values)
    assert read == [[1, 4, 7]]
