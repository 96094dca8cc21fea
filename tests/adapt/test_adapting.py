from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nuebridge.adapt import adapting
from nuebridge.checkpoint import load, save
from nuebridge.compose import Workshop
from nuebridge.data import read_manifest
from nuebridge.errors import CheckpointError, ConfigError, DataError, NuebridgeError, TrainingError
from nuebridge.lora import merge, read_adapter
from nuebridge.model import Integration
from nuebridge.train.step import Stepper
from nuebridge.train.stopping import TrainingStopped
from tests.adapt.conftest import NEW_WORDS, Adapt, Settle, write_tones
from tests.tones import WORDS

Opened = Callable[[Path], Integration]


@pytest.fixture(scope="module")
def opened(toy_workshop: Workshop) -> Opened:
    return lambda folder: load(folder, manager=toy_workshop.manager, registry=toy_workshop.registry)


def digests(folder: Path) -> dict[str, str]:
    """Every file of a folder and what it holds."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, adapted: Adapt, base: Path
) -> tuple[Path, dict[str, Any], dict[str, str]]:
    """An adaptation with replay that nobody stopped: folder, results, and what the base's files were before."""
    before = digests(base)
    return *adapted(tmp_path_factory.mktemp("whole") / "tones"), before


def texts(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()]


# --- what it comes to -----------------------------------------------------------------------------


def test_it_learns_the_new_domain_and_keeps_the_old_one(whole: tuple[Path, dict[str, Any], dict[str, str]]) -> None:
    folder, found, _ = whole
    new, original = found["new_domain"], found["original_domain"]
    assert (new["utterances"], new["words"]) == (12, 24) and (original["utterances"], original["words"]) == (12, 12)
    assert new["before"]["wer"] >= 0.5 and new["after"]["wer"] <= new["before"]["wer"] / 2
    assert original["before"]["wer"] == 0 and original["after"]["wer"] == 0
    assert original["after"]["fillers"] == {"count": 0, "which": {}} and found["warnings"] == []
    assert found["fillers"] == ["um", "you know"] and "um" in found["new_words"] and "low" not in found["new_words"]
    assert json.loads((folder / "results.json").read_text()) == found
    page = (folder / "results.md").read_text()
    assert "| **original domain (12 utterances, 12 words, manifest.jsonl)** |" in page
    assert "| WER | 0.0 % | 0.0 % |" in page and "none of its words is aligned with the same word" in page


def test_the_folder_is_an_adapter_of_a_few_files(
    whole: tuple[Path, dict[str, Any], dict[str, str]], base: Path, opened: Opened
) -> None:
    folder, found, _ = whole
    saved = read_adapter(folder)
    assert (
        saved.name == "tones" and saved.error_rates == found and list(saved.parts) == ["encoder", "bridge", "decoder"]
    )
    assert saved.base.model == str(base) and saved.base.weight_hash == opened(base).weight_hash()
    (training,) = saved.training
    assert training["steps"] == 120 and training["configuration"]["parts"]["decoder"]["lora"]["r"] == 8
    assert not list(folder.rglob("state.pt")) and not (folder / "run/best").exists()
    assert (folder / "run/metrics.jsonl").is_file() and (folder / "data/train.jsonl").is_file()
    assert {path.name for path in (folder / "decoder").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_the_adapter_loads_and_writes_what_was_measured(
    whole: tuple[Path, dict[str, Any], dict[str, str]], base: Path, domains: Path, opened: Opened
) -> None:
    folder, _, before = whole
    model = opened(base)
    utterances = {d: read_manifest(domains / f"{d}-test/manifest.jsonl") for d in ("new", "old")}

    def heard() -> list[str]:
        return [t.text for d in ("new", "old") for t in model.transcribe([u.audio_filepath for u in utterances[d]])]

    own = model.weight_hash()
    assert heard() == [line["before"] for line in texts(folder)]
    assert model.load_adapter(folder) == "tones"
    assert heard() == [line["after"] for line in texts(folder)] and model.weight_hash() != own
    model.set_adapters({})
    assert model.weight_hash() == own and heard() == [line["before"] for line in texts(folder)]
    model.set_adapters({"tones": 1.0})
    merge(model)
    assert heard() == [line["after"] for line in texts(folder)]
    assert digests(base) == before, "adapting changed the base"


def test_another_base_refuses_it(
    whole: tuple[Path, dict[str, Any], dict[str, str]], base: Path, opened: Opened
) -> None:
    other = opened(base)
    other.bridge.conv.weight.data += 1e-3
    with pytest.raises(CheckpointError, match="was trained on another base.*the bridge has the weight hash"):
        other.load_adapter(whole[0])


def test_a_finished_one_is_shown_again(
    whole: tuple[Path, dict[str, Any], dict[str, str]], adapted: Adapt, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found, _ = whole
    monkeypatch.delattr(adapting, "train")
    assert adapted(folder, resume="auto")[1] == found == adapted(folder, resume="must")[1]
    with pytest.raises(TrainingError, match="holds an adapter already; choose another output"):
        adapted(folder)


def test_forgetting_shows(adapted: Adapt, tmp_path: Path) -> None:
    """Without replay and without KL: fillers where none were said."""
    folder, found = adapted(tmp_path / "forgets", replay=None, replay_share=None, kl=0.0)
    original = found["original_domain"]
    assert original["before"]["wer"] == 0 and original["after"]["wer"] >= 0.5
    assert original["after"]["fillers"]["which"]["um"] >= 4 and original["after"]["insertions"] >= 4
    (warning,) = found["warnings"]
    assert warning.startswith("the original domain got worse: WER 0.0 % before, ") and "from none" in warning
    assert "--replay" in warning and "--kl" in warning and "--adapter-weight forgets=0.5" in warning
    assert f"Warning: {warning}." in (folder / "results.md").read_text()


def test_kl_holds_where_there_is_no_replay(settle: Settle, adapted: Adapt, tmp_path: Path) -> None:
    folder, found = adapted(
        tmp_path / "held",
        replay=None,
        replay_share=None,
        steps=6,
        original_test=None,
        keep_run=True,
        only_warn=None,
        test=None,
    )
    assert found["original_domain"] is None and found["new_words"] == []
    assert "original domain: not measured" in (folder / "results.md").read_text()
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert all("kl" in line for line in lines if line["kind"] == "train")
    assert (folder / "run/final").is_dir() and (folder / "run/best").is_dir()


# --- stopping and going on ------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process: nothing in the code catches it."""


def test_stopped_and_killed_it_ends_with_the_same_adapter(
    whole: tuple[Path, dict[str, Any], dict[str, str]],
    adapted: Adapt,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """In training, in measuring and in writing."""
    folder = tmp_path / "tones"

    def dies(owner: Any, name: str, when: Callable[..., bool], error: type[BaseException] = Killed) -> None:
        with monkeypatch.context() as patched:
            original = getattr(owner, name)

            def function(*args: Any, **kwargs: Any) -> Any:
                if when(*args):
                    raise error("here it ends")
                return original(*args, **kwargs)

            patched.setattr(owner, name, function)
            with pytest.raises(error):
                adapted(folder, resume="auto")

    dies(adapting, "keep", lambda *args: True)
    assert not (folder / "run/checkpoints").exists()
    dies(Stepper, "step", lambda stepper, batch, number, asked: number == 95)
    with pytest.raises(TrainingError, match="holds an adaptation already; pass --resume auto"):
        adapted(folder)
    dies(adapting, "write_down", lambda *args: True, TrainingStopped)
    dies(adapting, "save_adapter", lambda *args: True)
    moved = []

    def second(*args: Any) -> bool:
        moved.append(args)
        return len(moved) == 2

    from nuebridge.adapt import output

    dies(output.os, "replace", lambda source, target: Path(target).parent == folder and second())
    assert not (folder / "adapter.json").exists()
    assert adapted(folder, resume="must")[1] == whole[1]
    assert read_adapter(folder).hash == read_adapter(whole[0]).hash
    ours, theirs = digests(folder), digests(whole[0])
    for name in ("texts.jsonl", "results.md", "decoder/adapter_model.safetensors", "bridge/model.safetensors"):
        assert ours[name] == theirs[name], name


def test_other_data_is_no_resuming(adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_tones(tmp_path / "new", NEW_WORDS, 48, seed=7, speakers=12)
    step = Stepper.step

    def until(stepper: Stepper, batch: Any, number: int, asked: Any) -> Any:
        if number == 3:
            raise Killed
        return step(stepper, batch, number, asked)

    changes: dict[str, Any] = {"data": str(manifest), "steps": 8}
    with monkeypatch.context() as patched:
        patched.setattr(Stepper, "step", until)
        with pytest.raises(Killed):
            adapted(tmp_path / "out", **changes)
    text = manifest.read_text()
    manifest.write_text("".join(text.splitlines(keepends=True)[:40]))
    with pytest.raises(DataError, match="was trained on other data than is given now; put data, replay"):
        adapted(tmp_path / "out", resume="auto", **changes)
    manifest.write_text(text)
    with pytest.raises(TrainingError, match=r"parts.decoder.lora.r was 8 and is 4"):
        adapted(tmp_path / "out", resume="auto", **changes, lora={"r": 4})
    adapted(tmp_path / "out", resume="auto", **changes)


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"data": "nowhere.jsonl"}, DataError, "there is no manifest nowhere.jsonl"),
        ({"test": "nowhere.jsonl"}, DataError, "there is no manifest nowhere.jsonl"),
        ({"replay": "nowhere.jsonl"}, DataError, "there is no manifest nowhere.jsonl"),
        ({"original_test": "nowhere.jsonl"}, DataError, "there is no manifest nowhere.jsonl"),
        ({"model": "./nothing"}, CheckpointError, "./nothing is not a folder"),
        ({"set_values": {"data.train": "x"}}, ConfigError, "an adaptation sets this itself; use --data and --replay"),
        ({"set_values": {"data.trains": "x"}}, ConfigError, "data.trains: unknown key"),
        ({"set_values": {"parts.decoder.train": ["head"]}}, ConfigError, "an adapter holds LoRA of the decoder, not"),
        ({"lora": {"target_modules": ["nose"]}}, ConfigError, "takes no LoRA this way"),
        ({"device": "cuda:99"}, ConfigError, "cannot compute on 'cuda:99'"),
        ({"only_warn": None}, DataError, "the test data cannot be used (overlap-text); what is measured on must not"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(
    adapted: Adapt,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[NuebridgeError],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Stepper, "step", None)
    with pytest.raises(error) as raised:
        adapted(tmp_path / "out", **changes)
    assert said in str(raised.value)
    assert not (tmp_path / "out/adapter.json").exists()
    # What is mended needs no --resume.
    with pytest.raises(TypeError, match="NoneType"):
        adapted(tmp_path / "out")


def test_an_output_that_holds_something_else(adapted: Adapt, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds something else than an adaptation \(thesis.txt\)"):
        adapted(tmp_path)
    with pytest.raises(ConfigError, match="is a file; choose another output"):
        adapted(tmp_path / "thesis.txt")
    with pytest.raises(TrainingError, match="holds nothing to go on with"):
        adapted(tmp_path / "fresh", resume="must")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_a_base_with_adapters_is_refused(
    whole: tuple[Path, dict[str, Any], dict[str, str]], base: Path, opened: Opened, adapted: Adapt, tmp_path: Path
) -> None:
    model = opened(base)
    model.load_adapter(whole[0])
    save(model, tmp_path / "both")
    with pytest.raises(ConfigError, match=r"has adapters of its own \(tones\); bake them in first: nuebridge adapters"):
        adapted(tmp_path / "out", model=str(tmp_path / "both"))


def test_shared_audio_and_unreadable_test_audio(adapted: Adapt, domains: Path, tmp_path: Path) -> None:
    test = write_tones(tmp_path / "test", {"hiss um": 70}, 3, seed=8)
    (tmp_path / "test/0.wav").write_bytes((domains / "new/5.wav").read_bytes())
    with pytest.raises(
        DataError, match=r"\(overlap-audio\).*leave it out of one of them, or pass --only-warn overlap-a"
    ):
        adapted(tmp_path / "out", test=str(test))
    (tmp_path / "test/0.wav").write_bytes(b"noise")
    with pytest.raises(DataError, match=r"\(unreadable-audio\); mend the manifests"):
        adapted(tmp_path / "out", test=str(test))


def test_one_speaker_cannot_be_held_out(adapted: Adapt, tmp_path: Path) -> None:
    manifest = write_tones(tmp_path / "new", NEW_WORDS | WORDS, 12, seed=9, speakers=1)
    with pytest.raises(
        DataError, match=r"nothing can be held out for validation: .*--group-by.*Or give --validation, manifests"
    ):
        adapted(tmp_path / "out", data=str(manifest))
