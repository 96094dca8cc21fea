"""Every recipe of the documentation, trained at tiny size: what it says is trained is, and nothing else."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from tokenizers import Tokenizer, decoders, models
from transformers import GPT2Config, GPT2LMHeadModel, HubertConfig, HubertModel, PreTrainedTokenizerFast

from nuebridge.checkpoint import load
from nuebridge.cli import main
from nuebridge.config import validate
from nuebridge.contracts import Part
from nuebridge.lora import without_lora
from nuebridge.tensors import weight_hash
from nuebridge.train.config import TrainConfig
from tests.docs.blocks import ROOT
from tests.tones import write_corpus

RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.yaml"))
TRAINED = {
    "bridge-only": {"bridge"},
    "bridge-and-decoder": {"bridge", "decoder"},
    "everything": {"encoder", "ctc_head", "bridge", "decoder"},
    "slam-asr": {"bridge"},
    "lora": {"bridge"},
    "stages": {"encoder", "ctc_head", "bridge"},
    "tasks": {"bridge"},
}
ADAPTED = {"lora", "stages", "tasks"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry in which the names that recipes use are tiny models."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    convolutions = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    HubertModel(HubertConfig(**small, **convolutions)).save_pretrained(folder / "hubert")
    tokens = ["<|endoftext|>", *map(chr, range(32, 123))]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=tokens[0], eos_token=tokens[0])
    tokenizer.save_pretrained(folder / "gpt2")
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokens), n_embd=16, n_layer=2, n_head=2, n_positions=256, **ends)
    ).save_pretrained(folder / "gpt2")
    names = ("pythia-160m", "qwen3-0.6b")
    (folder / "registry.yaml").write_text(
        "encoders:\n  hubert-base-ls960: {component: hf.hubert, source: ./hubert, replaces: true}\ndecoders:\n"
        + "".join(f"  {name}: {{component: hf.causal-lm, source: ./gpt2, replaces: true}}\n" for name in names)
    )
    return folder / "registry.yaml"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones with instructions and targets, under the names that recipes use."""
    folder = tmp_path_factory.mktemp("corpus") / "data"
    manifest = write_corpus(folder, 8)
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    asked = [json.dumps({**line, "instruction": "Say it:", "target": line["text"].upper()}) for line in lines]
    for name in ("train", "valid", "transcribe", "translate"):
        (folder / f"{name}.jsonl").write_text("\n".join(asked) + "\n")
    return folder.parent


def made_small(recipe: Path, folder: Path) -> dict[str, Any]:
    """The recipe with a few steps of a few clips, and larger rates so that they can be seen."""
    data = YAML(typ="safe").load(recipe)
    for schedule in [data.get("schedule"), *(stage["schedule"] for stage in data.get("stages", []))]:
        if schedule is not None:
            schedule.update(steps=3, warmup_steps=0)
    data.update(log_every_steps=1, validation={"every_steps": 3, "max_utterances": 2})
    data["data"]["batch_seconds"] = 4
    return data


def commands(recipe: Path) -> list[list[str]]:
    """The commands that the recipe's head gives."""
    head = "\n".join(line[1:] for line in recipe.read_text().splitlines() if line.startswith("#"))
    found = re.findall(r"^ +(nuebridge (?:.*\\\n)*.*)$", head, re.MULTILINE)
    return [shlex.split(command.replace("\\\n", " "))[1:] for command in found]


def call(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code in (0, None), arguments


def hashes(parts: dict[str, Part]) -> dict[str, str]:
    found = {}
    for name, part in parts.items():
        with without_lora(part):
            found[name] = weight_hash({"part": part})
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_what_it_says(
    recipe: Path, parts: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(corpus / "data")
    compose, train = commands(recipe)
    assert train == ["train", recipe.name]
    validate(YAML(typ="safe").load(recipe), TrainConfig, recipe.name)
    call([*compose, "--registry", str(parts)])
    before = load(tmp_path / "my-start")
    with Path(recipe.name).open("w") as file:
        YAML().dump(made_small(recipe, tmp_path), file)
    call([*train, "--registry", str(parts)])
    after = load(tmp_path / "runs" / recipe.stem / "final")
    old, new = hashes(before.parts), hashes(after.parts)
    assert {name for name in old if old[name] != new[name]} == TRAINED[recipe.stem]
    assert bool(after.adapters) == (recipe.stem in ADAPTED)
    lines = [json.loads(line) for line in (tmp_path / "runs" / recipe.stem / "metrics.jsonl").read_text().splitlines()]
    assert any(line["kind"] == "validation" for line in lines)


def test_every_recipe_is_described() -> None:
    assert {recipe.stem for recipe in RECIPES} == set(TRAINED)
    page = (ROOT / "docs" / "recipes.md").read_text()
    for recipe in RECIPES:
        assert f"recipes/{recipe.name}" in page
