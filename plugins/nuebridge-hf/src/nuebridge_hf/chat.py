"""Chat templates: the text of a conversation as a tokenizer's own template writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from nuebridge.errors import PromptError
from nuebridge_hf.loading import one_line

_NO_THINKING = {"enable_thinking": False, "thinking": False}
"""The words by which templates that know of it turn thinking aloud off: a transcript is wanted, not a deliberation."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template in Jinja, which the library runs in its sandbox."""

    text: str
    tokens: Mapping[str, str]
    """What templates write special tokens with: ``bos_token`` and the like."""

    @classmethod
    def of(cls, template: Any, tokens: Mapping[str, Any]) -> ChatTemplate | None:
        """From a template, or several by name, as tokenizers keep them; None where there is none to use."""
        if isinstance(template, list):
            template = {one.get("name"): one.get("template") for one in template}
        if isinstance(template, Mapping):
            template = template.get("default")
        if not isinstance(template, str) or not template:
            return None
        return cls(template, {name: token for name, token in tokens.items() if isinstance(token, str)})

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as text, special tokens written out; after a user's turn, up to where the answer begins.

        Raises PromptError where the template takes no such conversation.
        """
        library: Any = render_jinja_template  # annotated as giving one text
        try:
            rendered, _ = library(
                conversations=[[dict(message) for message in messages]],
                chat_template=self.text,
                add_generation_prompt=messages[-1]["role"] != "assistant",
                **_NO_THINKING,
                **self.tokens,
            )
        except Exception as error:  # templates refuse in ways of their own, and may be faulty in any
            roles = ", ".join(message["role"] for message in messages)
            raise PromptError(
                f"the tokenizer's chat template takes no conversation of {roles} ({one_line(error)}); leave out what "
                "it refuses, or write prefix and suffix yourself"
            ) from error
        return str(rendered[0])
