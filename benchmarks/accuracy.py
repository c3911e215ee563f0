"""What the exporter says of an Ollama server beside what really happened there, under a mixed load.

    python -m benchmarks.accuracy --ollama 127.0.0.1:11434 --exporter http://127.0.0.1:8082 --server NAME \
        --chat MODEL [--chat MODEL ...] [--embed MODEL] [--seconds 300] [--clients 8] [--kill]

The server has to be one of your own, on this machine, with nothing else to do: what this traffic does is the truth. Its
runners are watched in the process table ten times a second; with --kill one of them is killed in the middle of each
third of the run. A reading's moment is known to the length of the reading; where the truth changed within it, both
values are right and the reading is called ambiguous.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.figures import say
from benchmarks.traffic import Book, Client, Kind, idle_connections, mix
from exporter import catalog
from exporter.model import Family

_CLOCKS = 0.012
"""Seconds by which the books of two processes may differ: scheduling, and the kernel's ticks."""
_TO_A_SLOT = 0.25
"""Seconds that Ollama and its runner take at most, on a busy machine, to put a request into a free slot."""
_WEIGHTS: Mapping[Kind, float] = {"stream": 4.0, "plain": 3.0, "quit": 1.0, "truncated": 0.1}

Page = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(slots=True)
class Readings:
    """Of one source: (start, end, page) of each."""

    source: str
    seen: list[tuple[float, float, Page]] = field(default_factory=list)


def _listener(port: int) -> int:
    """The process that listens on a TCP port of this machine."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == "LISTEN" and connection.laddr and connection.laddr.port == port and connection.pid:
            return int(connection.pid)
    raise SystemExit(f"nobody listens on port {port}, or it is not shown to us")


class Runners:
    """Every runner of the server, as the process table shows it."""

    def __init__(self, port: int) -> None:
        self._serve = psutil.Process(_listener(port))
        self.alive: dict[int, psutil.Process] = {}
        self.started: list[int] = []
        self.killed = 0

    async def watch(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(0.1)

    def look(self) -> None:
        now = {}
        for child in self._serve.children():
            with contextlib.suppress(psutil.Error):
                if child.status() != psutil.STATUS_ZOMBIE and "--model" in child.cmdline():
                    now[child.pid] = child
        self.started += [pid for pid in now if pid not in self.alive]
        self.alive = now

    def kill_one(self) -> None:
        self.look()
        for process in list(self.alive.values())[:1]:
            process.send_signal(signal.SIGKILL)
            self.killed += 1


class Exporter:
    def __init__(self, url: str, server: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=10.0)
        self._server = server
        self.sources = {name: Readings(name) for name in ("sockets", "runner", "logs")}

    async def page(self) -> Page:
        text = (await self._client.get("/metrics")).text
        found: Page = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name, frozenset(sample.labels.items())] = sample.value
        return found

    async def watch(self) -> None:
        while True:
            page = await self.page()
            for source, readings in self.sources.items():
                labels = {"server": self._server, "source": source}
                end = value(page, catalog.SOURCE_LAST_ATTEMPT, **labels)
                if end and (not readings.seen or readings.seen[-1][1] != end):
                    took = value(page, catalog.SOURCE_DURATION, **labels) or 0.0
                    readings.seen.append((end - took, end, page))
            await asyncio.sleep(0.4)

    async def aclose(self) -> None:
        await self._client.aclose()


def value(page: Page, family: Family, **labels: str) -> float | None:
    """The sum of all series that have these labels; None when there is none."""
    found = [
        number
        for (name, given), number in page.items()
        if name == family.name and labels.items() <= dict(given).items()
    ]
    return sum(found) if found else None


def compared(
    readings: Readings, measure: Callable[[Page], float | None], truth: Callable[[float, float], tuple[int, int]]
) -> str:
    right = wrong = ambiguous = absent = 0
    off: Counter[float] = Counter()
    for start, end, page in readings.seen:
        measured = measure(page)
        low, high = truth(start - _CLOCKS, end + _CLOCKS)
        if measured is None:
            absent += 1
        elif low <= measured <= high:
            right += 1
            ambiguous += low != high
        else:
            wrong += 1
            off[measured - (low if measured < low else high)] += 1
    total = right + wrong
    share = f"{right / total:.1%}" if total else "-"
    return (
        f"{right} of {total} right ({share}; {ambiguous} ambiguous), {absent} absent; off by {dict(off) or 'nothing'}"
    )


async def run(options: argparse.Namespace) -> None:
    host, _, port = options.ollama.rpartition(":")
    address, book = (host, int(port)), Book()
    kinds: dict[tuple[str, Kind], float] = {
        (model, kind): weight for model in options.chat for kind, weight in _WEIGHTS.items()
    }
    if options.embed:
        kinds[options.embed, "embed"] = 1.0
    runners, exporter = Runners(int(port)), Exporter(options.exporter, options.server)
    warm = Client(*address, Book(), 0)
    for model in options.chat:
        await warm.ask(model, "plain")
    if options.embed:
        await warm.ask(options.embed, "embed")
    warm.close()
    await asyncio.sleep(6.0)  # what the warming did is in the exporter's first page
    runners.look()
    runners.started.clear()
    first = await exporter.page()
    begun, used = time.time(), _cpu(options.exporter)
    watchers = [asyncio.create_task(runners.watch()), asyncio.create_task(exporter.watch())]
    if options.kill:
        watchers.append(asyncio.create_task(_kill(runners, options.seconds)))
    with idle_connections(address, 3):
        await mix(address, book, kinds, options.clients, options.seconds, options.seed)
    await asyncio.sleep(12.0)
    for watcher in watchers:
        watcher.cancel()
    last = await exporter.page()
    await exporter.aclose()
    took, spent = time.time() - begun, _cpu(options.exporter) - used
    for line in _report(options, book, runners, exporter, first, last):
        say(line)
    say(f"\nexporter: {spent / took:.2%} of a core over {took:.0f} s, all its sources together")


def _cpu(url: str) -> float:
    times = psutil.Process(_listener(httpx.URL(url).port or 80)).cpu_times()
    return float(times.user + times.system)


async def _kill(runners: Runners, seconds: float) -> None:
    await asyncio.sleep(seconds / 6)
    for _ in range(3):
        runners.kill_one()
        await asyncio.sleep(seconds / 3)


def _report(
    options: argparse.Namespace, book: Book, runners: Runners, exporter: Exporter, first: Page, last: Page
) -> Iterator[str]:
    server = options.server

    def gained(family: Family, **labels: str) -> float:
        return (value(last, family, server=server, **labels) or 0.0) - (
            value(first, family, server=server, **labels) or 0.0
        )

    sockets, runner = exporter.sources["sockets"], exporter.sources["runner"]
    kinds = Counter(request.kind for request in book.requests)
    yield f"requests: {len(book.requests)} ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})"
    yield "\n| measured | against the truth |\n|---|---|"
    measured = compared(sockets, lambda page: value(page, catalog.SOCKETS_UNANSWERED, server=server), book.unanswered)
    yield f"| unanswered requests | {measured} |"
    steady = not runners.started
    for model in (*options.chat, *([options.embed] if options.embed else [])):
        slots = value(last, catalog.RUNNER_SLOTS, server=server, model=model)
        if slots:
            yield f"| busy slots of {model} ({slots:g}) | {_busy(runner, book, server, model, int(slots), steady)} |"
    tokens = sum(request.tokens for request in book.requests)
    ended = sum(request.tokens for request in book.requests if request.complete)
    yield f"| generated tokens (runner) | {gained(catalog.RUNNER_TOKENS):.0f} of {tokens} |"
    yield f"| generated tokens seen (runner, /slots alone) | {gained(catalog.RUNNER_TOKENS_SEEN):.0f} of {tokens} |"
    yield f"| generated tokens (logs) | {gained(catalog.LOG_GENERATED_TOKENS):.0f} of {ended} of complete answers |"
    starts, begun = gained(catalog.RUNNER_STARTS), gained(catalog.LOG_LOADS_BEGUN)
    yield f"| loads (runner, log) | {starts:.0f}, {begun:.0f} of {len(runners.started)} |"
    died = gained(catalog.LOG_EVENTS, kind="runner_died")
    seen = gained(catalog.RUNNER_ENDS, reason="died")
    yield f"| runners killed (runner, log) | {seen:.0f}, {died:.0f} of {runners.killed} |"
    cut = sum(request.kind == "truncated" and request.status == 200 for request in book.requests)
    yield f"| prompts truncated (log) | {gained(catalog.LOG_EVENTS, kind='prompt_truncated'):.0f} of {cut} answered |"
    for family, status in (("2xx", 2), ("4xx", 4), ("5xx", 5)):
        true = sum(request.status // 100 == status and request.status != 503 for request in book.requests)
        logged = gained(catalog.LOG_REQUESTS, status=family, api_endpoint="/api/chat")
        logged += gained(catalog.LOG_REQUESTS, status=family, api_endpoint="/api/embed")
        yield f"| requests {family} (log) | {logged:.0f} of {true} by their clients |"
    refused = sum(request.status == 503 for request in book.requests)
    yield f"| requests 503 (log) | {gained(catalog.LOG_REQUESTS, status='503'):.0f} of {refused} |"


def _busy(readings: Readings, book: Book, server: str, model: str, slots: int, steady: bool) -> str:
    """A loaded model works on as many requests as it has slots, if there are so many: a request has its slot within
    `_TO_A_SLOT`. While models come and go only streams that have begun are certainly in a slot."""

    def truth(start: float, end: float) -> tuple[int, int]:
        low, high = book.in_flight(start - _TO_A_SLOT, end, model)
        if not steady:
            low, _ = book.streaming(start, end, model)
        return min(low, slots), min(high, slots)

    return compared(readings, lambda page: value(page, catalog.RUNNER_SLOTS_BUSY, server=server, model=model), truth)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ollama", default="127.0.0.1:11434")
    parser.add_argument("--exporter", default="http://127.0.0.1:8082")
    parser.add_argument("--server", required=True)
    parser.add_argument("--chat", action="append", required=True)
    parser.add_argument("--embed")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill", action="store_true")
    asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
