"""Well-known checkpoints at full size without their weights: made of their published configurations.

What is looked at is the part itself, on torch's meta device: its widths, rates, lengths and parameter counts are
those of the classes that would run.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from pydantic import BaseModel
from safetensors.torch import save_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from nuebridge.contracts import SpeechEncoder, TextDecoder
from nuebridge.errors import CheckpointError
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.loading import config_from_dict, quiet_transformers
from nuebridge_hf.options import DecoderOptions
from nuebridge_hf.published_configs import DECODERS, ENCODERS


class SpecialIdsOnly:
    """The tokenizer of a checkpoint of which only the configuration is known: the ids that it names, no texts.

    Everything that needs texts raises CheckpointError.
    """

    pad_token_id: int | None = None

    def __init__(self, source: str, bos_token_id: int | None, eos_token_id: int | None) -> None:
        self._source = source
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id

    def _refuse(self) -> NoReturn:
        raise CheckpointError(
            f"only the published configuration of {self._source} is known here, not its tokenizer; load the checkpoint"
        )

    def encode(self, text: str) -> list[int]:
        self._refuse()

    def decode(self, token_ids: Sequence[int]) -> str:
        self._refuse()

    def token(self, token_id: int) -> str:
        self._refuse()

    def is_special(self, token_id: int) -> bool:
        return token_id in (self.bos_token_id, self.eos_token_id)

    def save(self, folder: Path) -> None:
        self._refuse()


def encoder(component: type[SpeechEncoder], source: str, options: BaseModel) -> SpeechEncoder | None:
    """A well-known encoder on the meta device; None for any other hub id. Raises CheckpointError."""
    known = ENCODERS.get(source)
    if known is None:
        return None
    # By the way of every folder, so that what is looked at is what would be loaded.
    with tempfile.TemporaryDirectory() as folder:
        for name, data in (("config.json", known.config), ("preprocessor_config.json", known.preprocessor)):
            Path(folder, name).write_text(json.dumps(data), encoding="utf-8")
        save_file({}, Path(folder, "model.safetensors"))  # an outline reads no weights, but there must be some
        return component.outline(folder, options)


def decoder(source: str, options: BaseModel) -> TextDecoder | None:
    """A well-known causal language model on the meta device; None for any other hub id."""
    known = DECODERS.get(source)
    if known is None:
        return None
    assert isinstance(options, DecoderOptions)
    config = config_from_dict(known.config, source)
    with quiet_transformers(), torch.device("meta"):
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._from_config(config).float()
    return CausalLm(model, SpecialIdsOnly(source, config.bos_token_id, config.eos_token_id), options=options)
