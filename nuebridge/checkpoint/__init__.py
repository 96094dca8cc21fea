"""An integration on disk: one folder that describes itself.

    config.json      schema version, parts with component, distribution and version, prompt, ...
    encoder/         the part in the format of its own library, weights as safetensors
    ctc_head/  bridge/  decoder/

A part that training never touched may be left out (``weights="trained"``); config.json then names
its source and the hash of the weights it had. Nothing here unpickles or runs code from a checkpoint.
"""

from __future__ import annotations

from nuebridge.checkpoint.hub import fetch, push_to_hub
from nuebridge.checkpoint.loading import check_device, load, load_folder, outline
from nuebridge.checkpoint.saving import check_target, save
from nuebridge.checkpoint.schema import CONFIG_FILE, DTYPES, MODEL_TYPE, SCHEMA_VERSION, migrate

__all__ = [
    "CONFIG_FILE",
    "DTYPES",
    "MODEL_TYPE",
    "SCHEMA_VERSION",
    "check_device",
    "check_target",
    "fetch",
    "load",
    "load_folder",
    "migrate",
    "outline",
    "push_to_hub",
    "save",
]
