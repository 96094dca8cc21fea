"""The names that docs/compatibility.md promises are those that are there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.public_api import FILE, FROM_COMPOSE, MODULES, describe, differences, surface

PAGE = Path(__file__).parent.parent / "docs/compatibility.md"


def test_public_names_are_as_written_down() -> None:
    said = differences(FILE.read_text(encoding="utf-8").splitlines(), surface())
    assert not said, said


def test_the_page_names_what_is_watched() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in MODULES:
        assert f"`{name}`" in page, name
    for name in set(FROM_COMPOSE) - {"compose"}:
        assert f"`{name}`" in page, name


def test_a_change_is_told() -> None:
    class Before:
        size: int

        def read(self, source: str) -> None: ...

    class After:
        size: int = 3

        def read(self, source: str, *, quick: bool = False) -> None: ...

    before, after = list(describe("x.Thing", Before)), list(describe("x.Thing", After))
    assert differences(before, before) == ""
    said = differences(before, after).splitlines()
    assert "  - x.Thing.size: int" in said
    assert "  + x.Thing.size: int = ..." in said
    assert "  - x.Thing.read(self, source: str) -> None" in said
    assert "  + x.Thing.read(self, source: str, *, quick: bool = False) -> None" in said
    assert said[-1] == "If it is meant: python -m tests.public_api"


def test_compose_is_a_function_whatever_was_imported_before() -> None:
    code = "import nuebridge, nuebridge.checkpoint; print(nuebridge.compose.__name__, nuebridge.load.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["compose", "load"], done.stderr
