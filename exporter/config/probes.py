"""Settings of /probe."""

# ruff: noqa: RUF009 - `setting` is a dataclass field by another name

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from exporter.config.access import HEADERS, HOST_HEADER, BasicAuth, Tls, conflicts
from exporter.config.files import SECRET_FILE
from exporter.config.kinds import AUTO, SWITCH, SecretFile, Wrong, duration, listing, section, setting, table, whole
from exporter.config.members import MODE, MODEL_MODES
from exporter.config.targets import ALLOWED, Allowed
from exporter.model import CanaryMode, Mode, Secret

DEFAULT_MODULE = "default"


def _module_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise Wrong("must be 1 to 64 letters, digits, `_` or `-`")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCanary:
    """As Canary, for a module of /probe: off unless it says otherwise."""

    mode: CanaryMode = setting(
        MODE,
        "As `canary.mode`. However many ask, a server has one canary through /probe, with its own rhythm; a configured"
        " server has that of the loops and none through /probe.",
        "off",
    )
    every: float = setting(duration("1s", "1d"), "As `canary.every`.", "60s")
    timeout: float = setting(duration("1s", "1h"), "As `canary.timeout`.", "10m")
    models: tuple[tuple[str, CanaryMode], ...] = setting(MODEL_MODES, "As `canary.models`.", {})

    @property
    def wanted(self) -> bool:
        return any(mode != "off" for mode in (self.mode, *dict(self.models).values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """How /probe asks a target that is not configured; of one that is, only what is looked at and for how long."""

    targets: tuple[Allowed, ...] = setting(
        listing(ALLOWED),
        "Targets that this module is for, of those that `probe.allow` lets through. Required where the module holds"
        " credentials: they are sent to no other.",
        [],
        "all of them",
    )
    timeout: float = setting(
        duration("100ms", "2m"), "For a probe as a whole, at most; less where Prometheus gives less.", "10s"
    )
    request_timeout: float = setting(duration("100ms", "1m"), "As `timeout` of a server: for one answer.", "5s")
    connect_timeout: float = setting(
        duration("10ms", "1m"), "For the connection alone; at most `request_timeout`.", "2s"
    )
    inventory_interval: float = setting(
        duration("10s", "1d"), "As `poll.inventory_interval`; what is installed is not asked for at every probe.", "5m"
    )
    native: Mode = setting(AUTO, "Whether to read the target's own /metrics, as `native.mode`.", "off")
    canary: ProbeCanary = setting(section(ProbeCanary), "The canary through this module.", {})
    host_header: str = setting(HOST_HEADER, "As of a server.", None, "that of the target")
    headers: tuple[tuple[str, Secret], ...] = setting(HEADERS, "As of a server.", {})
    bearer_token_file: SecretFile | None = setting(SECRET_FILE, "As of a server.", None)
    basic_auth: BasicAuth | None = setting(section(BasicAuth), "As of a server.", None)
    tls: Tls = setting(section(Tls), "For https.", {})

    @property
    def credentials(self) -> tuple[str, ...]:
        """The keys of those that there are."""
        ways = {
            "bearer_token_file": self.bearer_token_file,
            "basic_auth": self.basic_auth,
            "headers": self.headers,
            "tls.cert_file": self.tls.cert_file,
        }
        return tuple(key for key, value in ways.items() if value)

    def objections(self) -> Iterator[tuple[str, str]]:
        if self.connect_timeout > self.request_timeout:
            yield (
                "connect_timeout",
                f"must be at most request_timeout ({self.request_timeout:g} s), got {self.connect_timeout:g} s",
            )
        if self.credentials and not self.targets:
            yield "targets", f"must name the targets that {self.credentials[0]} may be sent to"
        yield from conflicts(self.headers, self.bearer_token_file, self.basic_auth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    enabled: bool = setting(SWITCH, "Whether there is a /probe.", True)
    allow: tuple[Allowed, ...] = setting(
        listing(ALLOWED),
        "Targets beside the configured servers: hosts, `*.domain`, addresses, networks. A name is let through by its"
        " name, an address by its address. Loopback, link-local, multicast and reserved addresses are opened by"
        " entries within these ranges alone, metadata services by their very address; names may not lead there.",
        [],
        "configured servers only",
    )
    ports: tuple[int, ...] = setting(
        listing(whole(1, 65535)), "Ports of targets that are not configured.", [11434, 443, 80], "11434, 443, 80"
    )
    timeout_offset: float = setting(
        duration("1ms", "10s"), "How much earlier than Prometheus' scrape timeout a probe ends.", "500ms"
    )
    concurrency: int = setting(whole(1, 1000), "Probes at the same time at most; 503 beyond.", 50)
    modules: tuple[tuple[str, Module], ...] = setting(
        table("module: mapping", _module_name, section(Module)),
        "Ways to ask, by the name that `module=` takes. `default` exists without being written.",
        {},
    )

    def module(self, name: str) -> Module | None:
        return dict(self.modules).get(name)
