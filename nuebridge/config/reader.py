"""YAML to plain data and the lines of its keys. The parser is imported when a file is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nuebridge.config.problems import Location, Problem

if TYPE_CHECKING:
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import Node

YAML_TAG = "tag:yaml.org,2002:"


class Reader:
    """Reads YAML into plain data; what is wrong goes to ``problems``, the lines of keys to ``lines``.

    The node tree is walked here, not built by the parser's constructor, because the constructor
    stops at the first key given twice and forgets the lines.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Location, int] = {}
        self.problems: list[Problem] = []

    def read(self, text: str) -> Any:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
        from ruamel.yaml.reader import ReaderError

        yaml = YAML(typ="safe", pure=True)
        try:
            root = yaml.compose(text)
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else None
            said = " ".join(part for part in (error.context, error.problem) if part)
            self._problem(line, (), f"not valid YAML: {said}")
            return None
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self._problem(line, (), "not valid YAML: it holds a control character")
            return None
        except (YAMLError, ValueError, RecursionError) as error:
            self._problem(None, (), f"not valid YAML: {error}")
            return None
        return None if root is None else self._value(yaml, root, (), ())

    def _value(self, yaml: YAML, node: Node, location: Location, around: tuple[int, ...]) -> Any:
        from ruamel.yaml.nodes import MappingNode, SequenceNode

        if id(node) in around:
            self._problem(node.start_mark.line + 1, location, "an alias that contains itself")
            return None
        inside = (*around, id(node))
        if isinstance(node, MappingNode) and str(node.tag) == f"{YAML_TAG}map":
            return self._mapping(yaml, node, location, inside)
        if isinstance(node, SequenceNode) and str(node.tag) == f"{YAML_TAG}seq":
            items = []
            for index, item in enumerate(node.value):
                self.lines[(*location, index)] = item.start_mark.line + 1
                items.append(self._value(yaml, item, (*location, index), inside))
            return items
        return self._scalar(yaml, node, location)

    def _mapping(self, yaml: YAML, node: Node, location: Location, inside: tuple[int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            tag = str(key_node.tag)
            key = key_node.value
            if tag == f"{YAML_TAG}merge":
                self._problem(line, location, "merge keys (<<) are not read; write the keys out")
                continue
            if tag != f"{YAML_TAG}str":
                shown = key if isinstance(key, str) else "a list or mapping"
                self._problem(line, location, f"the key {shown} is not text; put it in quotes")
                continue
            if key in result:
                first = self.lines[(*location, key)]
                self._problem(line, (*location, key), f"given twice (first on line {first})")
                continue
            self.lines[(*location, key)] = line
            result[key] = self._value(yaml, value_node, (*location, key), inside)
        return result

    def _scalar(self, yaml: YAML, node: Node, location: Location) -> Any:
        from ruamel.yaml.error import YAMLError

        if str(node.tag) == f"{YAML_TAG}timestamp":
            return node.value  # no setting is a date; a revision that looks like one is text
        try:
            return yaml.constructor.construct_object(node)
        except (YAMLError, ValueError):
            tag = str(node.tag).replace(YAML_TAG, "!!")
            self._problem(node.start_mark.line + 1, location, f"the tag {tag} is unknown or does not fit the value")
            return None

    def _problem(self, line: int | None, location: Location, message: str) -> None:
        self.problems.append(Problem(self.name, line, ".".join(map(str, location)), message))
