"""The rules of text decoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nuebridge.contracts import Generated, GenerationOptions, TextDecoder
from nuebridge.errors import NuebridgeError
from nuebridge.testing.rules import Checks, NotApplicable, need, of_tensor
from nuebridge.testing.subject import DecoderSubject
from nuebridge.testing.tools import gap, weighed

TOLERANCE = 1e-4
TIE = 1e-4
"""Two best logits closer than this share of the largest magnitude may change places."""

PROMPTS = (5, 11, 8)
NEW_TOKENS = 6

decoders: Checks[DecoderSubject] = Checks()


@decoders.rule
def it_declares_itself(subject: DecoderSubject) -> None:
    """A decoder is a nuebridge.contracts.TextDecoder with its widths, its positions and its special tokens."""
    part = subject.part
    need(isinstance(part, TextDecoder), f"{type(part).__name__} is no TextDecoder")
    for name in ("hidden_size", "vocab_size"):
        value = getattr(part, name, None)
        need(type(value) is int and value > 0, f"{name} is {value!r}")
    positions = part.max_positions
    need(positions is None or (type(positions) is int and positions > 0), f"max_positions is {positions!r}")
    need(isinstance(part.eos_token_ids, tuple) and part.eos_token_ids, f"eos_token_ids is {part.eos_token_ids!r}")
    for token_id in (*part.eos_token_ids, part.bos_token_id, part.pad_token_id):
        inside = token_id is None or 0 <= token_id < part.vocab_size
        need(inside, f"the special token {token_id} is outside the vocabulary of {part.vocab_size}")


@decoders.rule
def embeddings_have_their_shape(subject: DecoderSubject) -> None:
    """embed gives [..., hidden_size] for int64 [...] token ids, also for none at all."""
    part, ids = subject.part, subject.token_ids(6)
    for given in (ids, ids.view(2, 3), ids[:0]):
        with torch.no_grad():
            found = part.embed(given)
        wanted = (*given.shape, part.hidden_size)
        need(
            found.shape == wanted, f"embed gives {of_tensor(found)} for ids {list(given.shape)}; it should be {wanted}"
        )


@decoders.rule
def text_becomes_tokens(subject: DecoderSubject) -> None:
    """encode gives ids within the vocabulary, adds no special tokens, and reads those that a text spells out."""
    part = subject.part
    need(part.encode("") == [], f"the empty text becomes {part.encode('')}")
    ids = part.encode("hello")
    need(isinstance(ids, list) and all(type(i) is int for i in ids), f"encode gives {ids!r}, not a list of int")
    outside = [i for i in ids if not 0 <= i < part.vocab_size]
    need(not outside, f"ids {outside} are outside the vocabulary of {part.vocab_size}")
    special = {*part.eos_token_ids, part.bos_token_id}
    ends = [i for i in (ids[:1] + ids[-1:]) if i in special]
    need(not ends, f"'hello' becomes {ids}, with the special tokens {ends} added")
    for token_id in dict.fromkeys([*part.eos_token_ids, part.bos_token_id]):
        if token_id is not None:
            spelled = part.token(token_id)
            found = part.encode(spelled)
            need(found == [token_id], f"the special token {token_id} is written {spelled!r}, which is read as {found}")


@decoders.rule
def tokens_become_text(subject: DecoderSubject) -> None:
    """decode gives the text of any ids below vocab_size, special tokens left out."""
    part, ids = subject.part, subject.part.encode("hello")
    text = part.decode(ids)
    need(isinstance(text, str), f"decode gives {text!r}")
    need(part.decode([]) == "", f"no tokens become {part.decode([])!r}")
    for token_id in (0, part.vocab_size - 1):  # a model may have more tokens than its tokenizer
        need(isinstance(part.decode([token_id]), str), f"token {token_id} becomes {part.decode([token_id])!r}")
    end = part.decode([*ids, part.eos_token_ids[0]])
    need(end == text, f"{text!r} with an end token becomes {end!r}")


@decoders.rule
def logits_have_their_shape(subject: DecoderSubject) -> None:
    """forward gives next-token logits [B, n, vocab_size] of the last n = num_logits positions, all for None."""
    part = subject.part
    embeds, mask = subject.embeds(part, 7), torch.ones(1, 7, dtype=torch.int64)
    with torch.no_grad():
        whole, last = part(embeds, mask), part(embeds, mask, 3)
    need(whole.shape == (1, 7, part.vocab_size), f"it gives {of_tensor(whole)} for 7 positions of {part.vocab_size}")
    need(last.shape == (1, 3, part.vocab_size), f"it gives {of_tensor(last)} for num_logits=3")
    need(bool(torch.isfinite(whole).all()), "logits are not finite")
    difference = gap(whole[:, -3:], last)
    need(difference <= TOLERANCE, f"the last 3 logits differ by {difference:.3g} between num_logits=3 and all")


@decoders.rule
def logits_look_back_only(subject: DecoderSubject) -> None:
    """Logits at a position depend on what comes before it and on nothing after it."""
    part = subject.part
    embeds = subject.embeds(part, 8)
    changed = embeds.clone()
    changed[:, 5:] += 1.0
    earlier = embeds.clone()
    earlier[:, 1] += 1.0
    mask = torch.ones(1, 8, dtype=torch.int64)
    with torch.no_grad():
        first, second, third = part(embeds, mask), part(changed, mask), part(earlier, mask)
    difference = gap(first[:, :5], second[:, :5])
    need(difference <= TOLERANCE, f"changing positions 5 to 7 changes earlier logits by {difference:.3g}")
    need(not torch.equal(first[:, -1], third[:, -1]), "changing position 1 does not change the last logits")


@decoders.rule
def padding_changes_no_logits(subject: DecoderSubject) -> None:
    """Rows may be padded on both sides; position 0 is the first real one (logits within 1e-4 in float32)."""
    part = subject.part
    for left, right in ((0, 0), (3, 0), (0, 3), (2, 2)):
        row = subject.embeds(part, 6)
        mask = torch.ones(1, 6, dtype=torch.int64)
        padded = torch.nn.functional.pad(row, (0, 0, left, right))
        # A longer row shares the batch.
        other = subject.embeds(part, 6 + left + right, seed=9)
        both = torch.cat([padded, other])
        masks = torch.cat([torch.nn.functional.pad(mask, (left, right)), torch.ones(1, other.shape[1]).long()])
        with torch.no_grad():
            alone, batch = part(row, mask), part(both, masks)
        difference = gap(alone[0], batch[0, left : left + 6])
        need(
            difference <= TOLERANCE,
            f"logits differ by {difference:.3g} with {left} positions of padding on the left and {right} on the right",
        )


@decoders.rule
def gradients_reach_the_inputs(subject: DecoderSubject) -> None:
    """Gradients reach every real position of inputs_embeds and no other: a bridge learns through them."""
    part = subject.fresh().requires_grad_(False)
    embeds = torch.zeros(2, 8, part.hidden_size)
    embeds[0] = subject.embeds(part, 8)[0]
    embeds[1, 2:7] = subject.embeds(part, 5, seed=6)[0]
    embeds.requires_grad_()
    mask = torch.tensor([[1] * 8, [0, 0, 1, 1, 1, 1, 1, 0]])
    logits = part(embeds, mask)
    need(logits.requires_grad, "logits of a frozen decoder have no gradient with respect to inputs_embeds")
    weighed(logits[mask.bool()].float()).backward()  # type: ignore[no-untyped-call]
    gradient = embeds.grad
    need(gradient is not None, "no gradient reaches inputs_embeds")
    assert gradient is not None
    need(bool(torch.isfinite(gradient).all()), "the gradient with respect to inputs_embeds is not finite")
    need(not gradient[mask == 0].any(), "padding has a gradient")
    silent = (gradient[mask == 1] == 0).all(-1)
    need(not bool(silent.any()), f"{int(silent.sum())} of {int(mask.sum())} real positions get no gradient")


@decoders.rule
def generation_is_greedy(subject: DecoderSubject) -> None:
    """generate is greedy for beam_size 1: the most probable token by forward's logits, new tokens only."""
    part = subject.part
    for count in PROMPTS:
        embeds = subject.embeds(part, count)
        mask = torch.ones(1, count, dtype=torch.int64)
        with torch.no_grad():
            (found,) = part.generate(embeds, mask, GenerationOptions([NEW_TOKENS]))
        _check_greedy(part, embeds, found, NEW_TOKENS)


@decoders.rule
def a_batch_gives_what_single_rows_give(subject: DecoderSubject) -> None:
    """A row's tokens do not depend on the other rows; each row has a token limit of its own."""
    part = subject.part
    rows = [subject.embeds(part, count)[0] for count in PROMPTS]
    limits = [NEW_TOKENS, 2, NEW_TOKENS - 1]
    longest = max(PROMPTS)
    batch = torch.stack([torch.nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    mask = torch.tensor([[0] * (longest - count) + [1] * count for count in PROMPTS])
    for beam_size in (1, 2):
        options = GenerationOptions(limits, beam_size=beam_size)
        with torch.no_grad():
            try:
                together = part.generate(batch, mask, options)
            except NuebridgeError as error:
                need(beam_size > 1, f"greedy search raised {type(error).__name__}: {error}")
                return  # a decoder without beam search says so
            need(len(together) == len(rows), f"{len(rows)} prompts give {len(together)} results")
            for row, limit, found in zip(rows, limits, together, strict=True):
                need(len(found.token_ids) <= limit, f"{len(found.token_ids)} tokens for a limit of {limit}")
                alone_options = GenerationOptions([limit], beam_size=beam_size)
                (alone,) = part.generate(row[None], torch.ones(1, len(row), dtype=torch.int64), alone_options)
                near = abs(alone.avg_logprob - found.avg_logprob) < 1e-3
                told = f"{found.token_ids} ({found.avg_logprob:.4f}) in a batch, {alone.token_ids} "
                told += f"({alone.avg_logprob:.4f}) alone, with beam_size {beam_size}"
                if alone.token_ids == found.token_ids or beam_size > 1:  # beams that tie may change places
                    need(near, f"a row gives {told}")
                else:
                    _check_greedy(part, row[None], found, limit)


@decoders.rule
def an_end_token_ends_the_text(subject: DecoderSubject) -> None:
    """An end token ends a text, stands last and makes it not truncated; min_new_tokens holds it back."""
    part = subject.part
    end = part.eos_token_ids[0]
    embeds = _steered(subject, end)
    mask = torch.ones(1, embeds.shape[1], dtype=torch.int64)
    with torch.no_grad():
        (found,) = part.generate(embeds, mask, GenerationOptions([NEW_TOKENS]))
        (held,) = part.generate(embeds, mask, GenerationOptions([NEW_TOKENS], min_new_tokens=2))
    told = found.token_ids, found.truncated
    need(told == ([end], False), f"where {end} is the most probable token, token_ids and truncated are {told}")
    early = [token for token in held.token_ids[:2] if token in part.eos_token_ids]
    need(
        len(held.token_ids) >= 2 and not early,
        f"with min_new_tokens=2 it gives {held.token_ids} (ends: {part.eos_token_ids})",
    )
    _check_greedy(part, embeds, held, NEW_TOKENS, least=2)


def _check_greedy(part: Any, embeds: Tensor, found: Generated, limit: int, least: int = 0) -> None:
    """Raises Breach where a text is not what greedy search by ``forward`` gives, ties apart."""
    ids, ends = list(found.token_ids), part.eos_token_ids
    need(0 < len(ids) <= limit, f"it gives {len(ids)} tokens for a limit of {limit}")
    read = embeds
    if len(ids) > 1:
        with torch.no_grad():
            read = torch.cat([embeds, part.embed(torch.tensor(ids[:-1]))[None].to(embeds.dtype)], dim=1)
            logits = part(read, torch.ones(read.shape[:2], dtype=torch.int64), len(ids))[0].float()
    else:
        with torch.no_grad():
            logits = part(read, torch.ones(read.shape[:2], dtype=torch.int64), 1)[0].float()
    logprobs = logits.log_softmax(-1)
    for step, token in enumerate(ids):
        allowed = logits[step].clone()
        if step < least:
            allowed[list(ends)] = -torch.inf
        best = int(allowed.argmax())
        tie = float(allowed[best] - allowed[token]) <= TIE * float(logits[step].abs().max())
        need(tie, f"token {step} is {token}, but forward's best is {best} ({ids} for a prompt of {embeds.shape[1]})")
    early = [token for token in ids[:-1] if token in ends]
    need(not early, f"the text goes on after the end token {early[:1]}: {ids}")
    ended = ids[-1] in ends
    need(ended or len(ids) == limit, f"it stops after {len(ids)} of {limit} tokens without an end token")
    need(found.truncated is not ended, f"truncated is {found.truncated} for {ids} (end tokens {ends})")
    mean = float(logprobs[range(len(ids)), ids].mean())
    need(
        abs(found.avg_logprob - mean) < 1e-3, f"avg_logprob is {found.avg_logprob:.4f}, the tokens' mean is {mean:.4f}"
    )


def _steered(subject: DecoderSubject, token: int) -> Tensor:
    """Embeddings ``[1, P, D]`` that a gradient has moved until ``token`` is what follows."""
    part = subject.fresh().requires_grad_(False)
    embeds = subject.embeds(part, 3)
    optimizer = torch.optim.Adam([embeds.requires_grad_()], lr=0.5 * float(embeds.detach().std()))
    mask = torch.ones(1, 3, dtype=torch.int64)
    for _ in range(60):
        logits = part(embeds, mask, 1)[0, 0].float()
        first, second = logits.detach().topk(2).values
        if int(logits.argmax()) == token and first - second > 0.01 * first.abs():
            return embeds.detach()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits[None], torch.tensor([token])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    raise NotApplicable(f"no prompt was found after which the end token {token} is the most probable one")
