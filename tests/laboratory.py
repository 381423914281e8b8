"""Functions as a laboratory has them that works with nnfabrik and neuralpredictors; they know nothing of tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import legacy

CALLS: list[dict[str, Any]] = []
"""What trainers were given besides model, loaders and settings."""


def stacked_gaussian(dataloaders: Any, seed: int, hidden_channels: int = 4, gamma_readout: float = 0.01) -> nn.Module:
    """A stacked core with a Gaussian readout for each scan, whose biases start at the mean responses of a batch."""
    train = dataloaders["train"]
    batches = {data_key: next(iter(loader)) for data_key, loader in train.items()}
    in_name, out_name = next(iter(batches.values()))._fields[:2]
    images = {data_key: getattr(batch, in_name) for data_key, batch in batches.items()}
    torch.manual_seed(seed)
    core = legacy.Stacked2dCore(
        input_channels=next(iter(images.values())).shape[1],
        hidden_channels=hidden_channels,
        input_kern=5,
        hidden_kern=3,
        layers=2,
        gamma_input=0.1,
        stack=-1,
    )
    core.eval()
    with torch.no_grad():
        shapes = {data_key: core(shown[:1]).shape[1:] for data_key, shown in images.items()}
    core.train()
    activity = {data_key: getattr(batch, out_name).mean(0) for data_key, batch in batches.items()}
    readout = legacy.neuralpredictors_module("layers.readouts").MultiReadoutBase(
        base_readout=legacy.FullGaussian2d,
        in_shape_dict=shapes,
        n_neurons_dict={data_key: len(mean) for data_key, mean in activity.items()},
        mean_activity_dict=activity,
        bias=True,
        init_mu_range=0.3,
        init_sigma=0.3,
        gamma_readout=gamma_readout,
    )
    return legacy.neuralpredictors_module("layers.encoders").FiringRateEncoder(core=core, readout=readout)


class Linear(nn.Module):
    """One filter a unit; of movies, each over ``frames`` frames. Time may come before units."""

    def __init__(self, shape: tuple[int, ...], units: int, time_first: bool = False) -> None:
        super().__init__()
        self.weights = nn.Parameter(0.1 * torch.randn(units, *shape))
        self.time_first = time_first

    def forward(self, stimulus: Tensor) -> Tensor:
        """Return softplus of the filtered input."""
        if stimulus.dim() == 4:
            return nn.functional.softplus(torch.einsum("bchw,uchw->bu", stimulus, self.weights))
        drive = nn.functional.conv3d(stimulus, self.weights)[..., 0, 0]
        return nn.functional.softplus(drive.transpose(1, 2) if self.time_first else drive)


class Penalized(Linear):
    """The same with a penalty, called as neuralpredictors calls its models."""

    gamma = 1e-3

    def forward(self, stimulus: Tensor, data_key: str | None = None, **fields: Tensor) -> Tensor:
        """Return softplus of the filtered input."""
        return super().forward(stimulus)

    def regularizer(self, data_key: str | None = None) -> Tensor:
        """Return the weighted sum of the absolute weights."""
        return self.gamma * self.weights.abs().sum()


def linear(
    dataloaders: Any, seed: int, data_info: Any, frames: int = 0, time_first: bool = False, penalized: bool = False
) -> nn.Module:
    """A network of one scan that looks at nothing but ``data_info``; as it is, it has no penalty and no data_key."""
    (scan,) = data_info.values()
    *_, height, width = scan["input_dimensions"]
    time = (frames,) if frames else ()
    kind = Penalized if penalized else Linear
    return kind((scan["input_channels"], *time, height, width), scan["output_dimension"], time_first)


def poisson_trainer(
    model: nn.Module,
    dataloaders: Any,
    seed: int,
    epochs: int = 3,
    lr: float = 0.01,
    uid: Any = None,
    cb: Callable[..., Any] | None = None,
) -> tuple[float, dict[str, Any], dict[str, Tensor]]:
    """Descends the Poisson loss with the model's penalty and returns the last weights."""
    CALLS.append({"uid": uid, "model": type(model).__name__, "tiers": list(dataloaders)})
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    loss = 0.0
    for epoch in range(epochs):
        model.train()
        for data_key, batch in legacy.training.LongCycler(dataloaders["train"]):
            optimizer.zero_grad()
            predicted = model(batch[0], data_key=data_key, **batch._asdict())
            responses = batch[1][..., -predicted.shape[-1] :]
            total = (predicted - responses * torch.log(predicted + 1e-8)).sum() + model.regularizer(data_key)
            total.backward()
            optimizer.step()
            loss = total.item()
        if cb is not None:
            cb(uid=uid, epoch=epoch, model=model)
    return -loss, {"loss": loss}, model.state_dict()


def trainer_without_callback(model: nn.Module, dataloaders: Any, seed: int) -> tuple[float, None, dict[str, Tensor]]:
    """Draws noise around the weights; knows neither ``uid`` nor ``cb``."""
    CALLS.append({"noise": torch.randn(3).tolist()})
    return 0.0, None, {name: x + 0.1 * torch.randn_like(x) for name, x in model.state_dict().items()}


def depends_on_the_data(dataloaders: Any, seed: int) -> nn.Module:
    """As many hidden channels as there are trials in a batch."""
    (data_key,) = dataloaders["train"]
    trials = len(next(iter(dataloaders["train"][data_key]))[1])
    return stacked_gaussian(dataloaders, seed, hidden_channels=trials)


def no_module(dataloaders: Any, seed: int) -> str:
    """Returns no network."""
    return "a network"


def transposed(dataloaders: Any, seed: int, data_info: Any) -> nn.Module:
    """A network whose predictions are (unit, batch)."""

    class Transposed(Linear):
        def forward(self, stimulus: Tensor) -> Tensor:
            return super().forward(stimulus).T

    made = linear(dataloaders, seed, data_info)
    return Transposed(tuple(made.weights.shape[1:]), len(made.weights))


def tied(dataloaders: Any, seed: int, data_info: Any) -> nn.Module:
    """A network with the same parameter under two names."""
    made = linear(dataloaders, seed, data_info)
    made.again = made.weights
    return made


def fails(dataloaders: Any, seed: int) -> nn.Module:
    """Raises."""
    raise RuntimeError("no luck")


def returns_weights_alone(model: nn.Module, dataloaders: Any, seed: int) -> dict[str, Tensor]:
    """Forgets score and output."""
    return model.state_dict()


def returns_other_weights(model: nn.Module, dataloaders: Any, seed: int) -> tuple[float, None, dict[str, Tensor]]:
    """Returns the weights of another model."""
    return 0.0, None, {"other": torch.zeros(2)}


def returns_broken_weights(model: nn.Module, dataloaders: Any, seed: int) -> tuple[float, None, dict[str, Tensor]]:
    """Returns weights that are not a number."""
    return 0.0, None, {name: value * torch.nan for name, value in model.state_dict().items()}
