"""pydantic's errors in this project's words."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeGuard, get_args, get_origin

from nuebridge.config.problems import Location, suggestion

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails


def describe(details: ErrorDetails, found: list[Any]) -> str:
    """What one pydantic error means, with the words that would be allowed."""
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        models = [item for item in found if _is_model(item)]
        allowed = [name for model in models for name in _fields(model)]
        return "unknown key" + suggestion(str(details["loc"][-1]), list(dict.fromkeys(allowed)))
    if kind == "missing":
        return "is missing"
    if kind in ("literal_error", "enum"):
        words = [str(word) for item in found if get_origin(item) is Literal for word in get_args(item)]
        words += [str(word.value) for item in found for word in getattr(item, "__members__", {}).values()]
        return f"{short(value)} is not known" + suggestion(str(value), words)
    if kind == "union_tag_invalid":
        context = details["ctx"]
        words = [word.strip("'") for word in context["expected_tags"].split(", ")]
        return f"{context['discriminator']} is {context['tag']!r}" + suggestion(context["tag"], words)
    if kind in ("value_error", "assertion_error"):
        return str(details.get("ctx", {}).get("error", details["msg"]))
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"should be a mapping of keys, not {short(value)}"
    quote = "; put it in quotes" if kind == "string_type" and isinstance(value, (int, float)) else ""
    return f"{details['msg'].removeprefix('Input ')}, not {short(value)}{quote}"


def short(value: Any) -> str:
    """A value for a message, at most about 60 characters."""
    if value is None:
        return "nothing"
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _is_model(item: Any) -> TypeGuard[type[BaseModel]]:
    return hasattr(item, "model_fields")


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """Key in the file to annotation, a model's own keys before those of its bases."""
    fields = model.model_fields
    names = dict.fromkeys(name for base in model.__mro__ for name in inspect.get_annotations(base) if name in fields)
    return {fields[name].alias or name: fields[name].annotation for name in names}


def types_at(found: list[Any], location: Location) -> list[Any]:
    """The annotations that pydantic may have meant at a location; of the model for an unknown key."""
    here = list(_branches(found))
    for part in location:
        # What leads nowhere is the name of a union's branch or an unknown key: stay where we are.
        here = list(_branches([step for item in here for step in _step(item, part)])) or here
    return here


def _step(item: Any, part: str | int) -> Iterator[Any]:
    origin, arguments = get_origin(item), get_args(item)
    if _is_model(item):
        fields = _fields(item)
        if part in fields:
            yield fields[str(part)]
        elif part == item.__name__ or any(part in get_args(field) for field in fields.values()):
            yield item  # the name or the tag of a union's branch
    elif isinstance(origin, type) and issubclass(origin, Mapping) and arguments:
        yield arguments[1]
    elif isinstance(origin, type) and issubclass(origin, (Sequence, AbstractSet)) and isinstance(part, int):
        if origin is tuple and arguments[-1] is not Ellipsis:
            yield from arguments[part : part + 1]
        elif arguments:
            yield arguments[0]


def _branches(found: Sequence[Any]) -> Iterator[Any]:
    """Annotations without Annotated, and every branch of a union by itself."""
    for item in found:
        if get_origin(item) is Annotated:
            yield from _branches([get_args(item)[0]])
        elif get_origin(item) in (types.UnionType, typing.Union):
            yield from _branches(get_args(item))
        else:
            yield item
