"""Which column of a table, or field of a shard, is which field of an utterance."""

from __future__ import annotations

from collections.abc import Collection, Mapping

FIELDS = (
    "audio",
    "text",
    "target",
    "duration",
    "offset",
    "id",
    "speaker",
    "language",
    "task",
    "prompt",
    "instruction",
    "context",
)
"""What a column may be mapped to."""

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {"text": ("text", "sentence", "transcription", "transcript")}
"""Where a field is looked for when nobody says: under these names, else under its own."""


def find_columns(given: Mapping[str, str], available: Collection[str]) -> dict[str, str]:
    """Our fields to theirs, for every field that is given or that is there under a usual name."""
    found = dict(given)
    for name in FIELDS:
        usual = next((theirs for theirs in USUAL_NAMES.get(name, (name,)) if theirs in available), None)
        if name not in found and usual is not None:
            found[name] = usual
    return found
