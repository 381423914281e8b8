from __future__ import annotations

import dataclasses

import pytest
import safetensors.torch
import torch

from pipeline import models
from pipeline.datasets.batches import MovieBatch
from pipeline.datasets.info import DataInfo, ScanInfo
from pipeline.errors import ConfigurationError
from pipeline.models import (
    CORES,
    MLP,
    MODULATORS,
    READOUTS,
    RECURRENTS,
    SHIFTERS,
    ConvGRU,
    Encoder,
    Factorized3d,
    FullGaussian2d,
    MLPGain,
    Network,
    Stacked2d,
    build_encoder,
    encoder_to_bytes,
    load_encoder,
)

CORE = Factorized3d(hidden_channels=(4, 3), spatial_kernels=(5, 3), temporal_kernels=(4, 3))
FULL = Network(core=CORE, shifter=MLP(), modulator=MLPGain())
RECURRENT = dataclasses.replace(
    FULL, core=Stacked2d(hidden_channels=4, layers=2), recurrent=ConvGRU(hidden_channels=3), nonlinearity="softplus"
)


def scan(units: int = 6, size: tuple[int, int] = (13, 16), **more: object) -> ScanInfo:
    means = tuple(0.1 + 0.3 * u for u in range(units))
    return ScanInfo(tuple(range(units)), (1, *size), means, frame_rate=30.0, **more)


@pytest.fixture
def info() -> DataInfo:
    """Two scans of different sizes; one has a name that PyTorch would refuse and no eye position or behaviour."""
    return {"one": scan(n_behavior=2, mean_pupil_center=(0.0, 0.0)), "scan.2 forward": scan(4, (14, 15))}


def inputs(time: int = 12) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return {
        "inputs": torch.randn(2, 1, time, 13, 16),
        "behavior": torch.randn(2, 2, time),
        "pupil_center": torch.randn(2, 2, time),
    }


def strong(encoder: Encoder) -> Encoder:
    """Give shifter and modulator large weights, so that what they do can be seen."""
    torch.manual_seed(8)
    torch.nn.init.normal_(encoder.shifters["one"].layers[-2].weight)
    torch.nn.init.normal_(encoder.modulators["one"].last.weight)
    return encoder


@pytest.mark.parametrize("network", [FULL, RECURRENT])
def test_predictions_are_positive_and_as_long_as_announced(network: Network, info: DataInfo) -> None:
    encoder = build_encoder(network, info, seed=1).eval()
    predictions = encoder(data_key="one", **inputs())
    assert predictions.shape == (2, 6, 12 - encoder.lost_frames)
    assert (predictions > 0).all()
    other = encoder(torch.randn(3, 1, 9, 14, 15), "scan.2 forward")
    assert other.shape == (3, 4, 9 - encoder.lost_frames)
    assert encoder.data_keys == ("one", "scan.2 forward")


def test_prediction_is_made_of_the_parts_in_order(info: DataInfo) -> None:
    encoder = strong(build_encoder(FULL, info, seed=1)).eval()
    given = inputs()
    lost = encoder.lost_frames
    shift = encoder.shifters["one"](given["pupil_center"])[:, lost:]
    drive = encoder.readouts["one"](encoder.core(given["inputs"]), shift=shift)
    gain = encoder.modulators["one"].gain(given["behavior"])[..., lost:]
    expected = torch.nn.functional.elu(drive * gain) + 1
    torch.testing.assert_close(encoder(data_key="one", **given), expected)


def test_behaviour_and_pupil_belong_to_the_same_frame_as_the_prediction(info: DataInfo) -> None:
    encoder = strong(build_encoder(FULL, info, seed=1)).eval()
    given = inputs()
    before = encoder(data_key="one", **given)
    for name in ("behavior", "pupil_center"):
        for frame in (0, encoder.lost_frames, 11):
            other = given | {name: given[name].clone()}
            other[name][..., frame] += 1
            changed = (encoder(data_key="one", **other) - before).abs().amax(dim=(0, 1)) > 1e-6
            expected = [frame - encoder.lost_frames] if frame >= encoder.lost_frames else []
            assert torch.nonzero(changed).flatten().tolist() == expected


def test_missing_behaviour_and_pupil_are_neutral(info: DataInfo) -> None:
    encoder = strong(build_encoder(FULL, info, seed=1)).eval()
    given = inputs()
    features = encoder.core(given["inputs"])
    expected = torch.nn.functional.elu(encoder.readouts["one"](features)) + 1
    torch.testing.assert_close(encoder(given["inputs"], "one"), expected)
    assert not torch.allclose(encoder(data_key="one", **given), expected)


@pytest.mark.parametrize("network", [FULL, RECURRENT])
def test_chosen_units_equal_a_slice_of_all(network: Network, info: DataInfo) -> None:
    encoder = strong(build_encoder(network, info, seed=1)).eval()
    every = encoder(data_key="one", **inputs())
    for unit_idx in ([5, 2], (5, 2), range(1, 4), torch.tensor([3]), []):
        found = encoder(data_key="one", unit_idx=unit_idx, **inputs())
        torch.testing.assert_close(found, every[:, list(unit_idx)])


@pytest.mark.parametrize("network", [FULL, RECURRENT])
def test_gradients_reach_every_parameter_of_the_scan(network: Network, info: DataInfo) -> None:
    encoder = build_encoder(network, info, seed=1)
    encoder(data_key="one", **inputs()).square().sum().backward()
    without = {n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert without == {n for n, _ in encoder.named_parameters() if "scan%2E2" in n}


def test_seed_decides_the_weights_and_leaves_the_global_state(info: DataInfo) -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    first, again, other = (build_encoder(FULL, info, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.rand(1) == expected
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["core.first.spatial.weight"], other["core.first.spatial.weight"])


@pytest.mark.parametrize("network", [FULL, RECURRENT])
def test_saved_and_loaded_encoders_predict_the_same(network: Network, info: DataInfo) -> None:
    encoder = strong(build_encoder(network, info, seed=1))
    encoder(data_key="one", **inputs())  # moves the running statistics
    loaded = load_encoder(network, info, encoder_to_bytes(encoder))
    assert not loaded.training
    assert torch.equal(loaded(data_key="one", **inputs()), encoder.eval()(data_key="one", **inputs()))


def test_foreign_and_damaged_weights_are_refused(info: DataInfo) -> None:
    data = encoder_to_bytes(build_encoder(FULL, info, seed=1))
    with pytest.raises(ConfigurationError, match="damaged"):
        load_encoder(FULL, info, data[:200])
    smaller = dataclasses.replace(FULL, core=dataclasses.replace(CORE, hidden_channels=(4, 2)))
    with pytest.raises(ConfigurationError, match=r"core\.hidden\.0"):
        load_encoder(smaller, info, data)
    state = safetensors.torch.load(data)
    state.pop("core.first.norm.weight")
    with pytest.raises(ConfigurationError, match=r"core\.first\.norm\.weight differ"):
        load_encoder(FULL, info, safetensors.torch.save(state))


def test_modules_exist_only_for_scans_with_the_data(info: DataInfo) -> None:
    encoder = build_encoder(FULL, info, seed=1)
    assert list(encoder.shifters) == list(encoder.modulators) == ["one"]
    assert encoder.regularizer("one").keys() > {"readout", "shifter", "modulator", "core_input_spatial"}
    assert not encoder.regularizer("scan.2 forward").keys() & {"shifter", "modulator"}
    plain = build_encoder(Network(core=CORE), info, seed=1)
    assert len(plain.shifters) == len(plain.modulators) == 0


@pytest.mark.parametrize(
    ("network", "data", "message"),
    [
        (Network(core=CORE), {}, "at least one scan"),
        (Network(core=CORE, shifter=MLP()), {"a": scan()}, "use NoShifter"),
        (Network(core=CORE, modulator=MLPGain()), {"a": scan()}, "use NoModulator"),
        (Network(core=CORE, nonlinearity="relu"), {"a": scan()}, "no output non-linearity 'relu'"),
        (Network(core=Stacked2d(input_kern=15)), {"a": scan()}, "larger than the 13 x 16 px frames of 'a'"),
        (Network(core=CORE), {"a": dataclasses.replace(scan(), mean_responses=(1.0,))}, "6 units but 1 mean"),
        (
            Network(core=CORE),
            {"a": scan(), "b": dataclasses.replace(scan(), input_shape=(2, 13, 16))},
            "same number of input channels",
        ),
    ],
)
def test_networks_that_do_not_fit_are_refused(network: Network, data: DataInfo, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_encoder(network, data, seed=0)


def test_unknown_scans_and_short_movies_are_refused(info: DataInfo) -> None:
    encoder = build_encoder(FULL, info, seed=1)
    with pytest.raises(ConfigurationError, match=r"'two': it knows one, scan\.2 forward"):
        encoder(torch.zeros(1, 1, 12, 13, 16), "two")
    with pytest.raises(ConfigurationError, match="5 frames is too short: this model needs more than 5"):
        encoder(torch.zeros(1, 1, 5, 13, 16), "one")


def test_still_images_are_movies_of_one_frame(info: DataInfo) -> None:
    encoder = build_encoder(Network(core=Stacked2d(layers=2, hidden_channels=4)), info, seed=1).eval()
    images = torch.randn(5, 1, 1, 13, 16)
    predictions = encoder(images, "one")
    assert predictions.shape == (5, 6, 1)
    torch.testing.assert_close(predictions[3:4], encoder(images[3:4], "one"))


def test_registries_hold_kinds_with_defaults_and_distinct_hashes() -> None:
    for registry in (CORES, RECURRENTS, READOUTS, SHIFTERS, MODULATORS):
        assert all(getattr(models, kind.kind()) is kind and kind.kind() in models.__all__ for kind in registry)
        kinds = [kind() for kind in registry]
        assert len({kind.hash() for kind in kinds}) == len(registry)
        assert all(kind.from_dict(kind.settings()) == kind for kind in kinds)
    assert isinstance(Network().readout, FullGaussian2d)


def test_images_are_movies_of_one_frame() -> None:
    scan = ScanInfo((1, 2, 3), (2, 12, 14), (1.0, 0.5, 2.0), n_behavior=2, mean_pupil_center=(0.1, 0.2))
    network = Network(core=Stacked2d(hidden_channels=3), shifter=MLP(), modulator=MLPGain())
    encoder = build_encoder(network, {"a": scan}, seed=3).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        images, behavior, pupil = torch.randn(5, 2, 12, 14), torch.randn(5, 2), torch.randn(5, 2)
        found = encoder(images, "a", behavior=behavior, pupil_center=pupil, unit_idx=[2, 0])
        movies = encoder(images[:, :, None], "a", behavior=behavior[..., None], pupil_center=pupil[..., None])
    assert found.shape == (5, 2)
    torch.testing.assert_close(found, movies[:, [2, 0], 0])
    assert not torch.allclose(found, encoder(images, "a", unit_idx=[2, 0]), atol=1e-3)
    with pytest.raises(ConfigurationError, match=r"Factorized3d needs movies, .* which 'a' does not have"):
        build_encoder(Network(), {"a": scan}, seed=0)


def test_a_batch_is_answered_from_everything_it_carries(info: DataInfo) -> None:
    encoder = strong(build_encoder(FULL, info, seed=1)).eval()
    given = inputs()
    batch = MovieBatch(given["inputs"], torch.zeros(2, 6, 12), given["behavior"], given["pupil_center"])
    torch.testing.assert_close(encoder.respond(batch, "one"), encoder(data_key="one", **given))
    bare = MovieBatch(given["inputs"], torch.zeros(2, 6, 12))
    torch.testing.assert_close(encoder.respond(bare, "one", [3, 1]), encoder(given["inputs"], "one")[:, [3, 1]])


MEANS = {"behavior": (1.5, -0.5), "pupil_center": (0.3, 2.0)}


@pytest.mark.parametrize("names", [("behavior",), ("pupil_center",), ("behavior", "pupil_center")])
def test_the_training_mean_may_stand_for_behaviour_and_eye_position(names: tuple[str, ...]) -> None:
    known = scan(n_behavior=2, mean_behavior=MEANS["behavior"], mean_pupil_center=MEANS["pupil_center"])
    data: DataInfo = {"one": known, "two": dataclasses.replace(known, mean_behavior=(9.0, 9.0))}
    made = strong(build_encoder(FULL, data, seed=1))
    encoder = load_encoder(FULL, data, encoder_to_bytes(made))
    unknown = dataclasses.replace(known, mean_behavior=None)
    assert build_encoder(FULL, {"one": unknown, "two": unknown}, seed=1).state_dict().keys() == made.state_dict().keys()
    shown = inputs()["inputs"]
    written = {name: torch.tensor(MEANS[name])[None, :, None].repeat(2, 1, 12) for name in names}
    found = encoder(shown, "one", **dict.fromkeys(names, "mean"))
    torch.testing.assert_close(found, encoder(shown, "one", **written))
    assert not torch.allclose(found, encoder(shown, "one"), atol=1e-3)

    moved = encoder.to(torch.float64)(shown.double(), "one", **dict.fromkeys(names, "mean"))
    torch.testing.assert_close(moved.float(), found)


def test_the_training_mean_of_images_is_that_of_trials() -> None:
    known = scan(n_behavior=2, mean_behavior=MEANS["behavior"], mean_pupil_center=MEANS["pupil_center"])
    network = dataclasses.replace(FULL, core=Stacked2d(hidden_channels=4, layers=2))
    encoder = strong(build_encoder(network, {"one": known}, seed=1)).eval()
    images = torch.randn(5, 1, 13, 16)
    found = encoder(images, "one", behavior="mean", pupil_center="mean")
    written = {name: torch.tensor(mean).repeat(5, 1) for name, mean in MEANS.items()}
    torch.testing.assert_close(found, encoder(images, "one", **written))
    assert found.shape == (5, 6)


def test_unknown_means_and_words_are_refused(info: DataInfo) -> None:
    encoder = build_encoder(FULL, info, seed=1)
    shown = inputs()["inputs"]
    with pytest.raises(ConfigurationError, match="'one' has no known mean behavior: give a tensor, or None"):
        encoder(shown, "one", behavior="mean")
    with pytest.raises(ConfigurationError, match=r"'scan\.2 forward' has no known mean pupil_center"):
        encoder(torch.randn(2, 1, 12, 14, 15), "scan.2 forward", pupil_center="mean")
    for name in ("behavior", "pupil_center"):
        with pytest.raises(ConfigurationError, match=f"{name} is 'median': give a tensor, 'mean' for"):
            encoder(shown, "one", **{name: "median"})
