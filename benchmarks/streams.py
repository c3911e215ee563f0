"""A server of streams in a process of its own, as cheap as Python can have it, whose every answer is known.

    python -m benchmarks.streams FIRST GAP TOKENS [STALL EVERY]

Each POST is answered by TOKENS lines of NDJSON, the first FIRST seconds after the request, then one every GAP; with
STALL and EVERY, nothing begins in the first STALL seconds of every EVERY. The last line tells in `prompt_eval_duration`
when the first token really left, on this process' own clock, so that its own lateness is nobody else's. Writes its port
as one line, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(line: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(line), line)


_TOKEN = _chunk(b'{"model":"m","created_at":"2026-11-23T17:43:36.774829428Z","response":" word","done":false}\n')


@contextmanager
def running(first: float, gap: float, tokens: int, *stall: float) -> Iterator[str]:
    """Its URL."""
    command = [sys.executable, "-m", "benchmarks.streams", str(first), str(gap), str(tokens), *map(str, stall)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"  # type: ignore[union-attr]
        finally:
            process.stdin.close()  # type: ignore[union-attr]


class _Conversation(asyncio.Protocol):
    def __init__(self, first: float, gap: float, tokens: int, stall: tuple[float, ...], began: float) -> None:
        self._first, self._gap, self._tokens, self._stall, self._began = first, gap, tokens, stall, began
        self._loop = asyncio.get_running_loop()
        self._waiting = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = transport.write  # type: ignore[attr-defined]

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        head, mark, body = self._waiting.partition(b"\r\n\r\n")
        if not mark:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) < length:
            return
        self._waiting = body[length:]
        if head.startswith(b"GET"):
            self._write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
            return
        self._asked, self._left = self._loop.time(), self._tokens
        self._due = self._asked + self._first + self._stalled(self._asked)
        self._timer = self._loop.call_at(self._due, self._begin)

    def _stalled(self, now: float) -> float:
        if not self._stall:
            return 0.0
        seconds, every = self._stall
        return max(0.0, seconds - (now - self._began) % every)

    def _begin(self) -> None:
        self._took = self._loop.time() - self._asked
        self._write(_HEAD)
        self._speak()

    def _speak(self) -> None:
        self._left -= 1
        if self._left > 0:
            self._write(_TOKEN)
            self._due += self._gap
            self._timer = self._loop.call_at(self._due, self._speak)
            return
        final = {"response": "", "done": True, "eval_count": self._tokens,
                 "prompt_eval_duration": round(self._took * 1e9),
                 "total_duration": round((self._loop.time() - self._asked) * 1e9), "prompt_eval_count": 30}  # fmt: skip
        self._write(_TOKEN + _chunk(json.dumps(final).encode() + b"\n") + b"0\r\n\r\n")


async def _serve(first: float, gap: float, tokens: int, stall: tuple[float, ...]) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    server = await loop.create_server(
        lambda: _Conversation(first, gap, tokens, stall, began), "127.0.0.1", 0, backlog=4096
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), tuple(map(float, sys.argv[4:]))))
