"""The integration: one speech encoder, one bridge, one text decoder and a prompt, with weights.

    waveforms [B, S] -> encoder -> Frames [B, F, E] -> CTC head (optional) -> bridge
      -> Frames [B, A, D] -> prompt -> inputs_embeds [B, P, D] -> decoder -> tokens -> Transcript

Training and inference share every step up to ``inputs_embeds`` and part only there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor, nn

from nuebridge.contracts import (
    Bridge,
    Frames,
    Generated,
    GenerationOptions,
    Part,
    RecognitionOptions,
    Recognizer,
    Segment,
    SpeechEncoder,
    TextDecoder,
    Transcript,
)
from nuebridge.ctc import CtcHead, count_symbols, ctc_loss
from nuebridge.data import Utterance
from nuebridge.decoding import generate
from nuebridge.errors import ConfigError, NumericalError, PromptError, SizeMismatchError
from nuebridge.prompt import build_prompt, check_fields, render
from nuebridge.settings import GenerationSettings, PromptTemplate
from nuebridge.tensors import weight_hash
from nuebridge.transcribe import transcribe

if TYPE_CHECKING:
    from nuebridge.lora import Adapter


@dataclass(frozen=True)
class PartInfo:
    """Where a part comes from; saved with the integration."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    component: str
    """Component id, ``plugin.name``; ``ctc-head`` for the CTC head, which is nuebridge's own."""
    distribution: str
    version: str
    source: str | None = None
    revision: str | None = None
    license: str | None = None
    source_hash: str | None = None
    """Weight hash of the part as its source gave it; None for a part that began untrained."""


@dataclass(frozen=True)
class Losses:
    """Sums over a batch (nats) and what they count, so that batches and ranks can be added up."""

    text: Tensor
    text_tokens: int
    ctc: Tensor | None = None
    ctc_symbols: int = 0
    auxiliary: Mapping[str, Tensor] = field(default_factory=dict)
    kl: Tensor | None = None
    """KL(reference || model) over the text tokens, where there is a reference."""


@dataclass(frozen=True)
class Targets:
    """What the texts of a batch are learned as."""

    tokens: tuple[Sequence[int], ...]
    """The decoder's token ids, the end token included; empty where there is no text loss."""
    symbols: tuple[Sequence[int], ...]
    """The CTC head's symbols; empty where there is no CTC loss."""

    def __getitem__(self, rows: slice) -> Targets:
        return Targets(self.tokens[rows], self.symbols[rows])

    def count(self, frames: Tensor) -> tuple[int, int]:
        """The text tokens and the CTC symbols that the losses of clips of so many frames ``[B]`` count."""
        symbols = count_symbols(self.symbols, frames.tolist()) if self.symbols else 0
        return sum(map(len, self.tokens)), symbols


@dataclass(frozen=True)
class TextBatch:
    """What a decoder is given to read and to learn: all that a reference must be given as well."""

    fields: Sequence[Mapping[str, str | None]]
    """Values of the prompt's fields, one mapping a row."""
    targets: Sequence[Sequence[int]]
    inputs: Sequence[Sequence[int]]
    """What is read in place of the targets."""


class Integration(nn.Module, Recognizer):
    """A speech recogniser made of an encoder, a bridge and a decoder.

    Raises SizeMismatchError where the parts do not fit.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        bridge: Bridge,
        decoder: TextDecoder,
        *,
        ctc_head: CtcHead | None = None,
        prompt: PromptTemplate | None = None,
        generation: GenerationSettings | None = None,
        max_audio_seconds: float | None = None,
        language: str | None = None,
        part_info: Mapping[str, PartInfo] | None = None,
        training: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        _check_fit(encoder, ctc_head, bridge, decoder)
        self.encoder = encoder
        self.ctc_head = ctc_head
        self.bridge = bridge
        self.decoder = decoder
        self.prompt = prompt or PromptTemplate()
        self.generation = generation or GenerationSettings()
        self.language = language
        # A whole number is written as it will be after loading: 30.0.
        self.max_audio_seconds = None if max_audio_seconds is None else float(max_audio_seconds)
        self.sample_rate = encoder.sample_rate
        self.part_info = dict(part_info or {})
        self.storage_dtype: torch.dtype | None = None
        """The precision its checkpoint holds, where it came from one."""
        self.training_history = [dict(entry) for entry in training]
        self.adapters: dict[str, Adapter] = {}
        """By name; :mod:`nuebridge.lora` adds, weighs and removes them."""
        self.base_states: dict[str, dict[str, Tensor]] = {}
        """What parts that adapters hold whole are without them."""

    @property
    def parts(self) -> dict[str, Part]:
        """The parts by name, in the order of the flow."""
        parts: dict[str, Part | None] = {
            "encoder": self.encoder,
            "ctc_head": self.ctc_head,
            "bridge": self.bridge,
            "decoder": self.decoder,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def device(self) -> torch.device:
        return self.bridge.device

    @cached_property
    def min_audio_seconds(self) -> float:  # type: ignore[override]
        """The shortest clip that gives the decoder one audio position."""
        low, high = 0, 1
        while self._positions(high) < 1:
            if high > 3600 * self.sample_rate:
                raise SizeMismatchError(
                    f"an hour of audio gives the decoder nothing to read: look at output_lengths of "
                    f"{type(self.encoder).__name__} and {type(self.bridge).__name__}"
                )
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._positions(middle) >= 1 else (middle, high)
        return high / self.sample_rate

    def seconds_that_fit(self, positions: int) -> float:
        """The longest clip, at most an hour, whose audio takes no more than so many positions (an upper bound of theirs
        where the bridge knows no better)."""
        low, high = 0, 3600 * self.sample_rate
        if self._positions(high) <= positions:
            return high / self.sample_rate
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._positions(middle) <= positions else (low, middle)
        return low / self.sample_rate

    def _room(self, values: Mapping[str, str | None]) -> int | None:
        """The positions that a prompt with these values leaves for audio, with one for text; None: no end of them."""
        around = render(self.prompt, values)
        if self.decoder.max_positions is None:
            return None
        return self.decoder.max_positions - sum(len(self.decoder.encode(text)) for text in around) - 1

    def _check_room(self, room: int | None, positions: Tensor, seconds: Sequence[float]) -> None:
        """Raises PromptError where clips of so many positions ``[B]`` leave no room for text in the decoder."""
        row = int(positions.argmax())
        if room is None or int(positions[row]) <= room:
            return
        fit = self.seconds_that_fit(room)
        raise PromptError(
            f"a clip of {seconds[row]:.1f} s takes {int(positions[row])} positions, but of the decoder's "
            f"{self.decoder.max_positions} the prompt leaves {max(room, 0)}: at most {fit:.1f} s of audio fit, less "
            "with room for their text; have longer recordings cut with max_audio_seconds, or use a bridge that "
            "compresses more"
        )

    def _positions(self, samples: int) -> int:
        frames = self.encoder.output_lengths(torch.tensor([samples])).clamp(min=0)
        return int(self.bridge.output_lengths(frames))

    def weight_hash(self) -> str:
        """SHA-256 of all weights; it stands in every result made with them.

        With active adapters it is another than the base's, made of the base's hash and theirs and their weights.
        """
        if not self.adapters:
            return weight_hash(self.parts)
        from nuebridge.lora import weight_hash_with_adapters

        return weight_hash_with_adapters(self)

    def encode_audio(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """Waveforms ``[B, S]`` to encoder frames ``[B, F, E]``, CTC logits filled in where there is a head."""
        return self._with_ctc(self._encode(waveforms, lengths))

    def _encode(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        # Some models ask for gradients of their own accord; for a frozen one they would be computed in vain.
        learns = any(parameter.requires_grad for parameter in self.encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            frames: Frames = self.encoder(waveforms, lengths)
        return frames

    def _with_ctc(self, frames: Frames) -> Frames:
        return frames if self.ctc_head is None else self.ctc_head(frames)

    def embed_audio(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """Waveforms ``[B, S]`` float32 with lengths ``[B]`` in samples to audio positions ``[B, A, D]``.

        Raises AudioTooShortError where a clip is shorter than ``min_audio_seconds``.
        """
        audio: Frames = self.bridge(self.encode_audio(waveforms, lengths))
        return audio

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        texts: Sequence[str],
        *,
        fields: Sequence[Mapping[str, str | None]] | None = None,
        text_loss: bool = True,
        label_smoothing: float = 0.0,
        token_replacement: float = 0.0,
        generators: Sequence[torch.Generator] | None = None,
        targets: Targets | None = None,
        frames: Frames | None = None,
        mask: Callable[[Frames], Frames] | None = None,
        reference: Callable[[Tensor, Tensor, Frames, TextBatch], Tensor] | None = None,
    ) -> Losses:
        """The losses of a batch of utterances.

        ``token_replacement`` is the share of tokens read (not of those learned) that are replaced
        by random ones, drawn from the generator of each text; it makes the decoder rely on the audio.
        ``targets`` are what the texts are learned as, where a caller has them already; ``frames`` those
        of the encoder, which then is not run; ``mask`` changes frames before anything reads them.
        ``reference`` gives the logits ``[N, V]`` of another model for the N text tokens of the batch
        (waveforms, lengths, frames as the encoder gave them, texts); the divergence from it is a loss too.
        """
        learned = self.targets(texts, text=text_loss) if targets is None else targets
        if frames is None:
            frames = self._encode(waveforms, lengths)
        heard = self._with_ctc(frames if mask is None else mask(frames))
        ctc: tuple[Tensor | None, int] = ctc_loss(heard, learned.symbols) if learned.symbols else (None, 0)
        if not text_loss:
            return Losses(heard.features.new_zeros(()), 0, *ctc, heard.losses)
        drawn: Sequence[torch.Generator | None] = generators or [None] * len(texts)
        inputs = [
            _replaced(ids, token_replacement, self.decoder.vocab_size, generator)
            for ids, generator in zip(learned.tokens, drawn, strict=True)
        ]
        values = fields or [{"language": self._language_field(None)}] * len(texts)
        batch = TextBatch(values, learned.tokens, inputs)
        logits, labels, auxiliary = self.text_logits(heard, batch)
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
        kl = None
        if reference is not None:
            start = reference(waveforms, lengths, frames, batch).log_softmax(-1)
            kl = F.kl_div(logits.log_softmax(-1), start, reduction="sum", log_target=True)
        return Losses(loss, sum(map(len, learned.tokens)), *ctc, {**heard.losses, **auxiliary}, kl)

    def text_logits(self, frames: Frames, batch: TextBatch) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
        """Frames with CTC logits to next-token logits ``[N, V]`` float32, labels ``[N]`` and the bridge's losses.

        N counts the tokens of all texts, end tokens included; none are computed for other positions.
        """
        counts = torch.tensor([len(ids) for ids in batch.targets], device=frames.lengths.device)
        audio: Frames = self.bridge(frames, counts)
        prompt = build_prompt(self.decoder, audio, self.prompt, batch.fields, batch.targets, batch.inputs)
        assert prompt.labels is not None
        logits = self.decoder(prompt.inputs_embeds, prompt.attention_mask, prompt.labels.shape[1])
        labels = prompt.labels.flatten()
        # The places are known from the lengths: asking the device for them would wait for it.
        width = prompt.labels.shape[1]
        kept = torch.tensor([row * width + i for row, ids in enumerate(batch.targets) for i in range(len(ids))])
        kept = kept.to(labels.device)
        return logits.flatten(0, 1)[kept].float(), labels[kept], audio.losses

    def targets(self, texts: Sequence[str], *, text: bool = True, ctc: bool = True) -> Targets:
        """What texts are learned as by the decoder, and by the CTC head where there is one."""
        tokens = [[*self.decoder.encode(one), self.decoder.eos_token_ids[0]] for one in texts] if text else []
        head = self.ctc_head if ctc else None
        return Targets(tuple(tokens), () if head is None else tuple(head.encode(one) for one in texts))

    @property
    def prompt_fields(self) -> Sequence[str]:
        """The fields that its prompt declares."""
        return self.prompt.fields

    def check_options(self, options: RecognitionOptions) -> None:
        """Raises PromptError for a language, task or context that its prompt does not take."""
        check_fields(self.prompt, self._prompt_values(options))

    @torch.inference_mode()
    def recognize(self, waveforms: Sequence[Tensor], options: RecognitionOptions) -> list[Transcript]:
        """One transcript a waveform, as one batch. What a clip gives does not depend on the others."""
        values = self._prompt_values(options)
        room = self._room(values)  # what the prompt refuses is refused before anything is computed
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        padded = nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True)
        seconds = [int(length) / self.sample_rate for length in lengths]
        if self.bridge.lengths_are_exact:  # then it shows before the long way through the encoder
            frames = self.encoder.output_lengths(lengths).clamp(min=0)
            self._check_room(room, self.bridge.output_lengths(frames), seconds)
        audio = self.embed_audio(padded.to(self.device), lengths.to(self.device))
        self._check_room(room, audio.lengths, seconds)
        prompt = build_prompt(self.decoder, audio, self.prompt, [values] * len(seconds))
        budget, asked = self.generation.max_new_tokens, options.max_new_tokens
        generated = generate(
            self.decoder,
            prompt,
            GenerationOptions(
                max_new_tokens=[budget.tokens(s) if asked is None else asked for s in seconds],
                min_new_tokens=self.generation.min_new_tokens,
                beam_size=options.beam_size,
            ),
        )
        language = options.language or self.language
        return [self._transcript(row, duration, language) for row, duration in zip(generated, seconds, strict=True)]

    def transcribe(self, audio: Any, *, batch_size: int = 8, **options: Any) -> list[Transcript]:
        """Transcribes recordings of any length: paths, lines of a manifest, or 1-D float arrays at ``sample_rate``.

        ``options`` are those of :class:`~nuebridge.contracts.RecognitionOptions`. A single
        recording gives a list of one. Raises AudioError at the first recording that cannot be read.
        """
        single = isinstance(audio, str | os.PathLike | Utterance) or getattr(audio, "ndim", None) == 1
        transcripts = []
        for result in transcribe(
            self, [audio] if single else audio, options=RecognitionOptions(**options), batch_size=batch_size
        ):
            if result.error is not None:
                raise result.error
            assert result.transcript is not None
            transcripts.append(result.transcript)
        return transcripts

    @classmethod
    def load(cls, source: str | Path, **options: Any) -> Integration:
        """:func:`nuebridge.load`, also as ``from_pretrained``."""
        from nuebridge.checkpoint import load

        return load(source, **options)

    def save(self, folder: str | Path, **options: Any) -> None:
        """:func:`nuebridge.save`, also as ``save_pretrained``."""
        from nuebridge.checkpoint import save

        save(self, folder, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """:func:`nuebridge.push_to_hub`: saves and uploads; returns the address."""
        from nuebridge.checkpoint import push_to_hub

        return push_to_hub(self, repo_id, **options)

    def load_adapter(self, folder: str | Path, name: str | None = None, *, weight: float = 1.0) -> str:
        """:func:`nuebridge.lora.load_adapter`: adds an adapter, active beside the others; returns its name."""
        from nuebridge.lora import load_adapter

        return load_adapter(self, folder, name, weight=weight)

    def set_adapters(self, weights: Mapping[str, float]) -> None:
        """:func:`nuebridge.lora.set_adapters`: the active adapters, each times its weight; none: the base."""
        from nuebridge.lora import set_adapters

        set_adapters(self, weights)

    from_pretrained = load
    save_pretrained = save

    def freeze(self, *parts: str) -> None:
        """Freezes the named parts (``encoder``, ``ctc_head``, ``bridge``, ``decoder``) and unfreezes the others.

        A frozen part gets no gradients; training configurations freeze by part and by layer.
        """
        unknown = [name for name in parts if name not in self.parts]
        if unknown:
            raise ConfigError(f"there is no part {unknown[0]!r}; this integration has {', '.join(self.parts)}")
        for name, part in self.parts.items():
            part.requires_grad_(name not in parts and part.frozen_because is None)

    def _prompt_values(self, options: RecognitionOptions) -> dict[str, str | None]:
        return {
            "language": self._language_field(options.language),
            "task": options.task,
            "context": options.context,
        }

    def _language_field(self, asked: str | None) -> str | None:
        """A language the caller asks for must be declared by the prompt; the integration's own need not."""
        if "language" in self.prompt.fields:
            return asked or self.language
        return None if asked == self.language else asked

    def _transcript(self, row: Generated, duration: float, language: str | None) -> Transcript:
        text = self.decoder.decode(row.token_ids)
        if not math.isfinite(row.avg_logprob):
            raise NumericalError(
                f"the decoder gave the text of a clip of {duration:.2f} s the score {row.avg_logprob}: the model is "
                "damaged, or its numbers overflow (float16 does in several models; use bfloat16 or float32)"
            )
        warnings: tuple[str, ...] = ()
        if row.truncated:
            warnings = (f"the text was cut at {len(row.token_ids)} tokens; allow more with max_new_tokens",)
        segment = Segment(0.0, duration, text, avg_logprob=row.avg_logprob, truncated=row.truncated)
        return Transcript(
            text,
            duration,
            (segment,),
            language=language,
            avg_logprob=row.avg_logprob,
            warnings=warnings,
            token_ids=tuple(row.token_ids),
        )


def with_info(info: PartInfo, part: Part) -> PartInfo:
    """The info of a part that was just read from its source, with the hash of its weights."""
    return replace(info, source_hash=weight_hash({"part": part}))


def _replaced(
    token_ids: Sequence[int], share: float, vocab_size: int, generator: torch.Generator | None
) -> Sequence[int]:
    if share <= 0:
        return token_ids
    swap = torch.rand(len(token_ids), generator=generator) < share
    random = torch.randint(vocab_size, (len(token_ids),), generator=generator)
    return [int(r) if s else token for token, s, r in zip(token_ids, swap, random, strict=True)]


def _check_fit(encoder: SpeechEncoder, ctc_head: CtcHead | None, bridge: Bridge, decoder: TextDecoder) -> None:
    if bridge.input_size != encoder.hidden_size:
        raise SizeMismatchError(
            f"the bridge {type(bridge).__name__} reads frames of width {bridge.input_size}, but the encoder "
            f"{type(encoder).__name__} gives width {encoder.hidden_size}; build the bridge for this encoder"
        )
    if bridge.output_size != decoder.hidden_size:
        raise SizeMismatchError(
            f"the bridge {type(bridge).__name__} gives positions of width {bridge.output_size}, but the decoder "
            f"{type(decoder).__name__} reads width {decoder.hidden_size}; build the bridge for this decoder"
        )
    if ctc_head is not None and ctc_head.proj.in_features != encoder.hidden_size:
        raise SizeMismatchError(
            f"the CTC head reads frames of width {ctc_head.proj.in_features}, but the encoder "
            f"{type(encoder).__name__} gives width {encoder.hidden_size}"
        )
    if bridge.needs_ctc and ctc_head is None:
        raise SizeMismatchError(
            f"the bridge {type(bridge).__name__} compresses by CTC and needs a CTC head; compose with one"
        )
