"""From text to token ids and back: SentencePiece models read by sentencepiece itself, all others by transformers.

transformers 5 reads a SentencePiece model with byte fallback and no dummy prefix wrongly: it puts a
piece in front and turns unknown characters into the end-of-text id. 4.57 reads it rightly. So that
both give the same ids, such models never pass through it.

A tokenizer keeps the bytes of the files it came from and saves those.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nuebridge.errors import CheckpointError
from nuebridge_hf.chat import ChatTemplate
from nuebridge_hf.loading import find_file, one_line, quiet_transformers, read_json

TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
_SENTENCEPIECE_CLASSES = {"T5Tokenizer", "LlamaTokenizer", "GemmaTokenizer"}
"""Tokenizers whose ids are the SentencePiece model's own, without an offset."""


class Tokenizer(Protocol):
    """What a decoder needs of a tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens written in it are read as such, none are added."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""

    def token(self, token_id: int) -> str:
        """A token as it is written in text."""

    def is_special(self, token_id: int) -> bool:
        """Whether ``decode`` leaves the id out."""

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files."""


@runtime_checkable
class ChatTokenizer(Tokenizer, Protocol):
    """A tokenizer that may know how conversations are written."""

    chat_template: ChatTemplate | None


class SentencePieceTokenizer:
    """A SentencePiece model with the special tokens of a ``tokenizer_config.json``.

    ``files`` holds ``spiece.model`` or ``tokenizer.model`` and the JSON files beside it. Raises
    CheckpointError where a special token has no id.
    """

    def __init__(self, files: Mapping[str, bytes], source: str = "the tokenizer") -> None:
        self._files = dict(files)
        model = files.get("spiece.model") or files.get("tokenizer.model")
        if not model:
            raise CheckpointError(f"{source!r} has neither spiece.model nor tokenizer.model; copy it again")
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise CheckpointError(
                f"the SentencePiece model of {source!r} is damaged ({one_line(error)}); copy it again"
            ) from error
        config = _json(files, "tokenizer_config.json", source)
        roles = {**_json(files, "special_tokens_map.json", source), **config}
        added = _added_tokens(config, _json(files, "added_tokens.json", source))
        extra = int(config.get("extra_ids", 0))  # T5's sentinels, numbered downwards from the end
        size = self._model.get_piece_size()
        added |= {f"<extra_id_{i}>": size + extra - 1 - i for i in range(extra)}
        special = dict(added)
        for text in (*(roles.get(role) for role in _ROLES), *(roles.get("additional_special_tokens") or ())):
            if (content := _content(text)) is not None:
                special[content] = self._special_id(content, added, source)
        self._special = special
        self._special_ids = frozenset(special.values())
        self._text_of = {token_id: text for text, token_id in special.items()}
        longest_first = sorted(special, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if special else None

        def role(name: str) -> int | None:
            content = _content(roles.get(name))
            return None if content is None else special[content]

        self.bos_token_id, self.eos_token_id, self.pad_token_id = (role(name) for name in _ROLES[:2] + _ROLES[3:4])
        template = files["chat_template.jinja"].decode() if "chat_template.jinja" in files else None
        tokens = {name: _content(roles.get(name)) for name in _ROLES}
        self.chat_template = ChatTemplate.of(template or config.get("chat_template"), tokens)

    def _special_id(self, text: str, added: Mapping[str, int], source: str) -> int:
        if text in added:
            return added[text]
        token_id = int(self._model.piece_to_id(text))
        if self._model.id_to_piece(token_id) != text:  # unknown pieces come back as <unk>
            raise CheckpointError(
                f"{source!r} names the special token {text!r}, which its SentencePiece model does not hold and "
                "added_tokens.json gives no id; the tokenizer's files do not belong together"
            )
        return token_id

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self._split.split(text) if self._split else [text]:
            if part in self._special:
                ids.append(self._special[part])
            elif part:
                ids.extend(self._model.encode(part))
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """White space at either end is dropped, as the library's own SentencePiece tokenizers do."""
        # Models have more tokens than their tokenizers, for round sizes; those have no text.
        known = [i for i in map(int, token_ids) if i not in self._special_ids and i < self._model.vocab_size()]
        text: str = self._model.decode(known)
        return text.strip()

    def token(self, token_id: int) -> str:
        return self._text_of.get(token_id) or str(self._model.id_to_piece(token_id))

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def save(self, folder: Path) -> None:
        _write(self._files, folder)


class TransformersTokenizer:
    """A tokenizer of transformers. ``files`` are the bytes it came from; None writes it out anew."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, files: Mapping[str, bytes] | None = None) -> None:
        self._tokenizer = tokenizer
        self._files = _files_of(tokenizer) if files is None else dict(files)
        self.bos_token_id: int | None = tokenizer.bos_token_id
        self.eos_token_id: int | None = tokenizer.eos_token_id
        self.pad_token_id: int | None = tokenizer.pad_token_id
        self.chat_template = ChatTemplate.of(tokenizer.chat_template, tokenizer.special_tokens_map)
        self._special_ids = frozenset(tokenizer.all_special_ids) | {
            token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        }

    def encode(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return [int(i) for i in ids]

    def decode(self, token_ids: Sequence[int]) -> str:
        # No clean-up: it removes spaces before punctuation that the model wrote.
        text = self._tokenizer.decode(
            [int(i) for i in token_ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def token(self, token_id: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(token_id))

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def save(self, folder: Path) -> None:
        _write(self._files, folder)


def load_tokenizer(source: str, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a folder or hub id. Raises CheckpointError."""
    config = read_json(source, "tokenizer_config.json", revision) or {}
    name = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    has_json = find_file(source, "tokenizer.json", revision) is not None
    # A tokenizer.json beside T5's spiece.model may be transformers 5's own misreading of it.
    pieces = "spiece.model" if name == "T5Tokenizer" else "tokenizer.model" if not has_json else None
    use_pieces = (
        name in _SENTENCEPIECE_CLASSES and pieces is not None and find_file(source, pieces, revision) is not None
    )
    if use_pieces:
        names = [file for file in TOKENIZER_FILES if file != "tokenizer.json"]
        return SentencePieceTokenizer(_read(source, names, revision), source)
    # tokenizer.json is taken as it stands: the class that tokenizer_config.json names may be unknown to
    # the other line of transformers, or build its rules anew.
    loader: Any = PreTrainedTokenizerFast if has_json else AutoTokenizer
    arguments = {} if has_json else {"trust_remote_code": False}
    try:
        with quiet_transformers():
            tokenizer = loader.from_pretrained(source, revision=revision or "main", **arguments)
    except Exception as error:  # each kind of tokenizer fails in its own way
        raise CheckpointError(f"the tokenizer of {source!r} cannot be loaded: {one_line(error)}") from error
    vocabulary_files = set(tokenizer.vocab_files_names.values())
    files = _read(source, sorted({*TOKENIZER_FILES, *vocabulary_files}), revision)
    if not vocabulary_files & set(files):  # transformers 5 makes an empty tokenizer then
        raise CheckpointError(
            f"{source!r} has no tokenizer: there is none of {', '.join(sorted(vocabulary_files))} in it"
        )
    return TransformersTokenizer(tokenizer, files)


def _read(source: str, names: Sequence[str], revision: str | None) -> dict[str, bytes]:
    """The bytes of those files that there are."""
    paths = {name: find_file(source, name, revision) for name in names}
    return {name: path.read_bytes() for name, path in paths.items() if path is not None}


def _json(files: Mapping[str, bytes], name: str, source: str) -> dict[str, Any]:
    try:
        data = json.loads(files.get(name, b"{}"))
    except ValueError as error:
        raise CheckpointError(f"{name} of {source!r} is not JSON: {one_line(error)}") from error
    return data if isinstance(data, dict) else {}


def _content(token: Any) -> str | None:
    """The text of a special token, which files write as a string or an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _added_tokens(config: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, int]:
    """Ids of tokens beyond the SentencePiece model, as either of two files lists them."""
    tokens = {str(text): int(token_id) for text, token_id in added.items()}
    for token_id, token in (config.get("added_tokens_decoder") or {}).items():
        if (content := _content(token)) is not None:
            tokens[content] = int(token_id)
    return tokens


def _files_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)
