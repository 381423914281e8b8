"""Cores that were trained elsewhere: copied into another encoder and, if wanted, kept as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import ConfigurationError
from pipeline.models.cores import Core

if TYPE_CHECKING:  # the encoder freezes cores
    from pipeline.models.encoder import Encoder


def copy_core(source: Encoder, target: Encoder) -> None:
    """Give the target's core the weights and running statistics of the source's core.

    The cores must be of one kind with tensors of the same names and shapes; settings that change no shape, such as the
    weights of penalties, may differ. Everything else of the target, readouts foremost, stays as it is.

    Raises
    ------
    ConfigurationError
        If the cores are of different kinds or shapes; the message names the first tensors that differ. The target is
        not changed then.
    """
    kinds = [type(encoder.core).__name__ for encoder in (source, target)]
    if type(source.core) is not type(target.core):
        raise ConfigurationError(
            f"a {kinds[0]} cannot be copied into a {kinds[1]}: give the new network the kind of core that was trained"
        )
    found, wanted = (
        {name: tuple(value.shape) for name, value in encoder.core.state_dict().items()} for encoder in (source, target)
    )
    if found != wanted:
        different = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        listed = ", ".join(f"{name} {found.get(name)} but {wanted.get(name)}" for name in different[:3])
        raise ConfigurationError(
            f"the {kinds[0]} that was trained has other shapes than the new one: {listed}"
            f"{' and others' if len(different) > 3 else ''}; give the new network the trained core's settings and data "
            "of as many channels"
        )
    target.core.load_state_dict(source.core.state_dict())


def freeze(core: Core) -> None:
    """Keep a core as it is while the encoder around it is trained.

    Its parameters take no gradient and no penalty, and it stays in evaluation mode whatever mode the encoder is
    switched to, so that normalisation uses and keeps the statistics of its own training and nothing is dropped.
    Gradients still pass through to the input.
    """
    core.requires_grad_(False)
    core.frozen = True
    core.eval()


def unfreeze(core: Core, training: bool = True) -> None:
    """Let a frozen core be trained again.

    Parameters
    ----------
    core : Core
        As `freeze` left it.
    training : bool
        Whether to switch it to training mode at once.
    """
    core.requires_grad_(True)
    core.frozen = False
    core.train(training)
