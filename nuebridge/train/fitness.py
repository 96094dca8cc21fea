"""Whether an integration, a configuration and utterances go together: what would end a run at some later step.

Shapes, texts and the headers of a few recordings: nothing is computed with weights.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator, Sequence

from nuebridge.containers import LENGTH_TOLERANCE_SECONDS
from nuebridge.data import Utterance
from nuebridge.data.sources import Source, Stream
from nuebridge.errors import AudioError, DataError, PromptError, TrainingError
from nuebridge.model import Integration
from nuebridge.train.config import Stage, TrainConfig
from nuebridge.train.positions import PositionCounter

SHOWN = 10
"""Faulty utterances that a message lists."""
RECORDINGS = 32
"""Recordings of a source that are opened to see whether they can be."""


def misfits(integration: Integration, config: TrainConfig, stages: Sequence[Stage]) -> Iterator[str]:
    """What a configuration asks of an integration that it cannot give."""
    if integration.ctc_head is None:
        if any(stage.config.losses.ctc > 0 for stage in stages):
            yield (
                "losses.ctc is above 0, but the integration has no CTC head; compose with --ctc-head, or leave "
                "losses.ctc out"
            )
        if config.checkpoints.best == "ctc_cer" and config.data.validation is not None:
            yield "checkpoints.best is ctc_cer, but the integration has no CTC head; choose wer or cer"
    if not integration.decoder.eos_token_ids and any(stage.config.losses.text > 0 for stage in stages):
        yield (
            "the decoder has no end token, so that it could not learn where a text ends; name one in its tokenizer's "
            "files (eos_token), or set losses.text to 0"
        )


def check_fit(integration: Integration, config: TrainConfig, stages: Sequence[Stage]) -> None:
    """Raises TrainingError with all that :func:`misfits` finds."""
    found = list(misfits(integration, config, stages))
    if found:
        raise TrainingError("\n".join(found))


def unfit_utterances(integration: Integration, utterances: Sequence[Utterance], stretch: float = 1.0) -> Iterator[str]:
    """Utterances that no step could be made with: too long for the decoder, or without a value for a prompt's field.

    ``stretch`` is how many times as long augmentation may make a clip.
    """
    positions = PositionCounter(integration, stretch)
    limit = integration.decoder.max_positions
    for utterance in utterances:
        try:
            prompt = positions.prompt(utterance)
        except PromptError as error:
            yield f"{utterance.id}: {error}"
            continue
        heard = positions.audio(utterance)
        # Encoding every text takes minutes where there are millions; hardly any can be too long.
        if limit is None or prompt + heard + _most_tokens(utterance.target or "") <= limit:
            continue
        text = positions.text(utterance)
        # A bridge whose lengths depend on the data may give fewer positions than it says.
        if prompt + (heard if integration.bridge.lengths_are_exact else 1) + text > limit:
            yield (
                f"{utterance.id}: {prompt} positions of prompt, {heard} of audio and {text} of text are more than the "
                f"{limit} of the decoder"
            )


def check_utterances(integration: Integration, utterances: Sequence[Utterance], stretch: float = 1.0) -> None:
    """Raises TrainingError listing the first of :func:`unfit_utterances`, with what to do."""
    found = list(unfit_utterances(integration, utterances, stretch))
    if found:
        raise TrainingError(unfit_message(found, len(utterances)))


def unusable_recordings(utterances: Sequence[Utterance]) -> tuple[list[str], int]:
    """What is wrong with the first recording and with others at random, and how many were opened."""
    count = min(RECORDINGS, len(utterances))
    chosen = [0, *sorted(random.Random(0).sample(range(1, len(utterances)), count - 1))] if utterances else []
    faults = []
    for place in chosen:
        utterance = utterances[place]
        try:
            held = utterance.measured().duration or 0.0
        except AudioError as error:
            faults.append(f"{utterance.id}: {error}")
            continue
        said = utterance.duration
        if said is not None and not utterance.is_measured and said > held + LENGTH_TOLERANCE_SECONDS:
            faults.append(f"{utterance.id}: is said to take {said:g} s, but its recording has {held:.3f} s for it")
    return faults, count


def recordings_message(path: str, faults: Sequence[str], count: int) -> str:
    """What is wrong with recordings of a source."""
    more = [f"(and {len(faults) - SHOWN} more)"] if len(faults) > SHOWN else []
    head = f"{path}: {len(faults)} of {count} recordings that were looked at cannot be used"
    return "\n".join([head, *faults[:SHOWN], *more])


def check_recordings(sources: Sequence[Source | Stream]) -> None:
    """Raises DataError where none of the recordings of a source that are looked at can be used."""
    for source in sources:
        if isinstance(source, Source):
            faults, count = unusable_recordings(source.utterances)
            if count and len(faults) == count:
                raise DataError(recordings_message(source.config.path, faults, count))


def unfit_message(found: Sequence[str], total: int) -> str:
    """The first of unfit utterances, with what to do."""
    more = f" (and {len(found) - SHOWN} more)" if len(found) > SHOWN else ""
    return (
        f"{len(found)} of {total} utterances cannot be trained on: {'; '.join(found[:SHOWN])}{more}; leave them out "
        "(data.max_audio_seconds, data.max_text_characters), or mend the manifest"
    )


def _most_tokens(text: str) -> int:
    """No tokenizer makes more of a text: at worst one a byte, of the longest form that normalizing gives it."""
    if text.isascii():
        return len(text) + 2
    longest = max(len(unicodedata.normalize(form, text).encode()) for form in ("NFC", "NFKC", "NFD", "NFKD"))
    return max(longest, len(text.encode())) + 2
