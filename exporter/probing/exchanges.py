"""What was asked of a target and what came back, without its contents: for `debug=true`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import cast

import httpx

from exporter.model import Reason
from exporter.ollama import translate

_KEPT = 32


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request. `began` is on the loop's clock; `status` is None and `failure` set where no answer came or it broke
    off. `size` counts the bytes of the body that were read."""

    began: float
    method: str
    path: str
    address: str
    status: int | None
    size: int
    took: float
    failure: Reason | None


class Recorder(httpx.AsyncBaseTransport):
    """Keeps the last exchanges over another transport."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self._exchanges: deque[Exchange] = deque(maxlen=_KEPT)

    def since(self, began: float) -> Iterator[Exchange]:
        return (each for each in tuple(self._exchanges) if each.began >= began)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        note = _Note(self._exchanges, request)
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException as error:
            note.end(error)
            raise
        note.answered(response)
        body = _Counted(cast(httpx.AsyncByteStream, response.stream), note)
        return httpx.Response(
            response.status_code, headers=response.headers, stream=body, extensions=response.extensions
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Note:
    """An exchange in the making."""

    def __init__(self, exchanges: deque[Exchange], request: httpx.Request) -> None:
        self._exchanges = exchanges
        self._method, self._path = request.method, request.url.path
        self._began = asyncio.get_running_loop().time()
        self._status: int | None = None
        self._address = ""
        self._ended = False
        self.size = 0

    def answered(self, response: httpx.Response) -> None:
        self._status = response.status_code
        self._address = str(response.extensions.get("address", ""))

    def end(self, error: BaseException | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        took = asyncio.get_running_loop().time() - self._began
        self._exchanges.append(
            Exchange(
                self._began, self._method, self._path, self._address, self._status, self.size, took, _reason(error)
            )
        )


def _reason(error: BaseException | None) -> Reason | None:
    if error is None:
        return None
    if isinstance(error, asyncio.CancelledError | TimeoutError):
        return "timeout"
    return translate(error).reason if isinstance(error, Exception) else "bug"


class _Counted(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, note: _Note) -> None:
        self._inner, self._note = inner, note

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                self._note.size += len(chunk)
                yield chunk
        except (Exception, asyncio.CancelledError) as error:
            self._note.end(error)
            raise

    async def aclose(self) -> None:
        self._note.end()
        await self._inner.aclose()
