"""An adapter on disk: one small folder that says which base it belongs to.

adapter.json     schema version, name, the base's weight hashes, parts with their settings, training, error rates
decoder/         adapter_config.json and adapter_model.safetensors, as peft writes and reads them
encoder/         the same
bridge/          model.safetensors, whole
ctc_head/        the same
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from nuebridge.config import validate
from nuebridge.errors import CheckpointError, ConfigError
from nuebridge.lora import layers
from nuebridge.lora.adapters import (
    Adapter,
    State,
    adapter_hash,
    base_weights,
    capture,
    check_name,
    check_weight,
    known,
    load_lora,
    register,
)
from nuebridge.model import Integration
from nuebridge.settings import LoraSettings, Settings
from nuebridge.tensors import WEIGHTS_FILE, read_json, read_weights, weight_hash, whole_folder, write_json

ADAPTER_FILE = "adapter.json"
SCHEMA_VERSION = 1
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class BasePart(Settings):
    """What adapter.json says of a part of the base, those it does not change included."""

    hash: str
    """Of the weights as they were held when the adapter was saved."""
    dtype: str
    rounded: dict[str, str] = {}
    """The hashes they have when they are held in a half precision."""


class SavedBase(Settings):
    """What adapter.json says of the integration the adapter was trained on."""

    model: str | None
    weight_hash: str | None
    parts: dict[str, BasePart]


class SavedAdapter(Settings):
    """adapter.json."""

    schema_version: int
    nuebridge_version: str
    name: str
    base: SavedBase
    parts: dict[Literal["encoder", "ctc_head", "bridge", "decoder"], LoraSettings | None]
    """The settings of its LoRA; null for a part that it holds whole."""
    hash: str
    training: list[dict[str, Any]]
    error_rates: Any = None


@dataclass(frozen=True)
class PackedAdapter:
    """An adapter and its weights, ready to be written."""

    adapter: Adapter
    hash: str
    lora: Mapping[str, State]
    peft_configs: Mapping[str, Mapping[str, Any]]


def save_adapter(
    integration: Integration,
    name: str,
    folder: str | Path,
    *,
    base_model: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes an adapter so that ``folder`` appears complete or not at all.

    ``base_model`` is what a user calls the integration it belongs to; the hashes of its weights are written in any
    case. Raises ConfigError for an unknown name, and CheckpointError where the folder exists and is not empty;
    ``overwrite`` replaces one that holds an adapter.
    """
    folder = Path(folder)
    packed = pack_adapter(integration, known(integration, name))
    check_adapter_target(folder, overwrite)
    with base_weights(integration):
        parts = {
            part: BasePart(
                hash=weight_hash({"part": module}),
                dtype=str(module.dtype).removeprefix("torch."),
                rounded={
                    half: weight_hash({"part": module}, rounded_to=dtype)
                    for half, dtype in HALF.items()
                    if module.dtype == torch.float32
                },
            )
            for part, module in integration.parts.items()
        }
        base = SavedBase(model=base_model, weight_hash=weight_hash(integration.parts), parts=parts)
    with whole_folder(folder) as aside:
        write_adapter(packed, aside, base)


def load_adapter(integration: Integration, folder: str | Path, name: str | None = None, *, weight: float = 1.0) -> str:
    """Adds the adapter in ``folder`` to a loaded integration, active beside those that are; returns its name.

    ``name`` is what it is to be called here, by default as it was called when it was saved. Raises CheckpointError
    where the folder holds no adapter, a damaged one, or one of another base, and ConfigError for a name that is taken,
    a weight that is no number, and missing peft.
    """
    folder = Path(folder)
    saved = read_adapter(folder)
    name = saved.name if name is None else name
    check_name(name)
    check_weight(name, weight)
    if name in integration.adapters:
        raise ConfigError(f"the integration has an adapter {name!r} already; give this one another name")
    with base_weights(integration):
        _check_base(integration, saved, folder)
    return attach_adapter(integration, folder, saved, name, weight)


def read_adapter(folder: Path) -> SavedAdapter:
    """What adapter.json says. Raises CheckpointError."""
    file = folder / ADAPTER_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no adapter: it has no {ADAPTER_FILE}")
    data = read_json(file)
    found = data.get("schema_version") if isinstance(data, dict) else None
    if found != SCHEMA_VERSION:
        raise CheckpointError(
            f"{file} has schema_version {found!r}; this nuebridge reads {SCHEMA_VERSION}: install the release that "
            "wrote it, or a newer one"
        )
    try:
        return validate(data, SavedAdapter, ADAPTER_FILE)
    except ConfigError as error:
        faults = "; ".join(line.strip() for line in str(error).splitlines())
        raise CheckpointError(f"{file} does not say what it should ({faults}): copy the adapter again") from error


def check_adapter_target(folder: Path, overwrite: bool = False) -> None:
    """Raises CheckpointError where what is in ``folder`` keeps an adapter from being saved there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; choose another name for the folder")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{folder} exists and is not empty; choose another folder (in Python: overwrite=True)")
    if not (folder / ADAPTER_FILE).is_file():
        raise CheckpointError(f"{folder} holds something else than an adapter; choose another folder")


def pack_adapter(integration: Integration, adapter: Adapter) -> PackedAdapter:
    """Collects what :func:`write_adapter` writes. The adapter's layers must be in place."""
    capture(integration)
    parts = {part: integration.parts[part] for part in adapter.lora}
    return PackedAdapter(
        adapter,
        adapter_hash(integration, adapter),
        {part: layers.read_state(module, adapter.name) for part, module in parts.items()},
        {part: layers.describe(module, adapter.name) for part, module in parts.items()},
    )


def write_adapter(packed: PackedAdapter, folder: Path, base: SavedBase) -> None:
    """Writes an adapter into a folder that exists and is empty. Twice gives the same bytes."""
    adapter = packed.adapter
    for part, state in packed.lora.items():
        (folder / part).mkdir()
        write_json(folder / part / PEFT_CONFIG, packed.peft_configs[part])
        _save(state, folder / part / PEFT_WEIGHTS)
    for part, state in adapter.states.items():
        (folder / part).mkdir()
        _save(state, folder / part / WEIGHTS_FILE)
    saved = SavedAdapter(
        schema_version=SCHEMA_VERSION,
        nuebridge_version=version("nuebridge"),
        name=adapter.name,
        base=base,
        parts={part: adapter.lora.get(part) for part in adapter.parts},
        hash=packed.hash,
        training=adapter.training,
        error_rates=adapter.error_rates,
    )
    write_json(folder / ADAPTER_FILE, saved.model_dump(mode="json"))


def attach_adapter(integration: Integration, folder: Path, saved: SavedAdapter, name: str, weight: float) -> str:
    """Reads the weights of an adapter whose base has been checked. Raises CheckpointError, ConfigError.

    The integration is as it was where that fails.
    """
    adapter = Adapter(
        name,
        weight,
        lora={part: settings for part, settings in saved.parts.items() if settings is not None},
        training=[dict(entry) for entry in saved.training],
        error_rates=saved.error_rates,
    )
    try:
        for part, settings in adapter.lora.items():
            file = folder / part / PEFT_WEIGHTS
            load_lora(integration, part, name, settings, _read(file), file)
        for part in saved.parts:
            if part not in adapter.lora:
                adapter.states[part] = _read_whole(integration, folder / part / WEIGHTS_FILE, part)
        if adapter_hash(integration, adapter) != saved.hash:
            raise CheckpointError(
                f"the weights in {folder} are not those that {ADAPTER_FILE} describes (hash {saved.hash[:12]}); the "
                "copy is damaged or was edited: copy it again"
            )
    except BaseException:
        for part in adapter.lora:
            layers.remove(integration.parts[part], name)
        raise
    register(integration, adapter)
    return name


def _check_base(integration: Integration, saved: SavedAdapter, folder: Path) -> None:
    """The integration must hold its base."""
    here, there = list(integration.parts), list(saved.base.parts)
    called = f" ({saved.base.model})" if saved.base.model else ""
    if sorted(here) != sorted(there):
        raise CheckpointError(
            f"the adapter in {folder} was trained on another base{called}, made of {', '.join(there)}; this "
            f"integration is made of {', '.join(here)}"
        )
    for part, module in integration.parts.items():
        base = saved.base.parts[part]
        found = weight_hash({"part": module})
        held = str(module.dtype).removeprefix("torch.")
        # In memory and in training the base may have been held in two precisions; then the lesser one decides.
        same = found in (base.hash, base.rounded.get(held))
        if not same and base.dtype in HALF and held == "float32":
            same = weight_hash({"part": module}, rounded_to=HALF[base.dtype]) == base.hash
        if not same:
            unknown = held in HALF and base.dtype == "float32" and held not in base.rounded
            advice = f"or load it in float32, since the adapter does not say what its base is in {held}"
            raise CheckpointError(
                f"the adapter in {folder} was trained on another base{called}: there the {part} has the weight hash "
                f"{base.hash[:12]}, here {found[:12]}; load the integration it was trained on"
                + (f", {advice}" if unknown else "")
            )


def _read_whole(integration: Integration, file: Path, part: str) -> dict[str, Tensor]:
    state, expected = _read(file), integration.parts[part].state_dict()
    faults = [f"{key} is missing" for key in expected if key not in state]
    faults += [f"{key} is not expected" for key in state if key not in expected]
    faults += [
        f"{key} has shape {list(state[key].shape)}, expected {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if faults:
        raise CheckpointError(f"{file} does not fit the {part}: {'; '.join(faults[:8])}")
    return state


def _read(file: Path) -> dict[str, Tensor]:
    return {key: tensor.float() for key, tensor in read_weights(file).items()}


def _save(state: Mapping[str, Tensor], file: Path) -> None:
    save_file({key: tensor.cpu().contiguous() for key, tensor in state.items()}, file, metadata={"format": "pt"})
