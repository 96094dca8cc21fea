"""Publishing: the card, the upload to a hub on loopback, and what comes back from it, with and without a connection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from nuebridge.checkpoint import load, push_to_hub, save
from nuebridge.cli import main
from nuebridge.compose import Workshop
from nuebridge.errors import CheckpointError, ConfigError
from nuebridge.lora import retrain
from nuebridge.model import Integration
from nuebridge.publishing import Measured, judge_licenses, model_card, read_evaluation
from tests.hub import Hub, running_hub, set_offline

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that huggingface_hub asks instead of the real one, with an empty cache."""
    from huggingface_hub import constants, file_download

    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        for module in (constants, file_download):  # before release 1 the second has a copy
            template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=module is constants)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        set_offline(monkeypatch, False)
        yield hub


@pytest.fixture
def run(
    toy_site: Path,
    toy_registry_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    monkeypatch.syspath_prepend(str(toy_site))
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([*words, "--registry", str(toy_registry_file)])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


def front_matter(card: str) -> dict[str, Any]:
    _, yaml, _ = card.split("---\n", 2)
    return YAML(typ="safe").load(yaml)


# --- the upload ------------------------------------------------------------------------------------


def test_what_was_pushed_comes_back(
    hub: Hub, run: Run, toy_integration: Integration, toy_workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the hub's own client both ways; afterwards from its cache alone."""
    toy_integration.training_history = [
        {"steps": 9, "audio_hours": 1.5, "configuration": {"data": {"train": ["/secret/place/calls.jsonl"]}}}
    ]
    save(toy_integration, "mine")
    status, out, err = run("push", "mine", "me/toys", "--private")
    assert (status, out) == (0, f"{hub.url}/me/toys/commit/{hub.commit('me/toys')}\n")
    assert "warning: the parts' licenses are not known to allow sharing them as one: decoder: its license" in err
    assert hub.private == {"me/toys"}
    files = hub.repositories["me/toys"]
    assert {"README.md", "config.json", "encoder/model.safetensors", "bridge/model.safetensors"} <= set(files)
    assert not any(b"/secret/place" in content for content in files.values())
    assert "calls.jsonl" in files["README.md"].decode()

    def again() -> Integration:
        return load("me/toys", manager=toy_workshop.manager, registry=toy_workshop.registry)

    loaded = again()
    assert loaded.weight_hash() == toy_integration.weight_hash()
    audio = torch.randn(2500, generator=torch.Generator().manual_seed(0)).numpy()
    assert loaded.transcribe(audio)[0].token_ids == toy_integration.transcribe(audio)[0].token_ids
    pinned = load(
        "me/toys", revision=hub.commit("me/toys"), manager=toy_workshop.manager, registry=toy_workshop.registry
    )
    assert pinned.weight_hash() == loaded.weight_hash()

    asked = len(hub.asked)
    set_offline(monkeypatch, True)
    assert again().weight_hash() == loaded.weight_hash()
    assert len(hub.asked) == asked


def test_the_integration_keeps_its_folders(hub: Hub, toy_integration: Integration) -> None:
    history = [{"configuration": {"model": "/some/where/start"}}]
    toy_integration.training_history = history
    push_to_hub(toy_integration, "me/toys", card="# card\n")
    assert toy_integration.training_history is history
    assert hub.repositories["me/toys"]["README.md"] == b"# card\n"
    config = json.loads(hub.repositories["me/toys"]["config.json"])
    assert config["training"] == [{"configuration": {"model": "start"}}]


def test_adapters_name_no_folders_either(hub: Hub, toy_integration: Integration) -> None:
    retrain(toy_integration, "bridge", name="mine")
    training = [{"configuration": {"data": {"train": ["~/calls/private.jsonl"]}}}]
    toy_integration.adapters["mine"].training = training
    push_to_hub(toy_integration, "me/toys", card=model_card(toy_integration, "me/toys"))
    files = hub.repositories["me/toys"]
    assert b"private.jsonl" in files["adapters/mine/adapter.json"]
    assert not any(b"~/calls" in content for content in files.values())
    assert "Adapter `mine` (weight 1): bridge." in files["README.md"].decode()
    assert toy_integration.adapters["mine"].training is training


def test_a_hub_that_cannot_be_reached(hub: Hub, toy_integration: Integration, monkeypatch: pytest.MonkeyPatch) -> None:

    set_offline(monkeypatch, True)
    with pytest.raises(CheckpointError, match=r"cannot upload to me/toys \(.*check the name, the connection and `hf"):
        push_to_hub(toy_integration, "me/toys")


def test_a_dry_run_asks_nothing(hub: Hub, run: Run, toy_integration: Integration, tmp_path: Path) -> None:
    save(toy_integration, "mine")
    (tmp_path / "rates.json").write_text('{"results": [{"data": "held-out", "wer": 0.125, "utterances": 40}]}')
    status, out, _ = run(
        *("push", "mine", "me/toys", "--dry-run", "--evaluation", "rates.json", "--license", "cc0-1.0")
    )
    assert status == 0 and hub.asked == []
    assert "| held-out | 40 | 12.50 % | - | - |" in out
    assert front_matter(out)["license"] == "cc0-1.0"
    assert out.endswith("nothing was uploaded\n")
    assert "would be uploaded to me/toys (public where it is new):\n  encoder " in out


def test_what_is_no_repository(run: Run) -> None:
    for repo in ("toys", "me/too/many", "./here/x"):
        status, _, err = run("push", "toys", repo)
        assert (status, err) == (2, f"error: {repo!r} is no repository of the hub; write ORG/NAME\n")


# --- the card --------------------------------------------------------------------------------------


def test_a_card_tells_what_the_checkpoint_says(toy_integration: Integration) -> None:
    info = toy_integration.part_info
    info["encoder"] = replace(info["encoder"], source="org/encoder", revision="a" * 40, license="mit")
    info["decoder"] = replace(info["decoder"], source="org/decoder", license="llama3.2")
    toy_integration.language = "ja"
    toy_integration.training_history = [
        {"steps": 3, "audio_hours": 2.0, "configuration": {"data": {"train": ["a.jsonl", "~/b.jsonl"]}, "seed": 5}}
    ]
    card = model_card(toy_integration, "me/toys", [Measured(data="set", wer=0.1, cer=0.02, note="as written")])
    assert front_matter(card) == {
        "library_name": "nuebridge",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["nuebridge", "automatic-speech-recognition"],
        "license": "llama3.2",
        "language": ["ja"],
        "base_model": ["org/encoder", "org/decoder"],
        "metrics": ["wer", "cer"],
    }
    assert f"| [org/encoder](https://huggingface.co/org/encoder) | {'a' * 40} | mit |" in card
    assert "May the parts be shared as one model? On conditions." in card
    assert "- decoder: Meta's Llama 3.2 license goes along" in card
    assert "1. 3 steps; 2.0 hours of audio, repetitions counted; data: `a.jsonl`, `b.jsonl`" in card
    assert '"seed": 5' in card
    assert "| set | - | 10.00 % | 2.00 % | as written |" in card
    assert toy_integration.weight_hash() in card


def test_a_card_says_what_is_not_known(toy_integration: Integration) -> None:
    source = toy_integration.part_info["encoder"].source
    assert source is not None and Path(source).is_dir()
    card = model_card(toy_integration, "me/toys")
    data = front_matter(card)
    assert (data["license"], data["license_name"]) == ("other", "see-the-parts")
    assert "base_model" not in data and source not in card
    assert "no public source is named" in card
    assert "The checkpoint tells of no training." in card
    assert "None were given when this card was made." in card


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ('{"results": []}', "results"),
        ('{"results": [{"data": "x", "wer": 0.1, "speed": 3}]}', "speed"),
        ('{"results": [{"data": "x", "wer": -1}]}', "wer"),
        ('{"results": [{"data": "x"}]}', "has neither wer nor cer for 'x'"),
    ],
)
def test_an_evaluation_that_holds_no_rates(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "rates.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_evaluation(tmp_path / "rates.json")


# --- licenses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "decoder", "combined", "whole"),
    [
        ("apache-2.0", "apache-2.0", "yes", "apache-2.0"),
        ("MIT", "apache-2.0", "yes", None),
        ("apache-2.0", "llama3.2", "conditions", "llama3.2"),
        ("gemma", "mit", "conditions", "gemma"),
        ("cc-by-nc-4.0", "apache-2.0", "conditions", "cc-by-nc-4.0"),
        ("cc-by-sa-4.0", "mit", "conditions", "cc-by-sa-4.0"),
        ("cc-by-nc-4.0", "llama3.2", "unknown", None),
        ("cc-by-sa-4.0", "gemma", "unknown", None),
        ("gemma", "llama3.2", "unknown", None),
        (None, "apache-2.0", "unknown", None),
        ("apache-2.0", "other", "unknown", None),
        ("cc-by-nc-nd-4.0", "apache-2.0", "no", None),
        ("cc-by-nc-nd-4.0", None, "no", None),
    ],
)
def test_licenses_together(encoder: str | None, decoder: str | None, combined: str, whole: str | None) -> None:
    judgement = judge_licenses({"encoder": encoder, "decoder": decoder})
    assert (judgement.combined, judgement.license) == (combined, whole)
    text = " ".join(judgement.reasons)
    assert "encoder" in text and "decoder" in text


def test_every_license_of_the_packaged_registry_is_known() -> None:
    """An entry without one is not known to have one; an entry with a misspelt one would never be looked up."""
    from nuebridge.registry import Layer, Registry, SourcedEntry, packaged_file

    registry = Registry([Layer("packaged", packaged_file())])
    entries = [one.entry for section in ("encoders", "decoders") for one in registry.entries(section)]
    licenses = {entry.license for entry in entries if isinstance(entry, SourcedEntry) and entry.license is not None}
    assert {"apache-2.0", "mit", "gemma", "llama3.2", "cc-by-nc-4.0"} <= licenses
    assert [one for one in sorted(licenses) if judge_licenses({"part": one}).combined == "unknown"] == []
