"""The machine the exporter itself runs on, and the processes of Ollama that run there.

Everything is asked of psutil, and of a few files below /proc, in threads. Nothing is executed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

import psutil

from exporter import catalog
from exporter.local.processes import Role, find
from exporter.meter import Counter
from exporter.model import Failed, HostSettings, Sample, Watch
from exporter.threads import Lane

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_ROLES: tuple[Role, ...] = get_args(Role)
_LOOK_SHARE = 0.4
"""Of the time of a reading: for each of two looks that follow each other."""

_Parts = Mapping[str, Callable[[], Iterable[Sample]]]


class HostSource:
    """Looks at the machine part by part; what one part cannot tell does not hide the others.

        ollama_host_cpu_seconds_total{host="gpu1",mode="user"} 46.39
        ollama_host_network_receive_bytes_total{host="gpu1",device="eth0"} 547462862
        ollama_host_pressure_seconds_total{host="gpu1",resource="io",share="full"} 3.181614
        ollama_host_processes{host="gpu1",process="runner"} 2

    What can never be known here (a kernel without pressure files, no model store) is absent and no failure.
    A part that breaks fails the reading as `unavailable`, beside the samples of the rest.

    What may hang has a thread and a deadline of its own: the store on a disk whose server is gone, and processes that
    wait for such a disk themselves (the kernel holds back their command lines). It fails the reading as `timeout`,
    beside the samples of the rest.
    """

    def __init__(
        self,
        watch: Watch,
        *,
        proc: Path = Path("/proc"),
        processes: Callable[[], Iterable[psutil.Process]] = psutil.process_iter,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        if not isinstance(watch.settings, HostSettings):
            raise TypeError(f"a host watch has HostSettings, got {type(watch.settings).__name__}")
        self._host = watch.settings.name
        self._models_dir = watch.settings.models_dir
        self._proc = proc
        self._list = processes
        self._environment = environment
        self._look_within = _LOOK_SHARE * watch.within
        self._kernel, self._table, self._disk = Lane(), Lane(), Lane()
        self._ill: frozenset[str] = frozenset()
        self._modes: dict[str, float] = {}
        self._serves: tuple[psutil.Process, ...] = ()
        self._used: dict[psutil.Process, float] | None = None
        self._process_cpu = Counter(catalog.HOST_PROCESS_CPU, host=self._host)

    async def collect(self) -> Iterable[Sample]:
        kernel: _Parts = {
            "cpu": self._cpu,
            "load": self._load,
            "memory": self._memory,
            "swap": self._swap,
            "network": self._network,
            "pressure": self._pressure,
            "boot": self._boot,
        }
        at_once, in_turn = await asyncio.gather(self._look(self._kernel, kernel), self._may_hang())
        look = at_once.join(in_turn)
        self._warn(look)
        if look.late:
            raise Failed("timeout", look.samples)
        if look.broken:
            raise Failed("unavailable", look.samples)
        return look.samples

    async def aclose(self) -> None:
        """Nothing is held between two looks, and nobody waits for one that hangs."""

    async def _may_hang(self) -> _Look:
        """The store after the processes: `ollama serve` knows where it is."""
        processes = await self._look(self._table, {"processes": self._processes})
        return processes.join(await self._look(self._disk, {"store": self._store}))

    async def _look(self, lane: Lane, parts: _Parts) -> _Look:
        try:
            return await lane.run(partial(_look_at, parts), self._look_within)
        except TimeoutError:
            return _Look(late=frozenset(parts))

    def _warn(self, look: _Look) -> None:
        """Once, not at every poll."""
        for name, error in look.broken.items():
            if name not in self._ill:
                _log.warning("host: cannot read %s", name, exc_info=error)
        for name in sorted(look.late - self._ill):
            _log.warning("host: %s: no answer in time", name)
        self._ill = look.late | look.broken.keys()

    def _cpu(self) -> Iterator[Sample]:
        for mode, seconds in psutil.cpu_times()._asdict().items():
            if mode in ("guest", "guest_nice"):  # contained in user and nice already
                continue
            self._modes[mode] = steady(self._modes.get(mode, 0.0), seconds)
            yield catalog.HOST_CPU(self._modes[mode], host=self._host, mode=mode)
        cpus = psutil.cpu_count()
        if cpus is not None:
            yield catalog.HOST_CPUS(cpus, host=self._host)

    def _load(self) -> Iterator[Sample]:
        for window, load in zip(("1m", "5m", "15m"), psutil.getloadavg(), strict=True):
            yield catalog.HOST_LOAD(load, host=self._host, window=window)

    def _memory(self) -> Iterator[Sample]:
        memory = _quietly(psutil.virtual_memory)
        yield catalog.HOST_MEMORY_TOTAL(memory.total, host=self._host)
        yield catalog.HOST_MEMORY_AVAILABLE(memory.available, host=self._host)

    def _swap(self) -> Iterator[Sample]:
        swap = _quietly(psutil.swap_memory)
        yield catalog.HOST_SWAP_TOTAL(swap.total, host=self._host)
        yield catalog.HOST_SWAP_USED(swap.used, host=self._host)

    def _network(self) -> Iterator[Sample]:
        # nowrap would hide that a device was made anew; Prometheus sees a reset by itself.
        devices = psutil.net_io_counters(pernic=True, nowrap=False)
        for device in worth_showing(devices):
            yield catalog.HOST_RECEIVED(devices[device].bytes_recv, host=self._host, device=device)
            yield catalog.HOST_SENT(devices[device].bytes_sent, host=self._host, device=device)

    def _pressure(self) -> Iterator[Sample]:
        for resource in ("cpu", "memory", "io"):
            try:
                text = (self._proc / "pressure" / resource).read_text("ascii", "replace")
            except OSError:  # no such file, or "not supported" where it is switched off at boot
                continue
            for share, stalled in parse_pressure(text).items():
                # The kernel does not define it for a whole machine: 0 since 5.13, no line before.
                if (resource, share) != ("cpu", "full"):
                    yield catalog.HOST_PRESSURE(stalled, host=self._host, resource=resource, share=share)

    def _boot(self) -> Iterator[Sample]:
        yield catalog.HOST_BOOT(psutil.boot_time(), host=self._host)

    def _processes(self) -> Iterator[Sample]:
        found = find(self._list())
        if found is None:
            return
        self._serves = tuple(process for process, role in found.items() if role == "serve")
        usages = [usage for process, role in found.items() if (usage := _usage(process, role)) is not None]
        self._count_cpu(usages)
        if not usages:
            return
        for role in _ROLES:
            yield from self._of_role(role, [usage for usage in usages if usage.role == role])

    def _count_cpu(self, usages: Collection[_Usage]) -> None:
        """Processes that are there at the first look start from 0: an exporter before this one has counted
        their past, and what a counter shows after its restart is to Prometheus work done since."""
        before, self._used = self._used, {}
        for usage in usages:
            if usage.cpu is None:
                if before and usage.process in before:
                    self._used[usage.process] = before[usage.process]
                continue
            counted = usage.cpu if before is None else before.get(usage.process, 0.0)
            self._process_cpu.add(max(0.0, usage.cpu - counted), process=usage.role)
            self._used[usage.process] = max(usage.cpu, counted)

    def _of_role(self, role: Role, usages: Sequence[_Usage]) -> Iterator[Sample]:
        yield catalog.HOST_PROCESSES(len(usages), host=self._host, process=role)
        if all(usage.cpu is not None for usage in usages):
            # At 0 before the first runner: increase() never sees a series whose first value is not 0.
            cpu = self._process_cpu.total(process=role)
            yield catalog.HOST_PROCESS_CPU(cpu, host=self._host, process=role)
        if not usages:
            return
        youngest = max(usage.started for usage in usages)
        yield catalog.HOST_PROCESS_START(youngest, host=self._host, process=role)
        resident = [usage.resident for usage in usages if usage.resident is not None]
        if len(resident) == len(usages):
            yield catalog.HOST_PROCESS_RSS(sum(resident), host=self._host, process=role)
        files = [usage.files for usage in usages if usage.files is not None]
        if len(files) == len(usages):
            yield catalog.HOST_PROCESS_FDS(sum(files), host=self._host, process=role)

    def _store(self) -> Iterator[Sample]:
        store = self._find_store()
        if store is not None and os.path.isdir(store):  # False too where we may not look
            usage = psutil.disk_usage(os.fspath(store))
            yield catalog.HOST_STORE_SIZE(usage.total, host=self._host)
            yield catalog.HOST_STORE_AVAILABLE(usage.free, host=self._host)  # f_bavail

    def _find_store(self) -> Path | None:
        """The first place that somebody named, whether it is there or not: its absence must not be covered up
        with another directory. Only when nobody did, the first default that is there."""
        if self._models_dir:
            return Path(self._models_dir)
        for serve in self._serves:
            try:
                store = named_store(serve.environ()) or default_store(serve.environ())
            except psutil.Error:
                continue
            if store is not None:
                return _seen_from_here(store, self._proc / str(serve.pid) / "root")
        store = named_store(self._environment)
        if store is not None:
            return store
        defaults = (default_store(self._environment), *_SYSTEM_STORES)
        return next((store for store in defaults if store is not None and os.path.isdir(store)), None)


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen of some parts: of those that broke nothing, and of those that gave no answer in time."""

    samples: tuple[Sample, ...] = ()
    broken: Mapping[str, Exception] = field(default_factory=dict)
    late: frozenset[str] = frozenset()

    def join(self, other: _Look) -> _Look:
        return _Look(self.samples + other.samples, {**self.broken, **other.broken}, self.late | other.late)


def _look_at(parts: _Parts) -> _Look:
    samples: list[Sample] = []
    broken: dict[str, Exception] = {}
    for name, part in parts.items():
        try:
            samples += list(part())
        except Exception as error:  # noqa: BLE001 - whatever it is, it hides one part; the reading and the log tell
            broken[name] = error
    return _Look(tuple(samples), broken)


def steady(before: float, now: float) -> float:
    """The kernel's iowait and idle times fall by ticks now and then. To Prometheus that is a counter's restart,
    and so days of waiting within one poll. A fall by seconds is real (a CPU was taken away)."""
    return before if before - 3.0 <= now < before else now


_DEVICES_MAX = 32
# Pairs and bridges come and go with containers and networks of Docker and libvirt: labels without an end. Their bytes,
# like those of shapers, tunnels and dummies, are counted once more on their way to a device that stays.
_PASSING_DEVICE = re.compile(
    r"lo\d*|Loopback.*|veth.*|br-[0-9a-f]{12}"
    r"|(docker|dummy|erspan|gre|gretap|ifb|ip6gre|ip6tnl|ip6_vti|ip_vti|sit|tunl|virbr)\d+(-nic)?"
)


def worth_showing(devices: Iterable[str]) -> list[str]:
    """The devices to export. Capped, because other overlays make devices per container under other names."""
    return sorted(device for device in devices if not _PASSING_DEVICE.fullmatch(device))[:_DEVICES_MAX]


_PRESSURE = re.compile(r"^(some|full) .*\btotal=([0-9]{1,20})$", re.MULTILINE)


def parse_pressure(text: str) -> dict[str, float]:
    """Seconds by share, from lines like `some avg10=0.05 avg60=1.00 avg300=1.14 total=9265743` (µs)."""
    return {share: int(total) / 1e6 for share, total in _PRESSURE.findall(text)}


@dataclass(frozen=True, slots=True)
class _Usage:
    """What one process of Ollama uses; None is what it does not show us."""

    process: psutil.Process
    role: Role
    started: float
    cpu: float | None
    resident: int | None
    files: int | None


def _usage(process: psutil.Process, role: Role) -> _Usage | None:
    """None when the process has ended."""
    try:
        with process.oneshot():
            times = _if_allowed(process.cpu_times)
            memory = _if_allowed(process.memory_info)
            return _Usage(
                process,
                role,
                process.create_time(),
                None if times is None else times.user + times.system,
                None if memory is None else memory.rss,
                _if_allowed(process.num_fds) if hasattr(process, "num_fds") else None,
            )
    except psutil.NoSuchProcess:
        return None


def _if_allowed(ask: Callable[[], _T]) -> _T | None:
    try:
        return ask()
    except psutil.AccessDenied:
        return None


def _quietly(ask: Callable[[], _T]) -> _T:
    """psutil warns when a container hides /proc/vmstat, from where it takes numbers that we do not use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ask()


_SYSTEM_STORES = (Path("/usr/share/ollama/.ollama/models"), Path("/root/.ollama/models"))


def named_store(environment: Mapping[str, str]) -> Path | None:
    """OLLAMA_MODELS as Ollama reads it. A relative one says nothing to another process."""
    store = Path(environment.get("OLLAMA_MODELS", "").strip(" \t\"'"))
    return store if store.is_absolute() else None


def default_store(environment: Mapping[str, str]) -> Path | None:
    home = Path(environment.get("HOME") or environment.get("USERPROFILE", ""))
    return home / ".ollama" / "models" if home.is_absolute() else None


def _seen_from_here(path: Path, root: Path) -> Path:
    """`path` of a process whose /proc entry has this `root`: a container's is another tree than ours."""
    return root / path.relative_to(path.anchor) if os.path.isdir(root) else path
