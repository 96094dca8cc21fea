"""What the trainer promises: each test measures one promise and prints its figure (`make acceptance`)."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import nuebridge
from nuebridge.checkpoint import load, save
from nuebridge.compose import Workshop, compose
from nuebridge.config import validate
from nuebridge.contracts import RecognitionOptions
from nuebridge.data import read_manifest
from nuebridge.plugins import PluginManager
from nuebridge.registry import Registry
from nuebridge.settings import PromptTemplate
from nuebridge.train.config import TrainConfig
from nuebridge.train.loop import train
from tests.acceptance.bench_models import write_model, write_noise
from tests.acceptance.speech import FILLERS, numbers_and_dates, speak
from tests.tones import write_corpus
from tests.train.crashing import series
from tests.train.killing import Runs, Who

pytestmark = [pytest.mark.timeout(3600)]

# --- 1. nothing is lost ------------------------------------------------------------------------------

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks at files and processes in /proc")


@needs_proc
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["crash", "full"])
def test_crashes_and_full_disks_at_every_moment(
    kind: str, toy_site: Path, toy_registry_file: Path, tmp_path: Path
) -> None:
    found = series(toy_site, toy_registry_file, tmp_path, {kind: 1})
    kinds = ", ".join(f"{count} {name}" for name, count in found["kinds"].most_common())
    what = {"crash": "the process ends", "full": "the disk is full"}[kind]
    print(
        f"\n{what} at each of {found['moments']} moments of a run with two checkpoints, its best and its final "
        f"integration ({kinds}): {found['crashed']} crashed, {found['refused']} left with a named error, "
        f"{found['went on']} went on; every resumed run as the unbroken one within {found['difference']:.1e} "
        "(at most 1e-6), nothing half-written used, nothing left over"
    )
    assert found["crashed" if kind == "crash" else "refused"] > 0.9 * found["moments"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, toy_site: Path, toy_registry_file: Path) -> Runs:
    folder = tmp_path_factory.mktemp("killed")
    return Runs(folder, toy_site, toy_registry_file, write_corpus(folder / "corpus", 12), steps=150)


@pytest.fixture(scope="module")
def unbroken(runs: Runs) -> dict[int, Path]:
    """Runs that nobody kills, by the number of ranks."""
    return {ranks: runs.finish(f"unbroken-{ranks}", ranks) for ranks in (0, 2)}


@needs_proc
@pytest.mark.parametrize("who", ["process", "rank", "all", "launcher"])
def test_kill_9_at_ten_random_moments(who: Who, runs: Runs, unbroken: dict[int, Path]) -> None:
    times = 10
    found = runs.killed(who, times, seed=3, unbroken=unbroken[0 if who == "process" else 2])
    whom = {
        "process": "the one process",
        "rank": "one of two ranks",
        "all": "launcher and both ranks",
        "launcher": "the launcher of two ranks",
    }[who]
    print(
        f"\nkill -9 of {whom}, {times} times, after steps {found.steps} of {runs.steps}: the resumed run as the "
        f"unbroken one within {found.difference:.1e} (at most 1e-6); no rank was there after "
        f"{found.lingering_seconds:.1f} s (at most 30)"
    )
    for line in found.said:
        print(f"  said by a rank that was left: {line}")
    assert found.difference < 1e-6
    assert found.lingering_seconds < 30


# --- 4. adaptation ----------------------------------------------------------------------------------

RECIPE = Path(__file__).parents[2] / "plugins" / "nuebridge-tiny" / "recipe"
TINY_DECODER = RECIPE.parent / "src" / "nuebridge_tiny" / "model" / "decoder"
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng: make speech")


def everyday_sentences(count: int) -> list[str]:
    """Sentences of the kind that tiny-en was trained on, none of them in its test texts."""
    sys.path.insert(0, str(RECIPE))
    try:
        from sentences import Sentences
    finally:
        sys.path.remove(str(RECIPE))
    drawn = Sentences(random.Random(11))
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(drawn.draw(max_characters=70).text)
    return list(found)


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers, dates and fillers in ``new`` and ``new-test``, everyday sentences in ``old`` and ``old-test``."""
    folder = tmp_path_factory.mktemp("domains")
    sentences = numbers_and_dates(620, seed=1)
    speak(sentences[:500], folder / "new", seed=1)
    speak(sentences[500:], folder / "new-test", seed=2)
    speak(everyday_sentences(600), folder / "old", seed=3)
    lines = (RECIPE / "test-dev.txt").read_text(encoding="utf-8").splitlines()
    speak([line.strip() for line in lines if line.strip()], folder / "old-test", seed=4)
    return folder


@dataclass(frozen=True)
class Adapted:
    """What `nuebridge adapt` came to."""

    folder: Path
    found: dict[str, Any]
    minutes: float

    def rate(self, domain: str, when: str) -> float:
        return float(self.found[f"{domain}_domain"][when]["wer"])

    def shown(self) -> str:
        size = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()) / 1e6
        return f"{self.minutes:.0f} min, {size:.1f} MB\n{(self.folder / 'results.md').read_text(encoding='utf-8')}"


def adapted(domains: Path, folder: Path, *options: str) -> Adapted:
    """The command, in a process of its own, with the steps and rates it chooses itself."""
    started = time.monotonic()
    data = {name: str(domains / name / "manifest.jsonl") for name in ("new", "new-test", "old-test")}
    command = ["--model", "tiny-en", "--data", data["new"], "--test", data["new-test"]]
    command += ["--original-test", data["old-test"], "--fillers", ",".join(FILLERS), "--output", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "nuebridge.cli", "adapt", *command, *options, "--seed", "1"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return Adapted(folder, found, (time.monotonic() - started) / 60)


@pytest.fixture(scope="module")
def with_replay(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    replay = str(domains / "old" / "manifest.jsonl")
    return adapted(
        domains, tmp_path_factory.mktemp("adapters") / "replayed", "--replay", replay, "--replay-share", "0.5"
    )


@needs_espeak
def test_adapting_with_replay(with_replay: Adapted) -> None:
    new, original = (
        (with_replay.rate(domain, "before"), with_replay.rate(domain, "after")) for domain in ("new", "original")
    )
    print(
        f"\nadapted with replay: new domain WER {new[0]:.1%} -> {new[1]:.1%} (at most half), original domain "
        f"{original[0]:.1%} -> {original[1]:.1%} ({original[1] / original[0] - 1:+.1%}, at most +10 %); "
        f"{with_replay.shown()}"
    )
    assert new[1] <= new[0] / 2
    assert original[1] <= original[0] * 1.1


@needs_espeak
def test_without_replay_the_forgetting_shows(domains: Path, tmp_path: Path) -> None:
    plain = adapted(domains, tmp_path / "plain", "--kl", "0")
    original = plain.rate("original", "before"), plain.rate("original", "after")
    unsaid = [plain.found["original_domain"][when]["new_words"]["count"] for when in ("before", "after")]
    print(
        f"\nadapted without replay: original domain WER {original[0]:.1%} -> {original[1]:.1%}, words of the new "
        f"domain written where they were not said {unsaid[0]} -> {unsaid[1]}; {plain.shown()}"
    )
    assert plain.rate("new", "after") <= plain.rate("new", "before") / 2
    assert original[1] > original[0] * 1.1
    assert unsaid[1] > unsaid[0]
    (warning,) = plain.found["warnings"]
    assert warning.startswith("the original domain got worse: ") and "--replay" in warning
    assert f"Warning: {warning}." in (plain.folder / "results.md").read_text(encoding="utf-8")


@needs_espeak
def test_the_adapter_loads_with_plain_peft(with_replay: Adapted) -> None:
    model = nuebridge.load("tiny-en")
    model.load_adapter(with_replay.folder)
    plain = transformers.AutoModelForCausalLM.from_pretrained(TINY_DECODER, dtype=torch.float32)
    ids = torch.tensor([model.decoder.encode("um the invoice of may the third")])
    with torch.inference_mode():
        without = plain.eval()(input_ids=ids).logits
        wrapped = peft.PeftModel.from_pretrained(plain, str(with_replay.folder / "decoder")).eval()
        theirs = wrapped(input_ids=ids).logits
        ours = model.decoder(model.decoder.embed(ids), torch.ones_like(ids))
    difference = float((ours - theirs).abs().max())
    print(
        f"\nthe decoder's adapter through plain peft {peft.__version__} on plain transformers "
        f"{transformers.__version__}: logits within {difference:.1e} of ours (at most 1e-5); the adapter moves them by "
        f"{float((theirs - without).abs().max()):.1f}"
    )
    assert difference < 1e-5
    assert not torch.allclose(theirs, without, atol=1e-2)


# --- 5. padding and the end are one token ------------------------------------------------------------


def one_token_decoder(folder: Path) -> Path:
    """A GPT-2 whose one special token begins, ends and pads, as the published ones do."""
    tokens = ["<|endoftext|>", *map(chr, range(97, 123)), " "]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    backend.decoder = decoders.Fuse()
    only = tokens[0]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=only, eos_token=only, pad_token=only)
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokens),
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=64,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_whose_padding_is_its_end_stops_at_the_right_place(
    tmp_path: Path, toy_site: Path, toy_registry: Registry
) -> None:
    manager = PluginManager.discover({}, path=[str(toy_site), *sys.path])
    workshop = Workshop(manager, toy_registry)
    start = compose(
        "chunks",
        "pairs",
        f"hf.causal-lm:{one_token_decoder(tmp_path / 'gpt2')}",
        prompt=PromptTemplate(prefix="<|endoftext|>"),
        seed=1,
        manager=manager,
        registry=toy_registry,
    )
    assert start.decoder.eos_token_ids[0] == start.decoder.pad_token_id
    save(start, tmp_path / "start")
    words = write_corpus(tmp_path / "corpus", 60)
    config = validate(
        {
            "model": str(tmp_path / "start"),
            "output": str(tmp_path / "run"),
            "data": {"train": str(words), "batch_seconds": 10.0},
            "schedule": {"steps": 150, "warmup_steps": 10},
            "parts": {name: {"learning_rate": 5e-3} for name in ("encoder", "bridge", "decoder")},
        },
        TrainConfig,
        "test",
    )
    model = load(train(config, workshop), manager=manager, registry=toy_registry)
    utterances = read_manifest(write_corpus(tmp_path / "held-out", 60, seed=7))
    heard = model.recognize([torch.from_numpy(u.load(1000)) for u in utterances], RecognitionOptions(max_new_tokens=30))
    ended = [t.token_ids[-1] == 0 and t.token_ids.count(0) == 1 for t in heard]
    right = [t.text == u.text for t, u in zip(heard, utterances, strict=True)]
    print(f"\npad = eos: {sum(ended)} of 60 held-out texts end by the end token, {sum(right)} are the very word")
    assert all(ended) and sum(right) >= 57


# --- 3. throughput -----------------------------------------------------------------------------------


def measured(folder: Path, vocabulary: int, *options: str) -> dict[str, Any]:
    """What `nuebridge bench train` finds for HuBERT and GPT-NeoX of four layers of 256, on one thread."""
    data = write_noise(folder / "noise", 60)
    model = write_model(folder / "parts", vocabulary)
    written = folder / "figures.json"
    nuebridge_command = Path(sys.executable).with_name("nuebridge")
    baselines = ["--vs", "plain-trainer", "--vs", "grouped-trainer"]
    done = subprocess.run(
        [
            *(nuebridge_command, "bench", "train", "--model", model, "--data", data, "--output", written),
            *("--threads", "1", *baselines, "--rounds", os.environ.get("NUEBRIDGE_BENCH_ROUNDS", "5"), *options),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stdout}")
    told: dict[str, Any] = json.loads(written.read_text())
    return {(ratio["row"], ratio["over"]): ratio for ratio in told["ratios"]}


def is_at_least(ratio: dict[str, Any], least: float) -> bool:
    """Whether the median throughput is, and the memory no higher."""
    return ratio["audio_seconds_per_second"]["median"] >= least and ratio["peak_bytes"]["median"] <= 1.0


@pytest.mark.timeout(7200)
def test_training_is_faster_than_with_a_plain_trainer(tmp_path: Path) -> None:
    everything = ("--set", "parts.encoder.train=true", "--set", "parts.decoder.train=true")
    ratios = measured(tmp_path, 32_000, *everything)
    assert is_at_least(ratios["nuebridge", "plain-trainer"], 2.0)
    assert is_at_least(ratios["nuebridge", "grouped-trainer"], 1.3)


@pytest.mark.timeout(7200)
def test_a_warm_cache_of_a_frozen_encoder_is_faster_still(tmp_path: Path) -> None:
    ratios = measured(tmp_path, 32_000, "--cache-frozen", "--set", "parts.decoder.train=true")
    assert is_at_least(ratios["nuebridge, warm cache", "plain-trainer"], 4.0)


# --- 6. tiny-en at full strength ---------------------------------------------------------------------

AT_MOST = {"espeak-trained": 0.12, "espeak-unseen": 0.15, "flite-trained": 0.20, "flite-unseen": 0.45}
"""Word error rates of sentences that nothing was chosen by but the model's training."""


@pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("espeak-ng", "flite")), reason="needs espeak-ng and flite"
)
def test_tiny_en_at_full_strength(tmp_path: Path) -> None:
    def run(*command: str | Path) -> None:
        done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    run(RECIPE / "make_test.py", "--output", tmp_path)
    figures = {}
    for name in ("test-dev", "silence"):
        written = tmp_path / f"{name}-scores.json"
        data = tmp_path / f"{name}.jsonl"
        run(RECIPE / "score.py", "--model", "tiny-en", "--data", data, "--json", written)
        figures[name] = json.loads(written.read_text(encoding="utf-8"))
    rates = {group: found["wer"] for group, found in figures["test-dev"]["wer"]["group"].items()}
    empty = figures["silence"]["silence"]
    several = rates["espeak-several"] / rates["espeak-trained"]
    print(f"\ntiny-en, weights {figures['test-dev']['weight_hash'][:12]}, word error rates on test-dev:")
    for group, most in AT_MOST.items():
        print(f"  {group:16} {rates[group]:.1%} (at most {most:.0%})")
    print(f"  clips of two and three sentences {rates['espeak-several']:.1%}: {several:.2f} times (at most 1.2)")
    print(f"  text on {empty['with_text']} of {empty['clips']} clips without speech (at most 2 %)")
    missed = [f"{group} {rates[group]:.1%}" for group, most in AT_MOST.items() if rates[group] > most]
    if several > 1.2:
        missed.append(f"several sentences {several:.2f} times")
    if empty["with_text"] > 0.02 * empty["clips"]:
        missed.append(f"text on {empty['with_text']} of {empty['clips']} clips without speech")
    if missed:
        pytest.xfail(f"not reached: {', '.join(missed)}")
