"""Every public name of the modules that plugins build on, one a line, as docs/compatibility.md promises them.

    python -m tests.public_api

writes tests/public-api.txt anew.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

FILE = Path(__file__).parent / "public-api.txt"
MODULES = (
    "nuebridge",
    "nuebridge.contracts",
    "nuebridge.errors",
    "nuebridge.hookspecs",
    "nuebridge.settings",
    "nuebridge.tensors",
    "nuebridge.testing",
)
FROM_COMPOSE = ("Workshop", "compose", "part_info", "read_decoder", "read_encoder", "read_sourced")


def surface() -> list[str]:
    """The lines, sorted."""
    lines: list[str] = []
    for name in MODULES:
        module = importlib.import_module(name)
        for attribute in public_names(module):
            lines += describe(f"{name}.{attribute}", getattr(module, attribute))
    compose = importlib.import_module("nuebridge.compose")
    for attribute in FROM_COMPOSE:
        lines += describe(f"nuebridge.compose.{attribute}", getattr(compose, attribute))
    return sorted(set(lines))


def public_names(module: ModuleType) -> list[str]:
    """Those of ``__all__``; without one, what the module itself defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    defined: list[str] = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in defined if not name.startswith("_")]


def describe(name: str, value: Any) -> Iterator[str]:
    """The lines of one name: a class with its own fields and methods, a function, or something else."""
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"{name}: class({bases})"
        for attribute, annotation in inspect.get_annotations(value).items():
            if not attribute.startswith("_") and attribute != "model_config":
                yield f"{name}.{attribute}: {_text(annotation)}{_default(value, attribute)}"
        for attribute, member in vars(value).items():
            if not attribute.startswith("_"):
                yield from _member(f"{name}.{attribute}", member)
    elif callable(value) and not isinstance(value, type) and hasattr(value, "__name__"):
        yield f"{name}{_signature(value)}"
    else:
        yield f"{name}: {type(value).__name__}{_value(value)}"


def _member(name: str, member: Any) -> Iterator[str]:
    abstract = " abstract" if getattr(member, "__isabstractmethod__", False) else ""
    if isinstance(member, property):
        yield f"{name}: property{abstract}"
    elif isinstance(member, classmethod | staticmethod):
        yield f"{name}{_signature(member.__func__)} {type(member).__name__}{abstract}"
    elif inspect.isfunction(member):
        yield f"{name}{_signature(member)}{abstract}"


def _signature(function: Any) -> str:
    """Names, kinds, defaults and annotations as they are written."""
    signature = inspect.signature(function)
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty) if parameter.name in ("self", "cls") else parameter
        for parameter in signature.parameters.values()
    ]
    said = str(signature.replace(parameters=plain)).replace("'", "")
    return said if len(said) < 2000 else "(...)"


def _default(value: type, attribute: str) -> str:
    if issubclass(value, BaseModel):
        field = value.model_fields.get(attribute)
        return "" if field is None or field.is_required() else " = ..."
    if attribute in (fields := getattr(value, "__dataclass_fields__", {})):
        field = fields[attribute]
        missing = type(field.default).__name__ == "_MISSING_TYPE" and type(field.default_factory).__name__ == (
            "_MISSING_TYPE"
        )
        return "" if missing else " = ..."
    return " = ..." if attribute in vars(value) else ""


def _text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _value(value: Any) -> str:
    return f" = {value!r}" if isinstance(value, str | int | float) else ""


def differences(known: list[str], found: list[str]) -> str:
    """What changed, in words; empty where nothing did."""
    gone = [line for line in known if line not in found]
    new = [line for line in found if line not in known]
    if not gone and not new:
        return ""
    said = ["the public names are no longer those of tests/public-api.txt."]
    if gone:
        said += ["Gone or changed, which breaks those who use it (docs/compatibility.md: deprecate it first):"]
        said += [f"  - {line}" for line in gone]
    if new:
        said += ["New, or what changed ones are now (an abstract method takes a new CONTRACT_VERSION):"]
        said += [f"  + {line}" for line in new]
    return "\n".join([*said, "If it is meant: python -m tests.public_api"])


if __name__ == "__main__":
    FILE.write_text("\n".join(surface()) + "\n", encoding="utf-8")
