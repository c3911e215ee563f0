"""What the exporter says of a real Ollama server beside what really happens there, source by source.

    python -m benchmarks.accuracy --ollama 127.0.0.1:11434 --log FILE --chat MODEL [--chat MODEL ...] [--embed MODEL] \
        [--kind mixed|kills|swaps|swaps+kills ...] [--seconds 300] [--out FILE.json]

The server has to be one of your own, on this machine, with nothing else to do; `--log` is what it writes to. Wants
root, for the kernel's own account of processes. Exit status 1: something was wrong, or could not be judged.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks import programs
from benchmarks.figures import say
from benchmarks.truth import mix, report, table
from benchmarks.truth.pages import Reader
from benchmarks.truth.run import CLOCK, Run
from benchmarks.truth.runners import Runners
from benchmarks.truth.slots import Watch

KINDS = ("mixed", "kills", "swaps", "swaps+kills")
SERVER = "real"
SOURCES = ("sockets", "runner", "logs")
_TURN = 5.0
"""Seconds that users of a swap storm stay with a model."""
_KILL_EVERY = 30.0
_SETTLES = 15.0
"""Seconds in which the sources notice what came before, at both ends of a run."""
_ADDED_ROUNDS = 3
_FROM = re.compile(r"^FROM \S*(sha256-[0-9a-f]{64})$", re.M)


def main() -> int:
    options = _options()
    address = _address(options.ollama)
    models = (*options.chat, *([options.embed] if options.embed else []))
    names = {_blob(address, model): model for model in models}
    serve = options.pid or _listener(address[1])
    good, runs = True, []
    say(f"# Accuracy on Ollama {_asked(address, 'GET', '/api/version')['version']}")
    for kind in options.kind or ["mixed"]:
        run = _run(options, kind, address, serve, names)
        rows = list(table.rows(run))
        if options.cost_seconds:
            run.cost = _cost(options, kind, address)
            run.added = _added(options, address, serve)
        report.markdown(run, rows, say)
        good = (
            good
            and not run.lost
            and run.clock <= CLOCK
            and not any(row.verdict in (table.NO, table.UNKNOWN) for row in rows)
        )
        runs.append(report.raw(run, rows))
        if options.out:
            options.out.write_text(json.dumps(runs), encoding="utf-8")
    return 0 if good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ollama", default="127.0.0.1:11434")
    parser.add_argument("--pid", type=int, help="of the server; found by its port")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--chat", action="append", required=True)
    parser.add_argument("--embed")
    parser.add_argument("--kind", action="append", choices=KINDS, help="swaps: of a server that holds one model only")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two looks of each source")
    parser.add_argument("--users", type=int, default=6)
    parser.add_argument("--pause", type=float, default=2.5, help="seconds of a user between two requests, on average")
    parser.add_argument("--burst", type=int, default=0, help="users that come at once; more than OLLAMA_MAX_QUEUE")
    parser.add_argument("--long", type=int, default=4500, help="words of a prompt that does not fit the context")
    parser.add_argument("--cost-seconds", type=float, default=60.0, help="0: what it costs is not measured")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


# -- the server


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def _listener(port: int) -> int:
    for connection in psutil.net_connections("tcp"):
        if connection.status == "LISTEN" and connection.laddr and connection.laddr.port == port and connection.pid:
            return int(connection.pid)
    raise SystemExit(f"nobody listens on port {port}, or it is not shown to us: --pid")


def _asked(address: tuple[str, int], method: str, path: str, body: object = None) -> Any:
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=60.0)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path} answers {answer.status}: {text[:200]!r}")
        return json.loads(text)


def _blob(address: tuple[str, int], model: str) -> str:
    """The file of a model's weights, by which its runners are known."""
    found = _FROM.search(_asked(address, "POST", "/api/show", {"model": model})["modelfile"])
    if found is None:
        raise SystemExit(f"/api/show does not tell the weights of {model}")
    return found[1]


def _read(address: tuple[str, int], model: str, prompts: Sequence[str]) -> dict[int, int]:
    """Tokens of each prompt, as the model reads it. Loads it."""
    counts = {}
    for number, words in enumerate(prompts):
        body = {"model": model, "messages": [{"role": "user", "content": words}], "stream": False}
        said = _asked(address, "POST", "/api/chat", {**body, "options": {"num_predict": 1}})
        counts[number] = said["prompt_eval_count"]
    return counts


# -- a run


def _settings(options: argparse.Namespace, every: float | None, sources: tuple[str, ...]) -> dict[str, Any]:
    host, port = _address(options.ollama)
    url = {"name": SERVER, "url": f"http://{host}:{port}", "logs": {"file": str(options.log.resolve())}}
    pace: dict[str, Any] = {} if every is None else {"every": f"{every:g}s"}
    poll = {} if every is None else {"poll": {"interval": f"{every:g}s"}}
    return {"servers": [url], **poll, **{source: {"mode": "on", **pace} for source in sources}}


def _mix(options: argparse.Namespace, kind: str, address: tuple[str, int], seconds: float) -> mix.Mix:
    swaps = "swaps" in kind
    return mix.Mix(
        address, tuple(options.chat), options.embed, options.users, options.pause, _TURN if swaps else 0.0,
        options.burst, options.long, seconds, options.seed,
    )  # fmt: skip


@contextlib.contextmanager
def _load(made: mix.Mix) -> Iterator[Any]:
    """The client, in a process of its own; its connection gives the book at the end."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=mix.run, args=(made, theirs))
    process.start()
    theirs.close()
    try:
        ours.recv()
        yield ours
    finally:
        process.terminate()
        process.join(10.0)


def _run(options: argparse.Namespace, kind: str, address: tuple[str, int], serve: int, names: Mapping[str, str]) -> Run:
    runners = Runners(serve)
    watch = Watch(runners)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(runners.close)
        stack.callback(watch.close)
        made = _mix(options, kind, address, options.seconds)
        prompts = {model: _read(address, model, mix.prompts(made)) for model in options.chat}
        listen = f"127.0.0.1:{programs.free_port()}"
        settings = _settings(options, options.every, SOURCES)
        stack.enter_context(programs.exporter(Path(folder), "judged", listen, settings))
        time.sleep(_SETTLES)
        reader = Reader(listen, options.every / 4)
        time.sleep(2 * options.every)
        psutil.cpu_percent()
        with _load(made) as client:
            _kill(runners, watch, client, options, "kills" in kind)
            requests, stalls = client.recv()
        machine = psutil.cpu_percent()
        time.sleep(_SETTLES)
        pages = reader.close()
    return Run(
        kind, SERVER, tuple(options.chat), names, prompts, options.every, options.seconds, requests, stalls,
        runners.all, watch.looks, pages, runners.lost, machine,
    )  # fmt: skip


def _kill(runners: Runners, watch: Watch, client: Any, options: argparse.Namespace, wanted: bool) -> None:
    """A runner that is at work, by one signal and the other in turn, as long as the load lasts."""
    chance, signals = random.Random(options.seed), [signal.SIGKILL, signal.SIGSEGV]
    until, due = time.monotonic() + options.seconds - 10.0, time.monotonic() + _KILL_EVERY / 2
    while not client.poll(0.02):
        now = time.monotonic()
        if not wanted or now < due or now > until:
            continue
        looks = {runner.pid: watch.looks.get(runner.pid, []) for runner in runners.alive()}
        at_work = [r for r in runners.alive() if looks[r.pid] and any(slot.busy for slot in looks[r.pid][-1].slots)]
        if at_work:
            runners.kill(chance.choice(at_work), signals[0])
            signals.reverse()
            due = now + _KILL_EVERY


def _cost(options: argparse.Namespace, kind: str, address: tuple[str, int]) -> dict[str, float]:
    """CPU of exporters with one source each, side by side under the same load, at the times that are set by default;
    nobody reads their pages. Each has the source `api`, which cannot be left out."""
    cases = {"api": (), **{f"api, {source}": (source,) for source in SOURCES}, "all": SOURCES}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        running = {}
        for name, sources in cases.items():
            listen, settings = f"127.0.0.1:{programs.free_port()}", _settings(options, None, sources)
            running[name] = stack.enter_context(programs.exporter(Path(folder), name, listen, settings))
        with _load(_mix(options, kind, address, options.cost_seconds)) as client:
            time.sleep(5.0)
            begun, before = time.monotonic(), {name: program.cpu() for name, program in running.items()}
            client.recv()
            took = time.monotonic() - begun
            return {name: (program.cpu() - before[name]) / took * 1e3 for name, program in running.items()}


def _added(options: argparse.Namespace, address: tuple[str, int], serve: int) -> dict[str, float]:
    """CPU of the server and of its runner, which nobody uses, while exporters look at it: at the times that are set by
    default, one exporter after the other, and none in between."""
    cases: dict[str, tuple[str, ...] | None] = {"nobody": None, "api": (), **{f"api, {one}": (one,) for one in SOURCES}}
    _asked(address, "POST", "/api/generate", {"model": options.chat[0], "keep_alive": -1})
    found: dict[str, list[float]] = {}
    for name, sources in [*cases.items(), ("all", SOURCES)] * _ADDED_ROUNDS:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            if sources is not None:
                listen, settings = f"127.0.0.1:{programs.free_port()}", _settings(options, None, sources)
                stack.enter_context(programs.exporter(Path(folder), name, listen, settings))
                time.sleep(5.0)
            before, begun = _work(serve), time.monotonic()
            time.sleep(options.cost_seconds / _ADDED_ROUNDS)
            took = time.monotonic() - begun
            found.setdefault(name, []).append((_work(serve) - before) / took * 1e3)
    return {name: statistics.median(each) for name, each in found.items()}


def _work(serve: int) -> float:
    """Seconds of CPU that a server and those of its children that are alive have had."""
    server = psutil.Process(serve)
    return sum(times.user + times.system for times in (one.cpu_times() for one in (server, *server.children())))


if __name__ == "__main__":
    sys.exit(main())
