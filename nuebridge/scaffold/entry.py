"""The Python files of a new package that depend on which kinds it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nuebridge.scaffold.kinds import KINDS

LINE_LENGTH = 120


def entry_module(plugin: str, module: str, kinds: Sequence[str], hooks: Sequence[str]) -> str:
    """The source of ``__init__.py``: the records, and nothing that takes time to import."""
    names = {KINDS[kind].record for kind in kinds}
    wanted = {name for kind in kinds for name in KINDS[kind].typing_imports}
    # A registry file's path is made when the hook is called; the others are named in annotations only.
    running = {"pathlib.Path"} if "registry-file" in kinds else set()
    options = f"from {module}.options import GatedLinearOptions" if "bridge" in kinds else ""
    checked = wanted - running
    standard = [*import_lines(running)] + (["from typing import TYPE_CHECKING"] if checked else [])
    blocks = [
        "\n".join(standard),
        one_import("nuebridge.hookspecs", [*sorted(names), "hookimpl"]),
        options,
        type_checking(checked),
    ]
    head = [
        f'"""What the plugin {plugin} offers. Light: nuebridge imports this module whenever it starts."""',
        "from __future__ import annotations",
        *(block for block in blocks if block),
    ]
    return "\n\n".join(head) + "\n\n\n" + "\n\n".join(hooks)


def type_checking(names: Iterable[str]) -> str:
    """Imports that only type checkers run; empty where there are none."""
    standard = [name for name in names if not name.startswith("nuebridge.")]
    own = [name for name in names if name.startswith("nuebridge.")]
    groups = ["\n".join(import_lines(group, indent=4)) for group in (standard, own) if group]
    return "if TYPE_CHECKING:\n" + "\n\n".join(groups) if groups else ""


def import_lines(names: Iterable[str], indent: int = 0) -> list[str]:
    """``from module import Name`` for each module of ``module.Name``, in order."""
    by_module: dict[str, list[str]] = {}
    for name in sorted(names):
        module, _, attribute = name.rpartition(".")
        by_module.setdefault(module, []).append(attribute)
    return [" " * indent + one_import(module, attributes) for module, attributes in by_module.items()]


def one_import(module: str, names: Sequence[str]) -> str:
    """One import, over several lines where one does not hold it."""
    line = f"from {module} import {', '.join(names)}"
    return line if len(line) <= LINE_LENGTH else f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)"
