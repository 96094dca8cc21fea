"""From a prompt to tokens. Works on any TextDecoder; knows neither encoder nor bridge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nuebridge.contracts import Generated, GenerationOptions, TextDecoder
from nuebridge.errors import PromptError
from nuebridge.prompt import PromptBatch


def generate(decoder: TextDecoder, prompt: PromptBatch, options: GenerationOptions) -> list[Generated]:
    """Continues every row of the prompt.

    A token limit that reaches past the decoder's last position is lowered to what fits; a text
    that it ends is marked ``truncated`` like any other. Raises PromptError where nothing fits.
    """
    limits = fitting_limits(decoder, prompt.attention_mask.sum(1).tolist(), options.max_new_tokens)
    return decoder.generate(prompt.inputs_embeds, prompt.attention_mask, replace(options, max_new_tokens=limits))


def fitting_limits(decoder: TextDecoder, lengths: Sequence[int], limits: Sequence[int]) -> list[int]:
    """The token limits of prompts of these lengths (positions), lowered to what the decoder has room for.

    Raises PromptError where there is room for none.
    """
    if decoder.max_positions is None:
        return list(limits)
    rooms = [decoder.max_positions - length for length in lengths]
    for row, room in enumerate(rooms):
        if room < 1:
            raise PromptError(
                f"prompt {row} of the batch fills {lengths[row]} of the decoder's {decoder.max_positions} positions "
                "and leaves none for text; use shorter audio or a shorter context"
            )
    return [min(limit, room) for limit, room in zip(limits, rooms, strict=True)]
