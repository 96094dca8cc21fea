"""Any causal language model of transformers, read through its input embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nuebridge.contracts import Generated, GenerationOptions, ParameterGroup, TextDecoder
from nuebridge.errors import CheckpointError, ConfigError, PromptError
from nuebridge_hf.causal_models import (
    decoder_layers,
    end_token_ids,
    load_causal_lm,
    outline_causal_lm,
    stable_positions,
    token_ids_in,
)
from nuebridge_hf.generation import beam, generation_config, greedy, select_rows
from nuebridge_hf.loading import OLDER_THAN_5, read_config, save_model
from nuebridge_hf.options import DecoderOptions
from nuebridge_hf.tokenizers import ChatTokenizer, Tokenizer, TransformersTokenizer, load_tokenizer

_SCALED_INSIDE_BEFORE_5 = {"gemma", "gemma2", "vaultgemma"}
"""Models that multiply ``inputs_embeds`` by the root of their width under 4.57, and do so in the embedding under 5."""


class CausalLm(TextDecoder):
    """A transformers model with a causal language-modelling head, and its tokenizer.

    ``eos_token_ids`` end a text, after the ``end_tokens`` of the options; by default the tokenizer's, else the model
    configuration's. Embeddings here are what transformers 5 takes as ``inputs_embeds``: Gemma's scaled ones, under
    4.57 as well, which scales them further in. Raises CheckpointError where model and tokenizer do not belong together.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | PreTrainedTokenizerBase,
        *,
        eos_token_ids: Sequence[int] | None = None,
        options: DecoderOptions | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.options = options or DecoderOptions()
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            tokenizer = TransformersTokenizer(tokenizer)
        self.tokenizer: Tokenizer = tokenizer
        config = model.config.get_text_config()
        self.vocab_size, self.hidden_size = self.model.get_input_embeddings().weight.shape
        self.max_positions = stable_positions(config)
        if eos_token_ids is None:
            own = tokenizer.eos_token_id
            eos_token_ids = token_ids_in(config.eos_token_id if own is None else own)
        first = [self._single_id(token) for token in self.options.end_tokens]
        self.eos_token_ids = tuple(dict.fromkeys([*first, *(int(i) for i in eos_token_ids)]))
        bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else config.bos_token_id
        self.bos_token_id = bos
        self.pad_token_id = tokenizer.pad_token_id
        if self.pad_token_id is None and self.eos_token_ids:
            self.pad_token_id = self.eos_token_ids[0]
        for token_id in (*self.eos_token_ids, *token_ids_in(self.pad_token_id)):
            if not 0 <= token_id < self.vocab_size:
                raise CheckpointError(
                    f"the tokenizer's end or padding token has id {token_id}, but the model knows {self.vocab_size} "
                    "tokens; model and tokenizer do not belong together"
                )
        self._leave_nothing_to_the_checkpoint()
        if getattr(config, "attn_logit_softcapping", None) is not None and config._attn_implementation == "sdpa":
            model.set_attn_implementation("eager")  # 4.57 would leave the caps out, without an error
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._keeps_logits = "logits_to_keep" in accepted
        inside = OLDER_THAN_5 and config.model_type in _SCALED_INSIDE_BEFORE_5
        self._scale_inside = float(config.hidden_size) ** 0.5 if inside else None
        if self.options.quantization is not None:
            chosen = self.options.quantization
            self.frozen_because = f"its weights are held in {chosen.bits} bits by {chosen.method}"
            self.requires_grad_(False)

    @property
    def adapted_module(self) -> nn.Module:
        model: nn.Module = self.model
        return model

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids)

    def token(self, token_id: int) -> str:
        return self.tokenizer.token(token_id)

    def embed(self, token_ids: Tensor) -> Tensor:
        embeddings: Tensor = self.model.get_input_embeddings()(token_ids)
        scale = self._inner_scale
        return embeddings if scale is None else embeddings * scale

    @property
    def _inner_scale(self) -> float | None:
        """What the model multiplies its ``inputs_embeds`` with, rounded as it rounds it."""
        return None if self._scale_inside is None else float(torch.tensor(self._scale_inside, dtype=self.dtype))

    def _model_inputs(self, inputs_embeds: Tensor) -> Tensor:
        scale = self._inner_scale
        if scale is not None:
            inputs_embeds = inputs_embeds / scale
        return inputs_embeds.to(self.dtype)

    def chat(self, user: str, system: str | None = None, answer: str | None = None) -> str:
        """As the tokenizer's chat template has it, thinking aloud turned off where the template knows of it."""
        template = self.tokenizer.chat_template if isinstance(self.tokenizer, ChatTokenizer) else None
        if template is None:
            raise PromptError(
                "the decoder's tokenizer has no chat template: it is a base model, or its tokenizer_config.json was "
                "left behind; use the model's instruction-tuned release, or write the prompt's prefix and suffix"
            )
        turns = {"system": system, "user": user, "assistant": answer}
        return template.render([{"role": role, "content": text} for role, text in turns.items() if text is not None])

    def end_with(self, token_id: int) -> None:
        token = self.token(token_id)
        if self._single_id(token) != token_id:
            raise PromptError(f"the token {token!r} is read as other tokens in a text, so it cannot end one")
        self.eos_token_ids = tuple(dict.fromkeys([token_id, *self.eos_token_ids]))
        end_tokens = tuple(dict.fromkeys([token, *self.options.end_tokens]))
        self.options = self.options.model_copy(update={"end_tokens": end_tokens})
        self._leave_nothing_to_the_checkpoint()

    def _single_id(self, token: str) -> int:
        ids = self.tokenizer.encode(token)
        if len(ids) != 1:
            raise ConfigError(f"the option end_tokens has {token!r}, which is no single token here but {len(ids)}")
        return ids[0]

    def _leave_nothing_to_the_checkpoint(self) -> None:
        """The library fills what a caller leaves open from here: nothing a checkpoint suggests may stay."""
        self.model.generation_config = generation_config(self.eos_token_ids, self.pad_token_id)

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, num_logits: int | None = None) -> Tensor:
        arguments: dict[str, Any] = {}
        if self._takes_positions:
            arguments["position_ids"] = (attention_mask.cumsum(1) - 1).clamp(min=0)
        if self._keeps_logits:
            arguments["logits_to_keep"] = num_logits or 0
        logits: Tensor = self.model(
            inputs_embeds=self._model_inputs(inputs_embeds),
            attention_mask=attention_mask,
            use_cache=False,
            **arguments,
        ).logits
        if num_logits is not None and not self._keeps_logits:
            logits = logits[:, -num_logits:]
        return logits

    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor, options: GenerationOptions) -> list[Generated]:
        """Raises PromptError where prompt and new tokens do not fit, NumericalError for non-finite logits."""
        lengths = [int(n) for n in attention_mask.sum(1)]
        limits = list(options.max_new_tokens)
        self._check(attention_mask, lengths, limits, options)
        inputs_embeds = self._model_inputs(inputs_embeds)
        search = greedy if options.beam_size == 1 else beam
        results: dict[int, Generated] = {}
        for rows in _batches(lengths, limits, self.max_positions):
            embeds, mask = select_rows(inputs_embeds, attention_mask, rows)
            chosen = GenerationOptions([limits[row] for row in rows], options.min_new_tokens, options.beam_size)
            generated = search(self.model, embeds, mask, chosen, self.eos_token_ids, self.pad_token_id)
            results.update(zip(rows, generated, strict=True))
        return [results[row] for row in range(len(limits))]

    def _check(
        self, attention_mask: Tensor, lengths: Sequence[int], limits: Sequence[int], options: GenerationOptions
    ) -> None:
        if len(limits) != len(lengths) or min(limits) < 1 or options.beam_size < 1:
            raise PromptError(
                f"{len(lengths)} prompts need as many token limits of at least 1 and a beam_size of at least 1, not "
                f"max_new_tokens {limits} and beam_size {options.beam_size}"
            )
        if not bool(attention_mask[:, -1].all()):
            raise PromptError("a prompt is empty or padded on the right; generate takes rows padded on the left")
        for row, (length, limit) in enumerate(zip(lengths, limits, strict=True)):
            if self.max_positions is not None and length + limit > self.max_positions:
                raise PromptError(
                    f"prompt {row} of the batch has {length} positions and may grow by {limit} tokens, but the decoder "
                    f"has {self.max_positions} positions; use shorter audio, a shorter context or fewer new tokens"
                )

    def parameter_groups(self) -> list[ParameterGroup]:
        """``embeddings``, ``layers.N`` and ``head``; a tied weight counts as embedding."""
        layers = decoder_layers(self.model)
        in_layers = {id(parameter) for parameter in layers.parameters()}
        before: list[nn.Parameter] = list(self.model.get_input_embeddings().parameters())
        after: list[nn.Parameter] = []
        seen = {id(parameter) for parameter in before}
        place = before
        for parameter in self.model.parameters():  # in the order the model makes its parts
            if id(parameter) in in_layers:
                place = after
            elif id(parameter) not in seen:
                place.append(parameter)
        return [
            ParameterGroup("embeddings", tuple(before)),
            *(ParameterGroup(f"layers.{i}", tuple(layer.parameters())) for i, layer in enumerate(layers)),
            *([ParameterGroup("head", tuple(after))] if after else []),
        ]

    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        return cls._read(load_causal_lm, source, options, revision)

    @classmethod
    def outline(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        return cls._read(outline_causal_lm, source, options, revision)

    @classmethod
    def _read(cls, read: Callable[..., PreTrainedModel], source: str, options: BaseModel, revision: str | None) -> Self:
        assert isinstance(options, DecoderOptions)
        config = read_config(source, revision)
        tokenizer = load_tokenizer(source, revision)
        arguments: dict[str, Any] = {"revision": revision, "allow_pickle": options.allow_pickle}
        if options.quantization is not None:
            from nuebridge_hf.quantization import quantization_arguments

            # An outline of it would be that of a model several times as large.
            read, arguments = load_causal_lm, arguments | quantization_arguments(options.quantization)
        model = read(config, source=source, **arguments)
        eos = end_token_ids(source, revision, tokenizer, config)
        return cls(model, tokenizer, eos_token_ids=eos, options=options)

    def save(self, folder: Path) -> None:
        if self.frozen_because is not None:
            raise CheckpointError(
                f"this decoder cannot be written out: {self.frozen_because}, and its source is what has them in full. "
                'Save with weights="trained" (`nuebridge compose --weights trained`, `checkpoints.weights: trained` in '
                "training), which names the source instead"
            )
        save_model(self.model, folder)
        self.tokenizer.save(folder)


def _batches(lengths: Sequence[int], limits: Sequence[int], max_positions: int | None) -> list[list[int]]:
    """Rows that may run together.

    A batch runs on until its last row ends; a row with a long prompt and a small limit would be
    carried past the model's last position beside one with a large limit. Such rows are kept apart.
    """
    rows = sorted(range(len(limits)), key=lambda row: (limits[row], row))
    if max_positions is None:
        return [rows]
    batches: list[list[int]] = []
    for row in rows:
        current = batches[-1] if batches else []
        if current and max(lengths[r] for r in [*current, row]) + limits[row] <= max_positions:
            current.append(row)
        else:
            batches.append([row])
    return batches
