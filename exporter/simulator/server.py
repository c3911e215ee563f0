"""A simulated server on a real socket. While the `dead` fault is in force nothing listens there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Generator

import uvicorn

from exporter.simulator.machine import SimServer


@contextlib.asynccontextmanager
async def serve(server: SimServer, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve on a port (0: any free one) and yield the base URL. The port stays the same through death and revival."""
    listener = _listen(host, port)
    address = listener.getsockname()
    lives = asyncio.create_task(_lives(server, listener, host, address[1]), name=f"sockets of {server.name}")
    try:
        yield f"http://{host}:{address[1]}"
    finally:
        lives.cancel()
        await asyncio.gather(lives, return_exceptions=True)
        listener.close()  # for the case that it was cancelled before it began


def _listen(host: str, port: int) -> socket.socket:
    # The protocol by its number: asyncio switches Nagle's algorithm off only where it is told.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(512)
    listener.setblocking(False)
    return listener


async def _lives(server: SimServer, listener: socket.socket, host: str, port: int) -> None:
    """One after the other: listen until dead, be dead, listen again on the same port."""
    while True:
        if server.is_dead:
            listener.close()
            await server.faults.over("dead")
            listener = _listen(host, port)
        life = _Life(server, listener)
        forget = server.faults.on_change(life.end_if_dead)
        try:
            await life.serve()
        finally:
            forget()
            listener.close()
        if not server.is_dead:  # a death too short to be seen from outside
            listener = _listen(host, port)


class _Life(uvicorn.Server):
    """uvicorn without its signal handlers, and with a sudden death."""

    def __init__(self, server: SimServer, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                server.app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=300,
            )
        )
        self._server = server
        self._listener = listener

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        serving = asyncio.create_task(super().serve([self._listener]), name="uvicorn")
        try:
            await asyncio.shield(serving)
        finally:
            self.die()
            await asyncio.gather(serving, return_exceptions=True)

    def end_if_dead(self) -> None:
        if self._server.is_dead:
            self.die()

    def die(self) -> None:
        """Refuse and reset at once, whatever was being answered."""
        self.should_exit = self.force_exit = True
        for acceptor in getattr(self, "servers", []):
            acceptor.close()
        for connection in tuple(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
