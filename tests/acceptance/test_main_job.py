"""What the main job promises: each test measures one promise and prints its figure (`make acceptance`)."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import nuebridge
from nuebridge.audio import load_audio
from nuebridge.checkpoint import save
from nuebridge.compose import Workshop, compose_entry
from nuebridge.contracts import RecognitionOptions
from nuebridge.hookspecs import SpeechEncoderComponent
from nuebridge.metrics import basic_normalize
from nuebridge.plugins import PluginManager
from nuebridge.registry import Registry

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "fixtures" / "nue-asr-reference"
TINY = ROOT / "plugins" / "nuebridge-tiny"

pytestmark = [pytest.mark.timeout(3600)]


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{command} left with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


# --- 1. a fresh clone -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of what is committed, with no virtual environment."""
    folder = tmp_path_factory.mktemp("clone") / "nuebridge"
    run("git", "clone", "--quiet", ROOT, folder)
    return folder


def fresh(clone: Path, target: str) -> tuple[str, float]:
    """Runs a make target as somebody would who has just cloned; its output and its minutes."""
    own = str(Path(sys.executable).parent)
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != own)
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "VENV")}
    started = time.monotonic()
    done = subprocess.run(
        ["make", target],
        cwd=clone,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    minutes = (time.monotonic() - started) / 60
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout, minutes


def test_make_demo_in_a_fresh_clone(clone: Path) -> None:
    output, minutes = fresh(clone, "demo")
    expected = (TINY / "src" / "nuebridge_tiny" / "sample.txt").read_text(encoding="utf-8")
    heard = basic_normalize(output.strip().splitlines()[-1])
    print(f"\nmake demo in a fresh clone: {minutes:.1f} min, heard {heard!r}")
    assert heard == basic_normalize(expected)


def test_make_test_in_a_fresh_clone(clone: Path) -> None:
    output, minutes = fresh(clone, "test")
    counted = [line for line in output.splitlines() if " passed" in line][-1]
    print(f"\nmake test in a fresh clone: {minutes:.1f} min (at most 12), {counted.strip()}")
    assert minutes < 12


def test_readme_opens_with_the_two_commands() -> None:
    lines = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.strip()]
    opening = "\n".join(lines[:8])
    print(f"\nthe README opens:\n{opening}")
    assert opening.index("make demo") < opening.index("make test")


# --- 2. the published Nue-ASR format --------------------------------------------------------------


def test_golden_fixture() -> None:
    model = nuebridge.load(GOLDEN)
    golden = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
    worst = 0.0
    for case in golden["cases"]:
        waveform = torch.from_numpy(load_audio(GOLDEN / case["wav"], 16000))
        audio = model.embed_audio(waveform[None], torch.tensor([len(waveform)]))
        assert audio.lengths.tolist() == [case["frames"]]
        values = audio.features[0].detach().double()
        expected = torch.tensor(case["bridge_first"], dtype=torch.float64)
        scale = case["bridge_absmax"]
        worst = max(
            worst,
            float((values[0, : len(expected)] - expected).abs().max()) / scale,
            abs(float(values.mean()) - case["bridge_mean"]) / scale,
            abs(float(values.abs().max()) - scale) / scale,
        )
        greedy = model.recognize([waveform], RecognitionOptions())[0]
        beam = model.recognize([waveform], RecognitionOptions(beam_size=4, max_new_tokens=12))[0]
        assert list(greedy.token_ids) == case["tokens"]
        assert list(beam.token_ids) == case["beam4"]
        assert greedy.text == case["text"]
    for text in golden["text"]:
        assert model.decoder.encode(text["text"]) == text["ids"]
        assert model.decoder.decode(text["ids"]) == text["decoded"]
    print(
        f"\ngolden fixture, transformers {transformers.__version__}, torch {torch.__version__}: bridge values within "
        f"{worst:.1e} of their scale (at most 1e-3); greedy and beam-4 tokens, texts of {len(golden['cases'])} clips "
        f"and {len(golden['text'])} tokenisations equal"
    )
    assert worst < 1e-3


def test_generated_nue_asr_checkpoints() -> None:
    """Other sizes, spellings and precisions against an oracle of plain transformers classes."""
    tests = "plugins/nuebridge-hf/tests/test_nue_asr.py"
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests)
    print(f"\ngenerated Nue-ASR checkpoints against the oracle: {done.stdout.strip().splitlines()[-1]}")


# --- 3. batch invariance ---------------------------------------------------------------------------

SECONDS = (0.3, 0.31259, 0.7, 1.3331, 2.1, 3.97, 5.00006, 7.7, 9.1234, 12.0, 14.9999, 15.0)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("family", ["hubert", "wav2vec2"])
def test_batch_invariance(family: str, norm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config_class, model_class = {
        "hubert": (transformers.HubertConfig, transformers.HubertModel),
        "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
    }[family]
    library = model_class(
        config_class(
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=96,
            conv_dim=(32,) * 7,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=4,
            feat_extract_norm=norm,
            do_stable_layer_norm=norm == "layer",
            conv_bias=norm == "layer",
        )
    ).eval()
    library.save_pretrained(tmp_path / "encoder")
    ref = PluginManager.discover().find(SpeechEncoderComponent, f"hf.{family}")
    encoder = ref.load().load(str(tmp_path / "encoder"), ref.parse_options({})).eval()
    clips = [torch.randn(int(s * 16000)) * 0.1 for s in SECONDS]
    lengths = torch.tensor([len(clip) for clip in clips])
    assert {int(n) % 2 for n in encoder.output_lengths(lengths)} == {0, 1}
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    with torch.inference_mode():
        batch = encoder(padded, lengths)
        mask = (torch.arange(padded.shape[1])[None] < lengths[:, None]).long()
        plain = library(padded, attention_mask=mask).last_hidden_state
        ours = theirs = 0.0
        for row, clip in enumerate(clips):
            alone = library(clip[None]).last_hidden_state[0]
            assert int(batch.lengths[row]) == len(alone)
            ours = max(ours, float((batch.features[row, : len(alone)] - alone).abs().max()))
            theirs = max(theirs, float((plain[row, : len(alone)] - alone).abs().max()))
            assert not batch.features[row, len(alone) :].any()
    print(
        f"\n{family}, {norm} norm, {len(clips)} clips, 0.3 to 15 s: batch against alone {ours:.1e} (at most 1e-4), "
        f"plain padding {theirs:.1e}"
    )
    assert ours < 1e-4
    if norm == "group":
        assert theirs > 1e-2, "plain padding was expected to fail here"


# --- 4. other people's plugins ---------------------------------------------------------------------


def test_plugins_from_outside() -> None:
    """A stranger's plugin, and ones that fail, clash, are of another version or go away, really installed."""
    done = run(sys.executable, "-m", "pytest", "-q", "-m", "install", "tests/install", "-p", "no:cacheprovider")
    print(f"\nplugins from outside the repository: {done.stdout.strip().splitlines()[-1]}")


# --- 5. one registry line --------------------------------------------------------------------------


def write_encoder(folder: Path, hidden_size: int) -> None:
    transformers.HubertModel(
        transformers.HubertConfig(
            hidden_size=hidden_size,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(16,) * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        )
    ).save_pretrained(folder)


DECODERS: dict[str, Callable[[int], transformers.PreTrainedModel]] = {
    "gpt2": lambda v: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=v, n_embd=32, n_layer=2, n_head=2, n_positions=512)
    ),
    "gpt-neox": lambda v: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=v, hidden_size=40, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
        )
    ),
    "llama": lambda v: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=v, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
        )
    ),
    "qwen": lambda v: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            vocab_size=v,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=64,
        )
    ),
}

REGISTRY = """
encoders:
  small: {component: hf.hubert, source: ./encoder-16}
  larger: {component: hf.hubert, source: ./encoder-24}
bridges:
  two: {component: bridges.conv}
  three: {component: bridges.conv, options: {kernel_sizes: [3, 3, 3], strides: [2, 2, 1]}}
decoders:
  tiny-gpt2: {component: hf.causal-lm, source: ./gpt2}
  tiny-gpt-neox: {component: hf.causal-lm, source: ./gpt-neox}
  tiny-llama: {component: hf.causal-lm, source: ./llama}
  tiny-qwen: {component: hf.causal-lm, source: ./qwen}
integrations:
  ours:
    encoder: small
    bridge: two
    decoder: tiny-gpt2
    max_new_tokens: {per_second: 2, plus: 2}
"""


def test_swapping_a_part_is_one_registry_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for size in (16, 24):
        write_encoder(tmp_path / f"encoder-{size}", size)
    sys.path.insert(0, str(TINY / "recipe"))
    try:
        from make_parts import make_tokenizer
    finally:
        sys.path.pop(0)
    tokenizer = make_tokenizer()
    for name, make in DECODERS.items():
        make(len(tokenizer)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    clip: Tensor = torch.randn(32000) * 0.1
    manager = PluginManager.discover()
    before: list[str] = REGISTRY.splitlines()
    shown = []
    for old, new in (
        ("decoder: tiny-gpt2", "decoder: tiny-gpt2"),
        ("decoder: tiny-gpt2", "decoder: tiny-gpt-neox"),
        ("decoder: tiny-gpt2", "decoder: tiny-llama"),
        ("decoder: tiny-gpt2", "decoder: tiny-qwen"),
        ("encoder: small", "encoder: larger"),
        ("bridge: two", "bridge: three"),
    ):
        text = REGISTRY.replace(f"    {old}\n", f"    {new}\n")
        changed = sum(a != b for a, b in zip(before, text.splitlines(), strict=True))
        assert changed == (old != new)
        file = tmp_path / "registry.yaml"
        file.write_text(text)
        registry = Registry.load(manager, files=[file])
        model = nuebridge.load("ours", manager=manager, registry=registry)
        folder = tmp_path / "saved"
        save(model, folder, overwrite=True)
        again = nuebridge.load(folder, manager=manager, registry=registry)
        heard, reheard = (m.transcribe(clip)[0].token_ids for m in (model, again))
        assert heard and heard == reheard
        bridge = f"{model.bridge.input_size}:{model.bridge.output_size}"
        shown.append(f"{new:22} widths {model.encoder.hidden_size} -> {bridge} -> {model.decoder.hidden_size}")
    entry = Registry.load(manager, files=[tmp_path / "registry.yaml"]).integration("ours")
    assert compose_entry(entry, Workshop.open(manager, Registry.load(manager, files=[tmp_path / "registry.yaml"])))
    print("\none registry line changed each, composed, transcribed, saved and loaded again:\n  " + "\n  ".join(shown))


# --- 6. tiny-en ------------------------------------------------------------------------------------


@pytest.mark.skipif(
    shutil.which("espeak-ng") is None or shutil.which("flite") is None, reason="needs espeak-ng and flite"
)
def test_tiny_en_error_rates(tmp_path: Path) -> None:
    recipe = TINY / "recipe"
    run(sys.executable, recipe / "make_test.py", "--output", tmp_path)
    run(
        sys.executable,
        recipe / "score.py",
        "--model",
        "tiny-en",
        "--data",
        tmp_path / "test-dev.jsonl",
        "--json",
        tmp_path / "scores.json",
    )
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    print(f"\ntiny-en, weights {scores['weight_hash'][:12]}, rtf {scores['rtf']:.3f} on {scores['threads']} threads")
    for by, sums in scores["wer"].items():
        for key, figures in sums.items():
            print(f"  {by:7} {key:24} WER {100 * figures['wer']:5.1f} %  ({figures['words']} words)")
    assert scores["rtf"] < 0.5
    size = sum(f.stat().st_size for f in (TINY / "src" / "nuebridge_tiny" / "model").rglob("*") if f.is_file())
    print(f"  {size / 1e6:.1f} MB in the wheel (at most 15)")
    assert size <= 15e6
    reached = {group: scores["wer"]["group"][group]["wer"] for group in ("espeak-trained", "espeak-unseen")}
    missed = [f"{group} {100 * wer:.1f} %" for group, wer in reached.items() if wer > 0.25]
    if missed:
        pytest.xfail(f"WER of at most 25 % not reached: {', '.join(missed)}")


# --- 7. the command line ---------------------------------------------------------------------------


def test_help_is_light() -> None:
    loaded = run(
        sys.executable,
        "-c",
        "import sys, runpy\nsys.argv = ['nuebridge', '--help']\n"
        "try:\n runpy.run_module('nuebridge.cli', run_name='__main__')\nexcept SystemExit: pass\n"
        "print('LOADED', [m for m in ('torch', 'transformers') if m in sys.modules])",
    ).stdout
    assert "LOADED []" in loaded

    def seconds(*command: str | Path) -> float:
        started = time.perf_counter()
        run(*command)
        return time.perf_counter() - started

    program = Path(sys.executable).parent / "nuebridge"
    ratios = []
    for _ in range(9):
        alone = seconds(sys.executable, "-c", "import typer")
        ratios.append(seconds(program, "--help") / alone)
    ratio = statistics.median(ratios)
    print(
        f"\nnuebridge --help: no torch, no transformers; {ratio:.2f}x importing typer alone (at most 3), spread "
        f"{min(ratios):.2f} to {max(ratios):.2f}"
    )
    assert ratio <= 3
    assert np.isfinite(ratio)
