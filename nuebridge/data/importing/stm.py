"""STM, NIST's segment time marks: recording, channel, speaker, start, end, <labels>, transcript."""

from __future__ import annotations

from pathlib import Path

from nuebridge.data.importing.records import Intake, Record, seconds, text_lines
from nuebridge.errors import DataError

IGNORED = "ignore_time_segment_in_scoring"
FIRST_CHANNEL = ("1", "A", "a", "0", "-")
"""What the only channel of a recording is called; 2 and B are the second."""


def read(source: Path, intake: Intake) -> None:
    """Every segment of a file, or of each ``.stm`` file in a folder."""
    files = sorted(source.glob("*.stm")) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source} holds no .stm file")
    alternatives = 0
    for file in files:
        for place, line in text_lines(file, intake):
            if not line.lstrip().startswith(";;"):
                with intake.at(place):
                    alternatives += _segment(line, place, intake)
    if alternatives:
        intake.notes.append(f"{alternatives} transcripts hold alternatives ({{ a / b }}), which stay as they are")


def _segment(line: str, place: str, intake: Intake) -> bool:
    """Takes one line; says whether its text holds alternatives."""
    cells = line.split(maxsplit=5)
    if len(cells) < 5:
        raise ValueError("a line must hold recording, channel, speaker, start, end and the transcript")
    name, channel, speaker, start, end = cells[:5]
    rest = cells[5].strip() if len(cells) == 6 else ""
    labels = ""
    if rest.startswith("<") and ">" in rest:
        labels, _, rest = rest[1:].partition(">")
        rest = rest.strip()
    if rest.casefold() == IGNORED:
        intake.drop(place, IGNORED)
        return False
    offset = seconds(start, "start")
    intake.add(
        Record(
            place,
            intake.audio(name),
            text=rest,
            duration=seconds(end, "end") - offset,
            offset=offset,
            speaker=speaker,
            recording=name,
            fields={"labels": labels} if labels else {},
            channel=0 if channel in FIRST_CHANNEL else 1,
            one_channel=True,
        )
    )
    return "{" in rest and "/" in rest
