"""Who sends SIGKILL to whom on this machine: the kernel's tracepoint signal:signal_generate, by perf_event_open(2).

Ollama ends its runners with SIGKILL, and so does who runs out of memory. Nothing tells the two apart afterwards. Wants
CAP_PERFMON (or root), and tracefs, which only root may read; where it is not to be had, nobody is told to have killed.
Nothing is switched on for others, and all of it ends with this process, however that ends.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import re
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CALL = {"x86_64": 298, "aarch64": 241}
"""Numbers of the system call, which the C library has no function for."""
_TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_POINT = Path("events/signal/signal_generate")
_INIT_PIDS = "pid:[4026531836]"
"""The machine's own process numbers, which the tracepoint tells. In a container's they would be somebody else's."""

# struct perf_event_attr in its fifth form: type, size, config, period, what a sample has, ..., flags, ..., clock, ...
_ATTR = struct.Struct("=IIQQQQQIIQQQQIiQIHH")
_TRACEPOINT = 2
_TID, _TIME, _RAW = 1 << 1, 1 << 2, 1 << 10
_USE_CLOCK = 1 << 25
_SET_FILTER = 0x40082406
_CLOEXEC = 1 << 3
_HEAD, _TAIL = 1024, 1032  # where in the first page: up to where the kernel has written, and we have read
_RECORD = struct.Struct("=IHH")
_SAMPLE = 9
_SAID = struct.Struct("=IIQI")  # sender's pid and thread, nanoseconds of CLOCK_MONOTONIC, size of the rest
_PAGES = 8
_BY_USER = 0
"""si_code of kill(2); the kernel's own, when memory has run out, is another."""
_REMEMBERED = 256
_SLACK = 1.0
"""Seconds by which two clocks may tell a process's start and its end apart."""


@dataclass(frozen=True, slots=True)
class Kill:
    """`by`: the pid of the process that asked for it; None where the kernel itself did. `at`: Unix time."""

    pid: int
    by: int | None
    at: float


@dataclass(frozen=True, slots=True)
class Form:
    """Where the tracepoint's fields are: the si_code and the process that is signalled."""

    number: int
    code: int
    pid: int


class Kills:
    """Those that took effect: Ollama kills what it finds dead as well. Raises OSError where they cannot be had. `close`
    it."""

    def __init__(self) -> None:
        form = _form()
        if platform.machine() not in _CALL or os.readlink("/proc/self/ns/pid") != _INIT_PIDS or form is None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        self._form = form
        self._rings: list[tuple[int, mmap.mmap]] = []
        self._seen: dict[int, Kill] = {}
        try:
            for cpu in _online():
                descriptor = _open(form, cpu)
                try:
                    fcntl.ioctl(descriptor, _SET_FILTER, b"sig==9 && result==0\0")
                    ring = mmap.mmap(descriptor, (1 + _PAGES) * mmap.PAGESIZE)
                except BaseException:
                    os.close(descriptor)
                    raise
                self._rings.append((descriptor, ring))
        except BaseException:
            self.close()
            raise

    def of(self, pid: int, since: float) -> Kill | None:
        """What ended the process that has had this pid `since` then, if a kill did."""
        behind = time.time() - time.monotonic()
        for _, ring in self._rings:
            for seen in _kills(_drained(ring), self._form, behind):
                self._seen.pop(seen.pid, None)
                self._seen[seen.pid] = seen
        while len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        kill = self._seen.get(pid)
        return kill if kill is not None and kill.at >= since - _SLACK else None

    def close(self) -> None:
        while self._rings:
            descriptor, ring = self._rings.pop()
            ring.close()
            os.close(descriptor)


@cache
def kills() -> Kills | None:
    """The same for everybody, from the first time that somebody asks to the end of the program."""
    with suppress(OSError):
        return Kills()
    return None


def _form() -> Form | None:
    for root in _TRACEFS:
        with suppress(OSError, ValueError):
            number = int((root / _POINT / "id").read_text("ascii"))
            return form(number, (root / _POINT / "format").read_text("ascii"))
    return None


def form(number: int, text: str) -> Form:
    """Of the kernel's own description. Raises ValueError where a field is not as it is known."""
    fields = re.findall(r"field:(?:int|pid_t) (\w+);\s+offset:([0-9]+);\s+size:4;", text)
    places = {name: int(offset) for name, offset in fields}
    if not {"sig", "code", "pid", "result"} <= places.keys():
        raise ValueError("signal_generate has other fields")
    return Form(number, places["code"], places["pid"])


def _online() -> Iterator[int]:
    for part in Path("/sys/devices/system/cpu/online").read_text("ascii").strip().split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _open(form: Form, cpu: int) -> int:
    attributes = _ATTR.pack(
        _TRACEPOINT, _ATTR.size, form.number, 1, _TID | _TIME | _RAW, 0, _USE_CLOCK, 0, 0, 0, 0, 0, 0, 0,
        time.CLOCK_MONOTONIC, 0, 0, 0, 0,
    )  # fmt: skip
    call = ctypes.CDLL(None, use_errno=True).syscall
    number = ctypes.c_long(_CALL[platform.machine()])
    descriptor = call(number, attributes, -1, ctypes.c_int(cpu), ctypes.c_int(-1), ctypes.c_ulong(_CLOEXEC))
    if descriptor < 0:
        number_of_error = ctypes.get_errno()
        raise OSError(number_of_error, os.strerror(number_of_error))
    return int(descriptor)


def _drained(ring: mmap.mmap) -> bytes:
    """What the kernel has written since the last time."""
    head, tail = struct.unpack_from("=QQ", ring, _HEAD)
    room, start = _PAGES * mmap.PAGESIZE, mmap.PAGESIZE
    first, last = tail % room, head % room
    if head == tail:
        return b""
    text = ring[start + first : start + (last if last > first else room)]
    if last <= first:
        text += ring[start : start + last]
    struct.pack_into("=Q", ring, _TAIL, head)
    return text


def _kills(text: bytes, form: Form, behind: float) -> Iterator[Kill]:
    """`behind`: what CLOCK_MONOTONIC lacks of Unix time."""
    at = 0
    while at + _RECORD.size <= len(text):
        kind, _, size = _RECORD.unpack_from(text, at)
        if kind == _SAMPLE:
            said = at + _RECORD.size
            sender, _, when, _ = _SAID.unpack_from(text, said)
            fields = said + _SAID.size
            (code,), (pid,) = (struct.unpack_from("=i", text, fields + place) for place in (form.code, form.pid))
            yield Kill(pid, sender if code == _BY_USER else None, when / 1e9 + behind)
        at += max(size, _RECORD.size)
