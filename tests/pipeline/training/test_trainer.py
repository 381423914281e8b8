from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pipeline.datasets.batches import ImageBatch, MovieBatch
from pipeline.datasets.info import ScanInfo
from pipeline.errors import TrainingError
from pipeline.metrics import single_trial_correlation
from pipeline.models import Encoder, Factorized3d, FullGaussian2d, Network, Stacked2d, build_encoder
from pipeline.training import TRAINERS, Checkpointing, Default, Epoch, predict, score, train
from pipeline.training.cycling import joint_batches

NETWORK = Network(
    core=Factorized3d(hidden_channels=(2,), spatial_kernels=(7,), temporal_kernels=(8,), gamma_input_spatial=0.1),
    readout=FullGaussian2d(init_mu_range=0.5, init_sigma=0.3, gauss_type="isotropic"),
)
SHORT = Default(max_epochs=3, lr_init=0.02)


@pytest.fixture
def population(make_population: Callable[..., Any]) -> Any:
    return make_population()


def weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in encoder.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def receptive_field_center(encoder: Encoder, unit: int) -> np.ndarray:
    """Return x, y in px of the pixel whose grey value moves a unit most, at the mean grey movie."""
    movie = torch.zeros(1, 1, encoder.lost_frames + 1, 11, 13, requires_grad=True)
    encoder(movie, "lgn", unit_idx=[unit]).sum().backward()
    y, x = np.unravel_index(movie.grad[0, 0].square().sum(dim=0).argmax().item(), (11, 13))
    return np.array([x, y])


def test_training_recovers_linear_nonlinear_units(make_population: Callable[..., Any]) -> None:
    population = make_population(units=4, train=64, validation=16)
    encoder = build_encoder(NETWORK, population.info, seed=1)
    result = train(encoder, population.loaders, Default(max_epochs=25, lr_init=0.02), seed=1)
    assert abs(result.initial_correlation) < 0.3
    assert 0.95 * population.ceiling < result.validation_correlation < 1.02 * population.ceiling
    for unit, center in enumerate(population.centers):
        assert np.linalg.norm(receptive_field_center(encoder, unit) - center) < 1.5


def test_result_tells_what_happened(population: Any) -> None:
    seen: list[Epoch] = []
    encoder = build_encoder(NETWORK, population.info, seed=1)
    before = score(encoder, population.loaders["validation"])
    result = train(encoder, population.loaders, SHORT, seed=1, on_epoch=seen.append)
    assert tuple(seen) == result.history
    assert [epoch.epoch for epoch in seen] == [1, 2, 3]
    assert result.stopped_by == "max_epochs"
    assert result.initial_correlation == pytest.approx(before.correlation)
    assert result.validation_correlation == max(e.validation_correlation for e in seen)
    assert result.validation_correlation == seen[result.best_epoch - 1].validation_correlation
    assert seen[-1].loss < seen[0].loss
    assert not encoder.training
    after = score(encoder, population.loaders["validation"])
    assert after.correlation == pytest.approx(result.validation_correlation, abs=1e-7)


def test_best_weights_are_kept_when_later_ones_are_worse(population: Any) -> None:
    encoder = build_encoder(NETWORK, population.info, seed=1)
    settings = Default(lr_init=0.3, patience=2, lr_decay_steps=1, lr_decay_factor=0.5)
    result = train(encoder, population.loaders, settings, seed=1)
    assert result.stopped_by == "patience"
    assert [epoch.verdict for epoch in result.history[-2:]] == ["waiting", "stop"]
    assert 0 < result.best_epoch <= len(result.history) - 2
    assert result.history[-1].validation_correlation < result.validation_correlation
    found = score(encoder, population.loaders["validation"]).correlation
    assert found == pytest.approx(result.validation_correlation, abs=1e-7)


def test_same_seed_same_weights(population: Any) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(found))  # the global state must not matter
        encoder = build_encoder(NETWORK, population.info, seed=1)
        train(encoder, population.loaders, SHORT, seed=seed)
        found.append(weights(encoder))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_training_leaves_the_global_random_state(population: Any) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(build_encoder(NETWORK, population.info, seed=1), population.loaders, SHORT, seed=1)
    assert torch.rand(1) == expected


class _InterruptionError(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_interrupted_training_ends_with_the_same_weights(population: Any, tmp_path: Path, optimizer: str) -> None:
    settings = Default(
        max_epochs=7, lr_init=0.3, patience=1, lr_decay_steps=5, lr_decay_factor=0.5, optimizer=optimizer
    )
    straight = build_encoder(NETWORK, population.info, seed=1)
    expected = train(straight, population.loaders, settings, seed=1)
    assert "cut" in {epoch.verdict for epoch in expected.history}

    def stop_after(last: int) -> Callable[[Epoch], None]:
        def check(epoch: Epoch) -> None:
            if epoch.epoch == last:
                raise _InterruptionError

        return check

    checkpoint = tmp_path / "nowhere yet" / "training.safetensors"
    for last in (2, 5):
        with pytest.raises(_InterruptionError):
            encoder = build_encoder(NETWORK, population.info, seed=1)
            train(encoder, population.loaders, settings, 1, stop_after(last), Checkpointing(checkpoint, every_epochs=1))
    resumed = build_encoder(NETWORK, population.info, seed=1)
    found = train(resumed, population.loaders, settings, seed=1, checkpointing=Checkpointing(checkpoint))
    assert same(weights(straight), weights(resumed))
    assert [dataclasses.replace(e, seconds=0) for e in found.history] == [
        dataclasses.replace(e, seconds=0) for e in expected.history
    ]
    assert [path.name for path in checkpoint.parent.iterdir()] == ["training.safetensors"]
    fresh = build_encoder(NETWORK, population.info, seed=9)
    again = train(fresh, population.loaders, settings, 1, checkpointing=Checkpointing(checkpoint))
    assert again == found, "a checkpoint of a training that had ended is its result"


def test_foreign_and_damaged_checkpoints_are_refused(population: Any, tmp_path: Path) -> None:
    checkpoint = tmp_path / "training.safetensors"

    def trained(seed: int, settings: Default = SHORT, network: Network = NETWORK, **info: Any) -> None:
        scan = dataclasses.replace(population.info["lgn"], **info)
        encoder = build_encoder(network, {"lgn": scan}, seed=1)
        train(encoder, population.loaders, settings, seed, checkpointing=Checkpointing(checkpoint))

    def replaced(part: str, **settings: Any) -> Network:
        return dataclasses.replace(NETWORK, **{part: dataclasses.replace(getattr(NETWORK, part), **settings)})

    trained(seed=1)
    others: list[dict[str, Any]] = [
        {"seed": 2},
        {"settings": dataclasses.replace(SHORT, patience=6)},
        {"network": replaced("core", gamma_input_spatial=0.2)},  # of the same shapes, as the next two are
        {"network": replaced("readout", gamma_readout=0.3)},
        {"network": dataclasses.replace(NETWORK, nonlinearity="softplus")},
        {"unit_ids": (7, 8, 9, 10)},
        {"input_mean": 100.0},
    ]
    for other in others:
        with pytest.raises(TrainingError, match="another training"):
            trained(**{"seed": 1, **other})
    trained(seed=1)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="damaged"):
        trained(seed=1)


def test_missing_response_is_named(population: Any) -> None:
    encoder = build_encoder(NETWORK, population.info, seed=1)
    with pytest.raises(TrainingError, match=r"epoch 1, batch 2, 'lgn', unit 3 \(of 4, counted from 0\)"):
        train(encoder, population.with_nan(batch=2, unit=3), SHORT, seed=1)


def test_infinite_penalty_is_told_from_bad_data(population: Any) -> None:
    encoder = build_encoder(NETWORK, population.info, seed=1)
    with torch.no_grad():
        encoder.readouts["lgn"].features[0, 0] = math.inf
        encoder.readouts["lgn"].mu[:] = 0
    with pytest.raises(TrainingError, match="epoch 1, batch 0"):
        train(encoder, population.loaders, SHORT, seed=1)


def test_empty_and_constant_data_are_refused(population: Any) -> None:
    encoder = build_encoder(NETWORK, population.info, seed=1)
    with pytest.raises(TrainingError, match="no validation loaders"):
        train(encoder, {"train": population.loaders["train"]}, SHORT, seed=1)
    with pytest.raises(TrainingError, match="'lgn' has no train batches"):
        train(encoder, population.loaders | {"train": {"lgn": []}}, SHORT, seed=1)
    silent = [
        batch._replace(responses=torch.zeros_like(batch.responses)) for batch in population.loaders["validation"]["lgn"]
    ]
    with pytest.raises(TrainingError, match="undefined for every unit"):
        train(encoder, population.loaders | {"validation": {"lgn": silent}}, SHORT, seed=1)


def test_predictions_are_aligned_with_responses(population: Any) -> None:
    encoder = build_encoder(NETWORK, population.info, seed=1).train()
    loader = population.loaders["validation"]["lgn"]
    pairs = predict(encoder, loader, "lgn")
    assert encoder.training, "the encoder is left in the mode it was in"
    assert len(pairs) == 8
    encoder.eval()
    for trial, (responses, predictions) in enumerate(pairs):
        assert responses.shape == predictions.shape == (4, 40 - encoder.lost_frames)
        np.testing.assert_array_equal(responses, loader[0].responses[trial, :, encoder.lost_frames :])
        alone = encoder(loader[0].videos[trial : trial + 1], "lgn")[0].detach()
        np.testing.assert_allclose(predictions, alone, rtol=1e-4, atol=1e-5)
    responses, predictions = zip(*pairs, strict=True)
    expected = single_trial_correlation(responses, predictions).mean()
    assert score(encoder, {"lgn": loader}).correlation == pytest.approx(expected)


def test_silent_units_are_counted_and_left_out(population: Any) -> None:
    encoder = build_encoder(NETWORK, population.info, seed=1)
    batch = population.loaders["validation"]["lgn"][0]
    responses = batch.responses.clone()
    responses[:, 2] = 0
    found = score(encoder, {"lgn": [batch._replace(responses=responses)]})
    full = score(encoder, {"lgn": [batch]})
    assert (found.undefined_units, full.undefined_units) == (1, 0)
    assert math.isfinite(found.correlation)


def test_scans_with_fewer_batches_start_over() -> None:
    def batch(number: int) -> MovieBatch:
        return MovieBatch(torch.full((1,), float(number)), torch.zeros(1))

    class Loader(list):
        class Sampler:
            epoch = 0

        batch_sampler = Sampler()

        def __iter__(self):
            orders.append(self.batch_sampler.epoch)
            return super().__iter__()

    orders: list[int] = []
    loaders = {"long": [batch(i) for i in range(5)], "short": Loader([batch(10), batch(11)])}
    steps = [(b["long"].videos.item(), b["short"].videos.item()) for b in joint_batches(loaders, epoch=2)]
    assert steps == [(0, 10), (1, 11), (2, 10), (3, 11), (4, 10)]
    assert orders == [3, 4, 5], "each pass has an order of its own that depends on the epoch only"


def first_gradient(encoder: Encoder, parameter: str, loaders: Any, steps: int, **settings: Any) -> torch.Tensor:
    """Return the gradient of a parameter in the first step, which adds up ``steps`` backward passes."""
    found: list[torch.Tensor] = []
    hooked = encoder.get_parameter(parameter)
    handle = hooked.register_post_accumulate_grad_hook(lambda p: found.append(p.grad.clone()))
    train(encoder, loaders, Default(max_epochs=1, **settings), seed=1)
    handle.remove()
    return found[steps - 1]


def test_a_step_adds_up_the_losses_of_all_scans(population: Any) -> None:
    def gradient(data_keys: str) -> torch.Tensor:
        encoder = build_encoder(NETWORK, {key: population.info["lgn"] for key in data_keys}, seed=1)
        with torch.no_grad():  # all scans alike, and nothing sampled
            for key in data_keys:
                encoder.readouts[key].mu.copy_(torch.linspace(-0.5, 0.5, 8).reshape(4, 2))
                encoder.readouts[key].sigma.zero_()
        loaders = {tier: dict.fromkeys(data_keys, batches["lgn"]) for tier, batches in population.loaders.items()}
        return first_gradient(encoder, "core.first.spatial.weight", loaders, steps=len(data_keys))

    torch.testing.assert_close(gradient("ab"), 2 * gradient("a"), rtol=1e-4, atol=1e-4)


def test_scaling_and_averaging_change_the_gradient_by_known_factors(population: Any) -> None:
    def gradient(**settings: Any) -> torch.Tensor:
        encoder = build_encoder(NETWORK, population.info, seed=1)
        return first_gradient(encoder, "readouts.scan:lgn.bias", population.loaders, steps=1, **settings)

    plain = gradient(scale_loss=False)
    torch.testing.assert_close(gradient(scale_loss=True), plain * math.sqrt(3))
    elements = 8 * 4 * 33
    torch.testing.assert_close(gradient(scale_loss=False, average_loss=True), plain / elements)


def test_long_gradients_are_shortened(population: Any) -> None:
    encoder = build_encoder(NETWORK, population.info, seed=1)
    norms: list[float] = []

    def watch(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.sqrt(sum(g.square().sum() for g in grads)).item())

    handle = register_optimizer_step_pre_hook(watch)
    try:
        train(encoder, population.loaders, Default(max_epochs=1, max_gradient_norm=0.5), seed=1)
    finally:
        handle.remove()
    assert norms == pytest.approx([0.5] * 3, rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_number_formats_learn(population: Any, precision: str) -> None:
    encoder = build_encoder(NETWORK, population.info, seed=1)
    result = train(encoder, population.loaders, Default(max_epochs=4, lr_init=0.02, precision=precision), seed=1)
    losses = [epoch.loss for epoch in result.history]
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    assert all(p.dtype == torch.float32 for p in encoder.parameters())


def test_registry() -> None:
    assert [kind.kind() for kind in TRAINERS] == ["Default", "Function"]


def test_training_on_images_finds_the_receptive_fields_of_linear_units() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(640, 1, 11, 13)).astype(np.float32)
    places = ((3, 4), (8, 6), (6, 2))  # x, y
    signs = (1, -1, 1)
    y, x = np.mgrid[:11, :13]
    fields = np.stack([s * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 2) for s, (a, b) in zip(signs, places, strict=True)])
    drive = np.einsum("nhw,uhw->nu", images[:, 0], fields)
    responses = (2 + drive / drive.std(axis=0) * 0.6).clip(0).astype(np.float32)

    def batches(start: int, stop: int) -> list[ImageBatch]:
        cuts = [slice(i, i + 32) for i in range(start, stop, 32)]
        return [ImageBatch(torch.tensor(images[cut]), torch.tensor(responses[cut])) for cut in cuts]

    loaders = {"train": {"v1": batches(0, 512)}, "validation": {"v1": batches(512, 640)}}
    centers = tuple((a + 1.0, b - 1.0) for a, b in places)  # a pixel away: training must move there
    info = {"v1": ScanInfo((1, 2, 3), (1, 11, 13), tuple(responses.mean(0).tolist()), field_centers=centers)}
    core = Stacked2d(hidden_channels=4, input_kern=5, layers=1, gamma_input=0.0)
    encoder = build_encoder(Network(core=core, readout=FullGaussian2d(init_sigma=0.1)), info, seed=1)
    result = train(encoder, loaders, Default(max_epochs=25, lr_init=0.02), seed=1)
    assert result.validation_correlation > 0.9
    grey = torch.zeros(1, 1, 11, 13, requires_grad=True)
    found = [torch.autograd.grad(encoder(grey, "v1")[0, unit], grey)[0][0, 0] for unit in range(3)]
    for unit, gradient in enumerate(found):
        assert np.corrcoef(gradient.numpy().ravel(), fields[unit].ravel())[0, 1] > 0.9
    pairs = predict(encoder, loaders["validation"]["v1"], "v1")
    assert len(pairs) == 128
    assert all(one.shape == other.shape == (3, 1) for one, other in pairs)
    np.testing.assert_array_equal(np.stack([r[:, 0] for r, _ in pairs]), responses[512:])


def test_nan_in_the_responses_to_images_names_the_unit() -> None:
    responses = torch.ones(4, 3)
    responses[2, 1] = math.nan
    batch = ImageBatch(torch.zeros(4, 1, 11, 13), responses)
    info = {"v1": ScanInfo((1, 2, 3), (1, 11, 13), (1.0, 1.0, 1.0))}
    encoder = build_encoder(Network(core=Stacked2d(hidden_channels=2, layers=1)), info, seed=1)
    loaders = {"train": {"v1": [batch]}, "validation": {"v1": [batch._replace(responses=torch.ones(4, 3))]}}
    with pytest.raises(TrainingError, match=r"epoch 1, batch 0, 'v1', unit 1 \(of 3"):
        train(encoder, loaders, Default(max_epochs=1), seed=1)
