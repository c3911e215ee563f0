"""The llama-server children of a simulated server: what they answer, and how they come and go on the machine.

`Child.answer` is the whole HTTP API as a pure question, for virtual time; `serve_children` puts it on loopback ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from exporter.simulator.machine import SimServer
from exporter.simulator.models import MIB
from exporter.simulator.runner import Runner
from exporter.simulator.slots import SlotWork

_STORE = "/usr/share/ollama/.ollama/models/blobs"
_PROGRAM = "/usr/local/lib/ollama/llama-server"
_BUILD = "b10488-efbeafe53"
_JSON = "application/json; charset=utf-8"
_PORTS = 40_000
_PIDS = 5_000
_BATCH = 1024
_LOOK_SECONDS = 0.05
_HEAD_MAX = 16_384
_IDLE_SECONDS = 5.0
_RESIDENT_BYTES = 300 * MIB  # of a runner whose weights are in the GPU's memory


@dataclass(frozen=True, slots=True)
class ChildAnswer:
    status: int
    headers: Mapping[str, str]  # names as they are sent
    body: bytes


class Child:
    """One process. `port`: of its HTTP server on 127.0.0.1; `metrics`: LLAMA_ARG_ENDPOINT_METRICS is set."""

    def __init__(self, runner: Runner, pid: int, port: int, metrics: bool = True) -> None:
        self.runner, self.pid, self.port, self.metrics = runner, pid, port, metrics

    @property
    def started(self) -> float:
        """Unix time."""
        return self.runner.started

    @property
    def path(self) -> str:
        return f"{_STORE}/sha256-{self.runner.model.blob}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command line, as Ollama writes it."""
        runner = self.runner
        return (
            _PROGRAM, "--model", self.path, "--port", str(self.port), "--host", "127.0.0.1", "--no-webui", "--offline",
            "-c", str(runner.num_ctx * runner.slots), "-np", str(runner.slots), "--log-verbosity", "4",
            "--no-log-prefix", "--no-log-timestamps", "--load-mode", "none", "--flash-attn", "auto",
            "-b", str(_BATCH), "-ub", str(_BATCH), "--context-shift", "--keep", "4",
        )  # fmt: skip

    @property
    def resident_bytes(self) -> int:
        return _RESIDENT_BYTES + self.runner.size_bytes - self.runner.vram_bytes

    @property
    def cpu_seconds(self) -> float:
        """A GPU's server spends its time waiting for it, actively."""
        totals = self.runner.work.totals
        return 1.0 + totals.prompt_seconds + totals.generation_seconds / max(1, self.runner.slots)

    def answer(self, path: str) -> ChildAnswer:
        if self.runner.loading:
            return _error(503, "Loading model", "unavailable_error")
        if path == "/health":
            return _json({"status": "ok"})
        if path == "/slots":
            return _json([_slot(row, self.runner.num_ctx) for row in self.runner.work.rows])
        if path == "/props":
            return _json(_props(self))
        if path == "/metrics":
            if not self.metrics:
                text = "This server does not support metrics endpoint. Start it with `--metrics`"
                return _error(501, text, "not_supported_error")
            mark = str(int((self.started % 1e6) * 1e6))  # microseconds, whatever its name says
            headers = {"Process-Start-Time-Unix": mark, "Content-Type": "text/plain; version=0.0.4"}
            return _reply(200, _metrics(self.runner), headers)
        return _error(404, "File Not Found", "not_found_error")


class Children:
    """Which children a server has now. `port` draws the port of a new one."""

    def __init__(self, server: SimServer, port: Callable[[], int] | None = None, metrics: bool = True) -> None:
        self._server, self._metrics = server, metrics
        self._port = port or itertools.count(_PORTS + 1_000 * (server.config.engine.seed % 20)).__next__
        self._pids = itertools.count(_PIDS + 1_000 * server.config.engine.seed)
        self.pid = next(self._pids)
        """Of the server itself."""
        self._known: dict[Runner, Child] = {}
        self._lock = threading.Lock()

    def now(self) -> tuple[Child, ...]:
        """Call it at every look, or a child that came and went in between is not known to have been."""
        with self._lock:
            runners = self._server.engine.children()
            self._known = {runner: self._known.get(runner) or self._new(runner) for runner in runners}
            return tuple(self._known.values())

    def _new(self, runner: Runner) -> Child:
        return Child(runner, next(self._pids), self._port(), self._metrics)


# --- bodies ----------------------------------------------------------------------------------------------------------

_PARAMS: Mapping[str, Any] = MappingProxyType({
    "seed": 4294967295, "temperature": 0.800000011920929, "dynatemp_range": 0.0, "dynatemp_exponent": 1.0, "top_k": 40,
    "top_p": 0.8999999761581421, "min_p": 0.0, "top_n_sigma": -1.0, "xtc_probability": 0.0,
    "xtc_threshold": 0.10000000149011612, "typical_p": 1.0, "repeat_last_n": 64, "repeat_penalty": 1.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "dry_multiplier": 0.0, "dry_base": 1.75,
    "dry_allowed_length": 2, "dry_penalty_last_n": 64, "mirostat": 0, "mirostat_tau": 5.0,
    "mirostat_eta": 0.10000000149011612, "adaptive_target": -1.0, "adaptive_decay": 0.8999999761581421,
    "max_tokens": -1, "n_predict": -1, "n_keep": 4, "n_discard": 0, "ignore_eos": False, "stream": True, "n_probs": 0,
    "min_keep": 0, "chat_format": "Content-only", "reasoning_format": "deepseek", "reasoning_in_content": False,
    "generation_prompt": "",
    "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"],
    "speculative.types": "none", "timings_per_token": False, "post_sampling_probs": False, "backend_sampling": False,
    "lora": [],
})  # fmt: skip


def _slot(row: SlotWork, num_ctx: int) -> dict[str, Any]:
    told = {"id": row.number, "n_ctx": num_ctx, "speculative": False, "is_processing": row.busy}
    if row.task is None:
        return told
    decoded = row.decoded
    token = {
        "has_next_token": row.busy,
        "has_new_line": False,
        "n_remain": row.tokens - decoded if row.busy else -1,
        "n_decoded": decoded,
    }
    return {
        **told,
        "id_task": row.task,
        "n_prompt_tokens": row.held,
        "n_prompt_tokens_processed": row.processed,
        "n_prompt_tokens_cache": row.cached,
        "params": {**_PARAMS, "max_tokens": row.tokens, "n_predict": row.tokens},
        "next_token": [token],
    }


def _props(child: Child) -> dict[str, Any]:
    runner = child.runner
    return {
        "default_generation_settings": {"params": dict(_PARAMS), "n_ctx": runner.num_ctx},
        "total_slots": runner.slots,
        "model_alias": child.path,
        "model_ftype": runner.model.quantization,
        "model_path": child.path,
        "modalities": {"vision": False, "video": False, "audio": False},
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": child.metrics,
        "ui": False,
        "ui_settings": {},
        "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "build_info": _BUILD,
        "is_sleeping": False,
        "cors_proxy_enabled": False,
    }


def _metrics(runner: Runner) -> bytes:
    totals, busy = runner.work.totals, sum(row.busy for row in runner.work.rows)
    lines = [
        line
        for kind, name, text, value in (
            ("counter", "prompt_tokens_total", "Number of prompt tokens processed, excluding cached tokens",
             totals.prompt_tokens),
            ("counter", "prompt_tokens_cached_total", "Number of prompt tokens reused from the cache",
             totals.cached_tokens),
            ("counter", "prompt_seconds_total", "Total time spent processing prompts", totals.prompt_seconds),
            ("counter", "tokens_predicted_total", "Number of generation tokens processed", totals.generated),
            ("counter", "tokens_predicted_seconds_total", "Total time spent generating tokens",
             totals.generation_seconds),
            ("counter", "n_decode_total", "Total number of llama_decode() calls, excluding speculative decoding and"
             " multimodal decoding", int(totals.decodes)),
            ("counter", "n_tokens_max", "Largest observed sequence length (prompt + generation)", totals.longest),
            ("counter", "spec_decode_num_draft_tokens_total", "Speculative: Total draft tokens generated", 0),
            ("counter", "spec_decode_num_accepted_tokens_total",
             "Speculative: Total draft tokens accepted by the target model", 0),
            ("counter", "spec_decode_num_drafts_total", "Speculative: Total speculative decoding verification steps",
             0),
            ("gauge", "prompt_tokens_seconds", "Average prompt throughput in tokens/s", 0),
            ("gauge", "predicted_tokens_seconds", "Average generation throughput in tokens/s", 0),
            ("gauge", "requests_processing", "Number of requests processing", busy),
            ("gauge", "requests_deferred", "Number of requests deferred", 0),
            ("gauge", "n_busy_slots_per_decode", "Average number of busy slots per llama_decode() call",
             totals.generated / max(1.0, totals.decodes)),
        )
        for line in (
            f"# HELP llamacpp:{name} {text}",
            f"# TYPE llamacpp:{name} {kind}",
            f"llamacpp:{name} {value:g}" if isinstance(value, float) else f"llamacpp:{name} {value}",
        )
    ]  # fmt: skip
    return ("\n".join(lines) + "\n").encode()


def _json(value: object, status: int = 200) -> ChildAnswer:
    return _reply(status, json.dumps(value, separators=(",", ":")).encode(), {"Content-Type": _JSON})


def _error(status: int, message: str, kind: str) -> ChildAnswer:
    return _json({"error": {"code": status, "message": message, "type": kind}}, status)


def _reply(status: int, body: bytes, headers: Mapping[str, str]) -> ChildAnswer:
    head = {"Server": "llama.cpp", "Access-Control-Allow-Origin": "", **headers, "Content-Length": str(len(body))}
    return ChildAnswer(status, head, body)


# --- sockets ---------------------------------------------------------------------------------------------------------


class Served:
    """The children of one server on loopback ports; `now` may be read from any thread."""

    def __init__(self, server: SimServer, metrics: bool = True) -> None:
        self._ports: dict[int, _Port] = {}
        self._waiting: list[_Port] = []
        self.children = Children(server, self._draw, metrics)
        self.now: tuple[Child, ...] = ()

    def _draw(self) -> int:
        port = self._waiting.pop()
        self._ports[port.number] = port
        return port.number

    async def follow(self) -> None:
        """Until cancelled: each child listens as long as it lives."""
        try:
            while True:
                await self._catch_up()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self.now = ()
            for port in (*self._waiting, *self._ports.values()):
                port.close()

    async def _catch_up(self) -> None:
        while len(self._waiting) < 2:  # more than two do not begin within one look
            self._waiting.append(await _Port.open())
        there = self.children.now()
        for child in there:
            self._ports[child.port].child = child
        for gone in self._ports.keys() - {child.port for child in there}:
            self._ports.pop(gone).close()
        self.now = there


@contextlib.asynccontextmanager
async def serve_children(server: SimServer, metrics: bool = True) -> AsyncIterator[Served]:
    """Serve a simulated server's children beside it. `metrics`: whether they have /metrics."""
    served = Served(server, metrics)
    following = asyncio.create_task(served.follow(), name=f"children of {server.name}")
    try:
        yield served
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class _Port:
    """A listening port, and the child that answers there. One without a child takes connections and closes them."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self.number = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @classmethod
    async def open(cls) -> _Port:
        port = cls()
        port._server = await asyncio.start_server(port._talk, "127.0.0.1", 0, limit=_HEAD_MAX)
        port.number = port._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """As a process ends: whoever talks to it is cut off."""
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, TimeoutError):
                while self.child is not None:
                    async with asyncio.timeout(_IDLE_SECONDS):
                        head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(b"".join(_wire(self.child.answer(_path(head)))))
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()


def _path(head: bytes) -> str:
    words = head.split(b" ", 2)
    return words[1].split(b"?")[0].decode("latin-1") if len(words) == 3 else ""


def _wire(answer: ChildAnswer) -> Iterator[bytes]:
    reasons = {200: "OK", 404: "Not Found", 501: "Not Implemented", 503: "Service Unavailable"}
    yield f"HTTP/1.1 {answer.status} {reasons[answer.status]}\r\n".encode()
    for name, value in answer.headers.items():
        yield f"{name}: {value}\r\n".encode()
    yield b"Keep-Alive: timeout=5, max=100\r\n\r\n"
    yield answer.body
