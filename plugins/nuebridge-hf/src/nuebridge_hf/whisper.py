"""Whisper's encoder: a log-mel spectrogram of 30 seconds through a transformer.

The model and its features are transformers' own. Two ways of hearing a clip: in the window that the model was
trained with (``exact``), or by itself (``short``), which costs less and gives other frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from nuebridge.contracts import Frames, ParameterGroup, length_mask
from nuebridge.errors import AudioError, CheckpointError
from nuebridge_hf.conv_lengths import Convolution, lengths_after
from nuebridge_hf.encoder_base import LibraryEncoder, read_extractor, rows_of
from nuebridge_hf.loading import OLDER_THAN_5, load_model
from nuebridge_hf.options import LayerOptions, WhisperOptions
from nuebridge_hf.weight_files import tensors_of

_PAIRS = Convolution(3, 2, padding=1)
"""The second convolution: two mel frames make a frame. The first changes no lengths."""

_NOT_THE_ENCODER = ("model.decoder.", "decoder.", "proj_out.", "projector.", "classifier.", "layer_weights")
"""Beginnings of the names of what else a Whisper checkpoint holds."""


class WhisperSpeechEncoder(LibraryEncoder):
    """The encoder of Whisper (Radford et al., arXiv 2212.04356), at 50 Hz.

    A clip has as many frames as its whole mel frames make; in the ``exact`` window those that stand for silence
    after it are cut off. Its table of positions is fixed when it is made, but a parameter: part of ``projection``.
    No gradient flows through the features. Raises AudioError for a clip longer than the window.
    """

    model_class = WhisperEncoder
    model_type = "whisper"
    options_class = WhisperOptions

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        extractor: WhisperFeatureExtractor | None = None,
        options: WhisperOptions | None = None,
    ) -> None:
        options = options or WhisperOptions()
        super().__init__(model, options, norm="layer_norm")
        config = model.config
        self.extractor = extractor or WhisperFeatureExtractor(feature_size=config.num_mel_bins)  # type: ignore[no-untyped-call]
        if self.extractor.feature_size != config.num_mel_bins:
            raise CheckpointError(
                f"the preprocessor gives {self.extractor.feature_size} mel bins, and the encoder reads "
                f"{config.num_mel_bins}; they are not of one checkpoint"
            )
        self.window = options.window
        self.sample_rate = int(self.extractor.sampling_rate)
        self.hidden_size = int(config.d_model)
        self._hop = int(self.extractor.hop_length)
        self.frame_rate = self.sample_rate / (self._hop * _PAIRS.stride)
        self.max_samples = int(config.max_source_positions) * _PAIRS.stride * self._hop
        self.max_audio_seconds = self.max_samples / self.sample_rate

    @property
    def stack(self) -> Any:
        return self.model

    @property
    def min_samples(self) -> int:
        # Alone, a clip is mirrored by half a Fourier window at its ends, and must be longer than that.
        return self._hop if self.window == "exact" else max(self._hop, self.extractor.n_fft // 2 + 1)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        lengths = torch.where(lengths < self.min_samples, 0, lengths)
        return lengths_after((_PAIRS,), torch.div(lengths, self._hop, rounding_mode="floor"))

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        self._check_not_too_long(lengths)
        waveforms, lengths, frame_lengths = self.checked(waveforms, lengths)
        if self.window == "exact":
            features = self._features(waveforms, lengths, padding="max_length", max_length=self.max_samples)
            run = partial(self._run_whole, features)
        else:
            rows = zip(waveforms, lengths, strict=True)
            alone = [self._features(row[None], length[None], padding="longest")[0].T for row, length in rows]
            features = torch.nn.utils.rnn.pad_sequence(alone, batch_first=True).transpose(1, 2)  # [B, mel bins, M]
            mel_mask = length_mask(torch.div(lengths, self._hop, rounding_mode="floor"), features.shape[2])
            run = partial(self._run_alone, features, mel_mask, length_mask(frame_lengths, int(frame_lengths.max())))
        hidden = self.layer_reader(self.model, run)[:, : int(frame_lengths.max())]
        return Frames(hidden, frame_lengths).zero_padding()

    def _check_not_too_long(self, lengths: Tensor) -> None:
        assert self.max_samples is not None
        longest = int(lengths.max())
        if longest > self.max_samples:
            raise AudioError(
                f"clip {int(lengths.argmax())} of the batch has {longest / self.sample_rate:.2f} s, and Whisper's "
                f"encoder reads at most {self.max_samples / self.sample_rate:g} s at once; cut it at quiet places, "
                "which max_audio_seconds of an integration does"
            )

    def _features(self, waveforms: Tensor, lengths: Tensor, **how: Any) -> Tensor:
        """The library's log-mel features ``[B, mel bins, M]`` of clips, each by itself."""
        clips = rows_of(waveforms, lengths)
        heard = self.extractor(clips, sampling_rate=self.sample_rate, return_tensors="pt", **how)
        features = heard["input_features"].to(waveforms.device, self.dtype)
        if not self.training or not self.model.config.apply_spec_augment:
            return features

        def masking(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
            model: Any = self.model  # of which it needs the configuration alone
            masked: Tensor = WhisperModel._mask_input_features(model, hidden.transpose(1, 2), attention_mask)
            return masked.transpose(1, 2)

        return self.masked_in_training(masking, features.transpose(1, 2), None).transpose(1, 2)

    def _run_whole(self, features: Tensor, stack: Any) -> Tensor:
        output: Tensor = stack(features, return_dict=True)[0]
        return output

    def _run_alone(self, features: Tensor, mel_mask: Tensor, mask: Tensor, stack: Any) -> Tensor:
        """The library's encoder for clips shorter than its window, which its own ``forward`` refuses."""
        hidden = F.gelu(stack.conv1(features)).masked_fill(~mel_mask[:, None], 0)  # or padding reaches the last frame
        hidden = F.gelu(stack.conv2(hidden)).transpose(1, 2)
        hidden = hidden + stack.embed_positions.weight[: hidden.shape[1]]
        hidden = F.dropout(hidden, p=stack.dropout, training=stack.training)
        reach = None
        if not bool(mask.all()):
            reach = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, torch.finfo(hidden.dtype).min)
            reach = reach[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        extra = (None,) if OLDER_THAN_5 else ()  # a mask of heads
        for layer in stack.layers:
            if stack.training and stack.layerdrop > 0 and float(torch.rand([])) < stack.layerdrop:
                continue
            output = layer(hidden, reach, *extra)
            hidden = output[0] if isinstance(output, tuple) else output
        normed: Tensor = stack.layer_norm(hidden)
        return normed

    def parameter_groups(self) -> list[ParameterGroup]:
        """``front_end``, ``projection``, ``layers.N``, ``head`` and ``layer_weights``; empty ones are left out."""
        model = self.model
        return self.groups(
            [*model.conv1.parameters(), *model.conv2.parameters()],
            list(model.embed_positions.parameters()),
            list(model.layer_norm.parameters()),
        )

    @classmethod
    def _weights(
        cls, config: PretrainedConfig, source: str, options: LayerOptions, revision: str | None
    ) -> PreTrainedModel:
        # The decoder, which is as large, is not read.
        state = tensors_of(
            source,
            lambda name: not name.startswith(_NOT_THE_ENCODER),
            revision=revision,
            allow_pickle=options.allow_pickle,
        )
        state = {name.removeprefix("model.").removeprefix("encoder."): tensor for name, tensor in state.items()}
        model, _ = load_model(cls.model_class, config, source=source, state_dict=state, harmless={}, **cls._arguments())
        return model

    @classmethod
    def _made_of(cls, model: PreTrainedModel, source: str, options: Any, revision: str | None) -> Self:
        bins = model.config.num_mel_bins
        extractor = read_extractor(WhisperFeatureExtractor, source, revision, feature_size=bins)
        return cls(model, extractor=extractor, options=options)

    def preprocessor(self) -> Mapping[str, Any]:
        said: dict[str, Any] = self.extractor.to_dict()
        return said
