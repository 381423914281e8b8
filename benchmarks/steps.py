"""Steps of training on batches that lie in memory: ours, and the usual loop around plain modules."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Work
from benchmarks.networks import DATA_KEY, Task, plain_network
from pipeline.models.cores.products import product
from pipeline.training.memory import keep_freed_memory

BATCHES = 3
"""Different batches, which follow each other again and again."""

SCALE = 10.0
"""What losses are multiplied by; trainers take the root of the batches in an epoch."""

MULTIPLICATIONS = 4
"""Products of matrices in one repetition."""

Step = Callable[[Tensor, Tensor], float]
"""Trains on one batch and returns its loss."""


def poisson(rates: Tensor, responses: Tensor) -> Tensor:
    """Return the Poisson loss summed over what was predicted, the last frames."""
    return (rates - responses[..., -rates.shape[-1] :] * torch.log(rates + 1e-8)).sum()


def our_step(
    task: Task,
    device: str = "cpu",
    fused: bool = True,
    bfloat16: bool = False,
    compiled: bool = False,
) -> Step:
    """Return a step of our encoder with Adam.

    Parameters
    ----------
    task : Task
    device : str
    fused : bool
        Adam in one kernel.
    bfloat16 : bool
        Run the forward pass in bfloat16 where PyTorch thinks it safe.
    compiled : bool
        Compile the encoder, by `torch.compile`.
    """
    encoder = task.encoder().to(device).train()
    forward = torch.compile(encoder) if compiled else encoder
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.005, fused=fused)

    def step(stimuli: Tensor, responses: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bfloat16):
            rates = forward(stimuli, DATA_KEY)
        penalty = torch.stack(list(encoder.regularizer(DATA_KEY).values())).sum()
        loss = SCALE * poisson(rates.float(), responses) + penalty
        loss.backward()
        optimizer.step()
        encoder.constrain()
        return loss.item()

    return step


def plain_step(task: Task, device: str = "cpu", channels_last: bool = False) -> Step:
    """Return a step of the plain network in the usual loop: Adam as it comes, the loss asked for after every batch."""
    network: Any = plain_network(task, task.encoder())
    network = network.to(device).train()
    if channels_last:
        network.core.to(memory_format=torch.channels_last_3d if task.frames else torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005)

    def step(stimuli: Tensor, responses: Tensor) -> float:
        optimizer.zero_grad()
        rates = network(stimuli, data_key=DATA_KEY)
        loss = SCALE * poisson(rates, responses) + network.regularizer(data_key=DATA_KEY)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


STEPS: dict[str, Callable[..., Step]] = {"ours": our_step, "plain": plain_step}


def open_steps(task: Task, which: str, steps: int, device: str = "cpu", **settings: Any) -> Work:
    """Return work of some steps; which kind, by its name in `STEPS`."""
    keep_freed_memory()  # for whatever else is measured in this process too
    step = STEPS[which](task, device, **settings)
    batches = itertools.cycle([(x.to(device), y.to(device)) for x, y in task.batches(BATCHES)])

    def work() -> int:
        for stimuli, responses in itertools.islice(batches, steps):
            step(stimuli, responses)
        if device != "cpu":
            torch.cuda.synchronize()
        return steps * task.items

    return work


def losses(task: Task, which: str, steps: int, device: str = "cpu", **settings: Any) -> list[float]:
    """Return the losses of the first steps; positions are sampled with the same random numbers whatever trains."""
    step = STEPS[which](task, device, **settings)
    found = []
    for index, (stimuli, responses) in enumerate(itertools.islice(itertools.cycle(task.batches(BATCHES)), steps)):
        torch.manual_seed(index)
        found.append(step(stimuli.to(device), responses.to(device)))
    return found


def multiply(side: int, device: str) -> Work:
    """Return work whose items are the floating-point operations of a product of matrices: what can be had at best."""
    left, right = (torch.randn(side, side, device=device) for _ in range(2))
    fastest = product if device == "cpu" else torch.mm

    def work() -> int:
        for _ in range(MULTIPLICATIONS):
            fastest(left, right)
        if device != "cpu":
            torch.cuda.synchronize()
        return MULTIPLICATIONS * 2 * side**3

    return work


def flops(task: Task) -> float:
    """Return the floating-point operations of the plain network's convolutions in one step.

    Counted in the forward pass; the backward pass has the same twice, for the weights and for what they are applied
    to, except that nobody needs the gradient of the stimulus.
    """
    core, (stimuli, _) = plain_network(task, task.encoder()).core, task.batches(1)[0]
    first = next(module for module in core.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    of_first: list[float] = []
    first.register_forward_hook(lambda module, _, out: of_first.append(2.0 * out.numel() * module.weight[0].numel()))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        core(stimuli)
    return 3.0 * counted.get_total_flops() - of_first[0]
