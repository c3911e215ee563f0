"""The children of one process as the kernel lists them, and what tells of the end of a process that is not ours.

None of it wants a privilege beyond seeing the process. Linux only; elsewhere, and where the kernel does not do it,
the answer is None.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from exporter.local import RunnerProcess, processes

_NEWEST = 64
_LISTED_MAX = 1 << 16
# struct pidfd_info in its first form: mask, cgroup, eleven ids, exit code. ioctl PIDFD_GET_INFO.
_INFO = struct.Struct("=QQ11Ii")
_GET_INFO = 0xC000FF0B | _INFO.size << 16
_INFO_EXIT = 1 << 3


class Children:
    """The children of one process, cheap enough to look at several times a second: 0.05 ms, and next to nothing while
    no process at all begins on this machine. Its open folder belongs to this very process: one that gets the same pid
    later is not taken for it."""

    def __init__(self, pid: int, proc: Path) -> None:
        """Raises OSError where children are not listed (no CONFIG_PROC_CHILDREN), or the process has gone."""
        self._tasks = os.open(proc / str(pid) / "task", os.O_RDONLY | os.O_DIRECTORY)
        self._loads = -1
        try:
            self._loads = os.open(proc / "loadavg", os.O_RDONLY)
            os.close(os.open(f"{pid}/children", os.O_RDONLY, dir_fd=self._tasks))
        except OSError:
            self.close()
            raise
        self._newest, self._stirred = b"", True

    def look(self, again: bool = False) -> frozenset[int] | None:
        """Pids of all children. None, unless one wants to look `again`, when no process began since the last look but
        one: the kernel gives a number a moment before the child is listed."""
        newest = os.pread(self._loads, _NEWEST, 0).rpartition(b" ")[2]
        stirred, self._newest = newest != self._newest, newest
        if not (stirred or self._stirred or again):
            return None
        self._stirred = stirred
        try:
            tasks = os.listdir(self._tasks)
        except OSError:
            tasks = []
        if not tasks:
            raise LookupError("`ollama serve` has ended")
        return frozenset(pid for task in tasks for pid in self._of(task))

    def runners(self, pids: Iterable[int]) -> tuple[RunnerProcess, ...]:
        """Those of them that are runners, by what their command lines say by now."""
        return tuple(processes.runner(one) for one in processes.children(pids) if one.role == "runner")

    def close(self) -> None:
        for descriptor in (self._tasks, self._loads):
            if descriptor >= 0:
                os.close(descriptor)
        self._tasks = self._loads = -1

    def _of(self, task: str) -> list[int]:
        """A child is listed with the thread that started it."""
        try:
            listed = os.open(f"{task}/children", os.O_RDONLY, dir_fd=self._tasks)
        except OSError:  # the thread has ended, and its children are another's
            return []
        try:
            return [int(pid) for pid in os.read(listed, _LISTED_MAX).split()]
        except OSError:
            return []
        finally:
            os.close(listed)


class Handle:
    """A process, held by a file descriptor that can be read when it has ended."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def status(self) -> int | None:
        """How it ended, as wait() tells its parent. None as long as the parent has not asked, and before Linux 6.15."""
        answer = bytearray(_INFO.size)
        _INFO.pack_into(answer, 0, _INFO_EXIT, *[0] * 13)
        try:
            fcntl.ioctl(self._descriptor, _GET_INFO, answer)
        except OSError:
            return None
        mask, *_, status = _INFO.unpack(answer)
        return int(status) if mask & _INFO_EXIT else None

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def children(pid: int, proc: Path) -> Children | None:
    with suppress(OSError):
        return Children(pid, proc)
    return None


def handle(pid: int, started: float | None) -> Handle | None:
    """Of the process with this pid and start. None where the system gives none; LookupError when it has gone."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        held = Handle(os.pidfd_open(pid))
    except ProcessLookupError:
        raise LookupError("the process has ended") from None
    except OSError:  # an old kernel, a sandbox's filter, no descriptors left
        return None
    if started not in (None, processes.started(pid)):
        held.close()
        raise LookupError("the process has ended")
    return held
