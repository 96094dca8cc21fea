"""`nuebridge plugins new`: the package that it writes is complete, and works before anybody has touched it."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nuebridge.cli import main
from nuebridge.errors import ConfigError
from nuebridge.hookspecs import CONTRACT_VERSION, Component
from nuebridge.plugins import HOOKS, PluginManager
from nuebridge.scaffold import KINDS, NewPlugin, PackageNames, check_free, chosen_kinds, new_plugin, render
from tests.distributions import bridge, temporary_site
from tests.tones import write_tone

ROOT = Path(__file__).parent.parent
PARTS = ("encoder", "bridge", "decoder")
CHOICES = [(kind,) for kind in KINDS] + [("encoder", "decoder"), tuple(KINDS)]
SHORT, LONG = PackageNames.parse("a"), PackageNames.parse("nuebridge-abcdefghij-klmnopqrst")


@pytest.fixture(autouse=True)
def no_registry_of_mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUEBRIDGE_CONFIG_DIR", str(tmp_path / "no-configuration"))


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(map(str, arguments)))
    return int(left.value.code or 0)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "module", "plugin"),
        [
            ("stack", "stack", "stack"),
            ("my-bridge-2", "my_bridge_2", "my-bridge-2"),
            ("nuebridge-x", "nuebridge_x", "x"),
        ],
    )
    def test_one_name_gives_all(self, name: str, module: str, plugin: str) -> None:
        names = PackageNames.parse(name)
        assert (names.distribution, names.module, names.plugin) == (name, module, plugin)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("My_Plugin", "'my-plugin' would do"),
            ("2-fast", "'fast' would do"),
            ("-x-", "'x' would do"),
            ("", "lower-case words joined by hyphens"),
            ("a/b", "'a-b' would do"),
            ("x" * 33, "has 33 characters; take one of at most 32"),
            ("nuebridge", "which is nuebridge's own"),
            ("nuebridge-nuebridge", "leaves 'nuebridge' for the plugin"),
            ("lambda", "a module cannot be called 'lambda'; try 'nuebridge-lambda'"),
            ("tests", "a module cannot be called 'tests'"),
            ("json", "'json' is a module of Python's standard library; try 'nuebridge-json'"),
        ],
    )
    def test_what_cannot_be_a_name(self, name: str, message: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(message)):
            PackageNames.parse(name)

    def test_what_is_taken(self, tmp_path: Path) -> None:
        with temporary_site(tmp_path) as site:
            site.plugin("taken", bridge(), distribution="Some-Thing", version="2.5")
            (tmp_path / "lonely.py").write_text("")
            manager = PluginManager.discover({}, path=site.path)
            for name, message in (
                (
                    "nuebridge-taken",
                    "a plugin 'taken' is installed already, by Some-Thing 2.5; .*pip uninstall Some-Th",
                ),
                ("some-thing", "'some-thing' is installed already"),
                ("lonely", "there is a module 'lonely' already.*nuebridge-lonely"),
                ("torch", "'torch' is installed already"),
            ):
                with pytest.raises(ConfigError, match=message):
                    check_free(PackageNames.parse(name), manager)
            check_free(PackageNames.parse("free"), manager)

    def test_a_folder_of_that_name_is_not_a_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "empty-yet").mkdir()
        (tmp_path / "empty_yet").mkdir()
        monkeypatch.syspath_prepend(tmp_path)
        check_free(PackageNames.parse("empty-yet"), PluginManager([]))


class TestWriting:
    def test_every_hook_has_a_kind(self) -> None:
        assert {kind.hook: kind.record for kind in KINDS.values()} == {
            hook: record.__name__ for hook, record in HOOKS.items()
        }

    def test_a_kind_brings_what_it_needs(self) -> None:
        assert chosen_kinds(()) == (("bridge",), ())
        assert chosen_kinds(["decoder", "encoder"]) == (("encoder", "decoder"), ())
        assert chosen_kinds(["bench-baseline"]) == ((*PARTS, "bench-baseline"), PARTS)

    def test_a_folder_that_is_not_empty_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/notes.txt").write_text("keep me")
        (tmp_path / "file").write_text("keep me too")
        for name, message in (("mine", "is not empty"), ("file", "is not a folder")):
            with pytest.raises(ConfigError, match=f"{name} exists and {message}"):
                new_plugin(SHORT, [], tmp_path / name)
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "mine", "notes.txt"]

    def test_an_empty_folder_is_filled(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        written = new_plugin(SHORT, [], tmp_path / "empty")
        there = {str(p.relative_to(tmp_path / "empty")) for p in (tmp_path / "empty").rglob("*") if p.is_file()}
        assert there == set(written.files)
        assert [p.name for p in tmp_path.iterdir()] == ["empty"]

    def test_what_cannot_be_written_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="choose another --output"):
            new_plugin(SHORT, [], tmp_path / "file/below")
        assert [p.name for p in tmp_path.iterdir()] == ["file"]

    def test_the_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert call("plugins", "new", "fresh-one") == 0
        said = capsys.readouterr().out
        assert "the plugin 'fresh-one' is written to fresh-one, with: bridge\n" in said
        assert "  src/fresh_one/bridge.py\n" in said
        assert "pip install -e '.[dev]'" in said
        assert call("plugins", "new", "fresh-one") == 2
        assert "error: fresh-one exists and is not empty" in capsys.readouterr().err
        assert call("plugins", "new", "another", "--bench-baseline", "--output", tmp_path / "deep/down") == 0
        assert "(encoder, bridge, decoder: because bench-baseline needs them)" in capsys.readouterr().out
        assert (tmp_path / "deep/down/src/another/baseline.py").is_file()
        assert call("plugins", "new", "Wrong Name") == 2
        assert "error: a plugin cannot be called 'Wrong Name'" in capsys.readouterr().err

    def test_it_needs_no_torch(self, tmp_path: Path) -> None:
        code = (
            "import sys; from nuebridge.cli import main\n"
            "try: main(['plugins', 'new', 'light', '--output', sys.argv[1]])\n"
            "finally: print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "False", done.stderr


def third_party(source: str, own: str) -> set[str]:
    """First parts of the modules that a source imports, anywhere in it, without the standard library's."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {own}


@pytest.mark.parametrize("kinds", CHOICES, ids="+".join)
class TestPackage:
    def test_it_declares_what_it_imports(self, kinds: tuple[str, ...]) -> None:
        files = render(LONG, chosen_kinds(kinds)[0])
        project = tomllib.loads(files["pyproject.toml"])["project"]
        declared = {re.split(r"[<>=]", one)[0] for one in project["dependencies"]}
        sources = [text for name, text in files.items() if name.startswith("src/") and name.endswith(".py")]
        assert declared == {"nuebridge"} | set().union(*(third_party(text, LONG.module) for text in sources))
        assert project["entry-points"] == {"nuebridge": {LONG.plugin: LONG.module}}

    def test_its_entry_module_is_light(self, kinds: tuple[str, ...]) -> None:
        tree = ast.parse(render(SHORT, chosen_kinds(kinds)[0])["src/a/__init__.py"])
        top = "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
        assert third_party(top, "a") == {"nuebridge"}
        assert "a.options" in top or "bridge" not in kinds

    def test_every_record_says_its_contract_version(self, kinds: tuple[str, ...]) -> None:
        source = render(SHORT, kinds)["src/a/__init__.py"]
        assert source.count(f"contract_version={CONTRACT_VERSION},") == source.count("@hookimpl") == len(kinds)

    @pytest.mark.parametrize("names", [SHORT, LONG], ids=["short", "long"])
    def test_ruff_finds_nothing(self, kinds: tuple[str, ...], names: PackageNames, tmp_path: Path) -> None:
        written = new_plugin(names, kinds, tmp_path / "new")
        program = shutil.which("ruff", path=str(Path(sys.executable).parent))
        if program is None:
            pytest.skip("ruff is not installed in this environment")
        for arguments in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
            done = subprocess.run([program, *arguments, "."], cwd=written.folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewPlugin]:
    """A package with everything, and metadata beside its modules as an installation leaves it."""
    folder = tmp_path_factory.mktemp("whole") / "package"
    written = new_plugin(PackageNames.parse("nuebridge-fresh"), list(KINDS), folder)
    with temporary_site(folder / "src") as site:
        site.install("nuebridge-fresh", {"fresh": "nuebridge_fresh"}, {})
        yield written


def test_all_its_components_are_found(whole: NewPlugin) -> None:
    manager = PluginManager.discover({"NUEBRIDGE_STRICT": "1"}, path=[str(whole.folder / "src")])
    assert {type(ref.record) for ref in manager.refs(Component)} == set(HOOKS.values())


def test_its_own_tests_pass(whole: NewPlugin) -> None:
    path = os.pathsep.join([str(whole.folder / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=whole.folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_conformance.py" not in done.stdout  # nothing of it is told of: neither failed nor in error


def test_it_transcribes(
    whole: NewPlugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the names of a registry file, all within this process."""
    from random import Random

    from nuebridge_fresh.examples import main as write_examples  # type: ignore[import-not-found]

    monkeypatch.chdir(tmp_path)
    write_examples(tmp_path / "checkpoints")
    (tmp_path / "registry.yaml").write_text(
        "encoders:\n  ears: {component: fresh.log-mel, source: ./checkpoints/log-mel}\n"
        "bridges:\n  between: {component: fresh.gated-linear, options: {factor: 4}}\n"
    )
    recording = write_tone(tmp_path / "tone.wav", 200, 1.0, Random(0))
    parts = ["--encoder", "ears", "--bridge", "between", "--decoder", "checkpoints/byte-gru"]
    assert call("compose", *parts, "--ctc-head", "fresh-letters", "--output", "model") == 0
    capsys.readouterr()
    words = ["transcribe", recording, "--model", "./model", "--max-new-tokens", "6", "--format", "json"]
    assert call(*words) == 0
    said = json.loads(capsys.readouterr().out)
    assert json.dumps(said).count('"text"') >= 1
    assert call("fresh-loudness", recording) == 0
    assert "1.00 s, mean -" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_from_nothing_to_a_transcript_in_one_script(tmp_path: Path) -> None:
    """In an environment of its own, which sees the libraries of this one and nothing else; no index is asked."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    for old in site.glob("setuptools*"):  # Python 3.11's own, in the way of the one that the libraries ask for
        shutil.rmtree(old)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in libraries))
    program = environment / "bin/nuebridge"
    program.write_text(f"#!{environment}/bin/python\nfrom nuebridge.cli import main\nmain()\n")
    program.chmod(0o755)
    shutil.copy(ROOT / "plugins/nuebridge-tiny/src/nuebridge_tiny/sample.wav", tmp_path / "sample.wav")
    (tmp_path / "work").mkdir()
    folders = [str(environment / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    done = subprocess.run(
        ["bash", ROOT / "tests/install/new_plugin.sh", tmp_path / "sample.wav"],
        cwd=tmp_path / "work",
        env={
            **os.environ,
            "PATH": os.pathsep.join(folders),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "false",  # as pip reads it: without isolation
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Success: no issues found in \d+ source files", done.stdout)
    assert re.search(r"\d+ passed", done.stdout)
    assert "first  (nuebridge-first 0.1.0)" in done.stdout
    assert re.search(r"sample\.wav: [\d.]+ s, mean -[\d.]+ dBFS", done.stdout.splitlines()[-1])
