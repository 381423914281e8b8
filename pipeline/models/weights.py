"""One file a model: its weights in the safetensors format, with the data information that rebuilds it without data."""

from __future__ import annotations

import json

import safetensors.torch

from pipeline.datasets.info import DataInfo, data_info_from_json, data_info_to_json
from pipeline.errors import ConfigurationError
from pipeline.models.base import Architecture, EncodingModel
from pipeline.models.encoder import ModelT, load_encoder

_DATA_INFO = "data_info"


def pack(encoder: EncodingModel, data_info: DataInfo) -> bytes:
    """Return the file of a trained model."""
    state = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    return safetensors.torch.save(state, metadata={_DATA_INFO: data_info_to_json(data_info)})


def unpack(network: Architecture[ModelT], data: bytes) -> tuple[ModelT, DataInfo]:
    """Rebuild a model, in evaluation mode on the CPU, from what `pack` returned.

    Raises
    ------
    ConfigurationError
        If the file is damaged or belongs to another network.
    """
    try:
        # A safetensors file starts with the length of its JSON header, 8 bytes little-endian.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        data_info = data_info_from_json(header["__metadata__"][_DATA_INFO])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError("the file of weights is damaged: train the model again") from error
    return load_encoder(network, data_info, data), data_info
