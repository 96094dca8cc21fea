"""The one prompt builder: training and inference make their inputs here and nowhere else.

A prompt is ``prefix + audio positions + suffix``; in training the text follows. Prompts are padded
on the left and texts on the right, so that the text of every row starts at one position.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nuebridge.contracts import Frames, TextDecoder
from nuebridge.errors import PromptError
from nuebridge.settings import ChatPrompt, PromptTemplate

IGNORED = -100
"""Label of a position that no loss counts."""


@dataclass(frozen=True)
class PromptBatch:
    """``inputs_embeds [B, P, D]``, ``attention_mask [B, P]`` int64 with 1 = real, and in training
    ``labels [B, T]`` for the last T positions: the token that each should predict, -100 = ignored."""

    inputs_embeds: Tensor
    attention_mask: Tensor
    labels: Tensor | None = None


def settled(prompt: PromptTemplate | ChatPrompt, decoder: TextDecoder) -> PromptTemplate:
    """A prompt as a checkpoint keeps it: a chat prompt becomes the prefix and suffix that the decoder's template gives.

    Texts then end with the token that ends a turn, where there is a special one. Raises PromptError where the decoder
    has no chat template, or one that leaves out the audio's place, changes it or repeats it.
    """
    if isinstance(prompt, PromptTemplate):
        return prompt
    instruction = prompt.instruction if "{audio}" in prompt.instruction else f"{{audio}}\n{prompt.instruction}".rstrip()
    user = _marked(instruction)
    system = None if prompt.system is None else _marked(prompt.system)
    parts = decoder.chat(user, system).split(_MARK.format("audio"))
    answered = decoder.chat(user, system, answer=_MARK.format("answer")).split(_MARK.format("answer"))
    if len(parts) != 2 or len(answered) != 2:
        raise PromptError(
            "the decoder's chat template does not write what the user says once and as it is, so the audio has no "
            "place in it; write the prompt's prefix and suffix yourself"
        )
    tail = answered[1].lstrip()
    ends = decoder.encode(tail)[:1]
    if ends and not decoder.decode(ends) and tail.startswith(decoder.token(ends[0])):  # a special token
        decoder.end_with(ends[0])
    return PromptTemplate(prefix=_unmarked(parts[0]), suffix=_unmarked(parts[1]), defaults=prompt.defaults)


_MARK = "\ue000{}\ue001"
"""What stands for the audio and the fields while a chat template is at work: characters for private use."""


def _marked(text: str) -> str:
    """A text with fields in braces, with marks for them and plain braces for doubled ones."""
    marked = re.sub(r"(?<!\{)((?:\{\{)*)\{(\w+)\}", lambda found: found[1] + _MARK.format(found[2]), text)
    return marked.replace("{{", "{").replace("}}", "}")


def _unmarked(text: str) -> str:
    """The text as a template writes it: marks become fields in braces, braces are doubled."""
    doubled = text.replace("{", "{{").replace("}", "}}")
    return re.sub(_MARK.format(r"(\w+)"), r"{\1}", doubled)


def render(template: PromptTemplate, values: Mapping[str, str | None]) -> tuple[str, str]:
    """Prefix and suffix with the fields filled in.

    Raises PromptError for a value whose field is not declared, and for a declared field without
    a value or default.
    """
    given = {name: value for name, value in values.items() if value is not None}
    check_fields(template, given)
    filled = {**template.defaults, **given}
    for name in template.fields:
        if name not in filled:
            raise PromptError(f"this integration's prompt needs a value for {name!r}; give one")
    return template.prefix.format(**filled), template.suffix.format(**filled)


def check_fields(template: PromptTemplate, values: Mapping[str, str | None]) -> None:
    """Raises PromptError for a value whose field the template does not declare."""
    for name, value in values.items():
        if value is not None and name not in template.fields:
            declared = ", ".join(template.fields) or "none"
            raise PromptError(
                f"this integration's prompt takes no {name!r} (fields it declares: {declared}); leave it out"
            )


def build_prompt(
    decoder: TextDecoder,
    audio: Frames,
    template: PromptTemplate,
    values: Sequence[Mapping[str, str | None]],
    targets: Sequence[Sequence[int]] | None = None,
    inputs: Sequence[Sequence[int]] | None = None,
) -> PromptBatch:
    """Joins prefix, audio ``[B, A, D]`` and suffix, one mapping of field values a row.

    ``targets`` are the token ids to learn, the end token included; ``inputs`` are what the decoder
    reads in their place (the same, unless training corrupts some against exposure bias). Raises
    PromptError where a row is longer than the decoder's ``max_positions``.
    """
    rendered = [text for fields in values for text in render(template, fields)]
    around = [decoder.encode(text) for text in rendered]  # the prefix and the suffix of every row, by turns
    counts = audio.lengths.tolist()
    lengths = [
        len(before) + count + len(after) for before, count, after in zip(around[::2], counts, around[1::2], strict=True)
    ]
    # The last target is predicted, never read.
    known = inputs if inputs is not None else targets
    read = [[] for _ in lengths] if known is None else [list(ids[:-1]) for ids in known]
    check_positions(decoder, [length + len(ids) for length, ids in zip(lengths, read, strict=True)])
    longest, longest_text = max(lengths), max(map(len, read))
    embedded = _embed(decoder, [*around, *read], audio.features)
    rows = [
        torch.cat([before, features[:count], after])
        for before, features, count, after in zip(
            embedded[: len(around) : 2], audio.features, counts, embedded[1 : len(around) : 2], strict=True
        )
    ]
    embeds = torch.stack([F.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    mask = torch.zeros(len(rows), longest + longest_text, dtype=torch.int64, device=embeds.device)
    for row, (length, ids) in enumerate(zip(lengths, read, strict=True)):
        mask[row, longest - length : longest + len(ids)] = 1
    if longest_text:
        texts = [F.pad(text, (0, 0, 0, longest_text - len(text))) for text in embedded[len(around) :]]
        embeds = torch.cat([embeds, torch.stack(texts)], dim=1)
    if targets is None:
        return PromptBatch(embeds, mask)
    # By position: where padding and the end of text share one id, the end of text is still learned.
    labels = torch.tensor(_padded(targets, longest_text + 1, IGNORED), dtype=torch.int64, device=embeds.device)
    return PromptBatch(embeds, mask, labels)


def check_positions(decoder: TextDecoder, lengths: Sequence[int]) -> None:
    """Raises PromptError where a row needs more positions than the decoder has."""
    if decoder.max_positions is not None and max(lengths) > decoder.max_positions:
        row = max(range(len(lengths)), key=lengths.__getitem__)
        raise PromptError(
            f"row {row} of the batch takes {lengths[row]} positions of prompt and text, but the decoder has "
            f"{decoder.max_positions}; use shorter audio, a shorter context or a bridge that compresses more"
        )


def _padded(rows: Sequence[Sequence[int]], size: int, filler: int) -> list[list[int]]:
    return [[*row, *[filler] * (size - len(row))] for row in rows]


def _embed(decoder: TextDecoder, token_ids: Sequence[Sequence[int]], like: Tensor) -> Sequence[Tensor]:
    """Embeddings ``[T, D]`` of each sequence, in the audio's dtype and on its device."""
    # All at once: where the embeddings are trained, each look-up would have a gradient as large as their whole table.
    joined = [token for ids in token_ids for token in ids]
    embedded = decoder.embed(torch.tensor(joined, dtype=torch.int64, device=like.device)).to(like.dtype)
    return torch.split(embedded, [len(ids) for ids in token_ids])
