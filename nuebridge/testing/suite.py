"""From the id of a component to tests: which subjects it is tested as, which rules hold for them, a class of tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nuebridge.errors import ConfigError, PluginError
from nuebridge.hookspecs import (
    BridgeComponent,
    CheckpointFormat,
    Component,
    SpeechEncoderComponent,
    TextDecoderComponent,
)
from nuebridge.plugins import ComponentRef, PluginManager
from nuebridge.testing.bridges import bridges
from nuebridge.testing.decoders import decoders
from nuebridge.testing.encoders import encoders
from nuebridge.testing.integrations import integrations
from nuebridge.testing.parts import shared, sourced
from nuebridge.testing.rules import Check, NotApplicable
from nuebridge.testing.subject import (
    BridgeSubject,
    DecoderSubject,
    EncoderSubject,
    IntegrationSubject,
    Source,
    Subject,
)

KINDS: tuple[type[Component], ...] = (SpeechEncoderComponent, BridgeComponent, TextDecoderComponent, CheckpointFormat)
"""What can be tested."""


def subjects(
    component: str,
    options: Mapping[str, Any] | None = None,
    source: Source | None = None,
    manager: PluginManager | None = None,
) -> list[Subject]:
    """What a component is tested as: with the source or the options that are given, or once with each of its examples.

    Raises PluginError for a component that is not there, ConfigError for options that it refuses and where there is
    nothing to read.
    """
    manager = manager or PluginManager.discover()
    ref = _find(manager, component)
    given = dict(options or {})
    ref.parse_options(given)
    if isinstance(source, str | Path) and not Path(source).is_dir():
        raise ConfigError(f"{source} is no folder; give one that holds a checkpoint for {component}")
    if isinstance(ref.record, BridgeComponent):
        if source is not None:
            raise ConfigError(f"{component} is a bridge and reads no source; leave it out")
        variants = None if given or ref.record.examples is None else ref.record.examples()
        return [BridgeSubject(ref, chosen, name) for name, chosen in (variants or {"": given}).items()]
    if isinstance(ref.record, CheckpointFormat):
        if source is None:
            raise ConfigError(f"{component} is a checkpoint format; give a folder of that format as its source")
        return [IntegrationSubject(ref, given, "source", source, manager)]
    kind = EncoderSubject if isinstance(ref.record, SpeechEncoderComponent) else DecoderSubject
    if source is not None:
        return [kind(ref, given, "source", source)]
    assert isinstance(ref.record, SpeechEncoderComponent | TextDecoderComponent)
    examples = {} if ref.record.examples is None else ref.record.examples()
    if not examples:
        raise ConfigError(
            f"{component} has no examples to be tested with; give it some (`examples` of its record), or a source: a "
            "folder with a checkpoint (--source FOLDER, or source= for conformance)"
        )
    return [kind(ref, given, name, write) for name, write in examples.items()]


def checks(subject: Subject) -> list[Check[Any]]:
    """The rules that hold for a subject."""
    if isinstance(subject, EncoderSubject):
        return [*encoders.all, *shared.all, *sourced.all]
    if isinstance(subject, DecoderSubject):
        return [*decoders.all, *shared.all, *sourced.all]
    if isinstance(subject, BridgeSubject):
        return [*bridges.all, *shared.all]
    return list(integrations.all)


def class_of_tests(
    component: str, options: Mapping[str, Any], source: Source | None, manager: PluginManager | None
) -> type:
    """A class with one test a rule, each run with every subject."""
    try:
        import pytest
    except ImportError as error:
        raise ImportError("nuebridge.testing runs its checks with pytest: pip install pytest") from error

    found = subjects(component, options, source, manager)
    tests: dict[str, Any] = {"__doc__": f"Conformance of {component}."}
    for check in checks(found[0]):
        test = _test(check, pytest.skip, pytest.fail)
        tests[f"test_{check.name}"] = pytest.mark.parametrize("subject", found, ids=str)(test)
    return type("TestConformance", (), tests)


def _test(check: Check[Any], skip: Callable[..., Any], fail: Callable[..., Any]) -> Callable[..., None]:
    def test(self: object, subject: Subject) -> None:
        try:
            check(subject)
        except NotApplicable as reason:
            skip(str(reason))
        except AssertionError as broken:
            if broken.__cause__ is None:
                # The message says it all; the lines of this suite would say nothing more.
                fail(f"{subject.ref.id} [{subject}]: {broken}", pytrace=False)
            raise

    test.__doc__ = check.sentence
    return test


def _find(manager: PluginManager, component: str) -> ComponentRef[Any]:
    refs = [ref for kind in KINDS for ref in manager.refs(kind) if ref.id == component]
    if len(refs) > 1:
        kinds = " and ".join(ref.record.kind for ref in refs)
        raise PluginError(f"{component!r} is a {kinds}: give components of one plugin names of their own")
    if refs:
        return refs[0]
    # For the message: what is wrong with its plugin, or what there is.
    plugin = component.partition(".")[0]
    reason = manager.why_not_in_use(plugin)
    if reason is not None:
        raise PluginError(f"{component!r}: {reason}")
    known = ", ".join(ref.id for kind in KINDS for ref in manager.refs(kind))
    raise PluginError(f"{component!r} is no component that can be tested; there are: {known}")
