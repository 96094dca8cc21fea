"""What the page offers, and how models are kept; no page here."""

from __future__ import annotations

from pathlib import Path

import pytest

from nuebridge.compose import Workshop
from nuebridge.errors import AudioError, RegistryError
from nuebridge.plugins import PluginManager
from nuebridge.registry import Registry
from nuebridge_demo.models import Models


def test_offers_what_has_weights_here(place) -> None:
    models = Models(place.workshop)
    assert list(models.choices) == ["toy-trained"]
    assert models.default == "toy-trained"
    assert models.choices["toy-trained"].sample == place.folder / "sample.wav"


def test_named_ones_come_first(place) -> None:
    folder = place.folder / "trained"
    models = Models(place.workshop, [str(folder), "toy-untrained", "somebody/else"])
    assert list(models.choices) == ["trained", "toy-untrained", "somebody/else", "toy-trained"]
    assert models.choices["trained"].source == str(folder)
    assert models.default == "trained"


def test_a_folder_may_be_called_like_an_entry(place, tmp_path: Path) -> None:
    folder = tmp_path / "toy-trained"
    folder.mkdir()
    models = Models(place.workshop, [str(folder)])
    assert {name: choice.source for name, choice in models.choices.items()} == {
        str(folder): str(folder),
        "toy-trained": "toy-trained",
    }


@pytest.mark.parametrize("name", ["toy-trainde", "./no-such-folder", "no/such/folder"])
def test_a_name_that_is_nothing(place, name: str) -> None:
    with pytest.raises(RegistryError, match=f"--model {name}: is no folder.*toy-trained"):
        Models(place.workshop, [name])


def test_nothing_to_offer(tmp_path: Path) -> None:
    manager = PluginManager([])
    registry = Registry.load(manager, environ={"NUEBRIDGE_CONFIG_DIR": str(tmp_path)}, folder=tmp_path)
    with pytest.raises(RegistryError, match=r"no integration is at hand.*pip install.*--model"):
        Models(Workshop(manager, registry))


def test_loaded_once_and_kept(place) -> None:
    models = Models(place.workshop)
    assert models.recognizer("toy-trained") is models.recognizer("toy-trained")


def test_what_it_took(place) -> None:
    models = Models(place.workshop)
    heard = models.transcribe("toy-trained", place.folder / "sample.wav")
    assert heard.transcript.duration == pytest.approx(3.0)
    assert heard.seconds > 0
    assert heard.rtf == pytest.approx(heard.seconds / 3.0)


def test_unreadable_recording(place) -> None:
    with pytest.raises(AudioError, match="is not audio"):
        Models(place.workshop).transcribe("toy-trained", place.folder / "registry.yaml")


def test_a_sample_that_is_not_there(place, tmp_path: Path) -> None:
    (tmp_path / "registry.yaml").write_text(
        f"integrations:\n  other: {{weights: {{source: {place.folder}/trained}}, sample: ./gone.wav}}\n"
    )
    manager = place.workshop.manager
    registry = Registry.load(manager, environ={"NUEBRIDGE_CONFIG_DIR": str(tmp_path / "none")}, folder=tmp_path)
    assert f"there is no file {tmp_path}/gone.wav" in [problem.message for problem in registry.check(manager)]
    assert Models(Workshop(manager, registry)).choices["other"].sample is None
