"""The container that a server runs in, as the Docker Engine tells of it. Only asked, never told to do anything."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from exporter import catalog
from exporter.dockerd import Container, Daemon, Event, shown_image, whole
from exporter.local import Local
from exporter.model import DockerSettings, Failed, Family, Lack, Lacking, Partial, Sample, Watch

STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
HEALTH = ("starting", "healthy", "unhealthy")
_CONTAINED = re.compile(r"docker|libpod|containerd|kubepods|lxc|machine\.slice|[0-9a-f]{64}")
_LABEL_MAX = 128
_SAME = 1.0
"""Seconds between a container's start, as it tells, and the event of it at most."""
_LATE = 5.0
"""Seconds after which an event that has not come is missed."""
_RUNS_MAX = 8


class DockerSource:
    """Exposes, for a server named `a`:

        ollama_container_state{server="a",state="running"} 1.0
        ollama_container_info{container="ollama",image="ollama/ollama:0.33.0",server="a"} 1.0
        ollama_container_cpu_seconds_total{server="a"} 46.39
        ollama_container_memory_working_set_bytes{server="a"} 3.2e+09
        ollama_container_oom_kills_total{server="a"} 0.0

    Three or four questions a poll: which container it is, its settings and state, its statistics, and the events since
    the poll before, so that a restart or an OOM kill between two polls is not missed. A server whose container cannot
    be told is none of ours (`Lacking`), unless its process is seen in no container (`machine`): then there is nothing
    to tell. Once it was seen, its absence is a failure, and so is the engine's.
    """

    def __init__(
        self,
        watch: Watch,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
        machine: Local | None = None,
    ) -> None:
        self._server, self._settings = watch.server, cast(DockerSettings, watch.settings)
        self._daemon = Daemon(self._settings.address, proc=proc)
        self._proc, self._cgroups, self._machine = proc, cgroups, machine
        self._looking = threading.Lock()
        self._last: Container | None = None
        self._since = 0
        self._ids: set[str] = set()
        self._history: History | None = None
        self._totals: dict[Family, float] = {}

    async def collect(self) -> Iterable[Sample] | Partial:
        return await asyncio.to_thread(self._look)

    async def aclose(self) -> None:
        self._daemon.close()

    def _look(self) -> Iterable[Sample] | Partial:
        # A cancelled collect() leaves its thread behind until the engine answers it: the next must not join it.
        if not self._looking.acquire(blocking=False):
            raise Failed("timeout", self._counters())
        try:
            return self._seen()
        except Failed as failed:
            raise Failed(failed.reason, self._counters()) from failed
        except LookupError as gone:  # between two questions
            raise Failed("unavailable", self._counters()) from gone
        except Lacking as lacking:
            if self._history is not None:
                raise Failed("unavailable", self._counters()) from lacking
            if self._is_outside():
                return ()
            raise
        finally:
            self._looking.release()

    def _is_outside(self) -> bool:
        """Whether the server is known to run in no container: then nobody needs to hear how Docker could be asked."""
        if self._machine is None or self._settings.container:
            return False
        try:
            place = self._machine.place(self._settings.url)
        except (Lacking, LookupError, OSError):
            return False
        return place.pid is not None and bool(place.cgroup) and not _CONTAINED.search(place.cgroup)

    def _seen(self) -> Iterable[Sample] | Partial:
        container = self._container()
        lacks = self._remember(container)
        gauges = [*self._described(container)]
        if container.runs:
            stats = self._stats(container)
            self._totals = {family: value for family, value in totals(stats) if value is not None} or self._totals
            used = working_set(stats)
            if used is not None:
                gauges.append(catalog.CONTAINER_MEMORY(used, server=self._server))
        samples = (*gauges, *self._counters())
        return Partial(samples, lacks) if lacks else samples

    def _stats(self, container: Container) -> Mapping[str, Any]:
        """Empty when the container has ended since it was described: the engine then tells noughts of no time."""
        try:
            stats = self._daemon.stats(container.id)
        except LookupError:
            return {}
        return {} if str(stats.get("read")).startswith("0001-") else stats

    def _container(self) -> Container:
        """The server's. One that has ended has no address any more: then it is the one that it was."""
        try:
            return self._daemon.server(self._settings.url, self._settings.container)
        except Lacking:
            if self._last is None:
                raise
            try:
                last = self._daemon.container(self._last.id)
            except LookupError:
                last = None
            if last is None or last.runs:  # gone, or it runs and the server is another's
                raise
            return last

    def _remember(self, container: Container) -> tuple[Lack, ...]:
        """Put down what has happened since the look before. Returns what cannot be known."""
        until, kills = self._daemon.clock(), self._kills(container)
        self._last = container
        self._ids.add(container.id)
        if self._history is None:
            self._history, self._since = History(container, kills), until
        events: tuple[Event, ...] = ()
        lacks: tuple[Lack, ...] = ()
        try:
            if until >= self._since:  # else its clock was set back
                events = self._daemon.events(self._since, until, self._ids)
        except Lacking as lacking:
            lacks = (Lack("what happens to the container between two looks is kept from us", lacking.lack.remedy),)
        self._since, self._ids = until, {container.id}
        self._history.see(container, events, float(until), kills)
        return lacks

    def _kills(self, container: Container) -> int | None:
        """The kernel's count of OOM kills in the container since it was started, where we can read it."""
        if container.pid is None:
            return None
        try:
            lines = (self._proc / str(container.pid) / "cgroup").read_text("utf-8", "replace").splitlines()
        except OSError:
            return None
        for line in lines:
            controllers, _, path = line.partition(":")[2].partition(":")
            # Without its id in it, the process is another machine's, or the path is cut off by a namespace.
            at = path.find(container.id)
            if at < 0 or (controllers and "memory" not in controllers.split(",")):
                continue
            inside = path[: at + len(container.id)] + path[at + len(container.id) :].partition("/")[0]
            counted = self._counted(controllers, inside.strip("/"))
            if counted is not None:
                return counted
        return None

    def _counted(self, controllers: str, path: str) -> int | None:
        place = self._cgroups / "memory" / path / "memory.oom_control"
        if not controllers:
            place = self._cgroups / path / "memory.events"
        try:
            match = re.search(r"^oom_kill ([0-9]{1,18})$", place.read_text("ascii", "replace"), re.MULTILINE)
        except OSError:
            return None
        return int(match[1]) if match else None

    def _described(self, container: Container) -> Iterator[Sample]:
        labels = {"server": self._server}
        for state in STATES:
            yield catalog.CONTAINER_STATE(float(state == container.state), **labels, state=state)
        if container.health and container.runs:
            for health in HEALTH:
                yield catalog.CONTAINER_HEALTH(float(health == container.health), **labels, health=health)
        name, image = container.name[:_LABEL_MAX], shown_image(container.image)[:_LABEL_MAX]
        yield catalog.CONTAINER_INFO(1.0, **labels, container=name, image=image)
        code = self._history.exit_code(container) if self._history else None
        for family, value in (
            (catalog.CONTAINER_START, container.started),
            (catalog.CONTAINER_LAST_EXIT, container.finished),
            (catalog.CONTAINER_EXIT_CODE, code),
            (catalog.CONTAINER_CPU_LIMIT, container.cpus),
            (catalog.CONTAINER_MEMORY_LIMIT, container.memory),
        ):
            if value is not None:
                yield family(float(value), **labels)

    def _counters(self) -> list[Sample]:
        """What has been counted so far is right whether the engine answers or not."""
        if self._history is None:
            return []
        counted = {
            **self._totals,
            catalog.CONTAINER_RESTARTS: self._history.restarts,
            catalog.CONTAINER_OOM_KILLS: self._history.oom_kills,
        }
        return [family(float(value), server=self._server) for family, value in counted.items()]


# --- what happened ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """From a start of the container to the next. `kernel` and `flagged` are lower bounds of the OOM kills in it. What
    the engine has `told` is want of memory: with cgroup v1 that is not yet a kill, and several kills may be one."""

    started: float
    told: int = 0
    kernel: int = 0
    flagged: int = 0

    @property
    def kills(self) -> int:
        return max(self.told, self.kernel, self.flagged)


class History:
    """Restarts and OOM kills of a server's container, which may be another one from time to time.

    Each is told in more than one way, and none of them is complete: events are forgotten when the engine restarts,
    what the container tells of itself is only the last of it, and the kernel's count ends with the container. What
    was before the first look is not counted.
    """

    def __init__(self, container: Container, kernel_kills: int | None) -> None:
        started = container.started or 0.0
        self._runs = [_Run(started)]
        self._newest = started + _SAME
        self._flagged_before = container.started if container.oom_killed else None
        self._kernel_before = (container.started, kernel_kills or 0)
        self._died: Event | None = None
        self._folded = 0
        self.restarts = 0

    @property
    def oom_kills(self) -> int:
        return self._folded + sum(run.kills for run in self._runs)

    def see(self, container: Container, events: Iterable[Event], until: float, kernel_kills: int | None) -> None:
        """`events` are those since the last look, none after `until`: Unix time on the engine's clock, before
        `kernel_kills` was read."""
        told_before = {run.started: run.told for run in self._runs}
        for event in sorted(events, key=lambda event: event.at):
            if event.action == "start" and event.at > self._newest:
                self._start(event.at)
                self._newest = event.at
            elif event.action == "oom":
                self._run_at(event.at).told += 1
            elif event.action == "die":
                self._died = event
        started = container.started
        if started is not None and self._newest < started < until - _LATE:  # no event told of it
            self._start(started)
            self._newest = started + _SAME
        self._look_at(container, kernel_kills, told_before)
        while len(self._runs) > _RUNS_MAX:
            self._folded += self._runs.pop(0).kills

    def exit_code(self, container: Container) -> int | None:
        """Of the container's last end, as long as that is known."""
        if container.exit_code is not None and container.finished is not None:
            return container.exit_code
        died = self._died
        if died is None or container.finished is None or abs(died.at - container.finished) > _LATE:
            return None
        return died.exit_code

    def _start(self, at: float) -> None:
        self.restarts += 1
        self._runs.append(_Run(at))

    def _look_at(self, container: Container, kernel_kills: int | None, told_before: Mapping[float, int]) -> None:
        started = container.started
        run = next((run for run in self._runs if started and started <= run.started <= started + _SAME), None)
        if run is None:  # its event is still to come
            return
        if container.oom_killed and started != self._flagged_before:
            run.flagged = 1
        if kernel_kills is not None:
            since, before = self._kernel_before
            run.kernel = max(run.kernel, kernel_kills - (before if since == started else 0))
            run.told = max(told_before.get(run.started, 0), min(run.told, run.kernel))  # what has been shown stays

    def _run_at(self, at: float) -> _Run:
        return next((run for run in reversed(self._runs) if run.started <= at), self._runs[0])


# --- statistics ------------------------------------------------------------------------------------------------------


def totals(stats: Mapping[str, Any]) -> Iterator[tuple[Family, float | None]]:
    """Counters out of an answer of /containers/ID/stats; None where it does not tell."""
    cpu, throttling = _part(stats, "cpu_stats"), _part(_part(stats, "cpu_stats"), "throttling_data")
    yield catalog.CONTAINER_CPU, _seconds(_part(cpu, "cpu_usage").get("total_usage"))
    yield catalog.CONTAINER_CPU_PERIODS, whole(throttling.get("periods"))
    yield catalog.CONTAINER_CPU_THROTTLED_PERIODS, whole(throttling.get("throttled_periods"))
    yield catalog.CONTAINER_CPU_THROTTLED, _seconds(throttling.get("throttled_time"))
    devices = [device for device in _part(stats, "networks").values() if isinstance(device, Mapping)]
    yield catalog.CONTAINER_RECEIVED, _sum(device.get("rx_bytes") for device in devices)
    yield catalog.CONTAINER_SENT, _sum(device.get("tx_bytes") for device in devices)


def working_set(stats: Mapping[str, Any]) -> float | None:
    """Bytes in use without inactive file pages, which cgroup v1 calls total_inactive_file and v2 inactive_file."""
    memory = _part(stats, "memory_stats")
    used, details = whole(memory.get("usage")), _part(memory, "stats")
    inactive = whole(details.get("total_inactive_file", details.get("inactive_file")))
    return None if used is None or inactive is None else float(max(0, used - inactive))


def _part(told: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = told.get(key)
    return part if isinstance(part, Mapping) else {}


def _seconds(told: object) -> float | None:
    nanoseconds = whole(told)
    return None if nanoseconds is None else nanoseconds / 1e9


def _sum(told: Iterable[object]) -> float | None:
    """Absent when there is none, or one of them is no number."""
    values = [whole(one) for one in told]
    known = [value for value in values if value is not None]
    return float(sum(known)) if known and len(known) == len(values) else None
