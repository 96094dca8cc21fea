"""What the checks measure with: states, differences, digests, and damage done to a checkpoint on purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from nuebridge.contracts import Part
from nuebridge.tensors import read_weights
from nuebridge.testing.rules import need, of_tensor


def state(part: Part) -> dict[str, Tensor]:
    """Copies of all that a part holds."""
    return {name: tensor.detach().clone() for name, tensor in part.state_dict().items()}


def named(part: Part) -> dict[str, Tensor]:
    """The parameters by name."""
    return {name: parameter.detach() for name, parameter in part.named_parameters()}


def need_same_state(before: dict[str, Tensor], after: dict[str, Tensor], act: str) -> None:
    """Raises Breach where an act changed any weight or buffer."""
    need(list(before) == list(after), f"{act} changed which tensors it holds")
    for name, tensor in before.items():
        need(torch.equal(tensor, after[name]), f"{act} changed {name}")


def gap(first: Tensor, second: Tensor) -> float:
    """The largest difference. Raises Breach for other shapes."""
    need(first.shape == second.shape, f"one has {of_tensor(first)}, the other {of_tensor(second)}")
    return float((first - second).abs().max()) if first.numel() else 0.0


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def different(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The keys that only one has or whose values differ."""
    return [key for key in sorted({*first, *second}) if first.get(key) != second.get(key)]


def weighed(output: Tensor) -> Tensor:
    """A loss whose gradient is different for every number; that of a plain sum vanishes behind a norm."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(23))
    return (output * weights).sum()


@contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """A block in which numpy's global random state is seeded; afterwards it is as it was."""
    kept = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(kept)


def damage(folder: Path, what: str) -> None:
    """Spoils the largest weight file of a folder: cut off, without its largest weight, or that of another shape."""
    file = max(folder.rglob("*.safetensors"), key=lambda one: one.stat().st_size)
    if what == "a cut-off weight file":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        return
    weights = {name: tensor.clone() for name, tensor in read_weights(file).items()}
    largest = max(sorted(weights), key=lambda name: weights[name].numel())
    if what == "a missing weight":
        del weights[largest]
    else:
        weights[largest] = weights[largest].flatten()[:-1]
    save_file(weights, file, metadata={"format": "pt"})
