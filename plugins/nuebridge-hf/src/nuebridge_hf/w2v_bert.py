"""w2v-BERT 2.0: log-mel features through a conformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn
from transformers import PreTrainedModel, SeamlessM4TFeatureExtractor, Wav2Vec2BertModel

from nuebridge.contracts import Frames, ParameterGroup, length_mask
from nuebridge.errors import CheckpointError
from nuebridge_hf.conv_lengths import Convolution, fewest_inputs, lengths_after
from nuebridge_hf.encoder_base import LibraryEncoder, read_extractor, rows_of
from nuebridge_hf.options import LayerOptions, W2vBertOptions

_MEL = Convolution(400, 160)
"""The library's feature extractor, in samples; it takes no others."""
_PAIRS = Convolution(2, 2)
"""Two mel frames make one input of the model."""


class W2vBertEncoder(LibraryEncoder):
    """w2v-BERT 2.0 (Seamless Communication, arXiv 2312.05187), with its own log-mel features at 50 Hz.

    A frame is made of two mel frames. Where a clip has an odd number of them, the library fills the last pair with
    padding and marks it as none of the clip's; it is left out here, and all other frames are the library's.
    No gradient flows through the features.
    """

    model_class = Wav2Vec2BertModel
    model_type = "wav2vec2-bert"
    options_class = W2vBertOptions
    attention = None

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        extractor: SeamlessM4TFeatureExtractor | None = None,
        options: LayerOptions | None = None,
    ) -> None:
        super().__init__(model, options or W2vBertOptions(), norm=None)
        config = model.config
        self.extractor = extractor or SeamlessM4TFeatureExtractor()  # type: ignore[no-untyped-call]
        width = self.extractor.num_mel_bins * _PAIRS.stride
        if self.extractor.stride != _PAIRS.stride or width != config.feature_projection_input_dim:
            raise CheckpointError(
                f"the preprocessor gives {self.extractor.stride} x {self.extractor.num_mel_bins} numbers a frame, and "
                f"the encoder reads 2 x {config.feature_projection_input_dim // 2}; they are not of one checkpoint"
            )
        self.sample_rate = int(self.extractor.sampling_rate)
        self.hidden_size = int(config.hidden_size)
        self._adapter: tuple[Convolution, ...] = ()
        if self.model.adapter is not None:
            self.hidden_size = int(config.output_hidden_size)
            padding = config.adapter_stride // 2
            if config.adapter_kernel_size // 2 != padding:
                raise CheckpointError(
                    f"its adapter has kernels of {config.adapter_kernel_size} and strides of {config.adapter_stride}, "
                    "which the library itself counts in two ways; use a checkpoint without it"
                )
            layer = Convolution(config.adapter_kernel_size, config.adapter_stride, padding)
            self._adapter = (layer,) * config.num_adapter_layers
        self.frame_rate = self.sample_rate / (_MEL.stride * _PAIRS.stride)
        for one in self._adapter:
            self.frame_rate /= one.stride

    @property
    def min_samples(self) -> int:
        return fewest_inputs((_MEL, _PAIRS, *self._adapter))

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths_after((_MEL, _PAIRS, *self._adapter), lengths)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        waveforms, lengths, given = self.checked(waveforms, lengths)
        frame_lengths = lengths_after((_MEL, _PAIRS), lengths)
        heard = self.extractor(
            rows_of(waveforms, lengths), sampling_rate=self.sample_rate, padding=True, return_tensors="pt"
        )
        features = heard["input_features"].to(waveforms.device, self.dtype)  # [B, F or F + 1, 2 * mel bins]
        mask = length_mask(frame_lengths, features.shape[1])
        everything = bool(mask.all())
        projected = self.model.feature_projection(features)
        hidden = projected[0] if isinstance(projected, tuple) else projected
        if self.training:
            hidden = self.masked_in_training(self.model._mask_hidden_states, hidden, None if everything else mask)
        if self.stack.embed_positions is not None and hasattr(self.stack.embed_positions, "cached_sequence_length"):
            # What it keeps is of the precision and device of the run before.
            self.stack.embed_positions.cached_sequence_length = None

        def run(stack: Any) -> Tensor:
            output: Tensor = stack(hidden, attention_mask=None if everything else mask, return_dict=True)[0]
            return output

        hidden = self.layer_reader(self.stack, run)
        if self.layer_reader.is_default and self.model.intermediate_ffn:
            hidden = hidden + 0.5 * self.model.intermediate_ffn(hidden)
        if self._adapter:
            hidden = self._adapted(hidden, lengths, mask)
        longest = int(given.max())
        hidden = hidden[:, :longest].masked_fill(~length_mask(given, longest)[..., None], 0)
        return Frames(hidden, given)

    def _adapted(self, hidden: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
        """The checkpoint's adapter, which reads past a clip's end: clip by clip, the half-filled pair included."""
        mel = lengths_after((_MEL,), lengths)
        rows = []
        for row, real, count in zip(hidden, mask, ((mel + 1) // 2).tolist(), strict=True):
            whole = bool(real[:count].all())
            seen = None if whole else real[None, :count].long()
            rows.append(self.model.adapter(row[None, :count], attention_mask=seen)[0])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def parameter_groups(self) -> list[ParameterGroup]:
        """``projection``, ``layers.N``, ``head`` and ``layer_weights``; empty ones are left out."""
        model = self.model
        before = [*model.feature_projection.parameters()]
        if hasattr(model, "masked_spec_embed"):
            before.append(model.masked_spec_embed)
        after = [] if model.intermediate_ffn is None else list(model.intermediate_ffn.parameters())
        return self.groups([], before, after)

    @classmethod
    def _made_of(cls, model: PreTrainedModel, source: str, options: Any, revision: str | None) -> Self:
        return cls(model, extractor=read_extractor(SeamlessM4TFeatureExtractor, source, revision), options=options)

    def preprocessor(self) -> Mapping[str, Any]:
        said: dict[str, Any] = self.extractor.to_dict()
        return said
