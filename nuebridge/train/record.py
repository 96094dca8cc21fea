"""The one record of a run, ``metrics.jsonl`` in its folder: one JSON object a line, written as things happen.

Every line has ``kind``, ``step`` (of the whole run), ``stage`` and ``minutes`` (spent training and validating):

- ``start``: a sitting or a stage begins: when, on what, what is trained and what was left out of the data.
- ``train``: means over the steps since the last such line.
- ``validation``: scores, and samples as pairs of reference and hypothesis.

Whatever else shows a run, be it the summary or a logger, shows what stands here. No torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"
"""What a run logs, in its output folder."""


def append_line(output: Path, line: dict[str, Any]) -> None:
    """Adds a line to the record of the run in a folder."""
    with (output / METRICS_FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_lines(output: Path) -> list[dict[str, Any]]:
    """The record of the run in a folder; empty where nothing was logged yet."""
    file = output / METRICS_FILE
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    # What follows the last line break is empty, or was cut short by the end of the process.
    return [json.loads(line) for line in lines[:-1]]
