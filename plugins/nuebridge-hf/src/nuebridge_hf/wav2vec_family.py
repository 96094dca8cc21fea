"""HuBERT and wav2vec 2.0: raw audio through strided convolutions and a transformer.

The models are transformers' own; the path from waveform to transformer is walked here, because the
library's lets padding change the frames of a group-norm front end.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import HubertModel, PretrainedConfig, PreTrainedModel, Wav2Vec2Model

from nuebridge.contracts import Frames, ParameterGroup, SpeechEncoder, check_not_empty, length_mask
from nuebridge.errors import CheckpointError, SizeMismatchError
from nuebridge_hf.loading import is_folder, load_model, outline_model, read_config, read_json, save_model, write_json
from nuebridge_hf.masked_norm import masked_group_norm
from nuebridge_hf.options import EncoderOptions

DEFAULT_SAMPLE_RATE = 16_000
"""Hz, of every checkpoint of these families that names no other."""

_HARMLESS = {
    r"^(lm_head|classifier|projector|layer_weights)\b": "the head of a fine-tuned recogniser or classifier",
    r"^(quantizer|project_q|project_hid)\.": "the pre-training head",
}
MASK_EMBEDDING = {r"masked_spec_embed$": "only masking during training reads it"}


class Wav2VecFamilyEncoder(SpeechEncoder):
    """What HuBERT and wav2vec 2.0 have in common.

    ``model`` is a transformers ``HubertModel`` or ``Wav2Vec2Model``; ``normalize`` scales every clip
    to zero mean and unit variance first. In training, masking (SpecAugment) and layer drop happen as
    the model's configuration says, drawn from torch's random state alone.
    """

    model_class: ClassVar[type[PreTrainedModel]]
    model_type: ClassVar[str]

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        normalize: bool = False,
        sample_rate: int = DEFAULT_SAMPLE_RATE,
        options: EncoderOptions | None = None,
    ) -> None:
        super().__init__()
        if getattr(model.config, "add_adapter", False):
            raise CheckpointError(
                "the encoder ends in an adapter that shortens its frames (add_adapter: true), which is not supported; "
                "let the bridge do the shortening and use a checkpoint without it"
            )
        self.model: Any = model
        self.options = options or EncoderOptions()
        self.normalize = normalize
        self.sample_rate = sample_rate
        self.hidden_size = int(model.config.hidden_size)
        self._convolutions = tuple(zip(model.config.conv_kernel, model.config.conv_stride, strict=True))
        self.downsampling_factor = int(np.prod(model.config.conv_stride))
        self.frame_rate = sample_rate / self.downsampling_factor
        self._frame_mask: Tensor | None = None
        batch_norm = getattr(self.model.encoder.pos_conv_embed, "batch_norm", None)
        if batch_norm is not None:
            batch_norm.register_forward_hook(self._silence_padding)

    @property
    def adapted_module(self) -> nn.Module:
        model: nn.Module = self.model
        return model

    @property
    def min_samples(self) -> int:
        """Samples of the shortest clip that gives a frame."""
        samples = 1
        for kernel, stride in reversed(self._convolutions):
            samples = (samples - 1) * stride + kernel
        return samples

    def output_lengths(self, lengths: Tensor) -> Tensor:
        for kernel, stride in self._convolutions:
            lengths = _conv_lengths(lengths, kernel, stride)
        return lengths

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        lengths = lengths.to(waveforms.device)
        frame_lengths = self.output_lengths(lengths)
        check_not_empty(lengths, frame_lengths, self.min_samples, "samples", "the speech encoder")
        longest = int(lengths.max())
        if longest > waveforms.shape[1]:
            raise SizeMismatchError(f"a clip of {longest} samples is said to be in waveforms of {waveforms.shape[1]}")
        # Without this cut, padding that all clips share would cost time and count as padding below.
        waveforms = waveforms[:, :longest]
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
            hidden = self._spec_augment(hidden, mask if padded else None)
        self._frame_mask = mask if padded else None
        hidden = self.model.encoder(hidden, attention_mask=self._frame_mask, return_dict=True)[0]
        self._frame_mask = None
        if padded:
            hidden = hidden.masked_fill(~mask[..., None], 0)
        return Frames(hidden, frame_lengths)

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
        for layer, (kernel, stride) in zip(self.model.feature_extractor.conv_layers, self._convolutions, strict=True):
            lengths = _conv_lengths(lengths, kernel, stride)
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                hidden = layer.activation(masked_group_norm(layer.conv(hidden), lengths if padded else None, norm))
            else:
                hidden = layer(hidden)
        return hidden

    def _spec_augment(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """The model's own masking. Clips shorter than one masked span are left as they are."""
        config = self.model.config
        if not getattr(config, "apply_spec_augment", True) or hidden.shape[1] < config.mask_time_length:
            return hidden
        # The library draws from numpy's global state; seeding it from torch's for the moment makes one
        # state decide everything, so that a resumed training masks what an unbroken one does.
        state = np.random.get_state()
        np.random.seed(int(torch.randint(2**31, (1,))))
        try:
            masked: Tensor = self.model._mask_hidden_states(hidden, attention_mask=mask)
        finally:
            np.random.set_state(state)
        return masked

    def _silence_padding(self, module: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
        """The batch norm some checkpoints have before the positional convolution lifts padding off zero."""
        return None if self._frame_mask is None else output * self._frame_mask[:, None].to(output.dtype)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        batch_norm = getattr(self.model.encoder.pos_conv_embed, "batch_norm", None)
        if batch_norm is not None:
            batch_norm.eval()  # its statistics stay the checkpoint's: those of a batch would mix its clips
        return self

    def parameter_groups(self) -> list[ParameterGroup]:
        """``front_end``, ``projection``, ``layers.N`` and ``head``; empty ones are left out."""
        model, encoder = self.model, self.model.encoder
        before = [*model.feature_projection.parameters(), *encoder.pos_conv_embed.parameters()]
        after = list(encoder.layer_norm.parameters())
        if not model.config.do_stable_layer_norm:  # there the encoder's norm comes before its layers
            before, after = before + after, []
        if hasattr(model, "masked_spec_embed"):
            before.append(model.masked_spec_embed)
        groups = [
            ParameterGroup("front_end", tuple(model.feature_extractor.parameters())),
            ParameterGroup("projection", tuple(before)),
            *(ParameterGroup(f"layers.{i}", tuple(layer.parameters())) for i, layer in enumerate(encoder.layers)),
            ParameterGroup("head", tuple(after)),
        ]
        return [group for group in groups if group.parameters]

    @classmethod
    def outline(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        config = cls._config(source, revision)
        assert isinstance(options, EncoderOptions)
        model = outline_model(
            cls.model_class,
            config,
            source=source,
            revision=revision,
            allow_pickle=options.allow_pickle,
            attn_implementation="sdpa",
        )
        return cls._made_of(model, source, options, revision)

    @classmethod
    def _config(cls, source: str, revision: str | None) -> PretrainedConfig:
        config = read_config(source, revision)
        if config.model_type != cls.model_type:
            raise CheckpointError(f"{source!r} holds a {config.model_type!r} model, not a {cls.model_type!r} one")
        return config

    @classmethod
    def _made_of(cls, model: PreTrainedModel, source: str, options: EncoderOptions, revision: str | None) -> Self:
        normalize, sample_rate = _preprocessor(source, revision, warn=options.normalize is None)
        if options.normalize is not None:
            normalize = options.normalize
        return cls(model, normalize=normalize, sample_rate=sample_rate, options=options)

    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        config = cls._config(source, revision)
        assert isinstance(options, EncoderOptions)
        harmless = dict(_HARMLESS)
        if config.mask_time_prob == 0 and config.mask_feature_prob == 0:
            harmless |= MASK_EMBEDDING
        model, missing = load_model(
            cls.model_class,
            config,
            source=source,
            revision=revision,
            allow_pickle=options.allow_pickle,
            harmless=harmless,
            may_miss=MASK_EMBEDDING,
            attn_implementation="sdpa",
        )
        fill_mask_embedding(model, missing, source)
        return cls._made_of(model, source, options, revision)

    def save(self, folder: Path) -> None:
        save_model(self.model, folder)
        write_json(
            folder / "preprocessor_config.json",
            {
                "do_normalize": self.normalize,
                "feature_extractor_type": "Wav2Vec2FeatureExtractor",
                "feature_size": 1,
                "padding_side": "right",
                "padding_value": 0.0,
                "return_attention_mask": True,
                "sampling_rate": self.sample_rate,
            },
        )


class HubertEncoder(Wav2VecFamilyEncoder):
    """HuBERT (Hsu et al., 2021)."""

    model_class = HubertModel
    model_type = "hubert"


class Wav2Vec2Encoder(Wav2VecFamilyEncoder):
    """wav2vec 2.0 (Baevski et al., 2020)."""

    model_class = Wav2Vec2Model
    model_type = "wav2vec2"


def _conv_lengths(lengths: Tensor, kernel: int, stride: int) -> Tensor:
    return (torch.div(lengths - kernel, stride, rounding_mode="floor") + 1).clamp(min=0)


def normalized(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Zero mean and unit variance over each clip's own samples, as the models' preprocessor does it."""
    mask = length_mask(lengths, waveforms.shape[1])
    count = lengths[:, None].to(waveforms.dtype)
    waveforms = waveforms.masked_fill(~mask, 0)
    mean = waveforms.sum(1, keepdim=True) / count
    centred = (waveforms - mean).masked_fill(~mask, 0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * torch.rsqrt(variance + 1e-7)


def fill_mask_embedding(model: Any, missing: frozenset[str], source: str) -> None:
    """A checkpoint without the embedding that masked frames get: zero, not what happened to be drawn."""
    if any(name.endswith("masked_spec_embed") for name in missing):
        warnings.warn(f"{source!r} has no masked_spec_embed: masked frames are zero in training", stacklevel=3)
        with torch.no_grad():
            model.masked_spec_embed.zero_()


def _preprocessor(source: str, revision: str | None, *, warn: bool) -> tuple[bool, int]:
    """Whether clips are normalised, and the sample rate in Hz, as the checkpoint's preprocessor says."""
    data = read_json(source, "preprocessor_config.json", revision)
    if data is None:
        nested = (read_json(source, "processor_config.json", revision) or {}).get("feature_extractor")
        data = nested if isinstance(nested, dict) else None
    if data is None:
        if warn and not is_folder(source):
            warnings.warn(
                f"no preprocessor_config.json was found for {source!r}: clips are not normalised. If it has one, "
                "download it, or set the option normalize",
                stacklevel=3,
            )
        return False, DEFAULT_SAMPLE_RATE
    return bool(data.get("do_normalize", True)), int(data.get("sampling_rate", DEFAULT_SAMPLE_RATE))
