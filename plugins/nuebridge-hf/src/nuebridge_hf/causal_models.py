"""Causal language models as transformers knows them: which class reads a checkpoint, and what of it is used.

Of a model of several senses (Gemma 3 with its eyes) the text half alone is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel

from nuebridge.errors import CheckpointError
from nuebridge_hf.loading import STALE_BUFFERS, load_model, outline_model, quiet_transformers, read_json
from nuebridge_hf.tokenizers import Tokenizer


def load_causal_lm(config: PretrainedConfig, *, source: str, **arguments: Any) -> PreTrainedModel:
    """The weights of a causal language model; ``arguments`` are those of ``load_model``."""
    model_class, read_config, text_class = _classes(config, source)
    model, _ = load_model(model_class, read_config, source=source, harmless=STALE_BUFFERS, **arguments)
    return model if text_class is model_class else text_half(model, text_class, source)


def outline_causal_lm(config: PretrainedConfig, *, source: str, **arguments: Any) -> PreTrainedModel:
    """The same without its weights; ``arguments`` are those of ``outline_model``."""
    _, _, text_class = _classes(config, source)
    return outline_model(text_class, config.get_text_config(), source=source, **arguments)


def _classes(config: PretrainedConfig, source: str) -> tuple[Any, PretrainedConfig, Any]:
    """The class that reads a checkpoint, the configuration that it takes, and the class of the text model alone."""
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None:
        raise CheckpointError(
            f"{source!r} holds a model of type {config.model_type!r}, which is no causal language model to transformers"
        )
    text_config = config.get_text_config()
    if model_class.config_class is not type(config):  # the library itself reads the text half alone
        return model_class, text_config, model_class
    text_class = model_class
    if text_config is not config:
        text_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text_config), None)
        if text_class is None:
            raise CheckpointError(
                f"{source!r} holds a model of type {config.model_type!r}, whose text half transformers has no class "
                "for; use a checkpoint of the language model alone"
            )
    return model_class, config, text_class


def text_half(model: Any, text_class: Any, source: str) -> PreTrainedModel:
    """The language model within a model of several senses, its weights the very same tensors."""
    config = model.config.get_text_config()
    with quiet_transformers(), torch.device("meta"):
        text: Any = text_class._from_config(config)
    # Not by base_model_prefix, which names no part of Gemma3ForCausalLM under 4.57.
    places = {name: type(child) for name, child in text.named_children() if isinstance(child, PreTrainedModel)}
    inner = [module for module in model.modules() if type(module) in places.values()]
    if len(inner) != 1 or len(places) != 1:
        raise CheckpointError(f"{source!r} holds no single language model within its {type(model).__name__}")
    setattr(text, next(iter(places)), inner[0])
    text.set_output_embeddings(model.get_output_embeddings())
    if any(tensor.is_meta for tensor in text.state_dict().values()):
        raise CheckpointError(f"the {type(model).__name__} of {source!r} lacks weights of a {text_class.__name__}")
    config.tie_word_embeddings = text.get_output_embeddings().weight is text.get_input_embeddings().weight
    text.config = config
    return text.eval()  # type: ignore[no-any-return]


def stable_positions(config: PretrainedConfig) -> int | None:
    """Positions up to which a token's rotation does not depend on how long the longest row of its batch is.

    ``longrope`` and ``dynamic`` rotary embeddings change all frequencies past the length that a model was first
    trained with: beyond it, what a row yields would depend on its neighbours, and cached keys would be stale.
    """
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # One set of settings, or one for each kind of layer.
    for one in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if one.get("rope_type", one.get("type")) in ("longrope", "dynamic"):
            first = one.get("original_max_position_embeddings")
            first = first or getattr(config, "original_max_position_embeddings", None)
            limit = min((n for n in (first, limit) if n is not None), default=None)
    return None if limit is None else int(limit)


def token_ids_in(value: Any) -> list[int]:
    """None, an id or several ids as a list."""
    if value is None:
        return []
    return [int(i) for i in value] if isinstance(value, list | tuple) else [int(value)]


def end_token_ids(
    source: str, revision: str | None, tokenizer: Tokenizer, config: PretrainedConfig
) -> list[int] | None:
    """The tokenizer's end token, and further ones that ``generation_config.json`` names.

    Models trained with a tokenizer of their own often carry the default id of their architecture
    there, which then is some ordinary token; such an id would end texts in the middle of a word.
    """
    own = token_ids_in(tokenizer.eos_token_id)
    named = token_ids_in((read_json(source, "generation_config.json", revision) or {}).get("eos_token_id"))
    if not own:
        return named or token_ids_in(config.get_text_config().eos_token_id)
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


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of transformer layers: of all module lists the one with most parameters."""

    def lists() -> Iterator[nn.ModuleList]:
        return (module for module in model.modules() if isinstance(module, nn.ModuleList))

    found = max(lists(), key=lambda module: sum(parameter.numel() for parameter in module.parameters()), default=None)
    if found is None:
        raise CheckpointError(f"{type(model).__name__} keeps its layers in no list, so they cannot be told apart")
    return found
