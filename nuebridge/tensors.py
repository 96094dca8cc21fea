"""Weights on disk: safetensors files written whole or not at all, and a hash that names weights."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nuebridge.errors import CheckpointError

WEIGHTS_FILE = "model.safetensors"


def save_weights(module: nn.Module, folder: Path) -> None:
    """Writes the module's state to ``folder/model.safetensors``; equal states give equal bytes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    seen: set[int] = set()
    for name, tensor in state.items():
        if tensor.data_ptr() in seen:  # safetensors takes no tensor that shares its memory with another
            state[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    try:
        save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(str(error)) from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError where it is missing or damaged."""
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; the checkpoint is incomplete: copy it again")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); copy it again or use an earlier checkpoint") from error


def check_headers(folder: Path) -> None:
    """Opens the safetensors files of a folder without reading their weights.

    Raises CheckpointError where there is none, or one is damaged or cut short.
    """
    files = sorted(folder.rglob("*.safetensors"))  # a part that is made of others has them in folders of its own
    if not files:
        raise CheckpointError(f"{folder} holds no weights (*.safetensors); the checkpoint is incomplete: copy it again")
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged ({error}); copy it again or use an earlier checkpoint") from error


def load_weights(module: nn.Module, folder: Path) -> None:
    """Reads what :func:`save_weights` wrote, in whatever precision, into the module's own.

    Raises CheckpointError naming the weights that do not fit.
    """
    file = folder / WEIGHTS_FILE
    state = read_weights(file)
    expected = module.state_dict()
    faults = [f"{name} is missing" for name in expected if name not in state]
    faults += [f"{name} is not expected" for name in state if name not in expected]
    faults += [
        f"{name} has shape {list(state[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise CheckpointError(f"{file} does not fit {type(module).__name__}: {'; '.join(faults[:8])}{more}")
    module.load_state_dict(state)


def weight_hash(modules: Mapping[str, nn.Module], *, rounded_to: torch.dtype | None = None) -> str:
    """SHA-256 (hex) over the weights of named modules, each parameter once, in the modules' order.

    Names of single weights are left out, since they differ between releases of model libraries, and
    values are hashed as float32, so that the precision they are held in makes no difference.
    ``rounded_to`` gives the hash that the weights would have in another precision.
    """
    digest = hashlib.sha256()
    for name, module in sorted(modules.items()):
        digest.update(name.encode())
        for tensor in module.parameters():
            add_to_hash(digest, tensor if rounded_to is None else tensor.to(rounded_to))
    return digest.hexdigest()


def add_to_hash(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Feeds the shape and the float32 values of a tensor to a hash."""
    tensor = tensor.detach()
    if type(tensor).dequantize is not Tensor.dequantize:  # a kind of tensor that stands for others
        tensor = tensor.dequantize()
    array = tensor.cpu().float().contiguous()
    digest.update(str(list(array.shape)).encode())
    digest.update(array.flatten().view(torch.uint8).numpy().data)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes ``folder`` at the end of the block, flushed to the disk, or not at all.

    What was in ``folder`` is removed only after that. Raises CheckpointError where the disk does not take it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder.parent}: {error.strerror}") from error
    try:
        yield aside
        _publish(aside, folder)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"cannot save to {folder}: {reason}; what was there before is untouched") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _publish(aside: Path, folder: Path) -> None:
    # Temporary folders, and safetensors' files in them, are for their owner alone.
    aside.chmod(0o755)
    for path in aside.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    flush_folder(aside)
    if not folder.exists():
        aside.rename(folder)
    else:
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent)) / "folder"
        folder.rename(old)
        try:
            aside.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        finally:
            if folder.exists():
                shutil.rmtree(old.parent, ignore_errors=True)
    flush(folder.parent)


def write_json(file: Path, data: Any) -> None:
    """Writes JSON aside, flushes it to the disk and renames it into place."""
    write_text(file, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Writes a text file aside, flushes it to the disk and renames it into place."""
    aside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(file)


def flush_folder(folder: Path) -> None:
    """Has the system write a folder and all that is in it to the disk."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Has the system write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(file: Path) -> Any:
    """The data of a JSON file. Raises CheckpointError where it is missing or damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; is this the folder of a checkpoint?") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}") from error
