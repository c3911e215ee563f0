"""One simulated server: engine, faults, event log and ASGI application, put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exporter.simulator import control, native, openai
from exporter.simulator.clock import real_wall_clock
from exporter.simulator.engine import Engine, EngineConfig, LoadFailedError, ServerBusyError, ServerDownError, Wanted
from exporter.simulator.events import EventLog
from exporter.simulator.faults import Fault, FaultKind, Faults
from exporter.simulator.http import App
from exporter.simulator.journal import Journal, Sink, go_duration
from exporter.simulator.ledger import Call, Ledger
from exporter.simulator.metrics import Totals
from exporter.simulator.models import GPT_OSS_CLOUD, LLAMA32_3B, NOMIC_EMBED, TINYLLAMA, SimModel
from exporter.simulator.runner import RunnerDiedError, Spent
from exporter.simulator.text import Prompt, synthetic_prompt

DEFAULT_MODELS = (TINYLLAMA, LLAMA32_3B, NOMIC_EMBED, GPT_OSS_CLOUD)
_SATURATION_TOKENS = 400


@dataclass(frozen=True, slots=True)
class ServerConfig:
    name: str = "primary"
    engine: EngineConfig = EngineConfig()  # noqa: RUF009 - frozen
    models: tuple[SimModel, ...] = DEFAULT_MODELS
    version: str = "0.33.0-rc2"
    loopback: bool = False  # bound to 127.0.0.1: the Host header is checked
    control: bool = False  # /_sim/ answers
    cloud_disabled: bool = False  # OLLAMA_NO_CLOUD
    metrics: bool = False  # OLLAMA_METRICS, which no release knows: /metrics answers
    environment: tuple[tuple[str, str], ...] = ()  # variables beside those that make the engine what it is


class SimServer:
    """Use it through `app` (ASGI), a `transport.SimTransport`, or `server.serve` (sockets)."""

    def __init__(
        self,
        config: ServerConfig | None = None,
        now: Callable[[], float] = real_wall_clock,
        sink: Sink | None = None,
    ) -> None:
        """`sink` takes the lines of its log."""
        self.config = config or ServerConfig()
        self._now = now
        self.log = EventLog(now)
        self.journal = Journal(sink, now)
        self.ledger = Ledger()
        self.faults = Faults(self.config.engine.seed)
        self.engine = Engine(
            self.config.engine,
            self.log,
            now,
            self._slowdown,
            self._load_failure,
            self._lost_gpu,
            self.journal,
            self._lacks_memory,
        )
        self._models = {model.name: model for model in self.config.models}
        self.totals = Totals()
        routes = {**native.ROUTES, **openai.ROUTES, **(native.METRICS if self.config.metrics else {})}
        self.app = App(self, routes, control.ROUTES if self.config.control else {})
        self._tasks: set[asyncio.Task[None]] = set()
        self._was_dead = False
        self.faults.on_change(self._on_fault)
        self._start()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def is_dead(self) -> bool:
        return self.faults.active("dead") is not None

    @property
    def models(self) -> tuple[SimModel, ...]:
        return tuple(self._models.values())

    def wall_time(self) -> float:
        """What this server believes the time to be."""
        return self._now() + self.skew_seconds

    @property
    def skew_seconds(self) -> float:
        fault = self.faults.active("clock_skew")
        return fault.offset if fault else 0.0

    @contextlib.contextmanager
    def visited(self, path: str) -> Iterator[Call]:
        """A request that goes straight into the engine, as it would show in the access log and to the kernel."""
        loop = asyncio.get_running_loop()
        started, status, broken = loop.time(), 200, False
        try:
            with self.ledger.call("user") as call:
                try:
                    yield call
                finally:
                    broken = call.broken
        except ServerBusyError:
            status = 503
            raise
        except (LoadFailedError, RunnerDiedError):
            status = 500
            raise
        except (ServerDownError, asyncio.CancelledError):
            status = 0
            raise
        finally:
            if status and not broken:
                self.journal.access("POST", path, status, loop.time() - started)

    async def converse(self, call: Call, wanted: Wanted, prompt: Prompt, tokens: int, step: int) -> None:
        """A generation that goes straight into the engine, counted as one that came over HTTP."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with self.engine.runner(wanted) as runner:
            load_seconds = loop.time() - started
            async with runner.slot():
                async for made in runner.generate(prompt, tokens, step):
                    call.token()
                    if isinstance(made, Spent):
                        self.totals.add(wanted.model.name, made, load_seconds)

    def _start(self) -> None:
        engine = self.config.engine
        settings = {
            "OLLAMA_CONTEXT_LENGTH": "0",
            "OLLAMA_FLASH_ATTENTION": "false",
            "OLLAMA_KEEP_ALIVE": go_duration(engine.keep_alive_seconds),
            "OLLAMA_KV_CACHE_TYPE": "",
            "OLLAMA_MAX_LOADED_MODELS": str(engine.max_loaded_models),
            "OLLAMA_MAX_QUEUE": str(engine.max_queue),
            "OLLAMA_NO_CLOUD": str(self.config.cloud_disabled).lower(),
            "OLLAMA_NUM_PARALLEL": str(engine.num_parallel),
        }
        self.journal.started(self.config.version, settings)

    def install(self, model: SimModel) -> None:
        """Add a model, or replace the one of that name as a pull does."""
        self._models[model.name] = model

    def remove(self, name: str) -> None:
        self._models.pop(name, None)

    def find(self, name: str) -> SimModel | None:
        """By the name as clients write it: `latest` may be left out, case does not matter."""
        if not name:
            return None
        last = name.rsplit("/", 1)[-1]
        full = (name if ":" in last else f"{name}:latest").lower()
        return next((model for model in self._models.values() if model.name.lower() == full), None)

    def inject(self, fault: Fault) -> None:
        """Let something go wrong, now."""
        match fault.kind:
            case "runner_killed":
                self.engine.kill_runners([fault.model] if fault.model else [])
            case "slot_lost":
                self.engine.lose_slot([fault.model] if fault.model else [])
            case _:
                self.faults.inject(fault)

    def heal(self, kind: FaultKind | None = None) -> None:
        self.faults.clear(kind)

    async def aclose(self) -> None:
        self.faults.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.engine.aclose()

    # -- what faults do to the engine

    def _on_fault(self) -> None:
        self.ledger.take(self.faults.active("starting") is None)
        self.journal.reworded = self.faults.active("log_reworded") is not None
        self.journal.cut_short = self.faults.active("log_cut_short") is not None
        dead = self.is_dead
        if dead != self._was_dead:
            self._was_dead = dead
            self.log.record("down" if dead else "up")
            if dead:
                self.engine.die()
                self.totals = Totals()
                self.ledger.hang_up()
            else:
                self.ledger.listen()
                self._start()
        saturated = self.faults.active("saturated")
        if saturated is not None and not any(task.get_name() == "saturation" for task in self._tasks):
            self._spawn(saturated)

    def _spawn(self, saturated: Fault) -> None:
        task = asyncio.create_task(self._saturate(saturated), name="saturation")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _saturate(self, fault: Fault) -> None:
        """Twice as many callers as there are slots, each asking again as soon as it was answered."""
        model = self.find(fault.model) or next(m for m in self.models if m.can_complete and not m.is_remote)
        slots = 1 if model.forces_one_slot else self.config.engine.num_parallel
        async with asyncio.TaskGroup() as group:
            for number in range(2 * slots + 2):
                group.create_task(self._keep_asking(model, number))

    async def _keep_asking(self, model: SimModel, number: int) -> None:
        prompt = synthetic_prompt(200, number)
        while self.faults.active("saturated") is not None:
            try:
                wanted = Wanted(model, origin="saturation")
                with self.visited("/api/generate") as call:
                    await self.converse(call, wanted, prompt, _SATURATION_TOKENS, _SATURATION_TOKENS // 8)
            except (ServerBusyError, ServerDownError, LoadFailedError, RunnerDiedError):
                await asyncio.sleep(1.0)

    def _slowdown(self) -> float:
        fault = self.faults.active("slow")
        return fault.factor if fault else 1.0

    def _lost_gpu(self) -> bool:
        return self.faults.active("gpu_lost") is not None

    def _lacks_memory(self, model: SimModel) -> bool:
        fault = self.faults.active("runtime_oom")
        return fault is not None and fault.model in ("", model.name)

    def _load_failure(self, model: SimModel) -> str | None:
        fault = self.faults.active("load_failed")
        if fault is None or (fault.model and fault.model != model.name):
            return None
        return "llama-server process has terminated: error loading model: unable to allocate buffer"
