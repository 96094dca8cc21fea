"""The contracts between the parts, and the few records that travel between them.

Shapes: B batch, S samples, F encoder frames, E encoder width, C CTC vocabulary, A audio
positions, D decoder width, P prompt positions, T text positions, V text vocabulary.

``lengths`` are int64 ``[B]`` and travel with their tensor; what lies at or past a length is zero.
This module knows no concrete model, no file format of a vendor and no training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from nuebridge.errors import AudioTooShortError, ConfigError, PromptError, SizeMismatchError
from nuebridge.settings import PROMPT_FIELDS, CtcVocabulary

if TYPE_CHECKING:
    from nuebridge.compose import Workshop


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """True where a position is real: ``[B]`` lengths to bool ``[B, size]``."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


@dataclass(frozen=True)
class Frames:
    """A padded batch of feature sequences.

    ``features [B, F, E]``; ``lengths [B]`` int64; positions at or past a length are zero.
    ``ctc_logits [B, F, C]`` are filled in by a CTC head where an integration has one.
    ``losses`` maps the name of an auxiliary loss to its scalar sum over the batch.
    """

    features: Tensor
    lengths: Tensor
    ctc_logits: Tensor | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.features.dim() != 3 or self.lengths.shape != self.features.shape[:1]:
            raise SizeMismatchError(
                f"frames need features [B, F, E] and lengths [B], not {list(self.features.shape)} "
                f"and {list(self.lengths.shape)}"
            )
        if self.lengths.dtype != torch.int64:
            raise SizeMismatchError(f"lengths must be int64, not {self.lengths.dtype}")

    @property
    def mask(self) -> Tensor:
        """Bool ``[B, F]``, true at real frames."""
        return length_mask(self.lengths, self.features.shape[1])

    def rows(self, rows: slice) -> Frames:
        """Some of the sequences, padded to the longest of them. Auxiliary losses stay with the whole."""
        lengths = self.lengths[rows]
        longest = int(lengths.max()) if len(lengths) else 0
        logits = None if self.ctc_logits is None else self.ctc_logits[rows, :longest]
        return Frames(self.features[rows, :longest], lengths, logits)

    def to(self, device: torch.device) -> Frames:
        """The same frames on another device."""
        logits = None if self.ctc_logits is None else self.ctc_logits.to(device)
        losses = {name: loss.to(device) for name, loss in self.losses.items()}
        return Frames(self.features.to(device), self.lengths.to(device), logits, losses)

    def zero_padding(self) -> Frames:
        """The same frames with everything at or past a length set to zero."""
        # Filled, not multiplied: what stands in the padding may be infinite.
        return replace(self, features=self.features.masked_fill(~self.mask[..., None], 0.0))


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are frozen, trained or given a learning rate together."""

    name: str
    """For instance ``front_end``, ``layers.0``, ``head``; unique within the part."""
    parameters: tuple[nn.Parameter, ...]


class Part(nn.Module, ABC):
    """What an encoder, a bridge, a CTC head and a decoder have in common: they keep themselves.

    A part writes all it needs into a folder of its own (weights as safetensors, configuration as
    JSON, tokenizer files) and is made again from that folder.
    """

    options: BaseModel | None = None
    """The validated options this part was built with, saved with the integration."""

    target_modules: Sequence[str] | str = "all-linear"
    """Which modules of ``adapted_module`` get LoRA by default, in peft's words: endings of their names, a regular
    expression, or ``all-linear``: every linear layer but an output head."""

    frozen_because: str | None = None
    """Why the part's own weights cannot be trained or changed, where they cannot; LoRA beside them can be trained."""

    @property
    def adapted_module(self) -> nn.Module:
        """The module that LoRA is put into: the library's own model where the part wraps one, so that what is
        saved fits that model without nuebridge."""
        return self

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the part into ``folder`` (which exists and is empty). Twice gives the same bytes."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """The part's parameters, each once, front end first, then the layers in order."""
        return [ParameterGroup("all", tuple(self.parameters()))]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.parameters() if p.is_floating_point())


class SourcedPart(Part):
    """A part that starts from a checkpoint of its own library: a folder or a hub id."""

    @classmethod
    @abstractmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        """Reads the part from a folder (its own ``save`` included) or a hub id.

        Raises CheckpointError when weights are missing, unexpected or unreadable.
        """

    @classmethod
    def load_in(cls, workshop: Workshop, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        """``load``, for a part that is made of other parts: ``workshop`` has the plugins and the registry to read them
        from (:func:`nuebridge.compose.read_encoder`, :func:`nuebridge.compose.read_sourced`).

        This is what nuebridge itself calls. A part that needs no others leaves it as it is.
        """
        return cls.load(source, options, revision=revision)

    @classmethod
    def outline(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self | None:
        """What ``load`` would give but for the values of its weights, which are left on torch's meta device.

        Used to tell what a training would do before anything large is read. None where only loading can
        tell. Raises CheckpointError, also where there are no weights to be read.
        """
        return None


@dataclass(frozen=True)
class CtcWeights:
    """A CTC head that a checkpoint brings along: what its rows spell, and the rows."""

    vocabulary: CtcVocabulary
    weight: Tensor
    """``[C, E]`` float32: row 0 is the blank, row ``i + 1`` spells ``vocabulary.symbols[i]``."""
    bias: Tensor
    """``[C]`` float32."""


class SpeechEncoder(SourcedPart):
    """Waveforms to frames. Does its own normalisation, as its checkpoint's preprocessor says."""

    sample_rate: int
    """Hz of the waveforms it takes."""
    hidden_size: int
    """E, the width of its frames."""
    frame_rate: float
    """Nominal frames per second; exact lengths come from ``output_lengths``."""
    max_audio_seconds: float | None = None
    """The longest clip it reads at once, which an integration takes for its own; None where nothing bounds it."""

    @abstractmethod
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """``[B, S]`` float32 with ``lengths [B]`` in samples to frames ``[B, F, E]``.

        What a clip yields does not depend on what shares its batch. Raises AudioTooShortError
        where a clip gives no frame.
        """

    @abstractmethod
    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Samples ``[B]`` to frames ``[B]``, exact, without running the network."""

    @classmethod
    def own_ctc_head(cls, source: str, options: BaseModel, *, revision: str | None = None) -> CtcWeights | None:
        """The CTC head that the checkpoint was fine-tuned with, for the frames that ``load`` of the same gives.

        None where it has none. Raises CheckpointError where it has one that cannot be used.
        """
        return None


class Bridge(Part):
    """Encoder frames to audio positions in the decoder's embedding space."""

    input_size: int
    output_size: int
    lengths_are_exact: bool = True
    """False where compression depends on the data and ``output_lengths`` is an upper bound."""
    needs_ctc: bool = False
    """True where it reads ``Frames.ctc_logits``."""
    downsampling_factor: float | None = None
    """Nominal encoder frames a position; None where it depends on the data, or is not told."""

    @classmethod
    @abstractmethod
    def build(cls, input_size: int, output_size: int, options: BaseModel) -> Self:
        """A fresh bridge between two widths."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, input_size: int, output_size: int, options: BaseModel) -> Self:
        """The bridge that ``save`` wrote. Raises CheckpointError."""

    @abstractmethod
    def forward(self, frames: Frames, target_lengths: Tensor | None = None) -> Frames:
        """``[B, F, E]`` to ``[B, A, D]``. ``target_lengths [B]`` (text positions) in training only."""

    @abstractmethod
    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames ``[B]`` to positions ``[B]``; exact or an upper bound (``lengths_are_exact``)."""


@dataclass(frozen=True)
class GenerationOptions:
    """How a decoder continues a batch of prompts."""

    max_new_tokens: Sequence[int]
    """One limit a row."""
    min_new_tokens: int = 0
    """No end token before so many; a row's ``max_new_tokens`` goes before it."""
    beam_size: int = 1
    """1 = greedy."""


@dataclass(frozen=True)
class Generated:
    """The continuation of one prompt."""

    token_ids: list[int]
    """New tokens only, an end token included where one was reached."""
    avg_logprob: float
    """Mean natural log-probability of the tokens (beam: the beam's length-normalised score)."""
    truncated: bool
    """True where the token limit ended it, not an end token."""


class TextDecoder(SourcedPart):
    """A language model that reads embeddings and writes tokens."""

    hidden_size: int
    """D, the width of its input embeddings."""
    vocab_size: int
    max_positions: int | None
    """Longest prompt plus text, in positions; None where nothing bounds it."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    """Any of these ends a text; the first is the one that training teaches."""
    pad_token_id: int | None

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of a text; special tokens written in it are read as such, none are added."""

    @abstractmethod
    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""

    @abstractmethod
    def token(self, token_id: int) -> str:
        """The token as it is written in a prompt, for instance ``<s>``."""

    @abstractmethod
    def embed(self, token_ids: Tensor) -> Tensor:
        """int64 ``[...]`` to embeddings ``[..., D]``."""

    @abstractmethod
    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, num_logits: int | None = None) -> Tensor:
        """Next-token logits ``[B, n, V]`` of the last ``n = num_logits`` positions (all for None).

        ``inputs_embeds [B, P, D]``, ``attention_mask [B, P]`` int64 with 1 = real; rows may be
        padded on both sides, and position 0 is the first real one.
        """

    @abstractmethod
    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor, options: GenerationOptions) -> list[Generated]:
        """Continues each left-padded row; a row's tokens do not depend on the other rows."""

    def chat(self, user: str, system: str | None = None, answer: str | None = None) -> str:
        """A conversation as the decoder was trained to read it, special tokens written out.

        Without an ``answer`` it goes up to where that begins. Raises PromptError where the decoder knows no such form.
        """
        raise PromptError(
            f"this decoder ({type(self).__name__}) has no chat template; write the prompt's prefix and suffix yourself"
        )

    def end_with(self, token_id: int) -> None:
        """Makes a token the first of ``eos_token_ids``, for good. Raises PromptError where it cannot be."""
        if self.eos_token_ids[:1] != (token_id,):
            raise PromptError(
                f"texts of this decoder ({type(self).__name__}) end with {self.eos_token_ids[:1]} and no other token; "
                "write the prompt's prefix and suffix yourself"
            )


@dataclass(frozen=True)
class Word:
    """One word with its time, seconds from the start of the recording."""

    word: str
    start: float
    end: float
    probability: float | None = None


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording and its text; times in seconds from the recording's start."""

    start: float
    end: float
    text: str
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    truncated: bool = False
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """What a recogniser heard in one recording."""

    text: str
    duration: float
    """Seconds of audio."""
    segments: tuple[Segment, ...] = ()
    language: str | None = None
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    warnings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    """New tokens of the text, an end token included where one was reached."""
    audio_filepath: str | None = None
    """The recording's file; None for an array."""


@dataclass(frozen=True)
class RecognitionOptions:
    """What a caller may ask of any recogniser; None leaves the recogniser's own default. Raises ConfigError."""

    beam_size: int = 1
    max_new_tokens: int | None = None
    language: str | None = None
    task: str | None = None
    context: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("beam_size", self.beam_size), ("max_new_tokens", self.max_new_tokens)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")


class Recognizer(ABC):
    """Anything that turns audio into transcripts."""

    sample_rate: int
    """Hz of the waveforms it takes."""
    max_audio_seconds: float | None
    """Longest clip it takes at once; longer recordings are cut for it. None where nothing bounds it."""
    min_audio_seconds: float
    """Shortest clip that gives it anything to read."""

    @property
    def prompt_fields(self) -> Sequence[str]:
        """Which of ``language``, ``task`` and ``context`` a recording may bring along; others are left out."""
        return PROMPT_FIELDS

    def check_options(self, options: RecognitionOptions) -> None:  # noqa: B027  (not every recogniser refuses)
        """Raises PromptError or ConfigError for what a caller asks and no recording could be given."""

    @abstractmethod
    def recognize(self, waveforms: Sequence[Tensor], options: RecognitionOptions) -> list[Transcript]:
        """One transcript a waveform (float32 ``[S]`` at ``sample_rate``), in order, as one batch."""


def check_not_empty(input_lengths: Tensor, output_lengths: Tensor, minimum: int, unit: str, what: str) -> None:
    """Raises AudioTooShortError where an input of a length in ``unit`` leaves ``what`` with nothing to give."""
    empty = (output_lengths < 1).nonzero().flatten().tolist()
    if empty:
        raise AudioTooShortError(
            f"clip {empty[0]} of the batch has {int(input_lengths[empty[0]])} {unit}, and {what} needs at least "
            f"{minimum}; pad it with silence or leave it out"
        )


def describe_part(part: Part) -> dict[str, Any]:
    """The options of a part as JSON-ready data."""
    return {} if part.options is None else part.options.model_dump(mode="json", exclude_defaults=False)
