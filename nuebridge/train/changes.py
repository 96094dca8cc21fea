"""What of a configuration may change between two sittings of a run, and what would make it another run."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nuebridge.config import validate
from nuebridge.data import Utterance
from nuebridge.errors import ConfigError, TrainingError
from nuebridge.train.config import TrainConfig
from nuebridge.train.progress import Progress

log = logging.getLogger(__name__)

FIXED = (
    "model",
    "seed",
    "data.*",
    "parts.*.train",
    "parts.*.lora",
    "parts.*.lora.*",
    "parts.*.from_step",
)
"""Keys that decide what is trained, on what and in which order, as patterns."""

FREE_DATA = ("data.validation", "data.validation.*", "data.device_batch_seconds", "data.workers", "data.max_unreadable")
"""Those of the data that decide neither."""


def check_changes(before: Mapping[str, Any] | None, config: TrainConfig, progress: Progress, where: Path) -> None:
    """Names the keys that a run goes on with in another setting than its checkpoint was written with.

    ``before`` is the configuration that the checkpoint ``where`` holds. Raises TrainingError where
    the run would be another: a changed seed, data, model, trained parts, or fewer steps than are done.
    """
    stages = list(config.unrolled())
    if before is not None:
        earlier = _earlier(before, where)
        if earlier is not None:
            _check_stages(earlier, config, progress, where)
            _check_keys(earlier, config, progress, where)
    if progress.stage >= len(stages):
        raise TrainingError(f"{where} stands in stage {progress.stage + 1}, but there are {len(stages)}; {_ADVICE}")
    steps = stages[progress.stage].schedule.steps
    if progress.step > steps:
        raise TrainingError(
            f"{where} stands at step {progress.step}, but there are to be {steps}; set schedule.steps to as many or "
            f"more, or use {where / 'integration'} as it is"
        )


_ADVICE = "set it back, or begin a new run (another output) with the checkpoint's integration as its model"


def _earlier(before: Mapping[str, Any], where: Path) -> TrainConfig | None:
    try:
        return validate(dict(before), TrainConfig, str(where))
    except ConfigError:
        log.warning("%s was written under a configuration of another release; what changed is not known", where)
        return None


def _check_stages(before: TrainConfig, config: TrainConfig, progress: Progress, where: Path) -> None:
    begun = slice(0, progress.stage + 1)
    names = [[stage.name for stage in c.unrolled()][begun] for c in (before, config)]
    if names[0] != names[1]:
        raise TrainingError(
            f"the run in {config.output} has gone through the stages {', '.join(names[0])}, but the configuration has "
            f"{', '.join(names[1])}; {_ADVICE} ({where / 'integration'})"
        )


def _check_keys(before: TrainConfig, config: TrainConfig, progress: Progress, where: Path) -> None:
    was, now = (_flat(_comparable(c)) for c in (before, config))
    changed = sorted(key for key in {**was, **now} if was.get(key) != now.get(key))
    # What holds in the stage that goes on; later ones may change altogether.
    in_stage = [_flat(_comparable(list(c.unrolled())[progress.stage].config)) for c in (before, config)]
    fixed = [
        key
        for key in sorted({**in_stage[0], **in_stage[1]})
        if in_stage[0].get(key) != in_stage[1].get(key) and _matches(key, FIXED) and not _matches(key, FREE_DATA)
    ]
    if fixed:
        said = "; ".join(f"{key} was {_shown(in_stage[0], key)} and is {_shown(in_stage[1], key)}" for key in fixed)
        raise TrainingError(
            f"the run in {config.output} cannot go on with another configuration: {said}; {_ADVICE} "
            f"({where / 'integration'})"
        )
    if changed:
        said = ", ".join(f"{key} (was {_shown(was, key)}, is {_shown(now, key)})" for key in changed)
        log.info("going on with a changed configuration: %s", said)


def _comparable(config: TrainConfig) -> dict[str, Any]:
    """As JSON; of what is read from files the names count, not the folders they lie in."""
    data = config.model_dump(mode="json")
    data["model"] = Path(data["model"]).name
    for source in data["data"]["train"]:
        source["path"] = Path(source["path"]).name
    return data


def _flat(data: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Keys joined by dots, lists of mappings by their places."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, dict):
            flat.update(_flat(value, f"{before}{key}."))
        else:
            flat[before + key] = value
    return flat


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "not there"


def fingerprint(utterances: Sequence[Utterance]) -> str:
    """Names utterances and their order: how many there are and a hash of their ids, durations and texts."""
    digest = hashlib.sha256()
    for utterance in utterances:
        digest.update(repr((utterance.id, utterance.duration, utterance.text)).encode())
    return f"{len(utterances)} utterances, {digest.hexdigest()[:16]}"


def check_data(progress: Progress, found: str, config: TrainConfig) -> None:
    """Takes note of a stage's utterances, as :func:`fingerprint` names them.

    Raises TrainingError where a stage goes on with others: its place in the data would mean nothing.
    """
    if progress.data and progress.data != found:
        raise TrainingError(
            f"the run in {config.output} was trained on other data than {', '.join(s.path for s in config.data.train)} "
            f"now holds ({progress.data}; now {found}); put them back, or begin a new run (another output) with the "
            "newest checkpoint's integration as its model"
        )
    progress.data = found
