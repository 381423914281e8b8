"""The settings of the trainer."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.configuration import Configuration, setting


@dataclass(frozen=True)
class Default(Configuration):
    """Gradient descent on the Poisson loss; when validation stalls, back to the best weights and a smaller rate.

    An evaluation is the single-trial correlation on the validation tier after an epoch. The defaults are those of the
    Sensorium trainers.
    """

    batch_size: int = setting(8, "training clips in a batch of one scan", unit="clips", ge=1)
    optimizer: str = setting("adamw", "optimiser", choices=("adam", "adamw"))
    lr_init: float = setting(0.005, "learning rate at the start", gt=0)
    weight_decay: float = setting(0.0, "weight decay of the optimiser", ge=0)
    loss: str = setting("poisson", "training loss", choices=("poisson",))
    average_loss: bool = setting(False, "mean of the loss over clips, units and frames instead of their sum")
    scale_loss: bool = setting(True, "multiply the loss of a batch by the root of the scan's batches in an epoch")
    max_gradient_norm: float | None = setting(None, "scale longer gradients down to this norm", gt=0)
    patience: int = setting(5, "evaluations without improvement before the learning rate is cut", unit="epochs", ge=1)
    min_delta: float = setting(1e-6, "rise of the correlation that counts as improvement", ge=0)
    lr_decay_steps: int = setting(3, "cuts of the learning rate before training ends", ge=0)
    lr_decay_factor: float = setting(0.3, "what a cut multiplies the learning rate by", gt=0, lt=1)
    min_lr: float = setting(1e-4, "training ends rather than go below this learning rate", ge=0)
    max_epochs: int = setting(200, "epochs after which training ends in any case", unit="epochs", ge=1)
    precision: str = setting(
        "float32", "number format of the forward pass in training", choices=("float32", "bfloat16")
    )
