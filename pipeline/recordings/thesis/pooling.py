"""Experiments that showed the same scenes, each to its own units and under its own light, joined into one recording."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.errors import RecordingError
from pipeline.recordings.base import SpikeTimes, Traces, Unit
from pipeline.recordings.thesis.responses_table import Experiment, Presentation

SAME_SAMPLING = 0.1
"""Samples of two experiments are taken at once if they are less than this share of a step apart."""


def pool_units(experiments: Sequence[Experiment]) -> tuple[tuple[Unit, ...], tuple[int, ...]]:
    """Return the units of all experiments, numbered from 1, and the number of each one's experiment, from 0.

    Names stay as they are, unless the last four characters of two mice are the same: then they have the whole mouse.
    """
    mice = {experiment.mouse for experiment in experiments}
    ambiguous = len({mouse[-4:] for mouse in mice}) < len(mice)
    units: list[Unit] = []
    groups: list[int] = []
    for group, experiment in enumerate(experiments):
        for unit in experiment.units:
            name = unit.unit_name
            if ambiguous:
                name = f"m{experiment.mouse}{name[1 + len(experiment.mouse[-4:]) :]}"
            units.append(replace(unit, unit_id=len(units) + 1, unit_name=name))
            groups.append(group)
    return tuple(units), tuple(groups)


def pool_presentations(experiments: Sequence[Experiment], path: Path) -> tuple[Presentation, ...]:
    """Join the k-th presentation of each scene in every experiment into one, on the first experiment's clock.

    A joint presentation is as long as the shortest of its parts, so that every unit was recorded throughout.

    Raises
    ------
    RecordingError
        Naming the experiment and the scene, if experiments differ in their scenes, how often they showed them, their
        tiers or the sampling of psth.
    """
    first, *others = experiments
    for other in others:
        _require_same_scenes(first, other, path)
    queues = [_by_scene(experiment) for experiment in others]
    shown: dict[int, int] = defaultdict(int)
    pooled = []
    for showing in first.presentations:
        scene, k = showing.scene_id, shown[showing.scene_id]
        shown[scene] += 1
        parts = [showing, *(queue[scene][k] for queue in queues)]
        for other, part in zip(others, parts[1:], strict=True):
            if part.tier != showing.tier:
                raise RecordingError(
                    f"{path}: experiments cannot be pooled: scene {scene} is in tier {showing.tier} in {first.name}, "
                    f"but {part.tier} in {other.name}; correct train_vs_test"
                )
        pooled.append(_joined(parts, [experiment.name for experiment in experiments], path))
    return tuple(pooled)


def _by_scene(experiment: Experiment) -> dict[int, list[Presentation]]:
    found: dict[int, list[Presentation]] = defaultdict(list)
    for showing in experiment.presentations:
        found[showing.scene_id].append(showing)
    return found


def _require_same_scenes(first: Experiment, other: Experiment, path: Path) -> None:
    counts = [{scene: len(shown) for scene, shown in _by_scene(one).items()} for one in (first, other)]
    for scene in sorted(counts[0].keys() | counts[1].keys()):
        ours, theirs = (count.get(scene, 0) for count in counts)
        if ours != theirs:
            raise RecordingError(
                f"{path}: experiments cannot be pooled: scene {scene} was shown {ours} times in {first.name}, but "
                f"{theirs} times in {other.name}; take the surplus rows out of the table, or choose experiments with "
                "mouse, series and experiment"
            )


def _joined(parts: list[Presentation], names: list[str], path: Path) -> Presentation:
    first = parts[0]
    shifts = [first.start - part.start for part in parts]
    return replace(
        first,
        stop=first.start + min(part.stop - part.start for part in parts),
        responses=_joined_responses(parts, shifts, names, path),
        pulses=tuple(pulses + shift for part, shift in zip(parts, shifts, strict=True) for pulses in part.pulses),
        exclusion="; ".join(dict.fromkeys(part.exclusion for part in parts if part.exclusion)),
    )


def _joined_responses(
    parts: list[Presentation], shifts: list[float], names: list[str], path: Path
) -> SpikeTimes | Traces:
    spikes = [part.responses for part in parts if isinstance(part.responses, SpikeTimes)]
    if spikes:
        return SpikeTimes(tuple(t + shift for one, shift in zip(spikes, shifts, strict=True) for t in one.times))
    traces = [part.responses for part in parts if isinstance(part.responses, Traces)]
    times = traces[0].times
    step = np.diff(times).min() if len(times) > 1 else parts[0].stop - parts[0].start
    for trace, shift, name in zip(traces, shifts, names, strict=True):
        if len(trace.times) != len(times) or np.abs(trace.times + shift - times).max() > SAME_SAMPLING * step:
            raise RecordingError(
                f"{path}: experiments cannot be pooled: psth of scene {parts[0].scene_id} is sampled otherwise in "
                f"{name} than in {names[0]}; read spike_times instead"
            )
    return Traces(times, np.concatenate([trace.values for trace in traces]))
