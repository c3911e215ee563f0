"""The lives of a server's runners, by the kernel's process connector: each start and each end, with its time and the
exit status, however short the life was. Wants root, in the machine's own PID and network namespaces."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_CN_IDX_PROC, _CN_VAL_PROC = 1, 1
_NETLINK_CONNECTOR = 11
_SO_RCVBUFFORCE = 33
_FORK, _EXEC, _EXIT = 0x1, 0x2, 0x80000000
_HEAD = 36
"""Bytes of a message before the event: netlink's head and the connector's."""


@dataclass(slots=True)
class Runner:
    """`status`: as wait() tells it. `killed`: the signal that the benchmark sent it. `began` is None for one that was
    there before."""

    pid: int
    blob: str
    port: int
    began: float | None
    ended: float | None = None
    status: int = 0
    killed: int = 0
    killed_at: float | None = None

    def lives(self) -> bool:
        return self.ended is None


@dataclass(frozen=True, slots=True)
class Event:
    what: int
    at: float
    fields: tuple[int, ...] = field(default=())


def event(message: bytes) -> Event | None:
    """Of a process's fork, exec or exit; None of anything else, a thread's included."""
    what, _, at = struct.unpack_from("=IIQ", message, _HEAD)
    body = _HEAD + 16
    if what == _FORK:
        _, parent, child, child_group = struct.unpack_from("=IIII", message, body)
        return Event(what, at / 1e9, (parent, child)) if child == child_group else None
    if what == _EXEC:
        pid, group = struct.unpack_from("=II", message, body)
        return Event(what, at / 1e9, (pid,)) if pid == group else None
    if what == _EXIT:
        pid, group, status = struct.unpack_from("=III", message, body)
        return Event(what, at / 1e9, (pid, status)) if pid == group else None
    return None


def command(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8", errors="replace").split("\0")[:-1]
    return []


def after(arguments: Sequence[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1] if flag in arguments[:-1] else ""


class Runners:
    """`lost`: events that the kernel dropped, or children that ended before their command line could be read; above 0
    nothing that is counted here is the truth."""

    def __init__(self, serve: int) -> None:
        self._serve = serve
        self._children: dict[int, float] = {}
        self._lock = threading.Lock()
        self.all: list[Runner] = []
        self.lost = 0
        self._socket = self._listen()
        self._over = False
        for child in psutil.Process(serve).children():
            self._take(child.pid, None)
        self._thread = threading.Thread(target=self._follow, name="process events", daemon=True)
        self._thread.start()

    def alive(self) -> list[Runner]:
        with self._lock:
            return [runner for runner in self.all if runner.lives()]

    def kill(self, runner: Runner, number: signal.Signals) -> None:
        runner.killed, runner.killed_at = number, time.monotonic()
        os.kill(runner.pid, number)

    def close(self) -> None:
        self._over = True
        self._thread.join(2.0)
        self._socket.close()

    @staticmethod
    def _listen() -> socket.socket:
        connector = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
        connector.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        connector.bind((0, _CN_IDX_PROC))
        ask = struct.pack("=IIIIHHI", _CN_IDX_PROC, _CN_VAL_PROC, 1, 0, 4, 0, 1)
        connector.send(struct.pack("=IHHII", 16 + len(ask), 3, 0, 0, 0) + ask)
        connector.settimeout(0.5)
        return connector

    def _follow(self) -> None:
        while not self._over:
            try:
                message = self._socket.recv(4096)
            except TimeoutError:
                continue
            except OSError:  # ENOBUFS: the kernel had more to tell than we read
                self.lost += 1
                continue
            if (seen := event(message)) is not None:
                self._see(seen)

    def _see(self, seen: Event) -> None:
        pid = seen.fields[0]
        if seen.what == _FORK and pid == self._serve:
            self._children[seen.fields[1]] = seen.at
        elif seen.what == _EXEC and pid in self._children:
            self._take(pid, seen.at)
        elif seen.what == _EXIT:
            self._children.pop(pid, None)
            for runner in self.alive():
                if runner.pid == pid:
                    runner.status, runner.ended = seen.fields[1], seen.at

    def _take(self, pid: int, began: float | None) -> None:
        arguments = command(pid)
        if not arguments and began is not None:
            self.lost += 1
        if model := after(arguments, "--model"):
            port = after(arguments, "--port")
            with self._lock:
                self.all.append(Runner(pid, Path(model).name, int(port or 0), began))
