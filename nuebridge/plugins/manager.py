"""The plugins of an environment, and the components they offer, by id."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from nuebridge.config import suggestion
from nuebridge.errors import ConfigError, PluginError
from nuebridge.hookspecs import CheckpointFormat, Component, SpeechEncoderComponent, TextDecoderComponent
from nuebridge.plugins.loading import Announced, announced_plugins, load_name, may_have
from nuebridge.plugins.records import C, ComponentRef, PluginReport, cause_of

Claiming = TypeVar("Claiming", SpeechEncoderComponent, TextDecoderComponent)

INSTALL_DEFAULTS = '`pip install "nuebridge[all]"` (in a checkout: `pip install ".[all]"`)'

HOW_TO_INSTALL = f"install the package that has it; {INSTALL_DEFAULTS} brings the default plugins"


class PluginManager:
    """What the installed plugins offer. Made by :meth:`discover` and passed to whoever needs it."""

    def __init__(self, reports: Sequence[PluginReport], *, strict: bool = False, notes: Sequence[str] = ()) -> None:
        self._reports = list(reports)
        self.strict = strict
        """True where the first thing wrong with any plugin is an error (``NUEBRIDGE_STRICT=1``)."""
        self.notes = list(notes)
        """What is odd about the settings of plugins themselves, one line each."""

    @classmethod
    def discover(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        path: Sequence[str] | None = None,
        hook: str | None = None,
    ) -> PluginManager:
        """Imports the entry module of every installed plugin, in order of their names.

        ``path`` lists folders to look for distributions in (default: ``sys.path``). With ``hook``,
        plugins whose source shows that they do not have it are left out unseen, which is quicker.
        ``NUEBRIDGE_DISABLE=a,b`` leaves plugins out. Raises PluginError only under
        ``NUEBRIDGE_STRICT=1``, for the first plugin that cannot be used.
        """
        environ = os.environ if environ is None else environ
        strict = _switch(environ, "NUEBRIDGE_STRICT")
        disabled = {name.strip() for name in environ.get("NUEBRIDGE_DISABLE", "").split(",")} - {""}
        by_name: dict[str, list[Announced]] = {}
        for announced in sorted(announced_plugins(path), key=lambda one: one.distribution):
            by_name.setdefault(announced.name, []).append(announced)

        reports: list[PluginReport] = []
        for name in sorted(by_name):
            # A strict run is to find every fault.
            if hook is not None and not strict and not any(may_have(one, hook) for one in by_name[name]):
                continue
            for report in load_name(by_name[name], disabled):
                if strict and report.state not in ("loaded", "disabled"):
                    raise PluginError(f"{report.who} is not in use: {report.reason}") from report.cause
                reports.append(report)
        notes = [
            f"NUEBRIDGE_DISABLE names {name!r}: no such plugin{suggestion(name, sorted(by_name), 'installed')}"
            for name in sorted(disabled - set(by_name))
        ]
        return cls(reports, strict=strict, notes=notes)

    def reports(self) -> list[PluginReport]:
        """Every plugin found, in use or not, by name."""
        return list(self._reports)

    def warnings(self) -> list[str]:
        """One line for each plugin that should be in use and is not."""
        unusable = [report for report in self._reports if report.state not in ("loaded", "disabled")]
        return [f"{report.who} is not in use: {report.reason}" for report in unusable] + self.notes

    def refs(self, kind: type[C]) -> list[ComponentRef[C]]:
        """Every component of a kind, by plugin name, then in the plugin's own order."""
        return list(self._refs(kind))

    def find(self, kind: type[C], component_id: str, distribution: str | None = None) -> ComponentRef[C]:
        """The component ``PLUGIN.NAME``.

        ``distribution`` is the package it came from when it was recorded, for the message. Raises
        PluginError where it is unknown, and with the cause where its plugin is not in use.
        """
        plugin, dot, _ = component_id.partition(".")
        if not dot:
            known = [ref.id for ref in self._refs(kind)]
            raise PluginError(
                f"{component_id!r} is not the id of a {kind.kind}; ids are PLUGIN.NAME"
                + suggestion(component_id, known, "installed")
            )
        reason = self.why_not_in_use(plugin, distribution)
        if reason is not None:
            cause = next((report.cause for report in self._reports if report.name == plugin), None)
            raise PluginError(f"{kind.kind} {component_id!r}: {reason}") from cause
        for ref in self._refs(kind):
            if ref.id == component_id:
                return ref
        for other in self._refs(Component):
            if other.id == component_id:
                raise PluginError(f"{component_id!r} is a {other.record.kind}, not a {kind.kind}")
        known = [ref.id for ref in self._refs(kind) if ref.plugin == plugin]
        raise PluginError(
            f"plugin {plugin!r} offers no {kind.kind} {component_id!r}" + suggestion(component_id, known, "it offers")
        )

    def why_not_in_use(self, plugin: str, distribution: str | None = None) -> str | None:
        """What keeps a plugin from being used and what to do about it; None for one that is in use.

        ``distribution`` is the package that is known to have it, for one that is not installed.
        """
        for report in self._reports:
            if report.name == plugin:
                return None if report.state == "loaded" else f"{report.who} is not in use: {report.reason}"
        if distribution is not None:
            return f"run `pip install {distribution}`, which has the plugin {plugin!r}"
        installed = sorted({report.name for report in self._reports})
        hint = suggestion(plugin, installed, "installed")
        return f"no plugin {plugin!r} is installed{hint}: {HOW_TO_INSTALL}"

    def claiming(self, kind: type[Claiming], model_type: str) -> ComponentRef[Claiming]:
        """The component that reads checkpoints with this ``model_type`` in their config.json.

        One that names the type goes before one that takes any (``"*"``). Raises PluginError where
        none does or two do.
        """
        refs = self.refs(kind)
        claims = [ref for ref in refs if model_type in ref.record.model_types]
        claims = claims or [ref for ref in refs if "*" in ref.record.model_types]
        if len(claims) > 1:
            ids = " and ".join(ref.id for ref in claims)
            raise PluginError(
                f"both {ids} claim checkpoints of model_type {model_type!r}: write COMPONENT:SOURCE to choose one, "
                "or leave a plugin out with NUEBRIDGE_DISABLE"
            )
        if not claims:
            known = sorted({known for ref in refs for known in ref.record.model_types})
            hint = suggestion(model_type, known, "claimed") if known else ""
            raise PluginError(
                f"no installed {kind.kind} claims checkpoints of model_type {model_type!r}{hint}: "
                f"write COMPONENT:SOURCE to name one, or {HOW_TO_INSTALL}"
            )
        return claims[0]

    def recognizing(self, config_json: Mapping[str, Any]) -> ComponentRef[CheckpointFormat] | None:
        """The foreign checkpoint format that a config.json belongs to, or None.

        A format whose test raises is passed over with a RuntimeWarning. Raises PluginError where
        two formats claim it.
        """
        claims = []
        for ref in self.refs(CheckpointFormat):
            try:
                if ref.record.recognizes(config_json):
                    claims.append(ref)
            except Exception as error:
                warnings.warn(
                    f"plugin {ref.plugin!r} ({ref.distribution} {ref.version}): {ref.id!r} failed to look at a "
                    f"checkpoint: {cause_of(error)}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        if len(claims) > 1:
            ids = " and ".join(ref.id for ref in claims)
            raise PluginError(f"both {ids} claim this checkpoint: leave a plugin out with NUEBRIDGE_DISABLE")
        return claims[0] if claims else None

    def _refs(self, kind: type[C]) -> Iterator[ComponentRef[C]]:
        for report in self._reports:
            for ref in report.components:
                if isinstance(ref.record, kind):
                    yield ref  # type: ignore[misc]  # the record is of the kind, so the reference is


def _switch(environ: Mapping[str, str], name: str) -> bool:
    value = environ.get(name, "")
    if value not in ("", "0", "1"):
        raise ConfigError(f"{name} is {value!r}; set it to 1 or 0, or not at all")
    return value == "1"
