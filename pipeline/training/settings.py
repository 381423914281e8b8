"""The settings of the trainer."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.configuration import Configuration, setting
from pipeline.errors import ConfigurationError

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Default(Configuration):
    """Gradient descent that stops when the validation correlation stalls; then from the best weights at a smaller rate.

    An evaluation is the single-trial correlation on the validation tier after an epoch. The defaults are those of the
    Sensorium trainers. With a ``schedule`` and ``accumulate_scans=False`` it is the trainer of staticnet: one stage of
    fresh moments for each learning rate, one step a batch.
    """

    batch_size: int = setting(8, "training clips or images in a batch of one scan", ge=1)
    order_seed: int = setting(1, "seed of the order of batches and the places of clips, the same for all models", ge=0)
    accumulate_scans: bool = setting(
        True, "a step adds up one batch of every scan; otherwise each batch is a step, scan after scan"
    )
    optimizer: str = setting("adamw", "optimiser", choices=("adam", "adamw", "sgd"))
    momentum: float = setting(0.9, "of the steps of sgd", ge=0, lt=1)
    weight_decay: float = setting(0.0, "weight decay of the optimiser", ge=0)
    lr_init: float = setting(0.005, "learning rate at the start", gt=0)
    lr_decay_factor: float = setting(0.3, "what a cut multiplies the learning rate by", gt=0, lt=1)
    lr_decay_steps: int = setting(3, "cuts of the learning rate before training ends", ge=0)
    min_lr: float = setting(1e-4, "training ends rather than go below this learning rate", ge=0)
    schedule: tuple[float, ...] = setting(
        (), "learning rates of the stages, instead of those that follow from the four settings above", gt=0
    )
    warmup_epochs: int = setting(
        0, "epochs in which the learning rate rises from zero, step by step", unit="epochs", ge=0
    )
    patience: int = setting(5, "evaluations without improvement before the learning rate is cut", unit="epochs", ge=1)
    min_delta: float = setting(1e-6, "rise of the correlation that counts as improvement", ge=0)
    max_epochs: int = setting(200, "epochs after which training ends in any case", unit="epochs", ge=1)
    loss: str = setting("poisson", "training loss", choices=("poisson", "mse", "exponential", "gamma", "correlation"))
    full_loss: bool = setting(False, "add the terms of the Poisson loss that depend on the responses alone")
    correlation_weight: float = setting(
        0.0, "weight of one minus each unit's correlation in the batch, added to the loss of each response", ge=0
    )
    average_loss: bool = setting(False, "mean of the loss over clips, units and frames instead of their sum")
    scale_loss: bool = setting(True, "multiply the loss of a batch by the root of the scan's batches in an epoch")
    max_gradient_norm: float | None = setting(None, "scale longer gradients down to this norm", gt=0)
    ema_decay: float | None = setting(
        None, "evaluate and keep a running mean of the weights, of which each step keeps this share", gt=0, lt=1
    )
    precision: str = setting(
        "float32", "number format of the forward pass in training", choices=("float32", "bfloat16")
    )
    compiled: bool = setting(False, "compile the network with torch.compile; pays for long trainings")

    def __post_init__(self) -> None:
        """Refuse settings that would have no effect."""
        super().__post_init__()
        if self.full_loss and self.loss != "poisson":
            raise ConfigurationError(
                f"{self.kind()}.full_loss: the loss {self.loss!r} has no such terms, leave it False"
            )
        if self.correlation_weight and self.loss == "correlation":
            raise ConfigurationError(
                f"{self.kind()}.correlation_weight: the loss is the correlation already, leave it 0"
            )

    def learning_rates(self) -> tuple[float, ...]:
        """Return the learning rate of each stage; training ends after the last."""
        if self.schedule:
            return self.schedule
        rates = [self.lr_init * self.lr_decay_factor**cuts for cuts in range(self.lr_decay_steps + 1)]
        return (rates[0], *(rate for rate in rates[1:] if rate >= self.min_lr * (1 - _ROUNDING)))
