"""Figures of a set of utterances: how long, how much text, who speaks, in which characters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from nuebridge.data.checking.audio import Heard

OUTLIER_SCALES = 5.0
"""A speech rate this many times the usual spread away from the median, on a logarithmic scale, is suspicious."""
LEAST_SCALE = 0.1
FEWEST_FOR_OUTLIERS = 20


def statistics(heard: Sequence[Heard]) -> dict[str, Any]:
    """Everything as plain data, ready for JSON. Durations in seconds unless the key says hours."""
    durations = [one.seconds for one in heard if one.seconds is not None]
    texts = [one.text for one in heard if one.text is not None]
    repeated = [(text, count) for text, count in Counter(texts).most_common(5) if count > 1 and text]
    speakers = Counter(str(name) for one in heard if (name := one.utterance.fields.get("speaker")) not in (None, ""))
    files = {one.utterance.audio_filepath: one.header for one in heard}
    headers = [header for header in files.values() if header is not None]
    return {
        "utterances": len(heard),
        "hours": sum(durations) / 3600,
        "without_duration": len(heard) - len(durations),
        "durations": quantiles(durations),
        "files": len(files),
        "sample_rates": _counts(Counter(header.sample_rate for header in headers)),
        "channels": _counts(Counter(header.channels for header in headers)),
        "speakers": {
            "named": len(speakers),
            "utterances_without": len(heard) - sum(speakers.values()),
            "most": speakers.most_common(5),
        },
        "languages": _languages(heard),
        "texts": {
            "missing": len(heard) - len(texts),
            "empty": sum(not text.strip() for text in texts),
            "distinct": len(set(texts)),
            "repeated": repeated,
            "characters": quantiles([len(text) for text in texts]),
            "words": quantiles([len(text.split()) for text in texts]),
        },
        "characters_per_second": quantiles(list(speech_rates(heard).values())),
        "characters": _counts(Counter(character for text in texts for character in text)),
    }


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """``min``, ``p5``, ``median``, ``p95``, ``max`` and ``mean``; None of nothing."""
    if not values:
        return None
    points = np.percentile(values, [0, 5, 50, 95, 100])
    names = ("min", "p5", "median", "p95", "max")
    return {**{name: round(float(point), 4) for name, point in zip(names, points, strict=True)}, "mean": _mean(values)}


def speech_rates(heard: Sequence[Heard]) -> dict[int, float]:
    """Characters a second of the utterances that have a text and a duration, by index."""
    rates = {}
    for index, one in enumerate(heard):
        if one.seconds and one.text and one.text.strip():
            rates[index] = len(one.text.strip()) / one.seconds
    return rates


def outliers(heard: Sequence[Heard]) -> dict[int, tuple[float, float]]:
    """Index to speech rate and the median one, of utterances whose text hardly fits their audio.

    The spread is the median absolute deviation, which outliers do not widen.
    """
    rates = speech_rates(heard)
    if len(rates) < FEWEST_FOR_OUTLIERS:
        return {}
    logs = np.log(list(rates.values()))
    middle = float(np.median(logs))
    scale = max(1.4826 * float(np.median(np.abs(logs - middle))), LEAST_SCALE)
    return {
        index: (rate, math.exp(middle))
        for (index, rate), log in zip(rates.items(), logs, strict=True)
        if abs(log - middle) > OUTLIER_SCALES * scale
    }


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _counts(counter: Counter[Any]) -> dict[str, int]:
    """The most frequent first."""
    return {str(key): count for key, count in counter.most_common()}


def _languages(heard: Sequence[Heard]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for one in heard:
        language = one.utterance.fields.get("language")
        if language not in (None, ""):
            sums = found.setdefault(str(language), {"utterances": 0, "hours": 0.0})
            sums["utterances"] += 1
            sums["hours"] += (one.seconds or 0.0) / 3600
    return dict(sorted(found.items()))
