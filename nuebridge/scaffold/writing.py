"""Renders the templates of a new package and writes it, whole or not at all."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from string import Template

from nuebridge.errors import ConfigError
from nuebridge.hookspecs import CONTRACT_VERSION
from nuebridge.scaffold.entry import entry_module
from nuebridge.scaffold.kinds import KINDS
from nuebridge.scaffold.names import PackageNames

DEFAULT_KIND = "bridge"
PARTS = ("encoder", "bridge", "decoder")
"""Kinds that the conformance suite tests."""


@dataclass(frozen=True)
class NewPlugin:
    """What was written."""

    names: PackageNames
    folder: Path
    kinds: tuple[str, ...]
    """In the order of the hooks."""
    brought: tuple[str, ...]
    """Those that were not asked for, but that others need."""
    files: tuple[str, ...]
    """Relative to ``folder``."""


def chosen_kinds(asked: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All kinds that a package gets, and those among them that nobody asked for; a bridge where nothing is asked."""
    wanted = set(asked) or {DEFAULT_KIND}
    needed = {one for kind in wanted for one in KINDS[kind].brings}
    kinds = tuple(kind for kind in KINDS if kind in wanted | needed)
    return kinds, tuple(kind for kind in kinds if kind not in wanted)


def new_plugin(names: PackageNames, asked: Collection[str], folder: Path) -> NewPlugin:
    """Writes a package into ``folder``, which may be empty or not there yet.

    Raises ConfigError where something is in it, or where it cannot be written.
    """
    kinds, brought = chosen_kinds(asked)
    files = render(names, kinds)
    check_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ConfigError(f"cannot write to {folder.parent}: {error.strerror}; choose another --output") from error
    try:
        for name, text in files.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")
        aside.chmod(0o755)  # a temporary folder is for its owner alone
        aside.rename(folder)  # replaces an empty folder, and no other
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}; nothing was left there") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return NewPlugin(names, folder, kinds, brought, tuple(files))


def check_target(folder: Path) -> None:
    """Raises ConfigError where a package cannot be written into ``folder`` because of what is there."""
    if folder.is_dir():
        if any(folder.iterdir()):
            raise ConfigError(f"{folder} exists and is not empty; choose another name or --output")
    elif folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} exists and is not a folder; choose another name or --output")


def render(names: PackageNames, kinds: Sequence[str]) -> dict[str, str]:
    """The files of a package by their path in it."""
    values = _values(names, kinds)

    def text(template: str, **more: str) -> str:
        return Template(_template(template)).substitute(values, **more)

    source = f"src/{names.module}"
    hooks = [text(f"entry/{kind}.txt") for kind in kinds]
    conforming = [kind for kind in PARTS if kind in kinds]
    suite = (
        "`tests/test_conformance.py` runs nuebridge's own suite of what it expects of a part.\n" if conforming else ""
    )
    files = {
        "pyproject.toml": text("pyproject.toml.txt"),
        "README.md": text("README.md.txt", offers=_offers(names, kinds), usage=_usage(names, kinds), suite=suite),
        "LICENSE": text("LICENSE.txt"),
        ".gitignore": text("gitignore.txt"),
        ".github/workflows/ci.yml": text("ci.yml.txt"),
        f"{source}/__init__.py": entry_module(names.plugin, names.module, kinds, hooks),
        f"{source}/py.typed": "",
    }
    for kind in kinds:
        files |= {f"{source}/{name}": text(f"{name}.txt") for name in KINDS[kind].files}
    if {"encoder", "decoder"} & set(kinds):
        files[f"{source}/examples.py"] = _examples(text, names.module, kinds)
    files["tests/test_plugin.py"] = text("tests/test_plugin.py.txt")
    for kind in kinds:
        files |= {f"tests/{name}": text(f"tests/{name}.txt") for name in KINDS[kind].tests}
    if conforming:
        lines = [f'Test{kind.capitalize()} = conformance("{_id(names, kind)}")' for kind in conforming]
        files["tests/test_conformance.py"] = text("tests/test_conformance.py.txt", tests="\n".join(lines))
    return files


def _values(names: PackageNames, kinds: Sequence[str]) -> Mapping[str, str]:
    requires = [_nuebridge_range(), *sorted({one for kind in kinds for one in KINDS[kind].requires})]
    entries = ""
    if "bridge" in kinds:
        entries = f"bridges:\n  {names.plugin}-2x: {{component: {names.plugin}.gated-linear, options: {{factor: 2}}}}\n"
    ids = sorted(_id(names, kind) for kind in kinds)
    return {
        "distribution": names.distribution,
        "module": names.module,
        "plugin": names.plugin,
        "contract_version": str(CONTRACT_VERSION),
        "description": f"A plugin of nuebridge: {', '.join(kind.replace('-', ' ') for kind in kinds)}",
        "dependencies": ", ".join(f'"{one}"' for one in requires),
        "ids": _wrapped([f'"{one}"' for one in ids]),
        "bridge_entries": entries.rstrip("\n"),
    }


def _nuebridge_range() -> str:
    """The releases whose contracts are those of the one that runs here."""
    version = metadata.version("nuebridge")
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise ConfigError(f"nuebridge has the odd version {version!r}; install a release of it")
    major, minor = map(int, found.groups())
    return (
        f"nuebridge>={major}.{minor},<{major}.{minor + 1}" if major == 0 else f"nuebridge>={major}.{minor},<{major + 1}"
    )


def _id(names: PackageNames, kind: str) -> str:
    return f"{names.plugin}.{Template(KINDS[kind].component).substitute(plugin=names.plugin)}"


def _wrapped(items: Sequence[str]) -> str:
    """Items of a list or a set as ruff formats them in the test that they stand in."""
    line = ", ".join(items)
    return line if len(line) <= 90 else "\n        " + ",\n        ".join(items) + ",\n    "


def _offers(names: PackageNames, kinds: Sequence[str]) -> str:
    return "\n".join(f"- `{_id(names, kind)}`, {KINDS[kind].summary}" for kind in kinds)


def _usage(names: PackageNames, kinds: Sequence[str]) -> str:
    """How the README shows the package in use."""
    said = []
    if {"encoder", "decoder"} & set(kinds):
        said.append(
            "Checkpoints to try it with, tiny and with random weights:\n\n"
            f"```bash\npython -m {names.module}.examples checkpoints\n```\n"
        )
    if "bridge" in kinds:
        encoder = "checkpoints/log-mel" if "encoder" in kinds else "ENCODER"
        decoder = "checkpoints/byte-gru" if "decoder" in kinds else "DECODER"
        said.append(
            "Give the bridge a name in `registry.yaml`, and join it to an encoder and a decoder:\n\n"
            "```yaml\nbridges:\n"
            f"  my-bridge: {{component: {names.plugin}.gated-linear, options: {{factor: 4}}}}\n```\n\n"
            f"```bash\nnuebridge compose --encoder {encoder} --bridge my-bridge --decoder {decoder} --output my-model\n"
            "nuebridge transcribe recording.wav --model ./my-model\n```\n"
        )
    if "command" in kinds:
        said.append(f"```bash\nnuebridge {names.plugin}-loudness recording.wav\n```\n")
    if "bench-baseline" in kinds:
        said.append(
            "```bash\nnuebridge bench train --model ./my-model --data manifest.jsonl "
            f"--vs {names.plugin}.plain-loop\n```\n"
        )
    return "".join(f"\n{one}" for one in said)


def _examples(text: Callable[..., str], module: str, kinds: Sequence[str]) -> str:
    """The module that writes tiny checkpoints."""
    made = {"decoder": ("ByteGru", "DECODERS"), "encoder": ("LogMelEncoder", "ENCODERS")}
    there = [kind for kind in made if kind in kinds]
    imports = "\n".join(f"from {module}.{kind} import {made[kind][0]}" for kind in there)
    makers = "\n\n".join(text(f"examples-{kind}.txt") for kind in reversed(there)) + "\n"
    table = ", ".join(f"**{made[kind][1]}" for kind in reversed(there))
    return text("examples.py.txt", imports=imports, makers=makers, table=table)


def _template(name: str) -> str:
    return resources.files("nuebridge.scaffold").joinpath("templates", name).read_text(encoding="utf-8")
