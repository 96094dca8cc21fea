"""Gradient checkpointing (Chen et al., arXiv 1604.06174): layers are computed again in the backward pass.

A layer is a child of a module list, as models keep their layers; its names and hooks stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def layer_lists(module: nn.Module) -> list[list[nn.Module]]:
    """The outermost lists of layers in a module: the children of each that hold parameters; every layer once."""
    found: dict[int, list[nn.Module]] = {}
    seen: set[int] = set()
    for parent in _outside(module, seen):
        if isinstance(parent, nn.ModuleList):
            for child in parent:
                # A list of lists, or of mappings, is never called itself.
                known = id(child) in seen or isinstance(child, nn.ModuleList | nn.ModuleDict)
                if not known and next(child.parameters(), None) is not None:
                    seen.add(id(child))
                    found.setdefault(id(parent), []).append(child)
    return list(found.values())


def layers(module: nn.Module) -> list[nn.Module]:
    """The layers of all lists of a module."""
    return [layer for found in layer_lists(module) for layer in found]


def _outside(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    """The module and what is in it, but not what is in modules that were found meanwhile."""
    yield module
    for child in module.children():
        if id(child) not in seen:
            yield from _outside(child, seen)


@contextmanager
def recomputing(chosen: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block these layers keep only what goes into them, and are computed again for gradients.

    Losses and gradients are the same, dropout included. Backward passes may come after the block.
    """
    changed = [(layer, layer.__dict__.get("forward")) for layer in chosen]
    for layer, _ in changed:
        # On the object: its class, and so its name and what is saved of it, stay as they are.
        layer.__dict__["forward"] = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer, before in changed:
            if before is None:
                del layer.__dict__["forward"]
            else:
                layer.__dict__["forward"] = before
