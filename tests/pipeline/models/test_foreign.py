from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import legacy
from pipeline.datasets.batches import ImageBatch, MovieBatch
from pipeline.datasets.info import ScanInfo, data_info_from_json, data_info_to_json
from pipeline.datasets.nnfabrik_form import in_nnfabrik_form, nnfabrik_data_info, stand_in
from pipeline.errors import ConfigurationError
from pipeline.models.foreign import ForeignEncoder
from pipeline.models.function import Function
from pipeline.models.weights import pack, unpack
from tests import laboratory

SIZE = (12, 14)
MEANS = (0.5, 1.0, 2.0)
IMAGES = {
    "a": ScanInfo((1, 2, 3), (1, *SIZE), MEANS, n_behavior=2, mean_behavior=(0.3, 0.4), mean_pupil_center=(1.0, 2.0)),
    "b": ScanInfo((7, 8), (1, *SIZE), (0.1, 0.2)),
}
ONE = {"b": IMAGES["b"]}
THREE = {"b": ScanInfo((1, 2, 3), (1, *SIZE), MEANS)}


def function(name: str, **arguments: Any) -> Function:
    return Function(function=f"tests.laboratory.{name}", arguments=json.dumps(arguments))


def loaders_of(info: dict[str, ScanInfo], batch: int = 5) -> dict[str, dict[str, list[Any]]]:
    generator = torch.Generator().manual_seed(1)

    def batches(scan: ScanInfo) -> list[Any]:
        time = () if scan.clip_frames is None else (scan.clip_frames,)
        shown = torch.randn(batch, scan.input_shape[0], *time, *SIZE, generator=generator)
        responses = torch.rand(batch, scan.n_units, *time, generator=generator)
        return [MovieBatch(shown, responses) if time else ImageBatch(shown, responses)] * 2

    return {tier: {key: batches(scan) for key, scan in info.items()} for tier in ("train", "validation")}


def test_a_network_of_neuralpredictors_predicts_what_it_does_alone() -> None:
    loaders = loaders_of(IMAGES)
    encoder = function("stacked_gaussian").build(IMAGES, 3, loaders).eval()
    alone = laboratory.stacked_gaussian(in_nnfabrik_form(loaders), 3).eval()
    for data_key, scan in IMAGES.items():
        shown = torch.randn(4, 1, *SIZE)
        wanted = alone(shown, data_key=data_key)
        assert torch.equal(encoder(shown, data_key), wanted)
        assert torch.equal(encoder(shown, data_key, unit_idx=[1, 0]), wanted[:, [1, 0]])
        assert torch.equal(encoder(shown, data_key, unit_idx=slice(1, 2)), wanted[:, 1:2])
        assert torch.equal(encoder.respond(ImageBatch(shown, torch.zeros(4, scan.n_units)), data_key), wanted)
        movie = torch.stack([shown, 2 * shown], dim=2)
        by_frame = torch.stack([wanted, alone(2 * shown, data_key=data_key)], dim=2)
        torch.testing.assert_close(encoder(movie, data_key), by_frame)
        assert set(encoder.regularizer(data_key)) == {"regularizer"}
        penalty = encoder.regularizer(data_key)["regularizer"]
        assert penalty == alone.core.regularizer() + alone.readout.regularizer(data_key=data_key)
    assert (encoder.data_keys, encoder.lost_frames, encoder.device.type) == (("a", "b"), 0, "cpu")
    with pytest.raises(ConfigurationError, match="nothing for the data_key 'c': it knows a, b"):
        encoder(shown, "c")


def test_the_seed_sets_the_weights_and_nothing_else() -> None:
    state = torch.random.get_rng_state()
    one, same, other = (function("linear").build(ONE, seed, loaders_of(ONE)).network.weights for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_models_come_back_from_their_file_without_data() -> None:
    settings = function("stacked_gaussian", hidden_channels=3)
    encoder = settings.build(IMAGES, 3, loaders_of(IMAGES))
    encoder.train()
    encoder(torch.randn(6, 1, *SIZE), "a")  # moves the running statistics
    again, info = unpack(settings, pack(encoder, IMAGES))
    assert info == IMAGES
    assert not again.training
    shown = torch.randn(4, 1, *SIZE)
    assert torch.equal(again(shown, "a"), encoder.eval()(shown, "a"))
    with pytest.raises(ConfigurationError, match="the weights belong to another network or other data: network"):
        unpack(function("stacked_gaussian", hidden_channels=5), pack(encoder, IMAGES))


@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize("clip_frames", [9, 6])  # 6 - 4 + 1 frames are as many as there are units
def test_movies_lose_the_frames_that_the_network_needs(time_first: bool, clip_frames: int) -> None:
    info = {"m": ScanInfo((1, 2, 3), (1, *SIZE), MEANS, frame_rate=30.0, clip_frames=clip_frames)}
    encoder = function("linear", frames=4, time_first=time_first).build(info, 1, loaders_of(info))
    assert encoder.lost_frames == 3
    movie = torch.randn(2, 1, 11, *SIZE)
    wanted = torch.nn.functional.softplus(torch.nn.functional.conv3d(movie, encoder.network.weights)[..., 0, 0])
    assert torch.equal(encoder(movie, "m"), wanted)
    assert wanted.shape == (2, 3, 8)
    assert encoder.regularizer("m")["regularizer"] == 0
    with pytest.raises(ConfigurationError, match="made for movies"):
        encoder(movie[:, :, 0], "m")


def test_signals_reach_those_that_take_them() -> None:
    seen: list[dict[str, Tensor]] = []

    class Looks(laboratory.Linear):
        def forward(self, stimulus: Tensor, behavior: Tensor | None = None, **others: Tensor) -> Tensor:
            seen.append({"behavior": behavior, **others})
            return super().forward(stimulus)

    info = {"a": IMAGES["a"]}
    encoder = ForeignEncoder(Looks((1, *SIZE), 3), info, "looks")
    assert seen[0]["behavior"].tolist() == [[pytest.approx(0.3), pytest.approx(0.4)]] * 2
    encoder(torch.randn(2, 1, *SIZE), "a", behavior="mean", pupil_center=torch.ones(2, 2))
    assert seen[-1]["data_key"] == "a"
    assert torch.equal(seen[-1]["behavior"], seen[0]["behavior"])
    assert torch.equal(seen[-1]["pupil_center"], torch.ones(2, 2))
    assert set(seen[-1]) == {"behavior", "data_key", "pupil_center"}
    alone = ForeignEncoder(laboratory.Linear((1, *SIZE), 3), info, "alone")
    assert torch.equal(
        alone(torch.ones(1, 1, *SIZE), "a", behavior=torch.ones(1, 2)), alone(torch.ones(1, 1, *SIZE), "a")
    )


@pytest.mark.parametrize(
    ("name", "info", "complaint"),
    [
        ("nowhere", ONE, r"'tests\.laboratory\.nowhere' does not lead to a function"),
        ("no_module", ONE, r"tests\.laboratory\.no_module must return a torch module .* returned a str"),
        ("transposed", THREE, r"makes a Transposed that predicts \(3, 2\) for 'b', not \(batch, 3 units\)"),
        ("tied", ONE, r"tied: the weights cannot be kept in a safetensors file \(.*memory"),
        ("fails", ONE, r"tests\.laboratory\.fails failed \(RuntimeError: no luck\)"),
        ("depends_on_the_data", ONE, r"makes another network on loaders of one mean batch.*: network\.core"),
        ("linear", IMAGES, r"tests\.laboratory\.linear failed \(ValueError"),
        ("poisson_trainer", ONE, r"poisson_trainer cannot be called with what it is given \(missing .*'dataloaders'"),
    ],
)
def test_functions_that_do_not_fit_are_refused(name: str, info: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        function(name).build(info, 1, loaders_of(info))


def test_paths_and_arguments_are_checked_before_anything_is_called() -> None:
    with pytest.raises(ConfigurationError, match="'print' is not a dotted path"):
        Function(function="print").build(ONE, 1)
    with pytest.raises(ConfigurationError, match=r"Function\.function is empty"):
        Function().build(ONE, 1)
    with pytest.raises(ConfigurationError, match="unexpected keyword argument 'colour'"):
        function("linear", colour=1).build(ONE, 1)
    with pytest.raises(ConfigurationError, match=r"Function\.arguments: seed cannot be among them"):
        function("linear", seed=1)


def test_mean_batches_have_the_shapes_and_means_of_the_scan() -> None:
    batch = stand_in(IMAGES["a"])
    assert isinstance(batch, ImageBatch)
    assert (batch.images.shape, batch.responses.tolist()) == ((2, 1, *SIZE), [list(MEANS)] * 2)
    assert batch.pupil_center is not None and batch.pupil_center.tolist() == [[1.0, 2.0]] * 2
    planes = ScanInfo((1,), (3, *SIZE), (0.5,), plane_means=(4.0, 5.0), clip_frames=7, n_opto=2)
    movie = stand_in(planes)
    assert isinstance(movie, MovieBatch)
    assert movie.videos.amin(dim=(0, 2, 3, 4)).tolist() == movie.videos.amax(dim=(0, 2, 3, 4)).tolist() == [0, 4, 5]
    assert (movie.responses.shape, movie.optogenetic_signal.shape) == ((2, 1, 7), (2, 2, 7))  # type: ignore[union-attr]
    assert data_info_from_json(data_info_to_json({"p": planes})) == {"p": planes}


def test_loaders_give_named_tuples_without_empty_fields() -> None:
    ((batch,),) = (
        [*loader] for loader in in_nnfabrik_form({"train": {"b": [stand_in(IMAGES["b"])]}})["train"].values()
    )
    assert batch._fields == ("images", "responses")
    with_all = in_nnfabrik_form({"test": {"a": [stand_in(IMAGES["a"])]}, "withheld": {"a": []}})
    assert list(with_all) == ["test"]
    dims = legacy_dims(with_all["test"])
    assert dims["a"] == {"images": (2, 1, *SIZE), "responses": (2, 3), "behavior": (2, 2), "pupil_center": (2, 2)}
    assert nnfabrik_data_info(ONE) == {
        "b": {
            "input_dimensions": (2, 1, *SIZE),
            "input_channels": 1,
            "output_dimension": 2,
            "img_mean": 0.0,
            "img_std": 1.0,
        }
    }


def legacy_dims(loaders: Any) -> dict[str, dict[str, tuple[int, ...]]]:
    """What nnfabrik's own helper reads off loaders."""
    helpers = legacy.nnfabrik_builder().utility.nn_helpers
    return {
        key: {n: tuple(s) for n, s in dims.items()} for key, dims in helpers.get_dims_for_loader_dict(loaders).items()
    }
