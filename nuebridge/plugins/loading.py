"""Finds the entry points of plugins, imports each plugin alone and checks what it offers."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pluggy

from nuebridge import hookspecs
from nuebridge.config import suggestion
from nuebridge.hookspecs import CONTRACT_VERSION, PROJECT, Component
from nuebridge.plugins.records import HOOKS, ComponentRef, PluginReport, PluginState, cause_of, one_line

_KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class _Unusable(Exception):
    """A plugin is to be recorded as not in use."""

    def __init__(self, reason: str, state: PluginState = "failed", cause: BaseException | None = None) -> None:
        super().__init__(reason)
        self.reason, self.state, self.cause = reason, state, cause


@dataclass(frozen=True)
class Announced:
    """An entry point of the group, with its distribution."""

    name: str
    distribution: str
    version: str
    entry_point: metadata.EntryPoint | None
    error: Exception | None = None


def announced_plugins(path: Sequence[str] | None) -> Iterator[Announced]:
    """The entry points of the group. A distribution that shadows another of its name on the path wins."""
    found = metadata.distributions() if path is None else metadata.distributions(path=list(path))
    seen: set[str] = set()
    for distribution in found:
        name, version = "unknown", "unknown"
        try:
            # Reading the other metadata of everything that is installed would be slow.
            if f"[{PROJECT}]" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name, version = distribution.metadata["Name"] or name, distribution.metadata["Version"] or version
            normal = re.sub(r"[-_.]+", "-", name).lower()
            if normal in seen:
                continue
            seen.add(normal)
            entry_points = [point for point in distribution.entry_points if point.group == PROJECT]
        except Exception as error:  # one damaged installation is not to end every command
            yield Announced(name, name, version, None, error)
            continue
        for point in entry_points:
            yield Announced(point.name, name, version, point)


def may_have(one: Announced, hook: str) -> bool:
    """False where the source of the entry module shows that the plugin has no such hook; imports nothing."""
    if one.entry_point is None or one.entry_point.attr:
        return True
    source = _source_file(one.entry_point.module)
    try:
        text = "import *" if source is None else source.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return True
    return hook in text or "import *" in text


def _source_file(module: str) -> Path | None:
    """The file of a module, found without importing its parents; None where it is not a plain file."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or []:
        base = Path(folder).joinpath(*rest)
        for file in (base / "__init__.py", base.with_suffix(".py")):
            if file.is_file():
                return file
    return None


def load_name(claims: list[Announced], disabled: set[str]) -> Iterator[PluginReport]:
    """The reports on everything that goes by one plugin name."""
    for one in claims:

        def report(state: PluginState, reason: str | None, one: Announced = one, **more: Any) -> PluginReport:
            return PluginReport(one.name, one.distribution, one.version, state, reason, **more)

        if one.name in disabled:
            yield report("disabled", "left out by NUEBRIDGE_DISABLE")
        elif len(claims) > 1:
            yield report("conflict", _conflict(claims))
        else:
            try:
                components = _load(one)
            except _Unusable as error:
                yield report(error.state, error.reason, cause=error.cause)
            else:
                yield report("loaded", None, components=components)


def _conflict(claims: list[Announced]) -> str:
    distributions = list(dict.fromkeys(one.distribution for one in claims))
    if len(distributions) == 1:
        return f"{distributions[0]} announces a plugin {claims[0].name!r} twice: `pip uninstall {distributions[0]}`"
    commands = " or ".join(f"`pip uninstall {name}`" for name in distributions)
    named = " and ".join(f"{one.distribution} {one.version}" for one in claims)
    return f"run {commands}: {named} both call their plugin {claims[0].name!r}"


def _load(one: Announced) -> tuple[ComponentRef[Component], ...]:
    """Imports one plugin and asks it what it offers. Raises _Unusable."""
    if one.entry_point is None:
        raise _Unusable(f"its installation is damaged: {cause_of(one.error)}", cause=one.error)
    if not _KEBAB.fullmatch(one.name):
        raise _Unusable(f"the name of its entry point, {one.name!r}, is not kebab-case, like 'my-plugin'")
    try:
        plugin = one.entry_point.load()
    except (Exception, SystemExit) as error:
        raise _Unusable(f"importing {one.entry_point.value} raised {cause_of(error)}", cause=error) from error
    # A host of its own for each: nothing of one plugin can reach another, not even a wrapper of a hook.
    host = pluggy.PluginManager(PROJECT)
    host.add_hookspecs(hookspecs)
    try:
        host.register(plugin, name=one.name)
    except Exception as error:
        raise _Unusable(one_line(str(error)) or cause_of(error), cause=error) from error
    _check_hooks(host, plugin)
    return tuple(_ask(host, one))


def _check_hooks(host: pluggy.PluginManager, plugin: object) -> None:
    """Refuses a plugin whose hooks nobody would call."""
    callers = host.get_hookcallers(plugin) or []
    if not callers:
        raise _Unusable("it has no hook; decorate its functions with nuebridge.hookspecs.hookimpl")
    try:
        host.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = [caller.name for caller in callers if not caller.has_spec()]
        hints = [f"there is no hook {name!r}{suggestion(name, list(HOOKS), 'hooks')}" for name in unknown]
        raise _Unusable("; ".join(hints) or one_line(str(error)), cause=error) from error


def _ask(host: pluggy.PluginManager, one: Announced) -> Iterator[ComponentRef[Component]]:
    """Calls every hook of the plugin."""
    for hook, kind in HOOKS.items():
        try:
            results = getattr(host.hook, hook)()
        except (Exception, SystemExit) as error:
            raise _Unusable(f"its hook {hook} raised {cause_of(error)}", cause=error) from error
        names: set[str] = set()
        for result in results:
            if not isinstance(result, (list, tuple)):
                raise _Unusable(f"its hook {hook} returned {result!r}, not a list of {kind.__name__}")
            for record in result:
                _check_record(record, kind, hook, one.distribution)
                if record.name in names:
                    raise _Unusable(f"its hook {hook} offers {record.name!r} twice")
                names.add(record.name)
                yield ComponentRef(f"{one.name}.{record.name}", record, one.name, one.distribution, one.version)


def _check_record(record: object, kind: type[Component], hook: str, distribution: str) -> None:
    if not isinstance(record, kind):
        raise _Unusable(f"its hook {hook} returned {record!r}, not a {kind.__name__}")
    if record.contract_version != CONTRACT_VERSION:
        older = record.contract_version < CONTRACT_VERSION
        command = f"pip install --upgrade {distribution if older else PROJECT}"
        raise _Unusable(
            f"run `{command}`: its {record.kind} {record.name!r} is written for version {record.contract_version} "
            f"of the contracts, this nuebridge has version {CONTRACT_VERSION}",
            "incompatible",
        )
    who = f"its {record.kind} {record.name!r}"
    if not isinstance(record.name, str) or not _KEBAB.fullmatch(record.name):
        raise _Unusable(f"{who}: the name is not kebab-case, like 'my-encoder'")
    if not callable(record.load):
        raise _Unusable(f"{who}: load is not a function")
    if record.options is not None:
        _check_options(record.options, who)


def _check_options(options: object, who: str) -> None:
    from pydantic import BaseModel

    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        raise _Unusable(f"{who}: options is {options!r}, not a class of pydantic.BaseModel")
    if options.model_config.get("extra") != "forbid":
        raise _Unusable(f"{who}: its options let unknown keys pass; derive them from nuebridge.settings.Settings")
