"""YAML text <-> plain values. Reading is strict: mistakes come with line and column, and never quote a value."""

from __future__ import annotations

import re
from typing import Any

import yaml


class NotYaml(Exception):
    """What is wrong with the text: (place, mistake) for each."""

    def __init__(self, mistakes: list[tuple[str, str]]) -> None:
        super().__init__(mistakes)
        self.mistakes = mistakes


def parse(text: str, *, texts: bool = False) -> object:
    """The one document in the text; None when there is nothing in it. `texts`: numbers and booleans stay as written."""
    try:
        loader = (_Texts if texts else _Loader)(text)
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotYaml([(_place(mark), _unquoted(error.problem or "is not YAML"))]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYaml([(f"line {line}", "control characters are not allowed")]) from None
    except RecursionError:
        raise NotYaml([("", "is nested too deeply")]) from None
    if loader.duplicates:
        raise NotYaml(loader.duplicates)
    return value


def dump(value: object) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _place(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _unquoted(problem: str) -> str:
    """PyYAML quotes characters, which helps, and names of anchors and tags, which may be a secret out of place."""
    return re.sub(r"'[^'<\\][^']+'", "...", problem)


class _Loader(yaml.SafeLoader):
    """YAML without dates (a name may look like one), without tags of any kind but the plain ones, without two equal
    keys in a mapping."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[tuple[str, str]] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:  # before `<<` is merged in, which own keys may override
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in first:
                what = f"{key.value} is given twice, first in line {first[key.value]}"
                self.duplicates.append((_place(key.start_mark), what))
            first.setdefault(key.value, key.start_mark.line + 1)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError):  # `!!int x`, a number of ten thousand digits
            raise yaml.constructor.ConstructorError(None, None, "is no value of its type", node.start_mark) from None


_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}
_Loader.yaml_constructors = {
    tag: each for tag, each in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in _PLAIN
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in each if tag != "tag:yaml.org,2002:timestamp"]
    for first, each in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Texts(_Loader):
    """Every plain value but null is text."""


_NULL = "tag:yaml.org,2002:null"
_Texts.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in each if tag == _NULL]
    for first, each in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
