"""Voxtral (arXiv 2507.13264): Whisper's encoder in windows of 30 seconds, four frames a position, and a Llama.

A recording is filled up with silence to whole windows, and the model reads every frame of them, those of the silence
too. The spectrogram is that of the whole recording, cut afterwards. The prompt is the one for transcription, without a
language.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    VoxtralForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.models.voxtral.modeling_voxtral import VoxtralEncoder

from nuebridge.contracts import Frames
from nuebridge.errors import CheckpointError
from nuebridge.model import Integration
from nuebridge.plugins import PluginManager
from nuebridge.settings import PromptTemplate
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.encoder_base import read_extractor
from nuebridge_hf.loading import find_file, one_line, quiet_transformers
from nuebridge_hf.options import LayerOptions
from nuebridge_hf.speech_llms.towers import TowerEncoder, padded
from nuebridge_hf.speech_llms.whole import Whole
from nuebridge_hf.tokenizers import Tokenizer, TransformersTokenizer, load_tokenizer

PROMPT = PromptTemplate(prefix="<s>[INST][BEGIN_AUDIO]", suffix="[/INST][TRANSCRIBE]")
"""What mistral-common makes of a request for transcription without a language."""

MAX_AUDIO_SECONDS = 1800.0
"""The longest recording that the model card says it transcribes at once."""


class VoxtralSpeechEncoder(TowerEncoder):
    """The encoder of Voxtral: whole windows of 30 seconds, at 50 Hz.

    A clip has the frames of as many windows as it begins, those of the silence that fills the last one too.
    """

    model_class = VoxtralEncoder
    model_type = "voxtral_encoder"
    whole_type = "voxtral"
    front_end = ("conv1", "conv2", "embed_positions")
    head = ("layer_norm",)

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        extractor: WhisperFeatureExtractor | None = None,
        options: LayerOptions | None = None,
    ) -> None:
        super().__init__(model, options, norm="layer_norm")
        config = model.config
        self.extractor: Any = extractor or WhisperFeatureExtractor(feature_size=config.num_mel_bins)
        if self.extractor.feature_size != config.num_mel_bins:
            raise CheckpointError(
                f"the preprocessor gives {self.extractor.feature_size} mel bins, and the encoder reads "
                f"{config.num_mel_bins}; they are not of one checkpoint"
            )
        self.sample_rate = int(self.extractor.sampling_rate)
        self.hidden_size = int(config.hidden_size)
        self._per_window = int(config.max_source_positions)
        self._mels = 2 * self._per_window
        self._window = self._mels * int(self.extractor.hop_length)
        self.frame_rate = self._per_window * self.sample_rate / self._window

    @property
    def min_samples(self) -> int:
        return 1

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return self._windows(lengths) * self._per_window

    def _windows(self, lengths: Tensor) -> Tensor:
        return (lengths + self._window - 1).div(self._window, rounding_mode="floor")

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        waveforms, lengths, frame_lengths = self.checked(waveforms, lengths)
        features = torch.cat([self._features(clip) for clip in self.clips(waveforms, lengths)])
        run = partial(self._run, features.to(waveforms.device, self.dtype))
        windows = self.layer_reader(self.model, run)
        hidden = padded(torch.split(windows.flatten(0, 1), frame_lengths.tolist()))
        return Frames(hidden, frame_lengths)

    def _features(self, clip: Any) -> Tensor:
        """The library's features ``[windows, mel bins, M]`` of a clip."""
        heard = self.extractor(
            clip,
            sampling_rate=self.sample_rate,
            padding=True,
            truncation=False,
            pad_to_multiple_of=self._window,
            return_tensors="pt",
        )
        mels: Tensor = heard["input_features"][0]
        return mels.reshape(len(mels), -1, self._mels).transpose(0, 1)

    def _run(self, features: Tensor, stack: Any) -> Tensor:
        output: Tensor = stack(features).last_hidden_state
        return output

    @classmethod
    def _made_of(cls, model: PreTrainedModel, source: str, options: Any, revision: str | None) -> Self:
        extractor = read_extractor(WhisperFeatureExtractor, source, revision, feature_size=model.config.num_mel_bins)
        return cls(model, extractor=extractor, options=options)

    def preprocessor(self) -> Mapping[str, Any]:
        said: dict[str, Any] = self.extractor.to_dict()
        return said


def load_voxtral(folder: Path, manager: PluginManager) -> Integration:
    """The integration in ``folder``. Raises CheckpointError."""
    tokenizer = _tokenizer(folder)
    for text in (PROMPT.prefix, PROMPT.suffix):
        tokens = text.count("[") + text.count("<s>")
        if len(tokenizer.encode(text)) != tokens:
            raise CheckpointError(
                f"the tokenizer of {folder} does not know the tokens {text}, so the checkpoint cannot be asked to "
                "transcribe; it is no Voxtral for transcription"
            )
    whole = Whole.read(folder, manager, VoxtralForConditionalGeneration)
    config = whole.config
    width, stacked = config.audio_config.hidden_size, config.audio_config.intermediate_size
    if stacked % width:
        raise CheckpointError(f"{folder} lays {stacked}/{width} frames side by side, which is no whole number")
    return whole.joined(
        VoxtralSpeechEncoder.from_whole(whole.model, str(folder)),
        "hf.mlp-projector",
        {"frames": stacked // width, "bias": False, "activation": config.projector_hidden_act},
        "multi_modal_projector",
        whole.decoder(CausalLm, tokenizer=tokenizer),
        prompt=PROMPT,
        at_most=MAX_AUDIO_SECONDS,
        components=("hf.voxtral-encoder", "hf.causal-lm"),
    )


def _tokenizer(folder: Path) -> Tokenizer:
    """Mistral's own file, in the library's form; where there is none, tokenizer.json. Raises CheckpointError."""
    tekken = find_file(str(folder), "tekken.json")
    if tekken is None:
        return load_tokenizer(str(folder))
    try:
        from transformers.integrations.mistral import convert_tekken_tokenizer

        with quiet_transformers():
            converted = convert_tekken_tokenizer(str(tekken))
    except Exception as error:  # a file of another kind, or a package that a release of the library wants for it
        raise CheckpointError(
            f"{tekken} cannot be read ({one_line(error)}); transformers 5.23 reads it without further packages"
        ) from error
    # The plain class: what is saved is read again without Mistral's file.
    return TransformersTokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=converted.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
        )
    )
