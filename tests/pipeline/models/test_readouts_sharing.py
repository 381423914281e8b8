"""Units that are one neuron have their features and places in common, once for all scans."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from pipeline import legacy
from pipeline.datasets.info import DataInfo, ScanInfo, data_info_from_json, data_info_to_json
from pipeline.errors import ConfigurationError
from pipeline.models import Encoder, Network, Stacked2d, build_encoder, encoder_to_bytes, load_encoder
from pipeline.models.readouts import FullGaussian2d, FullGaussian2dReadout, ReadoutSite

CHANNELS, HEIGHT, WIDTH = 4, 9, 12
MATCHES = {"a": (30, 10, 20, 10), "b": (10, 20, 30)}
"""Neurons 10, 20 and 30 are seen in both scans, neuron 10 twice in the first."""
INFO: DataInfo = {
    "a": ScanInfo((1, 2, 3), (1, 16, 18), (1.0, 0.5, 2.0), match_ids=(7, None, 5)),
    "b": ScanInfo((1, 2, 3, 4), (1, 16, 18), (1.0, 0.5, 2.0, 0.1), match_ids=(None, 5, None, 7)),
    "c": ScanInfo((1, 2), (1, 16, 18), (1.5, 0.7)),
}


def site(matches: tuple[int | None, ...], centers: torch.Tensor | None = None) -> ReadoutSite:
    return ReadoutSite(CHANNELS, HEIGHT, WIDTH, torch.linspace(-1, 1, len(matches)), match_ids=matches, centers=centers)


def built(share: str, **settings: object) -> dict[str, FullGaussian2dReadout]:
    """Return readouts of two scans in which every parameter matters."""
    torch.manual_seed(2)
    sites = {data_key: site(matches) for data_key, matches in MATCHES.items()}
    made = FullGaussian2d(share=share, **settings).build_all(sites)
    for readout in made.values():
        perturb(readout)
    return made


def perturb(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


def encoder(share: str, info: DataInfo = INFO, **settings: object) -> tuple[Network, Encoder]:
    network = Network(core=Stacked2d(hidden_channels=3, layers=2), readout=FullGaussian2d(share=share, **settings))
    return network, build_encoder(network, info, seed=1)


def maps() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(2, CHANNELS, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize("share", ["features", "grid", "both"])
def test_evaluation_equals_neuralpredictors(share: str) -> None:
    ours = built(share, gauss_type="full")
    shared: dict[str, torch.nn.Parameter | None] = {"features": None, "grid": None}
    for data_key, matches in MATCHES.items():
        options = {
            f"shared_{what}": {"match_ids": list(matches), f"shared_{what}": shared[what]}
            for what in shared
            if share in (what, "both")
        }
        theirs = legacy.FullGaussian2d((CHANNELS, HEIGHT, WIDTH), len(matches), True, **options).eval()
        mine = ours[data_key].eval()
        features = mine.features if mine.neurons.features is None else mine.neurons.features
        mu = mine.mu if mine.neurons.mu is None else mine.neurons.mu
        with torch.no_grad():
            theirs._features.copy_(features.t()[None, :, None])
            theirs._mu.copy_(mu[None, :, None])
            theirs.bias.copy_(mine.bias)
            if share != "grid":
                theirs.scales.copy_(mine.scales)
            if share != "features" and data_key == "b":
                theirs.mu_transform.load_state_dict(mine.mu_transform.state_dict())
        shared = {"features": theirs._features, "grid": theirs._mu}
        found = mine(maps())
        expected = torch.stack([theirs(maps()[:, :, t]) for t in range(3)], dim=2)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.positions(), theirs.mu[0, :, 0].clamp(-1, 1))
        torch.testing.assert_close(mine.feature_weights(), theirs.features[0, :, 0].t())


@pytest.mark.parametrize("share", ["features", "grid", "both"])
def test_shared_parameters_exist_once_and_all_get_gradients(share: str) -> None:
    _, made = encoder(share, init_sigma=0.1)
    names = [name for name, _ in made.named_parameters(remove_duplicate=False)]
    assert len(names) == len(list(made.parameters()))
    # Neurons 5 and 7, units 2 of a, 1 and 3 of b, and both of c.
    wanted = {"features": (7, 3), "mu": (7, 2)}
    shared = {n.split(".")[-1]: tuple(p.shape) for n, p in made.named_parameters() if ".neurons." in n}
    assert shared == {n: shape for n, shape in wanted.items() if share in ({"mu": "grid"}.get(n, n), "both")}
    for data_key, scan in INFO.items():
        responses = made(torch.randn(4, 1, 16, 18), data_key)
        assert responses.shape == (4, scan.n_units)
        (responses.square().sum() + sum(made.regularizer(data_key).values())).backward()
    assert [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("share", ["features", "grid", "both"])
def test_saved_loaded_and_copied_encoders_give_the_same(share: str) -> None:
    network, made = encoder(share)
    perturb(made)
    made.eval()
    images = torch.randn(3, 1, 16, 18)
    info = data_info_from_json(data_info_to_json(INFO))
    assert info == INFO
    loaded = load_encoder(network, info, encoder_to_bytes(made))
    twin = copy.deepcopy(made)
    before = {data_key: made(images, data_key) for data_key in INFO}
    perturb(made)
    for data_key, expected in before.items():
        assert torch.equal(loaded(images, data_key), expected)
        assert torch.equal(twin(images, data_key), expected), "a copy has neurons of its own"
    twin.double()
    assert twin(images.double(), "b").dtype == torch.float64, "what is lent moves with its owner"


def test_matched_units_differ_by_scale_and_bias_only() -> None:
    made = built("both")
    with torch.no_grad():
        made["b"].mu_transform.weight.copy_(torch.eye(2))
        made["b"].mu_transform.bias.zero_()
    raw = {}
    for data_key, readout in made.items():
        drive = readout.eval()(maps()) - readout.bias[:, None]
        raw[data_key] = drive / readout.scales[:, None]
        chosen = readout(maps(), unit_idx=[2, 0])
        torch.testing.assert_close(chosen, readout(maps())[:, [2, 0]])
        torch.testing.assert_close(readout(maps(), unit_idx=slice(1, 2)), readout(maps())[:, 1:2])
    for in_a, in_b in ((0, 2), (1, 0), (3, 0), (2, 1)):
        torch.testing.assert_close(raw["a"][:, in_a], raw["b"][:, in_b], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(raw["a"][:, 0], raw["a"][:, 1], atol=0.1)


def test_one_scan_teaches_its_neurons_to_the_other() -> None:
    made, wanted = built("both", init_sigma=0.01), torch.tensor([0.0, 1.0, 0.0, -1.0])
    x, y = torch.linspace(-1, 1, WIDTH), torch.linspace(-1, 1, HEIGHT)
    frames = torch.randn(64, CHANNELS, 1, 1, 1) * torch.exp(-2 * ((x - 0.4) ** 2 + (y[:, None] + 0.3) ** 2))
    responses = torch.einsum("bc,c->b", frames[:, :, 0, 3, 8], wanted)

    def correlation() -> torch.Tensor:
        """Of the units of scan b, whose scales and biases are as they were."""
        with torch.no_grad():
            return torch.corrcoef(torch.cat([responses[None], made["b"].eval()(frames)[..., 0].t()]))[0, 1:]

    assert correlation().max() < 0.5
    neurons = made["a"].neurons
    before = {name: value.clone() for name, value in neurons.state_dict().items()}
    optimiser = torch.optim.Adam(made["a"].parameters(), lr=0.03)
    for _ in range(150):
        optimiser.zero_grad()
        (made["a"](frames)[..., 0] - responses[:, None]).square().mean().backward()
        optimiser.step()
        made["a"].constrain()
    assert correlation().min() > 0.95
    assert (neurons.features - before["features"]).abs().amin(dim=1).min() > 1e-3
    assert (neurons.mu - before["mu"]).abs().min() > 1e-3


def test_a_neuron_is_penalised_once_as_the_mean_of_its_units() -> None:
    made = built("features", gamma_readout=0.5)
    total = sum(readout.regularizer()["readout"] for readout in made.values())
    of_neuron = made["a"].neurons.features.abs().sum(dim=1)
    a, b = made["a"].scales.abs(), made["b"].scales.abs()
    # In the order 10, 20, 30: units 1 and 3 of a with 0 of b, 2 with 1, 0 with 2.
    mean_scales = torch.stack([(a[1] + a[3] + b[0]) / 3, (a[2] + b[1]) / 2, (a[0] + b[2]) / 2])
    torch.testing.assert_close(total, 0.5 * (mean_scales * of_neuron).sum())
    theirs = legacy.FullGaussian2d(
        (CHANNELS, HEIGHT, WIDTH), 3, True, feature_reg_weight=0.5, shared_features={"match_ids": list(MATCHES["b"])}
    )
    alone = FullGaussian2d(share="features", gamma_readout=0.5).build(site(MATCHES["b"]))
    perturb(alone)
    with torch.no_grad():
        theirs._features.copy_(alone.neurons.features.t()[None, :, None])
        theirs.scales.copy_(alone.scales)
    torch.testing.assert_close(alone.regularizer()["readout"], theirs.regularizer())
    own = built("grid", gamma_readout=0.5)["b"]
    torch.testing.assert_close(own.regularizer()["readout"], 0.5 * own.features.abs().sum())


def test_neurons_start_at_the_mean_centre_of_their_units() -> None:
    torch.manual_seed(5)
    centers = {"a": torch.empty(4, 2).uniform_(-0.9, 0.9), "b": torch.empty(3, 2).uniform_(-0.9, 0.9)}
    centers["a"][0] = torch.tensor([1.8, 0.0])  # outside of the map: its border counts
    sites = {data_key: site(matches, centers[data_key]) for data_key, matches in MATCHES.items()}
    made = FullGaussian2d(share="grid", init_positions="triggered_average").build_all(sites)
    a, b = centers["a"].clamp(-1, 1), centers["b"]
    wanted = torch.stack([(a[1] + a[3] + b[0]) / 3, (a[2] + b[1]) / 2, (a[0] + b[2]) / 2])
    torch.testing.assert_close(made["a"].positions(), wanted[[2, 0, 1, 0]])
    torch.testing.assert_close(made["b"].positions(), wanted)
    drawn = FullGaussian2d(share="grid", init_mu_range=0.2).build_all(
        {data_key: dataclasses.replace(of, centers=None) for data_key, of in sites.items()}
    )
    assert 0 < drawn["b"].positions().abs().max() <= 0.2


def test_places_of_neurons_come_back_into_the_map() -> None:
    made = built("grid")["b"]
    assert "mu" not in dict(made.named_parameters())
    with torch.no_grad():
        made.neurons.mu.mul_(20)
    before = made.eval()(maps())
    made.constrain()
    assert made.neurons.mu.abs().max() == 1
    torch.testing.assert_close(made(maps()), before)
    with torch.no_grad():
        made.mu_transform.weight.mul_(3)
    assert made.positions().abs().max() == 1, "what a scan's own map carries outside is at the border"
    assert made.position_spread().shape == (3, 2)


@pytest.mark.parametrize("share", ["features", "both"])
def test_graph_is_traced_as_a_whole(share: str) -> None:
    for readout in built(share).values():
        torch._dynamo.reset()
        traced = torch.compile(readout.eval(), backend="eager", fullgraph=True)
        torch.testing.assert_close(traced(maps()), readout(maps()))


def test_half_precision_moves_no_place() -> None:
    made = built("grid")["b"].eval()
    expected = made.positions()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made.positions(), expected)


def test_sharing_is_refused_where_it_has_no_sense() -> None:
    alone = {data_key: dataclasses.replace(scan, match_ids=None) for data_key, scan in INFO.items()}
    with pytest.raises(
        ConfigurationError, match=r"share: 'both' needs units that .* no scan has: .* UnitMatch \(geniculate annotate"
    ):
        encoder("both", alone)
    encoder("none", alone)
    for share in ("grid", "both"):
        with pytest.raises(ConfigurationError, match="cannot be shared and come from a network"):
            FullGaussian2d(share=share, grid_mean_predictor="cortex")
    FullGaussian2d(share="features", grid_mean_predictor="cortex")
