"""Settings of an integration that the registry, checkpoints and training files all write the same way.

Plain data, validated by pydantic; no torch here.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)


def _at_home(value: Path) -> Path:
    try:
        return value.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder for the ~ of {str(value)!r}; write the path out") from None


def _name_or_path(value: str) -> str:
    return str(_at_home(Path(value))) if value.startswith("~") else value


UserPath = Annotated[Path, AfterValidator(_at_home)]
"""A path as a person writes it: ``~`` is the home folder; a relative one starts in the working directory."""

NameOrPath = Annotated[str, AfterValidator(_name_or_path)]
"""A name or such a path."""


class Settings(BaseModel):
    """Base of every settings model: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoOptions(Settings):
    """Options model of a component that has none."""


PROMPT_FIELDS = ("language", "task", "context")
"""Fields that a prompt template may declare by writing them in braces."""


class PromptTemplate(Settings):
    """The text before and after the audio."""

    prefix: str = ""
    """Before the audio. Special tokens are written out, fields in braces: ``{context}``."""
    suffix: str = ""
    """Between the audio and the transcript."""
    defaults: dict[str, str] = Field(default_factory=dict)
    """Values of declared fields where the caller gives none."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields declared in prefix or suffix, in order of appearance."""
        names = [name for part in (self.prefix, self.suffix) for _, name, _, _ in string.Formatter().parse(part)]
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @model_validator(mode="after")
    def _known_fields(self) -> PromptTemplate:
        try:
            declared = self.fields
        except ValueError as error:
            raise ValueError(
                f"the prompt has an unmatched brace ({error}); write {{{{ or }}}} for a literal one"
            ) from None
        for name in declared:
            if name not in PROMPT_FIELDS:
                raise ValueError(f"the prompt declares the field {name!r}; known fields: {', '.join(PROMPT_FIELDS)}")
        for part in (self.prefix, self.suffix):
            for _, field, form, conversion in string.Formatter().parse(part):
                if form or conversion:
                    raise ValueError(f"the field {field!r} is written with a format; write {{{field}}} alone")
        for name in self.defaults:
            if name not in declared:
                raise ValueError(f"a default is given for {name!r}, which the prompt does not declare")
        return self


class ChatPrompt(Settings):
    """The prompt that the decoder's own chat template makes, with the audio inside the user's turn.

    It becomes a plain prefix and suffix when the parts are joined. ``prompt: chat`` is the short form.
    """

    template: Literal["chat"] = "chat"
    system: str | None = None
    """The system's turn; null: none, or the template's own."""
    instruction: str = "Transcribe the speech."
    """What the user says. The audio goes before it, or where ``{audio}`` stands; fields in braces as in a prefix."""
    defaults: dict[str, str] = Field(default_factory=dict)
    """Values of declared fields where the caller gives none."""

    @model_validator(mode="after")
    def _readable(self) -> ChatPrompt:
        before, audio, after = self.instruction.partition("{audio}")
        if audio and "{audio}" in after:
            raise ValueError("the instruction has {audio} twice; there is one audio")
        PromptTemplate(prefix=f"{self.system or ''}{before}", suffix=after, defaults=self.defaults)
        return self


def _prompt_kind(value: Any) -> str:
    chat = isinstance(value, ChatPrompt) or (isinstance(value, Mapping) and "template" in value)
    return "ChatPrompt" if chat else "PromptTemplate"


Prompt = Annotated[
    Annotated[PromptTemplate, Tag("PromptTemplate")] | Annotated[ChatPrompt, Tag("ChatPrompt")],
    Discriminator(_prompt_kind),
    BeforeValidator(lambda value: {"template": value} if value == "chat" else value),
]
"""A prompt as a registry file writes it."""


class TokenBudget(Settings):
    """The most new tokens for a clip: ``int(per_second * seconds + plus)``."""

    per_second: float = Field(default=25.0, ge=0)
    plus: float = Field(default=10.0, ge=1)

    def tokens(self, seconds: float) -> int:
        """The limit for a clip of so many seconds, at least 1."""
        return max(1, int(self.per_second * seconds + self.plus))


class GenerationSettings(Settings):
    """How an integration writes text unless the caller says otherwise."""

    max_new_tokens: TokenBudget = TokenBudget()
    min_new_tokens: int = Field(default=0, ge=0)


class CtcVocabulary(Settings):
    """The symbols of a CTC head; index 0 is the blank, index ``i + 1`` is ``symbols[i]``."""

    symbols: tuple[str, ...] = Field(min_length=1)
    """One string a symbol; a space is the word boundary."""
    lowercase: bool = True
    """Text is lower-cased before it is spelled."""
    uppercase: bool = False
    """Text is upper-cased before it is spelled; goes with ``lowercase: false``."""
    silent: tuple[str, ...] = ()
    """Those of the symbols that stand for no text, for instance ``<unk>``: never spelled, and dropped when heard."""

    @field_validator("symbols", mode="before")
    @classmethod
    def _characters(cls, value: object) -> object:
        """A string stands for its characters."""
        return tuple(value) if isinstance(value, str) else value

    @field_validator("symbols")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a symbol is listed twice")
        if any(not symbol for symbol in value):
            raise ValueError("a symbol is empty")
        return value

    @model_validator(mode="after")
    def _agree(self) -> CtcVocabulary:
        if self.lowercase and self.uppercase:
            raise ValueError("text cannot be lower-cased and upper-cased; set one of lowercase and uppercase to false")
        unknown = [symbol for symbol in self.silent if symbol not in self.symbols]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is said to be silent, but is not among the symbols")
        if len(self.silent) == len(self.symbols):
            raise ValueError("every symbol is silent, so nothing can be spelled")
        return self


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al., arXiv 2106.09685) beside the frozen weights of a part; peft's words."""

    r: int = Field(default=16, ge=1)
    """Rank of the added matrices."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """What they add is scaled by ``lora_alpha / r``."""
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Share of their inputs that is dropped at random in training."""
    target_modules: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Endings of the names of the linear layers that get them; null: the part's own choice."""
