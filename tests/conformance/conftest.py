"""Which of these tests run with `make test`, and the table that `make test-conformance` prints."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every component is tested with its first example, with the others in the full table."""
    first: dict[str, Any] = {}
    for item in items:
        if item.path.parent == HERE and isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            subject = item.callspec.params.get("subject")
            if subject is not None and first.setdefault(subject.ref.id, subject) is not subject:
                item.add_marker(pytest.mark.conformance)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was joined with what, where the whole table ran."""
    outcomes = {
        combination: outcome
        for outcome in ("passed", "failed", "error")
        for combination in _combinations(report.nodeid for report in terminalreporter.stats.get(outcome, ()))
    }
    if len(outcomes) < 60:
        return
    joined: dict[str, list[set[str]]] = defaultdict(lambda: [set(), set()])
    for (encoder, bridge, decoder), outcome in outcomes.items():
        if outcome == "passed":
            joined[bridge][0].add(encoder)
            joined[bridge][1].add(decoder)
    encoders, bridges, decoders = (sorted({names[place] for names in outcomes}) for place in range(3))
    passed = sum(outcome == "passed" for outcome in outcomes.values())
    write = terminalreporter.write_line
    terminalreporter.section("encoder x bridge x decoder")
    write(f"{passed} of {len(outcomes)} combinations pass")
    for bridge in bridges:
        sides = zip(joined[bridge], (encoders, decoders), ("encoders", "decoders"), strict=True)
        write(f"  {bridge:32} " + ", ".join(f"{len(found)} of {len(all_)} {what}" for found, all_, what in sides))
    write(f"encoders: {', '.join(encoders)}")
    write(f"decoders: {', '.join(decoders)}")


def _combinations(names: Iterable[str]) -> Iterable[tuple[str, str, str]]:
    for name in names:
        found = re.search(r"test_table\.py::test_a_combination\[([^+\]]+)\+([^+\]]+)\+([^+\]]+)\]", name)
        if found:
            encoder, bridge, decoder = found.groups()
            yield encoder, bridge, decoder
