"""Training: losses, the trainer, when it stops, its checkpoints and predictions."""

from __future__ import annotations

from pipeline.configuration import Configuration
from pipeline.training.checkpoints import Checkpointing
from pipeline.training.dispatch import train_models
from pipeline.training.function import Function
from pipeline.training.history import Epoch, TrainingResult
from pipeline.training.prediction import Score, predict, score
from pipeline.training.settings import Default
from pipeline.training.trainer import train, train_together

TRAINERS: tuple[type[Configuration], ...] = (Default, Function)

__all__ = [
    "TRAINERS",
    "Checkpointing",
    "Default",
    "Epoch",
    "Function",
    "Score",
    "TrainingResult",
    "predict",
    "score",
    "train",
    "train_models",
    "train_together",
]
