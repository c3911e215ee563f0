"""The real machine."""

from __future__ import annotations

import errno
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

from exporter.local import (
    Births,
    Connection,
    Connections,
    Handle,
    Place,
    RunnerProcess,
    Usage,
    children,
    processes,
    sockets,
)
from exporter.local.blobs import Blobs, Store
from exporter.local.kills import Kills, kills
from exporter.local.processes import Table
from exporter.local.sockets import Established, Listener
from exporter.local.whereis import Finder
from exporter.model import Lacking

_T = TypeVar("_T")

_REMEMBERED = 10.0
"""Seconds. Five sources ask for the same place, every few seconds."""
_FOREIGN = "add CAP_SYS_ADMIN and CAP_SYS_PTRACE to the exporter"
_HIDDEN = "run the exporter as the user of Ollama or as root, or add CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
_OWN_PROCESSES = "run the exporter with pid: host, in a pod with shareProcessNamespace: true"
_PORTS_BY_LOT = 32768
_NO_DIAG = "load the kernel module tcp_diag"
_TOLD = re.compile(r"(OLLAMA|LLAMA)_[A-Z0-9_]+|HOME|USERPROFILE|\w+_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|AUTH|CREDENTIAL")


class Machine:
    """What the kernel tells of this machine. See `Local`."""

    def __init__(
        self,
        proc: Path = Path("/proc"),
        table: Table | None = None,
        finder: Finder | None = None,
        clock: Callable[[], float] = time.monotonic,
        kills: Callable[[], Kills | None] = kills,
    ) -> None:
        self._proc, self._clock = proc, clock
        self._table = table or Table()
        self._finder = finder or Finder(self._table, proc)
        self._blobs = Blobs(clock)
        self._kills = kills
        self._lock = threading.Lock()
        self._places: dict[str, tuple[float, Place]] = {}

    def place(self, url: str) -> Place:
        with self._lock:
            until, place = self._places.get(url, (0.0, None))
        if place is not None and self._clock() < until and _still_there(place):
            return place
        with _kernel():
            place = self._finder.find(url)
        with self._lock:
            self._places[url] = (self._clock() + _REMEMBERED, place)
        return place

    def connections(self, place: Place) -> Connections:
        listening, servers, clients = self._inside(place, partial(_look, place))
        if not listening:
            self._forget(place)
            raise LookupError("nobody listens there any more")
        if place.namespace is not None:
            with _kernel():
                clients = (*clients, *_ends(place, clients=True))
        own = processes.own_sockets() if clients else frozenset()
        ours = frozenset(end.local for end in clients if end.inode in own)
        return Connections(
            tuple(_connection(end, ours) for end in servers),
            sum(listener.queue for listener in listening),
            sum(listener.queue_max for listener in listening),
        )

    def runners(self, place: Place) -> tuple[RunnerProcess, ...]:
        if place.pid is None:
            return self._by_ports(place)
        self._check(place)
        self._kills()  # what is killed before somebody looks is not told
        found = self._table.ollama()
        return tuple(processes.runner(one) for one in found if one.role == "runner" and one.parent == place.pid)

    def births(self, place: Place) -> Births | None:
        return None if place.pid is None else children.children(place.pid, self._proc)

    def handle(self, process: RunnerProcess) -> Handle | None:
        return None if process.pid is None else children.handle(process.pid, process.started)

    def usage(self, process: RunnerProcess) -> Usage | None:
        return None if process.pid is None else processes.usage(process.pid, process.started)

    def oom_kills(self) -> int | None:
        with suppress(OSError, ValueError, IndexError):  # no such file, or no such line: before Linux 4.13
            return int((self._proc / "vmstat").read_text("ascii").split("\noom_kill ", 1)[1].split("\n", 1)[0])
        return None

    def killer(self, process: RunnerProcess) -> int | None:
        kills = self._kills() if process.pid is not None and process.started is not None else None
        kill = kills.of(cast(int, process.pid), cast(float, process.started)) if kills else None
        return None if kill is None else kill.by or 0

    def environment(self, place: Place) -> Mapping[str, str]:
        if place.pid is None:
            raise Lacking("the process of `ollama serve` is out of sight", _OWN_PROCESSES)
        self._check(place)
        try:
            text = (self._proc / str(place.pid) / "environ").read_bytes().decode("utf-8", "replace")
        except PermissionError:
            raise Lacking("the environment of `ollama serve` is hidden", _HIDDEN) from None
        except OSError:
            raise LookupError("`ollama serve` has ended") from None
        pairs = (line.partition("=") for line in text.split("\0"))
        told = ((name, value) for name, _, value in pairs if _TOLD.fullmatch(name))
        return {name: "" if _SECRET.search(name) else value for name, value in told}

    def names(self, place: Place, blob: str) -> tuple[str, ...]:
        for store in self._stores(place, blob):
            names = self._blobs.names(store, blob)
            if names:
                return names
        return ()

    def connect(self, place: Place, port: int, timeout: float) -> socket.socket:
        return self._inside(place, partial(socket.create_connection, ("127.0.0.1", port), timeout))

    def _inside(self, place: Place, act: Callable[[], _T]) -> _T:
        """In the place's network."""
        if place.namespace is None:
            with _kernel():
                return act()
        self._check(place)
        try:
            return sockets.inside(place.namespace, act)
        except FileNotFoundError:
            raise LookupError("`ollama serve` has ended") from None
        except PermissionError:
            raise Lacking("the network of the server's container may not be entered", _FOREIGN) from None

    def _check(self, place: Place) -> None:
        """Its pid may be another process's by now."""
        if not _still_there(place):
            self._forget(place)
            raise LookupError("`ollama serve` has ended")

    def _forget(self, place: Place) -> None:
        with self._lock:
            self._places = {url: known for url, known in self._places.items() if known[1] != place}

    def _by_ports(self, place: Place) -> tuple[RunnerProcess, ...]:
        """What may be runners where processes cannot be seen: servers of the same user on 127.0.0.1, on ports that are
        drawn by lot. None where this very process is the server."""
        heard = self._inside(place, sockets.listeners)
        servers = [listener for listener in heard if (listener.address, listener.port) in place.addresses]
        users, own = {listener.uid for listener in servers}, processes.own_sockets()
        if any(listener.inode in own for listener in servers):
            return ()
        return tuple(
            RunnerProcess(listener.port)
            for listener in heard
            if listener.address == "127.0.0.1"
            and listener.port >= _PORTS_BY_LOT
            and listener.uid in users
            and listener.inode not in own
            and (listener.address, listener.port) not in place.addresses
        )

    def _stores(self, place: Place, blob: str) -> Iterator[Store]:
        """Where the server's models may be, as seen from here: as a runner's command line names the blob, then as the
        environment says. The disk is not asked: it may hang."""
        if place.pid is None:
            return
        root = self._proc / str(place.pid) / "root"
        for path in dict.fromkeys(self._named(place, blob)):
            # The server's own tree may be closed to us; the same path in ours is the same store if the blob is there.
            yield root / path.relative_to(path.anchor), path

    def _named(self, place: Place, blob: str) -> Iterator[Path]:
        for runner in self.runners(place):
            weights = Path(processes.argument(runner.arguments, "--model") or "")
            if weights.is_absolute() and weights.name == blob and weights.parent.name == "blobs":
                yield weights.parent.parent
        try:
            environment = self.environment(place)
        except (Lacking, LookupError):
            return
        store = Path(environment.get("OLLAMA_MODELS", "").strip(" \t\"'") or "")
        if not store.is_absolute():
            store = Path(environment.get("HOME", "")) / ".ollama" / "models"
        if store.is_absolute():
            yield store


def _still_there(place: Place) -> bool:
    return place.pid is None or processes.started(place.pid) == place.started


def _look(place: Place) -> tuple[tuple[Listener, ...], tuple[Established, ...], tuple[Established, ...]]:
    """The place's listeners, the server's ends of connections that came in through them, and clients' ends of
    connections to that port."""
    ports = {port for _, port in place.addresses}
    heard = tuple(
        one for port in ports for one in sockets.listeners(port) if (one.address, one.port) in place.addresses
    )
    servers = tuple(end for end in _ends(place) if any(one.takes(end.local[0]) for one in heard))
    return heard, servers, _ends(place, clients=True)


def _ends(place: Place, clients: bool = False) -> tuple[Established, ...]:
    """None twice: the kernel's list is not made at one blow."""
    ports = {port for _, port in place.addresses}
    ends = [
        end
        for port in ports
        for end in (sockets.established(dport=port) if clients else sockets.established(sport=port))
    ]
    return tuple({end.cookie: end for end in ends}.values())


def _connection(end: Established, own: frozenset[tuple[str, int]]) -> Connection:
    return Connection(
        end.cookie,
        end.peer,
        end.received,
        end.sent,
        end.last_received,
        end.last_sent,
        end.last_acknowledged,
        end.acknowledged,
        end.segments_received,
        end.segments_sent,
        own=end.peer in own,
    )


@contextmanager
def _kernel() -> Iterator[None]:
    """Turns what the kernel cannot tell at all into a lack."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            raise Lacking("this system does not tell of its sockets", "run the exporter on Linux") from None
        if error.errno == errno.ENOENT:
            raise Lacking("the kernel does not tell of its sockets", _NO_DIAG) from None
        raise
