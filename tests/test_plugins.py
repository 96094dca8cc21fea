"""The plugin host, with distributions that are really there, broken in every way that the host promises to survive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nuebridge import hookspecs
from nuebridge.errors import ConfigError, PluginError
from nuebridge.hookspecs import (
    BridgeComponent,
    CheckpointFormat,
    CliCommand,
    Component,
    RegistryFile,
    SpeechEncoderComponent,
    TextDecoderComponent,
)
from nuebridge.plugins import HOOKS, PluginManager, PluginReport
from tests.distributions import Site, bridge, temporary_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with temporary_site(tmp_path) as site:
        yield site


def discover(site: Site, **environ: str) -> PluginManager:
    return PluginManager.discover(environ, path=site.path)


def only_report(site: Site) -> PluginReport:
    """The report on the one plugin that is not called 'good', which must be in use and usable all the same."""
    site.plugin("good", bridge())
    manager = discover(site)
    assert manager.find(BridgeComponent, "good.one").load() is dict
    (report,) = [report for report in manager.reports() if report.name != "good"]
    assert report.state != "loaded"
    assert report.components == ()
    assert report.reason is not None and "\n" not in report.reason
    assert manager.warnings() == [
        f"plugin {report.name!r} ({report.distribution} {report.version}) is not in use: {report.reason}"
    ]
    return report


def test_every_hook_of_the_specification_is_asked() -> None:
    specified = [name for name in vars(hookspecs) if name.startswith("nuebridge_")]
    assert sorted(HOOKS) == sorted(specified)


def test_nothing_installed(site: Site) -> None:
    manager = discover(site)
    assert (manager.reports(), manager.warnings(), manager.refs(BridgeComponent)) == ([], [], [])
    with pytest.raises(PluginError, match=r'no plugin .x. is installed .*`pip install "nuebridge\[all\]"`'):
        manager.find(BridgeComponent, "x.y")


class TestUse:
    def test_a_component_says_where_it_comes_from(self, site: Site) -> None:
        site.plugin("alpha", bridge(), distribution="Some-Thing", version="2.5")
        (report,) = discover(site).reports()
        (ref,) = report.components
        assert (report.name, report.distribution, report.version, report.state, report.reason) == (
            ("alpha", "Some-Thing", "2.5", "loaded", None)
        )
        assert (ref.id, ref.plugin, ref.distribution, ref.version) == ("alpha.one", "alpha", "Some-Thing", "2.5")
        assert ref.record.summary == "A bridge."

    def test_load_is_not_called_before_it_is_needed(self, site: Site) -> None:
        site.plugin("lazy", bridge('name="one", summary="", load=lambda: __import__("a_library_that_is_missing")'))
        manager = discover(site)
        ref = manager.find(BridgeComponent, "lazy.one")
        assert manager.warnings() == []
        message = r"plugin 'lazy' \(nuebridge-lazy 1\.0\.0\) could not load 'lazy\.one': ModuleNotFoundError: .*missing"
        with pytest.raises(PluginError, match=message) as caught:
            ref.load()
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)

    @pytest.mark.parametrize(
        ("hook", "record", "wanted"),
        [
            ("nuebridge_bridges", "BridgeComponent(load=lambda: 3, {})", "a class"),
            ("nuebridge_registry_files", 'RegistryFile(load=lambda: "r.yaml", {})', "a pathlib.Path"),
            ("nuebridge_cli_commands", "CliCommand(load=lambda: 3, {})", "a function"),
        ],
    )
    def test_load_gives_what_its_kind_says(self, site: Site, hook: str, record: str, wanted: str) -> None:
        record = record.format("name='one', summary=''")
        site.plugin("odd", f"from nuebridge.hookspecs import *\n@hookimpl\ndef {hook}():\n    return [{record}]\n")
        (ref,) = discover(site).refs(Component)
        with pytest.raises(PluginError, match=f"must return {wanted}, not "):
            ref.load()

    def test_order_is_by_plugin_then_the_plugins_own(self, site: Site) -> None:
        two = "load=dict), BridgeComponent(name='a', summary='', load=dict"
        for name in ("zeta", "beta", "alpha"):
            site.plugin(name, bridge(f"name='z', summary='', {two}"), distribution=f"x-{ord(name[0]) % 7}-{name}")
        manager = discover(site)
        assert [report.name for report in manager.reports()] == ["alpha", "beta", "zeta"]
        assert [ref.id for ref in manager.refs(BridgeComponent)] == [
            *("alpha.z", "alpha.a"),
            *("beta.z", "beta.a"),
            *("zeta.z", "zeta.a"),
        ]

    def test_options(self, site: Site) -> None:
        source = """
from nuebridge.hookspecs import BridgeComponent, hookimpl
from nuebridge.settings import Settings

class Options(Settings):
    width: int = 3

@hookimpl
def nuebridge_bridges():
    return [
        BridgeComponent(name="one", summary="", load=dict, options=Options),
        BridgeComponent(name="two", summary="", load=dict),
    ]
"""
        site.plugin("opt", source)
        manager = discover(site)
        one, two = manager.find(BridgeComponent, "opt.one"), manager.find(BridgeComponent, "opt.two")
        assert one.parse_options({"width": 5}).model_dump() == {"width": 5}
        with pytest.raises(ConfigError, match=r"^options of opt\.one: widht: unknown key .*did you mean 'width'"):
            one.parse_options({"widht": 5})
        assert two.parse_options({}).model_dump() == {}
        with pytest.raises(ConfigError, match=r"^options of opt\.two: width: unknown key \(allowed: none\)"):
            two.parse_options({"width": 5})


class TestFind:
    @pytest.fixture
    def manager(self, site: Site) -> PluginManager:
        site.plugin(
            "alpha",
            "from nuebridge.hookspecs import *\n"
            "@hookimpl\ndef nuebridge_bridges():\n    return [BridgeComponent(name='narrow', summary='', load=dict)]\n"
            "@hookimpl\ndef nuebridge_text_decoders():\n"
            "    return [TextDecoderComponent(name='writer', summary='', load=dict)]\n",
        )
        return discover(site)

    def test_unknown_component_of_a_plugin_in_use(self, manager: PluginManager) -> None:
        message = r"plugin 'alpha' offers no bridge 'alpha\.narow' \(it offers: alpha\.narrow; did you mean "
        with pytest.raises(PluginError, match=message):
            manager.find(BridgeComponent, "alpha.narow")

    def test_component_of_another_kind(self, manager: PluginManager) -> None:
        with pytest.raises(PluginError, match=r"'alpha\.writer' is a text decoder, not a bridge"):
            manager.find(BridgeComponent, "alpha.writer")

    def test_not_an_id(self, manager: PluginManager) -> None:
        with pytest.raises(PluginError, match=r"'narrow' is not the id of a bridge; ids are PLUGIN\.NAME"):
            manager.find(BridgeComponent, "narrow")

    def test_plugin_that_is_not_installed(self, manager: PluginManager) -> None:
        with pytest.raises(PluginError, match=r"no plugin 'alhpa' is installed \(installed: alpha; did you"):
            manager.find(BridgeComponent, "alhpa.narrow")

    def test_plugin_that_is_not_installed_and_was_recorded(self, manager: PluginManager) -> None:
        with pytest.raises(PluginError, match=r"'other\.narrow': run `pip install other-things`, which has"):
            manager.find(BridgeComponent, "other.narrow", distribution="other-things")

    def test_same_name_in_two_kinds(self, site: Site) -> None:
        site.plugin(
            "both",
            "from nuebridge.hookspecs import *\n"
            "@hookimpl\ndef nuebridge_bridges():\n"
            "    return [BridgeComponent(name='x', summary='', load=lambda: dict)]\n"
            "@hookimpl\ndef nuebridge_text_decoders():\n"
            "    return [TextDecoderComponent(name='x', summary='', load=lambda: list)]\n",
        )
        manager = discover(site)
        assert manager.find(BridgeComponent, "both.x").load() is dict
        assert manager.find(TextDecoderComponent, "both.x").load() is list


class TestFaults:
    """One faulty plugin beside a good one."""

    def test_import_fails(self, site: Site) -> None:
        site.plugin("bad", "import a_library_that_is_missing\n")
        report = only_report(site)
        assert report.state == "failed"
        assert report.reason == (
            "importing nuebridge_bad_entry raised ModuleNotFoundError: No module named 'a_library_that_is_missing'"
        )
        with pytest.raises(PluginError, match=r"bridge 'bad\.one': plugin 'bad' .*a_library_that_is_missing") as caught:
            discover(site).find(BridgeComponent, "bad.one")
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)

    def test_import_exits(self, site: Site) -> None:
        site.plugin("bad", "import sys\nsys.exit('no terminal\\nhere')\n")
        assert only_report(site).reason == "importing nuebridge_bad_entry raised SystemExit: no terminal here"

    def test_import_is_no_python(self, site: Site) -> None:
        site.plugin("bad", "def :\n")
        assert "SyntaxError" in str(only_report(site).reason)

    def test_entry_point_leads_nowhere(self, site: Site) -> None:
        site.install("nuebridge-bad", {"bad": "not_there"}, {})
        assert "ModuleNotFoundError: No module named 'not_there'" in str(only_report(site).reason)

    def test_hook_raises(self, site: Site) -> None:
        site.plugin("bad", "from nuebridge.hookspecs import hookimpl\n@hookimpl\ndef nuebridge_bridges():\n    1 / 0\n")
        report = only_report(site)
        assert report.reason == "its hook nuebridge_bridges raised ZeroDivisionError: division by zero"
        assert isinstance(report.cause, ZeroDivisionError)

    def test_one_raising_hook_takes_the_plugins_other_components_out(self, site: Site) -> None:
        site.plugin("bad", bridge() + "\n@hookimpl\ndef nuebridge_cli_commands():\n    1 / 0\n")
        assert "its hook nuebridge_cli_commands raised" in str(only_report(site).reason)
        assert [ref.plugin for ref in discover(site).refs(Component)] == ["good"]

    def test_misspelt_hook(self, site: Site) -> None:
        site.plugin("bad", bridge() + "\n@hookimpl\ndef nuebridge_brigdes():\n    return []\n")
        reason = str(only_report(site).reason)
        assert reason.startswith("there is no hook 'nuebridge_brigdes' (hooks: nuebridge_speech_encoders, ")
        assert reason.endswith("did you mean 'nuebridge_bridges'?)")

    def test_misspelt_hook_of_a_later_plugin_does_not_fall_on_an_earlier(self, site: Site) -> None:
        """And the other way round: 'bad' and 'worse' stand before and after 'good'."""
        misspelt = "from nuebridge.hookspecs import hookimpl\n@hookimpl\ndef nuebridge_x{}():\n    return []\n"
        site.plugin("bad", misspelt.format(1))
        site.plugin("worse", misspelt.format(2))
        site.plugin("good", bridge())
        reports = discover(site).reports()
        assert [(report.name, report.state) for report in reports] == [
            ("bad", "failed"),
            ("good", "loaded"),
            ("worse", "failed"),
        ]
        assert "nuebridge_x2" not in str(reports[0].reason) and "nuebridge_x1" not in str(reports[2].reason)

    def test_no_hook_at_all(self, site: Site) -> None:
        site.plugin("bad", "def nuebridge_bridges():\n    return []\n")
        assert only_report(site).reason == "it has no hook; decorate its functions with nuebridge.hookspecs.hookimpl"

    def test_hook_with_parameters(self, site: Site) -> None:
        site.plugin(
            "bad", "from nuebridge.hookspecs import hookimpl\n@hookimpl\ndef nuebridge_bridges(x):\n    return []\n"
        )
        assert "hook 'nuebridge_bridges'" in str(only_report(site).reason)

    @pytest.mark.parametrize(
        ("version", "command"), [(2, "pip install --upgrade nuebridge`"), (0, "pip install --upgrade nuebridge-bad`")]
    )
    def test_other_contract_version(self, site: Site, version: int, command: str) -> None:
        site.plugin("bad", bridge(f'name="one", summary="", load=dict, contract_version={version}'))
        report = only_report(site)
        assert report.state == "incompatible"
        assert command in str(report.reason)
        assert f"version {version} of the contracts, this nuebridge has version 1" in str(report.reason)
        with pytest.raises(PluginError, match="of the contracts"):
            discover(site).find(BridgeComponent, "bad.one")

    @pytest.mark.parametrize(
        ("returned", "reason"),
        [
            ("3", "its hook nuebridge_bridges returned 3, not a list of BridgeComponent"),
            ("[dict]", "its hook nuebridge_bridges returned <class 'dict'>, not a BridgeComponent"),
            ("[CliCommand(name='a', summary='', load=dict)]", "returned CliCommand("),
            ("[BridgeComponent(name='A b', summary='', load=dict)]", "its bridge 'A b': the name is not kebab-case"),
            ("[BridgeComponent(name='a', summary='', load=None)]", "its bridge 'a': load is not a function"),
            ("[BridgeComponent(name='a', summary='', load=dict)] * 2", "its hook nuebridge_bridges offers 'a' twice"),
            ("[BridgeComponent(name='a', summary='', load=dict, options=3)]", "options is 3, not a class of pydantic"),
            ("[BridgeComponent(name='a', summary='', load=dict, options=dict)]", "options is <class 'dict'>, not a "),
            ("[BridgeComponent(name='a', summary='', load=dict, options=Loose)]", "its options let unknown keys pass"),
        ],
    )
    def test_hook_returns_something_else(self, site: Site, returned: str, reason: str) -> None:
        source = (
            "from pydantic import BaseModel\nfrom nuebridge.hookspecs import *\n\n"
            "class Loose(BaseModel):\n    x: int = 1\n\n"
            f"@hookimpl\ndef nuebridge_bridges():\n    return {returned}\n"
        )
        site.plugin("bad", source)
        assert reason in str(only_report(site).reason)

    def test_hook_that_returns_none_offers_nothing(self, site: Site) -> None:
        """As everywhere in pluggy."""
        site.plugin(
            "empty", "from nuebridge.hookspecs import *\n@hookimpl\ndef nuebridge_bridges():\n    return None\n"
        )
        (report,) = discover(site).reports()
        assert (report.state, report.components) == ("loaded", ())

    def test_name_is_not_kebab_case(self, site: Site) -> None:
        site.plugin("Not_Kebab", bridge())
        assert "the name of its entry point, 'Not_Kebab', is not kebab-case" in str(only_report(site).reason)

    def test_wrapper_of_one_plugin_does_not_reach_another(self, site: Site) -> None:
        wrapper = (
            "from nuebridge.hookspecs import hookimpl\n@hookimpl(wrapper=True)\ndef nuebridge_bridges():\n"
            "    yield\n    raise ValueError('mine or nobody')\n"
        )
        site.plugin("bad", wrapper)
        site.plugin("zzz", bridge())
        assert "mine or nobody" in str(next(one for one in discover(site).reports() if one.name == "bad").reason)
        assert discover(site).find(BridgeComponent, "zzz.one")

    def test_hook_by_specname_counts_for_its_plugin_only(self, site: Site) -> None:
        source = bridge().replace(
            "@hookimpl\ndef nuebridge_bridges", "@hookimpl(specname='nuebridge_bridges')\ndef mine"
        )
        site.plugin("alpha", source)
        site.plugin("beta", source)
        assert [ref.id for ref in discover(site).refs(Component)] == ["alpha.one", "beta.one"]

    def test_damaged_metadata(self, site: Site) -> None:
        site.plugin("bad", bridge())
        (site.folder / "nuebridge_bad-1.0.0.dist-info" / "entry_points.txt").write_bytes(b"[nuebridge]\nbad = \xff\n")
        assert "its installation is damaged: UnicodeDecodeError" in str(only_report(site).reason)


class TestClash:
    @pytest.fixture
    def clash(self, site: Site) -> Site:
        site.plugin("twin", bridge(), distribution="first-thing")
        site.plugin("twin", bridge(), distribution="second-thing", version="2.0")
        site.plugin("good", bridge())
        return site

    def test_both_are_out_and_the_others_work(self, clash: Site) -> None:
        manager = discover(clash)
        assert [(report.name, report.distribution, report.state) for report in manager.reports()] == [
            ("good", "nuebridge-good", "loaded"),
            ("twin", "first-thing", "conflict"),
            ("twin", "second-thing", "conflict"),
        ]
        assert [ref.id for ref in manager.refs(BridgeComponent)] == ["good.one"]
        assert len(manager.warnings()) == 2

    def test_the_error_names_both_and_the_commands(self, clash: Site) -> None:
        with pytest.raises(PluginError) as caught:
            discover(clash).find(BridgeComponent, "twin.one")
        message = str(caught.value)
        assert "`pip uninstall first-thing` or `pip uninstall second-thing`" in message
        assert "first-thing 1.0.0 and second-thing 2.0 both call their plugin 'twin'" in message

    def test_neither_is_imported(self, clash: Site) -> None:
        (clash.folder / "first_thing_entry.py").write_text("raise KeyboardInterrupt\n")
        assert discover(clash).reports()[1].state == "conflict"

    def test_one_distribution_that_announces_a_name_twice(self, site: Site) -> None:
        site.plugin("twin", bridge())
        with (site.folder / "nuebridge_twin-1.0.0.dist-info" / "entry_points.txt").open("a") as file:
            file.write("twin = another\n")
        report = discover(site).reports()[0]
        assert report.state == "conflict"
        assert "nuebridge-twin announces a plugin 'twin' twice" in str(report.reason)

    def test_the_same_distribution_in_two_places_is_no_clash(self, site: Site, tmp_path: Path) -> None:
        """As Python imports the first on the path, so the first one's metadata count."""
        site.plugin("twin", bridge(), version="1.0")
        with temporary_site(tmp_path / "second") as second:
            second.folder.mkdir()
            second.plugin("twin", bridge(), version="0.9")
            manager = PluginManager.discover({}, path=[*site.path, *second.path])
        assert [(report.version, report.state) for report in manager.reports()] == [("1.0", "loaded")]


class TestEnvironment:
    def test_disable(self, site: Site) -> None:
        site.plugin("alpha", "raise KeyboardInterrupt\n")
        site.plugin("beta", bridge())
        manager = discover(site, NUEBRIDGE_DISABLE=" alpha ,")
        assert [(report.name, report.state) for report in manager.reports()] == [
            ("alpha", "disabled"),
            ("beta", "loaded"),
        ]
        assert manager.warnings() == []
        with pytest.raises(PluginError, match=r"plugin 'alpha' .* is not in use: left out by NUEBRIDGE_DISABLE"):
            manager.find(BridgeComponent, "alpha.one")

    def test_disabling_what_is_not_there_is_told(self, site: Site) -> None:
        site.plugin("alpha", bridge())
        (warning,) = discover(site, NUEBRIDGE_DISABLE="alhpa").warnings()
        assert warning == "NUEBRIDGE_DISABLE names 'alhpa': no such plugin (installed: alpha; did you mean 'alpha'?)"

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("import a_library_that_is_missing\n", "a_library_that_is_missing"),
            (bridge('name="one", summary="", load=dict, contract_version=9'), "version 9 of the contracts"),
        ],
    )
    def test_strict_raises_at_once(self, site: Site, source: str, message: str) -> None:
        site.plugin("bad", source)
        with pytest.raises(PluginError, match=rf"plugin 'bad' .* is not in use: .*{message}"):
            discover(site, NUEBRIDGE_STRICT="1")
        assert discover(site, NUEBRIDGE_STRICT="0").reports()[0].state != "loaded"
        discover(site, NUEBRIDGE_STRICT="1", NUEBRIDGE_DISABLE="bad")

    def test_strict_raises_for_a_clash(self, site: Site) -> None:
        site.plugin("twin", bridge(), distribution="first-thing")
        site.plugin("twin", bridge(), distribution="second-thing")
        with pytest.raises(PluginError, match="pip uninstall first-thing"):
            discover(site, NUEBRIDGE_STRICT="1")

    def test_strict_is_1_or_0(self, site: Site) -> None:
        with pytest.raises(ConfigError, match="NUEBRIDGE_STRICT is 'yes'; set it to 1 or 0"):
            discover(site, NUEBRIDGE_STRICT="yes")


class TestClaims:
    ENCODER = (
        "from nuebridge.hookspecs import *\n@hookimpl\ndef nuebridge_speech_encoders():\n"
        "    return [SpeechEncoderComponent(name='one', summary='', load=dict, model_types={!r})]\n"
    )

    def test_claiming(self, site: Site) -> None:
        site.plugin("alpha", self.ENCODER.format(("ears", "horns")))
        site.plugin("beta", self.ENCODER.format(("*",)))
        manager = discover(site)
        assert manager.claiming(SpeechEncoderComponent, "horns").id == "alpha.one"
        assert manager.claiming(SpeechEncoderComponent, "anything").id == "beta.one"

    def test_two_claims(self, site: Site) -> None:
        site.plugin("alpha", self.ENCODER.format(("ears",)))
        site.plugin("beta", self.ENCODER.format(("ears",)))
        with pytest.raises(PluginError, match=r"both alpha\.one and beta\.one claim checkpoints of model_type 'ears'"):
            discover(site).claiming(SpeechEncoderComponent, "ears")

    def test_no_claim(self, site: Site) -> None:
        site.plugin("alpha", self.ENCODER.format(("ears",)))
        manager = discover(site)
        with pytest.raises(PluginError, match=r"no installed speech encoder claims .* 'eras' \(claimed: ears; did you"):
            manager.claiming(SpeechEncoderComponent, "eras")
        with pytest.raises(PluginError, match="no installed text decoder claims"):
            manager.claiming(TextDecoderComponent, "ears")

    FORMAT = (
        "from nuebridge.hookspecs import *\n@hookimpl\ndef nuebridge_checkpoint_formats():\n"
        "    return [CheckpointFormat(name='one', summary='', load=lambda: len, recognizes={})]\n"
    )

    def test_checkpoint_formats(self, site: Site) -> None:
        site.plugin("alpha", self.FORMAT.format("lambda config: config.get('a') == 1"))
        site.plugin("beta", self.FORMAT.format("lambda config: config.get('b') == 1"))
        manager = discover(site)
        found = manager.recognizing({"b": 1})
        assert found is not None and found.id == "beta.one" and found.load() is len
        assert manager.recognizing({}) is None
        with pytest.raises(PluginError, match=r"both alpha\.one and beta\.one claim this checkpoint"):
            manager.recognizing({"a": 1, "b": 1})

    def test_a_format_that_raises_does_not_stop_another(self, site: Site) -> None:
        site.plugin("alpha", self.FORMAT.format("lambda config: config['a'] == 1"))
        site.plugin("beta", self.FORMAT.format("lambda config: True"))
        with pytest.warns(RuntimeWarning, match=r"plugin 'alpha' .*'alpha\.one' failed to look .*KeyError: 'a'"):
            found = discover(site).recognizing({})
        assert found is not None and found.id == "beta.one"
        assert len(discover(site).refs(CheckpointFormat)) == 2


class TestOnlyOneHook:
    """Discovery for listing commands imports only what may have some."""

    COMMAND = (
        "from nuebridge.hookspecs import CliCommand, hookimpl\n@hookimpl\ndef nuebridge_cli_commands():\n"
        "    return [CliCommand(name='wave', summary='Waves.', load=lambda: print)]\n"
    )

    def commands(self, site: Site, **environ: str) -> list[str]:
        manager = PluginManager.discover(environ, path=site.path, hook="nuebridge_cli_commands")
        return [ref.id for ref in manager.refs(CliCommand)]

    def test_others_are_not_imported(self, site: Site) -> None:
        site.plugin("alpha", "raise KeyboardInterrupt\n")
        site.plugin("beta", self.COMMAND)
        assert self.commands(site) == ["beta.wave"]

    def test_strict_imports_all(self, site: Site) -> None:
        site.plugin("alpha", "raise ValueError\n")
        with pytest.raises(PluginError, match="ValueError"):
            self.commands(site, NUEBRIDGE_STRICT="1")

    def test_wherever_the_source_may_hide_the_hook(self, site: Site) -> None:
        site.install(
            "in-package", {"alpha": "pack_a.entry"}, {"pack_a/__init__.py": "", "pack_a/entry.py": self.COMMAND}
        )
        site.install("package", {"beta": "pack_b"}, {"pack_b/__init__.py": self.COMMAND})
        site.install(
            "object",
            {"delta": "thing:plugin"},
            {
                "thing.py": "from thing_hooks import Plugin\nplugin = Plugin()\n",
                "thing_hooks.py": "from nuebridge.hookspecs import *\nclass Plugin:\n    @hookimpl\n"
                "    def nuebridge_cli_commands(self):\n"
                "        return [CliCommand(name='wave', summary='', load=lambda: print)]\n",
            },
        )
        site.install(
            "starred", {"eta": "star"}, {"star.py": "from star_hooks import *\n", "star_hooks.py": self.COMMAND}
        )
        assert self.commands(site) == ["alpha.wave", "beta.wave", "delta.wave", "eta.wave"]

    def test_a_package_in_a_package_is_not_imported_to_look(self, site: Site) -> None:
        files = {"pack_c/__init__.py": "raise KeyboardInterrupt\n", "pack_c/entry.py": ""}
        site.install("in-package", {"alpha": "pack_c.entry"}, files)
        assert self.commands(site) == []


def test_registry_files_are_paths(site: Site) -> None:
    site.plugin(
        "reg",
        "from pathlib import Path\nfrom nuebridge.hookspecs import *\n@hookimpl\ndef nuebridge_registry_files():\n"
        "    return [RegistryFile(name='more', summary='', load=lambda: Path(__file__).parent / 'more.yaml')]\n",
    )
    (ref,) = discover(site).refs(RegistryFile)
    assert ref.load() == site.folder / "more.yaml"
