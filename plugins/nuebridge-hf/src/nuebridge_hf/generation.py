"""Greedy and beam search through transformers' own ``generate``, a batch of prompts at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from nuebridge.contracts import Generated, GenerationOptions
from nuebridge.errors import NumericalError
from nuebridge_hf.loading import quiet_transformers


def generation_config(eos_token_ids: Sequence[int], pad_token_id: int | None, **settings: Any) -> GenerationConfig:
    """A configuration that holds the end and padding tokens and nothing a checkpoint suggests."""
    return GenerationConfig(
        eos_token_id=list(eos_token_ids) or None,
        pad_token_id=eos_token_ids[0] if pad_token_id is None and eos_token_ids else pad_token_id,
        **settings,
    )


def greedy(
    model: PreTrainedModel,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    options: GenerationOptions,
    eos_token_ids: Sequence[int],
    pad_token_id: int | None,
) -> list[Generated]:
    """The most probable token at every step, each row to its own limit."""
    limits = list(options.max_new_tokens)
    recorder = _GreedyRecorder(options.min_new_tokens, eos_token_ids)
    output = _run(
        model,
        inputs_embeds,
        attention_mask,
        generation_config(
            eos_token_ids,
            pad_token_id,
            max_new_tokens=max(limits),
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
        ),
        recorder,
        StoppingCriteriaList([_RowLimits(limits)]),
    )
    logprobs = recorder.result()  # [T, B]
    results = []
    for row, (ids, limit) in enumerate(zip(output.sequences.tolist(), limits, strict=True)):
        tokens, ended = _cut(ids[:limit], eos_token_ids)
        score = float(logprobs[: len(tokens), row].double().mean())
        results.append(Generated(tokens, score, truncated=not ended))
    return results


def beam(
    model: PreTrainedModel,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    options: GenerationOptions,
    eos_token_ids: Sequence[int],
    pad_token_id: int | None,
) -> list[Generated]:
    """Beam search. Rows of one limit run together: the limit decides which beams are compared."""
    groups = defaultdict(list)
    for row, limit in enumerate(options.max_new_tokens):
        groups[limit].append(row)
    results: dict[int, Generated] = {}
    for limit, rows in groups.items():
        embeds, mask = select_rows(inputs_embeds, attention_mask, rows)
        check = _FiniteCheck()
        output = _run(
            model,
            embeds,
            mask,
            generation_config(
                eos_token_ids,
                pad_token_id,
                max_new_tokens=limit,
                min_new_tokens=min(options.min_new_tokens, limit) or None,
                do_sample=False,
                num_beams=options.beam_size,
                return_dict_in_generate=True,
                output_scores=True,
            ),
            check,
            StoppingCriteriaList(),
        )
        check.result()
        for row, ids, score in zip(rows, output.sequences.tolist(), output.sequences_scores.tolist(), strict=True):
            tokens, ended = _cut(ids, eos_token_ids)
            results[row] = Generated(tokens, score, truncated=not ended)
    return [results[row] for row in range(len(results))]


def select_rows(inputs_embeds: Tensor, attention_mask: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Some rows of a left-padded batch, without the padding that they share."""
    index = torch.tensor(list(rows), device=attention_mask.device)
    mask = attention_mask[index]
    longest = int(mask.sum(1).max())
    return inputs_embeds[index][:, -longest:], mask[:, -longest:]


def _run(
    model: Any,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    config: GenerationConfig,
    processor: LogitsProcessor,
    criteria: StoppingCriteriaList,
) -> Any:
    with quiet_transformers():
        return model.generate(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([processor]),
            stopping_criteria=criteria,
        )


def _cut(ids: Sequence[int], eos_token_ids: Sequence[int]) -> tuple[list[int], bool]:
    """The ids up to and with the first end token, and whether there is one."""
    for position, token_id in enumerate(ids):
        if token_id in eos_token_ids:
            return list(ids[: position + 1]), True
    return list(ids), False


class _RowLimits(StoppingCriteria):
    """Ends each row at its own limit, so that a batch stops with its last row."""

    def __init__(self, limits: Sequence[int]) -> None:
        self._limits = torch.tensor(list(limits))

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self._limits = self._limits.to(input_ids.device)
        return input_ids.shape[1] >= self._limits


class _FiniteCheck(LogitsProcessor):
    """Notes whether every row of logits is a distribution. The flag is read once, at the end."""

    def __init__(self) -> None:
        self._bad: Tensor | None = None

    def _note(self, normalizer: Tensor) -> None:
        bad = ~torch.isfinite(normalizer).all()
        self._bad = bad if self._bad is None else self._bad | bad

    def result(self) -> None:
        if self._bad is not None and bool(self._bad):
            raise NumericalError(
                "the decoder's logits are not finite; float16 overflows in several models: use bfloat16 or float32"
            )

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        self._note(scores.logsumexp(-1))
        return scores


class _GreedyRecorder(_FiniteCheck):
    """Keeps the log-probability of the token that greedy search takes, and forbids an early end.

    Recording on the way needs ``[B]`` a step; the library's ``output_logits`` would keep ``[B, V]``.
    """

    def __init__(self, min_new_tokens: int, eos_token_ids: Sequence[int]) -> None:
        super().__init__()
        self._minimum = min_new_tokens
        self._eos = list(eos_token_ids)
        self._logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        normalizer = scores.float().logsumexp(-1)
        self._note(normalizer)
        if len(self._logprobs) < self._minimum and self._eos:
            scores = scores.clone()
            scores[:, self._eos] = -torch.inf
        self._logprobs.append(scores.amax(-1).float() - normalizer)
        return scores

    def result(self) -> Tensor:  # type: ignore[override]
        super().result()
        return torch.stack(self._logprobs).cpu()
