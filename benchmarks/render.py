"""What a scrape costs: rendering, compressing, memory, and how long the event loop stands still meanwhile.

python -m benchmarks.render [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import gzip
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any

from isal import igzip
from prometheus_client import CollectorRegistry, generate_latest, make_asgi_app
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from benchmarks import readings as fleet
from benchmarks import reference
from benchmarks.figures import Figure, heading, in_turns, say, table
from exporter import web
from exporter.exposition import Page, encode, render
from exporter.model import Entry, Reading, Snapshot, Watch
from exporter.store import Store

OBJECTS = "prometheus_client, metric objects"
COLLECTOR = "prometheus_client, collector"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no fleet of 1,000")
    quick = parser.parse_args().quick
    heading("Rendering")
    rounds = 3 if quick else 7
    for count in (10, 100) if quick else (10, 100, 1000):
        readings = fleet.make(count)
        page = _Page(readings)
        say(f"\n# {count:,} servers, {page.series:,} series, {len(page.scraped(False)):,} bytes")
        _pages(readings, page, rounds if quick else {10: 51, 100: 21}.get(count, rounds))
        if count >= 100:
            _stalls(readings, page, rounds)
            _gzip(page, readings, rounds)
    _memory(200)
    _arrival(fleet.make(100), rounds)
    _put(rounds)


# --- the page --------------------------------------------------------------------------------------------------------


class _Page:
    """The exporter's, of a fleet that has been looked at a few times: what is new of a reading lies where there was
    room, no more in the order of the page."""

    def __init__(self, readings: list[Reading]) -> None:
        self._store, self._late = fleet.store(readings), readings[-1]
        self.series = sum(entry.series for entry in self.snapshot().entries.values())

    def change(self) -> None:
        """A reading arrives: nothing that was made for a scrape before holds any more."""
        self._store.put(self._late)

    def snapshot(self) -> Snapshot:
        return self._store.snapshot

    def scraped(self, openmetrics: bool) -> bytes:
        return render(self.snapshot(), openmetrics)

    def sent(self, openmetrics: bool) -> int:
        """As the page goes out: nobody holds more than a piece of it."""
        return sum(map(len, Page(self.snapshot(), openmetrics).pieces()))


def _pages(readings: list[Reading], page: _Page, rounds: int) -> None:
    for form, openmetrics, generate in (
        ("text 0.0.4", False, generate_latest),
        ("OpenMetrics 1.0", True, generate_openmetrics),
    ):
        collector, objects = reference.collector(readings), reference.objects(readings)
        _same(page.scraped(openmetrics), generate(collector), f"{form}: the collector's page is another one")
        _same(_sorted(page.scraped(openmetrics)), _sorted(generate(objects)), f"{form}: the objects' lines are others")
        figures = in_turns(
            {
                "ready blocks joined": partial(page.sent, openmetrics),
                "all encoded afresh": partial(_afresh, readings, openmetrics),
                COLLECTOR: partial(generate, collector),
                OBJECTS: partial(generate, objects),
            },
            rounds,
            page.change,
        )
        milliseconds = {name: figure / 1e-3 for name, figure in figures.items()}
        table(f"One page, {form}, {rounds} rounds", "ms", milliseconds, OBJECTS)


def _afresh(readings: list[Reading], openmetrics: bool) -> int:
    return sum(map(len, Page(Snapshot(fleet.encoded(readings)), openmetrics).pieces()))


def _same(ours: object, theirs: object, otherwise: str) -> None:
    if ours != theirs:
        raise SystemExit(f"not comparable: {otherwise}")


def _sorted(page: bytes) -> list[bytes]:
    """Lines of samples alone: objects hold no unit unless their names are built from it."""
    return sorted(line for line in page.splitlines() if not line.startswith(b"#"))


# --- the event loop --------------------------------------------------------------------------------------------------


def _stalls(readings: list[Reading], page: _Page, rounds: int) -> None:
    """The longest delay that a ticker of 1 ms sees while one scrape is answered, the answer not sent anywhere."""
    objects = reference.objects(readings)
    ours = web.create_app(_Operator(page))  # type: ignore[arg-type]
    scrapes: dict[str, Callable[[], Awaitable[object]]] = {
        "no scrape": partial(asyncio.sleep, 0.05),
        "the exporter": lambda: _get(ours, []),
        "the exporter, gzip": lambda: _get(ours, [(b"accept-encoding", b"gzip")]),
        "prometheus_client's ASGI app (renders in the loop)": lambda: _get(_asgi(objects), []),
        "prometheus_client's ASGI app, gzip": lambda: _get(_asgi(objects), [(b"accept-encoding", b"gzip")]),
        "generate_latest in a thread": lambda: asyncio.to_thread(generate_latest, objects),
    }
    longest: dict[str, list[float]] = {name: [] for name in scrapes}

    async def measure() -> None:
        for name in list(scrapes) * rounds:
            page.change()
            longest[name].append(await _longest_delay(scrapes[name]) * 1e3)

    asyncio.run(measure())
    figures = {name: Figure(tuple(values)) for name, values in longest.items()}
    reference_name = "prometheus_client's ASGI app (renders in the loop)"
    table(f"Longest stall of the event loop during one scrape, {rounds} rounds", "ms", figures, reference_name)


class _Operator:
    version = "0"

    def __init__(self, page: _Page) -> None:
        self.snapshot = page.snapshot

    def rendered(self, seconds: float, size: int) -> None:
        pass

    def healthy(self) -> bool:
        return True

    def ready(self) -> bool:
        return True


def _asgi(registry: CollectorRegistry) -> Any:
    return make_asgi_app(registry)


async def _get(app: Any, headers: list[tuple[bytes, bytes]]) -> int:
    size = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal size
        size += len(message.get("body", b""))

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/metrics",
    }
    scope |= {"raw_path": b"/metrics", "query_string": b"", "root_path": "", "scheme": "http", "headers": headers}
    await app(scope, receive, send)
    return size


async def _longest_delay(scrape: Callable[[], Awaitable[object]]) -> float:
    delays: list[float] = []

    async def tick() -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + 0.001
            await asyncio.sleep(0.001)
            delays.append(clock() - due)

    gc.collect()
    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    delays.clear()
    await scrape()
    await asyncio.sleep(0.005)
    ticker.cancel()
    return max(delays)


# --- compression -----------------------------------------------------------------------------------------------------


def _gzip(page: _Page, readings: list[Reading], rounds: int) -> None:
    """Each after a join, as at a scrape."""
    size = len(page.scraped(False))
    answers: dict[str, Callable[[], bytes]] = {
        "not compressed": partial(page.scraped, False),
        "isal level 1 (the exporter)": lambda: web.compress(Page(page.snapshot(), False)),
        "isal level 1, joined whole before": lambda: igzip.compress(page.scraped(False), 1, mtime=0),
        **{f"zlib level {level}": partial(_zlib, page, level) for level in (1, 6, 9)},
        "zlib level 1, by server": lambda: _by_server(page.snapshot()),
    }
    objects = reference.objects(readings)
    figures = in_turns({**answers, OBJECTS: partial(generate_latest, objects)}, rounds, page.change)
    sizes = {name: f"{len(answer()) / size:.1%} of the page" for name, answer in answers.items()}
    milliseconds = {name: figure / 1e-3 for name, figure in figures.items()}
    table(f"Joining the page and compressing it, {rounds} rounds", "ms", milliseconds, OBJECTS, sizes)


def _zlib(page: _Page, level: int) -> bytes:
    return gzip.compress(page.scraped(False), level, mtime=0)


def _by_server(snapshot: Snapshot) -> bytes:
    """What could be kept of readings that arrive one by one. Its families would not stand together."""
    texts = (b"".join(chain(*(row[1:] for row in entry.text))) for entry in snapshot.entries.values())
    return b"".join([gzip.compress(text, 1, mtime=0) for text in texts])


# --- memory ----------------------------------------------------------------------------------------------------------


def _memory(count: int) -> None:
    """Allocations that stay (tracemalloc): three times, because dictionaries grow in steps."""
    rows: dict[str, list[float]] = {}
    for _ in range(3):
        readings, bytes_readings = _kept(lambda: fleet.make(count))
        page, bytes_page = _kept(partial(_Page, readings))
        _, bytes_objects = _kept(partial(reference.objects, readings))
        rows.setdefault("ready blocks", []).append(bytes_page / page.series)
        rows.setdefault("ready blocks and their readings", []).append((bytes_page + bytes_readings) / page.series)
        rows.setdefault(OBJECTS, []).append(bytes_objects / page.series)
    figures = {name: Figure(tuple(values)) for name, values in rows.items()}
    table(f"Memory kept for each series, {count} servers", "bytes", figures, OBJECTS)


def _kept(make: Callable[[], Any]) -> tuple[Any, int]:
    gc.collect()
    tracemalloc.start()
    try:
        made = make()
        gc.collect()
        return made, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


# --- the arrival of a reading ----------------------------------------------------------------------------------------


def _arrival(readings: list[Reading], rounds: int) -> None:
    """A reading becomes text once; metric objects are set once. Both per reading, series that exist already."""
    samples = reference.by_family(readings)
    setters = _setters(readings)
    before = [encode(reading) for reading in readings]
    figures = in_turns(
        {
            "encode": lambda: [encode(reading) for reading in readings],
            "encode, all as in the reading before": lambda: [*map(encode, readings, before)],
            "setting metric objects": lambda: [fill() for fill in setters],
        },
        rounds * 3,
    )
    series = sum(len(rows) for rows in samples.values()) / len(readings)
    microseconds = {name: figure / (len(readings) * 1e-6) for name, figure in figures.items()}
    title = f"Taking in one reading of {series:.0f} samples"
    table(title, "us", microseconds, "setting metric objects")


def _setters(readings: list[Reading]) -> list[Callable[[], None]]:
    registry = CollectorRegistry()
    setters: list[Callable[[], None]] = []
    for family, samples in reference.by_family(readings).items():
        fill = reference.filler(family, registry)
        setters += [partial(fill, sample) for sample in samples]
    return setters


def _put(rounds: int) -> None:
    """Store.put without the encoding: the price of a snapshot that never changes, and of the first round."""
    full: dict[str, Callable[[], object]] = {}
    empty: dict[str, Callable[[], object]] = {}
    sizes = {f"{count:,} watches": count for count in (10, 100, 1000)}
    for name, count in sizes.items():
        watches = [fleet.watch_of(f"s{place}", "http://s") for place in range(count)]
        readings = [Reading(watch, 0.0, 0.0) for watch in watches]
        entries = fleet.encoded(readings)
        full[name] = partial(_put_all, _filled(entries), readings)
        empty[name] = partial(_filled, entries)
    for title, contenders, turns in (
        ("Store.put, one reading into a full store", full, rounds * 3),
        ("Store.put, one reading of the first round", empty, rounds),
    ):
        figures = in_turns(contenders, turns)
        each = {name: figure / (sizes[name] * 1e-6) for name, figure in figures.items()}
        table(title, "us", each, "10 watches")


def _filled(entries: Mapping[Watch, Entry]) -> Store:
    store = Store(lambda reading, _: entries[reading.watch])
    store.plan(entries)
    _put_all(store, [entry.reading for entry in entries.values()])
    return store


def _put_all(store: Store, readings: Iterable[Reading]) -> None:
    for reading in readings:
        store.put(reading)


if __name__ == "__main__":
    main()
