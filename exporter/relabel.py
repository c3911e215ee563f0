"""Prometheus' relabelling: rules that change or drop a target by its labels, in its own words. Pure.

A label that is empty is a label that is not there. What is done here is what Prometheus 3 does; the tests ask it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

Action = Literal[
    "replace", "keep", "drop", "keepequal", "dropequal", "hashmod", "labelmap", "labeldrop", "labelkeep", "lowercase",
    "uppercase",
]  # fmt: skip
ACTIONS: tuple[Action, ...] = get_args(Action)
Labels = dict[str, str]

ANY, SEPARATOR, WHOLE = "(.*)", ";", "$1"
"""What a rule has where it says nothing: its regex, its separator, its replacement."""
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_REFERENCE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<braced>\w+)\}|(?P<bare>\w+))", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rule:
    """One of `relabel_configs`. `regex` is RE2's and has to match as a whole."""

    action: Action = "replace"
    source_labels: tuple[str, ...] = ()
    separator: str = SEPARATOR
    regex: str = ANY
    modulus: int = 0
    target_label: str = ""
    replacement: str = WHOLE


def relabelled(labels: Mapping[str, str], rules: Iterable[Rule]) -> Labels | None:
    """The labels after all rules, or None for a target that a rule drops."""
    found = {name: value for name, value in sorted(labels.items()) if value}
    for rule in rules:
        if not _applied(rule, found):
            return None
    return found


def is_name(text: str) -> bool:
    """Whether this can be the name of a label."""
    return _NAME.fullmatch(text) is not None


@lru_cache(maxsize=256)
def compiled(regex: str) -> Any:
    """The pattern, matched as a whole, `.` with line breaks. Raises ValueError."""
    import re2  # type: ignore[import-untyped]  # only its users pay for it

    options = re2.Options()
    options.dot_nl, options.log_errors = True, False
    try:
        return re2.compile(regex, options)
    except re2.error as error:
        said = error.args[0] if error.args else "cannot be read"
        raise ValueError(said.decode(errors="replace") if isinstance(said, bytes) else str(said)) from None


def _applied(rule: Rule, labels: Labels) -> bool:
    """Change the labels. False: drop the target."""
    value = rule.separator.join([labels.get(name, "") for name in rule.source_labels])
    match rule.action:
        case "keep" | "drop":
            return (compiled(rule.regex).fullmatch(value) is not None) == (rule.action == "keep")
        case "keepequal" | "dropequal":
            return (labels.get(rule.target_label, "") == value) == (rule.action == "keepequal")
        case "replace":
            _replace(rule, value, labels)
        case "hashmod":
            digest = hashlib.md5(value.encode(), usedforsecurity=False).digest()
            _set(labels, rule.target_label, str(int.from_bytes(digest[8:]) % rule.modulus))
        case "lowercase":
            _set(labels, rule.target_label, "".join([_single(char, char.lower()) for char in value]))
        case "uppercase":
            _set(labels, rule.target_label, "".join([_single(char, char.upper()) for char in value]))
        case "labelmap":
            _map(rule, labels)
        case "labeldrop" | "labelkeep":
            for name in list(labels):
                if (compiled(rule.regex).fullmatch(name) is not None) == (rule.action == "labeldrop"):
                    del labels[name]
    return True


def _set(labels: Labels, name: str, value: str) -> None:
    if value:
        labels[name] = value
    else:
        labels.pop(name, None)


def _single(char: str, other: str) -> str:
    """Go changes the case of each character by itself, and leaves those that would become two."""
    return other if len(other) == 1 else char


def _replace(rule: Rule, value: str, labels: Labels) -> None:
    match = compiled(rule.regex).fullmatch(value)
    if match is None:
        return
    target = _expanded(rule.target_label, match)
    if is_name(target):
        _set(labels, target, _expanded(rule.replacement, match))


def _map(rule: Rule, labels: Labels) -> None:
    """All names are compared before any is set: what one rule makes it does not see."""
    pattern = compiled(rule.regex)
    for name, value in list(labels.items()):
        match = pattern.fullmatch(name)
        if match is not None:
            _set(labels, _expanded(rule.replacement, match), value)


def _expanded(template: str, match: Any) -> str:
    """Go's Regexp.Expand: `$1`, `${1}`, `${name}`; the longest name counts, an unknown one is empty, `$$` is `$`."""

    def group(reference: re.Match[str]) -> str:
        if reference["dollar"]:
            return "$"
        name: str = reference["braced"] or reference["bare"]
        if name.isdecimal() and len(name) < 9:
            return match.group(int(name)) or "" if int(name) <= match.re.groups else ""
        return match.group(name) or "" if name in match.re.groupindex else ""

    return _REFERENCE.sub(group, template)
