"""Who may ask: rate of requests, passwords, tokens. An ASGI application around the one that answers.

Health pages are for everybody, because whoever restarts a container has no password. A path with a token takes that
token and nothing else: the password of a scraper must not reload the configuration.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import bcrypt

from exporter.model import Secret
from exporter.webconfig import Rate, WebConfig

FREE = frozenset({"/health", "/-/healthy", "/-/ready"})
"""Paths that ask for nothing and are not counted."""

_REMEMBERED = 128
_WAITING_MAX = 16
_PASSWORD_BYTES = 72  # what bcrypt reads of a password; its library refuses longer ones

_Message = MutableMapping[str, Any]
_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]
_Refusal = tuple[int, str, str]


class Door:
    """Lets requests through to `app`, with the configured headers on every answer.

    `web` and `tokens` (path -> token) are asked at each request, so both change without a restart.
    """

    def __init__(
        self,
        app: _App,
        web: Callable[[], WebConfig],
        tokens: Callable[[], Mapping[str, Secret]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._web, self._tokens = app, web, tokens
        self._passwords, self._bucket = Passwords(), _Bucket(clock)

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        config = self._web()
        refusal = await self._refusal(config, scope)
        send = _with_headers(send, config.headers) if config.headers else send
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await _refuse(send, *refusal)

    async def _refusal(self, config: WebConfig, scope: _Scope) -> _Refusal | None:
        """Status, words and challenge; None for who may pass."""
        path = scope["path"]
        if path in FREE:
            return None
        if not self._bucket.takes(config.rate):
            return 429, "too many requests", ""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        credentials = given[0] if len(given) == 1 else b""
        token = self._tokens().get(path)
        if token is not None:
            return None if _bears(credentials, token) else (401, "a token is needed", "Bearer")
        if not config.users:
            return None
        right = await self._passwords.right(config.users, credentials)
        if right is None:
            return 503, "too many passwords are being checked", ""
        return (
            None if right else (401, "user and password are needed", 'Basic realm="ollama-exporter", charset="UTF-8"')
        )


def _bears(credentials: bytes, token: Secret) -> bool:
    scheme, _, given = credentials.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.reveal().encode())


class Passwords:
    """Basic authentication (RFC 7617). A check by bcrypt takes a tenth of a second on purpose: it is done in a thread,
    one at a time, and what was right is remembered by a salted digest, so that a scrape costs none."""

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._checking = asyncio.Lock()
        self._waiting = 0

    async def right(self, users: Mapping[str, Secret], credentials: bytes) -> bool | None:
        """Whether these are the user and password of one of them; None when too many wait to be told."""
        pair = _pair(credentials)
        if pair is None:
            return False
        user, password = pair
        # A stranger costs as much as a user: the dearest of their hashes is checked, and the answer thrown away.
        hashed = users.get(user) or max(users.values(), key=lambda each: each.reveal()[4:6])
        digest = self._digest(user, hashed, password)
        if digest in self._known:
            self._known.move_to_end(digest)
            return True
        if self._waiting >= _WAITING_MAX:
            return None
        if await self._check(password, hashed) and user in users:
            self._remember(digest)
            return True
        return False

    async def _check(self, password: bytes, hashed: Secret) -> bool:
        self._waiting += 1
        try:
            async with self._checking:
                return await asyncio.to_thread(_matches, password, hashed.reveal().encode())
        finally:
            self._waiting -= 1

    def _digest(self, user: str, hashed: Secret, password: bytes) -> bytes:
        """The hash is part of it: with a new one the old password is forgotten."""
        parts = [user.encode(), hashed.reveal().encode(), password]
        message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self._salt, message, hashlib.sha256)

    def _remember(self, digest: bytes) -> None:
        self._known[digest] = None
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _matches(password: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:_PASSWORD_BYTES], hashed)
    except ValueError:  # a NUL in it
        return False


def _pair(credentials: bytes) -> tuple[str, bytes] | None:
    scheme, _, coded = credentials.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = base64.b64decode(coded.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None


class _Bucket:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rate: Rate | None = None
        self._left, self._at = 0.0, 0.0

    def takes(self, rate: Rate) -> bool:
        if not rate.interval:
            return True
        now = self._clock()
        if rate != self._rate:
            self._rate, self._left = rate, float(rate.burst)
        else:
            self._left = min(rate.burst, self._left + (now - self._at) / rate.interval)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _with_headers(send: _Send, headers: tuple[tuple[str, str], ...]) -> _Send:
    ours = [(name.lower().encode(), value.encode()) for name, value in headers]
    names = {name for name, _ in ours}

    async def dressed(message: _Message) -> None:
        if message["type"] == "http.response.start":
            others = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
            message = {**message, "headers": [*others, *ours]}
        await send(message)

    return dressed


async def _refuse(send: _Send, code: int, words: str, challenge: str) -> None:
    body = f"{words}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if challenge:
        headers.append((b"www-authenticate", challenge.encode()))
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})
