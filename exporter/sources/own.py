"""The exporter about itself: build, configuration, the event loop's lag, the last render, its own process."""

from __future__ import annotations

import platform
import resource
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import psutil

from exporter import __version__, catalog
from exporter.meter import Counter, Histogram
from exporter.model import REASONS, Failed, Sample


def _lag() -> Histogram:
    lag = Histogram(catalog.EXPORTER_LAG)
    lag.zero()
    return lag


LEFT_OUT = ("unreachable", "invalid", "name_taken", "address_taken", "limit")


@dataclass(slots=True)
class DiscoveryVitals:
    """What one search of discovery tells of itself. `up` is None before the first look; `left_out` counts by reason."""

    name: str
    up: bool | None = None
    succeeded_at: float | None = None
    servers: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    failures: Counter = field(init=False)

    def __post_init__(self) -> None:
        self.failures = Counter(catalog.DISCOVERY_FAILURES, discovery=self.name)
        self.failures.zero(reason=REASONS)


PROBE_OUTCOMES = ("success", "failure")
PROBE_REFUSALS = ("missing", "malformed", "module", "not_allowed", "address", "too_many")


def _probes() -> Counter:
    probes = Counter(catalog.EXPORTER_PROBES)
    probes.zero(outcome=PROBE_OUTCOMES)
    return probes


def _refused() -> Counter:
    refused = Counter(catalog.EXPORTER_PROBES_REFUSED)
    refused.zero(reason=PROBE_REFUSALS)
    return refused


@dataclass(slots=True)
class ProbeVitals:
    """What /probe tells of itself. `states`: sources that are kept between two probes."""

    done: Counter = field(default_factory=_probes)
    refused: Counter = field(default_factory=_refused)
    in_flight: int = 0
    states: int = 0


@dataclass(slots=True)
class Vitals:
    """What the other parts tell of themselves. Written by the composition root, discovery (by name), the fleet (`lag`),
    /probe and the web."""

    config_hash: str = ""
    servers: int = 0
    reload_successful: bool = True
    reload_succeeded_at: float | None = None
    web_config_successful: bool | None = None
    render_seconds: float | None = None
    page_bytes: int = 0
    page_series: int = 0
    lag: Histogram = field(default_factory=_lag)
    discoveries: Mapping[str, DiscoveryVitals] = field(default_factory=dict)
    probe: ProbeVitals = field(default_factory=ProbeVitals)


class OwnSource:
    """Exposes:

    ollama_exporter_build_info{python="3.11.7",version="0.1.0"} 1.0
    ollama_exporter_config_last_reload_successful 1.0
    process_resident_memory_bytes 5.1e+07
    """

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals
        self._process = psutil.Process()

    async def collect(self) -> Iterable[Sample]:
        samples = [*self._exporter()]
        try:
            samples += self._process_samples()
        except (psutil.Error, OSError):  # no file can be opened to look into: the limit may be reached
            raise Failed("unavailable", samples) from None
        return samples

    async def aclose(self) -> None:
        pass

    def _exporter(self) -> Iterator[Sample]:
        vitals = self._vitals
        yield catalog.EXPORTER_BUILD(1.0, version=__version__, python=platform.python_version())
        yield catalog.EXPORTER_CONFIG(1.0, hash=vitals.config_hash[:12])
        yield catalog.EXPORTER_RELOAD_OK(float(vitals.reload_successful))
        if vitals.reload_succeeded_at is not None:
            yield catalog.EXPORTER_RELOAD_TIME(vitals.reload_succeeded_at)
        if vitals.web_config_successful is not None:
            yield catalog.EXPORTER_WEB_CONFIG_OK(float(vitals.web_config_successful))
        yield catalog.EXPORTER_SERVERS(float(vitals.servers))
        for discovery in vitals.discoveries.values():
            yield from _discovery(discovery)
        yield from _probe(vitals.probe)
        yield from vitals.lag.samples()
        if vitals.render_seconds is not None:
            yield catalog.EXPORTER_RENDER(vitals.render_seconds)
            yield catalog.EXPORTER_SERIES(float(vitals.page_series))
            yield catalog.EXPORTER_PAGE(float(vitals.page_bytes))

    def _process_samples(self) -> Iterator[Sample]:
        with self._process.oneshot():
            cpu, memory = self._process.cpu_times(), self._process.memory_info()
            yield catalog.PROCESS_CPU(cpu.user + cpu.system)
            yield catalog.PROCESS_RSS(float(memory.rss))
            yield catalog.PROCESS_VIRTUAL(float(memory.vms))
            yield catalog.PROCESS_START(self._process.create_time())
        yield catalog.PROCESS_FDS(float(self._process.num_fds()))
        yield catalog.PROCESS_MAX_FDS(float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def _discovery(vitals: DiscoveryVitals) -> Iterator[Sample]:
    if vitals.up is not None:
        yield catalog.DISCOVERY_UP(float(vitals.up), discovery=vitals.name)
        yield catalog.DISCOVERY_SERVERS(float(vitals.servers), discovery=vitals.name)
        for reason in LEFT_OUT:
            yield catalog.DISCOVERY_LEFT_OUT(
                float(vitals.left_out.get(reason, 0)), discovery=vitals.name, reason=reason
            )
    if vitals.succeeded_at is not None:
        yield catalog.DISCOVERY_SUCCESS(vitals.succeeded_at, discovery=vitals.name)
    yield from vitals.failures.samples()


def _probe(vitals: ProbeVitals) -> Iterator[Sample]:
    yield from vitals.done.samples()
    yield from vitals.refused.samples()
    yield catalog.EXPORTER_PROBES_IN_FLIGHT(float(vitals.in_flight))
    yield catalog.EXPORTER_PROBE_STATES(float(vitals.states))
