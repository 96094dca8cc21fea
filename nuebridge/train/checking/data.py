"""What a check looks at in the data: sources, recordings, texts, and the batches that an epoch is made of."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from nuebridge.ctc import count_symbols
from nuebridge.data import Utterance
from nuebridge.data.augmentation import Augmenter
from nuebridge.data.sources import Source, Stream, open_sources
from nuebridge.errors import NuebridgeError
from nuebridge.model import Integration
from nuebridge.train.batches import BatchLimits, plan_epoch
from nuebridge.train.checking.report import DataRow, Level, Report
from nuebridge.train.config import DataConfig, Stage
from nuebridge.train.estimates import Batch
from nuebridge.train.fitness import recordings_message, unfit_message, unfit_utterances, unusable_recordings
from nuebridge.train.positions import PositionCounter
from nuebridge.train.selection import Selection, select, validation_set

TEXTS = 2000
"""Texts that are tokenized and looked at, at random."""


@dataclass(frozen=True)
class Planned:
    """The data of a stage as it will be trained on."""

    selection: Selection
    largest: Batch
    """On one device."""
    mean: Batch
    """Of one utterance, as large as a batch is in the mean."""
    batches: int
    """In an epoch."""
    audio_seconds: float
    """Of an epoch, without padding."""


def open_data(report: Report, config: DataConfig, validation: int | None) -> list[Source | Stream]:
    """The training sources, opened; what is wrong with them or with the validation source is reported."""
    sources: list[Source | Stream] = []
    try:
        sources = open_sources(config.train)
    except NuebridgeError as error:
        report.add("error", "data", str(error))
    for source in sources:
        if isinstance(source, Source):
            _listen(report, source.config.path, source.utterances, config.max_unreadable)
        else:
            report.add("ok", "data", f"{source.config.path}: streamed, so that nothing can be said of it beforehand")
    try:
        found = validation_set(config, validation)
    except NuebridgeError as error:
        report.add("error", "data", f"validation: {error}")
    else:
        if config.validation is None:
            report.add("warning", "data", "no validation source: nothing will tell how well the model transcribes")
        else:
            _listen(report, config.validation.path, found, 0)
    return sources


def _listen(report: Report, path: str, utterances: Sequence[Utterance], tolerated: int) -> None:
    """Opens the first recording and a few others, and reports what cannot be opened."""
    faults, count = unusable_recordings(utterances)
    if faults:
        level: Level = "error" if len(faults) > tolerated or len(faults) == count else "warning"
        report.add(level, "data", recordings_message(path, faults, count))
    else:
        report.add(
            "ok", "data", f"{path}: {len(utterances)} utterances; the {count} recordings that were opened are right"
        )


def plan(
    report: Report, integration: Integration, stage: Stage, sources: Sequence[Source | Stream], ranks: int
) -> Planned | None:
    """What a stage trains on, and its batches; None where nothing is left, or nothing is known beforehand."""
    config = stage.config.data
    augmentation = config.augmentation
    try:
        if augmentation.is_on:
            Augmenter(augmentation, integration.sample_rate)
        selection = select(sources, config, integration.min_audio_seconds / augmentation.shortest_factor)
    except NuebridgeError as error:
        report.add("error", "data", str(error))
        return None
    for line in selection.report:
        report.add("warning", "data", line)
    utterances = selection.utterances
    if not utterances:
        return None
    unfit: list[str] = []
    if stage.config.losses.text > 0:
        unfit = list(unfit_utterances(integration, utterances, augmentation.longest_factor))
    if unfit:
        report.add("error", "texts", unfit_message(unfit, len(utterances)))
        return None
    _read(report, integration, stage, utterances)
    positions = PositionCounter(integration, augmentation.longest_factor)
    counted = None if config.batch_tokens is None else positions
    limits = BatchLimits(config.batch_seconds, config.batch_tokens, counted, augmentation.longest_factor)
    rng = random.Random(stage.config.seed)
    order = [utterance for pool in selection.pools for utterance in pool.epoch(rng)]
    batches = plan_epoch(order, limits, stage.config.seed, 0)
    if not batches:
        report.add("error", "data", "the first epoch holds no utterance; raise the weights of the sources")
        return None
    seconds = sum(utterance.duration or 0.0 for utterance in order)
    padded = [len(batch) * _longest(batch) for batch in batches]
    largest = batches[max(range(len(batches)), key=padded.__getitem__)]
    report.data.append(
        DataRow(
            stage.name,
            len(utterances),
            sum(utterance.duration or 0.0 for utterance in utterances) / 3600,
            selection.report,
            len(batches),
            stage.schedule.steps / len(batches),
            1 - seconds / sum(padded) if sum(padded) else 0.0,
            f"{len(largest)} x {_longest(largest):.3g} s",
        )
    )
    if selection.streams:
        report.add("warning", "data", "the figures below leave the streamed sources out")

    share = -(-len(largest) // ranks)
    if config.device_batch_seconds is not None and _longest(largest) > 0:
        share = max(1, min(share, int(config.device_batch_seconds / _longest(largest))))
    mean_batch = min(batches, key=lambda batch: abs(len(batch) * _longest(batch) - sum(padded) / len(padded)))
    return Planned(
        selection,
        _shape(integration, positions, largest, share),
        _shape(integration, positions, mean_batch, len(mean_batch)),
        len(batches),
        seconds,
    )


def _shape(integration: Integration, positions: PositionCounter, batch: Sequence[Utterance], count: int) -> Batch:
    """The shapes of ``count`` utterances of a batch, the largest of which are among them."""
    longest = max(batch, key=lambda utterance: utterance.duration or 0.0)
    wordiest = max(batch, key=lambda utterance: len(utterance.target or ""))
    text, samples, audio = positions.text(wordiest), positions.samples(longest), positions.audio(longest)
    frames = int(integration.encoder.output_lengths(torch.tensor([samples])).clamp(min=0))
    return Batch(count, samples, frames, positions.prompt(longest) + audio + text, audio, count * (text + 1))


def _read(report: Report, integration: Integration, stage: Stage, utterances: Sequence[Utterance]) -> None:
    """Looks at a sample of the texts: whether tokenizer and CTC head can write them."""
    losses = stage.config.losses
    chosen = list(utterances)
    if len(chosen) > TEXTS:
        chosen = random.Random(0).sample(chosen, TEXTS)
    texts = [utterance.target or "" for utterance in chosen]
    if losses.text > 0:
        lost = [(text, missing) for text in texts if (missing := _unwritten(integration, text))]
        if lost:
            text, _ = lost[0]
            report.add(
                "warning",
                "texts",
                f"the tokenizer cannot write all of {len(lost)} of {len(texts)} texts (characters that do not come "
                f"back: {_characters(missing for _, missing in lost)}); such as {text!r}",
            )
        else:
            report.add("ok", "texts", f"the tokenizer writes all characters of {len(texts)} texts")
    if losses.ctc > 0 and integration.ctc_head is not None:
        unknown = [integration.ctc_head.unknown(text) for text in texts]
        if any(unknown):
            report.add(
                "warning",
                "texts",
                f"{sum(map(bool, unknown))} of {len(texts)} texts have characters that the CTC head has no symbol for; "
                f"it does not learn them: {_characters(unknown)}",
            )
        samples = torch.tensor([PositionCounter(integration).samples(utterance) for utterance in chosen])
        frames = integration.encoder.output_lengths(samples).clamp(min=0).tolist()
        short = sum(
            count_symbols([integration.ctc_head.encode(text)], [count]) == 0
            for text, count in zip(texts, frames, strict=True)
        )
        if short:
            report.add(
                "warning",
                "texts",
                f"{short} of {len(texts)} texts have more symbols than their audio has frames: the CTC loss leaves "
                "them out",
            )


def _unwritten(integration: Integration, text: str) -> str:
    """The characters of a text that do not come back from its tokens, white space and forms of writing aside."""
    back = integration.decoder.decode(integration.decoder.encode(text))
    return "".join(sorted(_plain(text) - _plain(back)))


def _plain(text: str) -> set[str]:
    return {c for c in unicodedata.normalize("NFKC", text).casefold() if not c.isspace()}


def _characters(found: Iterable[str]) -> str:
    every = sorted(set("".join(found)))
    return " ".join(every[:40]) + (" ..." if len(every) > 40 else "")


def _longest(batch: Sequence[Utterance]) -> float:
    return max(utterance.duration or 0.0 for utterance in batch)
