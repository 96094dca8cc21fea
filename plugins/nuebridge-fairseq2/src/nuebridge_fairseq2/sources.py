"""From what a user names to a model's configuration and its checkpoint: asset names, folders of cards, plain files.

Cards, their inheritance and their overrides are fairseq2's own; a plain checkpoint is given a card made of its options.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from fairseq2.assets import (
    AssetCard,
    AssetCardError,
    AssetMetadataProvider,
    AssetMetadataSource,
    AssetStore,
    FileAssetMetadataLoader,
    StandardAssetStore,
    get_asset_download_manager,
)
from fairseq2.assets.metadata_provider import CachedAssetMetadataProvider
from fairseq2.models import ModelHub
from fairseq2.models.w2vbert import get_w2vbert_model_hub
from fairseq2.models.wav2vec2 import get_wav2vec2_model_hub
from fairseq2.models.wav2vec2.asr import get_wav2vec2_asr_model_hub
from fairseq2.runtime.dependency import get_dependency_resolver

from nuebridge.errors import CheckpointError
from nuebridge_fairseq2.omnilingual import ARCHITECTURES
from nuebridge_fairseq2.options import EncoderOptions

CARDS = Path(__file__).parent / "cards"
_HUBS: Mapping[str, Callable[[], ModelHub[Any, Any]]] = {
    "wav2vec2": get_wav2vec2_model_hub,
    "wav2vec2_asr": get_wav2vec2_asr_model_hub,
    "w2vbert": get_w2vbert_model_hub,
}
_YAML = (".yaml", ".yml")
_WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class Found:
    """A model that a source names; nothing of its weights is read or downloaded yet."""

    name: str
    """The source, for messages."""
    family: str
    config: Any
    """fairseq2's configuration of the family: ``Wav2Vec2Config``, ``Wav2Vec2AsrConfig`` or ``W2VBertConfig``."""
    card: AssetCard
    store: AssetStore

    def checkpoint(self, *, allow_pickle: bool) -> Path:
        """The file or folder of the weights, downloaded where it is elsewhere. Raises CheckpointError."""
        with told(f"the checkpoint of {self.name!r} cannot be had"):
            uri = self.card.field("checkpoint").as_uri()
            if uri.scheme != "file":
                check_pickle(uri.path, self.name, allow_pickle)
                path = get_asset_download_manager().download_model(uri)
            else:
                path = uri.to_path()
            within = self.card.maybe_get_field("checkpoint_path")
            path = path if within is None else path / within.as_(str)
        if not path.exists():
            raise CheckpointError(f"the card of {self.name!r} names the checkpoint {path}, which is not there")
        check_pickle(path, self.name, allow_pickle)
        return path


def check_pickle(path: Path | str, name: str, allow_pickle: bool) -> None:
    """Raises CheckpointError where weights are pickles and those are not allowed."""
    path = Path(path)
    safe = path.suffix == ".safetensors" or (path.is_dir() and any(path.glob("*.safetensors")))
    # What an address ends in need not say what is behind it; the file itself is looked at once more.
    unknown = not path.exists() and path.suffix not in _WEIGHTS
    if not (safe or unknown or allow_pickle):
        raise CheckpointError(
            f"{name!r} keeps its weights in a pickle ({path.name}); set the option allow_pickle: true if you trust it "
            "(tensors alone are read from it even then), or convert it to safetensors"
        )


def find(source: str, options: EncoderOptions, family: str | None, families: Collection[str]) -> Found:
    """The model that a source names; ``family`` is that of a plain checkpoint.

    Raises CheckpointError, also for a model of a family that is not among ``families``.
    """
    path = Path(source).expanduser()
    if options.arch is not None:
        if not path.exists():
            raise CheckpointError(f"there is no checkpoint {source!r}; check the path")
        metadata: dict[str, object] = {"model_family": family, "model_arch": options.arch}
        metadata |= {"model_config": dict(options.config)} if options.config else {}
        with told(f"{source!r} cannot be described"):
            return _described(
                source, AssetCard(source, metadata | {"checkpoint": str(path.resolve())}), _store(), families
            )
    if path.is_dir() or path.suffix in _YAML:
        return _local(source, path, options.card, families)
    if path.exists():
        raise CheckpointError(_no_layout(source, families))
    if path.is_absolute() or source.startswith((".", "~")) or path.suffix in _WEIGHTS:
        raise CheckpointError(f"there is no checkpoint {source!r}; check the path")
    if options.card is not None:
        raise CheckpointError(f"the option card chooses among the cards of a folder, but {source!r} is no folder here")
    with told(f"the asset card {source!r} cannot be read"):
        store = _store()
        card = store.maybe_retrieve_card(source)
        if card is None:
            known = ", ".join(_names(store, families))
            raise CheckpointError(f"fairseq2 knows no asset {source!r}, and there is no such file; known: {known}")
        return _described(source, card, store, families)


def _local(source: str, path: Path, name: str | None, families: Collection[str]) -> Found:
    """A model of a folder of asset cards, or of one file of them."""
    if path.is_dir() and not any(file for suffix in _YAML for file in path.rglob(f"*{suffix}")):
        raise CheckpointError(_no_layout(source, families))
    if not path.exists():
        raise CheckpointError(f"there is no file {source!r}; check the path")
    with told(f"the asset cards of {source!r} cannot be read"):
        provider = service(FileAssetMetadataLoader).load(path.resolve())
        store = _store(provider)
        names = _names(store, families, provider.asset_names)
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            said = "it holds several" if name is None else f"it holds none called {name!r}"
            raise CheckpointError(
                f"{source!r}: {said}; set the option card to one of: {', '.join(names)}"
                if names
                else f"{source!r} holds no card of a model of the family {' or '.join(families)}"
            )
        return _described(source, store.retrieve_card(name), store, families)


def _no_layout(source: str, families: Collection[str]) -> str:
    words = "family and arch" if len(families) > 1 else "arch"
    return (
        f"{source!r} has neither an asset card nor a config.json of nuebridge, so its layout is not known: set the "
        f"options {words}, or write a card beside it"
    )


def _described(source: str, card: AssetCard, store: AssetStore, families: Collection[str]) -> Found:
    family = card.field("model_family").as_(str)
    if family not in families:
        raise CheckpointError(f"{source!r} is a model of the family {family!r}, not of {' or '.join(families)}")
    hub = _HUBS[family]()
    field = card.maybe_get_field("model_arch")
    arch = None if field is None else field.as_(str)
    if arch is not None and hub.maybe_get_arch_config(arch) is None:
        ours = ARCHITECTURES.get(family, {})
        if arch not in ours:
            known = ", ".join(sorted({*hub.get_archs(), *ours}))
            raise CheckpointError(f"{source!r} is of the unknown architecture {arch!r} of {family}; known: {known}")
        base, changes = ours[arch]
        card = _above(card, AssetCard(arch, {"model_arch": base, "model_config": changes}))
    return Found(source, family, hub.get_model_config(card), card, store)


def _above(card: AssetCard, base: AssetCard) -> AssetCard:
    """The card with ``base`` at the root of those it inherits from, and its own architecture's name left out."""
    fields = {key: value for key, value in card.metadata.items() if key != "model_arch"}
    return AssetCard(card.name, fields, base if card.base is None else _above(card.base, base))


def _names(store: AssetStore, families: Collection[str], among: Collection[str] | None = None) -> list[str]:
    """The assets of the families. Raises what fairseq2 raises for a faulty card that is one of ``among``."""
    names = {name.split("@")[0] for name in (store.asset_names if among is None else among)}
    found = []
    for name in sorted(names):
        try:
            card = store.retrieve_card(name)
        except AssetCardError:
            if among is not None:
                raise
            continue  # fairseq2 0.8.1 itself has cards whose base is not there
        family = card.maybe_get_field("model_family")
        if family is not None and family.value in families:
            found.append(name)
    return found


def _store(local: AssetMetadataProvider | None = None) -> AssetStore:
    """fairseq2's own asset store, with the cards of a folder and, where nobody else has them, this plugin's."""
    providers = [*_installed()] if local is None else [local, *_installed()]
    ours = service(FileAssetMetadataLoader).load(CARDS)
    taken = {name for provider in providers for name in provider.asset_names}
    added = {name: ours.maybe_get_metadata(name) or {} for name in ours.asset_names if name not in taken}
    return StandardAssetStore([*providers, CachedAssetMetadataProvider(ours.source, added)])


@cache
def _installed() -> tuple[AssetMetadataProvider, ...]:
    """The cards of fairseq2, its extensions and the user; read once, as its own store does: that takes seconds."""
    sources: Iterable[Any] = get_dependency_resolver().collection.resolve(cast(Any, AssetMetadataSource))
    return tuple(provider for source in sources for provider in source.load())


def service(kind: type[Any]) -> Any:
    """What stands for one of fairseq2's abstract classes."""
    return get_dependency_resolver().resolve(kind)


class told:
    """Within the block, what fairseq2 raises becomes a CheckpointError of one line."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, CheckpointError):
            raise CheckpointError(f"{self.what}: {' '.join(causes(error))}") from error


def causes(error: BaseException) -> Iterator[str]:
    """What an error says, and what the errors that it came from say, each in one line."""
    chain: BaseException | None = error
    while chain is not None:
        yield " ".join(str(chain).split()) or type(chain).__name__
        chain = chain.__cause__
