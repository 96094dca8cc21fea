"""Loading an integration: by its name in the registry, from a folder, or from the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel

from nuebridge.checkpoint.hub import fetch
from nuebridge.checkpoint.schema import (
    CONFIG_FILE,
    DTYPES,
    MODEL_TYPE,
    Saved,
    SavedAdapterEntry,
    SavedPart,
    faults_of,
    migrate,
    parse_dtype,
)
from nuebridge.compose import Workshop, compose_entry, made_by, read_sourced
from nuebridge.config import validate
from nuebridge.contracts import Part
from nuebridge.ctc import CtcHead
from nuebridge.errors import CheckpointError, ConfigError, RegistryError
from nuebridge.hookspecs import BridgeComponent, Component, SpeechEncoderComponent, TextDecoderComponent
from nuebridge.lora import read_adapter, to_dtype
from nuebridge.lora.storage import attach_adapter
from nuebridge.model import Integration
from nuebridge.plugins import ComponentRef, PluginManager
from nuebridge.prompt import settled
from nuebridge.registry import BridgeEntry, CtcHeadEntry, DecoderEntry, EncoderEntry, IntegrationEntry, Registry
from nuebridge.registry.entries import FROM_ENCODER, PARTS
from nuebridge.settings import CtcVocabulary
from nuebridge.tensors import check_headers, read_json, weight_hash

C = TypeVar("C", bound=Component)


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    manager: PluginManager | None = None,
    registry: Registry | None = None,
) -> Integration:
    """Loads an integration: a name in the registry, a folder, or a hub id; a Path is always a folder.

    A folder may hold nuebridge's own format or any format that a plugin recognises. Weights are
    float32 in memory unless ``dtype`` says otherwise; the model is in eval mode. A registry entry
    without weights is composed, its bridge untrained. ``revision`` is one of a hub repository. Raises
    RegistryError, CheckpointError, PluginError, and ConfigError for a device that is not there and for a
    revision of what is no hub repository.
    """
    precision = parse_dtype(dtype) or torch.float32
    check_device(device)
    integration = _open(source, revision, Workshop.open(manager, registry))
    to_dtype(integration, precision)
    return integration.to(device=device).eval()


def outline(source: str | Path, workshop: Workshop) -> Integration:
    """The integration that :func:`load` would give, without the values of its weights, in seconds and little memory.

    A part whose component makes no outlines is loaded all the same: whatever is not on torch's meta device has its
    weights. Adapters are left off. Raises what ``load`` raises, but for weights that are damaged.
    """
    return _open(source, None, replace(workshop, outlines=True))


def check_device(device: str | torch.device) -> None:
    """Raises ConfigError for a device that torch does not know or this machine does not have."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot compute on {str(device)!r} ({reason}); use 'cpu'") from None


def _open(source: str | Path, revision: str | None, workshop: Workshop) -> Integration:
    name = str(source)
    if isinstance(source, str) and name in workshop.registry.names("integrations"):
        return _open_entry(workshop.registry.integration(name), revision, workshop)
    if Path(name).is_dir():
        _refuse_revision(revision, f"{name} is a folder")
        return load_folder(Path(name), workshop)
    if isinstance(source, str) and source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return load_folder(fetch(source, revision), workshop)
    if isinstance(source, Path) or "/" in source or source.startswith((".", "~")):
        raise CheckpointError(f"{source} is not a folder; give the folder of a checkpoint, a registry name or a hub id")
    raise RegistryError(workshop.registry.unknown("integrations", source))


def _open_entry(entry: IntegrationEntry, revision: str | None, workshop: Workshop) -> Integration:
    if entry.weights is None:
        _refuse_revision(revision, "this integration is composed of parts, each with a revision of its own")
        return compose_entry(entry, workshop)
    source = Path(entry.weights.source)
    if source.is_dir():
        _refuse_revision(revision, f"its weights are in the folder {source}")
    folder = source if source.is_dir() else fetch(entry.weights.source, revision or entry.weights.revision)
    integration = load_folder(folder, workshop)
    _check_parts(entry, integration, workshop)
    # What the registry says of an integration goes before what its checkpoint says.
    said = entry.model_fields_set
    if "prompt" in said and entry.prompt is not None:
        integration.prompt = settled(entry.prompt, integration.decoder)
    limits: dict[str, Any] = {
        name: getattr(entry, name) for name in ("max_new_tokens", "min_new_tokens") if name in said
    }
    integration.generation = integration.generation.model_copy(update=limits)
    if entry.max_audio_seconds is not None:
        integration.max_audio_seconds = entry.max_audio_seconds
    if entry.language is not None:
        integration.language = entry.language
    return integration


def _refuse_revision(revision: str | None, because: str) -> None:
    if revision is not None:
        raise ConfigError(f"revision {revision!r} is given, but {because}; leave it out")


def _check_parts(entry: IntegrationEntry, integration: Integration, workshop: Workshop) -> None:
    """Raises RegistryError where an entry names other parts than its weights were trained with."""
    assert entry.weights is not None
    for part, section in PARTS.items():
        name, info = getattr(entry, part), integration.part_info.get(part)
        if name is None:
            continue
        own = part == "ctc_head" and name == FROM_ENCODER
        named = None if own else workshop.registry.resolve(section, name, workshop.manager)
        if info is None:
            differs = "none"
        elif named is None:
            differs = ""
        elif isinstance(named, CtcHeadEntry):
            head = integration.ctc_head
            differs = "" if head is not None and named.vocabulary == head.vocabulary else "other symbols"
        elif isinstance(named, EncoderEntry | DecoderEntry):
            differs = info.component if named.component != info.component else ""
            if info.source not in (None, named.source):
                differs = str(info.source)
        else:
            assert isinstance(named, BridgeEntry)
            options = workshop.manager.find(BridgeComponent, named.component).parse_options(named.options)
            same = named.component == info.component and options == integration.bridge.options
            differs = "" if same else f"{info.component}: {integration.bridge.options}"
        if differs:
            raise RegistryError(
                f"the registry gives this integration the {part} {name!r}, but the weights in {entry.weights.source} "
                f"were trained with another one ({differs}); leave the {part} out of the entry, or leave out the "
                "weights to compose it anew"
            )


def load_folder(folder: Path, workshop: Workshop) -> Integration:
    """Loads the folder of a checkpoint, of nuebridge's own format or one that a plugin recognises."""
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / CONFIG_FILE} holds no JSON object; is this the folder of a checkpoint?")
    if config.get("model_type") == MODEL_TYPE:
        return _load_own(folder, migrate(config, folder), workshop)
    ref = workshop.manager.recognizing(config)
    if ref is None:
        raise CheckpointError(
            f"{folder} holds a checkpoint of model_type {config.get('model_type')!r}, which is neither nuebridge's "
            "own format nor one that an installed plugin recognises; `nuebridge plugins` lists them. "
            "To use it as an encoder or decoder, name it in `nuebridge compose`"
        )
    integration = ref.load()(folder, workshop.manager)
    assert isinstance(integration, Integration)
    return integration


def _load_own(folder: Path, config: Mapping[str, Any], workshop: Workshop) -> Integration:
    with faults_of(folder / CONFIG_FILE):
        saved = validate(config, Saved, CONFIG_FILE)
    parts = saved.parts
    encoder = _load_sourced(folder, "encoder", SpeechEncoderComponent, parts.encoder, workshop)
    decoder = _load_sourced(folder, "decoder", TextDecoderComponent, parts.decoder, workshop)
    sizes = encoder.hidden_size, decoder.hidden_size
    ref, options = _component(folder, BridgeComponent, parts.bridge, workshop)
    head = vocabulary = None
    if parts.ctc_head is not None:
        with faults_of(folder / CONFIG_FILE):
            vocabulary = validate(parts.ctc_head.options, CtcVocabulary, "options of the CTC head")
    if workshop.outlines:
        with made_by(workshop):
            bridge = ref.load().build(*sizes, options)
            head = None if vocabulary is None else CtcHead(encoder.hidden_size, vocabulary)
    else:
        bridge = ref.load().load(folder / "bridge", *sizes, options)
        head = None if vocabulary is None else CtcHead.load(folder / "ctc_head", encoder.hidden_size, vocabulary)
    present = {name: part for name, part in parts if part is not None}
    integration = Integration(
        encoder,
        bridge,
        decoder,
        ctc_head=head,
        prompt=saved.prompt,
        generation=saved.generation,
        max_audio_seconds=saved.max_audio_seconds,
        language=saved.language,
        part_info={name: part.info for name, part in present.items()},
        training=saved.training,
    )
    integration.storage_dtype = DTYPES[saved.dtype]
    if workshop.outlines:
        for name, part_saved in present.items():
            if part_saved.weights == "here":
                check_headers(folder / name)
        return integration
    for name, part in integration.parts.items():
        _check_hash(folder, name, part, present[name])
    for entry in saved.adapters:
        _attach(integration, folder / "adapters" / entry.name, entry, present)
    return integration


def _attach(integration: Integration, folder: Path, entry: SavedAdapterEntry, present: Mapping[str, SavedPart]) -> None:
    saved = read_adapter(folder)
    told = {name: part.hash for name, part in saved.base.parts.items()}
    if told != {name: part.hash for name, part in present.items()} or list(saved.parts) != entry.parts:
        raise CheckpointError(f"{folder} holds an adapter of another checkpoint; copy the whole checkpoint again")
    attach_adapter(integration, folder, saved, entry.name, entry.weight)


def _component(folder: Path, kind: type[C], saved: SavedPart, workshop: Workshop) -> tuple[ComponentRef[C], BaseModel]:
    """The component that reads a saved part, and the part's options."""
    ref = workshop.manager.find(kind, saved.info.component, distribution=saved.info.distribution)
    with faults_of(folder / CONFIG_FILE):
        return ref, ref.parse_options(saved.options)


def _load_sourced(folder: Path, name: str, kind: type[Component], saved: SavedPart, workshop: Workshop) -> Any:
    ref, options = _component(folder, kind, saved, workshop)
    if saved.weights == "here":
        if not (folder / name).is_dir():  # a relative path that is not there could pass for a hub id
            raise CheckpointError(f"{folder / name} is missing; the checkpoint is incomplete: copy it again")
        return read_sourced(workshop, ref, str(folder / name), options)
    source = saved.info.source
    assert source is not None  # SavedPart sees to it
    try:
        part = read_sourced(workshop, ref, source, options, revision=saved.info.revision)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder} was saved without its {name}, which cannot be had from {source}: {error}"
        ) from error
    if workshop.outlines:
        return part
    found = weight_hash({"part": part})
    if found != saved.hash:
        raise CheckpointError(
            f"{folder} was saved without its {name}, whose weights came from {source} (hash {saved.hash[:12]}), but "
            f"that source now gives hash {found[:12]}; fetch the version it was trained on"
        )
    return part


def _check_hash(folder: Path, name: str, part: Part, saved: SavedPart) -> None:
    if saved.weights == "here" and weight_hash({"part": part}) != saved.hash:
        raise CheckpointError(
            f"the weights in {folder / name} are not those that {CONFIG_FILE} describes (hash {saved.hash[:12]}); "
            "the copy is damaged or was edited: copy it again"
        )
