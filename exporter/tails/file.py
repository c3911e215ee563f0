"""A file that grows, is renamed, replaced or truncated."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from exporter.model import Lacking
from exporter.tails import LINE_MAX, Batch

_HISTORY_MAX = 4 * 1024 * 1024
_CHUNK = 256 * 1024
_MARK = 64
"""Bytes before our place that are remembered: they are others when the file was truncated and has grown again since."""


@dataclass(slots=True)
class _Open:
    """A file by its descriptor. `place`: how far it was read; `mark`: what stands right before; `rest`: the beginning
    of a line whose end has not come; `succeeded`: it was read to its end since another took its name."""

    number: int
    place: int = 0
    mark: bytes = b""
    rest: bytes = b""
    succeeded: bool = False

    def read(self, most: int) -> bytes:
        data = os.pread(self.number, most, self.place)
        self.place += len(data)
        self.mark = (self.mark + data)[-_MARK:]
        return data

    def left(self) -> int:
        return max(0, os.fstat(self.number).st_size - self.place)

    def was_truncated(self) -> bool:
        size = os.fstat(self.number).st_size
        return size < self.place or os.pread(self.number, len(self.mark), self.place - len(self.mark)) != self.mark


class FileTail:
    """Starts at the end of what is there; a file that was not there at the first look is read from its beginning, and
    so is one that takes its place later.

    Of a file that is renamed the rest is read first, and once more at the next reading, because its writer may hold it
    open for a while. What a truncation throws away before it was read is lost, and counted as a gap. Compressed
    rotations have other names and are never looked at.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        """`new`: all of its content is news."""
        self._path = path
        self._files: list[_Open] = []
        self._from_start = new
        self._gaps = 0

    def follow(self, path: Path) -> None:
        """From now on the log is found there; the same file goes on where it was."""
        self._path = path

    def history(self) -> tuple[bytes, ...]:
        file = self._open()
        if self._from_start:
            self._files.append(file)
            return ()
        file.place = max(0, os.fstat(file.number).st_size - _HISTORY_MAX)
        cut = file.place > 0
        data = b""
        while chunk := file.read(_CHUNK):
            data += chunk
        self._files.append(file)
        *lines, file.rest = data.split(b"\n")
        return tuple(lines[1:] if cut else lines)

    def read(self, most: int) -> Batch:
        self._find_successor()
        lines: list[bytes] = []
        size = 0
        for file in tuple(self._files):
            size += self._drain(file, most - size, lines)
            if file.left():
                break
            if file is not self._files[-1]:
                self._leave(file, lines)
        backlog = sum(file.left() for file in self._files)
        gaps, self._gaps = self._gaps, 0
        return Batch(tuple(lines), size, backlog > 0, backlog, gaps)

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop().number)

    def _open(self) -> _Open:
        try:
            file = _Open(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except FileNotFoundError:
            self._from_start = True
            raise Lacking(
                f"the log file {self._path} is not there", f"let Ollama's output go to {self._path}"
            ) from None
        except PermissionError:
            raise Lacking(
                f"the log file {self._path} may not be read", f"let the exporter's user read {self._path}"
            ) from None
        if not stat.S_ISREG(os.fstat(file.number).st_mode):
            os.close(file.number)
            raise Lacking(f"{self._path} is no file that keeps lines", "set servers[].logs.file to a regular file")
        return file

    def _find_successor(self) -> None:
        """Another file under our path: the one before is left after its rest was read now, and once more later."""
        try:
            there, ours = os.stat(self._path), os.fstat(self._files[-1].number)
        except OSError:
            return  # between two names, or its process is gone: what is open is still the log
        if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
            return
        try:
            self._files.append(self._open())
        except (Lacking, OSError):
            return

    def _drain(self, file: _Open, most: int, lines: list[bytes]) -> int:
        if file.was_truncated():
            self._gaps += 1
            file.place, file.mark, file.rest = 0, b"", b""
        size = 0
        while size < most and (data := file.read(min(_CHUNK, most - size))):
            size += len(data)
            *complete, rest = (file.rest + data).split(b"\n")
            lines += [line[:LINE_MAX] for line in complete]
            file.rest = rest[:LINE_MAX]
        return size

    def _leave(self, file: _Open, lines: list[bytes]) -> None:
        if not file.succeeded:
            file.succeeded = True
            return
        if file.rest:
            lines.append(file.rest)
        self._files.remove(file)
        os.close(file.number)
