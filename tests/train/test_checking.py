"""``nuebridge train --check`` on right configurations, and on several faults at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nuebridge.checkpoint import outline
from nuebridge.compose import Workshop
from nuebridge.config import Document
from nuebridge.errors import CheckpointError
from nuebridge.train.checking import Report, check
from nuebridge.train.config import TrainConfig
from nuebridge.train.loop import train
from tests.train.conftest import Command, Configure

Check = Callable[..., Report]


@pytest.fixture
def check_with(configure: Configure, toy_workshop: Workshop) -> Check:
    """Checks the test configuration with changes."""

    def check_with(**changes: Any) -> Report:
        data = configure(**changes).model_dump(mode="json")
        return check(Document("train.yaml", data), lambda: toy_workshop)

    return check_with


def said(report: Report, level: str, topic: str) -> list[str]:
    return [f.message for f in report.findings if (f.level, f.topic) == (level, topic)]


def tree(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in folder.rglob("*")}


def test_what_is_trained(check_with: Check, tmp_path: Path) -> None:
    before = tree(tmp_path)
    report = check_with(
        parts={
            "encoder": {"train": ["layers.1"]},
            "bridge": {"learning_rate": 0.02, "from_step": 3},
            "decoder": {"lora": {"r": 2, "target_modules": ["head"]}},
        },
        losses={},
    )
    assert report.errors == []
    rows = {row.part: row for row in report.parts}
    assert {name: (row.parameters, row.trained, row.how) for name, row in rows.items()} == {
        "encoder": (1212, 12, "layers.1"),
        "ctc_head": (364, 0, "frozen"),
        "bridge": (400, 400, "all"),
        # A matrix of 2 x 16 and one of 258 x 2 beside the head.
        "decoder": (10146 + 548, 548, "LoRA r 2"),
    }
    assert (rows["bridge"].learning_rate, rows["bridge"].from_step) == (0.02, 3)
    assert tree(tmp_path) == before


def test_figures(check_with: Check) -> None:
    report = check_with(parts={"bridge": {}}, losses={"text": 1.0}, checkpoints={"keep": 3, "best": None})
    weights, trained = 4 * (1212 + 364 + 400 + 10146), 400
    memory = report.estimates["memory"]
    assert memory.of["weights"] == weights
    assert (memory.of["gradients"], memory.of["optimizer"]) == (4 * trained, 8 * trained)
    assert memory.of["activations"] > 0 and memory.total == sum(memory.of.values())
    disk = report.estimates["disk"]
    # Three are kept, and one more is there while it is written.
    assert disk.of == {"checkpoints": 4 * (weights + 8 * trained), "best": 0, "final": weights, "cache": 0}
    assert "a guess" in report.estimates["time"].assumption
    (row,) = report.data
    assert row.utterances == 12 and row.epochs == pytest.approx(7 / row.batches)
    assert 0 < row.padding < 0.5
    assert said(report, "warning", "data") == ["no validation source: nothing will tell how well the model transcribes"]


def test_what_is_left_out(check_with: Check) -> None:
    report = check_with(data__max_audio_seconds=0.5)
    (row,) = report.data
    (line,) = row.left_out
    assert re.fullmatch(rf"left out {12 - row.utterances} of 12 utterances longer than 0.5 s \(such as .*\)", line)
    assert line in said(report, "warning", "data")


def test_stages_are_checked_apart(check_with: Check) -> None:
    report = check_with(
        schedule=None,
        parts={},
        stages=[
            {"name": "bridge", "schedule": {"steps": 2}},
            {"name": "all", "schedule": {"steps": 3}, "parts": {"encoder": {"train": True}}, "max_audio_seconds": 0.5},
        ],
    )
    assert report.errors == []
    assert [(row.stage, row.part) for row in report.parts if row.trained] == [
        ("bridge", "ctc_head"),
        ("bridge", "bridge"),
        ("all", "encoder"),
        ("all", "ctc_head"),
        ("all", "bridge"),
    ]
    assert report.data[1].utterances < report.data[0].utterances
    assert any(line.startswith("all: encoder") for line in report.lines())


def test_weights_are_not_read(start: Path, toy_workshop: Workshop, tmp_path: Path) -> None:
    """What can be told without them is; what cannot is loaded, and that is said."""
    model = outline(str(start), toy_workshop)
    whole = {name: sum(p.numel() for p in part.parameters()) for name, part in model.parts.items()}
    assert whole == {"encoder": 1212, "ctc_head": 364, "bridge": 400, "decoder": 10146}
    assert {name for name, part in model.parts.items() if all(p.is_meta for p in part.parameters())} == {
        "encoder",
        "ctc_head",
        "bridge",
    }
    document = Document("x", {"model": str(start), "output": str(tmp_path / "run"), "data": {"train": "x.jsonl"}})
    document.data["schedule"] = {"steps": 1}
    (line,) = said(check(document, lambda: toy_workshop), "ok", "model")
    assert line == f"{start}: loaded, since their plugin cannot tell without: decoder (40.6 kB)"


@pytest.mark.parametrize("part", ["encoder", "bridge"])
def test_weights_that_are_cut_short_are_seen(start: Path, toy_workshop: Workshop, tmp_path: Path, part: str) -> None:
    copy = tmp_path / "copy"
    for file in start.rglob("*.*"):
        target = copy / file.relative_to(start)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    weights = copy / part / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=f"{part}/model.safetensors is damaged .*; copy it again"):
        outline(str(copy), toy_workshop)
    weights.unlink()
    with pytest.raises(CheckpointError, match=f"{part} holds no weights .*; the checkpoint is incomplete: copy it"):
        outline(str(copy), toy_workshop)


def test_all_errors_at_once(command: Command, tmp_path: Path) -> None:
    """Faults of the file do not hide what is wrong with all that it names."""
    (tmp_path / "taken").write_text("")
    (tmp_path / "train.yaml").write_text(
        "model: toyz\noutput: taken\ndata:\n  train: [a.jsonl, b.jsonl]\n  validation: c.jsonl\n  batch_seconds: none\n"
        "schedule: {steps: 2, stepz: 3}\ndevice: abacus\n"
    )
    status, out, err = command("train", "train.yaml", "--check", "--json")
    assert (status, err) == (2, "")
    report = json.loads(out)
    assert not report["ok"]
    errors = [(finding["topic"], finding["message"]) for finding in report["findings"] if finding["level"] == "error"]
    starts = [
        ("configuration", "train.yaml:6: data.batch_seconds: "),
        ("configuration", "train.yaml:7: schedule.stepz: unknown key"),
        ("model", "no integration 'toyz' in the registry"),
        ("data", "there is no manifest a.jsonl"),
        ("data", "validation: there is no manifest c.jsonl"),
        ("output", "taken is a file; choose another output"),
        ("device", "device: cannot compute on 'abacus'"),
    ]
    assert len(errors) == len(starts), errors
    for (topic, message), (expected, start) in zip(errors, starts, strict=True):
        assert topic == expected and message.startswith(start)
    assert "there is no manifest b.jsonl" in dict(errors)["data"] or "b.jsonl" in errors[3][1]


def test_several_parts_at_once(check_with: Check) -> None:
    report = check_with(parts={"encoder": {"train": ["nose"]}, "decoder": {"train": ["tail"]}}, losses={"ctc": 0.3})
    assert said(report, "error", "parts") == [
        "parts.encoder.train: no parameter group matches 'nose'; there are: layers.0, layers.1",
        "parts.decoder.train: no parameter group matches 'tail'; there are: all",
    ]
    assert report.parts == [] and report.estimates == {}


def test_decoder_without_end_token(check_with: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toy.parts.ToyDecoder.eos_token_ids", ())
    assert said(check_with(), "error", "model") == [
        "the decoder has no end token, so that it could not learn where a text ends; name one in its tokenizer's "
        "files (eos_token), or set losses.text to 0"
    ]


def test_characters_that_cannot_be_written(check_with: Check, corpus: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    lines = [json.loads(line) for line in corpus.read_text().splitlines()]
    for line in lines:
        line["audio_filepath"] = str(corpus.parent / line["audio_filepath"])
    lines[0]["text"] = "low 7"
    lines[1]["text"] = "mid mid mid mid"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = check_with(data__train=[str(manifest)])
    warnings = said(report, "warning", "texts")
    assert warnings[0] == (
        "1 of 12 texts have characters that the CTC head has no symbol for; it does not learn them: 7"
    )
    assert re.fullmatch(r"\d of 12 texts have more symbols than their audio has frames: .*", warnings[1])
    assert said(report, "ok", "texts") == ["the tokenizer writes all characters of 12 texts"]


def test_logger_that_is_not_installed(check_with: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    (line,) = said(check_with(loggers=["wandb"]), "error", "loggers")
    assert line.startswith("loggers: wandb cannot be imported") and 'pip install "nuebridge[wandb]"' in line


def test_a_run_that_is_there(check_with: Check, configure: Configure, toy_workshop: Workshop, tmp_path: Path) -> None:
    config = configure(stop_after_minutes=1e-9)
    with pytest.raises(Exception, match="stopped at step 1 of 7"):
        train(config, toy_workshop)
    report = check_with()
    assert said(report, "warning", "output") == [
        f"{tmp_path / 'run'} holds a run at step 1 of 7; --resume auto goes on with it"
    ]
    # The steps that were made have told how fast it is.
    assert report.estimates["time"].assumption.startswith("measured: ")
    assert report.estimates["time"].total == pytest.approx(
        report.data[0].epochs * report.data[0].hours * 3600 / report.estimates["time"].of["audio seconds a second"]
    )
    (line,) = said(check_with(seed=5), "error", "output")
    assert "cannot go on with another configuration: seed was 0 and is 5; set it back, or begin a new run" in line
    train(configure(), toy_workshop, resume="auto")
    assert said(check_with(), "warning", "output") == [
        f"{tmp_path / 'run'} holds a finished run; choose another output to begin one"
    ]


def test_cache_is_counted(check_with: Check) -> None:
    report = check_with(parts={"bridge": {}}, losses={}, cache_frozen=True, cache={"max_gigabytes": 1e-6})
    frames = report.estimates["disk"].of["cache"] / (12 * 4)
    assert 12 * 3 <= frames <= 12 * 8
    (line,) = said(report, "error", "disk")
    assert re.fullmatch(
        r"cache_frozen: the frames would take .* kB, and cache.max_gigabytes is 1e-06; raise it, .*", line
    )


def test_reads_as_a_table(command: Command, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(f"model: toys\noutput: run\ndata: {{train: {corpus}}}\nschedule: {{steps: 400}}\n")
    status, out, err = command("train", "t.yaml", "--check")
    assert (status, err) == (0, "")
    assert re.search(r"^part +component +parameters +trained +how +learning rate +from step$", out, re.MULTILINE)
    assert re.search(r"^bridge +toy\.bridge +400 +400 +all +0\.0001$", out, re.MULTILINE)
    assert re.search(r"^encoder +toy\.encoder +1,212 +0 +frozen$", out, re.MULTILINE)
    assert out.splitlines()[-1].startswith("no errors, ")
    assert max(map(len, out.splitlines())) < 140
    assert command("train", "t.yaml", "--json")[2] == "error: --json prints what --check finds; give --check as well\n"


def test_paths_at_home(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of-somebody")
    config = configure(
        model="~/models/m",
        output="~/runs/x",
        data={
            "train": ["~/a.jsonl", {"path": "~/b.jsonl"}],
            "validation": "~/c.jsonl",
            "augmentation": {"noise": {"recordings": "~/noise"}},
        },
        cache={"folder": "~/cache"},
    )
    assert (config.model, config.output) == ("/home/of-somebody/models/m", Path("/home/of-somebody/runs/x"))
    assert [source.path for source in config.data.train] == ["/home/of-somebody/a.jsonl", "/home/of-somebody/b.jsonl"]
    assert config.data.validation is not None and config.data.validation.path == "/home/of-somebody/c.jsonl"
    assert config.cache.folder == Path("/home/of-somebody/cache")
    assert config.data.augmentation.noise is not None
    assert config.data.augmentation.noise.recordings == Path("/home/of-somebody/noise")


def test_a_faulty_file_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("sede: 3\n")
    code = (
        "import sys\nfrom nuebridge.cli import main\n"
        "try:\n    main(['train', 'train.yaml'])\nfinally:\n    print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "False\n"
    assert "train.yaml:1: sede: unknown key" in done.stderr


def test_rest_of_a_faulty_document() -> None:
    text = "model: m\noutput: o\ndata: {train: [a, {path: b, weight: -1}]}\nschedule: {steps: 1, shape: round}\nx: 1\n"
    rest = Document.parse(text, "t").check_rest(TrainConfig)
    assert rest is not None
    assert rest.schedule is not None and rest.schedule.shape == "cosine"
    assert [(source.path, source.weight) for source in rest.data.train] == [("a", 1.0), ("b", 1.0)]
    assert Document.parse("model: m\noutput: o\n", "t").check_rest(TrainConfig) is None
    assert Document.parse(text.replace("schedule", "nothing"), "t").check_rest(TrainConfig) is None
