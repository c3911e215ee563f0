"""What the sources could see if something were given, put together for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exporter.model import Lack, Reading


@dataclass(frozen=True, slots=True)
class Gap:
    """One lack of one source, and the servers that have it (none: it is this machine's)."""

    source: str
    lack: Lack
    servers: tuple[str, ...]


def gaps(readings: Iterable[Reading]) -> tuple[Gap, ...]:
    """Each lack once, in the order of the readings."""
    found: dict[tuple[str, Lack], list[str]] = {}
    for reading in readings:
        for lack in reading.lacks:
            servers = found.setdefault((reading.watch.source, lack), [])
            if reading.watch.server:
                servers.append(reading.watch.server)
    return tuple(Gap(source, lack, tuple(servers)) for (source, lack), servers in found.items())
