"""One part of an integration in the format of its own library, for other programs and servers.

    encoder, decoder   what the library that they come from reads: for transformers a folder for ``from_pretrained``,
                       the decoder's tokenizer in it
    bridge, ctc-head   model.safetensors and a JSON file that says what it is and what it fits

LoRA is merged beforehand. What joins the parts, the prompt and the limits of a text, stands in the bridge's JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nuebridge.checkpoint import check_target
from nuebridge.checkpoint.saving import storage_dtype, stored_as
from nuebridge.contracts import Bridge, Part, describe_part
from nuebridge.ctc import BLANK, CtcHead
from nuebridge.errors import ConfigError
from nuebridge.model import Integration
from nuebridge.tensors import weight_hash, whole_folder, write_json

PARTS = {"encoder": "encoder", "bridge": "bridge", "decoder": "decoder", "ctc-head": "ctc_head"}
"""What a part is called here, to its name in ``Integration.parts``."""
BRIDGE_FILE = "bridge.json"
CTC_HEAD_FILE = "ctc_head.json"


def export_part(
    integration: Integration, part: str, folder: str | Path, *, dtype: str | torch.dtype | None = None
) -> None:
    """Writes a part (``encoder``, ``bridge``, ``decoder`` or ``ctc-head``) so that ``folder`` is complete or not there.

    ``dtype`` stores its weights in another precision; without it they are stored as the integration would store them.
    Raises ConfigError for a part that is not there and for active adapters (``nuebridge.lora.merge`` bakes them in),
    CheckpointError where the folder exists and is not empty.
    """
    folder = Path(folder)
    found = integration.parts.get(PARTS.get(part, ""))
    if found is None:
        there = ", ".join(name for name, own in PARTS.items() if own in integration.parts)
        raise ConfigError(f"this integration has no part {part!r} to export; it has: {there}")
    active = [adapter.name for adapter in integration.adapters.values() if adapter.weight and adapter.parts]
    if active or integration.adapters:
        named = ", ".join(active or integration.adapters)
        raise ConfigError(f"the integration has adapters ({named}); merge(integration) before exporting a part of it")
    check_target(folder)
    stored = storage_dtype(integration, dtype)
    with whole_folder(folder) as aside, stored_as(found, stored):
        found.save(aside)
        if isinstance(found, Bridge):
            write_json(aside / BRIDGE_FILE, _bridge(integration, found))
        elif isinstance(found, CtcHead):
            write_json(aside / CTC_HEAD_FILE, _ctc_head(found))


def _bridge(integration: Integration, bridge: Bridge) -> dict[str, Any]:
    info = integration.part_info.get("bridge")
    return {
        "component": None if info is None else info.component,
        "distribution": None if info is None else info.distribution,
        "version": None if info is None else info.version,
        "options": describe_part(bridge),
        "input_size": bridge.input_size,
        "output_size": bridge.output_size,
        "needs_ctc": bridge.needs_ctc,
        "hash": _hash(bridge),
        "sample_rate": integration.sample_rate,
        "prompt": integration.prompt.model_dump(mode="json"),
        "generation": integration.generation.model_dump(mode="json"),
    }


def _ctc_head(head: CtcHead) -> dict[str, Any]:
    return {
        "input_size": head.proj.in_features,
        "blank": BLANK,
        **head.vocabulary.model_dump(mode="json"),
        "hash": _hash(head),
    }


def _hash(part: Part) -> str:
    return weight_hash({"part": part})
