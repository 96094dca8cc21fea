"""What two sets of utterances share, or one holds twice: texts, audio, recordings, speakers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from nuebridge.data.checking.audio import Heard
from nuebridge.metrics import basic_normalize

LEAST_SHARED_SECONDS = 0.02
"""Stretches of one recording that touch by less share nothing: times are rounded."""

Found = tuple[str, Heard, str]
"""Kind, the utterance that has it, and a message."""


def overlaps(own: Sequence[Heard], other: Sequence[Heard]) -> Iterator[Found]:
    """What utterances of ``own`` share with those of ``other``, each at most once a kind.

    Texts are compared without case and punctuation, recordings by ``recording`` where both have
    one and by the content of their files. Digital silence is nobody's.
    """
    yield from _shared("overlap-text", own, other, _text, "its text")
    yield from _shared("overlap-speaker", own, other, lambda one: _field(one, "speaker"), "its speaker")
    own, other = [[one for one in those if not one.is_silent] for those in (own, other)]
    samples = dict(_by(other, lambda one: one.samples))
    contents: dict[str, list[Heard]] = {}
    for one in other:
        contents.setdefault(one.content, []).append(one)
    recordings = dict(_by(other, lambda one: _field(one, "recording")))
    for one in own:
        same = contents.get(one.content, [])
        heard = next((those for those in same if _share(one, those)), None) or samples.get(one.samples)
        if heard is not None:
            yield "overlap-audio", one, f"{_where(one)} is heard in {_name(heard)} as well"
            continue
        recording = same[0] if same else recordings.get(_field(one, "recording"))
        if recording is not None:
            yield "overlap-recording", one, f"{_where(one)} is of the recording of {_name(recording)}"


def repetitions(heard: Sequence[Heard]) -> Iterator[Found]:
    """Utterances whose audio an earlier one has already; with another text it is a contradiction."""
    first: dict[object, Heard] = {}
    for one in heard:
        keys = [(one.content, *(round(time, 3) for time in one.span)), one.samples]
        earlier = next((first[key] for key in keys if key is not None and key in first), None)
        for key in keys:
            if key is not None:
                first.setdefault(key, one)
        if earlier is None:
            continue
        texts = one.text, earlier.text
        if None not in texts and basic_normalize(str(texts[0])) != basic_normalize(str(texts[1])):
            shown = f"{_where(one)} is the audio of {_name(earlier)}, with another text: {texts[0]!r}, {texts[1]!r}"
            yield "contradiction", one, shown
        else:
            yield "duplicate-audio", one, f"{_where(one)} is the audio of {_name(earlier)}"


def _shared(
    kind: str, own: Sequence[Heard], other: Sequence[Heard], key: Callable[[Heard], str | None], what: str
) -> Iterator[Found]:
    there = dict(_by(other, key))
    for one in own:
        value = key(one)
        if value is not None and value in there:
            yield kind, one, f"{what} {_short(value)!r} is in {_name(there[value])} too"


def _by(heard: Sequence[Heard], key: Callable[[Heard], str | None]) -> Iterator[tuple[str | None, Heard]]:
    """Value and utterance, for those that have a value; of several the first comes last."""
    for one in reversed(heard):
        value = key(one)
        if value is not None:
            yield value, one


def _text(one: Heard) -> str | None:
    return basic_normalize(one.text or "") or None


def _field(one: Heard, name: str) -> str | None:
    value = one.utterance.fields.get(name)
    return None if value in (None, "") else str(value)


def _share(one: Heard, other: Heard) -> bool:
    """True where two stretches of one recording have more than their edges in common."""
    (start, end), (other_start, other_end) = one.span, other.span
    return min(end, other_end) - max(start, other_start) > LEAST_SHARED_SECONDS


def _name(one: Heard) -> str:
    return f"{one.manifest.name} ({one.utterance.id})"


def _where(one: Heard) -> str:
    start, end = one.span
    return f"{one.utterance.audio_filepath}" + (f" ({start:g} to {end:g} s)" if start else "")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
