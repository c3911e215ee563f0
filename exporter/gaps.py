"""What the sources could see if something were given, and what helps where they fail, for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.model import Lack, Reading, Reason

ADVICE: Mapping[Reason, str] = {
    "dns": "the host's name is not known here; is it right, and does this machine (or container) resolve it?",
    "refused": "nothing listens on this port; is Ollama up, and bound to more than loopback (its OLLAMA_HOST)?",
    "unreachable": "no way to this address from here; routes, firewall?",
    "reset": "the connection was closed in the middle; a proxy between, or TLS on a plain port?",
    "tls": "TLS failed; tls.ca_file for an own authority, https:// only where the server speaks it.",
    "connect_timeout": "no connection within connect_timeout; a firewall that drops?",
    "timeout": "connected, but no answer within timeout; is it starting, or loading a model?",
    "forbidden_host": "it refuses this Host, because it is bound to a loopback address; host_header: localhost helps.",
    "http_4xx": "refused by status; credentials, or a wrong path in url?",
    "http_5xx": "the server, or a proxy before it, failed.",
    "redirect": "it points elsewhere; put the final URL into url.",
    "too_large": "the answer is larger than any of Ollama's.",
    "decode": "the answer is not JSON; is this Ollama?",
    "malformed": "the answer is not what Ollama tells; is this Ollama?",
    "unavailable": "part of it cannot be read; the log tells which.",
    "bug": "this is a mistake in the exporter; the log has a traceback. Please report it.",
}

_INSIDE_ADVICE: Mapping[Reason, str] = {
    "refused": "nothing listens on its port; a runner that is just beginning or ending, or one that hangs?",
    "timeout": "what is looked at gives no answer; a disk, a daemon or a process that hangs? The log may tell.",
    "malformed": "what is looked at says something that this exporter does not understand; is it newer?",
}


def what_helps(source: str, reason: Reason) -> str:
    """What helps where this source fails for this reason. Not every source asks over HTTP."""
    inside = {} if source in ("api", "canary", "native") else _INSIDE_ADVICE
    return inside.get(reason, ADVICE[reason])


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
