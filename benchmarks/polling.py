"""What polling a fleet costs: CPU, lateness of the polls, memory and descriptors, against httpx doing the same.

    python -m benchmarks.polling [--quick] [--servers 10 100 1000]

One poll is /api/version, /api/ps and, every five minutes, /api/tags. Each contender runs in a process of its own and
measures itself; the simulated servers run in another. All contenders share one schedule, the exporter's.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks import servers
from benchmarks.figures import Figure, grid, heading, say, table
from exporter.exposition import encode, render
from exporter.fleet import Fleet, let_garbage_wait, next_due, settle, tick
from exporter.loop import Loop
from exporter.model import ApiSettings, Endpoint, Watch
from exporter.sources import SOURCES, Surroundings, build
from exporter.store import Store

EVERY = 15.0
INVENTORY_EVERY = 300.0
STARTED = 2.0
"""Seconds after which every first poll has begun."""

OURS = "the exporter's line"
OVER_HTTPX = "the same over httpx's transport"
PER_SERVER = "httpx.AsyncClient, one a server"
SHARED = "httpx.AsyncClient, one for all"
CONTENDERS = {"ours": OURS, "over-httpx": OVER_HTTPX, "per-server": PER_SERVER, "shared": SHARED}

OF_OURS = ("ours", "over-httpx")

Poll = Callable[[], Awaitable[None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one period of measurement instead of four")
    parser.add_argument("--servers", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=list(CONTENDERS))
    parser.add_argument("--child", nargs=2, metavar=("WHO", "PERIODS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(arguments.child[0], int(arguments.child[1]))
        return
    heading("Polling")
    say(f"Every {EVERY:g} s; 2 models loaded and 4 installed on each server, half of the servers in use.")
    for count in arguments.servers:
        together = count < 500
        rounds, periods = (1, 1) if arguments.quick else (1, 4) if together else (2, 2)
        with servers.running(count) as urls:
            _report(count, _measured(urls, arguments.only, rounds, periods, together=together))


def _measured(
    urls: list[str], who: list[str], rounds: int, periods: int, *, together: bool
) -> dict[str, list[dict[str, Any]]]:
    """Small fleets at the same time, because they hardly load a core; large ones in turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in who}
    for _ in range(rounds):
        if together:
            children = {name: _start(name, periods, urls) for name in who}
            for name, child in children.items():
                found[name].append(_finish(child))
        else:
            for name in who:
                found[name].append(_finish(_start(name, periods, urls)))
    return found


def _start(who: str, periods: int, urls: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.polling", "--child", who, str(periods)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None  # noqa: S101
    child.stdin.write(json.dumps(urls).encode())
    child.stdin.close()
    return child


def _finish(child: subprocess.Popen[bytes]) -> dict[str, Any]:
    with child:
        assert child.stdout is not None  # noqa: S101
        return dict(json.loads(child.stdout.read()))


def _report(count: int, found: dict[str, list[dict[str, Any]]]) -> None:
    names = {CONTENDERS[who]: runs for who, runs in found.items()}
    cpu = {
        name: Figure(tuple(value * 1e6 for run in runs for value in run["cpu_per_poll"]))
        for name, runs in names.items()
    }
    reference = PER_SERVER if PER_SERVER in names else next(iter(names))
    notes = {name: f"{figure.median / EVERY / 1e4 * count:.2g} % of a core" for name, figure in cpu.items()}
    table(f"{count:,} servers: CPU for each poll, by period of {EVERY:g} s", "us", cpu, reference, notes)
    say()
    head = [
        "",
        "servers a core",
        "late p50 ms",
        "p99",
        "max",
        "gc max ms",
        "first poll us",
        "RSS MiB before",
        "after",
        "KiB a server",
    ]
    rows = [[*head, "fds", "polls", "failed"]]
    for name, runs in names.items():
        late = sorted(value for run in runs for value in run["late"])
        before, after = (_median(runs, key) for key in ("rss_before", "rss_after"))
        rows.append(
            [
                name,
                f"{EVERY / (cpu[name].median * 1e-6):,.0f}",
                *(f"{1e3 * late[min(len(late) - 1, int(len(late) * share))]:.2f}" for share in (0.5, 0.99, 1)),
                f"{max(run['longest_gc'] for run in runs) * 1e3:.1f}",
                f"{_median(runs, 'first') * 1e6:,.0f}",
                f"{before / 2**20:.1f}",
                f"{after / 2**20:.1f}",
                f"{(after - before) / 2**10 / count:.1f}",
                f"{_median(runs, 'fds'):.0f}",
                str(sum(run["polls"] for run in runs)),
                str(sum(run["failed"] for run in runs)),
            ]
        )
    grid(rows)


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return Figure(tuple(float(run[key]) for run in runs)).median


# --- one contender, in its own process -------------------------------------------------------------------------------


class Tally:
    """What a contender tells of its polls. Stands where the fleet has its histogram of lags."""

    def __init__(self) -> None:
        self.clear()
        self._collecting = 0.0
        gc.callbacks.append(self._collect)

    def clear(self) -> None:
        self.late: list[float] = []
        self.failed = 0
        self.longest_gc = 0.0

    def observe(self, late: float) -> None:
        self.late.append(late)

    def _collect(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = time.perf_counter()
        else:
            self.longest_gc = max(self.longest_gc, time.perf_counter() - self._collecting)


def _child(who: str, periods: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    urls = json.loads(sys.stdin.buffer.read())
    # Each on the loop that it has in its program.
    with asyncio.Runner(loop_factory=Loop if who in OF_OURS else None) as runner:
        result = runner.run(_measure(who, urls, periods))
    sys.stdout.write(json.dumps(result))


async def _measure(who: str, urls: list[str], periods: int) -> dict[str, Any]:
    loop, tally = asyncio.get_running_loop(), Tally()
    # Names of their own give contenders that run at the same time different phases.
    watches = [
        Watch(f"{who}-{place}", "api", EVERY, 16.0, ApiSettings(Endpoint(url))) for place, url in enumerate(urls)
    ]
    result: dict[str, Any] = {"rss_before": _rss()}
    began = time.process_time()
    around = Surroundings(transport=_httpx_transport) if who == "over-httpx" else Surroundings()
    stop = _ours(watches, tally, around) if who in OF_OURS else _httpx(watches, tally, shared=who == "shared")
    # Everybody's first poll begins within the first seconds, the second somewhere in the period after that.
    await asyncio.sleep(STARTED)
    while len(tally.late) < len(urls):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    result["first"] = (time.process_time() - began) / len(urls)
    await asyncio.sleep(EVERY)
    tally.clear()
    cpu = []
    for _ in range(periods):
        polls, used, ends = len(tally.late), time.process_time(), loop.time() + EVERY
        await asyncio.sleep(ends - loop.time())
        cpu.append((time.process_time() - used) / max(1, len(tally.late) - polls))
    result |= {"cpu_per_poll": cpu, "late": tally.late, "polls": len(tally.late), "failed": tally.failed}
    result["longest_gc"] = tally.longest_gc
    result |= {"rss_after": _rss(), "fds": len(os.listdir("/proc/self/fd"))}
    await stop()
    return result


def _ours(watches: list[Watch], tally: Tally, around: Surroundings) -> Poll:
    let_garbage_wait()
    store = Store(encode)

    def publish(reading: Any) -> None:
        tally.failed += reading.failure is not None
        store.put(reading)

    fleet = Fleet(partial(build, around=around), publish, lambda watch: SOURCES[watch.source].reasons, tally)  # type: ignore[arg-type]
    store.plan(watches)
    fleet.apply(watches)
    running = [asyncio.create_task(fleet.run()), asyncio.create_task(settle(store.complete))]

    async def stop() -> None:
        if not store.complete() or not render(store.snapshot, False):
            raise SystemExit("some servers were never read")
        for task in running:
            task.cancel()
        await asyncio.wait(running)

    return stop


def _httpx_transport(_: Endpoint) -> httpx.AsyncBaseTransport:
    return httpx.AsyncHTTPTransport(verify=False, limits=httpx.Limits(max_connections=2), trust_env=False)


def _httpx(watches: list[Watch], tally: Tally, *, shared: bool) -> Poll:
    one = httpx.AsyncClient(timeout=5.0, trust_env=False) if shared else None
    step = tick(len(watches) / EVERY)
    tasks = [asyncio.create_task(_loop(watch, one, tally, place, step)) for place, watch in enumerate(watches)]

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        for task in tasks:
            await asyncio.wait([task])
        if one is not None:
            await one.aclose()

    return stop


async def _loop(watch: Watch, shared: httpx.AsyncClient | None, tally: Tally, place: int, step: float) -> None:
    """The three requests on the fleet's own schedule, their answers decoded and kept; no more."""
    loop = asyncio.get_running_loop()
    client = shared or httpx.AsyncClient(timeout=5.0, trust_env=False)
    url, tags_due = watch.settings.endpoint.url, 0.0  # type: ignore[attr-defined]
    due = loop.time() + place * 0.002
    try:
        while True:
            await asyncio.sleep(due - loop.time())
            tally.observe(max(0.0, loop.time() - due))
            paths = ["/api/version", "/api/ps"]
            if loop.time() >= tags_due:
                paths.append("/api/tags")
                tags_due = loop.time() + INVENTORY_EVERY
            try:
                _ = [(await client.get(url + path)).json() for path in paths]
            except (httpx.HTTPError, ValueError):
                tally.failed += 1
            due = next_due(watch, loop.time(), watch.every, step)
    finally:
        if shared is None:
            await client.aclose()


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
