"""Bad configurations and data files: each gets its one clear message, exit status 2, and leaves nothing behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tones import write_corpus
from tests.train.conftest import Command

BASE = """\
model: toys
output: run
data:
  train: [corpus/manifest.jsonl]
  batch_seconds: 2.0
schedule: {steps: 2}
parts:
  encoder: {train: true}
  bridge: {learning_rate: 0.01}
  decoder: {train: true}
losses: {ctc: 0.3}
device: cpu
"""


@dataclass(frozen=True)
class Bad:
    """What is changed in a right configuration, and what is said of it; `` … `` stands for anything."""

    said: str
    old: str = ""
    new: str = ""
    """In the file; without ``old``, added to its end."""
    arguments: tuple[str, ...] = ()
    prepare: Callable[[Path], None] = lambda folder: None
    errors: int = 1
    """How many are wrong at once."""


def write_lines(*lines: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "corpus/manifest.jsonl").write_text("".join(f"{line}\n" for line in lines))

    return write


def without_audio(folder: Path) -> None:
    for file in (folder / "corpus").glob("*.wav"):
        file.unlink()


def with_long_text(folder: Path) -> None:
    manifest = folder / "corpus/manifest.jsonl"
    first, *rest = manifest.read_text().splitlines()
    line = {**json.loads(first), "id": "long", "text": "low " * 60}
    manifest.write_text("\n".join([json.dumps(line), *rest]) + "\n")


def with_folder(folder: Path) -> None:
    (folder / "somewhere").mkdir()
    (folder / "somewhere/config.json").write_text('{"model_type": "umbrella"}')


def with_prompted(folder: Path) -> None:
    (folder / "registry.yaml").write_text(
        "integrations:\n"
        "  asked: {encoder: chunks, bridge: pairs, decoder: bytes, ctc_head: letters, prompt: {prefix: '{context}'}}\n"
    )


def headless(folder: Path) -> None:
    (folder / "registry.yaml").write_text(
        "integrations:\n  headless: {encoder: chunks, bridge: pairs, decoder: bytes}\n"
    )


BAD = {
    "unknown key": Bad(
        "train.yaml:13: sede: unknown key (allowed: model, output, …; did you mean 'seed'?)", new="sede: 3"
    ),
    "wrong type": Bad(
        "train.yaml:6: schedule.steps: should be a valid integer, unable to parse string as an integer, not 'many'",
        "steps: 2",
        "steps: many",
    ),
    "schedule and stages": Bad(
        "train.yaml: give either a schedule or stages, each with a schedule of its own",
        new="stages: [{name: one, schedule: {steps: 1}}]",
    ),
    "no schedule": Bad(
        "train.yaml: give either a schedule or stages, each with a schedule of its own", "schedule: {steps: 2}\n"
    ),
    "two stages of one name": Bad(
        "train.yaml: two stages are named 'one'",
        "schedule: {steps: 2}",
        "stages: [{name: one, schedule: {steps: 1}}, {name: one, schedule: {steps: 1}}]",
    ),
    "missing manifest": Bad(
        "there is no manifest nowhere.jsonl; give the path of a JSON Lines file",
        "corpus/manifest.jsonl",
        "nowhere.jsonl",
    ),
    "empty manifest": Bad("the manifest corpus/manifest.jsonl holds no utterances", prepare=write_lines()),
    "faulty lines": Bad(
        "corpus/manifest.jsonl:1: Expecting property name enclosed in double quotes: line 1 column 2 (char 1) "
        "corpus/manifest.jsonl:2: audio_filepath is missing "
        "corpus/manifest.jsonl:3: duration must be seconds, not 'long' …(and 2 more)",
        prepare=write_lines(
            "{nonsense}", '{"text": "x"}', '{"audio_filepath": "a.wav", "text": "x", "duration": "long"}', *["[]"] * 9
        ),
    ),
    "missing audio": Bad(
        "corpus/manifest.jsonl: 6 of 6 recordings that were looked at cannot be used "
        "0.wav:1: corpus/0.wav: no such file …",
        prepare=without_audio,
    ),
    "all filtered": Bad(
        "no utterance is left to train on (left out 6 of 6 utterances longer than 0.2 s (such as 0.wav:1: …)); "
        "widen the limits",
        "batch_seconds: 2.0",
        "max_audio_seconds: 0.2",
    ),
    "unknown model": Bad(
        "no integration 'toyz' in the registry (known: …toys…; did you mean 'toys'?)", "model: toys", "model: toyz"
    ),
    "no checkpoint": Bad(
        "somewhere holds a checkpoint of model_type 'umbrella', which is neither nuebridge's own format nor one that "
        "an installed plugin recognises; `nuebridge plugins` lists them. To use it as an encoder or decoder, name it "
        "in `nuebridge compose`",
        "model: toys",
        "model: ./somewhere",
        prepare=with_folder,
    ),
    "no folder": Bad(
        "./nowhere is not a folder; give the folder of a checkpoint, a registry name or a hub id",
        "model: toys",
        "model: ./nowhere",
    ),
    "CTC loss without a head": Bad(
        "losses.ctc is above 0, but the integration has no CTC head; compose with --ctc-head, or leave losses.ctc out",
        "model: toys",
        "model: headless",
        prepare=headless,
    ),
    "all frozen": Bad(
        "every part is frozen: nothing is left to train",
        "  encoder: {train: true}\n  bridge: {learning_rate: 0.01}\n  decoder: {train: true}",
        "  ctc_head: {train: false}\n  bridge: {train: false}",
    ),
    "pattern that matches nothing": Bad(
        "parts.encoder.train: no parameter group matches 'layrs.*'; there are: layers.0, layers.1",
        "encoder: {train: true}",
        "encoder: {train: ['layrs.*']}",
    ),
    "LoRA on the bridge": Bad(
        "train.yaml:7: parts: bridge.lora: this part is small and trained whole; use LoRA on encoder or decoder",
        "bridge: {learning_rate: 0.01}",
        "bridge: {lora: {r: 4}}",
    ),
    "LoRA on a part that is trained whole": Bad(
        "train.yaml:7: parts: decoder: all of it is trained already; set decoder.train to false or drop decoder.lora",
        "decoder: {train: true}",
        "decoder: {train: true, lora: {r: 4}}",
    ),
    "unknown target_modules": Bad(
        "ToyDecoder takes no LoRA this way (Target modules {'attention'} not found in the base model…); choose its "
        "layers with target_modules",
        "decoder: {train: true}",
        "decoder: {lora: {target_modules: [attention]}}",
    ),
    "text too long for the decoder": Bad(
        "1 of 6 utterances cannot be trained on: long: 2 positions of prompt, … of audio and 240 of text are more than "
        "the 200 of the decoder; leave them out (data.max_audio_seconds, data.max_text_characters), or mend the "
        "manifest",
        prepare=with_long_text,
    ),
    "prompt's field without a value": Bad(
        "6 of 6 utterances cannot be trained on: 0.wav:1: this integration's prompt needs a value for 'context'; "
        "give one; …",
        "model: toys",
        "model: asked",
        prepare=with_prompted,
    ),
    "device that is not there": Bad("cannot compute on 'cuda:99' (…); use 'cpu'", "device: cpu", "device: cuda:99"),
    "unknown device": Bad("cannot compute on 'abacus' (…); use 'cpu'", "device: cpu", "device: abacus"),
    "unknown logger": Bad(
        "train.yaml:13: loggers.0: 'comet' is not known (allowed: tensorboard, wandb)", new="loggers: [comet]"
    ),
    "output is a file": Bad("corpus/0.wav is a file; choose another output", "output: run", "output: corpus/0.wav"),
    "output that cannot be written": Bad(
        "cannot write to /proc/run: No such file or directory; choose another output",
        "output: run",
        "output: /proc/run",
    ),
    "no batch": Bad(
        "train.yaml:5: data.batch_seconds: should be greater than 0, not 0", "batch_seconds: 2.0", "batch_seconds: 0"
    ),
    "large seed": Bad(
        "train.yaml:13: seed: should be less than or equal to 4294967295, not 1180591620717411303424",
        new=f"seed: {2**70}",
    ),
    "from_step after the end": Bad(
        "train.yaml: parts.decoder.from_step is 5, but there are 2 steps",
        "decoder: {train: true}",
        "decoder: {train: true, from_step: 5}",
    ),
    "no loss": Bad(
        "train.yaml:11: losses: both loss weights are 0: nothing would be learned", "{ctc: 0.3}", "{text: 0}"
    ),
    "unknown normalizer": Bad(
        "train.yaml:5: data.text_normalizer: 'lowercase' is not known (allowed: none, …; did you mean 'lower'?)",
        "batch_seconds: 2.0",
        "text_normalizer: lowercase",
    ),
    "--set of an unknown key": Bad(
        "--set: schedule.stepz: unknown key (allowed: steps, …; did you mean 'steps'?)",
        arguments=("--set", "schedule.stepz=3"),
    ),
    "--set without a value": Bad(
        "--set schedule.steps: write KEY=VALUE, for instance --set seed=1", arguments=("--set", "schedule.steps")
    ),
    "no YAML": Bad(
        "train.yaml:14: not valid YAML: while parsing a flow sequence expected ',' or ']', but got '<stream end>'",
        new="loggers: [tensorboard",
    ),
    "key given twice": Bad("train.yaml:13: output: given twice (first on line 2)", new="output: other"),
    "home of nobody": Bad(
        "train.yaml:2: output: there is no home folder for the ~ of '~nobody-of-that-name/run'; write the path out",
        "output: run",
        "output: ~nobody-of-that-name/run",
    ),
    "not a text": Bad("train.yaml: not a text file in UTF-8 (byte 0)", old=BASE, new="\udcff"),
    "no file": Bad("train.yaml: no such file", old=BASE, new=""),
    "folder": Bad("corpus: this is a folder; name a YAML file", arguments=("corpus",)),
    "list": Bad("train.yaml:1: should be a mapping of keys, not ['model']", old=BASE, new="- model"),
    "empty": Bad("… model: is missing …", old=BASE, new="# nothing", errors=3),
}


@pytest.mark.parametrize("flags", [(), ("--check",)], ids=["train", "check"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_configuration(bad: Bad, flags: tuple[str, ...], command: Command, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", 6)
    bad.prepare(tmp_path)
    assert bad.old in BASE
    text = BASE.replace(bad.old, bad.new) if bad.old else f"{BASE}{bad.new}\n"
    if text.strip():
        (tmp_path / "train.yaml").write_bytes(text.encode(errors="surrogateescape"))
    before = sorted(tmp_path.rglob("*"))
    name, *more = bad.arguments if bad.arguments[:1] == ("corpus",) else ("train.yaml", *bad.arguments)
    status, out, err = command("train", name, *more, *flags)
    assert status == 2, err
    assert "Traceback" not in err
    if "--check" in flags and not err:
        assert re.search(rf"^{bad.errors} errors?,", out, re.MULTILINE), out
        matches(bad.said, " ".join(out.split()), anywhere=True)
    else:
        matches(bad.said, " ".join(err.split()).removeprefix("error: "))
    assert sorted(tmp_path.rglob("*")) == before


def matches(expected: str, found: str, anywhere: bool = False) -> None:
    pattern = ".*".join(re.escape(part.strip()) for part in expected.split("…"))
    pattern = pattern.replace(r"\ .*", ".*").replace(r".*\ ", ".*")
    assert (re.search if anywhere else re.fullmatch)(pattern, found), found
