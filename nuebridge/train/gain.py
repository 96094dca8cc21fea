"""Does the decoder listen? Its loss with the right audio, and with another clip's.

A decoder that has not found the audio yet still learns to write likely texts, and its loss falls all
the same. The audio gain tells the two apart: the loss with another clip's audio minus the loss with
the right one, in nats a token. It is near zero until the decoder listens.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nuebridge.data import Utterance
from nuebridge.errors import AudioError, DataError
from nuebridge.model import Integration
from nuebridge.prompt import render
from nuebridge.train.config import TrainConfig
from nuebridge.train.positions import prompt_values

LISTENS_FROM = 0.05
"""Audio gain, in nats a token, below which a decoder is said not to listen yet."""


SWAPPED_AMONG = 8
"""Neighbours in length among which audio is swapped."""


@dataclass(frozen=True)
class TeacherForced:
    """What the decoder makes of texts that it is given word for word."""

    loss: float | None
    """Nats a token, from sums; None where no utterance can be measured."""
    audio_gain: float | None
    """Loss with another clip's audio minus loss with the right one; None where there is no other text to swap with."""
    left_out: int
    """Utterances that are too short, or too long to be read at once."""


@dataclass(frozen=True)
class _Clip:
    text: str
    fields: Mapping[str, str | None]
    waveform: Tensor


@torch.no_grad()
def measure(
    integration: Integration,
    utterances: Sequence[Utterance],
    *,
    batch_size: int,
    seed: int = 0,
    audio_gain: bool = True,
) -> TeacherForced:
    """The text loss of utterances and the audio gain. Leaves the model in eval mode.

    Audio is swapped within groups of a few utterances of like length, such that nobody keeps its own;
    the same seed and utterances give the same swaps. Pairs of one text say
    nothing about listening and are not counted in the gain. Raises DataError naming an utterance
    that cannot be read.
    """
    integration.eval()
    rng = random.Random(seed)
    right, base, other = _Sum(), _Sum(), _Sum()
    left_out = 0
    for group in _groups(utterances, SWAPPED_AMONG):
        clips = [_clip(integration, utterance) for utterance in group]
        clips = [clip for clip in clips if _fits(integration, clip, clip.waveform)]
        left_out += len(group) - len(clips)
        if not clips:
            continue
        own = _loss(integration, clips, [clip.waveform for clip in clips], batch_size)
        right += own
        if not audio_gain:
            continue
        swaps = derangement([clip.text for clip in clips], rng)
        pairs = [
            (clip, clips[swap])
            for clip, swap in zip(clips, swaps, strict=True)
            if clip.text != clips[swap].text and _fits(integration, clip, clips[swap].waveform)
        ]
        if pairs:
            kept = [clip for clip, _ in pairs]
            base += (
                own
                if len(kept) == len(clips)
                else _loss(integration, kept, [clip.waveform for clip in kept], batch_size)
            )
            other += _loss(integration, kept, [swapped.waveform for _, swapped in pairs], batch_size)
    gain = None if base.mean is None or other.mean is None else other.mean - base.mean
    return TeacherForced(right.mean, gain, left_out)


def derangement(texts: Sequence[str], rng: random.Random) -> list[int]:
    """For each text the index of another one, each taken once; of another text wherever that can be.

    A single text gets itself.
    """
    distinct = list(dict.fromkeys(texts))
    rng.shuffle(distinct)
    # Equal texts stand together, in a circle; turned by the size of the largest such block, each text meets
    # another one wherever no block is more than half of the circle.
    circle = [index for text in distinct for index, one in enumerate(texts) if one == text]
    turn = max((texts.count(text) for text in distinct), default=0)
    turn = 1 if turn == len(texts) else turn
    swapped = [0] * len(texts)
    for place, index in enumerate(circle):
        swapped[index] = circle[(place + turn) % len(circle)]
    return swapped


def not_listening(audio_gain: float, config: TrainConfig) -> str | None:
    """One line on a decoder that does not listen yet and what helps; None for one that does."""
    if audio_gain >= LISTENS_FROM:
        return None
    longest = config.data.max_audio_seconds
    return (
        f"the decoder does not listen yet: the right audio lowers its loss by {audio_gain:.3f} nats a token "
        f"(listening is {LISTENS_FROM} and more). What helps: the CTC loss on the encoder first "
        f"(losses.ctc is {config.losses.ctc:g}), shorter clips (data.max_audio_seconds is {longest:g}), token "
        f"replacement (losses.token_replacement is {config.losses.token_replacement:g}; try 0.06), a bridge that "
        "compresses less, more steps"
    )


@dataclass
class _Sum:
    nats: float = 0.0
    tokens: int = 0

    def __iadd__(self, other: _Sum) -> _Sum:
        self.nats += other.nats
        self.tokens += other.tokens
        return self

    @property
    def mean(self) -> float | None:
        return self.nats / self.tokens if self.tokens else None


def _groups(utterances: Sequence[Utterance], size: int) -> list[list[Utterance]]:
    """Neighbours in length; nobody is alone in a group unless there is only one."""
    order = sorted(utterances, key=lambda utterance: utterance.duration or 0.0)
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    if len(groups) > 1 and len(groups[-1]) == 1:
        last = groups.pop()
        groups[-1] += last
    return groups


def _clip(integration: Integration, utterance: Utterance) -> _Clip:
    try:
        waveform = torch.from_numpy(utterance.load(integration.sample_rate))
    except AudioError as error:
        raise DataError(f"utterance {utterance.id}: {error}") from error
    return _Clip(utterance.target or "", prompt_values(integration, utterance), waveform)


def _fits(integration: Integration, clip: _Clip, waveform: Tensor) -> bool:
    """Whether the clip's text can be read after a waveform, all at once."""
    seconds = len(waveform) / integration.sample_rate
    if seconds < integration.min_audio_seconds:
        return False
    if integration.max_audio_seconds is not None and seconds > integration.max_audio_seconds:
        return False
    decoder = integration.decoder
    if decoder.max_positions is None:
        return True
    frames = integration.encoder.output_lengths(torch.tensor([len(waveform)]))
    audio = int(integration.bridge.output_lengths(frames))
    written = [*render(integration.prompt, clip.fields), clip.text]  # the end token is predicted, never read
    return audio + sum(len(decoder.encode(text)) for text in written) <= decoder.max_positions


def _loss(integration: Integration, clips: Sequence[_Clip], waveforms: Sequence[Tensor], batch_size: int) -> _Sum:
    """The text loss of clips, each with a waveform that need not be its own."""
    total, device = _Sum(), integration.device
    for start in range(0, len(clips), batch_size):
        batch, heard = clips[start : start + batch_size], waveforms[start : start + batch_size]
        lengths = torch.tensor([len(waveform) for waveform in heard], device=device)
        padded = nn.utils.rnn.pad_sequence(list(heard), batch_first=True).to(device)
        losses = integration(padded, lengths, [clip.text for clip in batch], fields=[clip.fields for clip in batch])
        total += _Sum(float(losses.text), losses.text_tokens)
    return total
