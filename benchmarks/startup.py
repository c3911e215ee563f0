"""What starting costs: until the exporter is ready, until its first whole page, at rest, and module by module.

    python -m benchmarks.startup [--quick]

Three simulated servers in another process. CPU is what the kernel counts for the exporter's process, in steps of 10 ms.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

import psutil

from benchmarks import servers
from benchmarks.figures import Figure, grid, heading, say, table

PATIENCE = 30.0
REST = 5.0
EXPORTER = "the exporter, to its first whole page"
REFERENCES = {
    "python, nothing imported": "pass",
    "import asyncio": "import asyncio",
    "import prometheus_client, httpx, starlette, uvicorn, psutil": (
        "import asyncio, prometheus_client, httpx, uvicorn, psutil, starlette.applications, starlette.routing"
    ),
    "import exporter.__main__": "import exporter.__main__",
    "import exporter.app": "import exporter.app",
}
REFERENCE = "import prometheus_client, httpx, starlette, uvicorn, psutil"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 3 if parser.parse_args().quick else 9
    heading("Starting")
    with servers.running(3) as urls:
        _report(urls, rounds)
    _imports("exporter.app")


def _report(urls: list[str], rounds: int) -> None:
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for turn in range(rounds):
        for name, code in REFERENCES.items():
            for what, value in _imported(code).items():
                found[what][name].append(value)
        for what, value in _started(urls, rest=turn == rounds - 1).items():
            found[what][EXPORTER].append(value)
    titles = {"cpu": "CPU, ms", "wall": "Wall time, ms", "rss": "Resident memory, MiB"}
    for what, title in titles.items():
        rows = {name: Figure(tuple(values)) for name, values in found[what].items()}
        table(f"{title}, {rounds} rounds", title.rsplit(maxsplit=1)[-1], rows, REFERENCE)
    idle = {what: values[EXPORTER][0] for what, values in found.items() if what not in titles}
    say("\n## After the first page\n")
    grid([["", ""], *([what, f"{value:,.1f}"] for what, value in idle.items())])


def _imported(code: str) -> dict[str, float]:
    """A process that imports and ends."""
    tell = "; import resource as r, os; u = r.getrusage(0); m = open('/proc/self/statm').read().split()[1]"
    tell += "; print((u.ru_utime + u.ru_stime) * 1e3, int(m) * r.getpagesize() / 2**20)"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code + tell], check=True, capture_output=True, text=True)
    wall = (time.perf_counter() - started) * 1e3
    cpu, rss = map(float, done.stdout.split())
    return {"cpu": cpu, "wall": wall, "rss": rss}


def _started(urls: list[str], *, rest: bool) -> dict[str, float]:
    port = _free_port()
    command = [sys.executable, "-m", "exporter", "--web.listen-address", f"127.0.0.1:{port}"]
    env = {**os.environ, "OLLAMA_EXPORTER_SERVERS": ",".join(urls)}
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        child = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            process = psutil.Process(child.pid)
            figures = _first_page(child, process, port, started)
            if rest:
                figures |= _at_rest(process, port)
        except _NeverReady as error:
            log.seek(0)
            raise SystemExit(f"{error}; its log:\n{log.read().decode(errors='replace')}") from None
        finally:
            stopped = time.perf_counter()
            child.terminate()
            child.wait(PATIENCE)
        if rest:
            figures["time to stop after SIGTERM, ms"] = (time.perf_counter() - stopped) * 1e3
    return figures


class _NeverReady(Exception):
    pass


def _first_page(child: subprocess.Popen[bytes], process: psutil.Process, port: int, started: float) -> dict[str, float]:
    while _get(port, "/-/ready")[0] != 200:
        if child.poll() is not None or time.perf_counter() - started > PATIENCE:
            raise _NeverReady("the exporter did not get ready")
        time.sleep(0.005)
    status, page = _get(port, "/metrics")
    wall = (time.perf_counter() - started) * 1e3
    whole = page.count(b"\nollama_up{")
    if status != 200 or whole != 3:
        raise _NeverReady(f"the first page has status {status} and tells of {whole} servers instead of 3")
    return {"cpu": _cpu(process) * 1e3, "wall": wall, "rss": process.memory_info().rss / 2**20}


def _at_rest(process: psutil.Process, port: int) -> dict[str, float]:
    before, since = _cpu(process), time.perf_counter()
    time.sleep(REST)
    percent = (_cpu(process) - before) / (time.perf_counter() - since) * 100
    series = sum(not line.startswith(b"#") for line in _get(port, "/metrics")[1].splitlines())
    return {
        f"CPU over {REST:g} s at rest, % of a core": percent,
        "resident memory at rest, MiB": process.memory_info().rss / 2**20,
        "unique memory at rest (uss), MiB": process.memory_full_info().uss / 2**20,
        "threads": process.num_threads(),
        "open files": process.num_fds(),
        "series on the page": series,
    }


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# --- imports ---------------------------------------------------------------------------------------------------------

_LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \|( +)(\S+)")


def _imports(module: str) -> None:
    """Each package's own share: the time of its modules without what they import from elsewhere. Median of five."""
    shares: dict[str, list[float]] = defaultdict(list)
    for _ in range(5):
        command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
        log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        once: dict[str, float] = defaultdict(float)
        for own, _cumulative, _indent, name in _LINE.findall(log):
            top = ".".join(name.split(".")[:2]) if name.startswith("exporter.") else name.split(".")[0]
            once[top] += float(own) / 1e3
            once["everything"] += float(own) / 1e3
        for name, value in once.items():
            shares[name].append(value)
    medians = {name: Figure(tuple(values)) for name, values in shares.items()}
    top = dict(sorted(medians.items(), key=lambda item: -item[1].median)[:16])
    table(f"Importing {module}: own time by package, -X importtime, 5 rounds", "ms", top, "everything")


if __name__ == "__main__":
    main()
