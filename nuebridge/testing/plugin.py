"""Options of ``pytest --pyargs nuebridge.testing``; a pytest plugin, found through its entry point.

The options are there only where the suite is asked for, so that they are in nobody's way elsewhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SUITE = "nuebridge.testing"


def pytest_load_initial_conftests(early_config: Any, parser: Any, args: list[str]) -> None:
    """Adds the options before pytest reads its arguments in earnest."""
    if not any(argument.split("::")[0] in (SUITE, f"{SUITE}.test_component") for argument in args):
        return
    early_config.pluginmanager.register(Asked(), "nuebridge-conformance")
    group = parser.getgroup("nuebridge", "conformance of a component of nuebridge")
    group.addoption(
        "--component",
        action="append",
        default=[],
        metavar="PLUGIN.NAME",
        help="the component to test; may be given several times",
    )
    group.addoption(
        "--source",
        metavar="FOLDER",
        help="the checkpoint it reads; without one, each of the component's own examples",
    )
    group.addoption("--options", default="{}", metavar="JSON", help="options of the component, as in a registry entry")


class Asked:
    """Reads the options; pytest shows what is wrong with them in one line."""

    def pytest_configure(self, config: Any) -> None:
        """Finds what is to be tested. Raises pytest's UsageError."""
        import pytest

        from nuebridge.errors import NuebridgeError
        from nuebridge.testing.suite import subjects

        components = config.getoption("component")
        if not components:
            raise pytest.UsageError(f"name what to test: pytest --pyargs {SUITE} --component PLUGIN.NAME")
        try:
            options = json.loads(config.getoption("options"))
        except json.JSONDecodeError as error:
            raise pytest.UsageError(f"--options is no JSON: {error}") from error
        if not isinstance(options, dict):
            raise pytest.UsageError(f"--options must be a JSON object, not {options!r}")
        source = config.getoption("source")
        folder = None if source is None else Path(config.invocation_params.dir, source)
        try:
            self.subjects = [subject for one in components for subject in subjects(one, options, folder)]
        except NuebridgeError as error:
            raise pytest.UsageError(str(error)) from error

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test a rule and subject."""
        from nuebridge.testing.suite import checks

        if metafunc.module.__name__.rpartition(".")[2] != "test_component" or "check" not in metafunc.fixturenames:
            return
        pairs = [(subject, check) for subject in self.subjects for check in checks(subject)]
        ids = [f"{subject.ref.id}-{subject}-{check.name}" for subject, check in pairs]
        metafunc.parametrize(("subject", "check"), pairs, ids=ids)
