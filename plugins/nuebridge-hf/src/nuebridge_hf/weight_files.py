"""Single tensors out of checkpoint files, where reading all of them would be waste.

Only names that no release of transformers ever changed are read here; whole models go through its own loading.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nuebridge.errors import CheckpointError
from nuebridge_hf.loading import find_file, has_safetensors, one_line, read_json


def tensors_of(
    source: str, wanted: Callable[[str], bool], *, revision: str | None, allow_pickle: bool
) -> dict[str, Tensor]:
    """The tensors of a checkpoint's main weights with a wanted name, as they are stored. Raises CheckpointError."""
    stem = "model.safetensors" if has_safetensors(source, revision, allow_pickle) else "pytorch_model.bin"
    index = read_json(source, f"{stem}.index.json", revision)
    if index is None:
        names = [stem]
    else:
        where = index.get("weight_map")
        if not isinstance(where, dict):
            raise CheckpointError(f"{stem}.index.json of {source!r} does not say where the weights are")
        names = sorted({str(file) for name, file in where.items() if wanted(name)})
    found: dict[str, Tensor] = {}
    for name in names:
        file = find_file(source, name, revision)
        if file is None:
            raise CheckpointError(f"{source!r} lacks {name}; the checkpoint is incomplete: copy it again")
        found |= read_file(file, wanted)
    return found


def read_file(file: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of one file with a wanted name; of a pickle no more than tensors. Raises CheckpointError."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys() if wanted(name)}  # noqa: SIM118
        state = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor for name, tensor in state.items() if wanted(name)}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged ({one_line(error)}); copy it again") from error
    except Exception as error:  # what unpickling makes of a file that is none
        raise CheckpointError(f"{file} cannot be read: {one_line(error)}") from error
