"""A server on loopback whose every answer is a script: bytes, silence, trickles, resets, half-closed connections.

    async with Wire({"/api/version": [json_answer({"version": "0.33.0"})], "/api/ps": [HANG]}) as wire:
        ...  # poll wire.url
        assert wire.paths == ["/api/version", "/api/ps"]

Nothing in here waits for time to pass, except `Trickle`, whose slowness is the point.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"


class Act(Enum):
    """What a connection can do besides sending bytes."""

    HANG = "say nothing more, until the client leaves"
    RESET = "break the connection off: the client sees RST"
    CLOSE = "close the connection in order: the client sees FIN"
    HALF_CLOSE = "send FIN, and go on reading"


HANG, RESET, CLOSE, HALF_CLOSE = Act


@dataclass(frozen=True)
class Trickle:
    """These bytes, one at a time, this many seconds apart."""

    data: bytes
    every: float


@dataclass(frozen=True)
class Endless:
    """These bytes again and again, as fast as the client takes them, until it leaves."""

    data: bytes


Step = bytes | Act | Trickle | Endless | asyncio.Event
"""An Event is a pause until the test sets it."""
Script = Sequence[Step]


@dataclass(frozen=True)
class Request:
    """As it was on the wire. `lines` are the header lines in their order, `connection` counts from 1."""

    method: str
    target: str
    lines: tuple[str, ...]
    body: bytes
    connection: int

    def header(self, name: str) -> list[str]:
        """All values of a header."""
        pairs = (line.partition(":") for line in self.lines)
        return [value.strip() for key, _, value in pairs if key.lower() == name.lower()]


class Wire:
    """Answers each request with the script of its path (404 where there is none). `routes` may change at any time; a
    script may also be a function of the request. `on_accept` is played on each new connection before anything is read.

    After a script that ends by itself the connection goes on to the next request, as HTTP/1.1 does.
    """

    def __init__(
        self,
        routes: dict[str, Script | Callable[[Request], Script]] | None = None,
        *,
        on_accept: Script = (),
        tls: ssl.SSLContext | None = None,
        listener: socket.socket | None = None,
        port: int = 0,
    ) -> None:
        """`listener`: a socket to listen on, in place of a `port` of loopback (0: any free one)."""
        self.routes = routes or {}
        self.on_accept = on_accept
        self.requests: list[Request] = []
        self.connections = 0
        self.sent = 0
        self.port = port
        self._tls, self._listener = tls, listener
        self._arrivals = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Wire:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        """The targets of the requests so far."""
        return [request.target for request in self.requests]

    async def listen(self) -> None:
        """Open the port, after `stop` the same one again."""
        if self._listener is not None:
            self._server = await asyncio.start_server(self._accept, sock=self._listener, ssl=self._tls)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and every connection: from now on connections are refused."""
        self._server.close()
        await self.hang_up()
        await self._server.wait_closed()

    async def give_way(self, other: Wire) -> None:
        """Close every connection; `other` listens in our place. Nobody is refused: whoever comes meanwhile waits."""
        other._listener = self._server.sockets[0].dup()
        await self.stop()
        await other.listen()
        other._listener = None

    async def hang_up(self) -> None:
        """Close every connection, keep listening."""
        for task in tuple(self._tasks):
            task.cancel()
        await self.idle()

    async def idle(self) -> None:
        """Until no connection is open any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def arrived(self, count: int) -> None:
        """Until this many requests have come in."""
        async with self._arrivals:
            await self._arrivals.wait_for(lambda: len(self.requests) >= count)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._converse(reader, writer, self.connections)
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass  # the client has left, or the test has ended
        finally:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        if not await self._play(self.on_accept, reader, writer):
            return
        while (request := await _read_request(reader, connection)) is not None:
            async with self._arrivals:
                self.requests.append(request)
                self._arrivals.notify_all()
            script = self.routes.get(request.target, [answer(b"404 page not found", status=404)])
            if not await self._play(script(request) if callable(script) else script, reader, writer):
                return

    async def _play(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection is still of use."""
        for step in script:
            match step:
                case bytes():
                    await self._send(writer, step)
                case asyncio.Event():
                    await step.wait()
                case Trickle(data, every):
                    for byte in data:
                        await self._send(writer, bytes([byte]))
                        await asyncio.sleep(every)
                case Endless(data):
                    while True:
                        await self._send(writer, data)
                case Act.HANG:
                    await reader.read()
                    return False
                case Act.HALF_CLOSE:
                    writer.write_eof()
                    await reader.read()
                    return False
                case Act.RESET:
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                    return False
                case Act.CLOSE:
                    return False
        return True

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.sent += len(data)


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    request = Request(method, target, tuple(lines), b"", connection)
    length = int((request.header("Content-Length") or ["0"])[0])
    return Request(method, target, tuple(lines), await reader.readexactly(length), connection)


# --- answers ---------------------------------------------------------------------------------------------------------


def answer(body: bytes = b"", *headers: str, status: int = 200, length: int | None = None) -> bytes:
    """A whole HTTP answer. `length` lies about the body's; a header `Content-Length: …` of its own wins."""
    lines = [f"HTTP/1.1 {status} Script", *headers]
    if not any(line.lower().startswith(("content-length:", "transfer-encoding:")) for line in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def json_answer(value: Any, *headers: str) -> bytes:
    """200 with this value."""
    return answer(json.dumps(value).encode(), "Content-Type: application/json; charset=utf-8", *headers)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


CHUNKED_HEAD = answer(b"", "Transfer-Encoding: chunked")


# --- around it -------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port of loopback that answers no SYN any more: connecting to it hangs."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield listener.getsockname()[1]


def recorded(name: str) -> bytes:
    """The body of a recorded answer of a real server. Without the records the test is skipped, in CI it fails."""
    path = SAMPLES / name
    if not path.exists():
        _missing(
            f"the recorded answers of real servers are not here: no ../shared/samples/{name} beside the repository"
        )
    text = path.read_bytes()
    if name.endswith(".json"):
        return text
    lines = text.splitlines(keepends=True)
    notes = next((n for n, line in enumerate(lines) if not line.startswith(b"#")), len(lines))
    return b"".join(lines[notes:]).strip()


def recorded_status(name: str) -> int:
    """The HTTP status of a recorded answer."""
    recorded(name)
    line = next(line for line in (SAMPLES / name).read_text().splitlines() if line.startswith("# HTTP "))
    return int(line.split()[2])


@dataclass(frozen=True)
class Authority:
    """A certificate authority made for one test session, in a folder of its own."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def certificate(self, name: str) -> tuple[Path, Path]:
        """The files of a certificate and its key."""
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def server(self, name: str, *, ask_client: bool = False) -> ssl.SSLContext:
        """A server's TLS context; with `ask_client`, one that wants a client certificate of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate(name))
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context

    def sign(self, name: str, until: str, extensions: str = "leaf") -> None:
        """A certificate that ends then (YYYYMMDDHHMMSSZ)."""
        self._key(name)
        self._openssl(
            *("req", "-new", "-config", self._of("openssl.cnf")),
            *("-key", self._of(f"{name}.key"), "-subj", f"/CN={name}", "-out", self._of(f"{name}.csr")),
        )
        self._openssl(
            *("ca", "-batch", "-notext", "-config", self._of("openssl.cnf"), "-extensions", extensions),
            *("-startdate", "20200101000000Z", "-enddate", until),
            *("-in", self._of(f"{name}.csr"), "-out", self._of(f"{name}.pem")),
        )

    def sign_itself(self, name: str, extensions: str) -> None:
        self._key(name)
        self._openssl(
            *("req", "-x509", "-new", "-config", self._of("openssl.cnf"), "-extensions", extensions),
            *(
                "-days",
                "3650",
                "-key",
                self._of(f"{name}.key"),
                "-subj",
                f"/CN={name}",
                "-out",
                self._of(f"{name}.pem"),
            ),
        )

    def _key(self, name: str) -> None:
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self._of(f"{name}.key"))

    def _of(self, name: str) -> str:
        return str(self.folder / name)

    @staticmethod
    def _openssl(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


_OPENSSL_CNF = """
[ca]
default_ca = it
[it]
database = {folder}/index.txt
new_certs_dir = {folder}
serial = {folder}/serial
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[leaf]
basicConstraints = critical, CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = IP:127.0.0.1, DNS:localhost
[elsewhere]
basicConstraints = critical, CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:elsewhere.invalid
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[req]
distinguished_name = nobody
[nobody]
"""


def make_authority(folder: Path) -> Authority:
    """Makes `good`, `expired`, `elsewhere` (another name) and `selfsigned` with the openssl command."""
    if shutil.which("openssl") is None:
        _missing("the openssl command is not here: no certificates can be made")
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01\n")
    (folder / "openssl.cnf").write_text(_OPENSSL_CNF.format(folder=folder))
    authority = Authority(folder)
    authority.sign_itself("ca", "root")
    authority.sign("good", "20491231235959Z")
    authority.sign("expired", "20200201000000Z")
    authority.sign("elsewhere", "20491231235959Z", "elsewhere")
    authority.sign_itself("selfsigned", "leaf")
    return authority


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@contextlib.asynccontextmanager
async def healthy(**changes: Script | Callable[[Request], Script]) -> AsyncIterator[Wire]:
    """A server with one loaded and two installed models; `version`, `ps` and `tags` replace its scripts."""
    routes: dict[str, Script | Callable[[Request], Script]] = {
        "/api/version": [json_answer(VERSION)],
        "/api/ps": [json_answer(PS)],
        "/api/tags": [json_answer(TAGS)],
    }
    async with Wire(routes | {f"/api/{name}": script for name, script in changes.items()}) as wire:
        yield wire


VERSION = {"version": "0.33.0"}
_ROW = {
    "name": "smollm2:latest",
    "model": "smollm2:latest",
    "digest": "fd5f44c0b5aff6453726119fc560d73a8a995a55b4a49804bc24b1969ecf1794",
    "details": {"format": "gguf", "family": "llama", "parameter_size": "134.52M", "quantization_level": "Q4_1"},
}
PS = {
    "models": [
        {
            **_ROW,
            "size": 511568772,
            "size_vram": 0,
            "context_length": 4096,
            "expires_at": "2026-11-23T17:43:36.774829428Z",
        }
    ]
}
TAGS = {
    "models": [
        {**_ROW, "size": 98362745, "capabilities": ["completion"]},
        {**_ROW, "name": "gemma3", "model": "gemma3", "digest": "14f8ac0fb3c4d0781f89e8e9", "size": 253113180},
    ]
}
