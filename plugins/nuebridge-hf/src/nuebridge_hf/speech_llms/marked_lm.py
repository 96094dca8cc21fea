"""A causal language model that writes something before the transcript, and a mark between the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nuebridge.errors import ConfigError
from nuebridge_hf.causal_lm import CausalLm
from nuebridge_hf.speech_llms.options import MarkedDecoderOptions


class MarkedLm(CausalLm):
    """Qwen3-ASR's way of answering: ``language English<asr_text>the transcript``.

    ``decode`` gives the transcript alone; what comes before the mark stays in the token ids. Raises ConfigError where
    the mark is no single token.
    """

    def __init__(self, model: Any, tokenizer: Any, **arguments: Any) -> None:
        arguments["options"] = arguments.get("options") or MarkedDecoderOptions()
        super().__init__(model, tokenizer, **arguments)
        assert isinstance(self.options, MarkedDecoderOptions)
        mark = self.encode(self.options.text_after)
        if len(mark) != 1:
            raise ConfigError(
                f"the option text_after has {self.options.text_after!r}, which is no single token here but {len(mark)}"
            )
        self._mark = mark[0]

    def decode(self, token_ids: Sequence[int]) -> str:
        ids = [int(token) for token in token_ids]
        if self._mark not in ids:
            return super().decode(ids)
        return super().decode(ids[ids.index(self._mark) + 1 :]).strip()
