"""The registry files of an environment, lowest first, and the entries that each holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from nuebridge.config import Document, Problem, config_folder
from nuebridge.errors import PluginError, RegistryError
from nuebridge.hookspecs import RegistryFile
from nuebridge.plugins import PluginManager
from nuebridge.registry.entries import ENTRY_NAME, PARTS, SECTIONS, Entry, IntegrationEntry, SourcedEntry, is_local

FILE_NAME = "registry.yaml"


@dataclass(frozen=True)
class Layer:
    """A registry file and how it came to be read."""

    label: str
    """``packaged``, ``plugin NAME``, ``user``, ``folder`` or ``option``."""
    path: Path
    optional: bool = False
    """True where what is wrong with the file is a plugin's fault: it is left out with a warning."""


@dataclass(frozen=True)
class Located:
    """An entry and where it stands."""

    section: str
    name: str
    entry: Entry
    layer: Layer
    document: Document

    @property
    def line(self) -> int | None:
        return self.document.line((self.section, self.name))

    @property
    def place(self) -> str:
        return f"{self.layer.path}:{self.line}"

    def problem(self, way: tuple[str | int, ...], message: str, severity: Literal["error", "warning"]) -> Problem:
        """A problem at a key of this entry."""
        return self.document.problem((self.section, self.name, *way), message, severity)


def default_layers(
    manager: PluginManager,
    files: Sequence[Path] = (),
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> tuple[list[Layer], list[Problem]]:
    """The registry files of this environment, lowest first, and the plugins whose file cannot be had.

    A file that is in two places (a checkout's own is packaged and ``./registry.yaml``) counts once, in the lower.
    """
    layers = [Layer("packaged", packaged_file())]
    missing: list[Problem] = []
    for ref in manager.refs(RegistryFile):
        try:
            layers.append(Layer(f"plugin {ref.plugin}", ref.load(), optional=True))
        except PluginError as error:
            if manager.strict:
                raise
            missing.append(Problem(ref.id, None, "", str(error), "warning"))
    user = config_folder(environ) / FILE_NAME
    own = (folder or Path.cwd()) / FILE_NAME
    layers += [Layer(label, path) for label, path in (("user", user), ("folder", own)) if path.exists()]
    layers += [Layer("option", Path(file)) for file in files]
    once = {layer.path.resolve(): layer for layer in reversed(layers)}
    return [layer for layer in layers if once[layer.path.resolve()] is layer], missing


def packaged_file() -> Path:
    """The registry that comes with nuebridge. Raises RegistryError where it is missing."""
    package = Path(str(resources.files("nuebridge")))
    # An editable install has no packaged copy: the file is at the top of the checkout.
    for path in (package / FILE_NAME, package.parent / FILE_NAME):
        if path.is_file():
            return path
    raise RegistryError(f"{package / FILE_NAME} is missing; install nuebridge again")


def written(document: Document) -> Iterator[tuple[str, str]]:
    """Section and name of every entry in a file, right or wrong."""
    for section in SECTIONS:
        names = document.data.get(section)
        if isinstance(names, dict):
            yield from ((section, name) for name in names)


def located_entries(document: Document, layer: Layer) -> Iterator[Located]:
    """The entries of a file that are right by themselves, paths made absolute."""
    for section, name in written(document):
        if not ENTRY_NAME.fullmatch(name):
            continue
        try:
            entry = SECTIONS[section].model_validate(document.data[section][name])
        except ValueError:  # pydantic's included; the check of the whole file has told of it
            continue
        yield Located(section, name, _absolute(entry, layer.path.resolve().parent), layer, document)


def _absolute(entry: Entry, folder: Path) -> Entry:
    """The entry with its paths resolved against the folder of its file."""

    def absolute(source: str) -> str:
        component, colon, path = source.rpartition(":")
        if not is_local(path):
            return source
        return component + colon + str((folder / Path(path).expanduser()).resolve())

    if isinstance(entry, SourcedEntry):
        return entry.model_copy(update={"source": absolute(entry.source)})
    if isinstance(entry, IntegrationEntry):
        changed: dict[str, Any] = {part: absolute(text) for part in PARTS if (text := getattr(entry, part)) is not None}
        if entry.weights is not None:
            changed["weights"] = entry.weights.model_copy(update={"source": absolute(entry.weights.source)})
        if entry.sample is not None:
            changed["sample"] = absolute(entry.sample)
        return entry.model_copy(update=changed)
    return entry
