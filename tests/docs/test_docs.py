"""The documentation builds, says what the code does, and its examples run."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from nuebridge.cli import main
from nuebridge.config import parse_yaml, validate
from nuebridge.plugins import HOOKS
from nuebridge.registry import SECTIONS, Registry
from nuebridge.registry.entries import RegistryContents
from nuebridge.train.config import TrainConfig
from tests.docs.blocks import PAGES, ROOT, Block, blocks, nuebridge_calls, shell_session, write_titled

SAMPLE = ROOT / "plugins/nuebridge-tiny/src/nuebridge_tiny/sample.wav"

GUIDES = ("plugins.md", "plugin-guide.md")
"""Their examples are parts of plugins: test_plugin_guide.py has them."""

python_blocks = [b for page in PAGES if page.name not in GUIDES for b in blocks(page, "python") if not b.title]
console_blocks = [b for page in PAGES for b in blocks(page, "console")]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """docs/reference/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs/reference/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def in_folder_with_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(SAMPLE, tmp_path / "sample.wav")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NUEBRIDGE_CONFIG_DIR", str(tmp_path / "no-configuration"))
    return tmp_path


def test_site_builds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site/plugins/index.html").is_file()


def test_reference_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "docs/reference/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_hook_is_in_the_guide() -> None:
    guide = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    for hook, record in HOOKS.items():
        assert f"| `{hook}` | `{record.__name__}` |" in guide
        for field in record.__dataclass_fields__:
            assert f"`{field}`" in guide, f"{record.__name__}.{field}"


def test_every_registry_key_is_explained() -> None:
    page = (ROOT / "docs/registry.md").read_text(encoding="utf-8")
    inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    words = set(re.findall(r"[\w-]+", " ".join(inline)))
    words |= set(re.findall(r"(\w+):", " ".join(block.text for block in blocks(ROOT / "docs/registry.md", "yaml"))))
    assert set(RegistryContents.model_fields) <= words
    for section, model in SECTIONS.items():
        for key in model.model_fields:
            assert key in words, f"{section}: {key}"


def test_registry_example_is_valid() -> None:
    example = blocks(ROOT / "docs/registry.md", "yaml")[0]
    parsed = parse_yaml(example.text, RegistryContents, str(example))
    assert all(getattr(parsed, section) for section in SECTIONS)


def test_registry_example_goes_beside_the_packaged_registry(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(blocks(ROOT / "docs/registry.md", "yaml")[0].text)
    with pytest.raises(SystemExit) as left:
        main(["registry", "check", str(tmp_path / "mine.yaml")])
    assert left.value.code in (0, None)


def test_training_examples_are_valid() -> None:
    whole, *fragments = blocks(ROOT / "docs/training.md", "yaml")
    parse_yaml(whole.text, TrainConfig, str(whole))
    assert fragments
    for page in ("training-data.md", "watching.md"):
        fragments += blocks(ROOT / "docs" / page, "yaml")
    for fragment in fragments:
        required = {"model": "a", "output": "b", "data": {"train": ["c"]}, "schedule": {"steps": 9999}}
        if "stages:" in fragment.text:
            del required["schedule"]
        if "cache_frozen:" in fragment.text:
            required["parts"] = {"encoder": {"train": False}}
        said = YAML(typ="safe").load(fragment.text)
        validate(merged(required, said), TrainConfig, str(fragment))


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """``more`` over ``base``, mapping by mapping."""
    both = [name for name in more if isinstance(base.get(name), dict)]
    return {**base, **more, **{name: merged(base[name], more[name]) for name in both}}


@pytest.mark.parametrize("block", python_blocks, ids=str)
def test_python_example_runs(block: Block, in_folder_with_sample: Path) -> None:
    exec(compile(block.text, str(block), "exec"), {"__name__": "example"})


@pytest.mark.parametrize("block", console_blocks, ids=str)
def test_console_example_runs(block: Block, in_folder_with_sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where an example shows output, the program prints just that; otherwise it ends well.

    Files that the page shows with their name lie in the working directory. The program runs in this
    process, which has torch already.
    """
    write_titled(block.page, in_folder_with_sample)
    for command, shown in shell_session(block):
        program, *arguments = shlex.split(command)
        assert program == "nuebridge"
        with pytest.raises(SystemExit) as end:
            main(arguments)
        printed = capsys.readouterr()
        if shown:
            assert (printed.out + printed.err).splitlines() == shown
        assert (end.value.code in (0, None)) is not any(line.startswith("error:") for line in shown), printed.err
        assert printed.out.strip() or shown or "--output-dir" in arguments


def test_examples_use_commands_and_options_that_exist(reference: ModuleType) -> None:
    known = {tuple(path): (command, context) for path, command, context in reference.commands()}
    options = {
        path: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for path, (command, _) in known.items()
    }
    calls = nuebridge_calls()
    assert len(calls) > 10
    for where, words in calls:
        size = max(n for n in range(1, len(words) + 1) if tuple(words[:n]) in known)
        path = tuple(words[:size])
        if hasattr(known[path][0], "list_commands"):
            assert len(words) == size or words[size].startswith("-"), f"{where}: no such command"
        for word in words[size:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in options[path] | {"--help"}, where


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in [*PAGES, ROOT / "plugins/nuebridge-tiny/README.md"]:
        for target in re.findall(r"(?:`|    )make ([a-z0-9-]+)", page.read_text(encoding="utf-8")):
            assert target in targets, f"{page.name}: make {target}"


def test_readme_opens_with_the_two_commands() -> None:
    title, sentence, two_commands = (ROOT / "README.md").read_text(encoding="utf-8").split("\n\n")[:3]
    assert title == "# nuebridge"
    assert sentence.count(".") == 1
    assert [line.split("  #")[0].split() for line in two_commands.splitlines()] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("*/*/README.md")], ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    """mkdocs checks those of docs/."""
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_examples_name_parts_that_exist() -> None:
    from nuebridge.plugins import PluginManager

    registry = Registry.load(PluginManager.discover())
    guide = (ROOT / "docs/plugin-guide.md").read_text(encoding="utf-8")
    own = set(re.findall(r"^  ([a-z0-9-]+): \{component", guide, re.MULTILINE))
    for where, words in nuebridge_calls():
        for option, section in (("--encoder", "encoders"), ("--bridge", "bridges"), ("--decoder", "decoders")):
            if option in words and words[1:3] != ["plugins", "new"]:  # where they take no name
                name = words[words.index(option) + 1]
                assert name in {*registry.names(section), *own}, where
