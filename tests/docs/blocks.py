"""The fenced code blocks of a Markdown file, for tests that run what the documentation shows."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in one of the languages; raises for a fence that is never closed."""
    found, start, opening = [], 0, None
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if opening is None and (match := re.fullmatch(r"```(\w+)(?: title=\"([^\"]+)\")?", line)):
            start, opening = number, match
        elif opening is not None and line == "```":
            text = "\n".join(lines[start : number - 1]) + "\n"
            found.append(Block(page, start, opening[1], opening[2], text))
            opening = None
        elif opening is None and line.startswith("```"):
            raise ValueError(f"{page.name}:{number}: a code block without a language")
    if opening is not None:
        raise ValueError(f"{page.name}:{start}: the code block is never closed")
    return [block for block in found if block.language in languages]


def shell_commands(block: Block) -> list[str]:
    """The command lines of a bash block, continued lines joined."""
    lines = [line.split("  #")[0].strip() for line in block.text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def shell_session(block: Block) -> list[tuple[str, list[str]]]:
    """The command lines of a console block and the lines of output that each shows."""
    session: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            session.append((line[2:], []))
        else:
            session[-1][1].append(line)
    return session


def nuebridge_calls() -> list[tuple[str, list[str]]]:
    """Where, and the words, of every call of the program that the documentation shows."""
    calls = []
    for page in PAGES:
        commands = [(block, command) for block in blocks(page, "bash") for command in shell_commands(block)]
        commands += [(block, command) for block in blocks(page, "console") for command, _ in shell_session(block)]
        for block, command in commands:
            words = shlex.split(command)
            if words[0] == "nuebridge":
                calls.append((f"{block}: {command}", words))
    return calls


def write_titled(page: Path, folder: Path) -> None:
    """Writes each block with a title to the file of that name in ``folder``."""
    for block in blocks(page, "toml", "python", "yaml"):
        if block.title:
            file = folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
