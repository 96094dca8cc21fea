"""The conformance suite: does a component keep the contracts that nuebridge joins it by?

    pytest --pyargs nuebridge.testing --component PLUGIN.NAME [--source FOLDER] [--options JSON]

or, among a plugin's own tests:

    from nuebridge.testing import conformance

    TestMine = conformance("plugin.name")

Everything is imported when it is first used; pytest is needed to run, not to import this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nuebridge.plugins import PluginManager
    from nuebridge.testing.rules import Broken, Check
    from nuebridge.testing.subject import Subject

__all__ = ["Broken", "Check", "Subject", "checks", "conformance", "subjects"]

_HOMES = {"Broken": "rules", "Check": "rules", "Subject": "subject", "checks": "suite", "subjects": "suite"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nuebridge.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"nuebridge.testing.{_HOMES[name]}"), name)


def conformance(
    component: str,
    *,
    options: Mapping[str, Any] | None = None,
    source: str | Path | Callable[[Path], None] | None = None,
    manager: PluginManager | None = None,
) -> type:
    """A class of tests for a component, for pytest to collect: ``TestMine = conformance("plugin.name")``.

    ``options`` are those of a registry entry. ``source`` is what an encoder, a decoder or a checkpoint format reads: a
    folder, or a function that writes a checkpoint into one; without it every one of the component's own ``examples``
    is tested. Raises PluginError for a component that is not there, ConfigError for options that it refuses or where
    there is nothing to read, and ImportError that says what to install where pytest is missing.
    """
    from nuebridge.testing.suite import class_of_tests

    return class_of_tests(component, options or {}, source, manager)
