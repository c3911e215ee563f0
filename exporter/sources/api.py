"""What a member of the fleet tells over its HTTP API without being disturbed: version, loaded and installed models.

Nothing here causes, prolongs or ends the residence of a model. Two requests a poll, a third every few minutes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

from exporter import catalog
from exporter.meter import Counter, Histogram
from exporter.model import ApiSettings, Failed, Family, Reason, Sample, Watch
from exporter.ollama import (
    NAME_MAX,
    Answer,
    Client,
    HttpError,
    InstalledModel,
    LoadedModel,
    OllamaError,
    Rows,
    TimedOut,
)

M = TypeVar("M", LoadedModel, InstalledModel)
State = Literal["ok", "stalled", "starting", "down"]
STATES: tuple[State, ...] = ("ok", "stalled", "starting", "down")
OTHER = "other"
_DIGITS = 12
_SLIDE_TOLERANCE = 0.1
_SLIDE_SPAN = 1.0


@dataclass(frozen=True, slots=True)
class _Shown(Generic[M]):
    """An answer, which of its models get labels of their own, and the samples made of it: all the same as long as the
    answer is."""

    rows: Rows[M]
    labelled: Mapping[str, M]
    dropped: int
    samples: tuple[Sample, ...]


class ApiSource:
    """Exposes, for a server named `a`:

        ollama_up{server="a"} 1.0
        ollama_state{server="a",state="ok"} 1.0
        ollama_build_info{server="a",version="0.33.0"} 1.0
        ollama_loaded_model_vram_bytes{model="llama3.2:3b",server="a"} 3.2e+09
        ollama_loaded_model_expiry_timestamp_seconds{model="llama3.2:3b",server="a"} 1.7954554e+09

    A server that is down or starting keeps `ollama_up`, its state and the counters of what was seen of it; everything
    that describes its present condition goes at once.
    """

    def __init__(self, watch: Watch, client: Client, now: Callable[[], float] = time.time) -> None:
        self._server, self._settings = watch.server, cast(ApiSettings, watch.settings)
        self._client, self._now = client, now
        self._residents = Residents(watch.server, self._settings.models_max)
        self._condition: tuple[State, tuple[Sample, ...]] = ("down", ())
        self._loaded: _Shown[LoadedModel] | None = None
        self._inventory: _Shown[InstalledModel] | None = None
        self._inventory_due = 0.0
        self._digests: frozenset[str] = frozenset()
        self._orphans: frozenset[str] = frozenset()
        # What seldom changes is the very sample of the last look, so that its text need not be made again.
        self._build: tuple[str, Sample] | None = None
        self._dropped: tuple[int, Sample] | None = None
        self._busy: tuple[tuple[tuple[str, bool], ...], tuple[Sample, ...]] = (), ()
        self._durations = Histogram(catalog.API_DURATION, server=watch.server)
        self._durations.zero(api_endpoint=("/api/version", "/api/ps", "/api/tags"))
        self._rejected = Counter(catalog.REJECTED_VALUES, server=watch.server)
        self._rejected.zero()

    async def collect(self) -> Iterable[Sample]:
        try:
            version = await self._client.version()
        except OllamaError as error:
            # Silent on an open connection: starting, or hung. No connection, or a wrong answer: down.
            self._inventory = None
            state: State = "starting" if isinstance(error, TimedOut) else "down"
            raise Failed(error.reason, self._in_any(state)) from error
        self._timed("/api/version", version)
        if self._build is None or self._build[0] != version.value:
            self._build = version.value, catalog.BUILD_INFO(1.0, server=self._server, version=version.value)
        seen = [self._build[1]]
        if version.clock_offset is not None:
            seen.append(catalog.CLOCK_OFFSET(version.clock_offset, server=self._server))
        try:
            loaded = await self._look_at_loaded()
        except OllamaError as error:
            raise Failed(error.reason, [*self._in_any("stalled"), *seen]) from error
        failure = await self._refresh_inventory(loaded.rows.models if loaded else ())
        seen += self._models(loaded)
        if failure:
            raise Failed(failure, [*self._in_any("ok"), *seen])
        return [*self._in_any("ok"), *seen]

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _look_at_loaded(self) -> _Shown[LoadedModel] | None:
        """What /api/ps tells; None where the server has no such path (before 0.1.38)."""
        try:
            answer = await self._client.ps()
        except HttpError as error:
            if error.status == 404:
                return None
            raise
        self._timed("/api/ps", answer)
        self._rejected.add(answer.value.rejected)
        clock = self._now() + (answer.clock_offset or 0.0)
        if self._loaded is None or self._loaded.rows is not answer.value:
            self._loaded = self._show_loaded(answer.value)
        self._residents.see(self._loaded.labelled.values(), asyncio.get_running_loop().time(), clock)
        return self._loaded

    async def _refresh_inventory(self, loaded: tuple[LoadedModel, ...]) -> Reason | None:
        """Ask /api/tags when it is due, or when a model is loaded of which it has not told yet."""
        time_now = asyncio.get_running_loop().time()
        unknown = self._unknown(loaded) - self._orphans
        if self._inventory is not None and time_now < self._inventory_due and not unknown:
            return None
        try:
            answer = await self._client.tags()
        except OllamaError as error:
            self._inventory = None
            return error.reason
        self._timed("/api/tags", answer)
        self._rejected.add(answer.value.rejected)
        self._inventory = self._show_installed(answer.value)
        self._digests = frozenset(model.digest for model in answer.value.models)
        self._inventory_due = time_now + self._settings.inventory_every
        # A loaded model whose tag has gone stays unknown: asking again at every poll would not help.
        self._orphans = self._unknown(loaded)
        self._residents.know(frozenset(self._inventory.labelled))
        return None

    def _unknown(self, loaded: Iterable[LoadedModel]) -> frozenset[str]:
        known = self._digests if self._inventory else frozenset[str]()
        return frozenset([model.digest for model in loaded if model.digest not in known])

    def _timed(self, path: str, answer: Answer[Any]) -> None:
        self._durations.observe(answer.took, api_endpoint=path)

    def _in_any(self, state: State) -> Iterator[Sample]:
        """What can be said in any state."""
        if self._condition[0] != state or not self._condition[1]:
            self._condition = (state, tuple(self._state(state)))
        yield from self._condition[1]
        yield from self._durations.samples()
        yield from self._rejected.samples()
        yield from self._residents.counters()

    def _state(self, state: State) -> Iterator[Sample]:
        yield catalog.SERVER_INFO(1.0, server=self._server, url=self._settings.endpoint.url)
        yield catalog.UP(float(state in ("ok", "stalled")), server=self._server)
        for name in STATES:
            yield catalog.STATE(float(name == state), server=self._server, state=name)

    def _models(self, loaded: _Shown[LoadedModel] | None) -> Iterator[Sample]:
        dropped = 0
        if loaded is not None:
            yield from loaded.samples
            yield from self._known_busy(loaded.labelled)
            dropped += loaded.dropped
        if self._inventory is not None:
            yield from self._inventory.samples
            dropped += self._inventory.dropped
        if self._dropped is None or self._dropped[0] != dropped:
            self._dropped = dropped, catalog.EXPORTER_DROPPED(float(dropped), server=self._server)
        yield self._dropped[1]

    def _known_busy(self, names: Iterable[str]) -> tuple[Sample, ...]:
        states = tuple([(name, self._residents.known_busy(name)) for name in names])
        if states != self._busy[0]:
            server = self._server
            samples = [catalog.KNOWN_BUSY(float(busy), server=server, model=name) for name, busy in states]
            self._busy = states, tuple(samples)
        return self._busy[1]

    def _show_loaded(self, rows: Rows[LoadedModel]) -> _Shown[LoadedModel]:
        labelled = self._labelled(rows.models)
        rest = [model for model in rows.models if model.name not in labelled]
        samples = [
            catalog.LOADED_MODELS(float(len(rows.models)), server=self._server),
            *(sample for model in labelled.values() for sample in self._loaded_model(model)),
            *self._sum(catalog.LOADED_SIZE, [model.size for model in rest]),
            *self._sum(catalog.LOADED_VRAM, [model.vram for model in rest]),
        ]
        return _Shown(rows, labelled, len(rest), tuple(samples))

    def _show_installed(self, rows: Rows[InstalledModel]) -> _Shown[InstalledModel]:
        local = [model for model in rows.models if not model.remote]
        labelled = self._labelled(local)
        rest = [model for model in local if model.name not in labelled]
        samples = [
            catalog.INSTALLED_MODELS(float(len(local)), server=self._server),
            catalog.REMOTE_MODELS(float(len(rows.models) - len(local)), server=self._server),
        ]
        if self._settings.inventory:
            samples += (sample for model in labelled.values() for sample in self._installed_model(model))
            samples += self._sum(catalog.INSTALLED_SIZE, [model.size for model in rest])
        return _Shown(rows, labelled, len(rest), tuple(samples))

    def _loaded_model(self, model: LoadedModel) -> Iterator[Sample]:
        labels = {"server": self._server, "model": model.name}
        for family, value in (
            (catalog.LOADED_SIZE, model.size),
            (catalog.LOADED_VRAM, model.vram),
            (catalog.LOADED_CONTEXT, model.context),
            (catalog.LOADED_EXPIRY, model.expires),
        ):
            if value is not None:
                yield family(float(value), **labels)
        yield catalog.LOADED_INFO(1.0, **labels, **_description(model))

    def _installed_model(self, model: InstalledModel) -> Iterator[Sample]:
        labels = {"server": self._server, "model": model.name}
        if model.size is not None:
            yield catalog.INSTALLED_SIZE(float(model.size), **labels)
        yield catalog.INSTALLED_INFO(1.0, **labels, **_description(model))

    def _labelled(self, models: Iterable[M]) -> dict[str, M]:
        """Those that get a label value of their own: the first by name, up to the cap, and none of absurd length."""
        sane = sorted((model for model in models if len(model.name) <= NAME_MAX), key=lambda model: model.name)
        return {model.name: model for model in sane[: self._settings.models_max]}

    def _sum(self, family: Family, values: list[int | None]) -> Iterator[Sample]:
        known = [value for value in values if value is not None]
        if known:
            yield family(float(sum(known)), server=self._server, model=OTHER)


def _description(model: LoadedModel | InstalledModel) -> dict[str, str]:
    return {
        "digest": model.digest[:_DIGITS],
        "family": model.details.family,
        "parameter_size": model.details.parameter_size,
        "quantization": model.details.quantization,
    }


@dataclass(slots=True)
class _Resident:
    digest: str
    context: int | None
    expires: float | None
    seen_at: float
    never_idle: bool = True
    busy: bool = False


class Residents:
    """Compares each answer of /api/ps with the one before: loads, unloads, uses, and who is known to be busy.

    The first answer is the baseline: what is loaded then was loaded by somebody, some time ago.

    `strays_max`: how many models of which /api/tags has not told may keep their counters after they have gone.
    """

    def __init__(self, server: str, strays_max: int = 200) -> None:
        self._models: dict[str, _Resident] | None = None
        self._known: frozenset[str] = frozenset()
        self._strays: set[str] = set()
        self._strays_max = strays_max
        self._loads = Counter(catalog.LOADS_SEEN, server=server)
        self._unloads = Counter(catalog.UNLOADS_SEEN, server=server)
        self._reconfigurations = Counter(catalog.RECONFIGURATIONS_SEEN, server=server)
        self._uses = Counter(catalog.USES_SEEN, server=server)

    def see(self, models: Iterable[LoadedModel], at: float, clock: float) -> None:
        """`at`: when the answer came, on a clock that never jumps; `clock`: the server's Unix time then."""
        before = self._models
        self._models = {model.name: _Resident(model.digest, model.context, model.expires, at) for model in models}
        self._zero(self._models.keys() - (before or {}).keys())
        for name, resident in self._models.items():
            if before is not None:
                self._compare(name, before.get(name), resident)
            if resident.expires is not None and resident.expires < clock:
                resident.busy = True
        for name in (before or {}).keys() - self._models.keys():
            self._unloads.add(model=name)
        self._strays |= self._models.keys() - self._known
        if len(self._strays) > self._strays_max:
            # While /api/tags fails nobody says which of them are gone for good, and names must not pile up.
            self._strays &= self._models.keys()
            self._keep(self._known | self._strays)

    def know(self, installed: frozenset[str]) -> None:
        """Start the counters of these models at 0, and forget those of models that are neither installed nor loaded."""
        self._known = installed | frozenset(self._models or ())
        self._strays.clear()
        self._keep(self._known)
        self._zero(installed)

    def known_busy(self, name: str) -> bool:
        return self._models is not None and name in self._models and self._models[name].busy

    def counters(self) -> Iterator[Sample]:
        for counter in self._counters():
            yield from counter.samples()

    def _compare(self, name: str, before: _Resident | None, now: _Resident) -> None:
        if before is None:
            self._loads.add(model=name)
            return
        if (before.digest, before.context) != (now.digest, now.context):
            self._loads.add(model=name)
            self._unloads.add(model=name)
            self._reconfigurations.add(model=name)
            return
        if before.expires is None or now.expires is None:
            now.never_idle = False
            return
        moved, elapsed = now.expires - before.expires, now.seen_at - before.seen_at
        # Until its first request has ended, a model's expiry is computed anew for each answer: it keeps its distance.
        slides = before.never_idle and elapsed >= _SLIDE_SPAN and abs(moved - elapsed) < _SLIDE_TOLERANCE
        now.never_idle, now.busy = slides, slides
        if moved != 0 and not slides:
            self._uses.add(model=name)

    def _keep(self, names: frozenset[str]) -> None:
        for counter in self._counters():
            counter.keep("model", names)

    def _zero(self, names: Set[str]) -> None:
        for counter in self._counters() if names else ():
            counter.zero(model=sorted(names))

    def _counters(self) -> tuple[Counter, ...]:
        return self._loads, self._unloads, self._reconfigurations, self._uses
