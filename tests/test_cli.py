"""The program's frame: its verbs for plugins and the registry, verbs that plugins add, and how errors leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from nuebridge.cli import main
from nuebridge.cli._context import CliContext
from nuebridge.cli._plugins import print_plugins
from nuebridge.plugins import PluginManager
from tests.distributions import Site, bridge, temporary_site

COMMAND = '''
from typing import Annotated
import typer
from nuebridge.hookspecs import CliCommand, hookimpl

def load():
    {before}
    def {name}(ctx: typer.Context, word: Annotated[str, typer.Option(help="A word.")] = "hi") -> None:
        """Says a word, at length."""
        typer.echo(f"{{word}} to {{len(ctx.obj.manager.reports())}} plugins")
    return {name}

@hookimpl
def nuebridge_cli_commands():
    return [CliCommand(name="{name}", summary="Says a word.", load=load)]
'''


@dataclass
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Program:
    """The program in this process, in an empty folder, with an empty user configuration."""

    def __init__(self, capsys: pytest.CaptureFixture[str], site: Site) -> None:
        self.capsys = capsys
        self.site = site

    def __call__(self, *arguments: str) -> Done:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        captured = self.capsys.readouterr()
        return Done(int(left.value.code or 0), captured.out, captured.err)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Program]:
    for name in ("site", "config", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("NUEBRIDGE_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("NUEBRIDGE_STRICT", "NUEBRIDGE_DISABLE", "NUEBRIDGE_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    with temporary_site(tmp_path / "site") as site:
        yield Program(capsys, site)


def own(done: Done, *names: str) -> list[dict[str, Any]]:
    """Of `plugins --json`, the plugins of the test; others may be installed."""
    return [plugin for plugin in done.json if plugin["name"] in names]


class TestPlugins:
    def test_json(self, program: Program) -> None:
        program.site.plugin("alpha-test", bridge())
        program.site.plugin("beta-test", "import a_library_that_is_missing\n", version="2.0")
        expected = [
            {
                "name": "alpha-test",
                "distribution": "nuebridge-alpha-test",
                "version": "1.0.0",
                "state": "loaded",
                "reason": None,
                "components": [{"id": "alpha-test.one", "kind": "bridge", "summary": "A bridge."}],
            },
            {
                "name": "beta-test",
                "distribution": "nuebridge-beta-test",
                "version": "2.0",
                "state": "failed",
                "reason": "importing nuebridge_beta_test_entry raised ModuleNotFoundError: "
                "No module named 'a_library_that_is_missing'",
                "components": [],
            },
        ]
        for arguments in (("plugins", "--json"), ("plugins", "list", "--json"), ("plugins", "--json", "list")):
            done = program(*arguments)
            assert (done.status, done.err) == (0, "")
            assert own(done, "alpha-test", "beta-test") == expected

    def test_text(self, program: Program) -> None:
        program.site.plugin("alpha-test", bridge())
        program.site.plugin("beta-test", "1 / 0\n")
        done = program("plugins")
        assert done == program("plugins", "list")
        assert (done.status, done.err) == (0, "")
        lines = done.out.splitlines()
        start = lines.index("alpha-test  (nuebridge-alpha-test 1.0.0)")
        assert lines[start + 1] == "  alpha-test.one  bridge  A bridge."
        assert lines[start + 2].startswith(
            "beta-test  (nuebridge-beta-test 1.0.0)  failed: importing nuebridge_beta_test_entry raised ZeroDivision"
        )

    def test_none_installed(self, capsys: pytest.CaptureFixture[str]) -> None:
        context = CliContext()
        context.manager = PluginManager([])
        print_plugins(context, as_json=False)
        assert 'No plugin is installed: `pip install "nuebridge[all]"`' in capsys.readouterr().out

    def test_disabling_what_is_not_there_is_told(self, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NUEBRIDGE_DISABLE", "no-such-plugin")
        assert "warning: NUEBRIDGE_DISABLE names 'no-such-plugin': no such plugin" in program("plugins").err


class TestBrokenPlugin:
    def test_other_commands_go_on_with_one_line(self, program: Program) -> None:
        program.site.plugin("bad-test", "raise ValueError('out of\\norder')\n")
        program.site.plugin("worse-test", "import a_library_that_is_missing\n")
        done = program("registry", "list", "--json")
        assert done.status == 0
        assert "nue-asr" in done.json["integrations"]
        (warning,) = [line for line in done.err.splitlines() if "bad-test" in line]
        assert warning.startswith("warning: plugin 'bad-test' (nuebridge-bad-test 1.0.0) is not in use: ")
        assert "ValueError: out of order; plugin 'worse-test' " in warning
        assert warning.endswith("; see `nuebridge plugins`")

    def test_a_plugin_without_commands_does_not_show_in_help(self, program: Program) -> None:
        program.site.plugin("bad-test", "raise ValueError\n")
        done = program("--help")
        assert (done.status, done.err) == (0, "")

    def test_strict(self, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
        program.site.plugin("bad-test", "raise ValueError('out of order')\n")
        monkeypatch.setenv("NUEBRIDGE_STRICT", "1")
        for arguments in (("plugins",), ("registry", "list"), ("--help",)):
            done = program(*arguments)
            assert done.status == 2
            assert "Traceback" in done.err and "nuebridge_bad_test_entry.py" in done.err
            assert done.err.splitlines()[-1].startswith(
                "error: plugin 'bad-test' (nuebridge-bad-test 1.0.0) is not in use"
            )


class TestContributedCommand:
    def test_it_runs_and_is_listed(self, program: Program) -> None:
        program.site.plugin("talk-test", COMMAND.format(name="greet", before="pass"))
        assert "  greet       Says a word." in program("--help").out.splitlines()
        done = program("greet", "--word", "hello")
        assert done.status == 0
        assert done.out.startswith("hello to ")

    def test_its_own_help(self, program: Program) -> None:
        program.site.plugin("talk-test", COMMAND.format(name="greet", before="pass"))
        out = program("greet", "--help").out
        assert "Usage: nuebridge greet [OPTIONS]" in out
        assert "Says a word, at length." in out
        assert "--word" in out

    def test_to_list_it_does_not_load_it(self, program: Program) -> None:
        program.site.plugin("talk-test", COMMAND.format(name="greet", before="import a_library_that_is_missing"))
        assert program("--help").status == 0
        done = program("greet")
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith(
            "error: plugin 'talk-test' (nuebridge-talk-test 1.0.0) could not load 'talk-test.greet'"
        )
        assert done.err.count("\n") == 1

    def test_two_of_one_name(self, program: Program) -> None:
        program.site.plugin("talk-test", COMMAND.format(name="greet", before="pass"))
        program.site.plugin("walk-test", COMMAND.format(name="greet", before="pass"))
        assert "Added by more than one plugin: talk-test, walk-test." in program("--help").out
        done = program("greet")
        assert done.status == 2
        assert "'talk-test' (nuebridge-talk-test 1.0.0) and 'walk-test' (nuebridge-walk-test 1.0.0)" in done.err
        assert "set NUEBRIDGE_DISABLE=walk-test" in done.err

    def test_one_that_nuebridge_has_itself(self, program: Program) -> None:
        program.site.plugin("talk-test", COMMAND.format(name="registry", before="pass"))
        done = program("--help")
        assert "warning: the command 'registry' of plugin 'talk-test' is left out" in done.err
        assert done.out.count("  registry ") == 1

    def test_one_that_only_importing_shows(self, program: Program) -> None:
        source = COMMAND.format(name="greet", before="pass")
        hidden = source.replace("def nuebridge_cli_commands", "def hidden").replace(
            "@hookimpl", "@hookimpl(specname='nuebridge_cli_' + 'commands')"
        )
        program.site.plugin("talk-test", hidden)
        assert program("greet").status == 0


class TestRegistry:
    def test_list_json(self, program: Program) -> None:
        done = program("registry", "list", "--json")
        assert done.status == 0
        assert list(done.json) == [
            *("encoders", "bridges", "decoders", "ctc_heads", "integrations"),
            *("default_integration", "problems"),
        ]
        entry = done.json["bridges"]["conv-4x"]
        assert (entry["layer"], entry["component"]) == ("packaged", "bridges.conv")
        assert entry["options"] == {"kernel_sizes": [4, 4], "strides": [2, 2]}
        lines = Path(entry["file"]).read_text(encoding="utf-8").splitlines()
        assert lines[entry["line"] - 1] == "  conv-4x:"
        assert {"severity", "file", "line", "key", "message"} == set(done.json["problems"][0])

    def test_list_text_warns_of_what_is_not_pinned(self, program: Program) -> None:
        done = program("registry", "list")
        assert done.status == 0
        assert "  gpt2 " in done.out
        (warning,) = [line for line in done.err.splitlines() if "no revision is pinned" in line]
        assert "decoders.gpt2" in warning and "integrations.nue-asr.weights" in warning

    def test_a_broken_file_of_the_user_is_an_error(self, program: Program, tmp_path: Path) -> None:
        (tmp_path / "config" / "registry.yaml").write_text("bridges:\n  x: {component: a.b, colour: red}\nfoo: 1\n")
        for arguments in (("list",), ("show", "conv-4x"), ("list", "--json")):
            done = program("registry", *arguments)
            assert (done.status, done.out) == (2, "")
            assert done.err.splitlines()[0] == "error: 2 errors"
            assert "config/registry.yaml:2: bridges.x.colour: unknown key (allowed: component, options," in done.err
            assert "config/registry.yaml:3: foo: unknown key" in done.err

    def test_registry_option(self, program: Program, tmp_path: Path) -> None:
        for name in "ab":
            (tmp_path / f"{name}.yaml").write_text(f"bridges:\n  bridge-{name}: {{component: x.y}}\n")
        files = [option for name in "ab" for option in ("--registry", str(tmp_path / f"{name}.yaml"))]
        names = list(program("registry", "list", "--json", *files).json["bridges"])
        assert names[:2] == ["bridge-a", "bridge-b"]
        assert "conv-4x" in names

    def test_show(self, program: Program) -> None:
        done = program("registry", "show", "nue-asr")
        assert done.status == 0
        first, *rest = done.out.splitlines()
        assert first.startswith("integrations.nue-asr  (packaged, ")
        assert "  encoder: japanese-hubert-base" in rest
        assert '  weights: {"source": "rinna/nue-asr"}' in rest
        assert done.err.splitlines()[-1].startswith("warning: ")
        assert "integrations.nue-asr.weights.revision: no revision is pinned" in done.err
        assert "gpt2" not in done.err

    def test_show_json_of_a_name_in_two_sections(self, program: Program, tmp_path: Path) -> None:
        (tmp_path / "work" / "registry.yaml").write_text("bridges:\n  gpt2: {component: x.y}\n")
        shown = program("registry", "show", "gpt2", "--json").json
        assert [(one["section"], one["name"], one["layer"]) for one in shown] == [
            ("bridges", "gpt2", "folder"),
            ("decoders", "gpt2", "packaged"),
        ]

    def test_show_unknown(self, program: Program) -> None:
        done = program("registry", "show", "nue-asrr")
        assert done.status == 2
        assert done.err.startswith("error: no 'nue-asrr' in the registry (known: ")
        assert done.err.rstrip().endswith("did you mean 'nue-asr'?)")

    GOOD = (
        "bridges:\n  mine: {component: span-test.one}\n"
        "integrations:\n  i: {encoder: wav2vec2-base, bridge: mine, decoder: gpt2}\n"
    )

    def test_check_good(self, program: Program, tmp_path: Path) -> None:
        program.site.plugin("span-test", bridge())
        (tmp_path / "r.yaml").write_text(self.GOOD)
        done = program("registry", "check", str(tmp_path / "r.yaml"))
        assert (done.status, done.out, done.err) == (0, f"{tmp_path}/r.yaml: 2 entries, no errors\n", "")
        done = program("registry", "check", str(tmp_path / "r.yaml"), "--json")
        assert done.json == {"file": f"{tmp_path}/r.yaml", "ok": True, "errors": [], "warnings": []}

    def test_check_bad(self, program: Program, tmp_path: Path) -> None:
        """Of every stage: the file's own shape, what it names, and the options of its components."""
        program.site.plugin("span-test", bridge())
        text = self.GOOD.replace("wav2vec2-base", "wav2vec2-bsae").replace(".one}", ".one, options: {x: 1}}")
        (tmp_path / "r.yaml").write_text(text + "  j: {encodr: x}\n")
        done = program("registry", "check", str(tmp_path / "r.yaml"))
        assert (done.status, done.out) == (2, "")
        assert done.err.splitlines()[0] == "error: 3 errors"
        assert f"{tmp_path}/r.yaml:2: bridges.mine.options.x: unknown key (allowed: none)" in done.err
        assert f"{tmp_path}/r.yaml:4: integrations.i.encoder: no encoder 'wav2vec2-bsae' in the registry" in done.err
        assert "did you mean 'wav2vec2-base'?" in done.err
        assert f"{tmp_path}/r.yaml:5: integrations.j.encodr: unknown key" in done.err

        done = program("registry", "check", str(tmp_path / "r.yaml"), "--json")
        assert (done.status, done.err) == (2, "")
        assert done.json["ok"] is False
        assert [(error["line"], error["key"]) for error in done.json["errors"]] == [
            (5, "integrations.j.encodr"),
            (2, "bridges.mine.options.x"),
            (4, "integrations.i.encoder"),
        ]

    def test_check_tells_of_a_broken_file_of_the_user_too(self, program: Program, tmp_path: Path) -> None:
        (tmp_path / "config" / "registry.yaml").write_text("foo: 1\n")
        (tmp_path / "r.yaml").write_text(self.GOOD)
        done = program("registry", "check", str(tmp_path / "r.yaml"))
        assert done.status == 2
        assert "config/registry.yaml:1: foo: unknown key" in done.err

    def test_check_of_a_file_that_is_not_there(self, program: Program, tmp_path: Path) -> None:
        done = program("registry", "check", str(tmp_path / "r.yaml"))
        assert (done.status, done.err) == (2, f"error: {tmp_path}/r.yaml: no such file\n")

    def test_check_warns_of_the_checked_file_only(self, program: Program, tmp_path: Path) -> None:
        (tmp_path / "r.yaml").write_text("decoders:\n  d: {component: none-test.x, source: org/d}\n")
        done = program("registry", "check", str(tmp_path / "r.yaml"))
        assert done.status == 0
        assert [line.split(": ")[1:3] for line in done.err.splitlines()] == [
            [f"{tmp_path}/r.yaml:2", "decoders.d.component"],
            [f"{tmp_path}/r.yaml:2", "decoders.d.revision"],
        ]


class TestFrame:
    def test_version(self, program: Program) -> None:
        assert program("--version").out == f"nuebridge {version('nuebridge')}\n"

    def test_no_traceback_unless_asked_for(self, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
        done = program("registry", "show", "x")
        assert done.err.startswith("error: ") and done.err.count("\n") == 1
        monkeypatch.setenv("NUEBRIDGE_TRACEBACK", "1")
        done = program("registry", "show", "x")
        assert done.status == 2
        assert done.err.startswith("Traceback ") and "\nerror: no 'x' in the registry" in done.err

    def test_usage_errors(self, program: Program) -> None:
        done = program("no-such-verb")
        assert (done.status, done.out) == (2, "")
        assert "No such command 'no-such-verb'" in done.err
        assert program("registry", "list", "--no-such-option").status == 2
