"""What the models of configuration files say of their keys: read from the strings that stand under the fields.

The reference pages and the starting configurations are both written from here, so that neither can drift.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel

_PLAIN_TEXT = re.compile(r"[A-Za-z_./~][\w./~@+ -]*")
_WORDS_OF_YAML = ("null", "true", "false", "yes", "no", "on", "off", "~", ".", "..", ".inf", ".nan")


def key_texts(model: type[BaseModel]) -> dict[str, str]:
    """The strings that stand under a model's fields, by field, those of its bases included."""
    from pydantic import BaseModel

    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                texts[statement.target.id] = inspect.cleandoc(str(following.value.value))
    return texts


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation mentions."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def prose(docstring: str) -> str:
    """A docstring as Markdown."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.cleandoc(docstring)).replace("``", "`")


def yaml_value(value: Any) -> str:
    """A value as YAML spells it, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        mantissa, e, exponent = repr(value).partition("e")
        # 1e-05 is a text to readers of YAML 1.1.
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}" if e else mantissa
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{yaml_value(key)}: {yaml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_value, value))}]"
    if isinstance(value, str | Path):
        text = str(value)
        plain = _PLAIN_TEXT.fullmatch(text) and text == text.strip() and text.lower() not in _WORDS_OF_YAML
        return text if plain else json.dumps(text, ensure_ascii=False)
    return str(value)
