"""Utterances in batches of like length, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nuebridge.data import Utterance, read_manifest
from nuebridge.errors import AudioError, DataError
from nuebridge.train.config import DataConfig
from nuebridge.train.ranks import Ranks

ALONE = Ranks()

BUCKET_WINDOW = 2048
"""Utterances that are sorted by length together: large enough for little padding, small enough to mix."""


@dataclass(frozen=True)
class Position:
    """Where in the data a run stands: the next batch to train on."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Batch:
    """``waveforms [B, S]`` float32, ``lengths [B]`` in samples, and what was said."""

    waveforms: Tensor
    lengths: Tensor
    utterances: tuple[Utterance, ...]
    epoch: int
    """The epoch it belongs to, from 0."""
    next_position: Position
    """Where training goes on after this batch."""

    @property
    def texts(self) -> list[str]:
        return [utterance.text or "" for utterance in self.utterances]


def select(config: DataConfig, min_audio_seconds: float = 0.0) -> tuple[list[Utterance], list[str]]:
    """The utterances within the duration limits, and one line for each kind of drop.

    ``min_audio_seconds`` is what the integration needs; the configuration may ask for more.
    """
    shortest = max(config.min_audio_seconds, min_audio_seconds)
    utterances = [u for source in config.train for u in read_manifest(Path(source.path), need_text=True, need_duration=True)]
    short = [u for u in utterances if _seconds(u) < shortest]
    long = [u for u in utterances if _seconds(u) > config.max_audio_seconds]
    kept = [u for u in utterances if shortest <= _seconds(u) <= config.max_audio_seconds]
    drops = [
        f"left out {len(group)} of {len(utterances)} utterances {what}"
        for group, what in (
            (short, f"shorter than {shortest} s"),
            (long, f"longer than {config.max_audio_seconds} s"),
        )
        if group
    ]
    if not kept:
        raise DataError(f"no utterance is left to train on ({'; '.join(drops)}); widen the limits")
    return kept, drops


def plan_epoch(utterances: Sequence[Utterance], batch_seconds: float, seed: int, epoch: int) -> list[list[Utterance]]:
    """The batches of one epoch: every utterance once, like lengths together, batches shuffled."""
    order = list(utterances)
    rng = random.Random(f"{seed}:{epoch}")
    rng.shuffle(order)
    batches: list[list[Utterance]] = []
    for start in range(0, len(order), BUCKET_WINDOW):
        batch: list[Utterance] = []
        for utterance in sorted(order[start : start + BUCKET_WINDOW], key=_seconds):
            # Sorted, so the newcomer is the longest: all are padded to it.
            if batch and (len(batch) + 1) * _seconds(utterance) > batch_seconds:
                batches.append(batch)
                batch = []
            batch.append(utterance)
        batches.append(batch)
    rng.shuffle(batches)
    return batches


def stream(
    utterances: Sequence[Utterance],
    config: DataConfig,
    seed: int,
    sample_rate: int,
    position: Position,
    ranks: Ranks = ALONE,
) -> Generator[Batch]:
    """Endless batches from a position on, of each this rank's share (which may be empty).

    Audio is read ahead by ``config.workers`` threads until the generator is closed.

    Raises DataError naming the utterance whose audio cannot be read.
    """
    with ThreadPoolExecutor(config.workers) as pool:
        ahead: list[Future[Batch]] = []
        places = _places(utterances, config.batch_seconds, seed, position)
        try:
            while True:
                while len(ahead) < 2 * config.workers + 2:
                    chosen, epoch, following = next(places)
                    ahead.append(pool.submit(_read, ranks.share(chosen), sample_rate, epoch, following))
                yield ahead.pop(0).result()
        finally:
            for future in ahead:
                future.cancel()


def _places(
    utterances: Sequence[Utterance], batch_seconds: float, seed: int, position: Position
) -> Iterator[tuple[list[Utterance], int, Position]]:
    epoch, skip = position.epoch, position.batch
    while True:
        batches = plan_epoch(utterances, batch_seconds, seed, epoch)
        for index in range(skip, len(batches)):
            last = index + 1 == len(batches)
            yield batches[index], epoch, Position(epoch + 1, 0) if last else Position(epoch, index + 1)
        epoch, skip = epoch + 1, 0


def _read(utterances: Sequence[Utterance], sample_rate: int, epoch: int, following: Position) -> Batch:
    waveforms = []
    for utterance in utterances:
        try:
            waveforms.append(torch.from_numpy(utterance.load(sample_rate)))
        except AudioError as error:
            raise DataError(f"utterance {utterance.id}: {error}") from error
    lengths = torch.tensor([len(waveform) for waveform in waveforms], dtype=torch.int64)
    if not waveforms:
        return Batch(torch.zeros(0, 0), lengths, (), epoch, following)
    return Batch(nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths, tuple(utterances), epoch, following)


def _seconds(utterance: Utterance) -> float:
    assert utterance.duration is not None
    return utterance.duration
