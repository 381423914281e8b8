"""Training: losses, the trainer, when it stops, its checkpoints and predictions."""

from __future__ import annotations

from pipeline.configuration import Configuration
from pipeline.training.history import Epoch, TrainingResult
from pipeline.training.prediction import Score, predict, score
from pipeline.training.settings import Default
from pipeline.training.trainer import train

TRAINERS: tuple[type[Configuration], ...] = (Default,)

__all__ = ["TRAINERS", "Default", "Epoch", "Score", "TrainingResult", "predict", "score", "train"]
