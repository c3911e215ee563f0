"""A Docker Engine, asked for its containers: read only, with deadlines, by the `docker` package where there is one.

Everything blocks and belongs in a thread; one call at a time. Nothing here knows a metric.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from exporter.model import Failed, Lacking

if TYPE_CHECKING:
    import docker
    from docker.types.daemon import CancellableStream

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
OLLAMA_PORT = 11434
_TIMEOUT = 4
"""Seconds for one answer. Docker takes its time for statistics of a container that is being stopped."""
_REMEDY_SOCKET = (
    "mount /var/run/docker.sock read-only into the exporter's container (or add its user to the group docker), or set"
    " docker.address to a socket proxy with CONTAINERS=1 EVENTS=1"
)
_REMEDY_PROXY = "set CONTAINERS=1 EVENTS=1 on the socket proxy at docker.address"
_REMEDY_AWAY = "start it, correct docker.address or set docker.mode: off"
_REMEDY_CONTAINER = "if it runs in one, name it in servers[].container"


@dataclass(frozen=True, slots=True)
class Published:
    """A port of the container that can be reached at the machine's. `host_ip` is empty for all of its addresses."""

    host_ip: str
    host_port: int
    port: int


@dataclass(frozen=True, slots=True)
class Network:
    """A network that the container is in. `gateway` is the machine's own address there; both may be empty."""

    name: str
    address: str
    gateway: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What the engine tells of a container (`docker inspect`). Times are Unix times, None when there was none.

    `state`: created, running, paused, restarting, removing, exited or dead. `health`: starting, healthy, unhealthy, or
    empty without a check. `pid`: on the engine's machine, None unless it runs. `exit_code`: of its last end, as long as
    it does not run again. `oom_killed`: since it was started last. `cpus`: how many it may use, `memory`: bytes; None
    without a limit. `environment`: the variables that are Ollama's; values of secret ones are left out.
    """

    id: str
    name: str
    image: str
    state: str = "running"
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None
    started: float | None = None
    finished: float | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    health: str = ""
    cpus: float | None = None
    memory: float | None = None
    network_mode: str = ""
    networks: tuple[Network, ...] = ()
    published: tuple[Published, ...] = ()

    @property
    def runs(self) -> bool:
        return self.state in ("running", "paused")

    @property
    def port(self) -> int:
        """Where an Ollama in it listens."""
        return listen_port(self.environment.get("OLLAMA_HOST", ""))

    @property
    def says_ollama(self) -> bool:
        """Ollama's own images set it. An exporter's container may have it as well, with the port of another's."""
        return "OLLAMA_HOST" in self.environment


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a container: start, die or oom. `at`: Unix time on the engine's clock."""

    at: float
    action: str
    exit_code: int | None = None


class Daemon:
    """The engine at `address` (unix:///path, tcp://host:port; empty: DOCKER_HOST, or the usual socket).

    Every method raises `Lacking` where the engine cannot be asked from here, `Failed` where it does not answer in time
    or nonsense, `LookupError` where there is no such container.
    """

    def __init__(
        self, address: str = "", environment: Mapping[str, str] = os.environ, proc: Path = Path("/proc")
    ) -> None:
        self.address = address or environment.get("DOCKER_HOST") or DEFAULT_ADDRESS
        self._environment, self._proc = environment, proc
        self._api: docker.APIClient | None = None
        self._date = ""

    def close(self) -> None:
        if self._api is not None:
            self._api.close()
            self._api = None

    def rows(self) -> tuple[Row, ...]:
        """All containers, also those that do not run."""
        with self._asked() as api:
            return tuple([_row(one) for one in _listed(api.containers(all=True))])

    def container(self, name: str) -> Container:
        """By its name or id."""
        with self._asked() as api:
            return parse_container(_mapped(api.inspect_container(name)))

    def stats(self, identity: str) -> Mapping[str, Any]:
        """What the kernel has counted for a running container, as the engine hands it on."""
        from docker.utils import version_lt

        with self._asked() as api:
            # Without one_shot the engine looks twice, a second apart. It is known from 20.10 on.
            one_shot = None if version_lt(api.api_version, "1.41") else True
            return _mapped(api.stats(identity, stream=False, one_shot=one_shot))

    def output(self, name: str, *, since: float = 0.0, lines: int | None = None) -> bytes:
        """What the engine keeps of a container's output, each line after its time; the last `lines` of it."""
        with self._asked() as api:
            return bytes(api.logs(name, timestamps=True, since=since or None, tail="all" if lines is None else lines))

    def follow(self, name: str, since: float) -> CancellableStream[bytes]:
        """The same from `since` (Unix time) on, and what is to come, until the container ends or the stream is closed.
        Its pieces may be taken in another thread, and may end in any exception."""
        with self._asked() as api:
            return api.logs(name, timestamps=True, since=since or None, stream=True, follow=True)

    def clock(self) -> int:
        """The engine's clock when it answered last: a Unix time in whole seconds, never ahead of it."""
        try:
            return int(parsedate_to_datetime(self._date).timestamp())
        except ValueError:  # a proxy that keeps the date for itself
            return int(time.time())

    def events(self, since: int, until: int, containers: Iterable[str]) -> tuple[Event, ...]:
        """What happened to these containers (ids) after `since`, up to and including `until`. The engine remembers its
        last 256 events, of all kinds and containers."""
        filters = {"type": ["container"], "container": sorted(set(containers)), "event": ["start", "die", "oom"]}
        with self._asked() as api:
            # Not by events() of the package: it has no deadline, and takes an answer that breaks off for a whole one.
            params: dict[str, str | int] = {"since": since, "until": until, "filters": json.dumps(filters)}
            answer = api.get(f"{api.base_url}/v{api.api_version}/events", params=params, timeout=_TIMEOUT)
            answer.raise_for_status()
            told = [_event(_mapped(json.loads(line))) for line in answer.text.splitlines()]
        return tuple([event for event in told if event is not None and since < event.at <= until])

    def server(self, url: str, name: str = "") -> Container:
        """The container in which the server runs that answers at `url`; `name` is its name, where it is known."""
        if name:
            try:
                return self.container(name)
            except LookupError:
                raise Lacking(f"this Docker engine has no container {name}", "mend servers[].container") from None
        rows = self.rows()
        target = self.target(url, self.here(rows))
        nearer = [self.nearer(row) for row in rows if row.may_answer(target)]
        found = [one for one in nearer if one is not None and answers(one, target)]
        found = [one for one in found if one.says_ollama] or found
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(sorted(one.name for one in found))
            raise Lacking(f"several containers answer there: {names}", "name the server's in servers[].container")
        raise Lacking("no container of this Docker engine is known to be the server's", _REMEDY_CONTAINER)

    def nearer(self, row: Row) -> Container | None:
        """The container; one that lives in another's network has the other's addresses and ports. None: it has gone
        since it was listed."""
        try:
            found = self.container(row.id)
            kind, _, other = found.network_mode.partition(":")
            if kind == "container" and other:
                host = self.container(other)
                found = replace(found, networks=host.networks, published=host.published)
        except LookupError:
            return None
        return found

    def own(self) -> Container | None:
        """The container in whose network we live ourselves, if it is one of this engine's; it may be the machine's."""
        try:
            mounts = (self._proc / "self/mountinfo").read_text("utf-8", "replace")
        except OSError:
            return None
        match = _OWN.search(mounts)
        if match is None:
            return None
        try:
            return self.container(match[1])
        except LookupError:
            return None

    def here(self, rows: Iterable[Row]) -> Here:
        """Where we stand to the engine's machine."""
        own = self.own()
        gateways = {network.gateway for row in rows for network in row.networks if network.gateway}
        if self.address.startswith("unix:"):
            remote = frozenset[str]()
        else:
            remote = resolved(urlsplit(self.address).hostname or "")
        shared = (own is None or own.network_mode == "host") and (not remote or any(map(is_own, remote)))
        apart = own if own is not None and own.network_mode != "host" else None
        return Here(apart, shared, frozenset(gateways) | remote)

    def target(self, url: str, here: Here) -> Target:
        """Raises `Lacking` when the name does not resolve here."""
        parts = urlsplit(url)
        ips = resolved(parts.hostname or "")
        if not ips:
            raise Lacking("the name of the server does not resolve here", _REMEDY_CONTAINER)
        beside = here.container.id if here.container and any(map(is_own, ips)) else ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return Target(ips, port, any(map(here.is_machine, ips)), beside)

    @contextmanager
    def _asked(self) -> Iterator[docker.APIClient]:
        if self.address.startswith("unix://"):
            _check_socket(self.address.removeprefix("unix://"))
        try:
            import requests.exceptions
            from docker import errors
        except ImportError:
            raise Lacking("the package docker is not installed", "pip install 'ollama-exporter[docker]'") from None
        try:
            if self._api is None:
                self._api = self._connected()
            yield self._api
        except errors.NotFound as error:
            raise LookupError(str(error.explanation)) from error
        except errors.APIError as error:
            self.close()  # it may be another engine by then
            if error.status_code in (401, 403):
                raise Lacking("the socket proxy keeps containers from us", _REMEDY_PROXY) from error
            raise Failed("unavailable") from error
        except requests.exceptions.JSONDecodeError as error:
            raise Failed("malformed") from error
        except (errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            self.close()
            raise _away(error) from error
        except ValueError as error:
            raise Failed("malformed") from error

    def _connected(self) -> docker.APIClient:
        import docker
        from docker.utils import kwargs_from_env

        daemon = self

        class Api(docker.APIClient):
            def prepare_request(self, request: Any) -> Any:
                self.trust_env = False  # neither HTTP_PROXY nor ~/.netrc is for the engine
                return super().prepare_request(request)

            def send(self, request: Any, **settings: Any) -> Any:
                response = super().send(request, **settings)
                daemon._date = response.headers.get("Date", "")
                return response

        settings = kwargs_from_env({**self._environment, "DOCKER_HOST": self.address})
        return Api(version="auto", timeout=_TIMEOUT, **settings)


@dataclass(frozen=True, slots=True)
class Here:
    """Where we stand to the engine's machine. `container`: the one whose network we share, None outside of any;
    `shared`: our addresses are the machine's; `addresses`: others of the machine's, as we see it."""

    container: Container | None
    shared: bool
    addresses: frozenset[str]

    def is_machine(self, ip: str) -> bool:
        return is_own(ip) if self.shared else ip in self.addresses and not is_own(ip)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server answers: the addresses of its name, its port, whether they are the engine's machine's, and the
    container whose own they are because we live in its network."""

    ips: frozenset[str]
    port: int
    on_host: bool
    beside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A container as the list of them shows it."""

    id: str
    name: str
    image: str
    state: str
    labels: Mapping[str, str]
    network_mode: str
    networks: tuple[Network, ...]
    published: tuple[Published, ...]

    @property
    def runs(self) -> bool:
        return self.state in ("running", "paused")

    def may_answer(self, target: Target) -> bool:
        """Whether it is worth a closer look."""
        if not self.runs:
            return False
        joined = self.network_mode == "host" or self.network_mode.startswith("container:") or self.id == target.beside
        published = any(port.host_port == target.port for port in self.published)
        return joined or published or any(network.address in target.ips for network in self.networks)


def answers(container: Container, target: Target) -> bool:
    """Whether an Ollama in this container is what answers there."""
    if target.beside:
        shares = target.beside == container.id or container.network_mode == f"container:{target.beside}"
        return shares and container.says_ollama and container.port == target.port
    if container.network_mode == "host":
        return target.on_host and container.says_ollama and container.port == target.port
    if any(network.address in target.ips for network in container.networks):
        return container.port == target.port
    wanted = (target.port, container.port)
    ports = [port for port in container.published if (port.host_port, port.port) == wanted]
    return target.on_host and any(not port.host_ip or port.host_ip in target.ips for port in ports)


# --- addresses -------------------------------------------------------------------------------------------------------

_OWN = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")


def resolved(host: str) -> frozenset[str]:
    """The IP addresses of a name; none when it has none."""
    try:
        return frozenset(str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except OSError:
        return frozenset()


def is_own(ip: str) -> bool:
    """Whether this is an address of the machine (or of the network namespace) that we run in."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))  # no packet is sent
    except OSError:
        return False
    return True


def listen_port(ollama_host: str) -> int:
    """The port in OLLAMA_HOST, as Ollama reads it."""
    written = ollama_host.strip().strip("\"'").strip()
    scheme, mark, rest = written.partition("://")
    default = {"http": 80, "https": 443}.get(scheme, OLLAMA_PORT) if mark else OLLAMA_PORT
    match = re.fullmatch(r"(?:\[[^\]]*\]|[^:]*):([0-9]{1,5})", (rest if mark else written).partition("/")[0])
    return int(match[1]) if match and int(match[1]) <= 65535 else default


# --- what went wrong -------------------------------------------------------------------------------------------------


def _check_socket(path: str) -> None:
    """Told before the package is imported, which costs as much memory as the rest of a look."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_TIMEOUT)
        try:
            probe.connect(path)
        except FileNotFoundError:
            raise Lacking("there is no Docker socket here", _REMEDY_SOCKET) from None
        except PermissionError:
            raise Lacking("the Docker socket may not be opened", _REMEDY_SOCKET) from None
        except ConnectionRefusedError:
            raise Lacking("the Docker engine does not answer", _REMEDY_AWAY) from None
        except TimeoutError:
            raise Failed("timeout") from None
        except OSError:  # its path is no socket's, or too long for one
            raise Failed("unavailable") from None


def _away(error: BaseException) -> Exception:
    """The package wraps errors in errors."""
    import requests.exceptions

    causes = list(_causes(error))
    if any(isinstance(cause, requests.exceptions.Timeout | TimeoutError) for cause in causes):
        return Failed("timeout")
    denied = [cause for cause in causes if isinstance(cause, requests.exceptions.HTTPError)]
    if any(cause.response is not None and cause.response.status_code in (401, 403) for cause in denied):
        return Lacking("the socket proxy keeps everything from us", _REMEDY_PROXY)
    if any(isinstance(cause, ConnectionRefusedError | socket.gaierror) for cause in causes):
        return Lacking("the Docker engine does not answer", _REMEDY_AWAY)
    return Failed("unavailable")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that it was raised from or holds."""
    while error is not None:
        yield error
        yield from _held(error)
        error = error.__cause__ or error.__context__


def _held(error: BaseException) -> Iterator[BaseException]:
    for held in (*error.args, getattr(error, "reason", None)):
        if isinstance(held, BaseException):
            yield held
            yield from _held(held)


# --- answers -> values -----------------------------------------------------------------------------------------------


def parse_container(told: Mapping[str, Any]) -> Container:
    """An answer of /containers/ID/json. Raises Failed("malformed") without the parts that every engine tells."""
    state, settings = _part(told, "State"), _part(told, "Config")
    host, network = _part(told, "HostConfig"), _part(told, "NetworkSettings")
    if not isinstance(told.get("Id"), str) or not isinstance(state.get("Status"), str):
        raise Failed("malformed")
    word: str = state["Status"]
    ended = word not in ("created", "running", "paused")
    return Container(
        id=told["Id"],
        name=_text(told.get("Name")).lstrip("/"),
        image=_text(settings.get("Image")),
        state=word,
        labels=_texts(_part(settings, "Labels")),
        environment=_ollamas(settings.get("Env")),
        pid=whole(state.get("Pid")) or None,
        started=_time(state.get("StartedAt")),
        finished=_time(state.get("FinishedAt")),
        exit_code=whole(state.get("ExitCode")) if ended else None,
        oom_killed=state.get("OOMKilled") is True,
        health=_health(_text(_part(state, "Health").get("Status"))),
        cpus=_cpus(host),
        memory=whole(host.get("Memory")) or None,
        network_mode=_text(host.get("NetworkMode")),
        networks=_networks(network),
        published=_bindings(network.get("Ports")),
    )


def _row(told: Mapping[str, Any]) -> Row:
    names, ports = told.get("Names"), told.get("Ports")
    if not isinstance(told.get("Id"), str):
        raise Failed("malformed")
    return Row(
        id=told["Id"],
        name=_text(names[0]).lstrip("/") if isinstance(names, list) and names else "",
        image=_text(told.get("Image")),
        state=_text(told.get("State")),
        labels=_texts(_part(told, "Labels")),
        network_mode=_text(_part(told, "HostConfig").get("NetworkMode")),
        networks=_networks(_part(told, "NetworkSettings")),
        published=_ports(ports if isinstance(ports, list) else []),
    )


def _event(told: Mapping[str, Any]) -> Event | None:
    nanoseconds, action = whole(told.get("timeNano")), _text(told.get("Action") or told.get("status"))
    if nanoseconds is None or not action:
        return None
    code = _text(_part(_part(told, "Actor"), "Attributes").get("exitCode"))
    return Event(nanoseconds / 1e9, action, int(code) if re.fullmatch(r"[0-9]{1,3}", code) else None)


def _networks(told: Mapping[str, Any]) -> tuple[Network, ...]:
    return tuple(
        Network(name, _text(one.get("IPAddress")), _text(one.get("Gateway")))
        for name, one in sorted(_part(told, "Networks").items())
        if isinstance(one, Mapping)
    )


def _ports(told: Iterable[object]) -> tuple[Published, ...]:
    found = []
    for one in told:
        if isinstance(one, Mapping) and one.get("Type") == "tcp":
            outside, inside = whole(one.get("PublicPort")), whole(one.get("PrivatePort"))
            if outside and inside:
                found.append(Published(_concrete(_text(one.get("IP"))), outside, inside))
    return tuple(found)


def _bindings(told: object) -> tuple[Published, ...]:
    found = []
    for written, bindings in told.items() if isinstance(told, Mapping) else ():
        match = re.fullmatch(r"([0-9]{1,5})/tcp", str(written))
        for one in (bindings or ()) if match else ():
            outside = _text(one.get("HostPort")) if isinstance(one, Mapping) else ""
            if match and re.fullmatch(r"[0-9]{1,5}", outside):
                found.append(Published(_concrete(_text(one.get("HostIp"))), int(outside), int(match[1])))
    return tuple(found)


def _concrete(ip: str) -> str:
    return "" if ip in ("0.0.0.0", "::") else ip


_REGISTRY = re.compile(r"^(?:[^/]*[.:@][^/]*|localhost)/(?=.)")


def shown_image(image: str) -> str:
    """The image without its registry, whose name is nobody's business, and without a digest: `ollama/ollama:0.33.0`."""
    name = _REGISTRY.sub("", re.sub(r"@sha256:[0-9a-f]+$", "", image))
    return name[:19] if re.fullmatch(r"sha256:[0-9a-f]{64}", name) else name


_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL")


def _ollamas(told: object) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in told if isinstance(told, list) else ():
        name, _, value = _text(line).partition("=")
        if name.startswith(("OLLAMA_", "LLAMA_")):
            found[name] = "" if _SECRET.search(name) else value
    return found


def _cpus(host: Mapping[str, Any]) -> float | None:
    """The smallest of a quota and a set of CPUs."""
    limits: list[float] = []
    if nano := whole(host.get("NanoCpus")):
        limits.append(nano / 1e9)
    if quota := whole(host.get("CpuQuota")):
        limits.append(quota / (whole(host.get("CpuPeriod")) or 100_000))
    chosen = _text(host.get("CpusetCpus"))
    if re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*", chosen):
        limits.append(len(_cpu_set(chosen)))
    return min((limit for limit in limits if limit > 0), default=None)


def _cpu_set(written: str) -> set[int]:
    ranges = [part.partition("-") for part in written.split(",")]
    return {cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1)}


def _health(word: str) -> str:
    return word if word in ("starting", "healthy", "unhealthy") else ""


def _time(told: object) -> float | None:
    """`0001-01-01T00:00:00Z` is never."""
    try:
        at = datetime.fromisoformat(_text(told)).timestamp()
    except (ValueError, OverflowError):
        return None
    return at if at > 0 else None


def whole(told: object) -> int | None:
    """A whole number that is not negative; anything else is none."""
    return told if isinstance(told, int) and not isinstance(told, bool) and told >= 0 else None


def _text(told: object) -> str:
    return told if isinstance(told, str) else ""


def _texts(told: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in told.items() if isinstance(value, str)}


def _part(told: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = told.get(key)
    return part if isinstance(part, Mapping) else {}


def _mapped(told: object) -> Mapping[str, Any]:
    if not isinstance(told, Mapping):
        raise Failed("malformed")
    return told


def _listed(told: object) -> list[Mapping[str, Any]]:
    if not isinstance(told, list):
        raise Failed("malformed")
    return [_mapped(one) for one in told]
