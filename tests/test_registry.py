"""The registry: layers, names, places, and everything that can be wrong with a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nuebridge.config import Problem, parse_yaml
from nuebridge.errors import PluginError, RegistryError
from nuebridge.plugins import PluginManager
from nuebridge.registry import (
    BridgeEntry,
    CtcHeadEntry,
    DecoderEntry,
    EncoderEntry,
    Layer,
    Registry,
    default_layers,
    is_local,
    packaged_file,
)
from nuebridge.registry.entries import RegistryContents
from nuebridge.settings import PromptTemplate
from tests.distributions import Site, temporary_site

PARTS = """
from nuebridge.hookspecs import *
from nuebridge.settings import Settings

class BridgeOptions(Settings):
    width: int = 1

class PierOptions(Settings):
    depth: int

@hookimpl
def nuebridge_speech_encoders():
    return [SpeechEncoderComponent(name="ears", summary="", load=lambda: dict, model_types=("ears",))]

@hookimpl
def nuebridge_bridges():
    return [
        BridgeComponent(name="span", summary="", load=lambda: dict, options=BridgeOptions),
        BridgeComponent(name="pier", summary="", load=lambda: dict, options=PierOptions),
    ]

@hookimpl
def nuebridge_text_decoders():
    return [TextDecoderComponent(name="pen", summary="", load=lambda: dict, model_types=("*",))]
"""

WHOLE = """
encoders:
  ears: {component: parts.ears, source: org/ears, revision: abc}
bridges:
  span: {component: parts.span, options: {width: 2}}
decoders:
  pen: {component: parts.pen, source: org/pen, revision: abc}
ctc_heads:
  letters: {vocabulary: {symbols: abc}}
integrations:
  whole:
    encoder: ears
    bridge: span
    decoder: pen
    ctc_head: letters
    prompt: {prefix: "<s>"}
    max_new_tokens: {per_second: 4, plus: 20.5}
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    with temporary_site(folder) as site:
        yield site


@pytest.fixture
def manager(site: Site) -> PluginManager:
    site.plugin("parts", PARTS)
    return PluginManager.discover({"NUEBRIDGE_STRICT": "1"}, path=site.path)


@pytest.fixture
def nothing(tmp_path: Path) -> PluginManager:
    """No plugin."""
    return PluginManager.discover({}, path=[str(tmp_path / "nowhere")])


class Files:
    """Registry files in a folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def layer(self, name: str, text: str, optional: bool = False) -> Layer:
        file = self.folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return Layer(name, file, optional)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "files")


def strings(problems: list[Problem], files: Files) -> list[str]:
    """Problems with their file's name only."""
    return [f"{one.severity}: {one}".replace(f"{files.folder}/", "") for one in problems]


def pen(source: str, more: str = "") -> str:
    return f"decoders:\n  pen: {{component: parts.pen, source: {source}, revision: abc{more}}}\n"


class TestEntries:
    def test_values(self, files: Files) -> None:
        registry = Registry([files.layer("a", WHOLE)])
        assert registry.errors == []
        assert registry.encoder("ears") == EncoderEntry(component="parts.ears", source="org/ears", revision="abc")
        assert registry.bridge("span") == BridgeEntry(component="parts.span", options={"width": 2})
        assert registry.decoder("pen").source == "org/pen"
        assert registry.ctc_head("letters").vocabulary.symbols == ("a", "b", "c")
        whole = registry.integration("whole")
        assert (whole.encoder, whole.bridge, whole.decoder, whole.ctc_head) == ("ears", "span", "pen", "letters")
        assert whole.prompt == PromptTemplate(prefix="<s>")
        assert whole.max_new_tokens.tokens(2.0) == 28
        assert whole.weights is None

    def test_unknown_name_with_the_nearest(self, files: Files) -> None:
        registry = Registry([files.layer("a", WHOLE)])
        message = r"^no encoder 'eras' in the registry \(known: ears; did you mean 'ears'\?\)$"
        with pytest.raises(RegistryError, match=message):
            registry.encoder("eras")
        assert registry.unknown("ctc_heads", "x") == "no CTC head 'x' in the registry (known: letters)"

    def test_unknown_section(self, files: Files) -> None:
        with pytest.raises(RegistryError, match=r"no section 'encoder' .*did you mean 'encoders'"):
            Registry([]).names("encoder")

    def test_sources_are_relative_to_the_file(self, files: Files) -> None:
        text = (
            "encoders:\n  near: {component: parts.ears, source: ./ears}\n"
            "  up: {component: parts.ears, source: ../ears}\n"
            "  hub: {component: parts.ears, source: org/ears}\n"
            "integrations:\n  i: {weights: {source: ./all}}\n"
            "  j: {encoder: 'parts.ears:./e', bridge: span, decoder: ./d}\n"
        )
        registry = Registry([files.layer("deep/a", text)])
        here = files.folder.resolve()
        assert registry.encoder("near").source == str(here / "deep/ears")
        assert registry.encoder("up").source == str(here / "ears")
        assert registry.encoder("hub").source == "org/ears"
        weights = registry.integration("i").weights
        assert weights is not None and weights.source == str(here / "deep/all")
        assert registry.integration("j").encoder == f"parts.ears:{here / 'deep/e'}"
        assert registry.integration("j").decoder == str(here / "deep/d")

    def test_is_local(self) -> None:
        assert [is_local(text) for text in ("./a", "../a", "/a", "~/a", ".", "a", "a/b", ".a/b")] == [True] * 5 + [
            False
        ] * 3

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("encoder: {}", "a.yaml:1: encoder: unknown key (allowed: encoders, bridges, decoders, ctc_heads, integ"),
            ("encoders:\n  Ears: {component: a.b, source: a/b}", "a.yaml:2: encoders.Ears: 'Ears' is not a kebab-case"),
            ("encoders:\n  e: {source: a/b}", "a.yaml:2: encoders.e.component: is missing"),
            ("encoders:\n  e: {component: a.b}", "a.yaml:2: encoders.e.source: is missing"),
            ("encoders:\n  e: {component: ab, source: a/b}", "encoders.e.component: 'ab' is not the id of a component"),
            (
                "encoders:\n  e:\n    component: a.b\n    source: a/b/c",
                "a.yaml:4: encoders.e.source: 'a/b/c' is neither",
            ),
            (
                "encoders:\n  e: {component: a.b, source: a/b, hidden_size: 3}",
                "e.hidden_size: unknown key (allowed: comp",
            ),
            (
                "bridges:\n  b: {component: a.b, source: a/b}",
                "a.yaml:2: bridges.b.source: unknown key (allowed: component",
            ),
            ("bridges:\n  b: 3", "a.yaml:2: bridges.b: should be a mapping of keys, not 3"),
            ("ctc_heads:\n  c: {vocabulary: {symbols: aba}}", "c.vocabulary.symbols: a symbol is listed twice"),
            (
                "integrations:\n  i: {encoder: e}",
                "a.yaml:2: integrations.i: bridge, decoder missing; only a checkpoint",
            ),
            (
                "integrations:\n  i: {weights: {source: a/b, rev: x}}",
                "integrations.i.weights.rev: unknown key (allowed: s",
            ),
            ("integrations:\n  i: {weights: {source: a/b}, max_audio_seconds: 0}", "should be greater than 0, not 0"),
            ("default_integration: A", "a.yaml:1: default_integration: 'A' is not a kebab-case name"),
        ],
    )
    def test_mistake(self, files: Files, text: str, message: str) -> None:
        (problem,) = strings(Registry([files.layer("a", text)]).errors, files)
        assert message in problem

    def test_all_mistakes_of_all_files_are_one_error(self, nothing: PluginManager, tmp_path: Path) -> None:
        first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
        first.write_text("bridges:\n  b: {componet: a.b}\nencodrs: {}\n")
        second.write_text("decoders: [\n")
        with pytest.raises(RegistryError) as caught:
            Registry.load(nothing, [first, second], environ={"NUEBRIDGE_CONFIG_DIR": "/none"}, folder=tmp_path)
        count, *lines = str(caught.value).split("\n  ")
        assert count == "4 errors"
        assert [line.replace(f"{tmp_path}/", "").split(": ")[0] for line in lines] == [
            "a.yaml:2",
            "a.yaml:2",
            "a.yaml:3",
            "b.yaml:2",
        ]


class TestLayers:
    def test_later_layers_add(self, files: Files) -> None:
        registry = Registry([files.layer("a", WHOLE), files.layer("b", "bridges:\n  other: {component: parts.span}\n")])
        assert registry.names("bridges") == ["other", "span"]
        assert [one.layer.label for one in registry.entries("bridges")] == ["b", "a"]

    def test_replacing_must_be_said(self, files: Files) -> None:
        registry = Registry([files.layer("a", pen("org/one")), files.layer("b", "\n" + pen("org/two"))])
        (problem,) = strings(registry.errors, files)
        assert problem == (
            "error: b.yaml:3: decoders.pen: is already at a.yaml:2; "
            "to replace it write `replaces: true`, else use another name"
        )
        assert registry.decoder("pen").source == "org/one"

    def test_replacing(self, files: Files) -> None:
        registry = Registry([files.layer("a", pen("org/one")), files.layer("b", pen("org/two", ", replaces: true"))])
        assert (registry.errors, registry.warnings) == ([], [])
        assert registry.decoder("pen").source == "org/two"

    def test_entries_that_say_the_same_are_no_clash(self, files: Files) -> None:
        registry = Registry([files.layer("a", WHOLE), files.layer("b", WHOLE)])
        assert registry.errors == []
        assert registry.entries("decoders")[0].layer.label == "a"

    def test_replacing_nothing_is_told(self, files: Files) -> None:
        registry = Registry([files.layer("a", pen("org/one", ", replaces: true"))])
        assert strings(registry.warnings, files) == [
            "warning: a.yaml:2: decoders.pen.replaces: there is nothing to replace"
        ]
        assert registry.decoder("pen").source == "org/one"

    def test_a_broken_file_of_a_plugin_is_left_out_with_a_warning(self, files: Files) -> None:
        layers = [files.layer("a", WHOLE), files.layer("plugin p", "bridges:\n  x: {component: a.b}\n  y: 3\n", True)]
        registry = Registry(layers)
        assert registry.errors == []
        assert registry.names("bridges") == ["span"]
        (warning,) = strings(registry.warnings, files)
        assert warning.startswith("warning: plugin p.yaml:3: bridges.y: ") and "(plugin p is left out)" in warning
        assert len(Registry(layers, strict=True).errors) == 1

    def test_two_plugins_that_clash(self, files: Files) -> None:
        layers = [files.layer("plugin a", pen("org/one"), True), files.layer("plugin b", pen("org/two"), True)]
        registry = Registry(layers)
        assert registry.decoder("pen").source == "org/one"
        (warning,) = strings(registry.warnings, files)
        assert "is already at plugin a.yaml:2" in warning and "(plugin b is left out)" in warning

    def test_default_integration(self, files: Files) -> None:
        plugin_a = files.layer("plugin a", "default_integration: one\n", True)
        plugin_b = files.layer("plugin b", "default_integration: two\n", True)
        own = files.layer("own", "default_integration: three\n")
        assert Registry([]).default_integration is None
        assert Registry([plugin_a]).default_integration == "one"
        assert Registry([plugin_a, own]).default_integration == "three"
        registry = Registry([plugin_a, plugin_b])
        assert registry.default_integration == "one"
        assert (
            "plugin a already has 'one': choose one in your own registry.yaml" in strings(registry.warnings, files)[0]
        )


class TestDefaultLayers:
    @pytest.fixture
    def user(self, tmp_path: Path) -> Path:
        (tmp_path / "config").mkdir()
        return tmp_path / "config"

    def test_order(self, site: Site, tmp_path: Path, user: Path) -> None:
        source = (
            "from pathlib import Path\nfrom nuebridge.hookspecs import *\n@hookimpl\ndef nuebridge_registry_files():\n"
            "    return [RegistryFile(name='r', summary='', load=lambda: Path(__file__).with_name('{0}.yaml'))]\n"
        )
        for name in ("zeta", "alpha"):
            site.plugin(name, source.format(name))
        (user / "registry.yaml").write_text("")
        (tmp_path / "registry.yaml").write_text("")
        manager = PluginManager.discover({}, path=site.path)
        environ = {"NUEBRIDGE_CONFIG_DIR": str(user)}
        layers, missing = default_layers(manager, [Path("x.yaml")], environ=environ, folder=tmp_path)
        assert [(layer.label, layer.path, layer.optional) for layer in layers] == [
            ("packaged", packaged_file(), False),
            ("plugin alpha", site.folder / "alpha.yaml", True),
            ("plugin zeta", site.folder / "zeta.yaml", True),
            ("user", user / "registry.yaml", False),
            ("folder", tmp_path / "registry.yaml", False),
            ("option", Path("x.yaml"), False),
        ]
        assert missing == []

    def test_files_that_are_not_there(self, nothing: PluginManager, tmp_path: Path, user: Path) -> None:
        """The user's need not exist; one that was named must."""
        environ = {"NUEBRIDGE_CONFIG_DIR": str(user)}
        assert len(default_layers(nothing, environ=environ, folder=tmp_path)[0]) == 1
        with pytest.raises(RegistryError, match=r"none\.yaml: no such file"):
            Registry.load(nothing, [tmp_path / "none.yaml"], environ=environ, folder=tmp_path)

    def test_in_a_checkout_the_packaged_file_counts_once(self, nothing: PluginManager, user: Path) -> None:
        environ = {"NUEBRIDGE_CONFIG_DIR": str(user)}
        folder = packaged_file().parent
        layers, _ = default_layers(nothing, [packaged_file()], environ=environ, folder=folder)
        assert [layer.label for layer in layers] == ["packaged"]
        Registry.load(nothing, environ=environ, folder=folder)

    def test_a_copy_of_the_packaged_file_is_no_clash(self, nothing: PluginManager, user: Path, tmp_path: Path) -> None:
        """As when an installed nuebridge runs inside a checkout."""
        (tmp_path / "registry.yaml").write_bytes(packaged_file().read_bytes())
        registry = Registry.load(nothing, environ={"NUEBRIDGE_CONFIG_DIR": str(user)}, folder=tmp_path)
        assert {one.layer.label for one in registry.entries("decoders")} == {"packaged"}

    def test_a_plugin_whose_file_cannot_be_had(self, site: Site, user: Path, tmp_path: Path) -> None:
        site.plugin(
            "lost",
            "from nuebridge.hookspecs import *\n@hookimpl\ndef nuebridge_registry_files():\n"
            "    return [RegistryFile(name='r', summary='', load=lambda: 1 / 0)]\n",
        )
        environ = {"NUEBRIDGE_CONFIG_DIR": str(user)}
        manager = PluginManager.discover({}, path=site.path)
        registry = Registry.load(manager, environ=environ, folder=tmp_path)
        assert "lost.r: plugin 'lost' (nuebridge-lost 1.0.0) could not load 'lost.r'" in str(registry.warnings[0])
        strict = PluginManager.discover({"NUEBRIDGE_STRICT": "1"}, path=site.path)
        with pytest.raises(PluginError, match="could not load"):
            Registry.load(strict, environ=environ, folder=tmp_path)


class TestResolve:
    @pytest.fixture
    def registry(self, files: Files) -> Registry:
        return Registry([files.layer("a", WHOLE)])

    @pytest.fixture
    def checkpoint(self, tmp_path: Path) -> Path:
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "ears"}))
        return folder

    def test_name(self, registry: Registry, manager: PluginManager) -> None:
        assert registry.resolve("encoders", "ears", manager) is registry.encoder("ears")
        assert registry.resolve("ctc_heads", "letters", manager) == CtcHeadEntry.model_validate(
            {"vocabulary": {"symbols": "abc"}}
        )

    def test_folder(self, registry: Registry, manager: PluginManager, checkpoint: Path) -> None:
        entry = registry.resolve("encoders", str(checkpoint), manager)
        assert (entry.component, entry.source) == ("parts.ears", str(checkpoint.resolve()))
        assert registry.resolve("decoders", str(checkpoint), manager).component == "parts.pen"

    def test_folder_below_the_working_one(
        self, registry: Registry, manager: PluginManager, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(checkpoint.parent)
        assert registry.resolve("encoders", "checkpoint", manager).source == str(checkpoint.resolve())
        assert registry.resolve("encoders", "parts.ears:checkpoint", manager).source == str(checkpoint.resolve())

    def test_component_and_source(self, registry: Registry, manager: PluginManager) -> None:
        entry = registry.resolve("decoders", "parts.pen:org/other", manager)
        assert entry == DecoderEntry(component="parts.pen", source="org/other")

    def test_bridge_by_component(self, registry: Registry, manager: PluginManager) -> None:
        assert registry.resolve("bridges", "parts.span", manager) == BridgeEntry(component="parts.span")

    def test_hub_id_from_the_cache(
        self, registry: Registry, manager: PluginManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The layout of the hub's own cache, read offline."""
        from huggingface_hub import constants

        repository = tmp_path / "models--org--heard"
        snapshot = repository / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        (snapshot / "config.json").write_text(json.dumps({"model_type": "ears"}))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        entry = registry.resolve("encoders", "org/heard", manager)
        assert entry == EncoderEntry(component="parts.ears", source="org/heard")
        with pytest.raises(
            RegistryError, match=r"org/unheard is neither a registry name nor a folder, .*COMPONENT:org/unh"
        ):
            registry.resolve("encoders", "org/unheard", manager)

    @pytest.mark.parametrize(
        ("section", "text", "message"),
        [
            ("encoders", "eras", "no encoder 'eras' in the registry"),
            ("ctc_heads", "org/x", "no CTC head 'org/x' in the registry"),
            ("integrations", "wohle", "no integration 'wohle' .*did you mean 'whole'"),
            ("encoders", "./nowhere", "./nowhere: no such folder"),
            ("encoders", "parts.ears:a/b/c", "'a/b/c' is neither a hub id"),
        ],
    )
    def test_nothing_that_it_can_be(
        self, registry: Registry, manager: PluginManager, section: str, text: str, message: str
    ) -> None:
        with pytest.raises(RegistryError, match=message):
            registry.resolve(section, text, manager)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "has no config.json; write COMPONENT:"),
            ("{", "cannot be read as JSON"),
            ("[]", "should hold a JSON object"),
            ("{}", "has no model_type; write COMPONENT:"),
        ],
    )
    def test_folder_that_tells_nothing(
        self, registry: Registry, manager: PluginManager, checkpoint: Path, content: str | None, message: str
    ) -> None:
        (checkpoint / "config.json").unlink()
        if content is not None:
            (checkpoint / "config.json").write_text(content)
        with pytest.raises(RegistryError, match=message):
            registry.resolve("encoders", str(checkpoint), manager)

    def test_folder_that_nobody_claims(self, registry: Registry, manager: PluginManager, checkpoint: Path) -> None:
        (checkpoint / "config.json").write_text('{"model_type": "nose"}')
        with pytest.raises(PluginError, match="no installed speech encoder claims checkpoints of model_type 'nose'"):
            registry.resolve("encoders", str(checkpoint), manager)


class TestCheck:
    def test_nothing_wrong(self, files: Files, manager: PluginManager) -> None:
        assert Registry([files.layer("a", WHOLE)]).check(manager) == []

    @pytest.mark.parametrize(
        ("old", "new", "problem"),
        [
            (
                "encoder: ears",
                "encoder: eras",
                "error: a.yaml:12: integrations.whole.encoder: no encoder 'eras' in the registry (known: ears; did you",
            ),
            (
                "bridge: span",
                "bridge: parts.spam",
                "error: a.yaml:13: integrations.whole.bridge: plugin 'parts' offers no",
            ),
            ("ctc_head: letters", "ctc_head: let", "error: a.yaml:15: integrations.whole.ctc_head: no CTC head 'let'"),
            (
                "encoder: ears",
                "encoder: 'parts.eras:org/ears'",
                "error: a.yaml:12: integrations.whole.encoder: plugin 'pa",
            ),
            (
                "encoder: ears",
                "encoder: 'gone.ears:org/ears'",
                "warning: a.yaml:12: integrations.whole.encoder: no plug",
            ),
            ("decoder: pen", "decoder: ./x", "error: a.yaml:14: integrations.whole.decoder: "),
            (
                "parts.pen, s",
                "parts.pin, s",
                "error: a.yaml:7: decoders.pen.component: plugin 'parts' offers no text dec",
            ),
            ("parts.pen, s", "parts.ears, s", "'parts.ears' is a speech encoder, not a text decoder"),
            ("parts.pen, s", "part.pen, s", "warning: a.yaml:7: decoders.pen.component: no plugin 'part' is installed"),
            (
                "width: 2",
                "widht: 2",
                "error: a.yaml:5: bridges.span.options.widht: unknown key (allowed: width; did you",
            ),
            ("width: 2", "width: x", "error: a.yaml:5: bridges.span.options.width: should be a valid integer"),
            ("span, options: {width: 2}", "pier", "error: a.yaml:5: bridges.span.options.depth: is missing"),
            (
                "bridge: span",
                "bridge: parts.pier",
                "integrations.whole.bridge: parts.pier needs options: give it an entry",
            ),
            ("bridge: span", "bridge: gone.span", "warning: a.yaml:13: integrations.whole.bridge: no plugin 'gone' is"),
            ("org/pen, revision: abc", "org/pen", "warning: a.yaml:7: decoders.pen.revision: no revision is pinned"),
            ("org/pen, revision: abc", "./pen", "error: a.yaml:7: decoders.pen.source: there is no pen"),
            (
                "prompt:",
                "weights: {source: a/b}\n    prompt:",
                "warning: a.yaml:16: integrations.whole.weights.revision: no",
            ),
        ],
    )
    def test_problem(self, files: Files, manager: PluginManager, old: str, new: str, problem: str) -> None:
        assert WHOLE.count(old) == 1
        registry = Registry([files.layer("a", WHOLE.replace(old, new))])
        assert registry.errors == []
        (found,) = strings(registry.check(manager), files)
        assert problem in found

    @pytest.mark.parametrize("encoder", ["org/ears", "parts.ears:org/ears"])
    def test_an_integration_may_name_parts_in_other_ways(
        self, files: Files, manager: PluginManager, encoder: str
    ) -> None:
        registry = Registry([files.layer("a", WHOLE.replace("encoder: ears", f"encoder: '{encoder}'"))])
        assert registry.check(manager) == []

    def test_an_entry_that_is_misstated_is_not_missing_too(self, files: Files, manager: PluginManager) -> None:
        registry = Registry([files.layer("a", WHOLE.replace("options:", "optoins:"))])
        assert len(registry.errors) == 1
        assert registry.check(manager) == []

    def test_default_integration_that_is_not_there(self, files: Files, manager: PluginManager) -> None:
        registry = Registry([files.layer("a", "default_integration: none\n")])
        assert strings(registry.check(manager), files) == [
            "error: a.yaml: default_integration: no integration 'none' in the registry (known: none)"
        ]


class TestPackagedFile:
    def test_it_is_valid(self) -> None:
        parse_yaml(packaged_file().read_text(encoding="utf-8"), RegistryContents, "registry.yaml")

    def test_its_integrations_name_what_is_there(self, nothing: PluginManager) -> None:
        problems = Registry([Layer("packaged", packaged_file())]).check(nothing)
        assert [str(problem) for problem in problems if problem.severity == "error"] == []

    def test_the_published_checkpoint(self) -> None:
        entry = Registry([Layer("packaged", packaged_file())]).integration("nue-asr")
        assert entry.weights is not None and entry.weights.source == "rinna/nue-asr"
        assert [entry.max_new_tokens.tokens(seconds) for seconds in (0.1, 1.0, 3.3)] == [20, 24, 33]
        assert entry.prompt == PromptTemplate(prefix="<s>", suffix="[SEP]")
        assert entry.min_new_tokens == 2
