"""Causal language models: batches, padding, limits, scores, and what a checkpoint may not bring along."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from nuebridge.contracts import GenerationOptions
from nuebridge.errors import CheckpointError, NumericalError, PromptError
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.options import DecoderOptions

FAMILIES = ["gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "opt", "bloom"]
PROMPTS = [5, 9, 3, 12]


def prompts(hidden_size: int, lengths: list[int], text: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    """Random prompts, and the same left-padded in one batch, with room for ``text`` positions after them."""
    torch.manual_seed(2)
    rows = [0.5 * torch.randn(length, hidden_size) for length in lengths]
    embeds = torch.zeros(len(rows), max(lengths) + text, hidden_size)
    mask = torch.zeros(embeds.shape[:2], dtype=torch.int64)
    for row, prompt in enumerate(rows):
        start = max(lengths) - len(prompt)
        embeds[row, start : max(lengths)] = prompt
        mask[row, start : max(lengths)] = 1
    return rows, embeds, mask


def ones(embeds: Tensor) -> Tensor:
    return torch.ones(embeds.shape[:2], dtype=torch.int64)


@pytest.fixture
def make_decoder(make_text_model, tokenizer):
    return lambda family, **config: CausalLm(make_text_model(family, **config), tokenizer).eval()


@pytest.mark.parametrize("beam_size", [1, 3], ids=["greedy", "beam"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_yields_the_same_alone_and_in_a_batch(family, beam_size, make_decoder):
    decoder = make_decoder(family)
    rows, embeds, mask = prompts(decoder.hidden_size, PROMPTS)
    limits = [7, 3, 11, 4]
    together = decoder.generate(embeds, mask, GenerationOptions(limits, 2, beam_size))
    for prompt, limit, found in zip(rows, limits, together, strict=True):
        (alone,) = decoder.generate(prompt[None], ones(prompt[None]), GenerationOptions([limit], 2, beam_size))
        assert found.token_ids == alone.token_ids
        assert found.avg_logprob == pytest.approx(alone.avg_logprob, abs=1e-4)
        assert found.truncated == alone.truncated == (found.token_ids[-1] != 2)
        assert len(found.token_ids) == limit or not found.truncated


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_both_sides_leaves_logits_alone_and_gradients_finite(family, make_decoder):
    decoder = make_decoder(family)
    rows, embeds, mask = prompts(decoder.hidden_size, PROMPTS, text=4)
    mask[0, -4:-2] = 1
    embeds[0, -4:-2] = torch.randn(2, decoder.hidden_size)
    embeds.requires_grad_()
    logits = decoder(embeds, mask, 5)
    assert logits.shape == (len(rows), 5, decoder.vocab_size)
    logits[mask[:, -5:].bool()].square().sum().backward()
    assert embeds.grad is not None and embeds.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in decoder.parameters())
    for row, prompt in enumerate(rows):
        alone = torch.cat([prompt, embeds[row, -4:-2].detach()]) if row == 0 else prompt
        expected = decoder(alone[None], ones(alone[None]))[0, len(prompt) - 1 :]
        torch.testing.assert_close(logits[row, : len(expected)], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_of_ids_give_the_librarys_logits(family, make_decoder):
    decoder = make_decoder(family)
    ids = torch.randint(3, 64, (1, 7))
    torch.testing.assert_close(decoder(decoder.embed(ids), ones(ids[..., None])), decoder.model(ids).logits)


@pytest.mark.parametrize("family", ["gemma", "gemma2"])
def test_gemmas_embeddings_are_scaled_before_the_decoder_under_every_release(family, make_decoder):
    decoder = make_decoder(family)
    ids = torch.tensor([5, 6])
    scaled = decoder.model.get_input_embeddings().weight[ids] * decoder.hidden_size**0.5
    torch.testing.assert_close(decoder.embed(ids), scaled)


def test_greedy_takes_the_most_probable_token_and_reports_its_probability(make_decoder):
    decoder = make_decoder("llama")
    rows, embeds, mask = prompts(decoder.hidden_size, [6, 4])
    found = decoder.generate(embeds, mask, GenerationOptions([5, 5]))
    for prompt, generated in zip(rows, found, strict=True):
        read, scores = prompt, []
        for token in generated.token_ids:
            logprobs = decoder(read[None], ones(read[None]), 1)[0, 0].detach().log_softmax(-1)
            assert int(logprobs.argmax()) == token
            scores.append(float(logprobs[token]))
            read = torch.cat([read, decoder.embed(torch.tensor([token]))])
        assert generated.avg_logprob == pytest.approx(sum(scores) / len(scores), abs=1e-4)


def always(decoder: CausalLm, first: int, second: int) -> None:
    """Makes the model write ``first`` everywhere, with ``second`` as next best."""
    head = decoder.model.lm_head
    head.bias = torch.nn.Parameter(torch.zeros(decoder.vocab_size))
    head.bias.data[[first, second]] = torch.tensor([1000.0, 900.0])


def test_an_end_token_ends_a_text_but_not_before_the_minimum(make_decoder):
    decoder = make_decoder("llama")
    always(decoder, 2, 10)
    _, embeds, mask = prompts(decoder.hidden_size, [6, 4])
    for beam_size in (1, 3):
        for minimum, limit, expected in ((0, 9, [2]), (2, 9, [10, 10, 2]), (3, 3, [10, 10, 10])):
            for found in decoder.generate(embeds, mask, GenerationOptions([limit] * 2, minimum, beam_size)):
                assert found.token_ids == expected
                assert found.truncated == (expected[-1] != 2)


def test_any_of_several_end_tokens_ends_a_text(make_text_model, tokenizer):
    decoder = CausalLm(make_text_model("llama"), tokenizer, eos_token_ids=(2, 33)).eval()
    always(decoder, 33, 10)
    _, embeds, mask = prompts(decoder.hidden_size, [6])
    (found,) = decoder.generate(embeds, mask, GenerationOptions([5], 1))
    assert (found.token_ids, found.truncated) == ([10, 33], False)


def test_a_long_prompt_beside_a_large_limit_stays_within_the_positions(make_decoder):
    decoder = make_decoder("gpt2")  # positions are a table: one too many would be out of range
    assert decoder.max_positions == 64
    _, embeds, mask = prompts(decoder.hidden_size, [60, 4])
    always(decoder, 10, 11)
    found = decoder.generate(embeds, mask, GenerationOptions([4, 60]))
    assert [generated.token_ids for generated in found] == [[10] * 4, [10] * 60]
    with pytest.raises(PromptError, match="prompt 0 of the batch has 60 positions and may grow by 5 .* 64 positions"):
        decoder.generate(embeds, mask, GenerationOptions([5, 60]))


def test_prompts_that_make_no_sense_are_refused(make_decoder):
    decoder = make_decoder("gpt2")
    _, embeds, mask = prompts(decoder.hidden_size, [3, 2])
    with pytest.raises(PromptError, match="as many token limits"):
        decoder.generate(embeds, mask, GenerationOptions([5]))
    with pytest.raises(PromptError, match="as many token limits"):
        decoder.generate(embeds, mask, GenerationOptions([5, 0]))
    with pytest.raises(PromptError, match="padded on the right"):
        decoder.generate(embeds, mask.flip(1), GenerationOptions([5, 5]))


@pytest.mark.parametrize("beam_size", [1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error(value, beam_size, make_decoder):
    decoder = make_decoder("llama")
    with torch.no_grad():
        decoder.model.lm_head.weight[7] = value
    _, embeds, mask = prompts(decoder.hidden_size, [6])
    with pytest.raises(NumericalError, match="not finite"):
        decoder.generate(embeds, mask, GenerationOptions([3], 0, beam_size))


def test_what_a_checkpoint_suggests_for_generation_is_not_followed(make_decoder, tmp_path):
    decoder = make_decoder("llama")
    decoder.save(tmp_path)
    wild = {"do_sample": True, "temperature": 9.0, "top_k": 50, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1}
    limits = {"max_new_tokens": 2, "min_new_tokens": 2, "num_beams": 4, "suppress_tokens": list(range(3, 60))}
    (tmp_path / "generation_config.json").write_text(json.dumps({**wild, **limits, "eos_token_id": [2, 1]}))
    loaded = CausalLm.load(str(tmp_path), DecoderOptions()).eval()
    assert loaded.eos_token_ids == (2, 1)
    plain = CausalLm(decoder.model, decoder.tokenizer, eos_token_ids=(2, 1))
    _, embeds, mask = prompts(decoder.hidden_size, [6, 3])
    for beam_size in (1, 3):
        options = GenerationOptions([12, 12], 0, beam_size)
        assert loaded.generate(embeds, mask, options) == plain.generate(embeds, mask, options)


def test_an_end_token_that_is_ordinary_text_is_left_out_and_said(make_decoder, tmp_path):
    make_decoder("gpt_neox").save(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 40]}')
    with pytest.warns(UserWarning, match="end token 40"):
        assert CausalLm.load(str(tmp_path), DecoderOptions()).eos_token_ids == (2,)


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_twice_and_loading_between_gives_the_same_bytes(family, make_decoder, digests, tmp_path):
    first = make_decoder(family)
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    first.save(folders[0])
    second = CausalLm.load(str(folders[0]), DecoderOptions()).eval()
    second.save(folders[1])
    CausalLm.load(str(folders[1]), DecoderOptions()).save(folders[2])
    assert digests(folders[0]) == digests(folders[1]) == digests(folders[2])
    assert second.eos_token_ids == first.eos_token_ids and second.pad_token_id == first.pad_token_id
    ids = torch.randint(3, 64, (1, 7))
    assert torch.equal(first.model(ids).logits, second.model(ids).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameter_groups_hold_each_parameter_once(family, make_decoder):
    decoder = make_decoder(family)
    groups = {group.name: group.parameters for group in decoder.parameter_groups()}
    assert list(groups)[:3] == ["embeddings", "layers.0", "layers.1"] and set(list(groups)[3:]) <= {"head"}
    listed = [id(parameter) for parameters in groups.values() for parameter in parameters]
    assert sorted(listed) == sorted(id(parameter) for parameter in decoder.parameters())
    assert decoder.model.get_input_embeddings().weight is groups["embeddings"][0]
    head = decoder.model.get_output_embeddings().weight
    tied = head is decoder.model.get_input_embeddings().weight
    assert tied or any(head is parameter for parameter in groups["head"])


def test_hidden_size_is_the_width_of_the_embeddings(make_decoder):
    assert make_decoder("opt").hidden_size == 8  # 16 inside


def test_stale_buffers_of_older_checkpoints_are_left_out(make_decoder, rewrite_weights, tmp_path):
    decoder = make_decoder("gpt_neox")
    decoder.save(tmp_path)
    stale = {
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(2),
    }
    rewrite_weights(tmp_path, lambda state: {**state, **stale})
    loaded = CausalLm.load(str(tmp_path), DecoderOptions())
    assert all(torch.equal(a, b) for a, b in zip(decoder.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {n: t for n, t in state.items() if "layers.1.mlp.dense_4h" not in n}, "missing: .*dense_4h"),
        (lambda state: {**state, "gpt_neox.surprise": torch.zeros(1)}, "unexpected: gpt_neox.surprise"),
        (lambda state: {n: t for n, t in state.items() if "embed_out" not in n}, "missing: .*(embed_out|lm_head)"),
    ],
)
def test_weights_that_do_not_fit_are_an_error_in_one_line(change, message, make_decoder, rewrite_weights, tmp_path):
    make_decoder("gpt_neox").save(tmp_path)
    rewrite_weights(tmp_path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        CausalLm.load(str(tmp_path), DecoderOptions())
    assert "\n" not in str(caught.value)


def test_models_that_cannot_serve_are_refused(make_decoder, make_speech_model, tmp_path):
    decoder = make_decoder("llama")
    decoder.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(CheckpointError, match="quantized"):
        CausalLm.load(str(tmp_path), DecoderOptions())
    make_speech_model("hubert").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="'hubert', which is no causal language model"):
        CausalLm.load(str(tmp_path), DecoderOptions())
    with pytest.raises(CheckpointError, match="end or padding token has id 99"):
        CausalLm(decoder.model, decoder.tokenizer, eos_token_ids=[99])


def test_code_that_a_checkpoint_brings_along_is_not_run(make_decoder, tmp_path):
    make_decoder("llama").save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    mine = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    (tmp_path / "mine.py").write_text("raise SystemExit('this ran')")
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": mine}))
    assert type(CausalLm.load(str(tmp_path), DecoderOptions()).model).__name__ == "LlamaForCausalLM"
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": mine, "model_type": "mine"}))
    with pytest.raises(CheckpointError, match="code that a checkpoint brings along is not run"):
        CausalLm.load(str(tmp_path), DecoderOptions())
