"""Processes of Ollama on this machine: which they are, what they are to Ollama, and what they tell of themselves."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from exporter.local import RunnerProcess, Usage

Role = Literal["serve", "runner"]

# What Ollama's own program is called; the second is how Nix wraps it.
_OLLAMA = frozenset({"ollama", ".ollama-wrapped"})
_CANDIDATES = _OLLAMA | {"llama-server", "ollama_llama_server"}


def find(processes: Iterable[psutil.Process]) -> dict[psutil.Process, Role] | None:
    """Ollama's processes among all, or None when a process that could be one does not show its arguments.

    Of most processes only the name is read, at each look anew: it costs no more than the start time that a
    remembered verdict would have to be checked with, and it tells when a start script became Ollama by exec.
    """
    candidates: list[tuple[psutil.Process, str]] = []
    for process in processes:
        try:
            name = _program(process.name())
            if name in _CANDIDATES:
                # process_iter() remembers processes by pid: this one may be another by now.
                candidates.append((process if process.is_running() else psutil.Process(process.pid), name))
        except psutil.Error:  # gone, or hidden from us
            continue
    ollamas = frozenset(process.pid for process, name in candidates if name in _OLLAMA)
    found: dict[psutil.Process, Role] = {}
    for process, name in candidates:
        try:
            role = judge(name, process.cmdline(), of_ollama=process.ppid() in ollamas)
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            return None
        if role is not None:
            found[process] = role
    return found


def judge(name: str, arguments: Sequence[str], *, of_ollama: bool) -> Role | None:
    """What a process of this program name is to Ollama. `of_ollama`: its parent is called ollama.

    A runner names its model; without one it only looks for GPUs (llama-server, `ollama runner` before it).
    People run llama.cpp's llama-server by itself too: Ollama's is a child of Ollama or, when that has died
    and left it behind, is known by the directory that Ollama starts it from.
    """
    command = next((word for word in arguments[1:] if not word.startswith("-")), "")
    if name in _OLLAMA and command in ("serve", "start"):
        return "serve"
    if "--model" not in arguments:
        return None
    if name == "ollama_llama_server" or (name in _OLLAMA and command == "runner"):
        return "runner"
    if name == "llama-server" and (of_ollama or Path(arguments[0]).parent.name == "ollama"):
        return "runner"
    return None


def _program(name: str) -> str:
    return name.lower().removesuffix(".exe")


@dataclass(frozen=True, slots=True)
class Process:
    """One process of Ollama. `started`: Unix time; with `pid` it tells a process from a later one."""

    pid: int
    role: Role
    parent: int
    started: float
    uid: int
    arguments: tuple[str, ...]


class Table:
    """The processes of Ollama, remembered for a moment: several sources ask for the same at about the same time. It is
    shorter than a load, so that a runner which is not known yet has no request yet, and shorter than the time between
    two polls, so that none of them asks a runner that had gone at the poll before."""

    def __init__(
        self,
        processes: Callable[[], Iterable[psutil.Process]] = psutil.process_iter,
        clock: Callable[[], float] = time.monotonic,
        keep: float = 0.5,
    ) -> None:
        self._list, self._clock, self._keep = processes, clock, keep
        self._lock = threading.Lock()
        self._seen: tuple[Process, ...] = ()
        self._until = float("-inf")

    def ollama(self) -> tuple[Process, ...]:
        """All, or none where the system hides arguments from us."""
        with self._lock:
            if self._clock() >= self._until:
                found = find(self._list()) or {}
                self._seen = tuple(_told(found))
                self._until = self._clock() + self._keep
            return self._seen

    def forget(self) -> None:
        """What is asked next is answered by a new look."""
        with self._lock:
            self._until = float("-inf")

    def serves(self) -> tuple[Process, ...]:
        return tuple(process for process in self.ollama() if process.role == "serve")


def _told(found: Mapping[psutil.Process, Role]) -> Iterator[Process]:
    for process, role in found.items():
        with contextlib.suppress(psutil.Error), process.oneshot():
            yield Process(
                process.pid,
                role,
                process.ppid(),
                process.create_time(),
                process.uids().effective,
                tuple(process.cmdline()),
            )


def children(pids: Iterable[int]) -> Iterator[Process]:
    """Those of these children of `ollama serve` that are something to it."""
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            role = judge(_program(process.name()), process.cmdline(), of_ollama=True)
            if role is not None:
                yield from _told({process: role})


def started(pid: int) -> float | None:
    """When this process began, Unix time; None when there is none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def name(pid: int) -> str:
    """What its program is called; empty when it has gone."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return ""


def is_ollama(pid: int) -> bool:
    """By its program's name."""
    return _program(name(pid)) in _OLLAMA


def named(program: str) -> Iterator[tuple[str, ...]]:
    """Command lines of all processes whose program is called so."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == program:
                yield tuple(process.cmdline())


def owner(inode: int, proc: Path, first: Iterable[int] = ()) -> int | None:
    """Pid of a process that holds this socket, or None: gone, or hidden from us. `first`: where to look first."""
    everyone = (int(entry) for entry in os.listdir(proc) if entry.isdecimal())
    return next((pid for pid in (*first, *everyone) if holds(proc / str(pid) / "fd", inode)), None)


def holds(folder: Path, inode: int) -> bool | None:
    """Whether a process holds this socket, by its folder of open files; None when that is hidden from us, or gone."""
    wanted = f"socket:[{inode}]"
    try:
        with os.scandir(folder) as entries:
            return any(_target(entry.path) == wanted for entry in entries)
    except OSError:
        return None


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def own_sockets() -> frozenset[int]:
    """Inodes of what this very process has open."""
    inodes = set()
    with contextlib.suppress(OSError):
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                inodes.add(os.fstat(int(number)).st_ino)
    return frozenset(inodes)


def usage(pid: int, started: float | None) -> Usage | None:
    """What the process of this pid and start uses. None: it has gone, or does not show it."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            seen = Usage(process.memory_info().rss, times.user + times.system)
            return seen if started in (None, process.create_time()) else None
    except psutil.Error:
        return None


def runner(process: Process) -> RunnerProcess:
    """A runner by its command line."""
    program = Path(process.arguments[0]).name.lower().removesuffix(".exe")
    port = argument(process.arguments, "--port")
    kind = "llama" if program == "llama-server" else "old"
    engine = "mlx" if "--mlx-engine" in process.arguments else kind
    return RunnerProcess(
        int(port) if port is not None and port.isdecimal() else None,
        process.pid,
        process.arguments,
        process.started,
        engine,
    )


def argument(arguments: Sequence[str], flag: str) -> str | None:
    """What follows `flag`, or stands behind its equals sign."""
    for word, value in zip(arguments, (*arguments[1:], None), strict=True):
        if word == flag:
            return value
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None
