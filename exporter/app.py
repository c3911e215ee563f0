"""The composition root: builds the parts, runs them in one task group, ends them on a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporter import __version__, listening, web
from exporter.config import Config, ConfigError, plan
from exporter.discovery import Discovery, Listed
from exporter.exposition import encode
from exporter.fleet import Fleet, let_garbage_wait, settle
from exporter.logs import set_up as set_up_logging
from exporter.loop import Loop
from exporter.model import Secret, Snapshot
from exporter.probing import Probing, Question, Refusal, Seen
from exporter.sources import SOURCES, Surroundings, build
from exporter.store import Store
from exporter.webauth import Door
from exporter.webconfig import Watched

if TYPE_CHECKING:
    from exporter.simulator.fleet import SimFleet
    from exporter.simulator.timetable import Incident

log = logging.getLogger(__name__)

Load = Callable[[], Config]


class Exporter:
    """The running program without its sockets: what the web server and the signals operate."""

    version = __version__

    def __init__(self, config: Config, load: Load, around: Surroundings | None = None) -> None:
        self._around = around or Surroundings()
        self._load, self._config = load, config
        self._vitals = self._around.vitals
        self.guard = Watched(config.web.config_file, self._tell_of_guard)
        self._store = Store(encode)
        self._fleet = Fleet(
            build=lambda watch: build(watch, self._around),
            publish=self._store.put,
            reasons=lambda watch: SOURCES[watch.source].reasons,
            lag=self._vitals.lag,
            now=self._around.now,
        )
        self._discovery = Discovery(self._plan, self._vitals, self._around.now)
        self._probing = Probing(self._around)
        self._members, self._was_ready = config, False
        self._adopt(config)

    async def run(self) -> None:
        """Watch the fleet until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._discovery.run(), name="discovery")
            group.create_task(self._probing.run(), name="probing")
            await self._fleet.run()

    def snapshot(self) -> Snapshot:
        return self._store.snapshot

    def healthy(self) -> bool:
        return self._fleet.healthy()

    def ready(self) -> bool:
        """Once it is, it stays: a server that is new to the fleet must not take the exporter out of a load balancer."""
        self._was_ready = self._was_ready or (self._discovery.looked() and self._store.complete())
        return self._was_ready

    def listing(self, discovery: str | None = None) -> tuple[Listed, ...] | None:
        return self._discovery.listing(self._config, self._members, discovery)

    def configured(self) -> tuple[str, ...]:
        config = self._config
        probe = config.probe.enabled and bool(self._members.servers or config.probe.allow)
        return (*(["probe"] if probe else []), *(["sd"] if config.discovery or self._members.servers else []))

    def config_text(self) -> str:
        return self._config.effective_yaml()

    async def reload(self) -> tuple[str, ...]:
        """Read the configuration again: all of it, or nothing. Returns the mistakes that kept the old one in force."""
        try:
            config = await asyncio.to_thread(self._load)
        except ConfigError as error:
            self._vitals.reload_successful = False
            for mistake in error.mistakes:
                log.error("configuration not reloaded: %s", mistake)
            return error.mistakes
        self._adopt(config)
        log.info("configuration reloaded: %d servers", len(config.servers))
        return ()

    async def probe(self, question: Question) -> Seen:
        """Configured servers are known here by their names, those that were found as well."""
        if not self._config.probe.enabled:
            raise Refusal("not_allowed", "/probe is switched off (probe.enabled)", 404)
        return await self._probing.probe(self._members, question)

    def rendered(self, seconds: float, size: int) -> None:
        self._vitals.render_seconds, self._vitals.page_bytes = seconds, size
        self._vitals.page_series = sum(entry.series for entry in self._store.snapshot.entries.values())

    def tokens(self) -> Mapping[str, Secret]:
        return self._config.web.tokens.by_path()

    def _tell_of_guard(self, successful: bool) -> None:
        self._vitals.web_config_successful = successful

    def _adopt(self, config: Config) -> None:
        self._config = config
        self._discovery.apply(config)
        self._plan()
        self._vitals.config_hash = config.hash
        self._vitals.reload_successful, self._vitals.reload_succeeded_at = True, self._around.now()

    def _plan(self) -> None:
        """Watch those that are configured and those that were found."""
        self._members = self._discovery.joined(self._config)
        watches = plan(self._members)
        self._store.plan(watches)
        self._fleet.apply(watches)
        self._vitals.servers = len(self._members.servers)


@asynccontextmanager
async def serving(
    exporter: Exporter, address: tuple[str, int], *beside: Coroutine[None, None, None]
) -> AsyncIterator[listening.Server]:
    """The exporter on its socket, for as long as the block lasts; `beside` runs along with it. Raises OSError when the
    address cannot be had."""
    guarded = Door(web.create_app(exporter), exporter.guard.current, exporter.tokens)
    server = listening.Server(guarded, listening.bind(address), exporter.guard)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(exporter.run(), name="fleet"), *map(group.create_task, beside)]
        answering = group.create_task(server.run(), name="web")
        try:
            yield server
        finally:
            server.stop()
            await answering
            for task in tasks:
                task.cancel()


def run(load: Load) -> int:
    """`ollama-exporter run`: until SIGTERM or SIGINT; SIGHUP reloads. Returns the exit code. Raises ConfigError."""
    config = load()
    set_up_logging(config.log.level, config.log.format)
    return _complete(_run(config, load))


def demo(load: Callable[[str], Config], seed: int | None = None) -> int:
    """`ollama-exporter demo`: the same on a simulated fleet. `load` takes what OLLAMA_EXPORTER_SERVERS would hold."""
    return _complete(_demo(load, seed))


async def _run(
    config: Config, load: Load, *beside: Coroutine[None, None, None], around: Surroundings | None = None
) -> int:
    exporter, listen = Exporter(config, load, around), config.web.listen_address
    beside = (*beside, settle(exporter.ready))
    with _signals(exporter) as stop:
        try:
            async with serving(exporter, (listen.host, listen.port), *beside):
                log.info("watching %d servers, listening on %s", len(config.servers), listen)
                await stop.wait()
                log.info("stopping")
        except OSError as error:
            for coroutine in beside:
                coroutine.close()
            log.error("cannot listen on %s: %s", listen, error)
            return 1
    return 0


async def _demo(load: Callable[[str], Config], seed: int | None) -> int:
    # Only the demo pays for the simulator.
    from exporter.demo import house
    from exporter.simulator.fleet import FleetConfig

    async with house(FleetConfig() if seed is None else FleetConfig(seed=seed), time.time) as demo:
        config = _with_logs(load(",".join(f"{name}={url}" for name, url in demo.urls.items())), demo.logs)
        set_up_logging(config.log.level, config.log.format)
        for line in (
            "a simulated fleet; its incidents, minutes and seconds of each cycle of ten minutes:",
            *demo.fleet.timetable.lines(),
            f"the status page of the exporter is http://localhost:{config.web.listen_address.port}/",
        ):
            log.info("demo: %s", line)
        around = Surroundings(machine=demo.machine)
        return await _run(config, lambda: config, demo.fleet.run(), _announce(demo.fleet), around=around)


def _with_logs(config: Config, files: Mapping[str, Path]) -> Config:
    """The same with log files for these servers."""
    servers = tuple(
        replace(server, logs=replace(server.logs, file=str(files[server.name]))) if server.name in files else server
        for server in config.servers
    )
    return replace(config, servers=servers)


async def _announce(fleet: SimFleet) -> None:
    """Log the incidents as they begin and end."""
    on: Incident | None = None
    while True:
        await asyncio.sleep(1.0)
        now = fleet.incident_now()
        if on is not None and now is not on:
            log.info("demo: %s: %s is over", on.server, on.kind)
        if now is not None and now is not on:
            log.warning("demo: %s: %s begins. %s", now.server, now.kind, now.should_see)
        on = now


@contextmanager
def _signals(exporter: Exporter) -> Iterator[asyncio.Event]:
    """SIGTERM and SIGINT set the event (Python as PID 1 would ignore them), SIGHUP reloads."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    reloads: set[asyncio.Task[tuple[str, ...]]] = set()

    def reload() -> None:
        task = loop.create_task(exporter.reload(), name="reload")
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    handlers = {signal.SIGTERM: stop.set, signal.SIGINT: stop.set, signal.SIGHUP: reload}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield stop
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _complete(main: Coroutine[None, None, int]) -> int:
    """Run to the end. The loop's threads are not waited for: one may hang in a system call (a dead network disk)."""
    let_garbage_wait()
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)
