"""A tiny DNS server on a loopback port: what it says, it says over UDP, and a test may change it at any time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Records = dict[tuple[str, str], list[str]]
"""(name with its dot, type) -> records as they stand in a zone file."""


class DnsServer(asyncio.DatagramProtocol):
    """Names that have no record of any type do not exist. `silent`: names about which nothing is said. `broken`: names
    for which it has no answer."""

    port: int
    _transport: asyncio.DatagramTransport

    def __init__(self, records: Records) -> None:
        self.records = records
        self.silent: set[str] = set()
        self.broken: set[str] = set()
        self.garbles = False
        self.asked: list[tuple[str, str]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        if name in self.silent:
            return
        self._transport.sendto(b"nonsense" if self.garbles else self._answer(query, name, kind).to_wire(), addr)

    def _answer(self, query: dns.message.Message, name: str, kind: str) -> dns.message.Message:
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if name in self.broken:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif (name, kind) in self.records:
            answer.answer.append(dns.rrset.from_text_list(name, 60, "IN", kind, self.records[name, kind]))
        elif not any(each == name for each, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer


@asynccontextmanager
async def dns_server(records: Records) -> AsyncIterator[DnsServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: DnsServer(records), ("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
