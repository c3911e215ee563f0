"""From a server's URL to where it listens on this machine: our own network, a container's, or out of sight."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from exporter.local import Place, processes, sockets
from exporter.local.processes import Process, Table
from exporter.local.sockets import Listener
from exporter.model import Lacking

# They hold a published port for a container; docker-proxy is understood better, by its command line.
_FORWARDERS = frozenset({"docker-proxy", "rootlesskit", "rootlessport", "conmon", "slirp4netns", "pasta"})
_ELSEWHERE = "run an exporter on its machine; if that is this one, and it runs in a container, with pid: host"
_NOT_OLLAMA = "point servers[].url at Ollama itself"
_OWNER_HIDDEN = "run the exporter as root, or add CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
_CONNECT_TIMEOUT = 1.0


class Finder:
    """Finds servers. `table`: Ollama's processes; `forwards`: command lines of docker-proxy; `answers`: whether
    somebody takes a connection to address and port."""

    def __init__(
        self,
        table: Table,
        proc: Path = Path("/proc"),
        forwards: Callable[[], Iterable[tuple[str, ...]]] = lambda: processes.named("docker-proxy"),
        answers: Callable[[str, int], bool] | None = None,
    ) -> None:
        self._table, self._proc = table, proc
        self._forwards = forwards
        self._answers = answers or _answers

    def find(self, url: str) -> Place:
        """Raises Lacking when it is out of sight, LookupError when nobody listens there now, OSError when the kernel
        does not tell."""
        host, port = _host_and_port(url)
        addresses = _resolve(host)
        ours = [address for address in addresses if sockets.is_ours(address)]
        for address in ours:
            fitting = _fitting(sockets.listeners(port), address, port)
            if fitting:
                return self._owned(url, fitting)
        for address in addresses:
            if address not in ours:
                place = self._of_container(address, port)
                if place is not None:
                    return place
        if not ours:
            raise Lacking(f"{host} is not seen on this machine", _ELSEWHERE)
        if not any(self._answers(address, port) for address in ours):
            raise LookupError(f"nobody listens on port {port}")
        return self._published(port)

    def _owned(self, url: str, fitting: tuple[Listener, ...]) -> Place:
        """Somebody in our own network listens there: who?"""
        for listener in fitting:
            behind = _behind_docker_proxy(listener, self._forwards())
            if behind is not None:
                place = self._of_container(*behind)
                if place is None:
                    raise Lacking("the container behind this port is out of sight", "run the exporter with pid: host")
                return place
        serves = self._table.serves()
        pid = processes.owner(fitting[0].inode, self._proc, [serve.pid for serve in serves])
        serve = next((serve for serve in serves if serve.pid == pid), None) or self._newcomer(pid)
        addresses = tuple((listener.address, listener.port) for listener in fitting)
        if serve is not None:
            return self._place(addresses, serve, None)
        if pid == os.getpid():
            return Place(addresses)
        if pid is not None:
            program = processes.name(pid)
            if program in _FORWARDERS:
                return self._published(fitting[0].port)
            raise Lacking(f"{program or 'another program'}, not Ollama, listens on port {fitting[0].port}", _NOT_OLLAMA)
        if url.startswith("https:"):
            raise Lacking("what listens there speaks TLS, which Ollama does not", _NOT_OLLAMA)
        return self._of_hidden_owner(addresses, fitting[0], serves)

    def _newcomer(self, pid: int | None) -> Process | None:
        """A server that has been started since the table of processes was made."""
        if pid is None or not processes.is_ollama(pid):
            return None
        self._table.forget()
        return next((serve for serve in self._table.serves() if serve.pid == pid), None)

    def _of_hidden_owner(
        self, addresses: tuple[tuple[str, int], ...], listener: Listener, serves: tuple[Process, ...]
    ) -> Place:
        if not serves:  # a shared network without a shared process table
            return Place(addresses)
        suspects = [serve for serve in serves if serve.uid == listener.uid and self._hears(serve, listener.inode)]
        if len(suspects) != 1:
            raise Lacking(f"who listens on port {listener.port} is hidden", _OWNER_HIDDEN)
        return self._place(addresses, suspects[0], None)

    def _of_container(self, address: str, port: int) -> Place | None:
        """The server in another network that this address belongs to."""
        for serve in self._table.serves():
            if address in self._addresses(serve.pid):
                fitting = [
                    listener
                    for listener in _fitting(self._heard(serve.pid), address, port)
                    if self._may_own(serve, listener)
                ]
                if fitting:
                    return self._elsewhere(serve, fitting)
        return None

    def _published(self, port: int) -> Place:
        """The kernel passes this port on to a container, and does not tell whose. Clear only when there is just one."""
        found: list[tuple[Process, list[Listener]]] = []
        for serve in self._table.serves():
            if not any(sockets.is_ours(address) for address in self._addresses(serve.pid) if not _is_loopback(address)):
                heard = [one for one in self._heard(serve.pid) if self._may_own(serve, one) and _takes_any(one)]
                if heard:
                    found.append((serve, heard))
        if not found:
            raise Lacking(f"port {port} leads to a container that is out of sight", "run the exporter with pid: host")
        if len(found) > 1:
            raise Lacking(
                f"port {port} leads to one of {len(found)} containers", "point servers[].url at the container's address"
            )
        return self._elsewhere(*found[0])

    def _elsewhere(self, serve: Process, fitting: Iterable[Listener]) -> Place:
        addresses = tuple((listener.address, listener.port) for listener in fitting)
        return self._place(addresses, serve, os.fspath(self._proc / str(serve.pid) / "ns" / "net"))

    def _place(self, addresses: tuple[tuple[str, int], ...], serve: Process, namespace: str | None) -> Place:
        return Place(addresses, namespace, serve.pid, serve.started, self._cgroup(serve.pid))

    def _cgroup(self, pid: int) -> str:
        lines = _text(self._proc / str(pid) / "cgroup").splitlines()
        for mark in ("0::", ":name=systemd:"):
            for line in lines:
                if mark in line and line.split(":", 2)[-1] != "/":
                    return line.split(":", 2)[-1]
        return ""

    def _may_own(self, serve: Process, listener: Listener) -> bool:
        """Of a listener in the network of `serve`. When its open files are hidden from us, the user must do."""
        held = processes.holds(self._proc / str(serve.pid) / "fd", listener.inode)
        return listener.uid == serve.uid if held is None else held

    def _hears(self, serve: Process, inode: int) -> bool:
        return any(listener.inode == inode for listener in self._heard(serve.pid))

    def _heard(self, pid: int) -> tuple[Listener, ...]:
        """All that listens in the network of this process."""
        folder = self._proc / str(pid) / "net"
        return (*parse_listening(_text(folder / "tcp")), *parse_listening(_text(folder / "tcp6")))

    def _addresses(self, pid: int) -> frozenset[str]:
        """All addresses in the network of this process."""
        folder = self._proc / str(pid) / "net"
        return frozenset((*parse_fib_trie(_text(folder / "fib_trie")), *parse_if_inet6(_text(folder / "if_inet6"))))


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _resolve(host: str) -> tuple[str, ...]:
    """A host's addresses, none twice. A wildcard is where a connection to it goes: the loopback."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Lacking(f"{host} has no address", "see why the exporter cannot resolve the name") from None
    plain = dict.fromkeys(sockets.plain(str(address[4][0])) for address in found)
    return tuple({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address) for address in plain)


def _fitting(listeners: Iterable[Listener], address: str, port: int) -> tuple[Listener, ...]:
    """The listeners that get a connection to this address: the kernel takes those that fit it most closely."""
    ranked = [(listener.takes(address), listener) for listener in listeners if listener.port == port]
    best = max((rank for rank, _ in ranked), default=0)
    return tuple(listener for rank, listener in ranked if rank == best > 0)


def _behind_docker_proxy(listener: Listener, forwards: Iterable[tuple[str, ...]]) -> tuple[str, int] | None:
    """Address and port in the container, as docker-proxy's arguments tell: it may belong to root, and need not show
    that the port is its."""
    for arguments in forwards:
        told = {flag: processes.argument(arguments, flag) or "" for flag in ("-host-ip", "-container-ip")}
        port = processes.argument(arguments, "-container-port") or ""
        if (
            processes.argument(arguments, "-proto") == "tcp"
            and processes.argument(arguments, "-host-port") == str(listener.port)
            and told["-host-ip"] == listener.address
            and port.isdecimal()
        ):
            with contextlib.suppress(ValueError):
                return sockets.plain(told["-container-ip"]), int(port)
    return None


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), _CONNECT_TIMEOUT).close()
    except OSError as error:
        return error.errno is not None and error.errno not in (errno.ECONNREFUSED, errno.EHOSTUNREACH)
    return True


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")


def _takes_any(listener: Listener) -> bool:
    return listener.address in ("0.0.0.0", "::")


def _text(path: Path) -> str:
    """Empty where there is none, or none for us."""
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""


def parse_listening(text: str) -> Iterator[Listener]:
    """The listening sockets of /proc/PID/net/tcp or tcp6, by lines such as

    `   0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 926169 1 ...`
    """
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == "0A":
            address, _, port = fields[1].partition(":")
            yield Listener(_hex_address(address), int(port, 16), int(fields[9]), int(fields[7]), 0, 0)


def _hex_address(text: str) -> str:
    """Of words in the machine's byte order."""
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return sockets.plain(socket.inet_ntop(family, b"".join(words)))


_LOCAL = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")


def parse_fib_trie(text: str) -> frozenset[str]:
    """The addresses of IPv4 that belong to a network namespace."""
    return frozenset(_LOCAL.findall(text))


def parse_if_inet6(text: str) -> frozenset[str]:
    """The addresses of IPv6 that belong to a network namespace."""
    found = (line.split() for line in text.splitlines())
    return frozenset(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[0])) for fields in found if fields)
