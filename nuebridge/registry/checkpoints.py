"""Which component reads a checkpoint that is named by its folder or hub id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nuebridge.errors import RegistryError
from nuebridge.hookspecs import SpeechEncoderComponent, TextDecoderComponent
from nuebridge.plugins import PluginManager
from nuebridge.registry.entries import COMPONENT_ID, HUB_ID, DecoderEntry, EncoderEntry, SourcedEntry, is_local


def entry_for(model: type[SourcedEntry], text: str, manager: PluginManager) -> SourcedEntry | None:
    """The entry of a part given as ``COMPONENT-ID:SOURCE``, folder or hub id; None where it is none of them.

    Raises RegistryError where a folder or a hub repository has no usable config.json, PluginError
    where no plugin or more than one claims it.
    """
    component, colon, source = text.partition(":")
    if colon and COMPONENT_ID.fullmatch(component):
        # A path typed on a command line is relative to where it was typed, without a "./".
        local = is_local(source) or Path(source).is_dir()
        return _made(model, component, str(Path(source).expanduser().resolve()) if local else source)
    folder = Path(text).expanduser()
    if folder.is_dir():
        config = _read_config(folder / "config.json", text)
        return _made(model, _claiming(model, manager, config, text), str(folder.resolve()))
    if is_local(text):
        raise RegistryError(f"{text}: no such folder; give the folder of a checkpoint")
    if "/" in text and HUB_ID.fullmatch(text):
        return _made(model, _claiming(model, manager, _hub_config(text), text), text)
    return None


def _made(model: type[SourcedEntry], component: str, source: str) -> SourcedEntry:
    try:
        return model(component=component, source=source)
    except ValidationError as error:
        raise RegistryError(str(error.errors()[0]["ctx"]["error"])) from None


def _claiming(model: type[SourcedEntry], manager: PluginManager, config: Mapping[str, Any], text: str) -> str:
    """The id of the component that claims a checkpoint."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise RegistryError(f"the config.json of {text} has no model_type; write COMPONENT:{text}")
    if issubclass(model, EncoderEntry):
        return manager.claiming(SpeechEncoderComponent, model_type).id
    assert issubclass(model, DecoderEntry)
    return manager.claiming(TextDecoderComponent, model_type).id


def _hub_config(hub_id: str) -> Mapping[str, Any]:
    """The config.json of a hub repository, from the local cache or the hub."""
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(hub_id, "config.json")
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors or ValueErrors
        reason = " ".join(str(error).split("\n")[0].split())
        raise RegistryError(
            f"{hub_id} is neither a registry name nor a folder, and the hub gives no config.json for it: {reason}; "
            f"check the name and the connection, or write COMPONENT:{hub_id}"
        ) from error
    return _read_config(Path(path), hub_id)


def _read_config(path: Path, text: str) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegistryError(f"{text} has no config.json; write COMPONENT:{text}, or give another folder") from None
    except (OSError, ValueError) as error:
        raise RegistryError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise RegistryError(f"{path} should hold a JSON object")
    return config
