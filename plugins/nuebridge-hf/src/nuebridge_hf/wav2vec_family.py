"""HuBERT and wav2vec 2.0: raw audio through strided convolutions and a transformer.

The models are transformers' own; the path from waveform to transformer is walked here, because the
library's lets padding change the frames of a group-norm front end.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor, nn
from transformers import HubertModel, PretrainedConfig, PreTrainedModel, Wav2Vec2Model

from nuebridge.contracts import Frames, ParameterGroup, length_mask
from nuebridge_hf.conv_lengths import Convolution, fewest_inputs, lengths_after
from nuebridge_hf.encoder_base import (
    MASK_EMBEDDING,
    LibraryEncoder,
    fill_mask_embedding,
    numpy_seeded_by_torch,
    read_preprocessor,
)
from nuebridge_hf.language_adapters import LanguageAdapters
from nuebridge_hf.loading import is_folder
from nuebridge_hf.masked_norm import masked_group_norm
from nuebridge_hf.options import EncoderOptions, LayerOptions, Wav2Vec2Options

__all__ = [
    "MASK_EMBEDDING",
    "HubertEncoder",
    "Wav2Vec2Encoder",
    "Wav2VecFamilyEncoder",
    "fill_mask_embedding",
    "normalized",
]

DEFAULT_SAMPLE_RATE = 16_000
"""Hz, of every checkpoint of these families that names no other."""


class Wav2VecFamilyEncoder(LibraryEncoder):
    """What HuBERT, wav2vec 2.0 and their kin have in common.

    ``model`` is a transformers ``HubertModel`` or the like; ``normalize`` scales every clip to zero mean and unit
    variance first.
    """

    options_class = EncoderOptions

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        normalize: bool = False,
        sample_rate: int = DEFAULT_SAMPLE_RATE,
        options: EncoderOptions | None = None,
    ) -> None:
        config = model.config
        norm_comes_last = bool(getattr(config, "do_stable_layer_norm", False))
        super().__init__(model, options or self.options_class(), norm="layer_norm" if norm_comes_last else None)
        self.norm_comes_last = norm_comes_last
        self.normalize = normalize
        self.sample_rate = sample_rate
        self._front = tuple(Convolution(k, s) for k, s in zip(config.conv_kernel, config.conv_stride, strict=True))
        self._adapter: tuple[Convolution, ...] = ()
        self.hidden_size = int(config.hidden_size)
        if getattr(model, "adapter", None) is not None:
            self.hidden_size = int(config.output_hidden_size)
            layer = Convolution(config.adapter_kernel_size, config.adapter_stride, padding=1)
            self._adapter = (layer,) * config.num_adapter_layers
        self.downsampling_factor = int(np.prod([one.stride for one in (*self._front, *self._adapter)]))
        self.frame_rate = sample_rate / self.downsampling_factor
        self._frame_mask: Tensor | None = None
        for module in self.lifting_padding():
            module.register_forward_hook(self._silence_padding)

    def lifting_padding(self) -> list[nn.Module]:
        """Modules before the first layer that lift padding off zero, where the next convolution would read it.

        Each gives ``[B, E, F]``. Some checkpoints have a batch norm before the positional convolution.
        """
        batch_norm = getattr(self.stack.pos_conv_embed, "batch_norm", None)
        return [] if batch_norm is None else [batch_norm]

    @property
    def min_samples(self) -> int:
        return fewest_inputs((*self._front, *self._adapter))

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths_after((*self._front, *self._adapter), lengths)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        waveforms, lengths, given = self.checked(waveforms, lengths)
        frame_lengths = lengths_after(self._front, lengths)
        if self.normalize:
            waveforms = normalized(waveforms, lengths)
        features = self._front_end(waveforms.to(self.dtype), lengths)  # [B, C, F]
        projected = self.model.feature_projection(features.transpose(1, 2))
        hidden = projected[0] if isinstance(projected, tuple) else projected  # [B, F, E]
        mask = length_mask(frame_lengths, hidden.shape[1])
        padded = int(frame_lengths.min()) < hidden.shape[1]
        if padded:
            hidden = hidden.masked_fill(~mask[..., None], 0)
        if self.training:
            hidden = self.masked_in_training(self.model._mask_hidden_states, hidden, mask if padded else None)
        self._frame_mask = mask if padded else None

        def run(stack: Any) -> Tensor:
            output: Tensor = stack(hidden, attention_mask=self._frame_mask, return_dict=True)[0]
            return output

        hidden = self.layer_reader(self.stack, run)
        self._frame_mask = None
        if self._adapter:
            # Every layer of it reads past a clip's end, where a bias stands: exact clip by clip.
            with numpy_seeded_by_torch():
                rows = [self.model.adapter(row[None, :n])[0] for row, n in zip(hidden, frame_lengths, strict=True)]
            hidden = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        elif padded:
            hidden = hidden.masked_fill(~mask[..., None], 0)
        return Frames(hidden, given)

    def _front_end(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """``[B, S]`` to ``[B, C, F]``. No layer here reads past a clip's end to make one of its own frames."""
        if waveforms.device.type != "cpu":
            return self._convolve(waveforms, lengths)
        # On a CPU one clip at a time takes half the time of a padded batch or less: nothing is spent on
        # padding, and a clip's activations stay in the cache from one layer to the next.
        rows = [
            self._convolve(waveform[None, : int(length)], length[None])[0].T
            for waveform, length in zip(waveforms, lengths, strict=True)
        ]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True).transpose(1, 2)

    def _convolve(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        padded = int(lengths.min()) < waveforms.shape[1]
        hidden = waveforms[:, None]
        for layer, convolution in zip(self.model.feature_extractor.conv_layers, self._front, strict=True):
            lengths = lengths_after((convolution,), lengths)
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                hidden = layer.activation(masked_group_norm(layer.conv(hidden), lengths if padded else None, norm))
            else:
                hidden = layer(hidden)
        return hidden

    def _silence_padding(self, module: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
        return None if self._frame_mask is None else output.masked_fill(~self._frame_mask[:, None], 0)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        batch_norm = getattr(self.stack.pos_conv_embed, "batch_norm", None)
        if batch_norm is not None:
            batch_norm.eval()  # its statistics stay the checkpoint's: those of a batch would mix its clips
        return self

    def parameter_groups(self) -> list[ParameterGroup]:
        """``front_end``, ``projection``, ``layers.N``, ``head`` and ``layer_weights``; empty ones are left out."""
        model = self.model
        before = [*model.feature_projection.parameters(), *self.stack.pos_conv_embed.parameters()]
        after = list(self.stack.layer_norm.parameters())
        if not self.norm_comes_last:
            before, after = before + after, []
        if hasattr(model, "masked_spec_embed"):
            before.append(model.masked_spec_embed)
        return self.groups(list(model.feature_extractor.parameters()), before, after)

    @classmethod
    def _made_of(cls, model: PreTrainedModel, source: str, options: Any, revision: str | None) -> Self:
        normalize, sample_rate = _preprocessor(source, revision, warn=options.normalize is None)
        if options.normalize is not None:
            normalize = options.normalize
        return cls(model, normalize=normalize, sample_rate=sample_rate, options=options)

    def preprocessor(self) -> Mapping[str, Any]:
        return {
            "do_normalize": self.normalize,
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": self.sample_rate,
        }


class HubertEncoder(Wav2VecFamilyEncoder):
    """HuBERT (Hsu et al., arXiv 2106.07447)."""

    model_class = HubertModel
    model_type = "hubert"


class Wav2Vec2Encoder(Wav2VecFamilyEncoder):
    """wav2vec 2.0 (Baevski et al., arXiv 2006.11477), XLS-R and MMS (Pratap et al., arXiv 2305.13516).

    An MMS checkpoint has attention adapters for each of its languages: the option ``language`` chooses.
    """

    model_class = Wav2Vec2Model
    model_type = "wav2vec2"
    options_class = Wav2Vec2Options

    language_adapters: LanguageAdapters | None = None
    """Those that are in use, where they are of one language that is known."""

    @classmethod
    def _weights(
        cls, config: PretrainedConfig, source: str, options: LayerOptions, revision: str | None
    ) -> PreTrainedModel:
        model = super()._weights(config, source, options, revision)
        adapters = LanguageAdapters.find(source, config, options, revision)
        if adapters is not None:
            adapters.put_into(model)
        return model

    @classmethod
    def _made_of(cls, model: PreTrainedModel, source: str, options: Any, revision: str | None) -> Self:
        part = super()._made_of(model, source, options, revision)
        part.language_adapters = LanguageAdapters.find(source, model.config, options, revision)
        return part

    def save(self, folder: Path) -> None:
        super().save(folder)
        if self.language_adapters is not None:
            self.language_adapters.save(folder)


def normalized(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Zero mean and unit variance over each clip's own samples, as the models' preprocessor does it."""
    mask = length_mask(lengths, waveforms.shape[1])
    count = lengths[:, None].to(waveforms.dtype)
    waveforms = waveforms.masked_fill(~mask, 0)
    mean = waveforms.sum(1, keepdim=True) / count
    centred = (waveforms - mean).masked_fill(~mask, 0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * (variance + 1e-7).rsqrt()


def _preprocessor(source: str, revision: str | None, *, warn: bool) -> tuple[bool, int]:
    """Whether clips are normalised, and the sample rate in Hz, as the checkpoint's preprocessor says."""
    data = read_preprocessor(source, revision)
    if data is None:
        if warn and not is_folder(source):
            warnings.warn(
                f"no preprocessor_config.json was found for {source!r}: clips are not normalised. If it has one, "
                "download it, or set the option normalize",
                stacklevel=4,
            )
        return False, DEFAULT_SAMPLE_RATE
    return bool(data.get("do_normalize", True)), int(data.get("sampling_rate", DEFAULT_SAMPLE_RATE))
