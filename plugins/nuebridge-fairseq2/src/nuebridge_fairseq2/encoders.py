"""wav2vec 2.0 and w2v-BERT as fairseq2 has them.

The modules are fairseq2's own. The path from waveform to layers is walked here: padding changes the frames of a group
norm and leaks through stacked positional convolutions, and fairseq2 leaves the mel spectrogram to its data pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from fairseq2.data.audio import WaveformToFbankConverter
from fairseq2.models.wav2vec2 import Wav2Vec2StackedPositionEncoder
from fairseq2.nn import BatchLayout
from pydantic import BaseModel
from torch import Tensor, nn

from nuebridge.contracts import CtcWeights, Frames, ParameterGroup, SpeechEncoder, check_not_empty, length_mask
from nuebridge.errors import AudioError, CheckpointError, SizeMismatchError
from nuebridge_fairseq2.ctc import read_ctc_weights
from nuebridge_fairseq2.loading import (
    TABLES,
    Design,
    EncoderModel,
    is_own_folder,
    load_folder,
    load_found,
    outline,
    read_folder,
    restore_tables,
    save_folder,
)
from nuebridge_fairseq2.options import EncoderOptions, Wav2Vec2Options
from nuebridge_fairseq2.sources import find

SAMPLE_RATE = 16_000
"""Hz of every checkpoint of these families."""

WINDOW, HOP = 400, 160
"""Samples of a window of the mel spectrogram (25 ms), and from one to the next (10 ms)."""


class Fairseq2Encoder(SpeechEncoder):
    """What both encoders have in common: fairseq2's layers, and frames that do not depend on the batch."""

    families: ClassVar[tuple[str, ...]]
    model_type: ClassVar[str]
    """In the config.json of a saved encoder."""

    sample_rate = SAMPLE_RATE

    def __init__(self, model: EncoderModel, design: Design, options: EncoderOptions, *, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self.design = design
        self.options = options
        self.normalize = normalize
        self.hidden_size = design.encoder.model_dim
        self.downsampling_factor = _downsampling(design)
        self.frame_rate = SAMPLE_RATE / self.downsampling_factor
        self._frame_mask: Tensor | None = None
        positions = model.encoder_frontend.pos_encoder
        if isinstance(positions, Wav2Vec2StackedPositionEncoder):
            for layer in positions.layers:
                layer.register_forward_pre_hook(self._silence_padding)
        tables = [one.max_seq_len for one in model.modules() if isinstance(one, TABLES)]
        self.max_frames: int | None = min(tables) if tables else None
        """The longest clip in frames that the table of positions holds; None where there is no table."""
        self.max_audio_seconds = None if self.max_frames is None else self.max_frames / self.frame_rate

    @property
    def adapted_module(self) -> nn.Module:
        return self.model

    @property
    def min_samples(self) -> int:
        """Samples of the shortest clip that gives a frame."""
        config = self.design.encoder
        if config.use_fbank:
            return WINDOW + (config.fbank_stride - 1) * HOP
        samples = 1
        for _, kernel, stride in reversed(config.feature_extractor_layer_descs):
            samples = (samples - 1) * stride + kernel
        return samples

    def output_lengths(self, lengths: Tensor) -> Tensor:
        config = self.design.encoder
        if config.use_fbank:
            frames = torch.div(lengths - WINDOW, HOP, rounding_mode="floor") + 1
            return frames.clamp(min=0) // config.fbank_stride
        for _, kernel, stride in config.feature_extractor_layer_descs:
            lengths = (torch.div(lengths - kernel, stride, rounding_mode="floor") + 1).clamp(min=0)
        return lengths

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        lengths = lengths.to(waveforms.device)
        frame_lengths = self.output_lengths(lengths)
        check_not_empty(lengths, frame_lengths, self.min_samples, "samples", "the speech encoder")
        longest, most = int(lengths.max()), int(frame_lengths.max())
        if longest > waveforms.shape[1]:
            raise SizeMismatchError(f"a clip of {longest} samples is said to be in waveforms of {waveforms.shape[1]}")
        if self.max_frames is not None and most > self.max_frames:
            raise AudioError(
                f"a clip of {longest / SAMPLE_RATE:.1f} s gives {most} frames, and this speech encoder knows positions "
                f"for {self.max_frames}; set max_audio_seconds to {self.max_audio_seconds:g}, so that longer clips are "
                "cut"
            )
        features = self._features(waveforms[:, :longest], lengths)  # [B, F, feature size]
        mask = length_mask(frame_lengths, most)
        padded = int(frame_lengths.min()) < most
        if padded:
            features = features.masked_fill(~mask[..., None], 0)
        layout = BatchLayout.of(features, frame_lengths.tolist())
        frontend = self.model.encoder_frontend
        masker: Any = self._masked if self.training and self.model.masker is not None else None
        self._frame_mask = mask if padded else None
        try:
            hidden, _ = frontend.process_features(frontend.post_extract_layer_norm(features), layout, masker)
        finally:
            self._frame_mask = None
        hidden = self.model.encoder(hidden, layout)  # [B, F, E]
        return Frames(hidden, frame_lengths).zero_padding()

    def _features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """``[B, S]`` to what the front end projects, ``[B, F, feature size]``; meaningless past a clip's end."""
        extractor = self.model.encoder_frontend.feature_extractor
        assert extractor is not None  # its factory leaves it out in no design
        config = self.design.encoder
        group_norm = not (config.use_fbank or config.feature_extractor_layer_norm_convs)
        if not (config.use_fbank or group_norm or waveforms.device.type == "cpu"):
            waveforms = self._prepared(waveforms, lengths)
            features: Tensor = extractor(waveforms.to(self.dtype), BatchLayout.of(waveforms, lengths.tolist()))[0]
            return features
        # Clip by clip: a group norm averages over all it is given, padding too, and on a CPU this is the faster way.
        rows = []
        for waveform, length in zip(waveforms, lengths.tolist(), strict=True):
            clip = waveform[None, :length]
            clip = self._mel(clip) if config.use_fbank else self._prepared(clip, torch.tensor([length]))
            rows.append(extractor(clip.to(self.dtype), BatchLayout.of(clip))[0][0])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def _prepared(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Clips scaled to zero mean and unit variance where the model wants them so."""
        if not self.normalize:
            return waveforms
        lengths = lengths.to(waveforms.device)
        mask = length_mask(lengths, waveforms.shape[1])
        count = lengths[:, None].to(waveforms.dtype)
        mean = waveforms.masked_fill(~mask, 0).sum(1, keepdim=True) / count
        centred = (waveforms - mean).masked_fill(~mask, 0)
        variance = centred.square().sum(1, keepdim=True) / count
        return centred * torch.rsqrt(variance + 1e-5)  # as torch's layer norm, with which fairseq2's data are scaled

    def _mel(self, waveform: Tensor) -> Tensor:
        """``[1, S]`` to the log-mel spectrogram ``[1, T, channels]``, each channel standardised over the clip.

        As fairseq2's data pipelines make it, but that a channel which never changes, as in silence, is zero where
        theirs divides by zero. It runs on the CPU and has no gradient.
        """
        convert = WaveformToFbankConverter(
            num_mel_bins=self.design.encoder.num_fbank_channels,
            waveform_scale=2.0**15,
            channel_last=True,
        )
        clip = waveform.detach()[0, :, None].float().cpu()
        mel = convert({"waveform": clip, "sample_rate": SAMPLE_RATE})["fbank"]
        deviation, mean = torch.std_mean(mel, dim=0)
        mel = (mel - mean) / torch.where(deviation > 0, deviation, 1.0)
        return mel[None].to(waveform.device)

    def _masked(self, hidden: Tensor, layout: BatchLayout) -> tuple[Tensor, None]:
        """The model's own masking, clip by clip: fairseq2's masks a batch as its shortest clip can be masked.

        Clips too short for the fewest masked spans are left as they are.
        """
        masking, masker = self.design.masking, self.model.masker
        assert masking is not None and masker is not None
        rows = []
        for row, length in zip(hidden, layout.seq_lens, strict=True):
            clip = row[None, :length]
            spans = int(masking.max_temporal_mask_prob / masking.temporal_span_len * (length - 1))
            if length > masking.temporal_span_len and spans >= masking.min_num_temporal_mask_spans:
                clip = masker(clip.clone(), BatchLayout.of(clip))[0]
            rows.append(clip[0])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), None

    def _silence_padding(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Zeroes what the layer before wrote into the padding of ``[B, E, F]``."""
        if self._frame_mask is None:
            return None
        return (arguments[0] * self._frame_mask[:, None].to(arguments[0].dtype), *arguments[1:])

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()  # its statistics stay the checkpoint's: those of a batch would mix its clips
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not any(tensor.is_meta for tensor in self.parameters()):
            restore_tables(self)  # positions in half precision would be others
        return self

    def parameter_groups(self) -> list[ParameterGroup]:
        """``front_end``, ``projection``, ``layers.N`` and ``head``; empty ones are left out."""
        frontend, encoder = self.model.encoder_frontend, self.model.encoder
        front_end = list(frontend.feature_extractor.parameters()) if frontend.feature_extractor is not None else []
        taken = {id(parameter) for parameter in front_end}
        before = [one for one in frontend.parameters() if id(one) not in taken]
        before += [] if self.model.masker is None else list(self.model.masker.parameters())
        layers = [list(layer.parameters()) for layer in encoder.layers]
        taken = {id(parameter) for layer in layers for parameter in layer}
        after = [one for one in encoder.parameters() if id(one) not in taken]
        named = [("front_end", front_end), ("projection", before)]
        named += [(f"layers.{i}", layer) for i, layer in enumerate(layers)]
        named += [("head", after)]
        return [ParameterGroup(name, tuple(parameters)) for name, parameters in named if parameters]

    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        return cls._open(source, options, revision, read=True)

    @classmethod
    def outline(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        return cls._open(source, options, revision, read=False)

    @classmethod
    def _open(cls, source: str, options: BaseModel, revision: str | None, *, read: bool) -> Self:
        assert isinstance(options, EncoderOptions)
        if revision is not None:
            raise CheckpointError(f"{source!r} is given the revision {revision!r}, but fairseq2's assets have none")
        if is_own_folder(source):
            design, saved = read_folder(source, cls.model_type)
            model = load_folder(design, source) if read else outline(design, source)
            return cls(model, design, options, normalize=_normalize(options, design, bool(saved["normalize"])))
        found = find(source, options, cls._family(options), cls.families)
        design = Design.of(found)
        model = load_found(found, allow_pickle=options.allow_pickle) if read else outline(design, source)
        return cls(model, design, options, normalize=_normalize(options, design, None))

    @classmethod
    def _family(cls, options: EncoderOptions) -> str | None:
        """The family of a plain checkpoint."""
        return cls.families[0]

    def save(self, folder: Path) -> None:
        save_folder(
            self.model, self.design, folder, self.model_type, normalize=self.normalize, sample_rate=self.sample_rate
        )


class Wav2Vec2Encoder(Fairseq2Encoder):
    """wav2vec 2.0 (Baevski et al., 2020), pre-trained or fine-tuned, with Omnilingual ASR's encoders."""

    families = ("wav2vec2", "wav2vec2_asr")
    model_type = "fairseq2-wav2vec2"

    @classmethod
    def _family(cls, options: EncoderOptions) -> str | None:
        assert isinstance(options, Wav2Vec2Options)
        return options.family

    @classmethod
    def own_ctc_head(cls, source: str, options: BaseModel, *, revision: str | None = None) -> CtcWeights | None:
        assert isinstance(options, Wav2Vec2Options)
        if is_own_folder(source):  # a saved encoder has left its head behind
            return None
        return read_ctc_weights(find(source, options, cls._family(options), cls.families), options)


class W2vBertEncoder(Fairseq2Encoder):
    """w2v-BERT (Chung et al., 2021): the last layer of its encoder."""

    families = ("w2vbert",)
    model_type = "fairseq2-w2v-bert"


def _downsampling(design: Design) -> int:
    """Samples from one frame to the next."""
    if design.encoder.use_fbank:
        return HOP * design.encoder.fbank_stride
    factor = 1
    for _, _, stride in design.encoder.feature_extractor_layer_descs:
        factor *= stride
    return factor


def _normalize(options: EncoderOptions, design: Design, saved: bool | None) -> bool:
    """Whether clips are scaled: as asked, else as saved, else as models with such a front end were trained."""
    asked = options.normalize if isinstance(options, Wav2Vec2Options) else None
    if asked is not None:
        return asked
    if saved is not None:
        return saved
    return not design.encoder.use_fbank and design.encoder.feature_extractor_layer_norm_convs
