"""Revisions written into registry files: from a hub on loopback through its own client, and file by file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nuebridge.cli import main
from nuebridge.errors import ConfigError, RegistryError
from nuebridge.registry import packaged_file
from nuebridge.registry.pinning import pin
from tests.hub import running_hub, set_offline

FILE = """\
# Mine.
encoders:
  one:
    component: a.b  # why
    source: org/one
    revision: null
    license: 'mit'
  two: {component: a.b, source: org/two, license: mit}
  here: {component: a.b, source: ./folder}
decoders:
  done: {component: a.b, source: org/one, revision: abc}
integrations:
  both:
    weights: {source: org/one}
  composed: {encoder: one, bridge: c.d, decoder: done}
"""


def commit_of(source: str) -> str:
    return source.replace("/", "-") + "-commit"


def test_what_is_open_is_filled_in_and_the_rest_stays(tmp_path: Path) -> None:
    file = tmp_path / "registry.yaml"
    file.write_text(FILE)
    file.chmod(0o640)
    asked: list[str] = []
    found = pin(file, lambda source: asked.append(source) or commit_of(source))
    assert asked == ["org/one", "org/two"]
    assert [(one.key, one.revision) for one in found] == [
        ("encoders.one", "org-one-commit"),
        ("encoders.two", "org-two-commit"),
        ("integrations.both.weights", "org-one-commit"),
    ]
    assert file.read_text() == (
        FILE.replace("revision: null", "revision: org-one-commit")
        .replace("source: org/two, ", "source: org/two, revision: org-two-commit, ")
        .replace("{source: org/one}", "{source: org/one, revision: org-one-commit}")
    )
    assert file.stat().st_mode & 0o777 == 0o640
    assert pin(file, commit_of) == []


def test_a_source_that_the_hub_does_not_know_stays_open(tmp_path: Path) -> None:
    def some(source: str) -> str:
        if source == "org/one":
            raise RegistryError("the hub tells no commit of org/one: gone")
        return commit_of(source)

    file = tmp_path / "registry.yaml"
    file.write_text(FILE)
    found = pin(file, some)
    assert [(one.source, one.revision is None) for one in found] == [
        *(("org/one", True), ("org/two", False), ("org/one", True))
    ]
    assert found[0].error == "the hub tells no commit of org/one: gone"
    assert "revision: null" in file.read_text() and "revision: org-two-commit" in file.read_text()


def test_a_file_that_is_wrong_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "registry.yaml"
    file.write_text(FILE + "colour: red\n")
    with pytest.raises(ConfigError, match="colour: unknown key"):
        pin(file, commit_of)
    assert file.read_text() == FILE + "colour: red\n"


def test_the_packaged_registry_can_be_pinned(tmp_path: Path) -> None:
    """Nothing but the revisions changes."""
    file = tmp_path / "registry.yaml"
    file.write_text(packaged_file().read_text(encoding="utf-8"), encoding="utf-8")
    found = pin(file, lambda source: "f" * 40)
    assert len(found) > 40
    before, after = (
        packaged_file().read_text(encoding="utf-8").split("\n"),
        file.read_text(encoding="utf-8").split("\n"),
    )
    assert len(before) == len(after)
    changed = [(was, now) for was, now in zip(before, after, strict=True) if was != now]
    assert len(changed) == len(found)
    assert all(was.replace("null", "f" * 40) == now for was, now in changed)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """org/one is on the hub, org/two is not."""
    from huggingface_hub import constants

    file = tmp_path / "registry.yaml"
    file.write_text(FILE)
    with running_hub() as hub:
        hub.repositories["org/one"] = {"config.json": b"{}"}
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        set_offline(monkeypatch, False)
        with pytest.raises(SystemExit) as end:
            main(["registry", "pin", str(file)])
        printed = capsys.readouterr()
        assert end.value.code == 1
        assert f"  encoders.one               org/one  {hub.commit('org/one')}\n" in printed.out
        assert f"{file}: 2 of 3 pinned\n" in printed.out
        assert "warning: the hub tells no commit of org/two: " in printed.err
        assert f"revision: {hub.commit('org/one')}" in file.read_text()

        hub.repositories["org/two"] = {}
        with pytest.raises(SystemExit) as end:
            main(["registry", "pin", str(file), "--json"])
        assert end.value.code in (0, None)
        (one,) = json.loads(capsys.readouterr().out)
        assert (one["key"], one["revision"], one["error"]) == ("encoders.two", hub.commit("org/two"), None)
