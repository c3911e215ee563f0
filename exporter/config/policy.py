"""The policy file: what an operator wants servers to be like, in a file of its own that several exporters can share."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from exporter.config import document
from exporter.config.files import contents
from exporter.config.kinds import Kind, Reader, Wrong, duration, listing, plain, section, seen, setting, whole
from exporter.model import PinnedFile, Policy, canonical


def _name(raw: object) -> str:
    if not isinstance(raw, str) or not re.fullmatch(r"[A-Za-z0-9][!-~]{0,383}", raw) or "*" in raw:
        raise Wrong(f"must be the name of a model such as llama3.2:3b, got {seen(raw)}")
    return canonical(raw)


def _pattern(raw: object) -> str:
    if not isinstance(raw, str) or not re.fullmatch(r"[A-Za-z0-9*][A-Za-z0-9*._:/@-]{0,383}", raw):
        raise Wrong(f"must be the name of a model, or a pattern such as qwen3:*, got {seen(raw)}")
    return raw if "*" in raw else canonical(raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The keys of the file."""

    required_models: tuple[str, ...] = setting(
        listing(plain("name", _name)), "Models that every server must have installed; llama3 is llama3:latest.", []
    )
    allowed_models: tuple[str, ...] = setting(
        listing(plain("pattern", _pattern)),
        "Models that servers may have installed, `*` for anything. Empty: all.",
        [],
    )
    max_context: int | None = setting(
        whole(1, 10_000_000), "Most tokens of context per slot, as set and of loaded models.", None, "no limit"
    )
    max_parallel: int | None = setting(whole(1, 10_000), "Most slots per runner, as set.", None, "no limit")
    max_keep_alive: float | None = setting(
        duration("1s", "365d"), "Longest stay of an idle model in memory, as set.", None, "no limit"
    )


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy and the file it was read from, as it was then."""

    file: PinnedFile
    policy: Policy


def _policy_file(reader: Reader, raw: object, path: str) -> PolicyFile:
    shown, content = contents(reader, raw)
    try:
        written = document.parse(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Wrong(f"{shown} is not UTF-8 text") from None
    except document.NotYaml as error:
        raise Wrong(f"{shown}: {'; '.join(f'{place}: {what}' for place, what in error.mistakes)}") from None
    rules = section(Rules).parse(reader, written, path)
    policy = Policy(
        rules.required_models, rules.allowed_models, rules.max_context, rules.max_parallel, rules.max_keep_alive
    )
    return PolicyFile(PinnedFile(shown, hashlib.sha256(content).hexdigest()), policy)


POLICY_FILE = Kind("path of a YAML file", _policy_file, lambda value: value.file, section=Rules)
