"""Networks that do not suit the data they are selected for, as far as tables tell: no dataset is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import datajoint as dj

from pipeline.configuration import Configuration
from pipeline.datasets.conversion import TensorInfo
from pipeline.datasets.foreseen import Contents, foreseen_info
from pipeline.datasets.info import DataInfo
from pipeline.datasets.preprocessing import Pixels
from pipeline.datasets.selection import DataConfiguration
from pipeline.errors import ConfigurationError
from pipeline.models import Network, misfits
from pipeline.models.cores import Pretrained
from schemas import config, dataset, recording, stimulus

Key = dict[str, Any]


def refuse_misfits(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse models whose network does not suit their data.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of `ModelSelection`. Networks and data that functions make are not looked at.

    Raises
    ------
    ConfigurationError
        Naming the setting, what it may be and the remedy, of the first that is refused, and how many there are.
    """
    names = ("group_id", "data_hash", "network_hash")
    combinations = list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))
    look = _Look()
    refused = []
    for group_id, data_hash, network_hash in combinations:
        try:
            look.at(group_id, data_hash, network_hash)
        except ConfigurationError as error:
            which = f"group_id {group_id}, data_hash {data_hash[:12]}, network_hash {network_hash[:12]}"
            refused.append(f"{error} ({which})")
    if refused:
        raise ConfigurationError(
            f"{refused[0]}. {len(refused)} of {len(combinations)} combinations of data and network make no sense; "
            "nothing was selected"
        )


class _Look:
    """Looks at combinations of data and network, and at each of both only once."""

    def __init__(self) -> None:
        self._data = cache(lambda digest: config.DataConfig.load({"data_hash": digest}))
        part = cache(config.load_part)
        self._network = cache(lambda digest: config.NetworkConfig.load_network({"network_hash": digest}, part))
        self._info = cache(foresee)

    def at(self, group_id: int, data_hash: str, network_hash: str) -> None:
        """Refuse a network that does not suit the data."""
        network, data = self._network(network_hash), self._data(data_hash)
        if not isinstance(network, Network) or not isinstance(data, DataConfiguration):
            return
        info = self._info(group_id, data)
        misfits.refuse_misfits(network, info, data)
        if network.pretrained is not None:
            self._require_channels_of_source(network.pretrained, misfits.input_channels(info))

    def _require_channels_of_source(self, pretrained: Pretrained, channels: int) -> None:
        """Refuse a core that was trained on inputs of other channels."""
        data: Configuration = self._data(pretrained.source_data_hash)
        if not isinstance(data, DataConfiguration):
            return
        trained = misfits.input_channels(self._info(pretrained.source_group_id, data))
        if channels != trained:
            raise ConfigurationError(
                f"{pretrained.kind()}.source_data_hash: {pretrained.source_data_hash[:12]!r} is not allowed, for that "
                f"core knows inputs of {trained} channels, and these have {channels}: choose data of {trained}, planes "
                "of behaviour included, or another core"
            )


def foresee(group_id: int, data: DataConfiguration) -> DataInfo:
    """Return what `dataset.get_data_info` will, as far as tables know; see `pipeline.datasets.foreseen`.

    Raises
    ------
    ConfigurationError
        If there is no such group, or it holds stimuli of the other sort.
    """
    group = {"group_id": group_id}
    members = (dataset.MultiDataset.Member & group).to_dicts(order_by="data_key")
    if not members:
        raise ConfigurationError(f"MultiDataset has no group_id {group_id}: make the group with MultiDataset.fill")
    units = dataset.MultiDataset.units(group)
    found = {}
    for member in members:
        preprocessing = config.PreprocessingConfig.load(member)
        assert isinstance(preprocessing, Pixels)
        key = {name: member[name] for name in dataset.Dataset().primary_key}
        rows = (dataset.Dataset.Tensor & key).proj(*TensorInfo.__dataclass_fields__).to_dicts()
        tensors = {row["tensor"]: TensorInfo(**{n: row[n] for n in TensorInfo.__dataclass_fields__}) for row in rows}
        frame = _channels(key, preprocessing), preprocessing.height, preprocessing.width
        data.require_stimuli("images" if "images" in tensors else "videos", member["data_key"])
        rate = getattr(preprocessing, "frame_rate", None)  # still images have none
        contents = Contents(frame, rate, tensors, units[member["data_key"]])
        found[member["data_key"]] = foreseen_info(data, contents)
    return found


def _channels(key: Key, preprocessing: Pixels) -> int:
    """Return the channels of the stored frames: those of the source, or one colour."""
    if preprocessing.color != "source":
        return 1
    scan = {name: key[name] for name in recording.Scan().primary_key}
    shown = (stimulus.ConditionTier & scan).proj()
    of_images = dj.U("image_channels") & (stimulus.Condition.Image & shown)
    of_movies = dj.U("video_channels") & (stimulus.Condition.Video & shown)
    return max(int(n) for n in (*of_images.to_arrays("image_channels"), *of_movies.to_arrays("video_channels")))
