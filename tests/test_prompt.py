from __future__ import annotations

import pytest
import torch
from toy.parts import ToyDecoder

from nuebridge.contracts import Frames
from nuebridge.errors import PromptError
from nuebridge.prompt import IGNORED, build_prompt, render
from nuebridge.settings import PromptTemplate

BOS, EOS = 256, 257
TEMPLATE = PromptTemplate(prefix="<s>a", suffix="[x]")


@pytest.fixture
def decoder() -> ToyDecoder:
    torch.manual_seed(0)
    return ToyDecoder(8)


@pytest.fixture
def audio() -> Frames:
    torch.manual_seed(1)
    return Frames(torch.randn(3, 6, 8), torch.tensor([6, 1, 4])).zero_padding()


def test_render_fills_fields_and_keeps_braces() -> None:
    template = PromptTemplate(prefix="{{x}}{context}|", suffix="{language}", defaults={"context": "none"})
    assert render(template, {"language": "en"}) == ("{x}none|", "en")
    assert render(template, {"language": "en", "context": "{y}"}) == ("{x}{y}|", "en")
    assert render(template, {"language": "en", "context": None, "task": None}) == ("{x}none|", "en")


def test_a_value_that_the_prompt_does_not_declare() -> None:
    template = PromptTemplate(prefix="{language}")
    with pytest.raises(PromptError, match=r"takes no 'context' \(fields it declares: language\); leave it out"):
        render(template, {"language": "en", "context": "x"})
    with pytest.raises(PromptError, match="fields it declares: none"):
        render(PromptTemplate(), {"task": "x"})


def test_a_declared_field_without_a_value() -> None:
    with pytest.raises(PromptError, match="needs a value for 'language'; give one"):
        render(PromptTemplate(prefix="{language}"), {"language": None})


def test_the_parts_stand_in_order(decoder: ToyDecoder, audio: Frames) -> None:
    prompt = build_prompt(decoder, audio, TEMPLATE, [{}] * 3)
    before = decoder.embed(torch.tensor([BOS, ord("a")]))
    after = decoder.embed(torch.tensor([ord(c) for c in "[x]"]))
    for row, length in enumerate(audio.lengths.tolist()):
        expected = torch.cat([before, audio.features[row, :length], after])
        assert torch.equal(prompt.inputs_embeds[row, -len(expected) :], expected)
    assert prompt.labels is None


def test_prompts_are_padded_on_the_left(decoder: ToyDecoder, audio: Frames) -> None:
    prompt = build_prompt(decoder, audio, TEMPLATE, [{}] * 3)
    assert prompt.inputs_embeds.shape == (3, 11, 8) and prompt.attention_mask.dtype == torch.int64
    assert prompt.attention_mask.tolist() == [[1] * 11, [0] * 5 + [1] * 6, [0] * 2 + [1] * 9]
    assert not prompt.inputs_embeds[prompt.attention_mask == 0].any()


def test_texts_start_at_one_position(decoder: ToyDecoder, audio: Frames) -> None:
    targets = [[1, 2, EOS], [EOS], [3, EOS]]
    prompt = build_prompt(decoder, audio, TEMPLATE, [{}] * 3, targets)
    assert prompt.labels.tolist() == [[1, 2, EOS], [EOS, IGNORED, IGNORED], [3, EOS, IGNORED]]
    assert prompt.attention_mask[:, 11:].tolist() == [[1, 1], [0, 0], [1, 0]]
    assert torch.equal(prompt.inputs_embeds[0, 11:], decoder.embed(torch.tensor([1, 2])))
    assert torch.equal(prompt.inputs_embeds[2, 11], decoder.embed(torch.tensor(3)))
    assert not prompt.inputs_embeds[prompt.attention_mask == 0].any()


def test_training_and_inference_share_the_prompt(decoder: ToyDecoder, audio: Frames) -> None:
    """Up to the text, the two are the same numbers, whatever the texts are (invariant 6)."""
    template = PromptTemplate(prefix="<s>{language}", suffix="{context}:")
    values = [{"language": "en", "context": c} for c in ("", "long context", "x")]
    asked = build_prompt(decoder, audio, template, values)
    size = asked.inputs_embeds.shape[1]
    for targets in ([[EOS]] * 3, [[1, 2, 3, 4, EOS], [EOS], [9, EOS]]):
        taught = build_prompt(decoder, audio, template, values, targets)
        assert torch.equal(taught.inputs_embeds[:, :size], asked.inputs_embeds)
        assert torch.equal(taught.attention_mask[:, :size], asked.attention_mask)
        assert taught.inputs_embeds.shape[1] == size + max(map(len, targets)) - 1


def test_a_row_is_what_it_is_alone(decoder: ToyDecoder, audio: Frames) -> None:
    targets = [[1, 2, EOS], [EOS], [3, EOS]]
    batch = build_prompt(decoder, audio, TEMPLATE, [{}] * 3, targets)
    for row in range(3):
        alone = Frames(audio.features[row : row + 1], audio.lengths[row : row + 1])
        single = build_prompt(decoder, alone, TEMPLATE, [{}], [targets[row]])
        real = batch.attention_mask[row] == 1
        assert torch.equal(batch.inputs_embeds[row, real], single.inputs_embeds[0])


@pytest.mark.parametrize("pad", [None, EOS])
def test_the_end_token_is_always_learned(decoder: ToyDecoder, audio: Frames, pad: int | None) -> None:
    decoder.pad_token_id = pad
    prompt = build_prompt(decoder, audio, TEMPLATE, [{}] * 3, [[7, 8, EOS], [EOS], [EOS, EOS]])
    assert prompt.labels.tolist() == [[7, 8, EOS], [EOS, IGNORED, IGNORED], [EOS, EOS, IGNORED]]


def test_what_is_read_may_differ_from_what_is_learned(decoder: ToyDecoder, audio: Frames) -> None:
    targets, inputs = [[1, 2, EOS]] * 3, [[1, 9, EOS]] * 3
    prompt = build_prompt(decoder, audio, TEMPLATE, [{}] * 3, targets, inputs)
    assert prompt.labels.tolist() == targets
    assert torch.equal(prompt.inputs_embeds[0, 11:], decoder.embed(torch.tensor([1, 9])))


def test_without_prefix_suffix_and_text(decoder: ToyDecoder, audio: Frames) -> None:
    prompt = build_prompt(decoder, audio, PromptTemplate(), [{}] * 3)
    assert prompt.inputs_embeds.shape == (3, 6, 8)
    assert torch.equal(prompt.inputs_embeds[1, -1:], audio.features[1, :1])


def test_the_audios_precision_is_kept(decoder: ToyDecoder, audio: Frames) -> None:
    half = Frames(audio.features.bfloat16(), audio.lengths)
    assert build_prompt(decoder, half, TEMPLATE, [{}] * 3, [[1, EOS]] * 3).inputs_embeds.dtype == torch.bfloat16


def test_gradients_reach_audio_and_embeddings(decoder: ToyDecoder, audio: Frames) -> None:
    features = audio.features.clone().requires_grad_()
    prompt = build_prompt(decoder, Frames(features, audio.lengths), TEMPLATE, [{}] * 3, [[1, EOS], [EOS], [2, EOS]])
    prompt.inputs_embeds.sum().backward()
    assert features.grad[1].tolist() == [[1.0] * 8] + [[0.0] * 8] * 5
    learned = decoder.embedding.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert learned == [1, 2, ord("["), ord("]"), ord("a"), ord("x"), BOS]


def test_too_long_a_row_is_named_with_its_figures(decoder: ToyDecoder, audio: Frames) -> None:
    decoder.max_positions = 12
    build_prompt(decoder, audio, TEMPLATE, [{}] * 3, [[1, EOS], [EOS], [1, 2, 3, EOS]])
    with pytest.raises(
        PromptError, match="row 0 of the batch takes 13 positions of prompt and text, but the decoder has 12"
    ):
        build_prompt(decoder, audio, TEMPLATE, [{}] * 3, [[1, 2, EOS], [EOS], [EOS]])
    with pytest.raises(PromptError, match="row 2 of the batch takes 14 positions"):
        build_prompt(decoder, audio, TEMPLATE, [{}] * 3, [[EOS], [EOS], [1, 2, 3, 4, 5, EOS]])
    decoder.max_positions = None
    build_prompt(decoder, audio, TEMPLATE, [{}] * 3, [[1] * 500] * 3)
