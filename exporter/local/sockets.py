"""TCP sockets, as the kernel tells of them by INET_DIAG: the same that `ss -ti` prints. Needs no privilege.

The protocol is spoken here: four structures. A library for it decodes a hundred fields of every socket, of which six
are wanted, and takes the kernel's refusal for an empty list.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from exporter.threads import apart

_T = TypeVar("_T")

ESTABLISHED, LISTEN = 1, 10

_SOCK_DIAG = 4
_BY_FAMILY, _ERROR, _DONE = 20, 2, 3
_REQUEST_DUMP = 0x301
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBBI")  # family, protocol, extensions, padding, states; then source and destination port
_PORTS = struct.Struct(">HH")
_REST = bytes(44)  # of the socket's identity: addresses, interface, cookie
_MESSAGE = struct.Struct("=BBBB4s16s16sIQIIIII")  # family ... ports, addresses, interface, cookie, expires, queues, ids
_ATTRIBUTE = struct.Struct("=HH")
_INFO, _V6ONLY = 2, 11
_INFO_WANTED = 1 << (_INFO - 1)
_AGES = struct.Struct("=44xI4xII")  # of tcp_info: last_data_sent, last_data_recv, last_ack_recv in milliseconds
_SEGMENTS = struct.Struct("=136xI12xII")  # of tcp_info: segs_out, data_segs_in, data_segs_out
_ACKED, _RECEIVED, _SENT = 120, 128, 200  # where in tcp_info: bytes_acked, bytes_received, bytes_sent (since 4.19)
_CLONE_NEWNET = 0x40000000
_BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket. `address`: `0.0.0.0` or `::` when it takes any; `v6only`: not even those of IPv4.
    `queue`: connections not taken yet, `queue_max`: how many there may be."""

    address: str
    port: int
    inode: int
    uid: int
    queue: int
    queue_max: int
    v6only: bool = False

    def takes(self, address: str) -> int:
        """How well it fits a connection to this address, as the kernel ranks them: 0 not at all."""
        if self.address == address:
            return 3
        if self.address == "0.0.0.0":
            return 2 if ":" not in address else 0
        if self.address == "::":
            return 1 if ":" in address or not self.v6only else 0
        return 0


@dataclass(frozen=True, slots=True)
class Established:
    """One end of an established connection; our machine's is `local`. Addresses of IPv4 in IPv6 are written as IPv4.
    Bytes so far, and the segments that they came in; ages in seconds; `last_acknowledged`: since the peer's last
    acknowledgement, `acknowledged`: how many we sent with nothing to say beside."""

    local: tuple[str, int]
    peer: tuple[str, int]
    inode: int
    cookie: int
    received: int
    sent: int
    last_received: float
    last_sent: float
    last_acknowledged: float
    acknowledged: int
    segments_received: int
    segments_sent: int


def listeners(port: int = 0) -> tuple[Listener, ...]:
    """Listening sockets of this thread's network namespace, on one port or on all. Raises OSError."""
    return tuple(_listener(message) for message in _both(LISTEN, sport=port))


def established(*, sport: int = 0, dport: int = 0) -> tuple[Established, ...]:
    """Established connections of this thread's network namespace with this local or remote port. Raises OSError."""
    found = []
    for message in _both(ESTABLISHED, sport, dport):
        end = _established(message)
        if end is not None:
            found.append(end)
    return tuple(found)


def inside(namespace: str | None, act: Callable[[], _T]) -> _T:
    """What `act` returns in that network namespace (`/proc/PID/ns/net`; None: ours). Raises OSError.

    It runs in a thread that ends there: one that came back could be left behind in a foreign network.
    """
    if namespace is None:
        return act()

    def visit() -> _T:
        _enter(namespace)
        return act()

    return apart(visit)


def is_ours(address: str) -> bool:
    """Whether this address belongs to this machine, as the thread's namespace sees it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _enter(namespace: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(handle, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class _Message:
    local: tuple[str, int]
    peer: tuple[str, int]
    inode: int
    uid: int
    cookie: int
    queues: tuple[int, int]
    attributes: bytes

    def attribute(self, wanted: int) -> bytes:
        at = 0
        while at + _ATTRIBUTE.size <= len(self.attributes):
            length, kind = _ATTRIBUTE.unpack_from(self.attributes, at)
            if kind == wanted:
                return self.attributes[at + _ATTRIBUTE.size : at + length]
            at += max(_ATTRIBUTE.size, (length + 3) & ~3)
        return b""


def _both(state: int, sport: int = 0, dport: int = 0) -> Iterator[_Message]:
    family: int
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            yield from _dump(family, state, sport, dport)
        except OSError as error:
            # A kernel without IPv6 has none of its sockets either.
            if family != socket.AF_INET6 or error.errno not in (errno.ENOENT, errno.EAFNOSUPPORT):
                raise


def _dump(family: int, state: int, sport: int, dport: int) -> Iterator[_Message]:
    if not hasattr(socket, "AF_NETLINK"):
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
    extensions = _INFO_WANTED if state == ESTABLISHED else 0
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, extensions, 0, 1 << state) + _PORTS.pack(sport, dport) + _REST
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
        kernel.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + request)
        while True:
            answer = memoryview(kernel.recv(_BUFFER))
            at = 0
            while at < len(answer):
                length, kind, *_ = _HEADER.unpack_from(answer, at)
                body = answer[at + _HEADER.size : at + length]
                if kind in (_DONE, _ERROR):  # the end of a list tells, too, whether there was none to be had
                    number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                yield _message(body)
                at += (length + 3) & ~3


def _message(body: memoryview) -> _Message:
    (family, _, _, _, ports, here, there, _, cookie, _, rqueue, wqueue, uid, inode) = _MESSAGE.unpack_from(body)
    sport, dport = _PORTS.unpack(ports)
    return _Message(
        (_address(family, here), sport),
        (_address(family, there), dport),
        inode,
        uid,
        cookie,
        (rqueue, wqueue),
        bytes(body[_MESSAGE.size :]),
    )


_MAPPED = bytes(10) + b"\xff\xff"


def _address(family: int, raw: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    if raw.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


def plain(address: str) -> str:
    """An IP address in the notation of this module: IPv4 in IPv6 as IPv4, without a zone."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _listener(message: _Message) -> Listener:
    address, port = message.local
    queue, queue_max = message.queues
    v6only = message.attribute(_V6ONLY)[:1] == b"\x01"
    return Listener(address, port, message.inode, message.uid, queue, queue_max, v6only)


def _established(message: _Message) -> Established | None:
    """None where the socket was closed while the kernel wrote its list."""
    info = message.attribute(_INFO)
    if len(info) < _SEGMENTS.size:
        return None
    sent_ago, received_ago, acknowledged_ago = _AGES.unpack_from(info)
    segments, received, sent = _SEGMENTS.unpack_from(info)
    sent_at = _SENT if len(info) >= _SENT + 8 else _ACKED
    return Established(
        message.local,
        message.peer,
        message.inode,
        message.cookie,
        int.from_bytes(info[_RECEIVED : _RECEIVED + 8], sys.byteorder),
        int.from_bytes(info[sent_at : sent_at + 8], sys.byteorder),
        received_ago / 1000,
        sent_ago / 1000,
        acknowledged_ago / 1000,
        max(0, segments - sent - 1),  # the first opened the connection
        received,
        sent,
    )
