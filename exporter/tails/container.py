"""What Docker keeps of a container's output."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Protocol

from exporter.dockerd import Daemon
from exporter.model import Failed, Lacking
from exporter.tails import LINE_MAX, Batch
from exporter.threads import Threads

_HISTORY_LINES = 10_000
_WAITING_MAX = 2_000
"""Pieces of output that wait for the next reading; then the engine does."""
_PAUSE = 0.05
_STAMP = re.compile(rb"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?Z ")


class ContainerTail:
    """Follows a container's output in a thread that hands over a bounded number of pieces; a container that ends and
    starts again is followed on from its last line."""

    def __init__(self, container: str, daemon: Daemon, *, new: bool = False) -> None:
        """`new`: all that it ever put out is news."""
        self._container, self._daemon, self._new = container, daemon, new
        self._last = (0, 0)
        self._rest = b""
        self._stream: _Stream | None = None

    def history(self) -> tuple[bytes, ...]:
        if self._new:
            return ()
        self._last = (0, 0)
        try:
            told = self._daemon.output(self._container, lines=_HISTORY_LINES)
        except LookupError:
            raise Lacking(f"there is no container {self._container}", "mend servers[].logs.container") from None
        except Failed as failed:
            if "does not support reading" in str(failed.__cause__):
                what = f"the logging driver of container {self._container} keeps nothing that can be read"
                raise Lacking(what, "use Docker's logging driver json-file, local or journald") from None
            raise
        lines = tuple(self._stamped(told.split(b"\n")))
        if not lines:
            self._last = (self._daemon.clock(), 0)
        return lines

    def read(self, most: int) -> Batch:
        if self._stream is None:
            self._stream, self._rest = self._follow(), b""
        lines: list[bytes] = []
        size = 0
        while self._stream is not None and size < most:
            try:
                piece = self._stream.pieces.get(timeout=_PAUSE)
            except queue.Empty:
                self._stream.attend()
                return Batch(tuple(lines), size)
            if piece is None:  # the container has ended, or the engine has
                self._stream = None
                return Batch(tuple(lines), size)
            size += len(piece)
            *complete, rest = (self._rest + piece).split(b"\n")
            self._rest = rest[: 2 * LINE_MAX]
            lines += self._stamped(complete)
        return Batch(tuple(lines), size, behind=True)

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.stop()
        self._daemon.close()

    def _follow(self) -> _Stream | None:
        seconds, nanoseconds = self._last
        try:
            return _Stream(self._daemon.follow(self._container, seconds + nanoseconds / 1e9))
        except LookupError:
            return None  # between its end and its next beginning under the same name

    def _stamped(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """The lines without their times, and without those that were read before."""
        for line in lines:
            found = _STAMP.match(line)
            if found is None:
                continue
            moment = datetime.fromisoformat(f"{found[1].decode()}+00:00")
            at = (int(moment.timestamp()), int((found[2] or b"0").ljust(9, b"0")))
            if at > self._last:
                self._last = at
                yield line[found.end() :][:LINE_MAX]


class _Pieces(Protocol):
    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class _Stream:
    """The thread that waits for output."""

    def __init__(self, made: _Pieces) -> None:
        self.pieces: queue.Queue[bytes | None] = queue.Queue(_WAITING_MAX)
        self._made = made
        self._stopped = threading.Event()
        self._thread = Threads(1)
        self._thread.submit(self._run)

    def attend(self) -> None:
        """Nothing has come: there may be nobody who waits for it."""
        self._thread.attend()

    def stop(self) -> None:
        self._stopped.set()
        self._made.close()

    def _run(self) -> None:
        try:
            for piece in self._made:
                self._hand_over(piece)
                if self._stopped.is_set():
                    return
        except Exception:  # noqa: BLE001, S110 - whatever ends the stream, the next reading opens another
            pass
        self._hand_over(None)

    def _hand_over(self, piece: bytes | None) -> None:
        while not self._stopped.is_set():
            try:
                self.pieces.put(piece, timeout=1.0)
                return
            except queue.Full:
                continue
