"""What the load tester costs and how true it is, beside a bare loop and locust, against a server that is known.

    python -m benchmarks.load [--quick] [--locust PYTHON]

So many users each hold one stream after the other without a pause: a stream is 20 tokens, the first after 200 ms, then
one every 100 ms, so that N users are N streams at any time and N/2.1 requests a second. `--locust` names a Python that
has locust, which is no dependency of ours.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from benchmarks import streams
from benchmarks.figures import grid, heading, say
from exporter.loadtest.measure import Histogram
from exporter.loadtest.outcomes import Result
from exporter.loadtest.run import Run, Target
from exporter.loadtest.scenario import PhaseSection, load
from exporter.loadtest.tally import Tally
from exporter.loadtest.verdict import own_p99
from exporter.loadtest.wire import HttpWire
from exporter.model import Endpoint

FIRST, GAP, TOKENS = 0.2, 0.1, 20
_IDEAL = FIRST + (TOKENS - 1) * GAP
_THINK = 0.001
_RAMP = 5.0
"""Seconds in which the users come, one after the other; nothing is taken meanwhile."""
_LOCUST = """
import sys, time, json
from locust import FastHttpUser, constant, task, events
class User(FastHttpUser):
    wait_time = constant(0)
    @task
    def ask(self):
        began = time.perf_counter()
        with self.client.post("/api/generate", data='{"model":"m"}', stream=True, catch_response=True) as response:
            first = None
            for piece in response.iter_content(chunk_size=90):  # a token's line: with its 1,024 the first would be late
                if first is None and piece:
                    first = time.perf_counter() - began
            response.success()
            events.request.fire(request_type="TTFT", name="ttft", response_time=1000 * (first or 0), response_length=0,
                                exception=None, context={})
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--locust")
    parser.add_argument("--child", nargs=4)
    given = parser.parse_args()
    if given.child:
        _child(*given.child)
        return
    heading("Load")
    seconds = 8.0 if given.quick else 20.0
    for users in (174, 1000, 3000):
        _compare(users, seconds, given.locust)
    _stall(given.quick)


def _compare(users: int, seconds: float, locust: str | None) -> None:
    say(f"\n## {users:,} streams at once, {seconds:g} s\n")
    head = ["", "requests/s", "of ideal", "TTFT p50 ms", "p99", "error p50 ms", "error p99", "own lag p99 ms",
            "% of a core", "streams a core"]  # fmt: skip
    rows = [head]
    with streams.running(FIRST, GAP, TOKENS) as url:
        for who in ("ours", "bare"):
            command = [sys.executable, "-m", "benchmarks.load", "--child", who, url, str(users), str(seconds)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append(_row({"ours": "the load tester", "bare": "a bare loop (asyncio streams)"}[who], users, found))
        if locust:
            rows.append(_row("locust, FastHttpUser", users, _locust(locust, url, users, seconds)))
    grid(rows)


def _row(name: str, users: int, found: dict[str, Any]) -> list[str]:
    def ms(key: str) -> str:
        return "–" if found.get(key) is None else f"{1000 * found[key]:.1f}"

    core = found["cpu"] / found["seconds"]
    return [
        name, f"{found['rate']:.1f}", f"{found['rate'] / (users / _IDEAL):.1%}", ms("ttft_p50"), ms("ttft_p99"),
        ms("error_p50"), ms("error_p99"), ms("lag_p99"), f"{core:.0%}", f"{users / core:,.0f}" if core else "–",
    ]  # fmt: skip


# --- contenders, each in a process of its own -------------------------------------------------------------------------


def _child(who: str, url: str, users: str, seconds: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, int(users) + 200), hard), hard))
    contender = {"ours": _ours, "bare": _bare}[who]
    sys.stdout.write(json.dumps(asyncio.run(contender(url, int(users), float(seconds)))))


async def _ours(url: str, users: int, seconds: float) -> dict[str, Any]:
    """As `session` runs it, without a display."""
    smoke = load("smoke", {"users": users, "warm_up": False, "seed": 1})
    phases = (PhaseSection(name="ramp", duration=_RAMP, start=0.0, end=1.0),
              PhaseSection(name="steady", duration=seconds, start=1.0, end=None))  # fmt: skip
    workload = replace(smoke.workloads[0], think=_THINK)
    scenario = replace(smoke, workloads=(workload,), abort_on=None, phases=phases, settle=_RAMP)
    tally, errors = Tally(scenario), Histogram()
    ended = 0

    def hear(result: Result) -> None:
        nonlocal ended
        tally.hear(result)
        ended += _RAMP <= result.ended_at < _RAMP + seconds
        if result.at >= _RAMP and result.ttft is not None:
            errors.record(abs(result.ttft - FIRST))

    run = Run(scenario, [Target("s", HttpWire(Endpoint(url)))], hear, tally.gaps_of)
    gc.collect()
    gc.freeze()
    loop = asyncio.get_running_loop()
    spent: list[float] = []

    def steady() -> None:
        spent.append(_cpu())
        run.watch.lag = Histogram()

    loop.call_later(_RAMP, steady)
    loop.call_later(_RAMP + seconds, lambda: spent.append(_cpu()))
    await run.run()
    done = tally.all.ttft
    return {
        "rate": ended / seconds, "ttft_p50": _at(done, 0.5), "ttft_p99": _at(done, 0.99), "error_p50": _at(errors, 0.5),
        "error_p99": _at(errors, 0.99), "lag_p99": own_p99(run.watch.lag), "cpu": spent[1] - spent[0],
        "seconds": seconds,
    }  # fmt: skip


async def _bare(url: str, users: int, seconds: float) -> dict[str, Any]:
    """As one would write it: a connection for each user, asyncio's streams, the first line timed, the rest read."""
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    ttft, errors, ended = Histogram(), Histogram(), 0
    body = b'{"model":"m"}'
    request = b"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    start = loop.time() + _RAMP
    end = start + seconds

    async def user(number: int) -> None:
        nonlocal ended
        await asyncio.sleep(_RAMP * number / users)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while loop.time() < end:
            began = loop.time()
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n")
            first = None
            while (size := int(await reader.readline(), 16)) > 0:
                line = await reader.readexactly(size + 2)
                if first is None:
                    first = loop.time() - began
                    if began >= start:
                        ttft.record(first)
                        errors.record(abs(first - FIRST))
                if b'"done": true' in line:
                    json.loads(line)
            await reader.readline()
            ended += start <= loop.time() < end
        writer.close()

    spent: list[float] = []
    for moment in (start, end):
        loop.call_at(moment, lambda: spent.append(_cpu()))
    await asyncio.gather(*map(user, range(users)))
    return {
        "rate": ended / seconds, "ttft_p50": _at(ttft, 0.5), "ttft_p99": _at(ttft, 0.99), "error_p50": _at(errors, 0.5),
        "error_p99": _at(errors, 0.99), "lag_p99": None, "cpu": spent[1] - spent[0], "seconds": seconds,
    }  # fmt: skip


def _locust(python: str, url: str, users: int, seconds: float) -> dict[str, Any]:
    """Its own statistics are rounded to a millisecond, and then to two digits."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "locustfile.py"
        script.write_text(_LOCUST, "utf-8")
        command = [python, "-m", "locust", "-f", str(script), "--headless", "-u", str(users), "-r",
                   str(users / _RAMP), "--reset-stats", "-t", f"{_RAMP + seconds:.0f}s", "-H", url,
                   "--json"]  # fmt: skip
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    rows = {row["name"]: row for row in json.loads(done.stdout[done.stdout.index("[") :])}
    first = rows["ttft"]
    ordered = sorted((float(value), count) for value, count in first["response_times"].items())

    def at(q: float) -> float:
        seen = 0
        for value, count in ordered:
            seen += count
            if seen >= q * first["num_requests"]:
                return value / 1000
        return ordered[-1][0] / 1000

    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # Its CPU is that of its whole life, over all of it: its ramp, in which there are fewer users, flatters it.
    return {
        "rate": first["num_requests"] / (first["last_request_timestamp"] - first["start_time"]), "ttft_p50": at(0.5),
        "ttft_p99": at(0.99), "error_p50": abs(at(0.5) - FIRST),
        "error_p99": abs(at(0.99) - FIRST),
        "lag_p99": None, "cpu": spent, "seconds": took,
    }  # fmt: skip


# --- correctness ------------------------------------------------------------------------------------------------------


def _stall(quick: bool) -> None:
    """2 s in every 10 in which nothing begins: a fifth of what is due waits, up to 2 s; p99 is 1.9 s, p50 the usual."""
    seconds = 20 if quick else 60
    say(f"\n## A server that stands still for 2 s in every 10, {seconds} s\n")
    rows = [["", "requests", "p50 s", "p90", "p99", "max", "beyond 0.5 s"]]
    expected = ["by arithmetic, for what is due", "", "0.01", "1.01", "1.91", "2.01", "15.0%"]
    with streams.running(0.01, 0.001, 3, 2.0, 10.0) as url:
        for name, given in (("open loop, 40/s", {"rate": 40.0}), ("closed loop, 20 users", {"users": 20})):
            found = asyncio.run(_stalled(url, given, seconds))
            rows.append(
                [name, f"{found.count:,}", *(f"{_at(found, q):.2f}" for q in (0.5, 0.9, 0.99)), f"{found.max:.2f}",
                 f"{found.above(0.5) / found.count:.1%}"]
            )  # fmt: skip
    grid([rows[0], expected, *rows[1:]])


async def _stalled(url: str, given: dict[str, object], seconds: int) -> Histogram:
    scenario = load("smoke", {**given, "duration": f"{seconds}s", "warm_up": False})
    scenario = replace(scenario, workloads=(replace(scenario.workloads[0], think=0.5),), abort_on=None)
    tally = Tally(scenario)
    await Run(scenario, [Target("s", HttpWire(Endpoint(url)))], tally.hear, tally.gaps_of).run()
    return tally.all.ttft


def _at(values: Histogram, q: float) -> float:
    return values.at_rank(max(1, round(q * values.count))) or 0.0


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
