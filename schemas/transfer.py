"""Trained cores on other scans in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.errors import ConfigurationError
from schemas import config, model

Key = dict[str, Any]


def transfer(key: Mapping[str, Any], group: Mapping[str, Any], frozen: bool = True, priority: int = 5) -> Key:
    """Select the network of a trained model for other scans, on the core that it has learned there.

    Data configuration, trainer and seed stay those of the model. All that follows the core begins anew: with a frozen
    one, only readouts and what belongs to single scans are trained.

    Parameters
    ----------
    key : mapping
        Of one model.
    group : mapping
        Has the ``group_id`` of the other scans.
    frozen : bool
        Keep the core's weights as they are; otherwise training goes on from them.
    priority : int
        See `ModelSelection.fill`.

    Returns
    -------
    dict
        Key of the wanted model, for `Model.populate`; `ModelSelection.fill` takes it with another trainer or seed.

    Raises
    ------
    ConfigurationError
        If this is not one trained model with a core of ours, or its data configuration does not fit the group.

    Examples
    --------
    >>> model.Model.populate(transfer(key, {"group_id": 24}), reserve_jobs=True)  # doctest: +SKIP
    """
    core = model.Model.core_of(key, frozen)
    (source,) = (model.Model & key).keys()
    network = config.NetworkConfig.load(source)
    assert isinstance(network, config.CorePlusReadout)  # whose cores `core_of` gives
    wanted: Key = {**source, **config.NetworkConfig.add(replace(network, **core)), "group_id": group["group_id"]}
    model.ModelSelection.fill(wanted, priority=priority)
    if not len(model.ModelSelection & wanted):
        raise ConfigurationError(
            f"there is no group {group['group_id']} that the data configuration of the model fits: fill MultiDataset "
            "with datasets of the same kind of stimuli"
        )
    return wanted
