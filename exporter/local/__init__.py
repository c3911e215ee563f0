"""What is on this machine beside the exporter: where a server listens, its processes, connections and models' files.

Everything is read from the kernel; nothing is asked of Ollama and nothing is executed. `Local` is what sources ask;
`machine.Machine` is the real one, simulations give their own.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens on this machine.

    `addresses`: its listening sockets as (IP address, port), the wildcard as `0.0.0.0` or `::`. `namespace`: path of
    its network namespace (`/proc/PID/ns/net`), None when it is ours. `pid`, `started` (Unix time): the process of
    `ollama serve`; None when its owner cannot be seen or is not Ollama. `cgroup`: the process's, as the kernel
    tells it.
    """

    addresses: tuple[tuple[str, int], ...]
    namespace: str | None = None
    pid: int | None = None
    started: float | None = None
    cgroup: str = ""


@dataclass(frozen=True, slots=True)
class RunnerProcess:
    """A child of `ollama serve` that holds a model. `pid` is None when only its port is seen (a shared network
    namespace without a shared process table); then the rest is what the port told.

    Seen by its port alone it may be another's server: ask it what it is.
    `port`: of its HTTP server on 127.0.0.1 in the server's namespace. `arguments`: its command line. `started`: Unix
    time. `engine`: llama (llama-server of 0.30 and newer), old (before), mlx.
    """

    port: int | None
    pid: int | None = None
    arguments: tuple[str, ...] = ()
    started: float | None = None
    engine: str = "llama"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process uses: bytes of resident memory, and CPU time in seconds since its start."""

    resident: int
    cpu: float


@dataclass(frozen=True, slots=True)
class Connection:
    """An established connection to a server's port, as the kernel sees the server's end. Ages in seconds.

    `cookie` tells one connection from another over time. `received`, `sent`: bytes so far; `last_received`,
    `last_sent`: how long ago, to the kernel's tick (1 to 10 ms); a connection that never sent counts `last_sent` from
    its accept. `last_acknowledged`: how long ago the client last acknowledged something; `acknowledged`: how often the
    server did that with nothing to say beside; `segments_received`, `segments_sent`: those with data. `own`: the other
    end is the exporter itself, as far as that can be told (not through docker-proxy).
    """

    cookie: int
    peer: tuple[str, int]
    received: int
    sent: int
    last_received: float
    last_sent: float
    last_acknowledged: float
    acknowledged: int
    segments_received: int
    segments_sent: int
    own: bool = False


@dataclass(frozen=True, slots=True)
class Connections:
    """All established connections of a server's port, and its accept queue: connections that the server has not taken
    yet, and how many may wait so."""

    established: tuple[Connection, ...]
    accept_queue: int
    accept_queue_max: int


class Births(Protocol):
    """The children of a server, looked at several times a second. `close` it."""

    def look(self, again: bool = False) -> frozenset[int] | None:
        """Pids of all; None when nothing can have changed, unless one wants to look `again`. Takes microseconds, so
        that no thread is needed. LookupError when the server has ended."""

    def runners(self, pids: Iterable[int]) -> tuple[RunnerProcess, ...]:
        """Those of them that are runners, as far as they show it by now. Belongs in a thread."""

    def close(self) -> None:
        """Let go of what is open."""


class Handle(Protocol):
    """A process. Its descriptor can be read when it has ended. `close` it."""

    def fileno(self) -> int:
        """To wait on."""

    def status(self) -> int | None:
        """How it ended, as wait() tells; None where that cannot be known, or not yet."""

    def close(self) -> None:
        """Let go of it."""


class Local(Protocol):
    """Each call may take milliseconds and belongs in a thread. Raises `model.Lacking` with what is missing and the one
    line that would enable it, where it can never be told from here; `LookupError` where it has gone meanwhile."""

    def place(self, url: str) -> Place:
        """Where the server that answers at `url` listens. Lacking: it is on another machine, or out of our sight."""

    def connections(self, place: Place) -> Connections:
        """The server's end of every established connection to it."""

    def runners(self, place: Place) -> tuple[RunnerProcess, ...]:
        """The server's runners, models only: a llama-server without a model looks for GPUs and is none."""

    def births(self, place: Place) -> Births | None:
        """What tells of new runners of this server, without a thread. None where nothing does; then look at them all
        from time to time."""

    def handle(self, process: RunnerProcess) -> Handle | None:
        """What tells of the end of this very process, without a thread. None where nothing does, LookupError when it
        has ended."""

    def usage(self, process: RunnerProcess) -> Usage | None:
        """What a runner uses now. None where it has no pid, has gone, or does not show it."""

    def oom_kills(self) -> int | None:
        """Processes that the kernel has killed on this machine because memory ran out, since it was started; None
        where it does not tell. Takes no thread: 0.1 ms."""

    def killer(self, process: RunnerProcess) -> int | None:
        """Who has ended it by SIGKILL: a process, or 0 for the kernel itself. None where nobody did, or it cannot be
        told from here. Takes no thread."""

    def environment(self, place: Place) -> Mapping[str, str]:
        """The environment of `ollama serve`: names that begin with OLLAMA_ or LLAMA_, those of visible GPUs, the few
        that say where its models are; never another, and without the value of what sounds like a key, because secrets
        live there."""

    def names(self, place: Place, blob: str) -> tuple[str, ...]:
        """Names of the installed models whose weights are this blob (`sha256-<hex>`), canonical; empty when unknown."""

    def connect(self, place: Place, port: int, timeout: float) -> socket.socket:
        """A connection to 127.0.0.1:port in the server's network namespace. Raises OSError."""
