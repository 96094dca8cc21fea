"""The CTC heads of checkpoints that were fine-tuned with CTC (``...ForCTC``): weights and vocabulary.

The rows of the head are put in nuebridge's order, the blank first. What the blank is says config.json
(``pad_token_id``), what the other rows spell say vocab.json and tokenizer_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PretrainedConfig

from nuebridge.contracts import CtcWeights
from nuebridge.errors import CheckpointError
from nuebridge.settings import CtcVocabulary
from nuebridge_hf.language_adapters import LanguageAdapters
from nuebridge_hf.loading import read_json
from nuebridge_hf.options import LayerOptions, Wav2Vec2Options
from nuebridge_hf.weight_files import tensors_of

_SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
"""Keys of tokenizer_config.json, and what the library takes where they are missing."""


def read_ctc_weights(
    source: str, config: PretrainedConfig, options: LayerOptions, *, revision: str | None
) -> CtcWeights | None:
    """The CTC head of a checkpoint, None where it has none.

    Raises CheckpointError where a head is there and nothing says what it spells.
    """
    adapters = LanguageAdapters.find(source, config, options, revision)
    head = {} if adapters is None else adapters.head()
    if not head:
        prefix = "lm_head."
        found = tensors_of(
            source, lambda name: name.startswith(prefix), revision=revision, allow_pickle=options.allow_pickle
        )
        head = {name.removeprefix(prefix): tensor.float() for name, tensor in found.items()}
    if not head:
        return None
    if set(head) != {"weight", "bias"} or head["bias"].shape != head["weight"].shape[:1]:
        raise CheckpointError(f"the CTC head of {source!r} has {sorted(head)} where a weight and a bias are expected")
    tokenizer = read_json(source, "tokenizer_config.json", revision) or {}
    tokens = _tokens(source, tokenizer, None if adapters is None else adapters.language, options, revision)
    rows = len(head["bias"])
    blank = config.pad_token_id
    if blank is None or not 0 <= blank < rows:
        raise CheckpointError(
            f"config.json of {source!r} gives pad_token_id {blank}, which is the CTC blank, but its head has {rows} "
            "rows; correct it"
        )
    pad = _content(tokenizer.get("pad_token"), _SPECIAL["pad_token"])
    if tokens.get(pad, blank) != blank:
        raise CheckpointError(
            f"config.json of {source!r} gives the CTC blank as row {blank} (pad_token_id), but its tokenizer has "
            f"{pad!r} at {tokens[pad]}; correct one of them"
        )
    order = [blank, *(row for row in range(rows) if row != blank)]
    vocabulary = _vocabulary(tokens, tokenizer, order[1:])
    picked = torch.tensor(order)
    return CtcWeights(vocabulary, head["weight"].float()[picked], head["bias"].float()[picked])


def _tokens(
    source: str, tokenizer: Mapping[str, Any], language: str | None, options: LayerOptions, revision: str | None
) -> dict[str, int]:
    """Tokens and their rows."""
    vocabulary = read_json(source, "vocab.json", revision)
    if vocabulary is None:
        raise CheckpointError(
            f"{source!r} has a CTC head, but no vocab.json to say what it spells; copy its tokenizer files as well"
        )
    if any(isinstance(value, dict) for value in vocabulary.values()):
        asked = options.language if isinstance(options, Wav2Vec2Options) else None
        chosen = asked or language or tokenizer.get("target_lang")
        if chosen not in vocabulary:
            raise CheckpointError(
                f"vocab.json of {source!r} has a vocabulary for each of {len(vocabulary)} languages, and "
                f"{'none was chosen' if chosen is None else f'none for {chosen!r}'}; set the option language to one "
                f"of {', '.join(sorted(vocabulary)[:12])}{' and more' if len(vocabulary) > 12 else ''}"
            )
        vocabulary = vocabulary[chosen]
    vocabulary = vocabulary | (read_json(source, "added_tokens.json", revision) or {})
    if not all(isinstance(row, int) for row in vocabulary.values()):
        raise CheckpointError(f"vocab.json of {source!r} does not map tokens to numbers")
    return vocabulary


def _vocabulary(tokens: Mapping[str, int], tokenizer: Mapping[str, Any], order: list[int]) -> CtcVocabulary:
    """What the rows spell, in that order. Special tokens and rows without a token spell nothing."""
    special = {_content(tokenizer.get(key), default) for key, default in _SPECIAL.items()}
    delimiter = _content(tokenizer.get("word_delimiter_token"), "|")
    by_row = {row: token for token, row in tokens.items()}
    symbols: list[str] = []
    silent: list[str] = []
    for row in order:
        token = by_row.get(row)
        if token is not None and token == delimiter and " " not in symbols:
            symbols.append(" ")
            continue
        spells = bool(token) and token not in special and token not in symbols and token != " "
        symbols.append(token if token is not None and spells else _unlike(token or f"<{row}>", {*symbols, *tokens}))
        if not spells:
            silent.append(symbols[-1])
    spelled = "".join(symbol for symbol in symbols if symbol not in silent)
    upper = bool(tokenizer.get("do_lower_case")) or (spelled != spelled.lower() and spelled == spelled.upper())
    lower = not upper and spelled == spelled.lower() and spelled != spelled.upper()
    return CtcVocabulary(symbols=tuple(symbols), silent=tuple(silent), lowercase=lower, uppercase=upper)


def _unlike(token: str, taken: set[str]) -> str:
    """A name for a row that spells nothing, unlike what other rows spell."""
    if token.strip() and token not in taken - {token}:
        return token
    return _unlike(f"<{token.strip() or 'space'}>", taken)


def _content(token: Any, default: str) -> str:
    """A special token as tokenizer_config.json writes it: a string, or an object with its content."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else default
