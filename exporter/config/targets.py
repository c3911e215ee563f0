"""What a target of /probe means, and which targets an allow-list lets through. Pure; nothing is resolved here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from exporter.config.addresses import host_and_port, parse_url
from exporter.config.kinds import Wrong, plain, seen

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_PORT = 11434
_TARGET_MAX = 512

_SPECIAL: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4",
            # ::/96, 64:ff9b::/96, 2002::/16 and 2001::/32 are IPv4 addresses in disguise.
            "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fe80::/10", "fec0::/10", "ff00::/8",
        ),
    )
)  # fmt: skip
"""Unspecified, loopback, link-local, multicast, reserved. Only an entry that lies within one of them opens it."""
_METADATA: frozenset[Address] = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192",
            "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
        ),
    )
)  # fmt: skip
"""Where clouds tell a machine its credentials. Only an entry for the very address opens one."""
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Allowed:
    """An entry of an allow-list: the name of a host (`*.` before it stands for every name below it), or a network; an
    address is a network of one."""

    name: str = ""
    network: Network | None = None

    def __str__(self) -> str:
        if self.network is None:
            return self.name
        return str(self.network.network_address if self.network.num_addresses == 1 else self.network)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in canonical form, without a path; `address` where its host is one."""

    url: str
    host: str
    port: int
    address: Address | None = None


# --- reading ---------------------------------------------------------------------------------------------------------


def parse_allowed(raw: object) -> Allowed:
    written = raw.lower() if isinstance(raw, str) else ""
    if "/" in written or _address(written) is not None:
        try:
            return Allowed(network=_plain_network(ipaddress.ip_network(written)))
        except ValueError:
            raise Wrong(f"must be a network such as 10.0.0.0/8, without bits behind it, got {seen(raw)}") from None
    if not _is_name(written.removeprefix("*.")):
        raise Wrong(f"must be a host, *.domain, an address or a network, got {seen(raw)}")
    return Allowed(name=written)


ALLOWED = plain("host, \\*.domain, address or network", parse_allowed, str)


def parse_target(raw: str) -> Target:
    """`http://gpu1:11434`, `gpu1:11434`, `gpu1`. Raises Wrong for what is none, or is written so that others may read
    something else in it."""
    if len(raw) > _TARGET_MAX:
        raise Wrong(f"is longer than {_TARGET_MAX} characters")
    url = parse_url(raw if "://" in raw else f"http://{raw}{_missing_port(raw)}")
    if url.count("/") > 2:
        raise Wrong("must have no path")
    scheme = url.partition("://")[0]
    host, _, port = host_and_port(url).rpartition(":")
    host = host.removesuffix(".")
    address = _address(host)
    if address is None and not _is_name(host):
        raise Wrong(f"must name a host or an address in its usual form, got {seen(raw)}")
    shown = host if address is None else f"[{address}]" if address.version == 6 else str(address)
    return Target(parse_url(f"{scheme}://{shown}:{port}"), str(address or host), int(port), address)


def _missing_port(raw: str) -> str:
    return f":{DEFAULT_PORT}" if re.fullmatch(r"[^:/\[\]@]+|\[[^\[\]@/]*\]", raw) else ""


def _is_name(host: str) -> bool:
    """A last label that is a number makes it an address in an unusual form: 127.1, 0x7f000001, 017700000001."""
    return len(host) <= 253 and _NAME.fullmatch(host) is not None and not _NUMERIC.fullmatch(host.rpartition(".")[2])


def _address(host: str) -> Address | None:
    """Of an IPv4 address that is written as IPv6, the IPv4 address, for that is where the packets go."""
    if "%" in host:
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _plain_network(network: Network) -> Network:
    mapped = ipaddress.IPv6Network("::ffff:0:0/96")
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(mapped):
        return ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


# --- judging ---------------------------------------------------------------------------------------------------------


def lets_through(entries: Iterable[Allowed], target: Target) -> bool:
    """Whether the list has the target by its name, or its address. Where a name leads is judged by `may_lead_to`."""
    if target.address is not None:
        return _opens(entries, target.address)
    return any(_names(entry, target.host) for entry in entries if entry.name)


def may_lead_to(entries: Iterable[Allowed], name: str, resolved: str) -> bool:
    """Whether the host of this name, which the list has, may have this address: any but a special one, which the list
    must have for itself. `localhost` is loopback by its definition."""
    address = _address(resolved.partition("%")[0])
    if address is None:
        return False
    if name == "localhost":
        return any(_holds(network, address) for network in _LOOPBACK)
    return not _is_special(address) or _opens(entries, address)


def _names(entry: Allowed, host: str) -> bool:
    return host.endswith(entry.name[1:]) if entry.name.startswith("*.") else host == entry.name


def _opens(entries: Iterable[Allowed], address: Address) -> bool:
    return any(_holds(each.network, address) and _means(each.network, address) for each in entries if each.network)


def _means(network: Network, address: Address) -> bool:
    """A wide network was not written with its special addresses in mind."""
    if address in _METADATA:
        return network.num_addresses == 1
    within = [special for special in _SPECIAL if _holds(special, address)]
    return all(_is_within(network, special) for special in within)


def _is_special(address: Address) -> bool:
    return address in _METADATA or any(_holds(special, address) for special in _SPECIAL)


def _holds(network: Network | None, address: Address) -> bool:
    return network is not None and address.version == network.version and address in network


def _is_within(network: Network, other: Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return network.subnet_of(other)
    if isinstance(network, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network):
        return network.subnet_of(other)
    return False
