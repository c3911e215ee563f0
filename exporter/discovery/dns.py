"""Servers behind names in DNS: the addresses of a name, or what its SRV records say.

A name that does not exist has no servers; one that cannot be asked for keeps those that it had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.config import Server
from exporter.config.places import DnsSd
from exporter.discovery.targets import ADDRESS, Seen, Target, Trouble, joined

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

_WITHIN = 10.0
"""Seconds for one name, all DNS servers and search domains together."""


class DnsFinder:
    def __init__(self, settings: DnsSd) -> None:
        self._settings = settings
        self._resolver: Resolver | None = None
        self._known: dict[str, tuple[Target, ...]] = {}

    async def look(self, configured: Sequence[Server]) -> Seen:
        # Anew each time: whoever changes /etc/resolv.conf restarts nothing.
        resolver = await asyncio.to_thread(_resolver, self._settings.server)
        names = self._settings.names
        results = await asyncio.gather(*(self._asked(resolver, name) for name in names))
        troubles: list[Trouble] = []
        for name, result in zip(names, results, strict=True):
            if isinstance(result, Trouble):
                troubles.append(result)
            else:
                self._known[name] = result
        targets = tuple(target for name in names for target in self._known.get(name, ()))
        return Seen(targets, (), tuple(troubles))

    async def aclose(self) -> None:
        pass

    async def _asked(self, resolver: Resolver, name: str) -> tuple[Target, ...] | Trouble:
        import dns.exception
        import dns.resolver

        try:
            answer = await resolver.resolve(name, self._settings.type, search=True, lifetime=_WITHIN)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return ()
        except dns.exception.Timeout:
            return Trouble("timeout", f"{name}: no DNS server answers in time")
        except (dns.exception.DNSException, OSError, UnicodeError, ValueError) as error:
            return Trouble("dns", f"{name}: DNS gives no answer ({type(error).__name__})")
        targets = (self._target(name, record) for record in answer)
        return tuple(sorted(filter(None, targets), key=lambda each: each.labels[ADDRESS]))

    def _target(self, name: str, record: object) -> Target | None:
        import dns.rdtypes.IN.SRV

        labels = {"__meta_dns_name": name}
        if not isinstance(record, dns.rdtypes.IN.SRV.SRV):
            return Target({**labels, ADDRESS: joined(str(record), self._settings.port)})
        host = record.target.to_text()
        if host == ".":  # "decidedly not available" (RFC 2782)
            return None
        told = {"__meta_dns_srv_record_target": host, "__meta_dns_srv_record_port": str(record.port)}
        return Target({**labels, **told, ADDRESS: joined(host.rstrip("."), record.port)})


def _resolver(server: tuple[str, int] | None) -> Resolver:
    from dns.asyncresolver import Resolver
    from dns.resolver import NoResolverConfiguration

    try:
        resolver = Resolver(configure=server is None)
    except (NoResolverConfiguration, OSError):
        raise Trouble("unavailable", "/etc/resolv.conf names no DNS server (discovery[].dns.server does)") from None
    if server is not None:
        resolver.nameservers, resolver.port = [server[0]], server[1]
    resolver.timeout = 2.0
    return resolver
