"""What a model writes of test data, kept until there is something to compare it with."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuebridge.contracts import Recognizer
from nuebridge.data import Utterance, read_manifest
from nuebridge.errors import DataError
from nuebridge.tensors import write_text
from nuebridge.train.stopping import Stopping, TrainingStopped
from nuebridge.transcribe import transcribe

log = logging.getLogger(__name__)

BEFORE = "before.json"
"""In the run's folder: what the base writes."""


@dataclass(frozen=True)
class TestSet:
    """Utterances of a domain that errors are counted on."""

    __test__ = False  # pytest takes it for one of its own

    domain: str
    """``new`` or ``original``."""
    manifest: Path
    utterances: Sequence[Utterance]

    @classmethod
    def read(cls, domain: str, manifest: Path) -> TestSet:
        """Raises DataError."""
        return cls(domain, manifest, read_manifest(manifest, need_text=True))

    @property
    def references(self) -> list[str]:
        """What was said."""
        return [one.target or "" for one in self.utterances]


Texts = Mapping[str, list[str]]
"""What a model wrote: by domain, one text an utterance."""


def write_down(model: Recognizer, sets: Sequence[TestSet], batch_size: int, stopping: Stopping) -> dict[str, list[str]]:
    """What a model writes of every test set.

    Raises DataError naming an utterance that cannot be read, and TrainingStopped where the process is asked to stop.
    """
    texts: dict[str, list[str]] = {}
    for one in sets:
        texts[one.domain] = []
        for utterance, result in zip(
            one.utterances, transcribe(model, one.utterances, batch_size=batch_size), strict=True
        ):
            if stopping.asked:
                raise TrainingStopped("stopped while measuring; the same command with --resume auto goes on")
            if result.transcript is None:
                raise DataError(f"{one.manifest.name} ({utterance.id}): {result.error}") from result.error
            texts[one.domain].append(result.transcript.text)
    return texts


def keep(file: Path, base_hash: str, sets: Sequence[TestSet], texts: Texts) -> None:
    """Writes down what the base gave, for a later sitting."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({"base": base_hash, "said": _said(sets), "written": texts}, ensure_ascii=False) + "\n")


def kept(file: Path, base_hash: str, sets: Sequence[TestSet]) -> dict[str, list[str]] | None:
    """What :func:`keep` wrote for the same base and test data; None where there is no such thing."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        found: dict[str, list[str]] = data["written"]
        if (data["base"], data["said"]) == (base_hash, _said(sets)):
            return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        log.warning("%s is damaged: the base is measured again", file)
    return None


def _said(sets: Sequence[TestSet]) -> dict[str, Any]:
    return {one.domain: [[utterance.id, utterance.target] for utterance in one.utterances] for one in sets}


def lines(sets: Sequence[TestSet], before: Texts, after: Texts) -> str:
    """JSON Lines with the texts of every utterance."""
    return "".join(
        json.dumps(
            {"domain": one.domain, "id": utterance.id, "reference": said, "before": was, "after": now},
            ensure_ascii=False,
        )
        + "\n"
        for one in sets
        for utterance, said, was, now in zip(
            one.utterances, one.references, before[one.domain], after[one.domain], strict=True
        )
    )
