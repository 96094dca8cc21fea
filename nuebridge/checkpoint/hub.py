"""Integrations on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from nuebridge.checkpoint.saving import save
from nuebridge.errors import CheckpointError
from nuebridge.model import Integration
from nuebridge.registry.entries import is_local


def fetch(hub_id: str, revision: str | None) -> Path:
    """The folder of a hub repository in the local cache, downloaded where it is missing.

    Raises CheckpointError where neither the cache nor the hub has it.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision))
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{hub_id} is neither a folder here nor reachable as a hub repository ({reason}); "
            "check the name and the connection, or download it first and give its folder"
        ) from error


def push_to_hub(
    integration: Integration,
    repo_id: str,
    *,
    private: bool = False,
    weights: Literal["all", "trained"] = "all",
    card: str | None = None,
) -> str:
    """Saves an integration and uploads it to a hub repository, made where it does not exist.

    Parts that came from a folder of this machine are uploaded whole, and the names of folders are left out, those of
    training data included: nobody else has them. ``card`` becomes its README.md. Uses the token that ``hf auth login``
    stored. Returns the commit's address. Raises CheckpointError.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder, _without_folders(integration):
        save(integration, Path(folder) / "model", weights=weights)
        if card is not None:
            (Path(folder) / "model" / "README.md").write_text(card, encoding="utf-8")
        try:
            api = HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo_id, folder_path=Path(folder) / "model")
        except (OSError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"cannot upload to {repo_id} ({reason}); check the name, the connection and `hf auth whoami`"
            ) from error
    return str(commit.commit_url)


@contextmanager
def _without_folders(integration: Integration) -> Iterator[None]:
    """Within the block, parts that came from a folder have no source, and no training history names folders."""
    before, history = dict(integration.part_info), integration.training_history
    adapters = {name: adapter.training for name, adapter in integration.adapters.items()}
    for name, info in before.items():
        if info.source is not None and (is_local(info.source) or Path(info.source).exists()):
            integration.part_info[name] = replace(info, source=None, revision=None, source_hash=None)
    integration.training_history = without_folders(history)
    for name, training in adapters.items():
        integration.adapters[name].training = without_folders(training)
    try:
        yield
    finally:
        integration.part_info.update(before)
        integration.training_history = history
        for name, training in adapters.items():
            integration.adapters[name].training = training


def without_folders(value: Any) -> Any:
    """JSON-ready data in which every absolute path is its last name alone."""
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~/")):
        return Path(value).name
    return value
