"""A Docker Engine that is none: an HTTP server on a socket of its own, with answers in the shape of a real engine's.

The shapes were taken from Docker 20.10 on cgroup v1 (`docker inspect`, /stats, /events); those of cgroup v2 follow the
Engine API's reference. The real `docker` package talks to it.
"""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

NEVER = "0001-01-01T00:00:00Z"


def written(at: float | None) -> str:
    """A Unix time as the engine writes it."""
    return NEVER if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "482Z"


@dataclass(slots=True)
class FakeContainer:
    """One container of the fake engine. Tests change it; what is asked afterwards tells of it."""

    name: str
    image: str = "ollama/ollama:0.33.0"
    id: str = ""
    status: str = "running"
    started: float | None = 1000.0
    finished: float | None = None
    exit_code: int = 0
    oom_killed: bool = False
    health: str = ""
    pid: int = 4242
    env: list[str] = field(default_factory=lambda: ["PATH=/usr/bin", "OLLAMA_HOST=0.0.0.0:11434"])
    labels: dict[str, str] = field(default_factory=dict)
    network_mode: str = "default"
    networks: dict[str, tuple[str, str]] = field(default_factory=lambda: {"bridge": ("172.17.0.2", "172.17.0.1")})
    ports: dict[int, tuple[str, int]] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id = self.id or (self.name.encode().hex() * 64)[:64]
        self.stats = self.stats or stats_v2()

    @property
    def live(self) -> bool:
        return self.status in ("running", "paused")

    def inspected(self) -> dict[str, Any]:
        state = {
            "Status": self.status,
            "Running": self.live,
            "Paused": self.status == "paused",
            "Restarting": self.status == "restarting",
            "OOMKilled": self.oom_killed,
            "Dead": self.status == "dead",
            "Pid": self.pid if self.live else 0,
            "ExitCode": 0 if self.live else self.exit_code,
            "Error": "",
            "StartedAt": written(self.started),
            "FinishedAt": written(self.finished),
        }
        if self.health:
            state["Health"] = {"Status": self.health, "FailingStreak": 0, "Log": []}
        limits = {"Memory": 0, "NanoCpus": 0, "CpuPeriod": 0, "CpuQuota": 0, "CpusetCpus": "", **self.limits}
        bindings = {
            f"{port}/tcp": [{"HostIp": ip, "HostPort": str(outside)} for ip in self.host_ips(ip)]
            for port, (ip, outside) in self.ports.items()
        }
        return {
            "Id": self.id,
            "Created": written(900.0),
            "Path": "/bin/ollama",
            "Args": ["serve"],
            "State": state,
            "Image": "sha256:" + "ab" * 32,
            "Name": f"/{self.name}",
            "RestartCount": 0,
            "HostConfig": {"NetworkMode": self.network_mode, "RestartPolicy": {"Name": "no"}, **limits},
            "Config": {"Env": self.env, "Image": self.image, "Labels": self.labels, "Cmd": ["serve"]},
            "NetworkSettings": {
                "Bridge": "",
                "Ports": {"80/tcp": None, **bindings} if self.live else {},
                "Networks": self.attached(),
            },
        }

    def listed(self) -> dict[str, Any]:
        ports = [
            {"IP": each, "PrivatePort": port, "PublicPort": outside, "Type": "tcp"}
            for port, (ip, outside) in self.ports.items()
            for each in self.host_ips(ip)
        ]
        return {
            "Id": self.id,
            "Names": [f"/{self.name}"],
            "Image": self.image,
            "ImageID": "sha256:" + "ab" * 32,
            "Command": "/bin/ollama serve",
            "Created": 900,
            "Ports": [{"PrivatePort": 11434, "Type": "tcp"}, *ports] if self.live else [],
            "Labels": self.labels,
            "State": self.status,
            "Status": "Up 3 seconds",
            "HostConfig": {"NetworkMode": self.network_mode},
            "NetworkSettings": {"Networks": self.attached()},
            "Mounts": [],
        }

    def attached(self) -> dict[str, Any]:
        return {
            name: {
                "NetworkID": "cd" * 32,
                "Gateway": gateway if self.live else "",
                "IPAddress": address if self.live else "",
                "IPPrefixLen": 16,
            }
            for name, (address, gateway) in self.networks.items()
        }

    @staticmethod
    def host_ips(ip: str) -> tuple[str, ...]:
        return (ip,) if ip else ("0.0.0.0", "::")


def stats_v1(cpu: int = 27_541_928, usage: int = 4_440_064, inactive: int = 1_000_000) -> dict[str, Any]:
    """What an engine on cgroup v1 tells; times in nanoseconds."""
    details = {
        "cache": 4096,
        "rss": 3_571_712,
        "inactive_file": 0,
        "total_inactive_file": inactive,
        "total_rss": 3_571_712,
    }
    return {
        **_frame(cpu),
        "memory_stats": {"usage": usage, "max_usage": usage, "stats": details, "limit": 104_857_600},
    }


def stats_v2(cpu: int = 27_541_928, usage: int = 4_440_064, inactive: int = 1_000_000) -> dict[str, Any]:
    """What an engine on cgroup v2 tells."""
    details = {"anon": 3_571_712, "file": 1_200_000, "inactive_file": inactive, "active_file": 200_000, "slab": 1}
    return {**_frame(cpu), "memory_stats": {"usage": usage, "stats": details, "limit": 33_000_000_000}}


def _frame(cpu: int) -> dict[str, Any]:
    device = {"rx_bytes": 1042, "rx_packets": 11, "rx_errors": 0, "tx_bytes": 77, "tx_packets": 1, "tx_errors": 0}
    throttling = {"periods": 10, "throttled_periods": 2, "throttled_time": 57_867_146}
    return {
        "read": "2026-11-23T23:38:45.715354694Z",
        "preread": NEVER,
        "pids_stats": {"current": 1},
        "cpu_stats": {
            "cpu_usage": {"total_usage": cpu, "usage_in_kernelmode": 0, "usage_in_usermode": 20_000_000},
            "system_cpu_usage": 30_259_090_000_000,
            "online_cpus": 2,
            "throttling_data": throttling,
        },
        "networks": {"eth0": device, "eth1": {**device, "rx_bytes": 8}},
    }


class FakeEngine:
    """What the engine knows, and how it behaves. `clock`: its Unix time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = f"unix://{path}"
        self.clock = 2000.0
        self.version = "1.41"
        self.containers: list[FakeContainer] = []
        self.events: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.forbidden = ""
        self.garbage: dict[str, bytes] = {}
        self.silent: threading.Event | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def add(self, name: str, **settings: Any) -> FakeContainer:
        container = FakeContainer(name, **settings)
        self.containers.append(container)
        return container

    def happens(self, container: FakeContainer, action: str, at: float, **attributes: str) -> None:
        self.events.append(
            {
                "status": action,
                "id": container.id,
                "from": container.image,
                "Type": "container",
                "Action": action,
                "Actor": {
                    "ID": container.id,
                    "Attributes": {"image": container.image, "name": container.name, **attributes},
                },
                "scope": "local",
                "time": int(at),
                "timeNano": round(at * 1e9),
            }
        )

    def start(self) -> None:
        self._server = _Server(str(self.path), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="engine")
        self._thread.start()

    def stop(self, *, keep_socket: bool = False) -> None:
        """`keep_socket`: what a socket of systemd, or a crash, leaves behind."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.end_connections()
        self._server.server_close()
        self._thread.join()
        self._server = None
        if not keep_socket:
            self.path.unlink()

    def answer(self, target: str) -> tuple[int, bytes]:
        """Status and body of an answer."""
        path = re.sub(r"^/v[0-9.]+", "", urlsplit(target).path)
        query = {key: values[0] for key, values in parse_qs(urlsplit(target).query).items()}
        self.asked.append(path)
        if self.silent is not None and path != "/version":
            self.silent.wait(30)
        if self.forbidden and re.fullmatch(self.forbidden, path):
            return 403, b"Forbidden"
        if path in self.garbage:
            return 200, self.garbage[path]
        status, body = self._told(path, query)
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()

    def _told(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path == "/version":
            return 200, {"Version": "20.10.24", "ApiVersion": self.version, "MinAPIVersion": "1.12", "Os": "linux"}
        if path == "/containers/json":
            return 200, [one.listed() for one in self.containers if one.live or query.get("all") == "1"]
        if path == "/events":
            return 200, b"\n".join(json.dumps(event).encode() for event in self._happened(query))
        match = re.fullmatch(r"/containers/([^/]+)/(json|stats)", path)
        found = [one for one in self.containers if match and match[1] in (one.id, one.name)]
        if not match or not found:
            return 404, {"message": f"No such container: {path}"}
        if match[2] == "json":
            return 200, found[0].inspected()
        assert query["stream"].lower() in ("false", "0")
        assert ("one-shot" in query) == (self.version >= "1.41")
        return 200, {**found[0].stats, "id": found[0].id, "name": f"/{found[0].name}"}

    def _happened(self, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        since, until, filters = int(query["since"]), int(query["until"]), json.loads(query["filters"])
        assert until <= self.clock, "a real engine waits until then"
        assert since <= until, "a real engine answers 400"
        for event in self.events[-256:]:
            mine = event["id"] in filters["container"] and event["Action"] in filters["event"]
            if mine and since * 10**9 <= event["timeNano"] <= until * 10**9:
                yield event


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, engine: FakeEngine) -> None:
        self.engine = engine
        self.connections: set[Any] = set()
        super().__init__(path, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def end_connections(self) -> None:
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(2)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are none of ours; an assertion of the engine's is answered with 500 below."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        try:
            status, body = self.server.engine.answer(self.path)
        except AssertionError as error:
            status, body = 500, json.dumps({"message": str(error)}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        chunked = "/events" in self.path and status == 200
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body)))))
        self.end_headers()
        if chunked:
            body = b"".join(b"%x\r\n%s\n\r\n" % (len(line) + 1, line) for line in body.splitlines()) + b"0\r\n\r\n"
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(int(self.server.engine.clock), usegmt=True)

    def address_string(self) -> str:
        return "client"

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def fake_engine(folder: Path) -> Iterator[FakeEngine]:
    """`folder` must have a short name: the path of a socket has an end."""
    engine = FakeEngine(folder / "d.sock")
    engine.start()
    try:
        yield engine
    finally:
        if engine.silent is not None:
            engine.silent.set()
        engine.stop()
