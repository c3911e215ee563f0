"""The settings of a server, as its environment makes them: what is in force, what does nothing, what hurts, and what is
against the operator's policy.

The environment is that of the server's process, else its container's, else what its log told of it at its start. No
value of a variable is exported but the settings themselves.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar, cast

from exporter import catalog, ollamalog
from exporter.dockerd import Daemon
from exporter.environment import Origin, Settings, Version, ignored, settings, version_of
from exporter.local import Local, RunnerProcess
from exporter.local.processes import argument
from exporter.model import AuditSettings, Failed, Lack, Lacking, LogSettings, Partial, Policy, Sample, Watch
from exporter.ollama import Answer, Client, InstalledModel, LoadedModel, OllamaError
from exporter.tails import Tail
from exporter.tails.container import ContainerTail
from exporter.tails.file import FileTail
from exporter.tails.journal import JournalTail

_T = TypeVar("_T")

IGNORED_MAX = 20
_INVENTORY_EVERY = 300.0
_RUNNER_SINCE: Version = (0, 30, 0)
"""The first version whose runner is a llama-server of its own, which reads the environment, too."""


class AuditSource:
    """Exposes, for a server named `a`:

        ollama_config_info{server="a",origin="process",flash_attention="auto",kv_cache_type="f16"} 1.0
        ollama_config_parallel{server="a"} 4.0
        ollama_config_ignored_variable_info{server="a",variable="OLLAMA_QUEUE_SIZE",instead="OLLAMA_MAX_QUEUE"} 1.0
        ollama_config_problem{server="a",problem="keep_alive_zero"} 0.0
        ollama_policy_violation{server="a",rule="required_model_missing"} 1.0

    The server is asked for its version and what is loaded, and every five minutes for what is installed where the
    policy speaks of models. That it does not answer is no failure here: what depends on it is absent.
    """

    def __init__(
        self,
        watch: Watch,
        client: Client,
        machine: Local,
        daemon: Callable[[str], Daemon] = Daemon,
    ) -> None:
        self._server, self._settings = watch.server, cast(AuditSettings, watch.settings)
        self._client, self._machine = client, machine
        self._docker = None if self._settings.docker is None else daemon(self._settings.docker)
        self._looking = threading.Lock()
        self._installed: tuple[InstalledModel, ...] | None = None
        self._installed_due = 0.0

    async def collect(self) -> Iterable[Sample] | Partial:
        try:
            seen = await asyncio.to_thread(self._look)
        except Lacking as lacking:
            if self._settings.policy == Policy():
                raise
            violations = tuple(self._violations(None, await self._ask()))
            if not violations:
                raise
            return Partial(violations, (lacking.lack,))
        told = await self._ask()
        return [*self._configured(seen, told), *self._violations(settings_of(seen, told), told)]

    async def aclose(self) -> None:
        await self._client.aclose()
        if self._docker is not None:
            self._docker.close()

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _ask(self) -> Told:
        version = await _if_answered(self._client.version)
        if version is None:
            self._installed = None
            return Told(None, None, None)
        loaded = await _if_answered(self._client.ps)
        await self._refresh_inventory()
        return Told(version_of(version), None if loaded is None else loaded.models, self._installed)

    async def _refresh_inventory(self) -> None:
        now = asyncio.get_running_loop().time()
        policy = self._settings.policy
        if not (policy.required or policy.allowed) or (self._installed is not None and now < self._installed_due):
            return
        rows = await _if_answered(self._client.tags)
        self._installed = None if rows is None else rows.models
        self._installed_due = now + _INVENTORY_EVERY

    def _look(self) -> Seen:
        # A cancelled collect() leaves its thread behind: the next look must not join it.
        if not self._looking.acquire(blocking=False):
            raise Failed("timeout")
        try:
            return self._seen()
        finally:
            self._looking.release()

    def _seen(self) -> Seen:
        lacks: list[Lack] = []
        away = False
        for look in (self._of_process, self._of_container, self._of_log):
            try:
                return look()
            except Lacking as lacking:
                lacks.append(lacking.lack)
            except (LookupError, OSError, Failed):  # the server is down, the daemon is, or the log has gone
                away = True
        if away or not lacks:
            raise Failed("unavailable")
        raise Lacking(f"the server's settings: {lacks[0].what}", lacks[0].remedy)

    def _of_process(self) -> Seen:
        place = self._machine.place(self._settings.endpoint.url)
        environment = self._machine.environment(place)
        try:
            runners = self._machine.runners(place)
        except (Lacking, OSError):
            runners = None
        return Seen("process", environment, runners)

    def _of_container(self) -> Seen:
        if self._docker is None:
            raise Lacking("Docker is not to be asked", "set docker.mode: auto")
        container = self._docker.server(self._settings.endpoint.url, self._settings.container)
        if not container.runs:
            raise LookupError("the container does not run")
        return Seen("container", container.environment)

    def _of_log(self) -> Seen:
        log = self._settings.log
        if log is None:
            raise Lacking("nobody said where its log is", "set servers[].logs.file, unit or container")
        tail = _tail(log)
        try:
            lines = tail.history()
        finally:
            tail.close()
        for line in reversed(lines):
            event = ollamalog.parse(line) if b"server config" in line else None
            if isinstance(event, ollamalog.Configured):
                return Seen("log", event.environment)
        raise Lacking("the log does not reach back to the server's start", "run the exporter on the server's machine")

    # --- telling -----------------------------------------------------------------------------------------------------

    def _configured(self, seen: Seen, told: Told) -> Iterator[Sample]:
        server, found = self._server, settings_of(seen, told)
        yield catalog.CONFIG_INFO(
            1.0,
            server=server,
            origin=found.origin,
            flash_attention=found.flash_attention,
            kv_cache_type=found.kv_cache,
        )
        if found.parallel is not None:
            yield catalog.CONFIG_PARALLEL(found.parallel, server=server)
        yield catalog.CONFIG_MAX_QUEUE(found.max_queue, server=server)
        yield catalog.CONFIG_MAX_LOADED(found.max_loaded, server=server)
        yield catalog.CONFIG_KEEP_ALIVE(found.keep_alive, server=server)
        yield catalog.CONFIG_CONTEXT(found.context, server=server)
        if found.origin != "log":
            yield from self._names(seen, told, found)
        for problem, holds in problems(seen, told, found).items():
            yield catalog.CONFIG_PROBLEM(float(holds), server=server, problem=problem)

    def _names(self, seen: Seen, told: Told, found: Settings) -> Iterator[Sample]:
        for variable in sorted(found.invalid):
            yield catalog.CONFIG_INVALID(1.0, server=self._server, variable=variable)
        nothing = ignored(seen.environment, told.version)
        if nothing is None:
            return
        yield catalog.CONFIG_IGNORED_COUNT(len(nothing), server=self._server)
        for variable, instead in list(nothing.items())[:IGNORED_MAX]:
            yield catalog.CONFIG_IGNORED(1.0, server=self._server, variable=variable, instead=instead)

    def _violations(self, found: Settings | None, told: Told) -> Iterator[Sample]:
        for rule, broken in violations(self._settings.policy, found, told).items():
            yield catalog.POLICY_VIOLATION(float(broken), server=self._server, rule=rule)


@dataclass(frozen=True, slots=True)
class Told:
    """What the server's API told; None is what it did not."""

    version: Version | None
    loaded: tuple[LoadedModel, ...] | None
    installed: tuple[InstalledModel, ...] | None


@dataclass(frozen=True, slots=True)
class Seen:
    """An environment, where it is from, and the runners beside it; None where they cannot be seen from there."""

    origin: Origin
    environment: Mapping[str, str]
    runners: tuple[RunnerProcess, ...] | None = None


def settings_of(seen: Seen, told: Told) -> Settings:
    return settings(seen.environment, seen.origin, told.version)


def problems(seen: Seen, told: Told, found: Settings) -> dict[str, bool]:
    """What hurts, and what could and does not, by the words of `environment.PROBLEMS`; without what cannot be told."""
    verdicts = {"keep_alive_zero": found.keep_alive == 0, "requests_logged": found.logs_requests}
    if found.origin != "log":
        verdicts["invalid_value"] = bool(found.invalid)
        if told.version is not None and told.version >= _RUNNER_SINCE:
            verdicts["runner_key"] = "LLAMA_API_KEY" in seen.environment
            verdicts["slots_debug"] = bool(seen.environment.get("LLAMA_SERVER_SLOTS_DEBUG"))
    if found.parallel is not None and seen.runners is not None:
        verdicts["parallel_forced_to_1"] = found.parallel > 1 and 1 in map(_slots, seen.runners)
    if found.parallel is not None and told.loaded is not None:
        verdicts["parallel_beside_cpu"] = found.parallel > 1 and any(map(_beside_cpu, told.loaded))
    return dict(sorted(verdicts.items()))


def violations(policy: Policy, found: Settings | None, told: Told) -> dict[str, bool]:
    """Which of the policy's rules are broken; without those that it does not have and those that cannot be told."""
    verdicts: dict[str, bool] = {}
    if told.installed is not None:
        names = {model.name for model in told.installed}
        if policy.required:
            verdicts["required_model_missing"] = not names.issuperset(policy.required)
        if policy.allowed:
            verdicts["model_not_allowed"] = any(not _is_allowed(name, policy.allowed) for name in names)
    contexts = [model.context for model in told.loaded or () if model.context is not None]
    if policy.max_context is not None and (found is not None or told.loaded is not None):
        most = max([*contexts, found.context if found else 0])
        verdicts["context_above_limit"] = most > policy.max_context
    if found is not None:
        if policy.max_parallel is not None and found.parallel is not None:
            verdicts["parallel_above_limit"] = found.parallel > policy.max_parallel
        if policy.max_keep_alive is not None:
            verdicts["keep_alive_above_limit"] = found.keep_alive > policy.max_keep_alive
    return verdicts


def _is_allowed(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _slots(runner: RunnerProcess) -> int | None:
    told = argument(runner.arguments, "-np") or argument(runner.arguments, "--parallel") or ""
    return int(told) if told.isascii() and told.isdecimal() else None


def _beside_cpu(model: LoadedModel) -> bool:
    """Partly on the CPU. One that is there wholly is on a machine without a GPU, or was put there."""
    return model.size is not None and model.vram is not None and 0 < model.vram < model.size


def _tail(log: LogSettings) -> Tail:
    if log.file:
        return FileTail(Path(log.file))
    if log.unit:
        return JournalTail(log.unit)
    return ContainerTail(log.container, Daemon(log.docker))


async def _if_answered(ask: Callable[[], Awaitable[Answer[_T]]]) -> _T | None:
    try:
        return (await ask()).value
    except OllamaError:
        return None
