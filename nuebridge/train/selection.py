"""Which utterances of the sources are trained on, and how often an epoch takes each.

Filters by duration and text, counts what they leave out, normalizes texts, and measures durations
that no source gives. Knows no audio beyond headers, no batches and no model.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from nuebridge.data import Utterance
from nuebridge.data.sources import Source, Stream, read_some
from nuebridge.data.text import normalize
from nuebridge.errors import AudioError, DataError
from nuebridge.train.config import DataConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pool:
    """Utterances of one source that are trained on, all known."""

    utterances: Sequence[Utterance]
    weight: float

    def epoch(self, rng: random.Random) -> list[Utterance]:
        """Those of one epoch: each as often as the weight says, what is left of it drawn."""
        whole = int(self.weight)
        chosen = [utterance for copy in range(whole) for utterance in _copies(self.utterances, copy)]
        share = round((self.weight - whole) * len(self.utterances))
        if share:
            places = sorted(rng.sample(range(len(self.utterances)), share))
            chosen += _copies([self.utterances[place] for place in places], whole)
        return chosen


@dataclass(frozen=True)
class StreamedPool:
    """Utterances of one source that are trained on, as they come."""

    stream: Stream
    limits: Limits

    @property
    def expected(self) -> float:
        """About how many an epoch takes."""
        return (self.stream.expected or 1) * self.stream.config.weight

    def epoch(self, rng: random.Random) -> Iterator[Utterance]:
        """Those of one epoch: passes as often as the weight says, what is left of it drawn. Raises DataError."""
        left, copy = self.stream.config.weight, 0
        while left > 0:
            for found in self.stream:
                utterance = self.limits.admit(found)
                if utterance is not None and (left >= 1 or rng.random() < left):
                    yield from _copies([utterance], copy)
            left, copy = left - 1, copy + 1


@dataclass(frozen=True)
class Selection:
    """All that is trained on."""

    pools: tuple[Pool, ...]
    streams: tuple[StreamedPool, ...] = ()
    report: tuple[str, ...] = ()
    """What was left out or measured, a line for each kind."""

    @property
    def utterances(self) -> list[Utterance]:
        """Those that are known from the start, each once."""
        return [utterance for pool in self.pools for utterance in pool.utterances]


@dataclass
class Limits:
    """What an utterance must be like to be trained on; counts those that are not."""

    config: DataConfig
    shortest: float
    """Seconds."""
    noun: str
    """What the counts are of, such as ``of 7 utterances``."""
    reports_as_it_goes: bool = False
    """Says so when the first, the tenth, the hundredth ... is left out."""
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def admit(self, found: Utterance | str) -> Utterance | None:
        """The utterance with its text normalized and its duration known; None for one that is left out.

        One whose header cannot be read is let in, with the shortest duration: reading it will name it.
        """
        if isinstance(found, str):
            self._count("that are faulty", found)
            return None
        text = normalize(found.target or "", self.config.text_normalizer)
        utterance = found if found.target in (None, text) else found.with_target(text)
        if utterance.duration is None:
            known = measured(utterance)
            if known is None:
                return replace(utterance, duration=self.shortest, is_measured=True)
            utterance = known
        why = self._why_not(utterance.duration or 0.0, text)
        if why is None:
            return utterance
        self._count(why[0], f"{utterance.id}: {why[1]}")
        return None

    def lines(self) -> list[str]:
        """What was left out, a line for each reason, with the first example."""
        return [self._line(reason) for reason in self.counts]

    def _why_not(self, seconds: float, text: str) -> tuple[str, str] | None:
        """Why an utterance is left out, and its figure; None where it is not."""
        config = self.config
        if seconds < self.shortest:
            return f"shorter than {self.shortest:g} s", f"{seconds:.3f} s"
        if seconds > config.max_audio_seconds:
            return f"longer than {config.max_audio_seconds:g} s", f"{seconds:.3f} s"
        if len(text) < config.min_text_characters:
            return f"with less text than {config.min_text_characters} characters", f"{len(text)}"
        if config.max_text_characters is not None and len(text) > config.max_text_characters:
            return f"with more text than {config.max_text_characters} characters", f"{len(text)}"
        fastest = config.max_characters_per_second
        if fastest is not None and len(text) > fastest * seconds:
            return f"with more than {fastest:g} characters a second", f"{len(text)} in {seconds:.3f} s"
        return None

    def _count(self, reason: str, example: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.examples.setdefault(reason, example)
        if self.reports_as_it_goes and str(self.counts[reason]).strip("0") == "1":
            log.warning("%s", self._line(reason))

    def _line(self, reason: str) -> str:
        return f"left out {self.counts[reason]} {self.noun} {reason} (such as {self.examples[reason]})"


def select(sources: Sequence[Source | Stream], config: DataConfig, min_audio_seconds: float = 0.0) -> Selection:
    """The utterances of the sources that are within the limits.

    ``min_audio_seconds`` is what the integration needs; the configuration may ask for more.
    Durations that are measured are kept in the sources. Raises DataError where nothing is left.
    """
    shortest = max(config.min_audio_seconds, min_audio_seconds)
    known = [source for source in sources if isinstance(source, Source)]
    report = [line for source in known if (line := _measure(source, config.workers))]
    total = sum(len(source.utterances) for source in known)
    limits = Limits(config, shortest, f"of {total} utterances")
    pools = []
    for source in known:
        admitted = map(limits.admit, source.utterances)
        pools.append(Pool([u for u in admitted if u is not None], source.config.weight))
    report += limits.lines()
    streams = tuple(
        StreamedPool(
            source, Limits(config, shortest, f"utterances so far of {source.config.path}", reports_as_it_goes=True)
        )
        for source in sources
        if isinstance(source, Stream)
    )
    if not streams and not any(pool.utterances for pool in pools):
        raise DataError(f"no utterance is left to train on ({'; '.join(report)}); widen the limits")
    return Selection(tuple(pools), streams, tuple(report))


def validation_set(config: DataConfig, most: int | None) -> list[Utterance]:
    """The first utterances of the validation source, their texts normalized as those that are learned.

    Empty where there is no such source. Raises DataError.
    """
    if config.validation is None:
        return []
    found = read_some(config.validation, most)
    return [utterance.with_target(normalize(utterance.target or "", config.text_normalizer)) for utterance in found]


def measured(utterance: Utterance) -> Utterance | None:
    """The utterance with the duration of its recording's header; None where that cannot be read."""
    try:
        return utterance.measured()
    except AudioError:
        return None


def _measure(source: Source, workers: int) -> str | None:
    """Fills in the durations that a source does not give; returns what to say of it."""
    missing = [place for place, utterance in enumerate(source.utterances) if utterance.duration is None]
    if not missing:
        return None
    if len(missing) > 10_000:
        log.info("%s: reading the headers of %d recordings for their durations", source.config.path, len(missing))
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(measured, [source.utterances[place] for place in missing])
        unread = 0
        for place, utterance in zip(missing, found, strict=True):
            if utterance is None:
                unread += 1
            else:
                source.utterances[place] = utterance
    line = f"{source.config.path}: measured {len(missing) - unread} durations that it does not give"
    return f"{line}; {unread} recordings could not be read" if unread else line


def _copies(utterances: Sequence[Utterance], copy: int) -> list[Utterance]:
    """The utterances once more: under a name of their own, so that other things are drawn for them."""
    return list(utterances) if copy == 0 else [replace(u, id=f"{u.id}~{copy + 1}") for u in utterances]
