"""The bridges of published speech-language models, with their weights' own names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.activations import ACT2FN
from transformers.models.granite_speech.modeling_granite_speech import GraniteSpeechEncoderProjector

from nuebridge.contracts import Bridge, Frames, ParameterGroup, check_not_empty
from nuebridge.errors import ConfigError
from nuebridge.tensors import load_weights, save_weights
from nuebridge_hf.loading import one_line, quiet_transformers
from nuebridge_hf.speech_llms.options import GraniteProjectorOptions, MlpProjectorOptions


class KeptBridge(Bridge):
    """A bridge that is made of two widths and its options, and keeps its weights in one file."""

    options: Any

    def __init__(self, input_size: int, output_size: int, options: Any) -> None:
        super().__init__()
        self.input_size, self.output_size, self.options = input_size, output_size, options

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


def activation(name: str) -> Any:
    """transformers' function of that name. Raises ConfigError for one that it does not have."""
    if name not in ACT2FN:
        raise ConfigError(f"transformers has no activation {name!r}; it has: {', '.join(sorted(ACT2FN))}")
    return ACT2FN[name]


class MlpProjector(KeptBridge):
    """Neighbouring frames side by side, a linear layer, an activation and another linear layer.

    Qwen3-ASR's (one frame; arXiv 2601.21337) and Voxtral's (four; arXiv 2507.13264). A last group that is not full is
    filled with zeros; neither model's encoder gives one.
    """

    options: MlpProjectorOptions

    def __init__(self, input_size: int, output_size: int, options: MlpProjectorOptions) -> None:
        super().__init__(input_size, output_size, options)
        self.downsampling_factor = float(options.frames)
        named = {"input": input_size, "output": output_size}
        hidden = options.hidden_size if isinstance(options.hidden_size, int) else named[options.hidden_size]
        self.linear_1 = nn.Linear(options.frames * input_size, hidden, bias=options.bias)
        self.act = activation(options.activation)
        self.linear_2 = nn.Linear(hidden, output_size, bias=options.bias)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths + self.options.frames - 1).div(self.options.frames, rounding_mode="floor").clamp(min=0)

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        lengths = self.output_lengths(frames.lengths)
        check_not_empty(frames.lengths, lengths, 1, "encoder frames", "the bridge")
        hidden = frames.zero_padding().features
        batch, count, width = hidden.shape
        hidden = F.pad(hidden, (0, 0, 0, -count % self.options.frames))
        hidden = hidden.reshape(batch, -1, self.options.frames * width)[:, : int(lengths.max())]
        hidden = self.linear_2(self.act(self.linear_1(hidden)))
        return Frames(hidden, lengths, losses=frames.losses).zero_padding()

    def parameter_groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup("layers.0", tuple(self.linear_1.parameters())),
            ParameterGroup("head", tuple(self.linear_2.parameters())),
        ]


class GraniteProjector(KeptBridge):
    """Granite Speech's Q-Former (arXiv 2505.08699): a few queries read each window of frames. The network is the
    library's.

    A last window that is not full is filled with zeros. Raises ConfigError for options that no Q-Former can have.
    """

    options: GraniteProjectorOptions

    def __init__(self, input_size: int, output_size: int, options: GraniteProjectorOptions) -> None:
        super().__init__(input_size, output_size, options)
        self._per_window = options.window_size // options.downsample_rate
        if options.window_size % options.downsample_rate:
            raise ConfigError(
                f"window_size {options.window_size} is no multiple of downsample_rate {options.downsample_rate}"
            )
        self.downsampling_factor = options.window_size / self._per_window
        try:
            with quiet_transformers():
                config = Blip2QFormerConfig(
                    hidden_size=options.hidden_size or input_size,
                    encoder_hidden_size=input_size,
                    num_hidden_layers=options.num_hidden_layers,
                    num_attention_heads=options.num_attention_heads,
                    intermediate_size=options.intermediate_size,
                    cross_attention_frequency=options.cross_attention_frequency,
                    hidden_act=options.hidden_act,
                    hidden_dropout_prob=options.hidden_dropout_prob,
                    attention_probs_dropout_prob=options.attention_probs_dropout_prob,
                    layer_norm_eps=options.layer_norm_eps,
                )
                network = GraniteSpeechEncoderProjector(
                    SimpleNamespace(
                        projector_config=config,
                        text_config=SimpleNamespace(hidden_size=output_size),
                        window_size=options.window_size,
                        downsample_rate=options.downsample_rate,
                    )
                )
        except ValueError as error:
            raise ConfigError(f"no Q-Former can be made of these options: {one_line(error)}") from error
        self.query = network.query
        self.qformer = network.qformer
        self.linear = network.linear

    def output_lengths(self, lengths: Tensor) -> Tensor:
        windows = (lengths + self.options.window_size - 1).div(self.options.window_size, rounding_mode="floor")
        return windows.clamp(min=0) * self._per_window

    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        lengths = self.output_lengths(frames.lengths)
        check_not_empty(frames.lengths, lengths, 1, "encoder frames", "the bridge")
        # What lies past a length is zero, as is what fills the last window, so rows do not know of each other.
        hidden = frames.zero_padding().features[:, : int(frames.lengths.max())]
        batch, count, width = hidden.shape
        hidden = F.pad(hidden, (0, 0, 0, -count % self.options.window_size))
        windows = hidden.reshape(-1, self.options.window_size, width)
        heard = self.qformer(
            query_embeds=self.query,
            encoder_hidden_states=windows,
            encoder_attention_mask=None,
            return_dict=True,
        ).last_hidden_state
        positions = self.linear(heard.reshape(batch, -1, heard.shape[-1]))
        return Frames(positions, lengths, losses=frames.losses).zero_padding()

    def parameter_groups(self) -> list[ParameterGroup]:
        """``queries``, ``layers`` (the Q-Former's) and ``head``."""
        return [
            ParameterGroup("queries", (self.query,)),
            ParameterGroup("layers", tuple(self.qformer.parameters())),
            ParameterGroup("head", tuple(self.linear.parameters())),
        ]
