"""nuebridge joins a pre-trained speech encoder to a text language model and makes of them a speech recogniser.

    import nuebridge
    recognizer = nuebridge.load("tiny-en")
    print(recognizer.transcribe("recording.wav")[0].text)

Everything here is imported when it is first used, so that ``import nuebridge`` costs nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nuebridge.checkpoint import load, push_to_hub, save
    from nuebridge.compose import compose
    from nuebridge.contracts import RecognitionOptions, Transcript
    from nuebridge.model import Integration
    from nuebridge.settings import ChatPrompt, GenerationSettings, PromptTemplate, TokenBudget

_HOMES = {
    "ChatPrompt": "settings",
    "load": "checkpoint",
    "save": "checkpoint",
    "push_to_hub": "checkpoint",
    "compose": "compose",
    "RecognitionOptions": "contracts",
    "Transcript": "contracts",
    "Integration": "model",
    "GenerationSettings": "settings",
    "PromptTemplate": "settings",
    "TokenBudget": "settings",
}

__all__ = [
    "ChatPrompt",
    "GenerationSettings",
    "Integration",
    "PromptTemplate",
    "RecognitionOptions",
    "TokenBudget",
    "Transcript",
    "compose",
    "load",
    "push_to_hub",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nuebridge' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"nuebridge.{_HOMES[name]}"), name)


class _Package(ModuleType):
    """Python puts a submodule into its package once it is imported: `nuebridge.compose` stays the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(
            name, getattr(value, name) if name == "compose" and isinstance(value, ModuleType) else value
        )


sys.modules[__name__].__class__ = _Package
