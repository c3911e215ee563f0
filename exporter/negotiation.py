"""What a client may be given (Accept and Accept-Encoding: RFC 9110, 12.5), the headers that it always gets, and how a
long body goes out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# Worth saying only to who asks about it: our names need no escaping, so every scheme comes out as this one.
ESCAPING = "; escaping=underscores"
PLAIN = "text/plain; charset=utf-8"

# A quoted string is one piece whatever it contains; one that never ends reaches to the end. Nothing here backtracks.
_QUOTED = r'"(?:\\.|[^"\\])*(?:"|\\?\Z)'
_ELEMENTS = re.compile(rf'(?:[^,"]|{_QUOTED})+', re.DOTALL)
_PARAMETERS = re.compile(rf'(?:[^;"]|{_QUOTED})+', re.DOTALL)
_QUALITY = re.compile(r"0?\.[0-9]+|[01](?:\.0*)?", re.ASCII)

_BY_VERSION, _BY_TYPE, _BY_FAMILY, _BY_WILDCARD, _NOT = 4, 3, 2, 1, 0


@dataclass(frozen=True, slots=True)
class _Offer:
    """One element of Accept or Accept-Encoding, in lower case."""

    name: str
    quality: float
    parameters: Mapping[str, str]


_NOTHING = _Offer("", 0.0, {})


def content_type(accept: str) -> str:
    """Text, unless the client would rather have OpenMetrics, which it must name or admit instead of text."""
    offers = list(_offers(accept))
    text_rank, text = _best(offers, "text/plain", "0.0.4")
    rank, openmetrics = _best(offers, "application/openmetrics-text", "1.0.0")
    ours, theirs = (openmetrics.quality, rank), (text.quality, text_rank)
    if openmetrics.quality == 0 or ours < theirs or (ours == theirs and rank < _BY_TYPE):
        return TEXT
    return OPENMETRICS + ESCAPING if "escaping" in openmetrics.parameters else OPENMETRICS


def _best(offers: Sequence[_Offer], media_type: str, version: str) -> tuple[int, _Offer]:
    """The offer that speaks for this form: the most specific one that fits it, whether it allows or forbids."""
    ranked = ((_rank(offer, media_type, version), offer) for offer in offers)
    fitting = [(rank, offer) for rank, offer in ranked if rank is not _NOT]
    return max(fitting, key=lambda pair: (pair[0], pair[1].quality), default=(_NOT, _NOTHING))


def _rank(offer: _Offer, media_type: str, version: str) -> int:
    if offer.name == media_type:
        wanted = offer.parameters.get("version")
        return _BY_TYPE if wanted is None else _BY_VERSION if wanted == version else _NOT
    if offer.name == f"{media_type.partition('/')[0]}/*":
        return _BY_FAMILY
    return _BY_WILDCARD if offer.name in ("*/*", "*") else _NOT


def accepts_gzip(accept_encoding: str) -> bool:
    qualities = {offer.name: offer.quality for offer in _offers(accept_encoding)}
    wanted = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return wanted > 0 and wanted >= qualities.get("identity", 0.0)


def _offers(header: str) -> Iterator[_Offer]:
    """The elements whose quality can be read; one that cannot be is no offer."""
    for element in _ELEMENTS.findall(header.lower()):
        name, *rest = _PARAMETERS.findall(element) or [""]
        pairs = (piece.partition("=") for piece in rest)
        parameters = {key.strip(): value.strip().strip('"') for key, _, value in pairs}
        quality = parameters.pop("q", "1")
        if _QUALITY.fullmatch(quality):
            yield _Offer(name.strip(), float(quality), parameters)


class Pieces(Protocol):
    """A body that is made while it is sent, `size` bytes in all."""

    @property
    def size(self) -> int: ...

    def pieces(self) -> Iterator[bytes]: ...


class _InPieces(Response):
    """The next piece is made when the connection has taken the one before: a slow client costs no copy of the body."""

    def __init__(self, body: Pieces, code: int, headers: Mapping[str, str]) -> None:
        super().__init__(b"", code, {**headers, "Content-Length": str(body.size)})
        self._pieces = body.pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def respond(body: bytes | Pieces, content_type: str, headers: Mapping[str, str], code: int = 200) -> Response:
    common = {"Content-Type": content_type, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    if isinstance(body, bytes):
        return Response(body, code, {**common, **headers})
    return _InPieces(body, code, {**common, **headers})
