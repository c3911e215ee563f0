"""What the current snapshot says, for a person at 3 a.m. Pure: a snapshot and a time in, words out.

Nothing is remembered and nothing is asked: it is the same truth as on /metrics. `page.py` makes HTML of it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from exporter import catalog
from exporter.gaps import Gap, gaps
from exporter.model import Distribution, Family, Reading, Reason, Snapshot, Watch

NAME_MAX = 80
_LINES_MAX = 8
_PINNED_SECONDS = 10 * 365 * 86400.0
_LONG_WAIT_SECONDS = 30.0

Level = Literal["bad", "warn", "unknown", "ok"]
BY_URGENCY: tuple[Level, ...] = ("bad", "warn", "unknown", "ok")

_STATES: Mapping[str, tuple[Level, str]] = {
    "ok": ("ok", "answers"),
    "stalled": ("warn", "answers, but not about its models"),
    "starting": ("warn", "takes connections, but is silent"),
    "down": ("bad", "does not answer"),
    "unknown": ("unknown", "its state is not told"),
}

REASONS: Mapping[Reason, str] = {
    "dns": "name does not resolve",
    "refused": "connection refused",
    "unreachable": "host unreachable",
    "reset": "connection reset",
    "tls": "TLS failed",
    "connect_timeout": "no connection in time",
    "timeout": "no answer in time",
    "forbidden_host": "our Host header is refused",
    "http_4xx": "HTTP error 4xx",
    "http_5xx": "HTTP error 5xx",
    "redirect": "answered with a redirect",
    "too_large": "answer too large",
    "decode": "answer cannot be decoded",
    "malformed": "answer makes no sense",
    "unavailable": "not available here",
    "bug": "bug in the exporter, see its log",
}


LEFT_OUT: Mapping[str, str] = {
    "unreachable": "container without an address that we can reach",
    "invalid": "no URL or no name",
    "name_taken": "name of another server",
    "address_taken": "address of another server",
    "limit": "more than limits.servers",
}


@dataclass(frozen=True, slots=True)
class Canary:
    """How the last one ended: a word, and what is to be said beside it."""

    level: Level = "ok"
    word: str = ""
    rest: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is loaded, or that a canary is in doubt about though it is not. `expires`: a phrase."""

    name: str
    loaded: bool
    size: float | None
    vram: float | None
    context: float | None
    expires: str
    busy: bool
    canary: Canary


@dataclass(frozen=True, slots=True)
class Server:
    """`why`: what is wrong with it, if anything is. `reading`: the one that tells its state."""

    name: str
    url: str
    state: str
    level: Level
    why: str
    version: str
    loaded: float | None
    installed: float | None
    reading: Reading
    models: tuple[Model, ...]

    def doubtful(self) -> list[Model]:
        return [model for model in self.models if model.canary.level != "ok"]


@dataclass(frozen=True, slots=True)
class Search:
    """A place in which servers are looked for. `left_out` and `failures`: counts by reason, those that are not 0."""

    name: str
    level: Level
    servers: float | None
    left_out: Mapping[str, float]
    failures: Mapping[str, float]
    last_good: str


@dataclass(frozen=True, slots=True)
class Status:
    """How bad it is and why, what there is (the urgent first), and a few words about the exporter itself."""

    level: Level
    headline: str
    lines: Sequence[str]
    servers: Sequence[Server]
    readings: Sequence[Reading]
    awaited: Sequence[Watch]
    gaps: Sequence[Gap]
    searches: Sequence[Search]
    about: Sequence[str]


def survey(snapshot: Snapshot, now: float, version: str) -> Status:
    facts = _Facts(snapshot)
    servers = sorted(_servers(snapshot, facts, now), key=_urgency)
    everything = [entry.reading for entry in snapshot.entries.values()]
    level, headline, lines = _verdict(servers, everything, facts)
    searches = sorted(_searches(facts, now), key=lambda search: search.level == "ok")
    about = _about(facts, now, version)
    return Status(level, headline, lines, servers, everything, snapshot.awaited, gaps(everything), searches, about)


def _urgency(server: Server) -> tuple[int, bool]:
    return BY_URGENCY.index(server.level), not server.doubtful()


def late(reading: Reading, now: float) -> bool:
    """Whether the next reading should have come long ago."""
    return now - reading.at > 3 * reading.watch.every + reading.watch.within


def last_good(reading: Reading, now: float) -> str:
    at = reading.succeeded_at
    return "no good reading yet" if at is None else f"last good reading {ago(now - at)}"


# --- the verdict -----------------------------------------------------------------------------------------------------


def _verdict(servers: Sequence[Server], readings: Sequence[Reading], facts: _Facts) -> tuple[Level, str, list[str]]:
    configured = facts.value(catalog.EXPORTER_SERVERS)
    failing = [f"{short(server.name)} is {server.state}: {server.why}" for server in servers if server.level != "ok"]
    doubts = [_doubt(model, server) for server in servers if server.level == "ok" for model in server.doubtful()]
    good = len(servers) - len(failing)
    headline = f"{good:,} of {_count(len(servers), 'server')} answer{'s' if len(servers) == 1 else ''}"
    levels: set[Level] = {server.level for server in servers} or {"unknown"}
    if not servers:
        headline = "No server is configured or found" if configured == 0 else "No server has been looked at yet"
    elif len(failing) == 1 and len(servers) > 1:
        headline, failing = failing[0], [headline]
    if doubts:
        levels.add("warn")
        headline += "" if failing else f", {_count(len(doubts), 'model')} in doubt"
    lines = [*failing, *doubts]
    if len(lines) > _LINES_MAX:
        lines[_LINES_MAX:] = [f"and {len(lines) - _LINES_MAX:,} more"]
    if configured is not None and configured > len(servers) > 0:
        lines.append(f"{_count(int(configured) - len(servers), 'more server')} not looked at yet")
    beside = _beside(servers, readings)
    if beside:
        levels.add("warn")
        lines.append(beside)
    blind = [name for name in facts.firsts(catalog.DISCOVERY_UP) if facts.value(catalog.DISCOVERY_UP, name) == 0]
    if blind:
        levels.add("warn")
        lines.append(f"Discovery fails ({', '.join(blind)}): the servers that it found before stay")
    if facts.value(catalog.EXPORTER_RELOAD_OK) == 0:
        levels.add("warn")
        lines.append("The last reload of the configuration failed: the one before it is in force")
    return next(level for level in BY_URGENCY if level in levels), headline, lines


def _beside(servers: Sequence[Server], readings: Sequence[Reading]) -> str:
    """Sources that fail though their server answers, or of this machine: no outage, but something goes unseen."""
    well = {"", *(server.name for server in servers if server.level == "ok")}
    failing = [reading.watch for reading in readings if reading.failure and reading.watch.server in well]
    if not failing:
        return ""
    first = f"{failing[0].source} of {short(failing[0].server) or 'this machine'}"
    more = f", and {len(failing) - 1:,} more" if len(failing) > 1 else ""
    return f"{_count(len(failing), 'more source')} fail{'s' if len(failing) == 1 else ''}: {first}{more}"


def _doubt(model: Model, server: Server) -> str:
    return f"{short(model.name)} on {short(server.name)}: canary {model.canary.word} {model.canary.rest}"


def _about(facts: _Facts, now: float, version: str) -> list[str]:
    started, memory = facts.value(catalog.PROCESS_START), facts.value(catalog.PROCESS_RSS)
    series, config = facts.value(catalog.EXPORTER_SERIES), facts.first(catalog.EXPORTER_CONFIG)
    words = [
        f"ollama-exporter {version}",
        f"config {config}" if config else "",
        f"{whole(series)} series" if series else "",
        f"{size(memory)} memory" if memory else "",
        f"up {_duration(now - started)}" if started else "",
    ]
    return [word for word in words if word]


def _searches(facts: _Facts, now: float) -> Iterator[Search]:
    for name in facts.firsts(catalog.DISCOVERY_UP):
        success = facts.value(catalog.DISCOVERY_SUCCESS, name)
        yield Search(
            name=name,
            level="ok" if facts.value(catalog.DISCOVERY_UP, name) == 1 else "warn",
            servers=facts.value(catalog.DISCOVERY_SERVERS, name),
            left_out=facts.counts(catalog.DISCOVERY_LEFT_OUT, name),
            failures=facts.counts(catalog.DISCOVERY_FAILURES, name),
            last_good="never" if success is None else ago(now - success),
        )


# --- servers and models ----------------------------------------------------------------------------------------------


class _Facts:
    """The plain samples, by family and label values; those about servers also by server."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._values: dict[Family, dict[tuple[str, ...], float]] = defaultdict(dict)
        self._of: dict[tuple[Family, str], list[tuple[str, ...]]] = defaultdict(list)
        for entry in snapshot.entries.values():
            for sample in entry.reading.samples:
                if not isinstance(sample.value, Distribution):
                    self._values[sample.family][sample.labels] = sample.value
                    self._of[sample.family, sample.labels[0] if sample.labels else ""].append(sample.labels[1:])

    def value(self, family: Family, *labels: str) -> float | None:
        """A number that can be spelt out; what is none can be seen on /metrics."""
        value = self._values[family].get(labels)
        return value if value is not None and math.isfinite(value) else None

    def of(self, family: Family, server: str) -> Sequence[tuple[str, ...]]:
        """The label values beside the server's name."""
        return self._of.get((family, server), ())

    def word(self, family: Family, server: str) -> str:
        """The label of an info that has only one beside the server's name."""
        return next((labels[-1] for labels in self.of(family, server)), "")

    def firsts(self, family: Family) -> list[str]:
        """The values of the first label of a family that is not about servers."""
        return [labels[0] for labels in self._values[family]]

    def first(self, family: Family) -> str:
        """The first label of an info that is not about servers."""
        return next(iter(self.firsts(family)), "")

    def counts(self, family: Family, first: str) -> dict[str, float]:
        """By the last label, those that are not 0."""
        return {labels[-1]: value for labels, value in self._values[family].items() if labels[0] == first and value}


def _servers(snapshot: Snapshot, facts: _Facts, now: float) -> Iterator[Server]:
    for name, reading in _telling(snapshot).items():
        states = [state for (state,) in facts.of(catalog.STATE, name) if facts.value(catalog.STATE, name, state) == 1]
        known = len(states) == 1 and states[0] in _STATES and not late(reading, now)
        state = states[0] if known else "unknown"
        yield Server(
            name=name,
            url=facts.word(catalog.SERVER_INFO, name),
            state=state,
            level=_STATES[state][0],
            why="" if state == "ok" else _why(state, reading, now),
            version=facts.word(catalog.BUILD_INFO, name),
            loaded=facts.value(catalog.LOADED_MODELS, name),
            installed=facts.value(catalog.INSTALLED_MODELS, name),
            reading=reading,
            models=tuple(_models(name, facts, now)),
        )


def _telling(snapshot: Snapshot) -> dict[str, Reading]:
    """For each server the reading that tells its state, or the first there is."""
    found: dict[str, Reading] = {}
    for watch, entry in snapshot.entries.items():
        tells = any(sample.family is catalog.STATE for sample in entry.reading.samples)
        if watch.server and (tells or watch.server not in found):
            found[watch.server] = entry.reading
    return found


def _why(state: str, reading: Reading, now: float) -> str:
    if late(reading, now):
        return f"last looked at {ago(now - reading.at)}, the exporter is late"
    reason, meaning = REASONS[reading.failure] if reading.failure else "", _STATES[state][1]
    if state == "down":
        meaning = reason or meaning
    elif reason:
        meaning = f"{meaning} ({reason})"
    return f"{meaning}, {last_good(reading, now)}"


def _models(server: str, facts: _Facts, now: float) -> Iterator[Model]:
    families = (catalog.LOADED_SIZE, catalog.LOADED_VRAM, catalog.LOADED_EXPIRY, catalog.LOADED_INFO)
    loaded = {labels[0] for family in families for labels in facts.of(family, server)}
    probed = {labels[0] for labels in facts.of(catalog.CANARY_LAST_ATTEMPT, server)}
    clock = now + (facts.value(catalog.CLOCK_OFFSET, server) or 0.0)
    for name in sorted(loaded | probed):
        canary = _canary(server, name, facts, now)
        if name not in loaded and canary.level == "ok":
            continue
        expiry = facts.value(catalog.LOADED_EXPIRY, server, name)
        yield Model(
            name=name,
            loaded=name in loaded,
            size=facts.value(catalog.LOADED_SIZE, server, name),
            vram=facts.value(catalog.LOADED_VRAM, server, name),
            context=facts.value(catalog.LOADED_CONTEXT, server, name),
            expires="" if expiry is None else _expiry(expiry - clock),
            busy=facts.value(catalog.KNOWN_BUSY, server, name) == 1,
            canary=canary,
        )


def _canary(server: str, model: str, facts: _Facts, now: float) -> Canary:
    """As far as its times and counters can tell."""
    attempt = facts.value(catalog.CANARY_LAST_ATTEMPT, server, model)
    success = facts.value(catalog.CANARY_LAST_SUCCESS, server, model)
    pending = facts.value(catalog.CANARY_PENDING, server, model)
    before = "never ok yet" if success is None else f"last ok {ago(now - success)}"
    if pending is not None:
        level: Level = "warn" if now - pending > _LONG_WAIT_SECONDS else "ok"
        return Canary(level, "waiting", f"for {_duration(now - pending)}, {before}")
    if facts.value(catalog.CANARY_STOPPED, server, model) == 1:
        return Canary("warn", "stopped", f"as it seemed to cause a load, {before}")
    if attempt is None:
        return Canary()
    if success is not None and success >= attempt:
        return Canary("ok", "ok", ago(now - success))
    outcomes = [outcome for name, outcome in facts.of(catalog.CANARY_ATTEMPTS, server) if name == model]
    bad = [word for word in outcomes if word != "ok" and facts.value(catalog.CANARY_ATTEMPTS, server, model, word)]
    why = f" ({bad[0].replace('_', ' ')})" if len(bad) == 1 else ""
    return Canary("warn", "failed", f"{ago(now - attempt)}{why}, {before}")


# --- numbers and names for people ------------------------------------------------------------------------------------


def short(name: str) -> str:
    return name if len(name) <= NAME_MAX else f"{name[: NAME_MAX - 1]}…"


def whole(number: float | None) -> str:
    return "" if number is None else f"{number:,.0f}"


def size(number: float | None) -> str:
    """Decimal units, as in Ollama's own tables."""
    if number is None:
        return ""
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if abs(number) < 999.5:
            break
        number, unit = number / 1000, larger
    return f"{number:.1f} {unit}" if abs(number) < 9.95 and unit != "B" else f"{number:,.0f} {unit}"


def ago(seconds: float) -> str:
    return f"{_duration(seconds)} ago"


def took(seconds: float) -> str:
    if seconds < 0.001:
        return "< 1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:,.1f} s"


def _duration(seconds: float) -> str:
    """The two largest units that matter: `34 s`, `4 min 12 s`, `3 h 5 min`, `2 d 4 h`."""
    left = max(0, round(seconds))
    for length, unit, below, unit_below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if left >= length:
            rest = left % length // below
            return f"{left // length:,} {unit}" + (f" {rest} {unit_below}" if rest else "")
    return f"{left} s"


def _expiry(seconds: float) -> str:
    if seconds > _PINNED_SECONDS:
        return "pinned"
    return f"in {_duration(seconds)}" if seconds >= 0 else f"{_duration(-seconds)} overdue"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
