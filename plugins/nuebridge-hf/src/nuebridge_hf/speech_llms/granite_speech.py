"""Granite Speech (arXiv 2505.08699): a conformer trained with CTC, a Q-Former over windows, and Granite with LoRA.

The library switches the language model's LoRA on when there is audio. Here there always is, so it is merged into the
weights, in float32: ``W + alpha / r * B A``. The log-mel features are computed here, since the library's own need
torchaudio; the tests hold them against torchaudio's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.audio_utils import mel_filter_bank
from transformers.models.granite_speech.modeling_granite_speech import (
    GraniteSpeechCTCEncoder,
    GraniteSpeechForConditionalGeneration,
)

from nuebridge.contracts import Frames
from nuebridge.errors import CheckpointError
from nuebridge.model import Integration
from nuebridge.plugins import PluginManager
from nuebridge.prompt import settled
from nuebridge.settings import ChatPrompt, PromptTemplate
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.encoder_base import read_preprocessor
from nuebridge_hf.loading import find_file, read_json
from nuebridge_hf.options import LayerOptions
from nuebridge_hf.speech_llms.towers import TowerEncoder, as_numbers, padded
from nuebridge_hf.speech_llms.whole import Whole
from nuebridge_hf.tokenizers import ChatTokenizer
from nuebridge_hf.weight_files import read_file, tensors_of

INSTRUCTION = "can you transcribe the speech into a written format?"
"""What the model card asks, after the audio."""

SYSTEM = (
    "Knowledge Cutoff Date: April 2024.\nToday's Date: April 9, 2025.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)
"""The model card's system turn for releases whose template would else write today's date into the prompt."""

_NUMBERS = {"sampling_rate": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80}


class GraniteSpeechEncoder(TowerEncoder):
    """The conformer of Granite Speech, at 50 Hz: two mel frames a frame, attention within blocks of 4 seconds.

    Clips of one length run together, others by themselves: its convolutions know of no padding. In training its batch
    norms keep the statistics that they were trained with.
    """

    model_class = GraniteSpeechCTCEncoder
    model_type = "granite_speech_encoder"
    whole_type = "granite_speech"
    config_name = "encoder_config"
    module_name = "encoder"
    front_end = ("input_linear",)
    head = ("out", "out_mid")

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        numbers: Mapping[str, int] | None = None,
        options: LayerOptions | None = None,
    ) -> None:
        super().__init__(model, options, norm=None)
        config = model.config
        self._numbers = as_numbers(numbers, _NUMBERS)
        if 2 * self._numbers["n_mels"] != config.input_dim:
            raise CheckpointError(
                f"the preprocessor gives two times {self._numbers['n_mels']} mel bins, and the encoder reads "
                f"{config.input_dim} numbers; they are not of one checkpoint"
            )
        self.sample_rate = self._numbers["sampling_rate"]
        self.hidden_size = int(config.hidden_dim)
        self._hop = self._numbers["hop_length"]
        self.frame_rate = self.sample_rate / (2 * self._hop)
        filters = mel_filter_bank(
            num_frequency_bins=1 + self._numbers["n_fft"] // 2,
            num_mel_filters=self._numbers["n_mels"],
            min_frequency=0.0,
            max_frequency=self.sample_rate / 2,
            sampling_rate=self.sample_rate,
            norm=None,
            mel_scale="htk",
        )
        self._filters = torch.from_numpy(filters).float()  # a fixed table, kept out of the state and off the device

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self

    @property
    def min_samples(self) -> int:
        # The spectrogram mirrors a clip by half a Fourier window at its ends; a frame needs two mel frames.
        return max(self._numbers["n_fft"] // 2 + 1, self._hop)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        frames = (lengths.div(self._hop, rounding_mode="floor") + 1).div(2, rounding_mode="floor")
        return torch.where(lengths < self.min_samples, 0, frames)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        waveforms, lengths, frame_lengths = self.checked(waveforms, lengths)
        counts = frame_lengths.tolist()
        heard = [self._features(torch.from_numpy(clip)) for clip in self.clips(waveforms, lengths)]
        hidden: list[Tensor] = list(heard)
        for count in dict.fromkeys(counts):
            rows = [row for row, other in enumerate(counts) if other == count]
            features = torch.stack([heard[row] for row in rows]).to(waveforms.device, self.dtype)
            for row, frames in zip(rows, self.layer_reader(self.model, partial(self._run, features)), strict=True):
                hidden[row] = frames
        return Frames(padded(hidden), frame_lengths)

    def _features(self, clip: Tensor) -> Tensor:
        """Log-mel features ``[F, 2 * mel bins]`` of a clip ``[S]``, on the CPU, as the library's extractor has them."""
        spectrum = torch.stft(
            clip,
            self._numbers["n_fft"],
            self._hop,
            self._numbers["win_length"],
            torch.hann_window(self._numbers["win_length"]),
            return_complex=True,
        )
        mels = self._filters.T @ spectrum.abs().square()
        logarithms = mels.T.clamp(min=1e-10).log10()
        scaled = torch.maximum(logarithms, logarithms.max() - 8.0) / 4 + 1
        return scaled[: len(scaled) // 2 * 2].reshape(-1, 2 * scaled.shape[1])

    def _run(self, features: Tensor, stack: Any) -> Tensor:
        output = stack(features)
        hidden: Tensor = output if isinstance(output, Tensor) else output.last_hidden_state
        return hidden

    @classmethod
    def _made_of(cls, model: PreTrainedModel, source: str, options: Any, revision: str | None) -> Self:
        said = read_preprocessor(source, revision)
        if said is None:
            nested = (read_json(source, "processor_config.json", revision) or {}).get("audio_processor")
            said = nested if isinstance(nested, dict) else None
        return cls(model, numbers=said, options=options)

    def preprocessor(self) -> Mapping[str, Any]:
        return {"feature_extractor_type": "GraniteSpeechFeatureExtractor", **self._numbers}


def load_granite_speech(folder: Path, manager: PluginManager) -> Integration:
    """The integration in ``folder``. Raises CheckpointError, and PromptError where its chat template is of no use."""
    source = str(folder)
    state = tensors_of(source, lambda name: True, revision=None, allow_pickle=False)
    whole = Whole.read(folder, manager, GraniteSpeechForConditionalGeneration, state=state)
    config = whole.config
    decoder = whole.decoder(CausalLm)
    if config.has_lora_adapter:
        merge_lora(decoder.model, folder)
    projector = config.projector_config
    return whole.joined(
        GraniteSpeechEncoder.from_whole(whole.model, source),
        "hf.granite-projector",
        {
            "window_size": config.window_size,
            "downsample_rate": config.downsample_rate,
            **{name: getattr(projector, name) for name in _PROJECTOR},
        },
        "projector",
        decoder,
        prompt=_prompt(decoder),
        at_most=None,
        components=("hf.granite-speech-encoder", "hf.causal-lm"),
    )


_PROJECTOR = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "cross_attention_frequency",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "layer_norm_eps",
)


def _prompt(decoder: CausalLm) -> PromptTemplate:
    tokenizer = decoder.tokenizer
    template = tokenizer.chat_template if isinstance(tokenizer, ChatTokenizer) else None
    dated = template is not None and "strftime_now" in template.text
    chat = ChatPrompt(system=SYSTEM if dated else None, instruction=f"{{audio}}{INSTRUCTION}")
    return settled(chat, decoder)


_LORA_FIELDS = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "lora_bias": False,
}
"""What an adapter_config.json may say of what is not merged here, and the only value that is."""

_LAYER_NAME = re.compile(r"(layers\.\d+\..+)$")
_LORA_NAME = re.compile(r"(layers\.\d+\..+)\.lora_([AB])\.(?:\w+\.)?weight")


def merge_lora(model: nn.Module, folder: Path) -> None:
    """Adds the LoRA that lies in ``folder`` to the weights of a language model, in float32.

    Raises CheckpointError where it is missing, of a kind that is not plain LoRA, or does not fit.
    """
    config = read_json(str(folder), "adapter_config.json")
    file = find_file(str(folder), "adapter_model.safetensors")
    if config is None or file is None:
        raise CheckpointError(
            f"{folder} is said to have LoRA for audio (has_lora_adapter), but adapter_config.json or "
            "adapter_model.safetensors is missing; copy the whole checkpoint again"
        )
    for field, plain in _LORA_FIELDS.items():
        value = config.get(field, plain)
        if value != plain and not (not value and not plain):
            raise CheckpointError(f"the LoRA of {folder} has {field}: {value!r}, which cannot be merged here")
    scale = float(config["lora_alpha"]) / int(config["r"])
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_file(file).items():
        match = _LORA_NAME.search(name)
        if match is None:
            raise CheckpointError(f"{file} holds {name!r}, which is no LoRA of a layer")
        found.setdefault(match[1], {})[match[2]] = tensor.float()
    modules = {match[1]: module for name, module in model.named_modules() if (match := _LAYER_NAME.search(name))}
    for name, pair in found.items():
        weight = getattr(modules.get(name), "weight", None)
        shapes = [list(pair[letter].shape) if letter in pair else None for letter in "AB"]
        if weight is None or None in shapes or list((pair["B"] @ pair["A"]).shape) != list(weight.shape):
            raise CheckpointError(f"{file}: the LoRA of {name!r} (A {shapes[0]}, B {shapes[1]}) does not fit the model")
        with torch.no_grad():
            weight += scale * (pair["B"] @ pair["A"]).to(weight)
