"""Saving an integration, so that its folder appears complete or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from nuebridge.checkpoint.schema import CONFIG_FILE, DTYPES, MODEL_TYPE, SCHEMA_VERSION, parse_dtype
from nuebridge.contracts import SourcedPart, describe_part
from nuebridge.errors import CheckpointError
from nuebridge.lora import base_weights
from nuebridge.lora.storage import BasePart, PackedAdapter, SavedBase, pack_adapter, write_adapter
from nuebridge.model import Integration
from nuebridge.tensors import read_json, weight_hash, whole_folder, write_json


def save(
    integration: Integration,
    folder: str | Path,
    *,
    weights: Literal["all", "trained"] = "all",
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Saves an integration so that ``folder`` appears complete or not at all.

    ``weights="trained"`` leaves out an encoder or decoder whose weights are still its source's;
    ``dtype`` stores all weights in another precision; without it they are stored as they were
    loaded, where that loses nothing, else as they are in memory. Raises CheckpointError where the
    folder exists and is not empty; ``overwrite`` replaces one that holds an integration.
    """
    folder = Path(folder)
    if weights not in ("all", "trained"):
        raise CheckpointError(f"unknown choice of weights {weights!r}; allowed: all, trained")
    packed = [pack_adapter(integration, adapter) for adapter in integration.adapters.values()]
    with base_weights(integration):
        stored = storage_dtype(integration, dtype)
        check_target(folder, overwrite)
        left_out = _untouched(integration) if weights == "trained" else frozenset()
        with whole_folder(folder) as aside, stored_as(integration, stored):
            _write(integration, aside, stored, left_out, packed)


def check_target(folder: Path, overwrite: bool = False) -> None:
    """Raises CheckpointError where what is in ``folder`` keeps an integration from being saved there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; choose another name for the folder")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{folder} exists and is not empty; choose another folder (in Python: overwrite=True)")
    # A folder of anything else is never deleted, whatever was asked.
    file = folder / CONFIG_FILE
    config = read_json(file) if file.is_file() else None
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
        raise CheckpointError(f"{folder} holds something else than an integration; choose another folder")


def _untouched(integration: Integration) -> frozenset[str]:
    """Names of the parts that can be had from their source again, weight for weight."""
    info = integration.part_info
    return frozenset(
        name
        for name, part in integration.parts.items()
        if isinstance(part, SourcedPart) and name in info and info[name].source is not None
        if weight_hash({"part": part}) == info[name].source_hash
    )


def _write(
    integration: Integration,
    folder: Path,
    stored: torch.dtype,
    left_out: Collection[str],
    packed: Sequence[PackedAdapter],
) -> None:
    parts = {}
    for name, part in integration.parts.items():
        info = integration.part_info.get(name)
        if info is None:
            raise CheckpointError(f"the integration does not say where its {name} comes from; pass part_info")
        if name in left_out:
            where, digest = "source", info.source_hash
        else:
            where, digest = "here", weight_hash({"part": part})
            (folder / name).mkdir()
            part.save(folder / name)
        parts[name] = {"info": asdict(info), "options": describe_part(part), "weights": where, "hash": digest}
    base = SavedBase(
        model=None,
        weight_hash=None,
        parts={name: BasePart(hash=part["hash"], dtype=_dtype_name(stored)) for name, part in parts.items()},
    )
    for one in packed:
        (folder / "adapters" / one.adapter.name).mkdir(parents=True)
        write_adapter(one, folder / "adapters" / one.adapter.name, base)
    write_json(
        folder / CONFIG_FILE,
        {
            "model_type": MODEL_TYPE,
            "schema_version": SCHEMA_VERSION,
            "nuebridge_version": version("nuebridge"),
            "dtype": _dtype_name(stored),
            "parts": parts,
            "prompt": integration.prompt.model_dump(mode="json"),
            "generation": integration.generation.model_dump(mode="json"),
            "max_audio_seconds": integration.max_audio_seconds,
            "language": integration.language,
            "training": integration.training_history,
            "adapters": [
                {"name": one.adapter.name, "weight": one.adapter.weight, "parts": one.adapter.parts} for one in packed
            ],
        },
    )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def stored_as(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within the block what a checkpoint holds stands in another precision; afterwards as it was."""
    kept = [(tensor, tensor.data) for tensor in _stored_tensors(module)]
    try:
        for tensor, data in kept:
            tensor.data = data.to(dtype)
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


def _stored_tensors(module: nn.Module) -> list[torch.Tensor]:
    """The floating-point parameters and buffers that a checkpoint holds, each once."""
    state = module.state_dict(keep_vars=True)
    return list({id(tensor): tensor for tensor in state.values() if tensor.is_floating_point()}.values())


def storage_dtype(integration: Integration, asked: str | torch.dtype | None) -> torch.dtype:
    """The precision asked for, else the one that loses nothing.

    Raises CheckpointError for a precision that checkpoints do not have.
    """
    chosen = parse_dtype(asked)
    if chosen is None:
        tensors = _stored_tensors(integration)
        kept = integration.storage_dtype
        if kept is not None and all(torch.equal(t.data.to(kept).to(t.dtype), t.data) for t in tensors):
            return kept
        found = {tensor.dtype for tensor in tensors}
        chosen = found.pop() if len(found) == 1 else torch.float32
    if chosen not in DTYPES.values():
        raise CheckpointError(f"weights are not stored as {chosen}; pass dtype, one of: {', '.join(DTYPES)}")
    return chosen
