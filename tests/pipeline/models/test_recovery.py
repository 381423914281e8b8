"""What simulated neurons were made of is found again: places, eye movements, gains, and where linear models fail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from pipeline.datasets.batches import ImageBatch
from pipeline.datasets.info import ScanInfo
from pipeline.models import MLP, Encoder, FullGaussian2d, MLPGain, Network, Stacked2d, StaticAffine2d, build_encoder
from pipeline.models.cores import CoreConfiguration, Linear
from pipeline.models.cores.gabor import quadrature_pairs
from pipeline.models.shifters import ShifterConfiguration
from pipeline.simulation.population import shift_movie
from pipeline.training import Default, train

HEIGHT, WIDTH = 20, 32
LINEAR = Linear(hidden_channels=6, input_kern=9, gamma_input=0.1)


@dataclass(frozen=True)
class Shown:
    """Images (image, height, width), responses (image, unit), and what else each image came with (image, channel)."""

    images: np.ndarray
    responses: np.ndarray
    behavior: np.ndarray | None = None
    pupil_center: np.ndarray | None = None

    def batches(self, first: int, last: int, size: int = 64) -> list[ImageBatch]:
        def part(values: np.ndarray | None, start: int) -> torch.Tensor | None:
            return None if values is None else torch.tensor(values[start : min(start + size, last)]).float()

        others = (self.responses, self.behavior, self.pupil_center)
        return [
            ImageBatch(part(self.images[:, None], start), *(part(values, start) for values in others))
            for start in range(first, last, size)
        ]


def noise_images(number: int, sigma: float, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    smooth = gaussian_filter(rng.standard_normal((number, *size)), (0, sigma, sigma))
    return smooth / smooth.std()


def center_surrounds(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fields (unit, height, width) of both signs and of several sizes around places (unit, 2) in x, y (px)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = (columns - places[:, :1, None]) ** 2 + (rows - places[:, 1:, None]) ** 2
    sigma = rng.uniform(1.5, 2.2, (len(places), 1, 1))
    center, surround = (np.exp(-distance / (2 * s**2)) / s**2 for s in (sigma, 2 * sigma))
    return rng.choice([-1, 1], (len(places), 1, 1)) * (center - 0.7 * surround)


def drives(images: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """Filtered images (image, unit) with a standard deviation of 1."""
    found = images.reshape(len(images), -1) @ fields.reshape(len(fields), -1).T
    return found / found.std(axis=0)


def rectified(drive: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(2 * drive - 0.5))


def counts(rates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of four Poisson counts."""
    return rng.poisson(4 * rates) / 4


def fit(network: Network, shown: Shown, epochs: int) -> Encoder:
    """Train on the first five sixths of the images, select on the others."""
    trained = len(shown.images) * 5 // 6
    pupil = shown.pupil_center
    scan = ScanInfo(
        tuple(range(shown.responses.shape[1])),
        (1, *shown.images.shape[1:]),
        tuple(shown.responses[:trained].mean(axis=0).tolist()),
        n_behavior=0 if shown.behavior is None else shown.behavior.shape[1],
        mean_pupil_center=None if pupil is None else tuple(pupil[:trained].mean(axis=0).tolist()),
    )
    encoder = build_encoder(network, {"a": scan}, seed=1)
    loaders = {
        "train": {"a": shown.batches(0, trained)},
        "validation": {"a": shown.batches(trained, len(shown.images))},
    }
    train(encoder, loaders, Default(lr_init=0.02, max_epochs=epochs, patience=4, lr_decay_steps=2), seed=1)
    return encoder


def half_map(encoder: Encoder) -> np.ndarray:
    """Pixels of the frame, in x and y, for which the readout's unit of length stands."""
    height, width = encoder.core.out_size(HEIGHT, WIDTH)
    return np.array([width - 1, height - 1]) / 2 * encoder.core.pitch


def places_of(encoder: Encoder) -> np.ndarray:
    """Where units look, (unit, 2), x and y in px."""
    row, column = encoder.core.first_place(HEIGHT, WIDTH)
    return (encoder.readouts["a"].positions().numpy() + 1) * half_map(encoder) + (column, row)


@pytest.mark.slow
def test_readouts_find_the_places_of_units_from_a_random_start() -> None:
    rng = np.random.default_rng(5)
    places = rng.uniform((4, 4), (WIDTH - 5, HEIGHT - 5), (24, 2))
    images = noise_images(1800, 2.0, (HEIGHT, WIDTH), rng)
    rates = rectified(drives(images, center_surrounds(places, rng)))
    wide = FullGaussian2d(init_sigma=1.0)  # so that units all over the frame are found
    encoder = fit(Network(LINEAR, readout=wide), Shown(images, counts(rates, rng)), epochs=40)
    distance = np.linalg.norm(places_of(encoder) - places, axis=1)
    assert (distance < 1).mean() >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("shifter", [StaticAffine2d(), MLP()], ids=lambda kind: kind.kind())
def test_shifters_find_how_the_image_moves_with_the_eye(shifter: ShifterConfiguration) -> None:
    """A constant shift is the positions' to have, so only how shifts depend on gaze is compared."""
    rng = np.random.default_rng(1)
    places = rng.uniform((9, 7), (WIDTH - 10, HEIGHT - 8), (12, 2))
    images = noise_images(1500, 2.0, (HEIGHT, WIDTH), rng)
    gaze = rng.standard_normal((len(images), 2))
    moved = gaze @ np.array([[1.5, -0.4], [0.3, 1.2]]) + (0.6, -0.5)  # px, x and y
    seen = shift_movie(images.astype(np.float32), right=moved[:, 0], down=moved[:, 1])
    rates = rectified(drives(seen, center_surrounds(places, rng)))
    network = Network(LINEAR, readout=FullGaussian2d(init_sigma=0.5), shifter=shifter)
    encoder = fit(network, Shown(images, counts(rates, rng), pupil_center=gaze), epochs=25)
    with torch.no_grad():
        found = encoder.shifters["a"](torch.tensor(gaze).float()[:, :, None])[:, 0].numpy() * half_map(encoder)
    for truth, learned in zip(moved.T, found.T, strict=True):
        slope, _ = np.polyfit(truth, learned, 1)
        assert np.corrcoef(truth, learned)[0, 1] > 0.95
        assert slope == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_gains_of_behaviour_are_found_also_where_they_suppress() -> None:
    """The same gain at all speeds is the readout's to have, so gains are compared with that at speed 0."""
    rng = np.random.default_rng(2)
    images = noise_images(1500, 2.0, (HEIGHT, WIDTH), rng)
    places = rng.uniform((7, 6), (WIDTH - 8, HEIGHT - 7), (8, 2))
    speed, speeds = rng.uniform(-1, 1, (len(images), 1)), np.linspace(-1, 1, 21)
    exponents = np.array([-1.2, -0.8, -0.8, -0.5, 0.0, 0.5, 0.8, 0.8])
    drive = (2 + drives(images, center_surrounds(places, rng))) * np.exp(speed * exponents)
    rates = np.where(drive > 0, drive + 1, np.exp(np.minimum(drive, 0)))  # elu + 1, the output of the encoder
    network = Network(LINEAR, readout=FullGaussian2d(init_sigma=0.5), modulator=MLPGain())
    encoder = fit(network, Shown(images, counts(rates, rng), behavior=speed), epochs=25)
    with torch.no_grad():
        found = encoder.modulators["a"].gain(torch.tensor(speeds).float()[None, None])[0].numpy()
    found /= found[:, [10]]
    truth = np.exp(exponents[:, None] * speeds)
    assert found == pytest.approx(truth, rel=0.25)
    steep = exponents != 0
    assert min(np.corrcoef(f, t)[0, 1] for f, t in zip(found[steep], truth[steep], strict=True)) > 0.95
    assert (found[exponents < 0, -1] < 0.75).all()
    assert (found[exponents > 0, -1] > 1.3).all()


@pytest.mark.slow
def test_linear_models_miss_complex_cells_and_convolutional_ones_find_them() -> None:
    size, pairs = 19, quadrature_pairs(5.0, 4, 0.5)[:, 0].numpy()
    edge = (size - pairs.shape[-1]) // 2
    rng = np.random.default_rng(3)
    images = noise_images(3000, 0.7, (size, size), rng)
    seen = images[:, edge : size - edge, edge : size - edge].reshape(len(images), -1)
    even, odd = np.split(seen @ pairs.reshape(len(pairs), -1).T, 2, axis=1)
    energy = even**2 + odd**2  # Adelson and Bergen 1985
    energy /= energy.mean(axis=0)
    shown = Shown(images[:2500], counts(2 * energy[:2500], rng))
    readout = FullGaussian2d(init_mu_range=0.1)
    stacked = Stacked2d(hidden_channels=8, input_kern=9, hidden_kern=3, layers=2, gamma_input=0.1)

    def correlations(core: CoreConfiguration, epochs: int) -> list[float]:
        """With the noiseless responses to new images, of each unit."""
        encoder = fit(Network(core, readout=readout), shown, epochs)
        with torch.no_grad():
            predicted = encoder(torch.tensor(images[2500:, None]).float(), "a").numpy()
        return [np.corrcoef(*pair)[0, 1] for pair in zip(predicted.T, energy[2500:].T, strict=True)]

    assert max(correlations(LINEAR, 10)) < 0.2
    assert np.median(correlations(stacked, 40)) > 0.7
