"""Qwen3-ASR as transformers publishes it: an encoder of one-second chunks, two linear layers and Qwen3.

The clip is heard whole: chunks of a second pass the convolutions, attention spans windows of eight. The model answers
``language English<asr_text>the transcript``; where the prompt names the language, the transcript alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.qwen3_asr.feature_extraction_qwen3_asr import Qwen3ASRFeatureExtractor
from transformers.models.qwen3_asr.modeling_qwen3_asr import Qwen3ASREncoder, Qwen3ASRForConditionalGeneration
from transformers.models.qwen3_asr.processing_qwen3_asr import Qwen3ASRProcessor

from nuebridge.contracts import Frames, length_mask
from nuebridge.errors import CheckpointError
from nuebridge.model import Integration
from nuebridge.plugins import PluginManager
from nuebridge_hf.conv_lengths import Convolution, lengths_after
from nuebridge_hf.encoder_base import read_extractor
from nuebridge_hf.loading import read_json
from nuebridge_hf.options import LayerOptions
from nuebridge_hf.speech_llms.marked_lm import MarkedLm
from nuebridge_hf.speech_llms.options import MarkedDecoderOptions
from nuebridge_hf.speech_llms.towers import TowerEncoder, padded
from nuebridge_hf.speech_llms.whole import Whole, own_processor, prompt_with_context

_HALVES = (Convolution(3, 2, padding=1),) * 3
"""The three convolutions over a chunk."""

MAX_AUDIO_SECONDS = 1200.0
"""The longest recording that the published package hands to the model at once."""


class Qwen3AsrSpeechEncoder(TowerEncoder):
    """The encoder of Qwen3-ASR (arXiv 2601.21337), at 13 Hz.

    Clips shorter than half a second are filled up with silence, as its feature extractor does.
    """

    model_class = Qwen3ASREncoder
    model_type = "qwen3_asr_encoder"
    whole_type = "qwen3_asr"
    front_end = ("conv2d1", "conv2d2", "conv2d3", "conv_out")
    head = ("ln_post",)

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        extractor: Qwen3ASRFeatureExtractor | None = None,
        options: LayerOptions | None = None,
    ) -> None:
        super().__init__(model, options, norm="ln_post")
        config = model.config
        self.extractor: Any = extractor or Qwen3ASRFeatureExtractor(
            feature_size=config.num_mel_bins, n_window=config.n_window
        )
        if self.extractor.feature_size != config.num_mel_bins or self.extractor.n_window != config.n_window:
            raise CheckpointError(
                f"the preprocessor gives {self.extractor.feature_size} mel bins in chunks of "
                f"{self.extractor.n_window}, and the encoder reads {config.num_mel_bins} in chunks of "
                f"{config.n_window}; they are not of one checkpoint"
            )
        if self.extractor.dither:
            raise CheckpointError(
                "the preprocessor adds noise (dither), so what a clip yields would not be settled; set dither to 0"
            )
        self.sample_rate = int(self.extractor.sampling_rate)
        self.hidden_size = int(config.d_model)
        self._hop = int(self.extractor.hop_length)
        self._chunk = 2 * int(config.n_window)
        seconds = self._chunk * self._hop / self.sample_rate
        self.frame_rate = int(self._frames(torch.tensor(self._chunk))) / seconds

    @property
    def min_samples(self) -> int:
        # The spectrogram mirrors a clip by half a Fourier window at its ends.
        mirrored = int(self.extractor.n_fft) // 2 + 1
        return 1 if self.extractor.min_length >= max(mirrored, self._hop) else max(mirrored, self._hop)

    def _frames(self, mels: Tensor) -> Tensor:
        """Mel frames to frames: whole chunks, and what is left over."""
        whole = torch.div(mels, self._chunk, rounding_mode="floor")
        rest = torch.where(mels % self._chunk > 0, lengths_after(_HALVES, mels % self._chunk), 0)
        return whole * lengths_after(_HALVES, torch.full_like(mels, self._chunk)) + rest

    def output_lengths(self, lengths: Tensor) -> Tensor:
        heard = lengths.clamp(min=int(self.extractor.min_length))
        frames = self._frames(torch.div(heard, self._hop, rounding_mode="floor"))
        return torch.where(lengths < self.min_samples, 0, frames)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        waveforms, lengths, frame_lengths = self.checked(waveforms, lengths)
        # Each clip by itself: in a batch, the end of a shorter one would be mirrored silence.
        heard = [self._features(clip) for clip in self.clips(waveforms, lengths)]
        mels = torch.tensor([mask for _, mask in heard])
        widest = max(features.shape[1] for features, _ in heard)
        features = torch.stack([F.pad(one, (0, widest - one.shape[1])) for one, _ in heard])
        features = features.to(waveforms.device, self.dtype)
        mask = length_mask(mels, widest).to(waveforms.device, torch.int64)
        packed = self.layer_reader(self.model, partial(self._run, features, mask))
        hidden = padded(torch.split(packed, frame_lengths.tolist()))
        return Frames(hidden, frame_lengths)

    def _features(self, clip: Any) -> tuple[Tensor, int]:
        """The library's features ``[mel bins, M]`` of a clip, M whole chunks, and how many of M are real."""
        heard = self.extractor(clip, sampling_rate=self.sample_rate, padding=True, return_attention_mask=True)
        return heard["input_features"][0], int(heard["attention_mask"].sum())

    def _run(self, features: Tensor, mask: Tensor, stack: Any) -> Tensor:
        output: Tensor = stack(features, mask).last_hidden_state
        return output

    @classmethod
    def _made_of(cls, model: PreTrainedModel, source: str, options: Any, revision: str | None) -> Self:
        bins, window = model.config.num_mel_bins, model.config.n_window
        extractor = read_extractor(Qwen3ASRFeatureExtractor, source, revision, feature_size=bins, n_window=window)
        return cls(model, extractor=extractor, options=options)

    def preprocessor(self) -> Mapping[str, Any]:
        said: dict[str, Any] = self.extractor.to_dict()
        return said


def load_qwen3_asr(folder: Path, manager: PluginManager) -> Integration:
    """The integration in ``folder``; what a caller gives as context goes into the system's turn.

    Raises CheckpointError.
    """
    if "thinker_config" in (read_json(str(folder), "config.json") or {}):
        raise CheckpointError(
            f"{folder} holds Qwen3-ASR as its own package writes it; transformers reads the repositories whose names "
            "end in -hf (Qwen/Qwen3-ASR-1.7B-hf)"
        )
    whole = Whole.read(folder, manager, Qwen3ASRForConditionalGeneration)
    encoder = Qwen3AsrSpeechEncoder.from_whole(whole.model, str(folder))
    decoder = whole.decoder(MarkedLm, MarkedDecoderOptions)
    processor = own_processor(Qwen3ASRProcessor, folder)
    silence = np.zeros(1, np.float32)
    prompt = prompt_with_context(
        lambda context: processor.apply_transcription_request([silence], prompt=context, tokenize=False)[0],
        processor.audio_token,
    )
    return whole.joined(
        encoder,
        "hf.mlp-projector",
        {"hidden_size": "input", "activation": whole.config.audio_config.activation_function},
        "multi_modal_projector",
        decoder,
        prompt=prompt,
        at_most=MAX_AUDIO_SECONDS,
        components=("hf.qwen3-asr-encoder", "hf.marked-lm"),
    )
