"""An integration on disk: one folder that describes itself.

    config.json      schema version, parts with component, distribution and version, prompt, ...
    encoder/         the part in the format of its own library, weights as safetensors
    ctc_head/  bridge/  decoder/

A part that training never touched may be left out (``weights="trained"``); config.json then names
its source and the hash of the weights it had. Nothing here unpickles or runs code from a checkpoint.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, model_validator
from safetensors import SafetensorError

from nuebridge.compose import Workshop, compose_entry
from nuebridge.config import validate
from nuebridge.contracts import Part, SourcedPart, describe_part
from nuebridge.ctc import CtcHead
from nuebridge.errors import CheckpointError, ConfigError, RegistryError
from nuebridge.hookspecs import BridgeComponent, Component, SpeechEncoderComponent, TextDecoderComponent
from nuebridge.model import Integration, PartInfo
from nuebridge.plugins import ComponentRef, PluginManager
from nuebridge.registry import IntegrationEntry, Registry
from nuebridge.settings import CtcVocabulary, GenerationSettings, PromptTemplate, Settings
from nuebridge.tensors import flush, flush_folder, read_json, weight_hash, write_json

MODEL_TYPE = "nuebridge"
SCHEMA_VERSION = 1
CONFIG_FILE = "config.json"
C = TypeVar("C", bound=Component)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
    without weights is composed, its bridge untrained. Raises RegistryError, CheckpointError, PluginError, and
    ConfigError for a device that is not there.
    """
    precision = _dtype(dtype) or torch.float32
    check_device(device)
    integration = _open(source, revision, Workshop.open(manager, registry))
    return integration.to(device=device, dtype=precision).eval()


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
        return load_folder(Path(name), workshop)
    if isinstance(source, str) and source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return load_folder(fetch(source, revision), workshop)
    if isinstance(source, Path) or "/" in source or source.startswith((".", "~")):
        raise CheckpointError(f"{source} is not a folder; give the folder of a checkpoint, a registry name or a hub id")
    raise RegistryError(workshop.registry.unknown("integrations", source))


def _open_entry(entry: IntegrationEntry, revision: str | None, workshop: Workshop) -> Integration:
    if entry.weights is None:
        return compose_entry(entry, workshop)
    source = Path(entry.weights.source)
    folder = source if source.is_dir() else fetch(entry.weights.source, revision or entry.weights.revision)
    integration = load_folder(folder, workshop)
    # What the registry says of an integration goes before what its checkpoint says.
    said = entry.model_fields_set
    if "prompt" in said and entry.prompt is not None:
        integration.prompt = entry.prompt
    limits: dict[str, Any] = {
        name: getattr(entry, name) for name in ("max_new_tokens", "min_new_tokens") if name in said
    }
    integration.generation = integration.generation.model_copy(update=limits)
    if entry.max_audio_seconds is not None:
        integration.max_audio_seconds = entry.max_audio_seconds
    if entry.language is not None:
        integration.language = entry.language
    return integration


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


def migrate(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration in today's schema. Raises CheckpointError for a newer or unknown one."""
    found = config.get("schema_version")
    if found != SCHEMA_VERSION:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} has schema_version {found!r}; this nuebridge reads {SCHEMA_VERSION}: "
            "install the release that wrote it, or a newer one"
        )
    return dict(config)


class _SavedPart(Settings):
    """What config.json says of a part."""

    info: PartInfo
    options: dict[str, Any]
    weights: Literal["here", "source"]
    hash: str

    @model_validator(mode="after")
    def _named(self) -> _SavedPart:
        if self.weights == "source" and (self.info.source is None or self.info.source_hash is None):
            raise ValueError("the weights are left out, but their source is not named")
        return self


class _SavedParts(Settings):
    encoder: _SavedPart
    ctc_head: _SavedPart | None = None
    bridge: _SavedPart
    decoder: _SavedPart


class _Saved(Settings):
    """config.json in today's schema."""

    model_type: Literal["nuebridge"]
    schema_version: int
    nuebridge_version: str
    dtype: Literal["float32", "bfloat16", "float16"]
    parts: _SavedParts
    prompt: PromptTemplate
    generation: GenerationSettings
    max_audio_seconds: float | None
    language: str | None
    training: list[dict[str, Any]]


def _load_own(folder: Path, config: Mapping[str, Any], workshop: Workshop) -> Integration:
    with _faults_of(folder / CONFIG_FILE):
        saved = validate(config, _Saved, CONFIG_FILE)
    parts = saved.parts
    encoder = _load_sourced(folder, "encoder", SpeechEncoderComponent, parts.encoder, workshop)
    decoder = _load_sourced(folder, "decoder", TextDecoderComponent, parts.decoder, workshop)
    sizes = encoder.hidden_size, decoder.hidden_size
    ref, options = _component(folder, BridgeComponent, parts.bridge, workshop)
    bridge = ref.load().load(folder / "bridge", *sizes, options)
    head = None
    if parts.ctc_head is not None:
        with _faults_of(folder / CONFIG_FILE):
            vocabulary = validate(parts.ctc_head.options, CtcVocabulary, "options of the CTC head")
        head = CtcHead.load(folder / "ctc_head", encoder.hidden_size, vocabulary)
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
    for name, part in integration.parts.items():
        _check_hash(folder, name, part, present[name])
    integration.storage_dtype = DTYPES[saved.dtype]
    return integration


@contextmanager
def _faults_of(file: Path) -> Iterator[None]:
    """Makes one line of what a configuration file misstates."""
    try:
        yield
    except ConfigError as error:
        faults = "; ".join(line.strip() for line in str(error).splitlines())
        raise CheckpointError(
            f"{file} does not say what it should ({faults}): it is damaged, was edited, or comes from another "
            "release of the plugin; copy it again or install that release"
        ) from error


def _component(folder: Path, kind: type[C], saved: _SavedPart, workshop: Workshop) -> tuple[ComponentRef[C], BaseModel]:
    """The component that reads a saved part, and the part's options."""
    ref = workshop.manager.find(kind, saved.info.component, distribution=saved.info.distribution)
    with _faults_of(folder / CONFIG_FILE):
        return ref, ref.parse_options(saved.options)


def _load_sourced(folder: Path, name: str, kind: type[Component], saved: _SavedPart, workshop: Workshop) -> Any:
    ref, options = _component(folder, kind, saved, workshop)
    if saved.weights == "here":
        if not (folder / name).is_dir():  # a relative path that is not there could pass for a hub id
            raise CheckpointError(f"{folder / name} is missing; the checkpoint is incomplete: copy it again")
        return ref.load().load(str(folder / name), options)
    source = saved.info.source
    try:
        part = ref.load().load(source, options, revision=saved.info.revision)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder} was saved without its {name}, which cannot be had from {source}: {error}"
        ) from error
    found = weight_hash({"part": part})
    if found != saved.hash:
        raise CheckpointError(
            f"{folder} was saved without its {name}, whose weights came from {source} (hash {saved.hash[:12]}), but "
            f"that source now gives hash {found[:12]}; fetch the version it was trained on"
        )
    return part


def _check_hash(folder: Path, name: str, part: Part, saved: _SavedPart) -> None:
    if saved.weights == "here" and weight_hash({"part": part}) != saved.hash:
        raise CheckpointError(
            f"the weights in {folder / name} are not those that {CONFIG_FILE} describes (hash {saved.hash[:12]}); "
            "the copy is damaged or was edited: copy it again"
        )


def save(
    integration: Integration,
    folder: str | Path,
    *,
    weights: Literal["all", "trained"] = "all",
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Saves an integration so that ``folder`` appears complete or not at all.

    ``weights="trained"`` leaves out an encoder or decoder whose weights are still its source's;
    ``dtype`` stores all weights in another precision; without it they are stored as they were
    loaded, where that loses nothing, else as they are in memory. Raises CheckpointError where the
    folder exists and is not empty; ``overwrite`` replaces one that holds an integration.
    """
    folder = Path(folder)
    if weights not in ("all", "trained"):
        raise CheckpointError(f"unknown choice of weights {weights!r}; allowed: all, trained")
    stored = _storage_dtype(integration, dtype)
    check_target(folder, overwrite)
    left_out = _untouched(integration) if weights == "trained" else frozenset()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder.parent}: {error.strerror}") from error
    try:
        with _stored_as(integration, stored):
            _write(integration, aside, stored, left_out)
        _publish(aside, folder)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"cannot save to {folder}: {reason}; what was there before is untouched") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_target(folder: Path, overwrite: bool = False) -> None:
    """Raises CheckpointError where what is in ``folder`` keeps an integration from being saved there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; choose another name for the folder")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{folder} exists and is not empty; choose another folder (in Python: overwrite=True)")
    # A folder of anything else is never deleted, whatever was asked.
    file = folder / CONFIG_FILE
    config = read_json(file) if file.is_file() else None
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
        raise CheckpointError(f"{folder} holds something else than an integration; choose another folder")


def _untouched(integration: Integration) -> frozenset[str]:
    """Names of the parts that can be had from their source again, weight for weight."""
    info = integration.part_info
    return frozenset(
        name
        for name, part in integration.parts.items()
        if isinstance(part, SourcedPart) and name in info and info[name].source is not None
        if weight_hash({"part": part}) == info[name].source_hash
    )


def push_to_hub(
    integration: Integration, repo_id: str, *, private: bool = False, weights: Literal["all", "trained"] = "all"
) -> str:
    """Saves an integration and uploads it to a hub repository, made where it does not exist.

    Uses the token that ``hf auth login`` stored. Returns the commit's address. Raises CheckpointError.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        save(integration, Path(folder) / "model", weights=weights)
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


def _write(integration: Integration, folder: Path, stored: torch.dtype, left_out: Collection[str]) -> None:
    parts = {}
    for name, part in integration.parts.items():
        info = integration.part_info.get(name)
        if info is None:
            raise CheckpointError(f"the integration does not say where its {name} comes from; pass part_info")
        if name in left_out:
            where, digest = "source", info.source_hash
        else:
            where, digest = "here", weight_hash({"part": part})
            (folder / name).mkdir()
            part.save(folder / name)
        parts[name] = {"info": asdict(info), "options": describe_part(part), "weights": where, "hash": digest}
    write_json(
        folder / CONFIG_FILE,
        {
            "model_type": MODEL_TYPE,
            "schema_version": SCHEMA_VERSION,
            "nuebridge_version": version("nuebridge"),
            "dtype": str(stored).removeprefix("torch."),
            "parts": parts,
            "prompt": integration.prompt.model_dump(mode="json"),
            "generation": integration.generation.model_dump(mode="json"),
            "max_audio_seconds": integration.max_audio_seconds,
            "language": integration.language,
            "training": integration.training_history,
        },
    )


def _publish(aside: Path, folder: Path) -> None:
    """Renames ``aside`` to ``folder`` once it is on the disk; what was there is removed only after that."""
    # Temporary folders, and safetensors' files in them, are for their owner alone.
    aside.chmod(0o755)
    for path in aside.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    flush_folder(aside)
    if not folder.exists():
        aside.rename(folder)
    else:
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent)) / "folder"
        folder.rename(old)
        try:
            aside.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        finally:
            if folder.exists():
                shutil.rmtree(old.parent, ignore_errors=True)
    flush(folder.parent)


@contextmanager
def _stored_as(integration: Integration, dtype: torch.dtype) -> Iterator[None]:
    """Within the block what a checkpoint holds stands in another precision; afterwards as it was."""
    kept = [(tensor, tensor.data) for tensor in _stored_tensors(integration)]
    try:
        for tensor, data in kept:
            tensor.data = data.to(dtype)
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


def _stored_tensors(integration: Integration) -> list[torch.Tensor]:
    """The floating-point parameters and buffers that a checkpoint holds, each once."""
    state = integration.state_dict(keep_vars=True)
    return list({id(tensor): tensor for tensor in state.values() if tensor.is_floating_point()}.values())


def _storage_dtype(integration: Integration, asked: str | torch.dtype | None) -> torch.dtype:
    """Raises CheckpointError for a precision that checkpoints do not have."""
    chosen = _dtype(asked)
    if chosen is None:
        tensors = _stored_tensors(integration)
        kept = integration.storage_dtype
        if kept is not None and all(torch.equal(t.data.to(kept).to(t.dtype), t.data) for t in tensors):
            return kept
        found = {tensor.dtype for tensor in tensors}
        chosen = found.pop() if len(found) == 1 else torch.float32
    if chosen not in DTYPES.values():
        raise CheckpointError(f"weights are not stored as {chosen}; pass dtype, one of: {', '.join(DTYPES)}")
    return chosen


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise CheckpointError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    return DTYPES[dtype]
