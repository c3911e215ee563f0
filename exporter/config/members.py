"""Settings of the members of the fleet, and of the canary on them."""

# ruff: noqa: RUF009 - `setting` is a dataclass field by another name

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from exporter.config.access import HEADERS, HOST_HEADER, BasicAuth, Tls, about_access
from exporter.config.addresses import URL
from exporter.config.files import PROXY, SECRET_FILE
from exporter.config.kinds import Kind, Reader, SecretFile, Wrong, choice, duration, section, seen, setting, table, text
from exporter.model import CanaryMode, Secret, canonical, is_cloud

NAME_MAX = 64
SERVER_NAME = re.compile(rf"[A-Za-z0-9._:-]{{1,{NAME_MAX}}}")
NAME = text(
    "name",
    SERVER_NAME.pattern,
    f"1 to {NAME_MAX} letters, digits, `.`, `_`, `:` or `-` (it is a label value)",
)
_MODES = choice("off", "loaded", "always")


def _default_mode(reader: Reader, raw: object, path: str) -> CanaryMode:
    mode: CanaryMode = _MODES.parse(reader, raw, path)
    if mode == "always":
        raise Wrong(
            "must be off or loaded: always is for models named in `models` only, because it loads them and"
            " keeps them in memory for good"
        )
    return mode


MODE: Kind[CanaryMode] = Kind("off \\| loaded", _default_mode)


def _model(name: str) -> str:
    """`llama3` and `llama3:latest` are one model."""
    if not re.fullmatch(r"[A-Za-z0-9][!-~]{0,383}", name):
        raise Wrong(f"must be the name of a model such as llama3.2:3b, got {seen(name)}")
    if is_cloud(name):
        raise Wrong("is a model in the cloud; the canary never runs on these")
    return canonical(name)


MODEL_MODES = table("model: off \\| loaded \\| always", _model, _MODES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    mode: CanaryMode = setting(
        MODE,
        "What to do about models that are not named in `models`. loaded: probe them while they are loaded anyway and in"
        " use (server 0.30 or newer). off: never. A bare off is understood.",
        "loaded",
    )
    every: float = setting(duration("1s", "1d"), "Least time between two canaries on one model.", "60s")
    timeout: float = setting(
        duration("1s", "1h"),
        "How long a canary may wait for its answer. Longer than any plausible queue: a request that is given up can"
        " leave its slot taken.",
        "10m",
    )
    models: tuple[tuple[str, CanaryMode], ...] = setting(
        MODEL_MODES,
        "Modes of single models; llama3 is llama3:latest. Naming one also allows servers before 0.30. always: probe it"
        " even if it is not loaded, so that it is loaded and stays in memory for good; costs its memory and may evict"
        " what users work with.",
        {},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCanary:
    """As Canary, for one server. `load` puts the common value where None was read."""

    mode: CanaryMode = setting(MODE, "As `canary.mode`, for this server.", None, "`canary.mode`")
    every: float = setting(duration("1s", "1d"), "As `canary.every`, for this server.", None, "`canary.every`")
    timeout: float = setting(duration("1s", "1h"), "As `canary.timeout`, for this server.", None, "`canary.timeout`")
    models: tuple[tuple[str, CanaryMode], ...] = setting(
        MODEL_MODES, "Added to those of `canary.models`, which they override.", {}, "`canary.models`"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLogs:
    """Where one server's log is. Without any of them it is looked for by its process."""

    file: str = setting(
        text("path", r"/[^\x00-\x1f]*", "an absolute path"),
        "A file that Ollama's output is written to; rotation is followed.",
        None,
        "found",
    )
    unit: str = setting(
        text("unit", r"[A-Za-z0-9:_.@-]+", "the name of a systemd unit"), "Unit in systemd's journal.", None, "found"
    )
    container: str = setting(
        text("name", r"[A-Za-z0-9][A-Za-z0-9_.-]*", "name or id of a container"),
        "Container whose output Docker keeps.",
        None,
        "found",
    )

    def objections(self) -> Iterator[tuple[str, str]]:
        given = [key for key in ("file", "unit", "container") if getattr(self, key)]
        for second in given[1:]:
            yield second, f"cannot be used together with {given[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One member of the fleet. `load` puts the common value where None was read."""

    name: str = setting(NAME, "Value of the label `server`.", None, "host:port of `url`")
    url: str = setting(
        URL,
        "Base URL, with a path if a proxy needs one; without user, password and query. No port: 80, or 443 for https.",
    )
    timeout: float = setting(
        duration("100ms", "1m"),
        "For one answer of /api/version, /api/ps or /api/tags. Ollama answers slowly while it loads a model; 2s to 5s"
        " is sound.",
        "5s",
    )
    connect_timeout: float = setting(duration("10ms", "1m"), "For the connection alone; at most `timeout`.", "2s")
    host_header: str = setting(
        HOST_HEADER,
        "`Host` to send. An Ollama bound to a loopback address refuses public names with 403; localhost is accepted.",
        None,
        "that of `url`",
    )
    headers: tuple[tuple[str, Secret], ...] = setting(
        HEADERS, "Headers to send. Secret ones must take their value from `${VAR}`; no value is ever shown.", {}
    )
    bearer_token_file: SecretFile | None = setting(
        SECRET_FILE,
        "File that holds a token, sent as `Authorization: Bearer ...`; a line break at its end does not count.",
        None,
    )
    basic_auth: BasicAuth | None = setting(
        section(BasicAuth), "User and password, for a proxy in front of Ollama.", None
    )
    tls: Tls = setting(section(Tls), "For https.", {})
    proxy_url: Secret | None = setting(
        PROXY, "HTTP proxy to go through. HTTP_PROXY and the like are not read.", None, "none"
    )
    poll_interval: float = setting(
        duration("1s", "1h"), "As `poll.interval`, for this server.", None, "`poll.interval`"
    )
    inventory_interval: float = setting(
        duration("10s", "1d"), "As `poll.inventory_interval`, for this server.", None, "`poll.inventory_interval`"
    )
    canary: ServerCanary = setting(section(ServerCanary), "The canary on this server.", {}, "`canary`")
    container: str = setting(
        text("name", r"[A-Za-z0-9][A-Za-z0-9_.-]*", "name or id of a container"),
        "The Docker container that this server runs in.",
        None,
        "found by address and published port",
    )
    logs: ServerLogs = setting(section(ServerLogs), "Where this server's log is.", {})

    def objections(self) -> Iterator[tuple[str, str]]:
        if self.connect_timeout > self.timeout:
            yield "connect_timeout", f"must be at most timeout ({self.timeout:g} s), got {self.connect_timeout:g} s"
        yield from about_access(self)
