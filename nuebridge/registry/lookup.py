"""The registry itself: its layers merged, entries by name, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar, cast, overload

from pydantic import ValidationError

from nuebridge.config import Document, Problem, raise_problems, suggestion
from nuebridge.errors import ConfigError, PluginError, RegistryError
from nuebridge.hookspecs import BridgeComponent, Component, SpeechEncoderComponent, TextDecoderComponent
from nuebridge.plugins import ComponentRef, PluginManager
from nuebridge.registry.checkpoints import entry_for
from nuebridge.registry.entries import (
    COMPONENT_ID,
    FROM_ENCODER,
    HUB_ID,
    PARTS,
    SECTIONS,
    BridgeEntry,
    CtcHeadEntry,
    DecoderEntry,
    EncoderEntry,
    Entry,
    IntegrationEntry,
    RegistryContents,
    SourcedEntry,
    is_local,
)
from nuebridge.registry.layers import FILE_NAME, Layer, Located, default_layers, located_entries, written

E = TypeVar("E", bound=Entry)

_COMPONENT_KINDS: Mapping[str, type[Component]] = {
    "encoders": SpeechEncoderComponent,
    "bridges": BridgeComponent,
    "decoders": TextDecoderComponent,
}


class Registry:
    """All entries of all layers. ``Registry.load`` reads the environment's own."""

    def __init__(self, layers: Sequence[Layer], *, strict: bool = False) -> None:
        """Reads and merges layers, lowest first.

        What is wrong is kept in ``errors`` and ``warnings``, and the entries that are right can be
        used; ``load`` makes an exception of the errors. ``strict`` counts a plugin's file among them.
        """
        self.layers = list(layers)
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        self._entries: dict[str, dict[str, Located]] = {section: {} for section in SECTIONS}
        self._misstated: set[tuple[str, str]] = set()
        self.default_integration: str | None = None
        """The integration that is meant where none is named; of the topmost layer that names one."""
        self._default_layer: Layer | None = None
        for layer in self.layers:
            self._read(layer, strict)

    @classmethod
    def load(
        cls,
        manager: PluginManager,
        files: Sequence[Path] = (),
        *,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> Registry:
        """Reads every layer; ``files`` are the topmost, ``folder`` is where ``./registry.yaml`` is looked for.

        Raises RegistryError with everything that is wrong in any file, save those of plugins, which
        are left out with a warning (``warnings``).
        """
        layers, missing = default_layers(manager, files, environ=environ, folder=folder)
        registry = cls(layers, strict=manager.strict)
        registry.warnings[:0] = missing
        raise_problems(registry.errors, RegistryError)
        return registry

    @property
    def sections(self) -> tuple[str, ...]:
        """The names of the sections, in the order of a registry file."""
        return tuple(SECTIONS)

    def names(self, section: str) -> list[str]:
        """The names of a section, sorted."""
        return sorted(self._section(section))

    def entries(self, section: str) -> list[Located]:
        """The entries of a section with their places, sorted by name."""
        return [self._section(section)[name] for name in self.names(section)]

    def encoder(self, name: str) -> EncoderEntry:
        """The encoder of that name; RegistryError with the nearest names where there is none."""
        return self._get("encoders", name, EncoderEntry)

    def bridge(self, name: str) -> BridgeEntry:
        """The bridge of that name; RegistryError where there is none."""
        return self._get("bridges", name, BridgeEntry)

    def decoder(self, name: str) -> DecoderEntry:
        """The decoder of that name; RegistryError where there is none."""
        return self._get("decoders", name, DecoderEntry)

    def ctc_head(self, name: str) -> CtcHeadEntry:
        """The CTC head of that name; RegistryError where there is none."""
        return self._get("ctc_heads", name, CtcHeadEntry)

    def integration(self, name: str) -> IntegrationEntry:
        """The integration of that name; RegistryError where there is none."""
        return self._get("integrations", name, IntegrationEntry)

    def unknown(self, section: str, name: str) -> str:
        """The message that a name is not in a section, with the nearest and all that are."""
        return f"no {SECTIONS[section].kind} {name!r} in the registry" + suggestion(name, self.names(section), "known")

    @overload
    def resolve(self, section: Literal["encoders"], text: str, manager: PluginManager) -> EncoderEntry: ...
    @overload
    def resolve(self, section: Literal["decoders"], text: str, manager: PluginManager) -> DecoderEntry: ...
    @overload
    def resolve(self, section: Literal["bridges"], text: str, manager: PluginManager) -> BridgeEntry: ...
    @overload
    def resolve(self, section: Literal["ctc_heads"], text: str, manager: PluginManager) -> CtcHeadEntry: ...
    @overload
    def resolve(self, section: str, text: str, manager: PluginManager) -> Entry: ...

    def resolve(self, section: str, text: str, manager: PluginManager) -> Entry:
        """The entry that a user means by ``text``; the first of these that it is:

        a name of the section; for an encoder or decoder ``COMPONENT-ID:SOURCE``, an existing folder
        or a hub id, read by the component that claims its ``model_type``; for a bridge the id of a
        component, with its default options. Whether a component that was named can be had shows when
        it is asked for. Raises RegistryError, or PluginError where no plugin or more than one claims
        a checkpoint.
        """
        if text in self._section(section):
            return self._section(section)[text].entry
        if section == "bridges" and COMPONENT_ID.fullmatch(text):
            return BridgeEntry(component=text)
        if section not in ("encoders", "decoders"):
            raise RegistryError(self.unknown(section, text))
        entry = entry_for(cast(type[SourcedEntry], SECTIONS[section]), text, manager)
        if entry is None:
            raise RegistryError(self.unknown(section, text))
        return entry

    def check(self, manager: PluginManager) -> list[Problem]:
        """What is wrong or doubtful about the entries as they stand together, by file and line.

        Errors: an integration that names a part that is not there, a component that an installed
        plugin does not offer, options that the component refuses, a folder that is missing.
        Warnings: a hub source without a revision, a component whose plugin is not in use.
        """
        located = [entry for section in SECTIONS for entry in self.entries(section)]
        problems = [problem for one in located for problem in self._check(one, manager)]
        default, layer = self.default_integration, self._default_layer
        if layer is not None and default is not None and default not in self._entries["integrations"]:
            problems.append(
                Problem(str(layer.path), None, "default_integration", self.unknown("integrations", default))
            )
        return sorted(problems, key=lambda problem: (problem.file, problem.line or 0))

    def _section(self, section: str) -> dict[str, Located]:
        if section not in self._entries:
            raise RegistryError(f"no section {section!r} in the registry{suggestion(section, list(SECTIONS))}")
        return self._entries[section]

    def _get(self, section: str, name: str, model: type[E]) -> E:
        if name not in self._entries[section]:
            raise RegistryError(self.unknown(section, name))
        return cast(E, self._entries[section][name].entry)

    def _read(self, layer: Layer, strict: bool) -> None:
        """Adds one file; where something is wrong with a plugin's file, none of it."""
        try:
            document = Document.read(layer.path)
        except ConfigError as error:
            self._note(layer, [Problem(str(layer.path), None, "", str(error).partition(": ")[2])], strict)
            return
        _, problems = document.check(RegistryContents)
        default = document.data.get("default_integration")
        problems += self._check_default(layer, default, document)
        located = list(located_entries(document, layer))
        entries: list[Located] = []
        warnings: list[Problem] = []
        for one in located:
            below = self._entries[one.section].get(one.name)
            if below is None and one.entry.replaces:
                warnings.append(one.problem(("replaces",), "there is nothing to replace", "warning"))
            elif below is not None and _same(below.entry, one.entry):
                continue
            elif below is not None and not one.entry.replaces:
                message = f"is already at {below.place}; to replace it write `replaces: true`, else use another name"
                problems.append(one.problem((), message, "error"))
                continue
            entries.append(one)
        self._note(layer, problems, strict)
        if problems and layer.optional and not strict:
            return
        self.warnings += warnings
        if isinstance(default, str):
            self.default_integration, self._default_layer = default, layer
        known = {(one.section, one.name) for one in located}
        self._misstated |= {pair for pair in written(document) if pair not in known}
        for one in entries:
            self._entries[one.section][one.name] = one

    def _check_default(self, layer: Layer, default: object, document: Document) -> list[Problem]:
        """A user chooses among what plugins propose; one plugin does not overrule another."""
        above = self._default_layer
        if not layer.optional or above is None or not above.optional or default in (None, self.default_integration):
            return []
        message = f"{above.label} already has {self.default_integration!r}: choose one in your own {FILE_NAME}"
        return [document.problem(("default_integration",), message)]

    def _note(self, layer: Layer, problems: list[Problem], strict: bool) -> None:
        if layer.optional and not strict:
            self.warnings += [
                replace(problem, message=f"{problem.message} ({layer.label} is left out)", severity="warning")
                for problem in problems
            ]
        else:
            self.errors += problems

    def _check(self, one: Located, manager: PluginManager) -> Iterator[Problem]:
        entry = one.entry
        if isinstance(entry, (SourcedEntry, BridgeEntry)):
            yield from _check_component(one, ("component",), one.section, entry, manager)
        if isinstance(entry, SourcedEntry):
            yield from _check_source(one, (), entry.source, entry.revision)
        if isinstance(entry, IntegrationEntry):
            if entry.weights is not None:
                yield from _check_source(one, ("weights",), entry.weights.source, entry.weights.revision)
            if entry.sample is not None and not Path(entry.sample).is_file():
                yield one.problem(("sample",), f"there is no file {entry.sample}", "error")
            for part, section in PARTS.items():
                text = getattr(entry, part)
                # An entry that is there but misstated has its own error.
                if text is not None and (section, text) not in self._misstated:
                    yield from self._check_part(one, part, section, text, manager)

    def _check_part(
        self, one: Located, part: str, section: str, text: str, manager: PluginManager
    ) -> Iterator[Problem]:
        """Whether a part of an integration can be what it says; asks no hub."""
        if section == "ctc_heads" and text == FROM_ENCODER:
            return
        if section in ("encoders", "decoders") and "/" in text and HUB_ID.fullmatch(text):
            return
        try:
            entry = self.resolve(section, text, manager)
        except (RegistryError, PluginError) as error:
            yield one.problem((part,), str(error), "error")
            return
        if text not in self._entries[section] and isinstance(entry, (SourcedEntry, BridgeEntry)):
            yield from _check_component(one, (part,), section, entry, manager)


def _check_component(
    one: Located, way: tuple[str, ...], section: str, entry: SourcedEntry | BridgeEntry, manager: PluginManager
) -> Iterator[Problem]:
    """Whether a component can be had and takes its options; one whose plugin is not in use is a warning."""
    reason = manager.why_not_in_use(entry.component.partition(".")[0])
    if reason is not None:
        yield one.problem(way, reason, "warning")
        return
    try:
        ref: ComponentRef[Component] = manager.find(_COMPONENT_KINDS[section], entry.component)
    except PluginError as error:
        yield one.problem(way, str(error), "error")
        return
    try:
        ref.options_model.model_validate(entry.options)
    except ValidationError as error:
        if one.entry is entry:
            yield from one.document.explain(error, ref.options_model, (one.section, one.name, "options"))
        else:
            yield one.problem(way, f"{entry.component} needs options: give it an entry in {section}", "error")


def _same(left: Entry, right: Entry) -> bool:
    return type(left) is type(right) and left.model_copy(update={"replaces": right.replaces}) == right


def _check_source(one: Located, way: tuple[str, ...], source: str, revision: str | None) -> Iterator[Problem]:
    if is_local(source):
        if not Path(source).exists():
            yield one.problem((*way, "source"), f"there is no {source}", "error")
    elif revision is None:
        message = "no revision is pinned, so what is downloaded may change: write the commit to use"
        yield one.problem((*way, "revision"), message, "warning")
