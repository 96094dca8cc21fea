"""What the encoders of speech-language models have in common: where they are in a checkpoint, and reading them alone.

An encoder is read from a folder that it was saved to, or out of the whole published checkpoint, whose language model
is then left unread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from nuebridge.contracts import CtcWeights, ParameterGroup
from nuebridge.errors import CheckpointError
from nuebridge_hf.encoder_base import LibraryEncoder, rows_of
from nuebridge_hf.loading import load_model, read_config
from nuebridge_hf.options import LayerOptions
from nuebridge_hf.speech_llms.options import TowerOptions
from nuebridge_hf.weight_files import tensors_of


class TowerEncoder(LibraryEncoder):
    """The audio encoder of a speech-language model. No gradient flows through its features."""

    options_class = TowerOptions
    whole_type: ClassVar[str]
    """``model_type`` of the whole published checkpoint."""
    config_name: ClassVar[str] = "audio_config"
    """Where its configuration is in that of the whole."""
    module_name: ClassVar[str] = "audio_tower"
    """What it is called within the whole model."""
    front_end: ClassVar[tuple[str, ...]]
    """Names of the modules before the layers."""
    head: ClassVar[tuple[str, ...]] = ()
    """Names of the modules after or beside the layers."""

    def __init__(self, model: PreTrainedModel, options: LayerOptions | None, *, norm: str | None) -> None:
        super().__init__(model, options or TowerOptions(), norm=norm)

    @property
    def stack(self) -> Any:
        return self.model

    def clips(self, waveforms: Tensor, lengths: Tensor) -> list[Any]:
        """The clips of a batch without their padding, float32 arrays on the CPU."""
        return rows_of(waveforms, lengths)

    def parameter_groups(self) -> list[ParameterGroup]:
        """``front_end``, ``layers.N``, ``head`` and ``layer_weights``; empty ones are left out."""
        return self.groups(_parameters(self.model, self.front_end), [], _parameters(self.model, self.head))

    @classmethod
    def _config(cls, source: str, revision: str | None) -> PretrainedConfig:
        config = read_config(source, revision)
        if config.model_type == cls.whole_type:
            config = getattr(config, cls.config_name)
        if config.model_type != cls.model_type:
            raise CheckpointError(
                f"{source!r} holds a {config.model_type!r} model, not a {cls.whole_type!r} one or its encoder"
            )
        return config

    @classmethod
    def _weights(
        cls, config: PretrainedConfig, source: str, options: LayerOptions, revision: str | None
    ) -> PreTrainedModel:
        whole = read_config(source, revision).model_type == cls.whole_type
        prefixes = (f"model.{cls.module_name}.", f"{cls.module_name}.") if whole else ("",)
        found = tensors_of(
            source, lambda name: name.startswith(prefixes), revision=revision, allow_pickle=options.allow_pickle
        )
        state = {_without(name, prefixes): tensor for name, tensor in found.items()}
        model, _ = load_model(cls.model_class, config, source=source, state_dict=state, harmless={}, **cls._arguments())
        return model

    @classmethod
    def own_ctc_head(cls, source: str, options: BaseModel, *, revision: str | None = None) -> CtcWeights | None:
        return None

    @classmethod
    def from_whole(cls, model: PreTrainedModel, source: str) -> Self:
        """The encoder within a whole model that was read from ``source``."""
        return cls._made_of(inside(model, cls.module_name), source, TowerOptions(), None)


def inside(model: Any, name: str) -> Any:
    """A module of a whole model, which transformers 5 keeps one level deeper than 4.57."""
    found = getattr(model, name, None)
    return getattr(model.model, name) if found is None else found


def padded(clips: Sequence[Tensor]) -> Tensor:
    """Frames ``[F, E]`` of several clips as one batch ``[B, F, E]``, zero past each clip's end."""
    return nn.utils.rnn.pad_sequence(list(clips), batch_first=True)


def as_numbers(data: Mapping[str, Any] | None, defaults: Mapping[str, int]) -> dict[str, int]:
    """What a preprocessor's configuration says of some numbers, or their defaults. Raises CheckpointError."""
    said = {name: (data or {}).get(name, default) for name, default in defaults.items()}
    for name, value in said.items():
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"the preprocessor_config.json says {name}: {value!r}, which is no positive number")
    return said


def _without(name: str, prefixes: Sequence[str]) -> str:
    prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
    return name.removeprefix(prefix)


def _parameters(model: Any, names: Sequence[str]) -> list[nn.Parameter]:
    return [parameter for name in names for parameter in getattr(model, name).parameters()]


def lengths_of(counts: Sequence[int], like: Tensor) -> Tensor:
    """Numbers of frames as lengths ``[B]`` on the device of ``like``."""
    return torch.tensor(list(counts), dtype=torch.int64, device=like.device)
