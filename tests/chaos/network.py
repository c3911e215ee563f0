"""A network of the house's own: a second namespace behind a link, names, proxies. Needs root in a namespace."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, cast

from exporter.local import sockets


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def prepare(folder: Path) -> None:
    """Loopback, a /run of our own for named namespaces, names out of our own files and DNS server."""
    run("ip", "link", "set", "lo", "up")
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    files = {
        "/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n",
        "/etc/nsswitch.conf": "hosts: files dns\n",
        "/etc/hosts": "127.0.0.1 localhost neighbour.test\n",
    }
    for place, text in files.items():
        ours = folder / Path(place).name
        ours.write_text(text)
        run("mount", "--bind", ours, place)


class Link:
    """A cable to another network namespace. `sever`: from there nothing comes back any more, nobody says why."""

    def __init__(self, number: int) -> None:
        self._name, self._peer = f"chaos{number}", f"peer{number}"
        self.here, self.there = f"10.77.{number}.1", f"10.77.{number}.2"
        run("ip", "netns", "add", self._peer)
        run("ip", "link", "add", self._name, "type", "veth", "peer", "name", "eth0", "netns", self._peer)
        run("ip", "addr", "add", f"{self.here}/30", "dev", self._name)
        run("ip", "link", "set", self._name, "up")
        self._inside("addr", "add", f"{self.there}/30", "dev", "eth0")
        self._inside("link", "set", "eth0", "up")

    def listener(self) -> socket.socket:
        """At the other end."""
        return sockets.inside(
            f"/run/netns/{self._peer}", partial(socket.create_server, (self.there, 11434), backlog=100)
        )

    def sever(self) -> None:
        self._inside("route", "add", "blackhole", f"{self.here}/32")

    def mend(self) -> None:
        self._inside("route", "del", "blackhole", f"{self.here}/32")

    def down(self) -> None:
        run("ip", "link", "set", self._name, "down")

    def up(self) -> None:
        run("ip", "link", "set", self._name, "up")

    def _inside(self, *words: str) -> None:
        run("ip", "-n", self._peer, *words)


# --- names -----------------------------------------------------------------------------------------------------------

NXDOMAIN, SERVFAIL, SILENT = "NXDOMAIN", "SERVFAIL", "silent"
_CODES = {NXDOMAIN: 3, SERVFAIL: 2}
_A, _QUERY = 1, 12


class Names(asyncio.DatagramProtocol):
    """A DNS server: `told` has, by name, an address or what is said in its place."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name, end = _name(data)
        kind = struct.unpack("!H", data[end : end + 2])[0]
        told = self.told.get(name, NXDOMAIN)
        if told == SILENT or self._transport is None:
            return
        code, address = _CODES.get(told, 0), b""
        if not code and kind == _A:
            address = struct.pack("!HHHIH", 0xC00C, _A, 1, 0, 4) + socket.inet_aton(told)
        head = data[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, int(bool(address)), 0, 0)
        self._transport.sendto(head + data[_QUERY : end + 4] + address, addr)


def _name(data: bytes) -> tuple[str, int]:
    """The name that a query asks for, and where it ends."""
    labels, at = [], _QUERY
    while data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]].decode("ascii", "replace"))
        at += 1 + data[at]
    return ".".join(labels).lower(), at + 1


@contextlib.asynccontextmanager
async def names() -> AsyncIterator[Names]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(Names, local_addr=("127.0.0.1", 53))
    try:
        yield server
    finally:
        transport.close()


# --- a proxy that closes what is idle --------------------------------------------------------------------------------


class Relay:
    """Passes bytes on to `port`. A client that has its answer and asks nothing more for `patience` seconds is hung up
    on, by FIN or by `reset`."""

    def __init__(self, port: int, *, reset: bool) -> None:
        self._target, self._reset = port, reset
        self.patience: float | None = None
        self.hung_up = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            with contextlib.suppress(ConnectionError, TimeoutError):
                while request := await self._patiently(reader.read(65536), writer):
                    up_writer.write(request)
                    answer = await up_reader.readuntil(b"\r\n\r\n")
                    length = int(answer.lower().partition(b"content-length:")[2].split(b"\r", 1)[0])
                    writer.write(answer + await up_reader.readexactly(length))
        finally:
            up_writer.close()
            writer.close()

    async def _patiently(self, reading: Coroutine[Any, Any, bytes], writer: asyncio.StreamWriter) -> bytes:
        try:
            async with asyncio.timeout(self.patience):
                return await reading
        except TimeoutError:
            self.hung_up += 1
            if self._reset:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            raise
