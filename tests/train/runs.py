"""What a run logged, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def metrics(output: Path, kind: str = "train") -> dict[int, dict[str, Any]]:
    """What a run logged, by step; a step that was logged twice is an error."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["kind"] == kind]
    assert len({line["step"] for line in lines}) == len(lines)
    return {line["step"]: line for line in lines}


def figures(output: Path) -> dict[int, tuple[float, ...]]:
    """The numbers of every step that must be the same in a resumed run."""
    return {
        step: (line["loss"], line["ctc_loss"], line["gradient_norm"], *line["learning_rate"].values())
        for step, line in metrics(output).items()
    }
