"""Every setting, declared once: its key, what it takes, its default, its help. `docs/config.md` is made of this."""

# ruff: noqa: RUF009 - `setting` is a dataclass field by another name

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from exporter.config import document
from exporter.config.addresses import LISTEN, Listen
from exporter.config.discovery import Discovery
from exporter.config.files import SECRET_FILE
from exporter.config.kinds import (
    AUTO,
    SWITCH,
    Kind,
    Reader,
    SecretFile,
    Wrong,
    choice,
    duration,
    listing,
    section,
    seen,
    setting,
    shown,
    text,
    whole,
)
from exporter.config.members import NAME, Canary, Server
from exporter.config.policy import POLICY_FILE, PolicyFile
from exporter.config.probes import Probe
from exporter.model import Mode, Secret

PREFIX = "OLLAMA_EXPORTER_"
CONFIG_FILE = f"{PREFIX}CONFIG_FILE"
SERVERS = f"{PREFIX}SERVERS"
DEFAULT_URL = "http://localhost:11434"


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    interval: float = setting(
        duration("1s", "1h"), "Time between two looks at each server (/api/version and /api/ps).", "15s"
    )
    inventory_interval: float = setting(
        duration("10s", "1d"),
        "Time between two looks at what is installed (/api/tags, which reads the server's disk).",
        "5m",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    enabled: bool = setting(SWITCH, "Whether to export `ollama_host_*`: the machine the exporter runs on.", True)
    name: str = setting(NAME, "Value of the label `host`.", None, "the machine's host name")
    models_dir: str = setting(
        text("path", r"(/[^\x00-\x1f]*)?", "an absolute path"),
        "Folder of Ollama's model store on this machine.",
        "",
        "found: OLLAMA_MODELS of the running server, or Ollama's defaults",
    )


_AUTO_HELP = (
    " auto: where it can be had; what is missing is said by `check --online` and on the status page. on: its absence is"
    " a failure. off: never."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    mode: Mode = setting(
        AUTO,
        "Whether to read servers' own /metrics, as it is proposed for Ollama and in no release that is known. Without"
        " one, a server is asked again after a change of its version or an outage, and hourly." + _AUTO_HELP,
        "auto",
    )
    every: float = setting(duration("1s", "1h"), "Time between two looks at a server that has one.", "15s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    mode: Mode = setting(
        AUTO,
        "Whether to look at servers' connections in the kernel: who waits for an answer." + _AUTO_HELP,
        "auto",
    )
    every: float = setting(duration("1s", "5m"), "Time between two looks.", "5s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    mode: Mode = setting(
        AUTO,
        "Whether to look at servers' runners (one llama-server per loaded model): slots, tokens, settings."
        + _AUTO_HELP,
        "auto",
    )
    every: float = setting(duration("1s", "5m"), "Time between two looks.", "5s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    mode: Mode = setting(
        AUTO, "Whether to read servers' logs: requests, tokens, loads, what was cut or lost." + _AUTO_HELP, "auto"
    )
    every: float = setting(duration("1s", "5m"), "Time between two readings; no line is lost between them.", "5s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    mode: Mode = setting(AUTO, "Whether to look at the servers' Docker containers." + _AUTO_HELP, "auto")
    every: float = setting(duration("5s", "5m"), "Time between two looks.", "15s")
    address: str = setting(
        text("url", r"(unix:///|tcp://|http://|https://)[^\s@]+", "unix:///path or tcp://host:port"),
        "The daemon, or a socket proxy before it that lets reading through.",
        None,
        "DOCKER_HOST, or unix:///var/run/docker.sock",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    mode: Mode = setting(
        AUTO, "Whether to look at this machine's GPUs (NVIDIA by NVML, AMD by sysfs)." + _AUTO_HELP, "auto"
    )
    every: float = setting(duration("1s", "5m"), "Time between two looks.", "15s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    mode: Mode = setting(
        AUTO, "Whether to compare servers' settings with what Ollama really reads." + _AUTO_HELP, "auto"
    )
    policy_file: PolicyFile | None = setting(
        POLICY_FILE, "YAML file that says what servers must be like. What is against it is exported.", None, "no policy"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    models: int = setting(
        whole(1, 10_000), "Values of the label `model` per server at most; what is beyond is put under `other`.", 200
    )
    histogram_models: bool = setting(
        SWITCH,
        "Whether histograms have the label `model`. false: one for all models of a server; panels and alerts that ask"
        " by model then tell of all of them together, without a name.",
        True,
    )
    servers: int = setting(
        whole(1, 100_000),
        "Servers in the fleet at most, as far as discovery finds them: those configured count and are never left out.",
        5000,
    )
    inventory: bool = setting(
        SWITCH,
        "Whether to tell size and digest of each installed model. false: only how many there are; loaded models are"
        " told of all the same.",
        True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    reload_file: SecretFile | None = setting(SECRET_FILE, "File that holds the token for `/-/reload`.", None)
    config_file: SecretFile | None = setting(SECRET_FILE, "File that holds the token for `/config`.", None)
    probe_file: SecretFile | None = setting(SECRET_FILE, "File that holds the token for `/probe`.", None)
    sd_file: SecretFile | None = setting(SECRET_FILE, "File that holds the token for `/sd`.", None)

    def by_path(self) -> dict[str, Secret]:
        files = {
            "/-/reload": self.reload_file, "/config": self.config_file, "/probe": self.probe_file, "/sd": self.sd_file
        }  # fmt: skip
        return {path: file.secret for path, file in files.items() if file is not None}

    def objections(self) -> Iterator[tuple[str, str]]:
        for key in ("reload_file", "config_file", "probe_file", "sd_file"):
            file = getattr(self, key)
            if file is not None and not re.fullmatch(r"[!-~]{16,}", file.secret.reveal()):
                yield key, f"{file.path} holds no token: 16 or more ASCII characters without spaces"


def _path(reader: Reader, raw: object, path: str) -> str:
    if not isinstance(raw, str) or not raw or not raw.isprintable():
        raise Wrong(f"must be the path of a file, got {seen(raw)}")
    return str(reader.folder / raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    listen_address: Listen = setting(LISTEN, "Where to serve /metrics: host:port, or :port for every address.", ":8082")
    config_file: str | None = setting(
        Kind("path of a file", _path),
        "TLS, users, headers and rate of requests, in the format of Prometheus' exporters (docs/security.md).",
        None,
        "plain HTTP, for everybody",
    )
    tokens: Tokens = setting(
        section(Tokens),
        "Bearer tokens for pages apart from /metrics. Such a page takes its token and no password; without, it is as"
        " open as the rest.",
        {},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    level: Literal["debug", "info", "warning", "error"] = setting(
        choice("debug", "info", "warning", "error"), "What is logged.", "info"
    )
    format: Literal["text", "json"] = setting(choice("text", "json"), "Lines for people, or JSON.", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration. Only `load` makes one, so there is none that was not checked.

    `origin` tells where the servers come from.
    """

    servers: tuple[Server, ...] = setting(
        listing(section(Server)),
        f"The fleet. {SERVERS} replaces it as a whole. Empty is right with `discovery`, and with `probe.allow` where"
        " only /probe is to look.",
        None,
        "OLLAMA_HOST, or " + DEFAULT_URL,
    )
    discovery: tuple[Discovery, ...] = setting(
        listing(section(Discovery)), "Where to look for more servers. With it, `servers` may be left out or empty.", []
    )
    poll: Poll = setting(section(Poll), "How often to look at servers.", {})
    canary: Canary = setting(
        section(Canary), "A timed tiny generation on models in use; common to all servers that say nothing else.", {}
    )
    host: Host = setting(section(Host), "The machine the exporter runs on.", {})
    native: Native = setting(section(Native), "Servers' own /metrics.", {})
    sockets: Sockets = setting(section(Sockets), "Servers' connections, as the kernel of their machine sees them.", {})
    runner: Runner = setting(section(Runner), "The processes in which servers run their models.", {})
    logs: Logs = setting(section(Logs), "Servers' logs.", {})
    docker: Docker = setting(section(Docker), "The containers that servers run in.", {})
    gpu: Gpu = setting(section(Gpu), "This machine's GPUs.", {})
    audit: Audit = setting(section(Audit), "Servers' settings.", {})
    limits: Limits = setting(section(Limits), "Bounds on what is exported.", {})
    probe: Probe = setting(section(Probe), "Targets that Prometheus names (docs/multi-target.md).", {})
    web: Web = setting(section(Web), "The exporter's own web server.", {})
    log: Log = setting(section(Log), "The exporter's own log.", {})
    origin: str = ""

    def objections(self) -> Iterator[tuple[str, str]]:
        names = [each.name or each.kind for each in self.discovery]
        for place, name in enumerate(names):
            if name in names[:place]:
                hint = "" if self.discovery[place].name else ": give it a name"
                yield f"discovery[{place}].name", f"discovery[{names.index(name)}] is called {seen(name)}, too{hint}"

    def effective(self) -> dict[str, Any]:
        """What is in force, in the notation of the file. Secrets are not in it."""
        return dict(shown(self))

    def effective_yaml(self) -> str:
        return document.dump(self.effective())

    @property
    def hash(self) -> str:
        """SHA-256 of what is in force, contents of certificates included. Secrets are left out: the hash is on a page
        that others read, and would let them try out guesses."""
        content = shown(self, digests=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


FLAGS: dict[str, tuple[type, str, str]] = {
    "web.listen-address": (Web, "web", "listen_address"),
    "web.config.file": (Web, "web", "config_file"),
    "log.level": (Log, "log", "level"),
    "log.format": (Log, "log", "format"),
}
"""Flag -> its section and key. Each flag has a variable, too: `variable(flag)`."""


def variable(flag: str) -> str:
    return PREFIX + re.sub(r"\W", "_", flag).upper()
