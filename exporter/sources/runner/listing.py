"""Which models a server lists, asked at any moment."""

from __future__ import annotations

from collections.abc import Callable

from exporter.llama import Client, RunnerError, Unreachable, Wire
from exporter.local import Place
from exporter.model import Lacking
from exporter.ollama import OllamaError, parse_ps

_TIMEOUT = 2.0
_REACHED_BY_LOOPBACK = frozenset({"127.0.0.1", "0.0.0.0", "::"})

_Where = tuple[int | None, float | None, int]


class Listing:
    """By /api/ps, over a connection that is kept from one question to the next: at the end of a runner a millisecond
    tells whether Ollama had taken its model off the list before or takes it off because of that. `wire` makes the way
    to a port in a server's network."""

    def __init__(self, wire: Callable[[Place, int], Wire]) -> None:
        self._wire = wire
        self._kept: tuple[_Where, Client] | None = None

    async def ask(self, place: Place) -> frozenset[str] | None:
        """Names of models; None when they cannot be had just now: the scheduler may be stalled."""
        port = next((port for address, port in place.addresses if address in _REACHED_BY_LOOPBACK), None)
        if port is None:
            return None
        where = place.pid, place.started, port
        kept, self._kept = self._kept, None
        try:
            if kept is not None and kept[0] == where:
                try:
                    return await self._ask(where, kept[1])
                except Unreachable:  # it had been closed meanwhile, which says nothing
                    pass
            elif kept is not None:
                await kept[1].close()
            return await self._ask(where, Client(self._wire(place, port), _TIMEOUT))
        except (RunnerError, OllamaError, LookupError, Lacking):
            return None

    async def close(self) -> None:
        """Let go of the connection. The next question makes another."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept[1].close()

    async def _ask(self, where: _Where, client: Client) -> frozenset[str]:
        answered = False
        try:
            body = await client.get("/api/ps")
            answered = True
        finally:
            if answered and self._kept is None:
                self._kept = where, client
            else:
                await client.close()
        return frozenset(row.name for row in parse_ps(body).models)
