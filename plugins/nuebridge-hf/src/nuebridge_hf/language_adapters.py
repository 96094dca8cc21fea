"""The attention adapters of MMS: small modules in every layer, one set for each language, in files of their own.

A checkpoint holds one language's in its main file and every language's, together with its CTC head, in
``adapter.LANGUAGE.safetensors`` (Pratap et al., arXiv 2305.13516).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from nuebridge.errors import CheckpointError
from nuebridge_hf.loading import find_file, is_folder, read_json, write_json
from nuebridge_hf.options import LayerOptions, Wav2Vec2Options
from nuebridge_hf.weight_files import read_file

LANGUAGE_FILE = "language_adapters.json"
"""Which language's adapters are in the main weights of a folder that this plugin saved."""

_HEAD = "lm_head."
_MODEL = "wav2vec2."


@dataclass(frozen=True)
class LanguageAdapters:
    """One language's adapters. ``file`` is None where the main weights hold them already."""

    language: str
    file: Path | None

    @classmethod
    def find(
        cls, source: str, config: PretrainedConfig, options: LayerOptions, revision: str | None
    ) -> LanguageAdapters | None:
        """Those that the option ``language`` asks for; without it those the folder says it holds, None for none.

        Raises CheckpointError where there are none of that language.
        """
        asked = options.language if isinstance(options, Wav2Vec2Options) else None
        held = (read_json(source, LANGUAGE_FILE, revision) or {}).get("language")
        if asked is None or asked == held:
            return None if held is None else cls(str(held), None)
        if getattr(config, "adapter_attn_dim", None) is None:
            raise CheckpointError(
                f"{source!r} has no attention adapters for languages (adapter_attn_dim is not set), but the option "
                f"language is {asked!r}; leave it out"
            )
        file = find_file(source, f"adapter.{asked}.safetensors", revision)
        if file is None and options.allow_pickle:
            file = find_file(source, f"adapter.{asked}.bin", revision)
        if file is None:
            raise CheckpointError(_not_there(source, asked, held, revision))
        return cls(asked, file)

    def put_into(self, model: Any) -> None:
        """Replaces the adapters of a ``Wav2Vec2Model``. Raises CheckpointError where the file does not fit it."""
        if self.file is None:
            return
        found = {
            name.removeprefix(_MODEL): tensor
            for name, tensor in read_file(self.file).items()
            if not name.startswith(_HEAD)
        }
        own = {name: tensor for name, tensor in model.named_parameters() if ".adapter_layer." in name}
        wrong = sorted(set(found) ^ set(own))
        wrong += [name for name in own if name in found and own[name].shape != found[name].shape]
        if wrong:
            raise CheckpointError(
                f"{self.file} does not fit the encoder: {wrong[0]} is missing, unexpected or of another shape; the "
                "file is damaged or of another checkpoint"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(found[name])

    def head(self) -> dict[str, Tensor]:
        """The weights of the language's CTC head, by their names without ``lm_head.``; none where not in a file."""
        if self.file is None:
            return {}
        found = read_file(self.file, lambda name: name.startswith(_HEAD))
        return {name.removeprefix(_HEAD): tensor for name, tensor in found.items()}

    def save(self, folder: Path) -> None:
        """Writes down whose adapters the weights in ``folder`` hold."""
        write_json(folder / LANGUAGE_FILE, {"language": self.language})


def _not_there(source: str, asked: str, held: object, revision: str | None) -> str:
    if held is not None:
        return (
            f"{source!r} holds the adapters of {held!r} alone, not those of {asked!r}; use the checkpoint it came from"
        )
    known = []
    if is_folder(source):
        known = sorted(file.name.split(".")[1] for file in Path(source).expanduser().glob("adapter.*.*"))
    else:
        vocabulary = read_json(source, "vocab.json", revision) or {}
        known = sorted(name for name, entries in vocabulary.items() if isinstance(entries, dict))
    listed = f"; there are: {', '.join(known[:12])}{' and more' if len(known) > 12 else ''}" if known else ""
    return f"{source!r} has no adapters for the language {asked!r} (adapter.{asked}.safetensors){listed}"
