"""The loaders that ours is measured against: neuralpredictors' FileTree in several settings, and plain h5py.

neuralpredictors 0.3 has no loader of movies; `filetree_movies` puts its dataset and transforms together in the order of
the Sensorium 2023 code. What that order needs and 0.3 lacks is written here as cheaply as possible: views, no copies.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, SubsetRandomSampler

from pipeline.legacy import neuralpredictors_module

datasets = neuralpredictors_module("data.datasets")
samplers = neuralpredictors_module("data.samplers")
transforms = neuralpredictors_module("data.transforms")


class Reordered(transforms.MovieTransform):
    """Axes in another order, as views."""

    def __init__(self, **orders: tuple[int, ...]) -> None:
        self.orders = orders

    def __call__(self, x: Any) -> Any:
        """Return the data point with its axes in the new order."""
        return x._replace(**{name: np.transpose(getattr(x, name), order) for name, order in self.orders.items()})


class CutAtPadding(transforms.MovieTransform):
    """Frames before the first NaN of any array; every frame is looked at and copied, as in Sensorium 2023."""

    def __call__(self, x: Any) -> Any:
        """Return the data point without padding."""
        ends = [np.flatnonzero(np.isnan(v).reshape(-1, v.shape[-1]).any(axis=0)) for v in x]
        end = min(int(e[0]) if e.size else v.shape[-1] for e, v in zip(ends, x, strict=True))
        return type(x)(*[np.take(v, np.arange(end), axis=-1) for v in x])


class WithChannel(transforms.MovieTransform):
    """Movies (1, time, height, width), as a view."""

    def __call__(self, x: Any) -> Any:
        """Return the data point with one channel."""
        return x._replace(inputs=x.inputs[None])


class BehaviorChannels(transforms.MovieTransform):
    """Behaviour as further channels of the movie, the same value at every pixel, as in Sensorium 2023."""

    def __call__(self, x: Any) -> Any:
        """Return the data point with three channels."""
        shape = (len(x.behavior), *x.inputs.shape[1:])
        return x._replace(inputs=np.concatenate([x.inputs, np.broadcast_to(x.behavior[..., None, None], shape)]))


def filetree_movies(path: Path, clip_frames: int, batch_size: int, cache: bool, published: bool) -> DataLoader:
    """Return the training loader of neuralpredictors' movies.

    Parameters
    ----------
    path : Path
        From `benchmarks.scans.file_tree`.
    clip_frames, batch_size : int
    cache : bool
        Keep every file that was read in memory; neuralpredictors' default.
    published : bool
        Everything that the Sensorium 2023 loader does by default: padding cut off, behaviour as channels of the movie.
        Otherwise only what gives the batches that ours gives. Its rescaling by 1 is left out of both.
    """
    data = datasets.MovieFileTreeDataset(str(path), "inputs", "responses", "behavior", "pupil_center", use_cache=cache)
    feature_last = {"responses": (1, 0), "behavior": (1, 0), "pupil_center": (1, 0)}
    data.transforms = [
        transforms.NeuroNormalizer(data),
        *([CutAtPadding()] if published else []),
        Reordered(inputs=(2, 0, 1), **feature_last),
        transforms.Subsequence(frames=clip_frames, channel_first=(), offset=-1),
        Reordered(**feature_last),
        WithChannel(),
        *([BehaviorChannels()] if published else []),
        transforms.ToTensor(),
    ]
    return _training_loader(data, data.trial_info.tiers, batch_size)


def filetree_images(path: Path, batch_size: int, cache: bool) -> DataLoader:
    """Return the training loader of neuralpredictors' static images: normalised, as tensors, nothing else."""
    data = datasets.FileTreeDataset(str(path), "images", "responses", "behavior", "pupil_center", use_cache=cache)
    data.transforms = [transforms.NeuroNormalizer(data), transforms.ToTensor()]
    return _training_loader(data, data.trial_info.tiers, batch_size)


class SeededOrder(Sampler[int]):
    """Trials in another order in each epoch, which is that of our loaders of still images with the same seed."""

    def __init__(self, trials: np.ndarray, seed: int) -> None:
        self.trials, self.seed, self.epoch = trials, seed, 0

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.trials)
        self.epoch += 1
        return iter(order.tolist())


def filetree_tiers(path: Path, batch_size: int, seed: int) -> dict[str, DataLoader]:
    """Return neuralpredictors' cached loaders of static images without behaviour; those of training in `SeededOrder`.

    They draw no global random numbers.
    """
    data = datasets.FileTreeDataset(str(path), "images", "responses")
    data.transforms = [transforms.NeuroNormalizer(data), transforms.ToTensor()]
    train, validation = (np.flatnonzero(data.trial_info.tiers.astype(str) == of) for of in ("train", "validation"))
    in_order = {"train": SeededOrder(train, seed), "validation": samplers.SubsetSequentialSampler(validation.tolist())}
    return {
        tier: DataLoader(data, sampler=sampler, batch_size=batch_size, generator=torch.Generator())
        for tier, sampler in in_order.items()
    }


Clip = collections.namedtuple("Clip", ["inputs", "responses", "behavior", "pupil_center"])


class H5Clips(Dataset[Clip]):
    """Random clips of movies from one open HDF5 file: only the frames of the clip are read, then normalised."""

    def __init__(self, path: Path, statistics: Path, clip_frames: int) -> None:
        self.file = h5py.File(path, "r")
        self.tiers = self.file["tiers"][:].astype(str)
        self.clip_frames = clip_frames
        moments = {
            name: [np.load(statistics / name / "all" / f"{what}.npy").T for what in ("mean", "std")]
            for name in ("videos", "responses", "behavior", "pupil_center")
        }
        (self.mean, self.std), (_, self.response_std) = moments["videos"], moments["responses"]
        (_, self.behavior_std), (self.pupil_mean, self.pupil_std) = moments["behavior"], moments["pupil_center"]

    def __len__(self) -> int:
        return len(self.tiers)

    def __getitem__(self, index: int) -> Clip:
        start = np.random.randint(0, self.file["videos"].shape[1] - self.clip_frames + 1)
        clip = slice(start, start + self.clip_frames)
        videos, responses, behavior, pupil = (
            self.file[name][index, clip] for name in ("videos", "responses", "behavior", "pupil_center")
        )
        values = (
            ((videos - self.mean) / self.std)[None],
            (responses / self.response_std).T,
            (behavior / self.behavior_std).T,
            ((pupil - self.pupil_mean) / self.pupil_std).T,
        )
        return Clip(*(torch.from_numpy(value.astype(np.float32, copy=False)) for value in values))


def h5_movies(path: Path, statistics: Path, clip_frames: int, batch_size: int) -> DataLoader:
    """Return the training loader of a plain h5py dataset; ``statistics`` is that folder of the same scan's tree."""
    data = H5Clips(path, statistics, clip_frames)
    return _training_loader(data, data.tiers, batch_size)


def _training_loader(data: Any, tiers: Iterable[str], batch_size: int) -> DataLoader:
    train = np.flatnonzero(np.asarray(tiers) == "train").tolist()
    return DataLoader(data, sampler=SubsetRandomSampler(train), batch_size=batch_size)
