"""What the layout promises and a reader would otherwise have to trust: who may import whom, and when."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOST = ROOT / "nuebridge"
LIGHT = ("errors", "hookspecs", "settings", "config", "plugins", "registry", "cli")
"""Modules that answer with a broken torch, or none."""
HEAVY = ("torch", "transformers", "numpy", "av", "soxr", "jiwer", "huggingface_hub", "peft", "gradio")


OWN_ENVIRONMENT = ("nuebridge-fairseq2",)
"""Plugins whose libraries do not go together with those of the others; no extra installs them."""


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports(file: Path, *, module_level: bool = False) -> Iterator[str]:
    """Absolute names that a file imports; at module level only those that run on import."""
    nodes: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            nodes.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        nodes.extend(ast.iter_child_nodes(node))


def is_from(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def distributions() -> list[Path]:
    return sorted(file.parent for folder in ("plugins", "apps") for file in (ROOT / folder).glob("*/pyproject.toml"))


def test_import_contracts() -> None:
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert program, "import-linter is not installed: make setup"
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_nothing_heavy(name: str) -> None:
    """In a process of its own; plugins' entry modules are found by `cli` and `plugins` at import or not at all."""
    code = f"import sys, nuebridge.{name}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("folder", distributions(), ids=lambda folder: folder.name)
def test_entry_module_is_light(folder: Path) -> None:
    """A plugin's entry module imports the standard library and nuebridge, and of nuebridge what is light."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for target in project["entry-points"]["nuebridge"].values():
        entry = target.partition(":")[0]
        code = (
            f"import sys, {entry}\n"
            f"print(*(m for m in {HEAVY!r} if m in sys.modules))\n"
            f"from nuebridge.errors import PluginError\n"
            f"for name in dir({entry}):  # the hooks run too: they return records and load nothing\n"
            f"    try:\n"
            f"        if name.startswith('nuebridge_'): getattr({entry}, name)()\n"
            f"    except PluginError:  # says what its environment lacks\n"
            f"        if not {folder.name in OWN_ENVIRONMENT}: raise\n"
            f"print(*(m for m in {HEAVY!r} if m in sys.modules))\n"
        )
        # Whether it is installed or not: one may need an environment of its own.
        environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == []


@pytest.mark.parametrize("folder", distributions(), ids=lambda folder: folder.name)
def test_plugins_are_distributions_of_their_own(folder: Path) -> None:
    assert (folder / "README.md").is_file()
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == folder.name
    assert (folder / "src" / folder.name.replace("-", "_") / "__init__.py").is_file()
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == root["version"]
    everything = [requirement.partition(" @ ") for requirement in root["optional-dependencies"]["all"]]
    listed = (folder.name, f"{{root:uri}}/{folder.relative_to(ROOT)}") in [(name, uri) for name, _, uri in everything]
    assert listed == (folder.name not in OWN_ENVIRONMENT)


def test_torch_distributed_only_in_train() -> None:
    for file in modules(HOST):
        if "train" not in (file.stem, file.parent.name):
            assert not [name for name in imports(file) if is_from(name, "torch.distributed")], file


def test_peft_is_imported_lazily() -> None:
    for file in modules(HOST):
        assert not [name for name in imports(file, module_level=True) if is_from(name, "peft")], file


def test_host_names_no_model() -> None:
    """The host knows no checkpoint and no plugin by name; tests, documents and plugins may."""
    families = r"hubert|wav2vec|wavlm|whisper|gpt|llama|qwen|rinna|nue[-_]asr|nuebridge-(hf|bridges|tiny|demo)"
    for file in modules(HOST):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            assert not re.search(families, line, re.IGNORECASE), f"{file.name}:{number}: {line.strip()}"


def test_the_walk_sees_imports(tmp_path: Path) -> None:
    """The two checks above can fail."""
    file = tmp_path / "sample.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nimport torch\nif TYPE_CHECKING:\n    import jiwer\n"
        "def f():\n    from peft import LoraConfig\n"
    )
    assert sorted(imports(file)) == ["peft.LoraConfig", "torch", "typing.TYPE_CHECKING"]
    assert sorted(imports(file, module_level=True)) == ["torch", "typing.TYPE_CHECKING"]
