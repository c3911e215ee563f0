"""Every setting, declared once: its key, what it takes, its default, its help. `docs/config.md` is made of this."""

# ruff: noqa: RUF009 - `setting` is a dataclass field by another name

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from exporter.config import document
from exporter.config.addresses import LISTEN, QUERY_URL, URL, Listen
from exporter.config.discovery import DnsSd, DockerSd, FileSd, KubernetesSd, Relabel
from exporter.config.files import PEM_FILE, PROXY, SECRET_FILE, expanded
from exporter.config.kinds import (
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
    table,
    text,
    whole,
)
from exporter.config.policy import POLICY_FILE, PolicyFile
from exporter.config.targets import ALLOWED, Allowed
from exporter.model import CanaryMode, Mode, PinnedFile, Secret, canonical, is_cloud

PREFIX = "OLLAMA_EXPORTER_"
CONFIG_FILE = f"{PREFIX}CONFIG_FILE"
SERVERS = f"{PREFIX}SERVERS"
DEFAULT_URL = "http://localhost:11434"
DEFAULT_MODULE = "default"
NAME_MAX = 64

# --- kinds of our own ------------------------------------------------------------------------------------------------

SERVER_NAME = re.compile(rf"[A-Za-z0-9._:-]{{1,{NAME_MAX}}}")
_NAME = text(
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


_MODE: Kind[CanaryMode] = Kind("off \\| loaded", _default_mode)


def _model(name: str) -> str:
    """`llama3` and `llama3:latest` are one model."""
    if not re.fullmatch(r"[A-Za-z0-9][!-~]{0,383}", name):
        raise Wrong(f"must be the name of a model such as llama3.2:3b, got {seen(name)}")
    if is_cloud(name):
        raise Wrong("is a model in the cloud; the canary never runs on these")
    return canonical(name)


_OURS = {"host", "origin", "connection", "content-length", "content-type", "transfer-encoding", "accept", "user-agent"}
_CREDENTIAL = re.compile(r"auth|cookie|token|secret|key|passw|credential", re.I)


def _header(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name):
        raise Wrong("must be the name of an HTTP header")
    if name.lower() == "host":
        raise Wrong("use `host_header`")
    if name.lower() in _OURS or name.lower().startswith("accept-"):
        raise Wrong("is set by the exporter or must not be sent to Ollama")
    return name


def _header_value(reader: Reader, raw: object, path: str) -> Secret:
    value = expanded(reader, raw)
    if _CREDENTIAL.search(path.partition(".headers.")[2]) and value == raw:
        raise Wrong("must take its value from the environment: write ${NAME} in place of the secret")
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
        raise Wrong("must be printable ASCII without spaces at the ends (the value is not shown)")
    return Secret(value)


_HEADERS = table("header: value, may hold `${VAR}`", _header, Kind("text", _header_value, expands=True))
_HOST_HEADER = text("text", r"[A-Za-z0-9._:\[\]-]{1,260}", "a host name, with a port if need be")
_MODEL_MODES = table("model: off \\| loaded \\| always", _model, _MODES)


def _module_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise Wrong("must be 1 to 64 letters, digits, `_` or `-`")
    return name


# --- sections --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicAuth:
    username: str = setting(text("text", r"[^:\x00-\x1f\x7f]+", "text without `:`"), "User name.")
    password_file: SecretFile = setting(
        SECRET_FILE, "File that holds the password; a line break at its end does not count."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    ca_file: PinnedFile | None = setting(
        PEM_FILE, "Certificates to trust in place of the system's.", None, "the system's"
    )
    cert_file: PinnedFile | None = setting(PEM_FILE, "Certificate to show to the server.", None)
    key_file: PinnedFile | None = setting(PEM_FILE, "Its key, unencrypted.", None, "in `cert_file`")
    insecure_skip_verify: bool = setting(SWITCH, "Trust any certificate. For tests.", False)

    def objections(self) -> Iterator[tuple[str, str]]:
        if self.key_file and not self.cert_file:
            yield "key_file", "needs `cert_file`"
        if self.ca_file and self.insecure_skip_verify:
            yield "ca_file", "has no effect with insecure_skip_verify: true"
        yield from _loadable(self)


def _loadable(tls: Tls) -> Iterator[tuple[str, str]]:
    """What TLS itself says to the files, before the first connection does."""
    if not (tls.ca_file or tls.cert_file):
        return
    import ssl  # a tenth of a second that only its users pay

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if tls.ca_file:
            context.load_verify_locations(tls.ca_file.path)
    except (ssl.SSLError, OSError):
        yield "ca_file", f"{tls.ca_file.path if tls.ca_file else ''} holds no certificate that can be used"
    try:
        if tls.cert_file:
            # The password is asked for on the terminal unless one is given.
            context.load_cert_chain(tls.cert_file.path, tls.key_file.path if tls.key_file else None, password="")
    except (ssl.SSLError, OSError, ValueError):
        yield (
            "cert_file",
            "certificate and key cannot be used: one is broken, the key is encrypted, or they do not match",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    mode: CanaryMode = setting(
        _MODE,
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
        _MODEL_MODES,
        "Modes of single models; llama3 is llama3:latest. Naming one also allows servers before 0.30. always: probe it"
        " even if it is not loaded, so that it is loaded and stays in memory for good; costs its memory and may evict"
        " what users work with.",
        {},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCanary:
    """As Canary, for one server. `load` puts the common value where None was read."""

    mode: CanaryMode = setting(_MODE, "As `canary.mode`, for this server.", None, "`canary.mode`")
    every: float = setting(duration("1s", "1d"), "As `canary.every`, for this server.", None, "`canary.every`")
    timeout: float = setting(duration("1s", "1h"), "As `canary.timeout`, for this server.", None, "`canary.timeout`")
    models: tuple[tuple[str, CanaryMode], ...] = setting(
        _MODEL_MODES, "Added to those of `canary.models`, which they override.", {}, "`canary.models`"
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

    name: str = setting(_NAME, "Value of the label `server`.", None, "host:port of `url`")
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
        _HOST_HEADER,
        "`Host` to send. An Ollama bound to a loopback address refuses public names with 403; localhost is accepted.",
        None,
        "that of `url`",
    )
    headers: tuple[tuple[str, Secret], ...] = setting(
        _HEADERS, "Headers to send. Secret ones must take their value from `${VAR}`; no value is ever shown.", {}
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
        yield from _about_access(self)


def _about_access(to: Server | HttpSd) -> Iterator[tuple[str, str]]:
    if to.url.startswith("http:") and any((to.tls.ca_file, to.tls.cert_file, to.tls.insecure_skip_verify)):
        yield "tls", "has no effect: the URL is http://"
    yield from _conflicts(to.headers, to.bearer_token_file, to.basic_auth)


def _conflicts(
    headers: tuple[tuple[str, Secret], ...], bearer: SecretFile | None, basic: BasicAuth | None
) -> Iterator[tuple[str, str]]:
    """What cannot be sent together, and a token that cannot be sent at all."""
    names = [name.lower() for name, _ in headers]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"headers.{name}", "is given twice"
    if bearer and not re.fullmatch(r"[!-~]+", bearer.secret.reveal()):
        yield "bearer_token_file", f"{bearer.path} holds no token: it has spaces or non-ASCII characters"
    ways = {"bearer_token_file": bearer, "basic_auth": basic}
    given = [key for key, value in ways.items() if value] + ["headers.authorization"] * ("authorization" in names)
    for second in given[1:]:
        yield second, f"cannot be used together with {given[0]}"


# --- discovery -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSd:
    url: str = setting(
        QUERY_URL,
        "Where a list is had as Prometheus' http_sd has it. May have a query, which is shown: secrets belong into"
        " headers.",
    )
    timeout: float = setting(duration("100ms", "15s"), "For the whole answer.", "10s")
    headers: tuple[tuple[str, Secret], ...] = setting(_HEADERS, "As `servers[].headers`.", {})
    bearer_token_file: SecretFile | None = setting(SECRET_FILE, "As `servers[].bearer_token_file`.", None)
    basic_auth: BasicAuth | None = setting(section(BasicAuth), "As `servers[].basic_auth`.", None)
    tls: Tls = setting(section(Tls), "As `servers[].tls`.", {})
    proxy_url: Secret | None = setting(PROXY, "As `servers[].proxy_url`.", None, "none")

    def objections(self) -> Iterator[tuple[str, str]]:
        yield from _about_access(self)


_OF_ONE_SERVER = ("name", "url", "container", "logs")


def _template(reader: Reader, raw: object, path: str) -> Server:
    """A server of which only the place is missing: https, so that `tls` has its meaning."""
    for key in _OF_ONE_SERVER:
        if isinstance(raw, Mapping) and key in raw:
            raise Wrong(f"must not hold `{key}`, which is another one for each server that is found")
    if raw is not None and not isinstance(raw, Mapping):
        raise Wrong(f"must be a mapping (key: value), got {seen(raw)}")
    return section(Server).parse(reader, {**(raw or {}), "url": "https://found.invalid"}, path)


def _template_shown(server: Server) -> dict[str, object]:
    pairs = ((each, getattr(server, each.name)) for each in fields(server) if each.name not in _OF_ONE_SERVER)
    return {each.name: each.metadata["kind"].show(value) for each, value in pairs if value is not None}


_KINDS = ("files", "http", "dns", "docker", "kubernetes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """One place to look for servers: exactly one of the kinds is not None. `load` puts its name where None was read."""

    name: str = setting(
        text("name", r"[A-Za-z0-9_-]{1,32}", "1 to 32 letters, digits, `_` or `-` (it is a label value)"),
        "Value of the label `discovery`.",
        None,
        "its kind, such as `dns`",
    )
    every: float = setting(duration("1s", "1d"), "Time between two looks.", None, "30s; 5s for files")
    files: FileSd | None = setting(section(FileSd), "Look into files.", None)
    http: HttpSd | None = setting(section(HttpSd), "Ask a web server.", None)
    dns: DnsSd | None = setting(section(DnsSd), "Ask DNS.", None)
    docker: DockerSd | None = setting(
        section(DockerSd),
        "Look among the containers of the engine at `docker.address`. An empty mapping will do.",
        None,
    )
    kubernetes: KubernetesSd | None = setting(
        section(KubernetesSd), "Ask Kubernetes; needs the extra `kubernetes`. An empty mapping will do.", None
    )
    relabel_configs: tuple[Relabel, ...] = setting(
        listing(section(Relabel)), "Rules on what was found, in Prometheus' words (docs/discovery.md).", []
    )
    server: Server = setting(
        Kind("mapping", _template, _template_shown),
        "What holds for each server that is found: the keys of `servers[]`, without name, url, container and logs.",
        {},
    )

    @property
    def kind(self) -> str:
        return next((kind for kind in _KINDS if getattr(self, kind, None) is not None), "")

    def objections(self) -> Iterator[tuple[str, str]]:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if not given:
            yield "name", f"says not where to look: one of {', '.join(_KINDS)} is needed"
        for second in given[1:]:
            yield second, f"cannot be used together with {given[0]}: make it an entry of its own"


# --- all of the exporter ---------------------------------------------------------------------------------------------


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
    name: str = setting(_NAME, "Value of the label `host`.", None, "the machine's host name")
    models_dir: str = setting(
        text("path", r"(/[^\x00-\x1f]*)?", "an absolute path"),
        "Folder of Ollama's model store on this machine.",
        "",
        "found: OLLAMA_MODELS of the running server, or Ollama's defaults",
    )


_AUTO = choice("auto", "on", "off")
_AUTO_HELP = (
    " auto: where it can be had; what is missing is said by `check --online` and on the status page. on: its absence is"
    " a failure. off: never."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    mode: Mode = setting(
        _AUTO,
        "Whether to read servers' own /metrics, as it is proposed for Ollama and in no release that is known. Without"
        " one, a server is asked again after a change of its version or an outage, and hourly." + _AUTO_HELP,
        "auto",
    )
    every: float = setting(duration("1s", "1h"), "Time between two looks at a server that has one.", "15s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    mode: Mode = setting(
        _AUTO,
        "Whether to look at servers' connections in the kernel: who waits for an answer." + _AUTO_HELP,
        "auto",
    )
    every: float = setting(duration("1s", "5m"), "Time between two looks.", "5s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    mode: Mode = setting(
        _AUTO,
        "Whether to look at servers' runners (one llama-server per loaded model): slots, tokens, settings."
        + _AUTO_HELP,
        "auto",
    )
    every: float = setting(duration("1s", "5m"), "Time between two looks.", "5s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    mode: Mode = setting(
        _AUTO, "Whether to read servers' logs: requests, tokens, loads, what was cut or lost." + _AUTO_HELP, "auto"
    )
    every: float = setting(duration("1s", "5m"), "Time between two readings; no line is lost between them.", "5s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    mode: Mode = setting(_AUTO, "Whether to look at the servers' Docker containers." + _AUTO_HELP, "auto")
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
        _AUTO, "Whether to look at this machine's GPUs (NVIDIA by NVML, AMD by sysfs)." + _AUTO_HELP, "auto"
    )
    every: float = setting(duration("1s", "5m"), "Time between two looks.", "15s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    mode: Mode = setting(
        _AUTO, "Whether to compare servers' settings with what Ollama really reads." + _AUTO_HELP, "auto"
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
class ProbeCanary:
    """As Canary, for a module of /probe: off unless it says otherwise."""

    mode: CanaryMode = setting(
        _MODE,
        "As `canary.mode`. However many ask, a server has one canary through /probe, with its own rhythm; a configured"
        " server has that of the loops and none through /probe.",
        "off",
    )
    every: float = setting(duration("1s", "1d"), "As `canary.every`.", "60s")
    timeout: float = setting(duration("1s", "1h"), "As `canary.timeout`.", "10m")
    models: tuple[tuple[str, CanaryMode], ...] = setting(_MODEL_MODES, "As `canary.models`.", {})

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
    native: Mode = setting(_AUTO, "Whether to read the target's own /metrics, as `native.mode`.", "off")
    canary: ProbeCanary = setting(section(ProbeCanary), "The canary through this module.", {})
    host_header: str = setting(_HOST_HEADER, "As of a server.", None, "that of the target")
    headers: tuple[tuple[str, Secret], ...] = setting(_HEADERS, "As of a server.", {})
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
        yield from _conflicts(self.headers, self.bearer_token_file, self.basic_auth)


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
