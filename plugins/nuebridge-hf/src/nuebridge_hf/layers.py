"""Which of a transformer's layers its frames are taken from: one of them, or a learned weighted sum of all.

Layer 0 is what the first layer reads, layer N what the N-th gives. Of a model with a norm after its last layer, the
last counts with that norm, as the model itself gives it. The weighted sum is that of SUPERB (Yang et al.,
arXiv 2105.01051): one weight a layer, made positive and to sum to 1 by a softmax.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nuebridge.errors import CheckpointError, ConfigError
from nuebridge.tensors import read_weights

LAYER_WEIGHTS_FILE = "layer_weights.safetensors"
"""Beside the weights of the model itself, whose library leaves it alone."""


class LayerReader(nn.Module):
    """Runs a stack of layers as far as is needed and gives what was asked for.

    ``choice`` is the option ``layer``; ``norm`` is the name of the stack's norm where it comes after the layers.
    Layers above the one asked for are not run, but kept, so that what is saved is the whole model.
    Raises ConfigError for a layer that is not there.
    """

    def __init__(self, choice: int | Literal["weighted"] | None, num_layers: int, *, norm: str | None) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.norm = norm
        self.index: int | None = None
        weights: nn.Parameter | None = None
        if choice == "weighted":
            weights = nn.Parameter(torch.zeros(num_layers + 1))
        elif choice is not None:
            if not -num_layers - 1 <= choice <= num_layers:
                raise ConfigError(
                    f"there is no layer {choice}: the encoder has {num_layers}; give 0 (what the first one reads) to "
                    f"{num_layers}, or -1 (the last) to {-num_layers - 1}"
                )
            self.index = choice % (num_layers + 1)
        self.weights: nn.Parameter | None
        self.register_parameter("weights", weights)

    @property
    def is_default(self) -> bool:
        """Whether the frames are what the model itself gives."""
        return self.index is None and self.weights is None

    def forward(self, stack: nn.Module, run: Callable[[Any], Tensor]) -> Tensor:
        """The frames ``[B, F, E]``. ``run`` gives the output of such a stack as the one it is passed.

        What it is passed shares all weights with ``stack``, which itself is left as it is.
        """
        layers = list(stack.layers)  # type: ignore[arg-type]
        if self.weights is None:
            if self.index is None or self.index == self.num_layers:
                return run(stack)
            return run(self._with_layers(stack, layers[: self.index]))
        heard: dict[int, Tensor] = {}
        last = run(self._with_layers(stack, [_Listener(layer, i, heard) for i, layer in enumerate(layers)]))
        states = self._states(heard, last)
        if self.norm is not None:
            states[-1] = getattr(stack, self.norm)(states[-1])
        shares = torch.softmax(self.weights.float(), 0)
        total = shares[0].to(states[0].dtype) * states[0]
        for share, state in zip(shares[1:], states[1:], strict=True):
            total = total + share.to(state.dtype) * state
        return total

    def _states(self, heard: dict[int, Tensor], last: Tensor) -> list[Tensor]:
        """What was heard between the layers; one that was dropped in training passed on what it was given."""
        states = [heard[min(heard)] if heard else last]
        for index in range(1, self.num_layers):
            states.append(heard.get(index, states[-1]))
        return [*states, last]

    def _with_layers(self, stack: nn.Module, layers: Sequence[nn.Module]) -> nn.Module:
        """The same stack with other layers, and without a norm after them."""
        other = copy.copy(stack)
        other._modules = dict(stack._modules)
        other._modules["layers"] = nn.ModuleList(layers)
        if self.norm is not None:
            other._modules[self.norm] = nn.Identity()
        return other

    def save(self, folder: Path) -> None:
        """Writes the weights of the sum, where there are any."""
        if self.weights is not None:
            state = {"weights": self.weights.detach().cpu().contiguous()}
            save_file(state, folder / LAYER_WEIGHTS_FILE, metadata={"format": "pt"})

    def load(self, file: Path) -> None:
        """Reads what :meth:`save` wrote. Raises CheckpointError."""
        assert self.weights is not None
        found = read_weights(file).get("weights")
        if found is None or found.shape != self.weights.shape:
            shape = "none" if found is None else str(list(found.shape))
            raise CheckpointError(
                f"{file} has weights of shape {shape} where {list(self.weights.shape)} are expected, one a layer; "
                "it belongs to another encoder"
            )
        with torch.no_grad():
            self.weights.copy_(found)


class _Listener(nn.Module):
    """A layer and a place to leave what it reads and what it gives."""

    def __init__(self, layer: nn.Module, index: int, heard: dict[int, Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.index = index
        self.heard = heard

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.heard[self.index] = hidden
        output = self.layer(hidden, *args, **kwargs)
        self.heard[self.index + 1] = output[0] if isinstance(output, tuple) else output
        return output
