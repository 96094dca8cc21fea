"""Any causal language model of transformers, read through its input embeddings."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nuebridge.contracts import Generated, GenerationOptions, ParameterGroup, TextDecoder
from nuebridge.errors import CheckpointError, PromptError
from nuebridge_hf.generation import beam, generation_config, greedy, select_rows
from nuebridge_hf.loading import (
    OLDER_THAN_5,
    STALE_BUFFERS,
    load_model,
    outline_model,
    read_config,
    read_json,
    save_model,
)
from nuebridge_hf.options import DecoderOptions
from nuebridge_hf.tokenizers import Tokenizer, TransformersTokenizer, load_tokenizer

_SCALED_INSIDE_BEFORE_5 = {"gemma", "gemma2", "vaultgemma"}
"""Models that multiply ``inputs_embeds`` by the root of their width under 4.57, and do so in the embedding under 5."""


class CausalLm(TextDecoder):
    """A transformers model with a causal language-modelling head, and its tokenizer.

    ``eos_token_ids`` end a text; by default the tokenizer's, else the model configuration's. Embeddings here are
    what enters the first layer, whichever side of that line a release of the library scales them on.
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
        positions = getattr(config, "max_position_embeddings", None)
        self.max_positions = None if positions is None else int(positions)
        if eos_token_ids is None:
            eos_token_ids = _ids(config.eos_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id)
        self.eos_token_ids = tuple(dict.fromkeys(int(i) for i in eos_token_ids))
        bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else config.bos_token_id
        self.bos_token_id = bos
        self.pad_token_id = tokenizer.pad_token_id
        if self.pad_token_id is None and self.eos_token_ids:
            self.pad_token_id = self.eos_token_ids[0]
        for token_id in (*self.eos_token_ids, *_ids(self.pad_token_id)):
            if not 0 <= token_id < self.vocab_size:
                raise CheckpointError(
                    f"the tokenizer's end or padding token has id {token_id}, but the model knows {self.vocab_size} "
                    "tokens; model and tokenizer do not belong together"
                )
        # The library fills what a caller leaves open from here: nothing a checkpoint suggests may stay.
        model.generation_config = generation_config(self.eos_token_ids, self.pad_token_id)
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._keeps_logits = "logits_to_keep" in accepted
        inside = OLDER_THAN_5 and config.model_type in _SCALED_INSIDE_BEFORE_5
        self._inner_scale = float(config.hidden_size) ** 0.5 if inside else None

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
        return embeddings if self._inner_scale is None else embeddings * self._inner_scale

    def _model_inputs(self, inputs_embeds: Tensor) -> Tensor:
        if self._inner_scale is not None:
            inputs_embeds = inputs_embeds / self._inner_scale
        return inputs_embeds.to(self.dtype)

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
        layers = _decoder_layers(self.model)
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
        return cls._read(_outline_causal_lm, source, options, revision)

    @classmethod
    def _read(cls, read: Callable[..., PreTrainedModel], source: str, options: BaseModel, revision: str | None) -> Self:
        assert isinstance(options, DecoderOptions)
        config = read_config(source, revision)
        tokenizer = load_tokenizer(source, revision)
        model = read(config, source=source, revision=revision, allow_pickle=options.allow_pickle)
        eos = _eos_token_ids(source, revision, tokenizer, config)
        return cls(model, tokenizer, eos_token_ids=eos, options=options)

    def save(self, folder: Path) -> None:
        save_model(self.model, folder)
        self.tokenizer.save(folder)


def load_causal_lm(config: PretrainedConfig, *, source: str, **arguments: Any) -> PreTrainedModel:
    """The weights of a causal language model; ``arguments`` are those of ``load_model``."""
    model_class, config = _class_for(config, source)
    return load_model(model_class, config, source=source, harmless=STALE_BUFFERS, **arguments)[0]


def _outline_causal_lm(config: PretrainedConfig, *, source: str, **arguments: Any) -> PreTrainedModel:
    model_class, config = _class_for(config, source)
    return outline_model(model_class, config, source=source, **arguments)


def _class_for(config: PretrainedConfig, source: str) -> tuple[Any, PretrainedConfig]:
    """The class of a causal language model, and the configuration of it alone."""
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None:
        raise CheckpointError(
            f"{source!r} holds a model of type {config.model_type!r}, which is no causal language model to transformers"
        )
    if model_class.config_class is not type(config):  # the text half of a model of several senses
        config = config.get_text_config()
    return model_class, config


def _ids(value: Any) -> list[int]:
    """None, an id or several ids as a list."""
    if value is None:
        return []
    return [int(i) for i in value] if isinstance(value, list | tuple) else [int(value)]


def _eos_token_ids(
    source: str, revision: str | None, tokenizer: Tokenizer, config: PretrainedConfig
) -> list[int] | None:
    """The tokenizer's end token, and further ones that ``generation_config.json`` names.

    Models trained with a tokenizer of their own often carry the default id of their architecture
    there, which then is some ordinary token; such an id would end texts in the middle of a word.
    """
    own = _ids(tokenizer.eos_token_id)
    named = _ids((read_json(source, "generation_config.json", revision) or {}).get("eos_token_id"))
    if not own:
        return named or _ids(config.get_text_config().eos_token_id)
    for token_id in named:
        if tokenizer.is_special(token_id):
            own.append(token_id)
        elif token_id not in own:
            warnings.warn(
                f"the generation_config.json of {source!r} names the end token {token_id}, which its tokenizer reads "
                "as ordinary text; it is not used",
                stacklevel=3,
            )
    return own


def _decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of transformer layers: of all module lists the one with most parameters."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise CheckpointError(f"{type(model).__name__} keeps its layers in no list, so they cannot be told apart")
    return max(lists, key=lambda module: sum(parameter.numel() for parameter in module.parameters()))


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
