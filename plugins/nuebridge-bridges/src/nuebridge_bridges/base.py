"""What the bridges of this distribution share: how they are made and kept, and the layer to the decoder's width."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from nuebridge.contracts import Bridge, ParameterGroup
from nuebridge.errors import SizeMismatchError
from nuebridge.tensors import load_weights, save_weights


class OptionsBridge(Bridge):
    """A bridge that is made of two widths and its options, and keeps its weights in one file."""

    options: Any
    anchor: Tensor

    def __init__(self, input_size: int, output_size: int, options: Any) -> None:
        super().__init__()
        self.input_size, self.output_size, self.options = input_size, output_size, options
        # Tells device and precision of a bridge that has no parameters; not saved.
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    @classmethod
    def build(cls, input_size: int, output_size: int, options: BaseModel) -> Self:
        return cls(input_size, output_size, options)

    @classmethod
    def load(cls, folder: Path, input_size: int, output_size: int, options: BaseModel) -> Self:
        bridge = cls(input_size, output_size, options)
        load_weights(bridge, folder)
        return bridge

    def save(self, folder: Path) -> None:
        save_weights(self, folder)

    @property
    def device(self) -> torch.device:
        return self.anchor.device

    @property
    def dtype(self) -> torch.dtype:
        return self.anchor.dtype


def projection(wanted: bool, width: int, output_size: int, what: str) -> nn.Module:
    """The linear layer from ``width`` to the decoder's, or nothing where it is not wanted.

    Raises SizeMismatchError where it is not wanted and ``what`` would give positions of another width.
    """
    if wanted:
        return nn.Linear(width, output_size)
    if width != output_size:
        raise SizeMismatchError(
            f"{what} without a projection gives positions of width {width}, but the decoder reads width "
            f"{output_size}; leave its option projection out"
        )
    return nn.Identity()


def groups_of(**modules: nn.Module) -> list[ParameterGroup]:
    """A parameter group for each of the modules that has parameters; the children of a list get one each."""
    named: dict[str, nn.Module] = {}
    for name, module in modules.items():
        children = enumerate(module) if isinstance(module, nn.ModuleList) else ()
        named |= {f"{name}.{i}": child for i, child in children} or {name: module}
    groups = [ParameterGroup(name, tuple(module.parameters())) for name, module in named.items()]
    return [group for group in groups if group.parameters]


def accurate(dtype: torch.dtype) -> torch.dtype:
    """The precision in which many numbers of ``dtype`` are added up: float32 at least."""
    return torch.promote_types(dtype, torch.float32)
