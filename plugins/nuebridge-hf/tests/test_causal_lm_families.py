"""Every family of causal language models beside the library's own model of the same checkpoint."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from nuebridge.contracts import GenerationOptions
from nuebridge.lora.layers import inject, lora_parameters
from nuebridge.settings import LoraSettings
from nuebridge.tensors import weight_hash
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.examples.decoders import DECODERS, EXAMPLES
from nuebridge_hf.options import DecoderOptions

LOGITS = Path(__file__).parent / "fixtures" / "decoder-logits.json"
IDS = torch.tensor([[40, 97, 12, 260, 5, 77, 130, 31, 200, 64, 9]])  # longer than the sliding windows
TIED = {
    *("bloom", "gemma", "gemma2", "gemma3", "gemma3-of-several-senses", "gpt2", "granite", "llama"),
    *("opt", "opt-projected", "qwen2-sliding", "qwen3", "smollm", "smollm3"),
}
every_family = pytest.mark.parametrize("name", DECODERS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of an example by its name, written when it is first asked for."""
    made = {}

    def folder(name: str) -> str:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            DECODERS[name](made[name])
        return str(made[name])

    return folder


@pytest.fixture(scope="module")
def load(folders):
    return lambda name: CausalLm.load(folders(name), DecoderOptions()).eval()


@functools.cache
def library(folder: str):
    # Eager: 4.57 leaves Gemma 2's caps on attention out otherwise.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def left_padded(decoder: CausalLm, rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(row.shape[1] for row in rows)
    embeds = torch.zeros(len(rows), longest, decoder.hidden_size)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for i, row in enumerate(rows):
        embeds[i, longest - row.shape[1] :] = decoder.embed(row)[0]
        mask[i, longest - row.shape[1] :] = 1
    return embeds.detach(), mask


ROWS = [IDS, IDS[:, 4:], IDS[:, 2:6], IDS.flip(1)]


@every_family
def test_logits_of_the_last_positions_are_the_librarys_own(name, load, folders):
    decoder = load(name)
    expected = library(folders(name))(IDS).logits
    assert expected.std() > 0.05  # something to compare
    mask = torch.ones_like(IDS)
    torch.testing.assert_close(decoder(decoder.embed(IDS), mask, 4), expected[:, -4:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(decoder(decoder.embed(IDS), mask), expected, atol=1e-5, rtol=1e-4)


@every_family
def test_a_left_padded_batch_gives_the_logits_of_single_rows(name, load, folders):
    decoder, model = load(name), library(folders(name))
    logits = decoder(*left_padded(decoder, ROWS), 3)
    for row, ids in zip(logits, ROWS, strict=True):
        torch.testing.assert_close(row, model(ids).logits[0, -3:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("beam_size", [1, 3], ids=["greedy", "beam"])
@every_family
def test_tokens_of_a_text_are_the_librarys_own_alone_and_in_a_batch(name, beam_size, load, folders):
    decoder, model = load(name), library(folders(name))
    found = decoder.generate(*left_padded(decoder, ROWS), GenerationOptions([9] * len(ROWS), 0, beam_size))
    for ids, generated in zip(ROWS, found, strict=True):
        expected = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=None,
            max_new_tokens=9,
            do_sample=False,
            num_beams=beam_size,
            eos_token_id=2,
            pad_token_id=0,
        )[0, ids.shape[1] :].tolist()
        assert generated.token_ids == expected
        (alone,) = decoder.generate(*left_padded(decoder, [ids]), GenerationOptions([9], 0, beam_size))
        assert alone.token_ids == expected


@every_family
def test_saved_and_loaded_it_is_the_same(name, load, digests, tmp_path):
    first = load(name)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    first.save(folders[0])
    second = CausalLm.load(str(folders[0]), DecoderOptions()).eval()
    second.save(folders[1])
    assert digests(folders[0]) == digests(folders[1])
    assert weight_hash({"part": first}) == weight_hash({"part": second})
    mask = torch.ones_like(IDS)
    assert torch.equal(first(first.embed(IDS), mask), second(second.embed(IDS), mask))
    text = "the speech, 今日"
    assert first.encode(text) == second.encode(text) and first.decode(first.encode(text)) == text
    assert (first.eos_token_ids, first.max_positions) == (second.eos_token_ids, second.max_positions)


@every_family
def test_tied_weights_stay_tied(name, load, tmp_path):
    decoder = load(name)
    decoder.save(tmp_path)
    for one in (decoder, CausalLm.load(str(tmp_path), DecoderOptions())):
        embeddings, head = one.model.get_input_embeddings().weight, one.model.get_output_embeddings().weight
        assert (embeddings is head) == (name in TIED)


@every_family
def test_parameter_groups_hold_each_parameter_once(name, load):
    decoder = load(name)
    groups = {group.name: group.parameters for group in decoder.parameter_groups()}
    assert list(groups)[:3] == ["embeddings", "layers.0", "layers.1"] and set(list(groups)[3:]) <= {"head"}
    listed = [id(parameter) for parameters in groups.values() for parameter in parameters]
    assert sorted(listed) == sorted(id(parameter) for parameter in decoder.parameters())


@every_family
def test_lora_goes_beside_every_projection_of_the_layers_and_no_head(name, folders):
    decoder = CausalLm.load(folders(name), DecoderOptions()).eval()
    projections = {
        module_name
        for module_name, module in decoder.model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if module is not decoder.model.get_output_embeddings()
    }
    in_layers = {one for one in projections if ".0." in one or ".1." in one}
    assert len(in_layers) >= 8  # at least four a layer
    inject(decoder, "mine", LoraSettings(r=2))
    adapted = {one for one, module in decoder.model.named_modules() if hasattr(module, "lora_A")}
    assert adapted == projections
    mask = torch.ones_like(IDS)
    decoder(decoder.embed(IDS), mask).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in lora_parameters(decoder, "mine"))


@every_family
def test_either_line_of_transformers_gives_these_logits(name, load):
    """Of the same weights: written once, under one line."""
    decoder = load(name)
    logits = decoder(decoder.embed(IDS), torch.ones_like(IDS), 1)[0, 0, ::40]
    expected = torch.tensor(json.loads(LOGITS.read_text())[name])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-3)


def test_the_width_of_a_decoder_is_that_of_its_embeddings(load):
    assert load("opt-projected").hidden_size == 16  # 32 inside


def test_the_text_half_of_a_model_of_several_senses_is_kept_alone(load, folders):
    decoder = load("gemma3-of-several-senses")
    assert type(decoder.model).__name__ == "Gemma3ForCausalLM"
    assert not any("vision" in name for name, _ in decoder.named_parameters())
    outline = CausalLm.outline(folders("gemma3-of-several-senses"), DecoderOptions())
    assert [p.shape for p in outline.parameters()] == [p.shape for p in decoder.parameters()]
    decoder.train()  # the whole model would ask where the images are
    decoder(decoder.embed(IDS), torch.ones_like(IDS)).sum().backward()


def test_rotary_frequencies_that_depend_on_the_longest_row_bound_the_positions(load):
    assert load("phi3-long").max_positions == 64  # of 128: beyond 64 other frequencies hold
    assert EXAMPLES["phi3-long"].config["max_position_embeddings"] == 128


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gemmas_embeddings_are_scaled_where_audio_positions_enter(name, dtype, load):
    decoder = load(name).to(dtype)
    table = decoder.model.get_input_embeddings().weight
    scale = torch.tensor(decoder.hidden_size**0.5).to(dtype)
    torch.testing.assert_close(decoder.embed(IDS), table[IDS] * scale)
    mask = torch.ones_like(IDS)
    torch.testing.assert_close(
        decoder(decoder.embed(IDS), mask),
        decoder.model(IDS).logits,
        atol=0.03 if dtype != torch.float32 else 1e-5,
        rtol=0,
    )
