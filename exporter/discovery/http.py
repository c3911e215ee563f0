"""Servers from a list on the web, as Prometheus' http_sd asks for one: 200, application/json, the whole of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import cast
from urllib.parse import urlsplit

import httpx

from exporter.config import Server
from exporter.config.access import endpoint
from exporter.config.discovery import HttpSd
from exporter.discovery import groups
from exporter.discovery.targets import Seen, Target, Trouble
from exporter.ollama import HttpError, open_transport, request_headers, translate

_JSON = re.compile(r"application/json(;\s*charset=(\"utf-8\"|utf-8))?", re.I)


class HttpFinder:
    """`every`: how often it asks, in seconds, which it tells the server."""

    def __init__(self, settings: HttpSd, every: float, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings, self._every = settings, every
        parts = urlsplit(settings.url)
        # Without the path and the query, which are the request's.
        self._endpoint = replace(endpoint(settings), url=f"{parts.scheme}://{parts.netloc}")
        self._transport = transport
        self._tag, self._targets = "", tuple[Target, ...]()

    async def look(self, configured: Sequence[Server]) -> Seen:
        if self._transport is None:
            try:
                self._transport = open_transport(self._endpoint)
            except OSError:
                raise Trouble("tls", "a certificate file is gone or broken") from None
        try:
            async with asyncio.timeout(self._settings.timeout):
                response = await self._transport.handle_async_request(self._request())
                try:
                    body = await self._body(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise Trouble("timeout", "the server does not answer in time") from None
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            reason = translate(error).reason
            raise Trouble(reason, f"the server cannot be asked ({reason})") from None
        if body is not None:
            # In a thread: a long list takes a while.
            self._targets = await asyncio.to_thread(groups.from_json, body, {"__meta_url": self._settings.url})
            self._tag = response.headers.get("etag", "")
        return Seen(self._targets)

    async def aclose(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()

    def _request(self) -> httpx.Request:
        headers = [*request_headers(self._endpoint), ("X-Prometheus-Refresh-Interval-Seconds", f"{self._every:g}")]
        if self._tag:
            headers.append(("If-None-Match", self._tag))
        within = self._settings.timeout
        # Less than the whole, or a server that nobody reaches would look like one that is silent.
        limits = {"connect": 0.9 * within, "read": within, "write": within, "pool": within}
        return httpx.Request("GET", self._settings.url, headers=headers, extensions={"timeout": limits})

    async def _body(self, response: httpx.Response) -> bytes | None:
        """None: the list is still the one that we have."""
        if response.status_code == 304 and self._tag:
            return None
        if response.status_code != 200:
            error = HttpError(response.status_code)
            raise Trouble(error.reason, f"the server answers with status {response.status_code}")
        if not _JSON.fullmatch(response.headers.get("content-type", "").strip()):
            raise Trouble("malformed", "the content type of the answer is not application/json")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise Trouble("decode", "the answer is compressed, though that was not asked for")
        body = bytearray()
        async for chunk in cast(httpx.AsyncByteStream, response.stream):
            body += chunk
            if len(body) > groups.BODY_MAX:
                raise Trouble("too_large", "the answer is larger than 16 MiB")
        return bytes(body)
