"""Utterances in batches of like length, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nuebridge.audio import Waveform
from nuebridge.contracts import Frames
from nuebridge.data import Utterance
from nuebridge.errors import AudioError, DataError
from nuebridge.train.config import DataConfig
from nuebridge.train.ranks import ALONE, Ranks
from nuebridge.train.selection import Selection

log = logging.getLogger(__name__)

BUCKET_WINDOW = 2048
"""Utterances that are sorted by length together: large enough for little padding, small enough to mix."""

STREAM_WINDOW_SECONDS = 7200.0
"""Audio that a window of streamed utterances holds at most, since it waits in memory: 230 MB of 16-bit 16 kHz wav."""

WATCHED_SECONDS = 60.0
"""Over so long it is judged whether reading keeps up with training."""

TOLERATED_WAIT = 0.1
"""Share of its time that training may wait for data before the log says so."""

Positions = Callable[[Utterance], tuple[int, int]]
"""How many decoder positions an utterance takes: prompt with audio, and text."""

Cached = Callable[[Utterance], Tensor]
"""The frames ``[F, E]`` of an utterance that were computed before."""

Augment = Callable[[Waveform, Utterance, int], Waveform]
"""What is done to the waveform ``[S]`` of an utterance in an epoch."""


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
    frames: Frames | None = None
    """What the encoder gives, where it was kept; the waveforms are then left out."""
    unreadable: tuple[str, ...] = ()
    """Ids of utterances that belong here and are left out, because their audio cannot be read."""

    @property
    def texts(self) -> list[str]:
        """What is learned."""
        return [utterance.target or "" for utterance in self.utterances]


@dataclass(frozen=True)
class BatchLimits:
    """How much a batch may hold, padding included. An utterance that is larger is a batch of its own."""

    seconds: float
    """Of audio."""
    tokens: int | None = None
    """Decoder positions; takes ``positions``."""
    positions: Positions | None = None
    stretch: float = 1.0
    """How many times as long augmentation may make a clip."""

    def fill(self, utterances: Iterable[Utterance]) -> Iterator[list[Utterance]]:
        """The utterances in batches, neighbours together; in order of their lengths there is little padding."""
        batch: list[Utterance] = []
        longest, prompt, text = 0.0, 0, 0
        for utterance in utterances:
            seconds = max(longest, _seconds(utterance) * self.stretch)
            counted = (0, 0) if self.positions is None else self.positions(utterance)
            # Prompts are padded on the left and texts on the right, each to the longest of its kind.
            needed = max(prompt, counted[0]), max(text, counted[1])
            if batch and self._are_exceeded(len(batch) + 1, seconds, sum(needed)):
                yield batch
                batch, seconds, needed = [], _seconds(utterance) * self.stretch, counted
            batch.append(utterance)
            longest, (prompt, text) = seconds, needed
        if batch:
            yield batch

    def _are_exceeded(self, count: int, seconds: float, positions: int) -> bool:
        return count * seconds > self.seconds or (self.tokens is not None and count * positions > self.tokens)


def plan_epoch(utterances: Sequence[Utterance], limits: BatchLimits, seed: int, epoch: int) -> list[list[Utterance]]:
    """The batches of one epoch: every utterance once, like lengths together, batches shuffled."""
    order = list(utterances)
    rng = random.Random(f"{seed}:{epoch}")
    rng.shuffle(order)
    batches: list[list[Utterance]] = []
    for start in range(0, len(order), BUCKET_WINDOW):
        batches += limits.fill(sorted(order[start : start + BUCKET_WINDOW], key=_seconds))
    rng.shuffle(batches)
    return batches


def plan_windows(selection: Selection, limits: BatchLimits, seed: int, epoch: int) -> Iterator[list[Utterance]]:
    """The batches of one epoch with streams: known and streamed utterances mixed, shuffled within windows."""
    rng = random.Random(f"{seed}:{epoch}:windows")
    for window in _windows(selection, seed, epoch, rng):
        batches = list(limits.fill(sorted(window, key=_seconds)))
        rng.shuffle(batches)
        yield from batches


def stream(
    selection: Selection,
    config: DataConfig,
    seed: int,
    sample_rate: int,
    position: Position,
    ranks: Ranks = ALONE,
    *,
    positions: Positions | None = None,
    augment: Augment | None = None,
    stretch: float = 1.0,
    cached: Cached | None = None,
) -> Generator[Batch]:
    """Endless batches from a position on, of each this rank's share (which may be empty).

    Audio is read ahead by ``config.workers`` threads until the generator is closed. An utterance
    that cannot be read is named in the log and in its batch, and left out. ``positions`` is needed
    where ``config.batch_tokens`` is set; ``stretch`` is how many times as long ``augment`` may make a clip.
    Where frames are ``cached``, no audio is read.

    Raises DataError where an epoch holds nothing or a stream breaks off.
    """
    if config.batch_tokens is not None and positions is None:
        raise ValueError("batch_tokens is set: say how many positions an utterance takes")
    counted = None if config.batch_tokens is None else positions
    named: set[str] = set()
    limits = BatchLimits(config.batch_seconds, config.batch_tokens, counted, stretch)
    places = _places(selection, limits, seed, position)
    waiting = _Waiting(config.workers)
    # Planned by one thread, in order, and read by several; both queues are worked off in order.
    with ThreadPoolExecutor(1) as planner, ThreadPoolExecutor(config.workers) as readers:
        ahead: list[Future[Batch]] = []
        try:
            while True:
                while len(ahead) < 2 * config.workers + 2:
                    planned = planner.submit(next, places)
                    if cached is None:
                        ahead.append(readers.submit(_read, planned, sample_rate, ranks, augment, named))
                    else:
                        ahead.append(readers.submit(_read_frames, planned, sample_rate, ranks, cached))
                yield waiting.receive(ahead.pop(0))
        finally:
            for future in ahead:
                future.cancel()
            planner.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Place:
    """A batch that is planned."""

    utterances: list[Utterance]
    epoch: int
    following: Position


def _places(selection: Selection, limits: BatchLimits, seed: int, position: Position) -> Iterator[_Place]:
    epoch, skip = position.epoch, position.batch
    while True:
        if selection.streams:
            batches = plan_windows(selection, limits, seed, epoch)
        else:
            order = [u for number, pool in enumerate(selection.pools) for u in pool.epoch(_rng(seed, epoch, number))]
            batches = iter(plan_epoch(order, limits, seed, epoch))
        batch = next(batches, None)
        if batch is None:
            raise DataError(f"epoch {epoch} holds no utterance: widen the limits, or raise the weights of the sources")
        index = 0
        while batch is not None:
            following = next(batches, None)
            if index >= skip:
                after = Position(epoch + 1, 0) if following is None else Position(epoch, index + 1)
                yield _Place(batch, epoch, after)
            batch, index = following, index + 1
        epoch, skip = epoch + 1, 0


@dataclass
class _Lane:
    """Utterances on their way into the windows of an epoch."""

    utterances: Iterator[Utterance]
    expected: float
    """About how many are still to come."""


def _windows(selection: Selection, seed: int, epoch: int, rng: random.Random) -> Iterator[list[Utterance]]:
    known = [u for number, pool in enumerate(selection.pools) for u in pool.epoch(_rng(seed, epoch, number))]
    rng.shuffle(known)
    lanes = [_Lane(iter(known), len(known))] if known else []
    for number, pool in enumerate(selection.streams, len(selection.pools)):
        lanes.append(_Lane(pool.epoch(_rng(seed, epoch, number)), pool.expected))
    window: list[Utterance] = []
    seconds = 0.0
    while lanes:
        # In proportion to what is still to come, so that all end at about the same time.
        lane = rng.choices(lanes, [max(1.0, lane.expected) for lane in lanes])[0]
        utterance = next(lane.utterances, None)
        if utterance is None:
            lanes.remove(lane)
            continue
        lane.expected -= 1
        window.append(utterance)
        seconds += _seconds(utterance)
        if len(window) == BUCKET_WINDOW or seconds >= STREAM_WINDOW_SECONDS:
            yield window
            window, seconds = [], 0.0
    if window:
        yield window


def _rng(seed: int, epoch: int, source: int) -> random.Random:
    return random.Random(f"{seed}:{epoch}:source {source}")


def _read(planned: Future[_Place], sample_rate: int, ranks: Ranks, augment: Augment | None, named: set[str]) -> Batch:
    """Reads a batch; ``named`` are the unreadable utterances that the log has named already."""
    place = planned.result()
    waveforms: list[Tensor] = []
    read: list[Utterance] = []
    unreadable: list[str] = []
    for utterance in ranks.share(place.utterances):
        try:
            waveform = utterance.load(sample_rate)
        except AudioError as error:
            if utterance.id not in named:  # once is enough: it comes again in every epoch
                log.warning("utterance %s cannot be read and is left out: %s", utterance.id, error)
            named.add(utterance.id)
            unreadable.append(utterance.id)
            continue
        if augment is not None:
            waveform = augment(waveform, utterance, place.epoch)
        waveforms.append(torch.from_numpy(waveform))
        read.append(utterance)
    lengths = torch.tensor([len(waveform) for waveform in waveforms], dtype=torch.int64)
    padded = nn.utils.rnn.pad_sequence(waveforms, batch_first=True) if waveforms else torch.zeros(0, 0)
    return Batch(padded, lengths, tuple(read), place.epoch, place.following, unreadable=tuple(unreadable))


def _read_frames(planned: Future[_Place], sample_rate: int, ranks: Ranks, cached: Cached) -> Batch:
    """Reads the frames of a batch; its lengths in samples are those that the durations give."""
    place = planned.result()
    read: list[Utterance] = []
    features: list[Tensor] = []
    unreadable: list[str] = []
    for utterance in ranks.share(place.utterances):
        try:
            features.append(cached(utterance))
        except AudioError:  # the log named it when its frames could not be computed
            unreadable.append(utterance.id)
            continue
        read.append(utterance)
    lengths = torch.tensor([round(_seconds(u) * sample_rate) for u in read], dtype=torch.int64)
    frames = None
    if features:
        counts = torch.tensor([len(rows) for rows in features], dtype=torch.int64)
        frames = Frames(nn.utils.rnn.pad_sequence(features, batch_first=True), counts)
    waveforms = torch.zeros(len(read), 0)
    return Batch(waveforms, lengths, tuple(read), place.epoch, place.following, frames, tuple(unreadable))


class _Waiting:
    """Notes how long training waits for batches, and says once where that is too long."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._began: float | None = None
        self._waited = 0.0

    def receive(self, batch: Future[Batch]) -> Batch:
        """The batch, once it is read."""
        asked = time.monotonic()
        found = batch.result()
        now = time.monotonic()
        if self._began is None:  # the first one: there was nothing to do meanwhile
            self._began = now
        else:
            self._waited += now - asked
            self._judge(now - self._began)
        return found

    def _judge(self, seconds: float) -> None:
        if seconds < WATCHED_SECONDS:
            return
        share = self._waited / seconds
        if share > TOLERATED_WAIT:
            log.warning(
                "training waited for audio in %.0f %% of its time: raise data.workers (%d now), or store the audio "
                "as 16-bit wav at the encoder's sample rate, which costs the least to read",
                100 * share,
                self._workers,
            )
        self._began, self._waited = self._began + seconds if self._began is not None else None, 0.0


def _seconds(utterance: Utterance) -> float:
    assert utterance.duration is not None
    return utterance.duration
