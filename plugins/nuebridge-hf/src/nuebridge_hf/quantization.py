"""Weights in fewer bits: the library configurations that transformers quantizes with while it loads."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import BitsAndBytesConfig, TorchAoConfig

from nuebridge.errors import ConfigError
from nuebridge_hf.options import Quantization

_PACKAGES = {"bitsandbytes": ("bitsandbytes", "accelerate"), "torchao": ("torchao", "accelerate")}
"""What must be installed for each method, beside transformers."""


def quantization_arguments(quantization: Quantization) -> dict[str, Any]:
    """What ``from_pretrained`` needs in order to quantize.

    It is done on the CPU wherever the model goes afterwards, so that the weights are the same on every machine.
    Raises ConfigError naming what to install.
    """
    missing = [name for name in _PACKAGES[quantization.method] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{quantization.bits}-bit weights by {quantization.method} need {' and '.join(missing)}: "
            f"run `pip install {' '.join(missing)}`, or leave out the option quantization"
        )
    return {"quantization_config": _library_config(quantization), "device_map": {"": "cpu"}}


def _library_config(quantization: Quantization) -> Any:
    if quantization.method == "bitsandbytes":
        if quantization.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    if quantization.bits == 8:
        return TorchAoConfig(Int8WeightOnlyConfig())
    return TorchAoConfig(IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)))
