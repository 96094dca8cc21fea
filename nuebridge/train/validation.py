"""How well an integration does on a validation manifest: error rates, losses, and a few samples to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nuebridge.audio import cut_at_quiet
from nuebridge.data import Utterance
from nuebridge.errors import AudioError, DataError
from nuebridge.metrics import basic_normalize, character_errors, word_errors
from nuebridge.model import Integration
from nuebridge.train.gain import TeacherForced, measure
from nuebridge.transcribe import transcribe


@dataclass(frozen=True)
class ValidationResult:
    """Error rates over all utterances, from sums, texts compared in basic normalisation.

    A figure is None where it does not apply: no text written, no CTC head, nothing but empty references.
    """

    wer: float | None
    cer: float | None
    ctc_cer: float | None
    samples: tuple[tuple[str, str], ...]
    """Reference and hypothesis of the first utterances."""
    loss: float | None = None
    """Of the reference texts, word for word, in nats a token."""
    audio_gain: float | None = None
    """By how much the right audio lowers that loss against another clip's; see :mod:`nuebridge.train.gain`."""
    left_out: int = 0
    """Utterances without a loss: too short, or too long to be read at once."""

    @property
    def figures(self) -> dict[str, float | None]:
        """What is reported."""
        names = ("wer", "cer", "ctc_cer", "loss", "audio_gain")
        return {name: getattr(self, name) for name in names}


def validate(
    integration: Integration,
    utterances: Sequence[Utterance],
    *,
    batch_size: int,
    samples: int,
    text: bool,
    audio_gain: bool = True,
    seed: int = 0,
) -> ValidationResult:
    """Greedy error rates, the loss and the audio gain; ``text`` False scores the CTC head alone.

    Texts are those that transcribing gives: long recordings are cut, and one too short to hear
    counts as nothing heard. ``seed`` decides which clips swap their audio for the gain. Leaves the model
    in eval mode. Raises DataError naming an utterance that cannot be read or recognised.
    """
    integration.eval()
    references = [basic_normalize(utterance.target or "") for utterance in utterances]
    written = _written(integration, utterances, batch_size) if text else None
    spelled = _spelled(integration, utterances, batch_size) if integration.ctc_head is not None else None
    forced = TeacherForced(None, None, 0)
    if text:
        forced = measure(integration, utterances, batch_size=batch_size, seed=seed, audio_gain=audio_gain)
    shown = next((texts for texts in (written, spelled) if texts is not None), [])
    return ValidationResult(
        None if written is None else _rate(word_errors(references, _normalized(written)).rate),
        None if written is None else _rate(character_errors(references, _normalized(written)).rate),
        None if spelled is None else _rate(character_errors(references, _normalized(spelled)).rate),
        tuple((u.target or "", heard) for u, heard in zip(utterances[:samples], shown[:samples], strict=False)),
        forced.loss,
        forced.audio_gain,
        forced.left_out,
    )


def _written(integration: Integration, utterances: Sequence[Utterance], batch_size: int) -> list[str]:
    """What the decoder writes of each utterance."""
    texts = []
    for utterance, result in zip(utterances, transcribe(integration, utterances, batch_size=batch_size), strict=True):
        if result.transcript is None:
            raise DataError(f"utterance {utterance.id}: {result.error}") from result.error
        texts.append(result.transcript.text)
    return texts


@torch.inference_mode()
def _spelled(integration: Integration, utterances: Sequence[Utterance], batch_size: int) -> list[str]:
    """What the CTC head spells of each utterance."""
    assert integration.ctc_head is not None
    spelled: list[list[str]] = [[] for _ in utterances]
    order = sorted(range(len(utterances)), key=lambda index: utterances[index].duration or 0.0)
    for start in range(0, len(order), batch_size):
        pieces = [
            (index, piece)
            for index in order[start : start + batch_size]
            for piece in _pieces(integration, _load(utterances[index], integration.sample_rate))
        ]
        for first in range(0, len(pieces), batch_size):  # a long recording has many
            batch = pieces[first : first + batch_size]
            lengths = torch.tensor([len(piece) for _, piece in batch], device=integration.device)
            padded = nn.utils.rnn.pad_sequence([piece for _, piece in batch], batch_first=True)
            heard = integration.ctc_head.greedy(integration.encode_audio(padded.to(integration.device), lengths))
            for (index, _), text in zip(batch, heard, strict=True):
                spelled[index].append(text)
    return [" ".join(filter(None, texts)) for texts in spelled]


def _pieces(integration: Integration, waveform: torch.Tensor) -> list[torch.Tensor]:
    """A recording cut as transcribing cuts it, without what is too short to hear."""
    bounds = [(0, len(waveform))]
    if integration.max_audio_seconds is not None:
        bounds = cut_at_quiet(waveform.numpy(), integration.sample_rate, integration.max_audio_seconds)
    shortest = integration.min_audio_seconds * integration.sample_rate
    return [waveform[start:end] for start, end in bounds if end - start >= shortest]


def _load(utterance: Utterance, sample_rate: int) -> torch.Tensor:
    try:
        return torch.from_numpy(utterance.load(sample_rate))
    except AudioError as error:
        raise DataError(f"utterance {utterance.id}: {error}") from error


def _normalized(texts: Sequence[str]) -> list[str]:
    return [basic_normalize(text) for text in texts]


def _rate(rate: float) -> float | None:
    return None if math.isnan(rate) else rate
