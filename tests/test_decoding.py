from __future__ import annotations

import pytest
import torch
from toy.parts import ToyDecoder

from nuebridge.contracts import Generated, GenerationOptions
from nuebridge.decoding import fitting_limits, generate
from nuebridge.errors import PromptError
from nuebridge.prompt import PromptBatch

EOS = 257


@pytest.fixture
def decoder() -> ToyDecoder:
    torch.manual_seed(3)
    return ToyDecoder(8).requires_grad_(False)


def prompt(*lengths: int) -> PromptBatch:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(length, 8, generator=generator) for length in lengths]
    longest = max(lengths)
    embeds = torch.stack([torch.cat([torch.zeros(longest - len(row), 8), row]) for row in rows])
    mask = torch.tensor([[0] * (longest - length) + [1] * length for length in lengths])
    return PromptBatch(embeds, mask)


def test_limits_are_lowered_to_the_room_there_is(decoder: ToyDecoder) -> None:
    decoder.max_positions = 20
    assert fitting_limits(decoder, [5, 15, 19], [10, 10, 10]) == [10, 5, 1]
    decoder.max_positions = None
    assert fitting_limits(decoder, [5, 15, 1000], [10, 10, 10]) == [10, 10, 10]


def test_no_room_is_an_error_with_figures(decoder: ToyDecoder) -> None:
    decoder.max_positions = 20
    with pytest.raises(PromptError, match="prompt 1 of the batch fills 20 of the decoder's 20 positions"):
        generate(decoder, prompt(5, 20), GenerationOptions([4, 4]))


def test_every_row_keeps_its_own_limit(decoder: ToyDecoder) -> None:
    decoder.head.bias[EOS] = -1e4  # never ends
    decoder.max_positions = 12
    rows = generate(decoder, prompt(3, 10, 6), GenerationOptions([4, 7, 100]))
    assert [len(row.token_ids) for row in rows] == [4, 2, 6]
    assert all(row.truncated for row in rows)


def test_a_rows_text_does_not_depend_on_the_others(decoder: ToyDecoder) -> None:
    """Also where the decoder's room for another row is below the fewest tokens asked for."""
    decoder.head.bias[EOS] = 1e4  # ends as soon as it may
    decoder.max_positions = 12
    options = GenerationOptions([8, 8], min_new_tokens=5)
    batch = prompt(4, 11)
    both = generate(decoder, batch, options)
    alone = generate(
        decoder, PromptBatch(batch.inputs_embeds[:1, -4:], batch.attention_mask[:1, -4:]), GenerationOptions([8], 5)
    )
    assert both[0].token_ids == alone[0].token_ids and len(alone[0].token_ids) == 6
    assert not both[0].truncated and both[0].token_ids[-1] == EOS
    assert len(both[1].token_ids) == 1 and both[1].truncated


def test_an_end_token_ends_it(decoder: ToyDecoder) -> None:
    decoder.head.bias[EOS] = 1e4
    assert generate(decoder, prompt(3), GenerationOptions([9])) == [Generated([EOS], 0.0, False)]
