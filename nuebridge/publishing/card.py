"""The model card of an integration: README.md with YAML front matter, from what the checkpoint itself says.

It tells what is known and says what is not: parts and their licenses, what the licenses allow together, training data
and configuration, and error rates where a file of them is given. Nothing is measured here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from ruamel.yaml import YAML

from nuebridge.checkpoint.hub import without_folders
from nuebridge.config import validate
from nuebridge.contracts import SourcedPart
from nuebridge.errors import ConfigError
from nuebridge.model import Integration
from nuebridge.publishing.licenses import Judgement, judge_licenses
from nuebridge.registry import is_local
from nuebridge.settings import Settings

_ANSWERS = {
    "yes": "Yes, as far as these licenses go.",
    "conditions": "On conditions.",
    "no": "No.",
    "unknown": "Not known.",
}


class Measured(Settings):
    """Error rates on one set of recordings."""

    data: str
    """What was transcribed, by its public name."""
    wer: float | None = Field(default=None, ge=0)
    """Word error rate, 0.05 for 5 %."""
    cer: float | None = Field(default=None, ge=0)
    utterances: int | None = Field(default=None, ge=1)
    language: str | None = None
    note: str | None = None
    """How it was measured: the normalizer, the settings."""


class _Evaluation(Settings):
    results: list[Measured] = Field(min_length=1)


def read_evaluation(file: Path) -> list[Measured]:
    """The error rates of a JSON file: ``{"results": [{"data": NAME, "wer": 0.05, "cer": 0.02}, ...]}``.

    Raises ConfigError for what does not hold them.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as JSON: {error}") from None
    results = validate(data, _Evaluation, str(file)).results
    empty = [one.data for one in results if one.wer is None and one.cer is None]
    if empty:
        raise ConfigError(f"{file} has neither wer nor cer for {empty[0]!r}; give one of them")
    return results


def part_licenses(integration: Integration) -> dict[str, str | None]:
    """The licenses of the parts that may come from somebody else, by part; None where the checkpoint does not say.

    A bridge or CTC head of no source began untrained: it is its trainer's own, and not among them.
    """
    infos = integration.part_info
    return {
        name: infos[name].license if name in infos else None
        for name, part in integration.parts.items()
        if isinstance(part, SourcedPart) or (name in infos and infos[name].source is not None)
    }


def model_card(
    integration: Integration, repo_id: str, evaluation: Sequence[Measured] = (), *, license: str | None = None
) -> str:
    """README.md for a hub repository. ``license`` is that of the whole, where its publisher knows it."""
    judgement = judge_licenses(part_licenses(integration))
    front = _front_matter(integration, license or judgement.license, evaluation)
    return "\n".join([*front, *_body(integration, repo_id, judgement, evaluation)])


def _front_matter(integration: Integration, license: str | None, evaluation: Sequence[Measured]) -> Iterator[str]:
    named = dict.fromkeys(info.source for info in integration.part_info.values() if info.source is not None)
    sources = [source for source in named if _public(source)]
    data: dict[str, Any] = {
        "library_name": "nuebridge",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["nuebridge", "automatic-speech-recognition"],
    }
    if license is not None:
        data["license"] = license
    else:
        data |= {"license": "other", "license_name": "see-the-parts", "license_link": "#licenses"}
    if integration.language:
        data["language"] = [integration.language]
    if sources:
        data["base_model"] = sources
    if evaluation:
        data["metrics"] = [name for name in ("wer", "cer") if any(getattr(one, name) is not None for one in evaluation)]
    stream = io.StringIO()
    YAML().dump(data, stream)
    yield from ("---", stream.getvalue().rstrip("\n"), "---", "")


def _body(
    integration: Integration, repo_id: str, judgement: Judgement, evaluation: Sequence[Measured]
) -> Iterator[str]:
    yield from (f"# {repo_id.rpartition('/')[2]}", "")
    yield "Speech to text: a speech encoder and a text language model, joined by a bridge with nuebridge."
    yield from ("", "```python", "import nuebridge", "", f'model = nuebridge.load("{repo_id}")')
    yield from ('print(model.transcribe("recording.wav")[0].text)', "```", "", "## Parts", "")
    yield from ("| part | component | parameters | comes from | revision | license |", "|---|---|---|---|---|---|")
    for name, part in integration.parts.items():
        info = integration.part_info.get(name)
        count = sum(parameter.numel() for parameter in part.parameters()) / 1e6
        license_ = info.license if info is not None else None
        own = not isinstance(part, SourcedPart) and (info is None or info.source is None)
        cells = [
            name.replace("_", " "),
            f"{info.component} ({info.distribution} {info.version})" if info is not None else "not known",
            f"{count:.2f} M",
            _source(info.source if info is not None else None, own),
            (info.revision if info is not None else None) or "-",
            license_ or ("of this repository" if own else "not known"),
        ]
        yield f"| {' | '.join(cells)} |"
    yield from ("", "## Licenses", "", "May the parts be shared as one model? " + _ANSWERS[judgement.combined], "")
    yield from (f"- {reason}" for reason in judgement.reasons)
    yield from ("", "This was looked up in a short, conservative table and is no legal advice. It says nothing of the")
    yield from ("training data, whose terms are to be minded as well.", "", "## Training", "")
    yield from _training(integration.training_history)
    for adapter in integration.adapters.values():
        yield from (f"Adapter `{adapter.name}` (weight {adapter.weight:g}): {', '.join(adapter.parts)}.", "")
        yield from _training(adapter.training)
    yield from ("## Error rates", "")
    yield from _error_rates(evaluation)
    yield from ("", "## Identity", "", f"Weight hash (SHA-256): `{integration.weight_hash()}`", "")


def _public(source: str) -> bool:
    return not is_local(source) and not Path(source).exists()


def _source(source: str | None, own: bool) -> str:
    if source is not None and _public(source):
        return f"[{source}](https://huggingface.co/{source})"
    if source is None and own:
        return "trained from random weights"
    return "no public source is named"


def _training(history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not history:
        yield from (
            "The checkpoint tells of no training. Where a bridge was never trained, it transcribes nothing.",
            "",
        )
        return
    for number, entry in enumerate(without_folders([dict(one) for one in history]), 1):
        data = entry.get("configuration", {}).get("data", {}) if isinstance(entry.get("configuration"), dict) else {}
        named = data.get("train") if isinstance(data, dict) else None
        told = [
            f"{entry['steps']} steps" if "steps" in entry else "",
            _hours(entry),
            f"data: {_names(named)}" if named else "",
        ]
        yield f"{number}. {'; '.join(one for one in told if one) or 'an entry without figures'}"
    yield from ("", "<details><summary>Configuration</summary>", "", "```json")
    yield json.dumps(without_folders([dict(one) for one in history]), indent=1, ensure_ascii=False, default=str)
    yield from ("```", "", "</details>", "")


def _hours(entry: Mapping[str, Any]) -> str:
    return f"{entry['audio_hours']:.1f} hours of audio, repetitions counted" if "audio_hours" in entry else ""


def _names(named: Any) -> str:
    if isinstance(named, list):
        return ", ".join(map(_names, named))
    if isinstance(named, dict):
        return _names(named.get("path", json.dumps(named, ensure_ascii=False)))
    return f"`{named}`"


def _error_rates(evaluation: Sequence[Measured]) -> Iterator[str]:
    if not evaluation:
        yield "None were given when this card was made."
        return
    yield from ("| data | utterances | WER | CER | how |", "|---|---|---|---|---|")
    for one in evaluation:
        rates = ["-" if rate is None else f"{100 * rate:.2f} %" for rate in (one.wer, one.cer)]
        count = "-" if one.utterances is None else str(one.utterances)
        cells = [one.data, count, *rates, one.note or "-"]
        yield f"| {' | '.join(' '.join(cell.split()).replace('|', '&#124;') for cell in cells)} |"
