"""Simulated Ollama servers in a process of their own, so that their CPU time is nobody else's.

    python -m benchmarks.servers 1000

Listens on one port of 127.0.0.1 for each server, writes the ports as one line of JSON, and ends with its standard
input. It answers the three paths of a poll with bodies shaped and sized like those recorded of Ollama 0.33, as cheaply
as Python can: no routing, no parsing beyond the path. Every other server is in use: the expiry of its first model moves
each second, so that its /api/ps is another one at each poll, as after a request that ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache, partial
from typing import Any

MODELS = (
    ("llama3.2:3b", "llama", "3.2B", "Q4_K_M", 2_019_393_189),
    ("tinyllama:latest", "llama", "1B", "Q4_0", 637_700_138),
    ("qwen2.5-coder:7b-instruct-q4_K_M", "qwen2", "7.6B", "Q4_K_M", 4_683_087_519),
    ("nomic-embed-text:latest", "nomic-bert", "137M", "F16", 274_302_450),
    ("gemma3:12b", "gemma3", "12.2B", "Q4_K_M", 8_149_190_253),
    ("mistral-nemo:12b", "llama", "12.2B", "Q4_0", 7_071_713_232),
    ("phi4:14b", "phi3", "14.7B", "Q4_K_M", 9_053_116_391),
    ("deepseek-r1:8b", "qwen3", "8.2B", "Q4_K_M", 5_225_376_047),
)
MOMENT = "2026-11-23T17:43:36.774829428Z"


def version_body() -> bytes:
    return b'{"version":"0.33.0-rc2"}'


def ps_body(loaded: int) -> bytes:
    return _compact([{**_row(place), "expires_at": MOMENT, **_residence(place)} for place in range(loaded)])


def tags_body(installed: int) -> bytes:
    more = {"capabilities": ["completion", "tools"]}
    return _compact([{**_row(place), "modified_at": MOMENT, **more} for place in range(installed)])


def _row(place: int) -> dict[str, Any]:
    name, family, parameters, quantization, size = MODELS[place % len(MODELS)]
    details = {"parent_model": "", "format": "gguf", "family": family, "families": [family]}
    details |= {"parameter_size": parameters, "quantization_level": quantization}
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {"name": name, "model": name, "size": size, "digest": digest, "details": details}


def _residence(place: int) -> dict[str, int]:
    return {"size_vram": MODELS[place % len(MODELS)][4], "context_length": 4096}


def _compact(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps({"models": rows}, separators=(",", ":")).encode()


@contextmanager
def running(count: int, loaded: int = 2, installed: int = 4) -> Iterator[list[str]]:
    """So many servers in another process, for as long as the block lasts; their URLs."""
    command = [sys.executable, "-m", "benchmarks.servers", str(count), str(loaded), str(installed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield [f"http://127.0.0.1:{port}" for port in json.loads(process.stdout.readline())]  # type: ignore[union-attr]
        finally:
            process.stdin.close()  # type: ignore[union-attr]


class _Conversation(asyncio.Protocol):
    def __init__(self, answers: dict[bytes, Callable[[], bytes]]) -> None:
        self._answers = answers
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = transport.write  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        *requests, self._waiting = (self._waiting + data).split(b"\r\n\r\n")
        for request in requests:
            body = self._answers[request.split(b" ", 2)[1]]()
            self._write(_head(int(time.time())) + b"%d\r\n\r\n%b" % (len(body), body))


@lru_cache(maxsize=1)
def _head(second: int) -> bytes:
    date = formatdate(second, usegmt=True)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nDate: {date}\r\nContent-Length: "
    return head.encode()


def _in_use(body: bytes) -> Callable[[], bytes]:
    def answer() -> bytes:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 300)) + ".774829428Z"
        return body.replace(MOMENT.encode(), moment.encode(), 1)

    return answer


async def _serve(count: int, loaded: int, installed: int) -> None:
    loop = asyncio.get_running_loop()
    version, ps, tags = version_body(), ps_body(loaded), tags_body(installed)
    idle: dict[bytes, Callable[[], bytes]] = {
        b"/api/version": lambda: version,
        b"/api/ps": lambda: ps,
        b"/api/tags": lambda: tags,
    }
    kinds = idle, {**idle, b"/api/ps": _in_use(ps)}
    ports = []
    for place in range(count):
        server = await loop.create_server(partial(_Conversation, kinds[place % 2]), "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(*map(int, sys.argv[1:])))
