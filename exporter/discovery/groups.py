"""Lists of targets as Prometheus' file_sd and http_sd write them: text -> labels of each target, or its mistake. Pure.

Mistakes are told by their place and never quote a value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from exporter.config import document
from exporter.discovery.targets import ADDRESS, TARGETS_MAX, Target, Trouble
from exporter.relabel import is_name

BODY_MAX = 16 * 1024 * 1024


def from_json(body: bytes, more: Mapping[str, str]) -> tuple[Target, ...]:
    """`more`: labels of each target beside its own. Raises `Trouble`."""
    try:
        written = json.loads(body.decode(), object_pairs_hook=_once)
    except UnicodeDecodeError:
        raise Trouble("decode", "it is not UTF-8 text") from None
    except _Twice as twice:
        raise Trouble("malformed", str(twice)) from None
    except (ValueError, RecursionError):
        raise Trouble("decode", "it is not JSON") from None
    return _targets(written, more)


def from_yaml(body: bytes, more: Mapping[str, str]) -> tuple[Target, ...]:
    try:
        written = document.parse(body.decode("utf-8-sig"), texts=True)
    except UnicodeDecodeError:
        raise Trouble("decode", "it is not UTF-8 text") from None
    except document.NotYaml as error:
        raise Trouble("decode", "; ".join(f"{place}: {what}" for place, what in error.mistakes[:3])) from None
    return _targets(written, more)


class _Twice(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice("a key is given twice")
    return found


def _targets(written: object, more: Mapping[str, str]) -> tuple[Target, ...]:
    if written is None:
        return ()
    if not isinstance(written, list):
        raise Trouble("malformed", "it must be a list of groups")
    found: list[Target] = []
    for place, group in enumerate(written):
        found += _group(group, more, f"group {place + 1}")
        if len(found) > TARGETS_MAX:
            raise Trouble("too_large", f"it has more than {TARGETS_MAX:,} targets")
    return tuple(found)


def _group(group: object, more: Mapping[str, str], at: str) -> Iterator[Target]:
    if not isinstance(group, Mapping) or not group.keys() <= {"targets", "labels"}:
        raise Trouble("malformed", f"{at} must have `targets` and `labels`, and nothing else")
    targets, labels = group.get("targets") or [], group.get("labels") or {}
    if not isinstance(targets, list) or not all(isinstance(each, str) for each in targets):
        raise Trouble("malformed", f"{at}: `targets` must be a list of texts")
    if not isinstance(labels, Mapping) or not all(isinstance(name, str) and is_name(name) for name in labels):
        raise Trouble("malformed", f"{at}: `labels` must be a mapping with names of labels as its keys")
    if not all(isinstance(value, str | None) for value in labels.values()):
        raise Trouble("malformed", f"{at}: values of `labels` must be text")
    shared = {**{name: _text(value or "") for name, value in labels.items()}, **more}
    return (Target({**shared, ADDRESS: _text(each)}) for each in targets)


def _text(value: str) -> str:
    """Half a surrogate pair, which JSON can escape, is no character."""
    return value.encode("utf-8", "replace").decode()
