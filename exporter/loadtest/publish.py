"""The run on a /metrics of its own while it lasts: `ollama_load_*`, under the names that the exporter gives servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import Any

import uvicorn

from exporter import catalog
from exporter.exposition import page
from exporter.loadtest.outcomes import OUTCOMES, Result
from exporter.loadtest.run import Run
from exporter.loadtest.scenario import Scenario
from exporter.loadtest.tally import good
from exporter.meter import Counter, Histogram
from exporter.model import Sample

_TEXT = b"text/plain; version=0.0.4; charset=utf-8"


class Publisher:
    """Counts what it hears. Every combination of server and workload is there from the beginning, at 0."""

    def __init__(self, scenario: Scenario, servers: Sequence[str]) -> None:
        self._scenario, self._servers = scenario, tuple(servers)
        self._offered, self._good = Counter(catalog.LOAD_OFFERED), Counter(catalog.LOAD_GOOD)
        self._requests = Counter(catalog.LOAD_REQUESTS)
        self._prompt_tokens, self._tokens = Counter(catalog.LOAD_PROMPT_TOKENS), Counter(catalog.LOAD_TOKENS)
        self._ttft, self._duration = Histogram(catalog.LOAD_TTFT), Histogram(catalog.LOAD_DURATION)
        self._per_token, self._queue = Histogram(catalog.LOAD_PER_TOKEN), Histogram(catalog.LOAD_QUEUE)
        self._lag = Histogram(catalog.LOAD_LAG)
        self._lag.zero(server=self._servers)
        for workload in scenario.workloads:
            of = {"workload": [workload.name], "model": [scenario.model_of(workload)], "server": self._servers}
            for meter in self._plain():
                meter.zero(**of)
            self._requests.zero(**of, outcome=OUTCOMES)

    def hear(self, result: Result) -> None:
        of = {"server": result.server, "workload": result.workload, "model": result.model}
        self._offered.add(1.0, **of)
        self._requests.add(1.0, **of, outcome=result.outcome)
        self._good.add(float(good(result, self._scenario.objectives)), **of)
        self._prompt_tokens.add(result.prompt_tokens, **of)
        self._tokens.add(result.tokens, **of)
        self._lag.observe(result.send_lag, server=result.server)
        observed = [(self._ttft, result.ttft), (self._per_token, result.per_token), (self._queue, result.queue)]
        if result.outcome == "ok":
            observed.append((self._duration, result.total))
        for histogram, value in observed:
            if value is not None:
                histogram.observe(value, **of)

    def samples(self, run: Run) -> Iterator[Sample]:
        for meter in (*self._plain(), self._requests, self._lag):
            yield from meter.samples()
        for target in run.targets:
            yield catalog.LOAD_IN_FLIGHT(float(target.in_flight), server=target.name)
        elapsed = run.elapsed()
        if 0 < elapsed < run.course.seconds:
            phase = run.course.phase_at(elapsed).name
            yield catalog.LOAD_PHASE(1.0, scenario=run.scenario.name, phase=phase)

    def _plain(self) -> tuple[Counter | Histogram, ...]:
        return (
            self._offered, self._good, self._prompt_tokens, self._tokens, self._ttft, self._duration, self._per_token,
            self._queue,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def serving(self, address: tuple[str, int] | None, run: Run) -> AsyncIterator[list[str]]:
        """On this address for as long as the block lasts. Yields what was in the way: a run is worth more than its
        metrics."""
        if address is None:
            yield []
            return
        try:
            listener = socket.create_server((address[0] or "0.0.0.0", address[1]))
        except OSError as error:
            yield [f"no /metrics of the run: {address[0]}:{address[1]} cannot be had ({os.strerror(error.errno or 0)})"]
            return
        server = _Server(uvicorn.Config(self._app(run), lifespan="off", log_config=None, access_log=False))
        serving = asyncio.create_task(server.serve([listener]), name="metrics")
        try:
            yield []
        finally:
            server.should_exit = server.force_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            listener.close()

    def _app(self, run: Run) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            found = scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD")
            body = page(self.samples(run)) if found else b"the run is on /metrics\n"
            headers = [(b"content-type", _TEXT), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

        return app


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: Ctrl-C is the run's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield
