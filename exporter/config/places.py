"""Settings of discovery that stand alone: relabel rules, and the places to look for servers but http."""

# ruff: noqa: RUF009 - `setting` is a dataclass field by another name

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from exporter.config.addresses import DNS_SERVER
from exporter.config.files import PINNED_FILE
from exporter.config.kinds import Kind, Reader, Wrong, choice, listing, seen, setting, text, whole
from exporter.model import PinnedFile
from exporter.relabel import ACTIONS, ANY, SEPARATOR, WHOLE, Action, Rule, compiled, is_name

PORT = 11434

# --- relabel rules ---------------------------------------------------------------------------------------------------

_LABEL = text("label", r"[a-zA-Z_][a-zA-Z0-9_]*", "the name of a label")
_TARGET = re.compile(r"(?:(?:[a-zA-Z_]|\$(?:\{\w+\}|\w+))+\w*)+", re.ASCII)
_TO_TARGET = ("replace", "hashmod", "lowercase", "uppercase", "keepequal", "dropequal")
_WITHOUT: dict[str, tuple[str, ...]] = {
    "lowercase": ("regex", "replacement", "modulus"),
    "uppercase": ("regex", "replacement", "modulus"),
    "keepequal": ("regex", "replacement", "modulus", "separator"),
    "dropequal": ("regex", "replacement", "modulus", "separator"),
    "labeldrop": ("source_labels", "target_label", "replacement", "modulus", "separator"),
    "labelkeep": ("source_labels", "target_label", "replacement", "modulus", "separator"),
}
"""What has no effect with an action, and is a mistake to Prometheus too."""


def _as_written(reader: Reader, raw: object, path: str) -> str:
    if not isinstance(raw, str):
        raise Wrong(f"must be text, got {seen(raw)}" + " (put it in quotes)" * isinstance(raw, int | float))
    return raw


def _regex(reader: Reader, raw: object, path: str) -> str:
    regex = _as_written(reader, raw, path)
    try:
        compiled(regex)
    except ValueError as error:
        raise Wrong(f"must be a regular expression of RE2: {error}") from None
    return regex


# `${1}` is what a match has found: nothing of the environment is put in.
_TEMPLATE = Kind("text, may hold `$1` and `${name}`", _as_written, expands=True)
_REGEX = Kind("regular expression", _regex, expands=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabel:
    action: Action = setting(choice(*ACTIONS), "What the rule does, in Prometheus' words.", "replace")
    source_labels: tuple[str, ...] = setting(listing(_LABEL), "Labels whose values are looked at, joined.", [])
    separator: str = setting(Kind("text", _as_written), "Between the values.", SEPARATOR)
    regex: str = setting(_REGEX, "What they must match, from beginning to end. RE2, as Prometheus has it.", ANY)
    modulus: int = setting(whole(0, 2**64 - 1), "Of the hash, for hashmod.", 0)
    target_label: str = setting(_TEMPLATE, "Label to set, or to compare with.", "")
    replacement: str = setting(_TEMPLATE, "What it is set to; for labelmap the new name.", WHOLE)

    @property
    def rule(self) -> Rule:
        return Rule(
            self.action,
            self.source_labels,
            self.separator,
            self.regex,
            self.modulus,
            self.target_label,
            self.replacement,
        )

    def objections(self) -> Iterator[tuple[str, str]]:
        for key in _WITHOUT.get(self.action, ()):
            if getattr(self, key) != _USUAL[key]:
                yield key, f"has no effect with action: {self.action}"
        if self.action == "hashmod" and not self.modulus:
            yield "modulus", "must be above 0 for action: hashmod"
        if self.action == "labelmap" and not _TARGET.fullmatch(self.replacement):
            yield "replacement", f"must be the name of a label, got {seen(self.replacement)}"
        yield from self._about_target()

    def _about_target(self) -> Iterator[tuple[str, str]]:
        if self.action not in _TO_TARGET:
            return
        if not self.target_label:
            yield "target_label", f"is missing for action: {self.action}"
        elif self.action == "replace" and not _TARGET.fullmatch(self.target_label):
            yield "target_label", f"must be the name of a label, may hold $1, got {seen(self.target_label)}"
        elif self.action != "replace" and not is_name(self.target_label):
            yield "target_label", f"must be the name of a label, got {seen(self.target_label)}"


_USUAL: dict[str, object] = {
    "source_labels": (), "separator": SEPARATOR, "regex": ANY, "modulus": 0, "target_label": "", "replacement": WHOLE
}  # fmt: skip

# --- where to look ---------------------------------------------------------------------------------------------------


def _pattern(reader: Reader, raw: object, path: str) -> str:
    if not isinstance(raw, str) or not re.fullmatch(r"[^*\x00-\x1f]*(\*[^/\x00-\x1f*]*)?\.(json|ya?ml)", raw, re.I):
        raise Wrong(f"must be the path of a .yml, .yaml or .json file, one `*` in its last part, got {seen(raw)}")
    return str(reader.folder / raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSd:
    paths: tuple[str, ...] = setting(
        listing(Kind("path", _pattern)),
        "Files as Prometheus' file_sd reads them: lists of `targets` and `labels`. The last part of a path may hold one"
        " `*`.",
    )

    def objections(self) -> Iterator[tuple[str, str]]:
        if not self.paths:
            yield "paths", "names no file"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsSd:
    names: tuple[str, ...] = setting(
        listing(text("name", r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})", "a name in DNS")), "Names to ask for."
    )
    type: Literal["SRV", "A", "AAAA"] = setting(choice("SRV", "A", "AAAA"), "Kind of record.", "SRV")
    port: int = setting(whole(1, 65535), "Where servers listen; SRV records say it themselves.", PORT)
    server: tuple[str, int] | None = setting(DNS_SERVER, "DNS server to ask.", None, "those of /etc/resolv.conf")

    def objections(self) -> Iterator[tuple[str, str]]:
        if not self.names:
            yield "names", "names nothing to ask for"


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerSd:
    images: tuple[str, ...] = setting(
        listing(text("pattern", r"[!-~]{1,200}", "the name of an image, with * for any text")),
        "Images whose containers are servers, with or without their registry; `*` is any text. The label"
        " `ollama-exporter.enable` of a container (true, false) overrules them; `ollama-exporter.name` and"
        " `ollama-exporter.port` say what else would be guessed.",
        ["ollama/ollama", "ollama/ollama:*"],
        "`ollama/ollama`, `ollama/ollama:*`",
    )
    network: str = setting(
        text("name", r"[A-Za-z0-9][A-Za-z0-9_.-]*", "the name of a Docker network"),
        "Only containers in this Docker network, at their addresses in it.",
        None,
        "any",
    )


def _port(reader: Reader, raw: object, path: str) -> str:
    if isinstance(raw, int) and not isinstance(raw, bool) and 1 <= raw <= 65535:
        return str(raw)
    if isinstance(raw, str) and re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?", raw) and not raw.isdecimal():
        return raw
    raise Wrong(f"must be the name of a port, or a number from 1 to 65535, got {seen(raw)}")


Role = Literal["pod", "service", "endpoints", "endpointslice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSd:
    role: Role = setting(
        choice("pod", "service", "endpoints", "endpointslice"),
        "What is a server: each pod, each service as a whole, or each address behind a service.",
        "endpointslice",
    )
    namespaces: tuple[str, ...] = setting(
        listing(text("name", r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "the name of a namespace")),
        "Namespaces to look in.",
        [],
        "all",
    )
    selector: str = setting(
        text("text", r"[ -~]{0,500}", "a label selector such as app=ollama"),
        "Label selector, as `kubectl -l` takes it.",
        "",
    )
    port: str = setting(Kind("name or number", _port), "Which port is Ollama's.", PORT)
    kubeconfig_file: PinnedFile | None = setting(
        PINNED_FILE, "How to reach the cluster.", None, "from inside the cluster, by the pod's service account"
    )
    context: str = setting(
        text("text", r"[!-~]{1,200}", "the name of a context"), "Context in it.", None, "its current one"
    )
    timeout: int = setting(whole(1, 15), "Seconds for one answer of the API server.", 5)

    def objections(self) -> Iterator[tuple[str, str]]:
        if self.context and not self.kubeconfig_file:
            yield "context", "needs `kubeconfig_file`"
