"""What a simulated server writes into its log: the lines of Ollama 0.33 and its llama-servers, without those that only
describe a model's weights."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from exporter.simulator.models import SimModel

Sink = Callable[[str], None]
"""Takes a line with its end."""

_LOOPBACK = "127.0.0.1"


class Journal:
    """Writes lines into a sink; without one it does nothing."""

    def __init__(self, sink: Sink | None, now: Callable[[], float]) -> None:
        self._sink, self._now = sink, now
        self.reworded = False
        """Access lines are written as no known version writes them."""
        self.cut_short = False
        """What a runner has to go right after is never written."""

    # -- gin

    def access(self, method: str, path: str, status: int, seconds: float) -> None:
        if self.reworded:
            self._write(f"[GIN] status={status} took={go_duration(seconds)} method={method} path={path}")
            return
        at = f"{self._moment():%Y/%m/%d - %H:%M:%S}"
        took = go_duration(float(int(seconds)) if seconds > 60 else seconds)
        self._write(f'[GIN] {at} | {status:3d} | {took:>13} | {_LOOPBACK:>15} | {method:<7}  "{path}"')

    # -- Ollama

    def started(self, version: str, settings: dict[str, str]) -> None:
        env = " ".join(f"{name}:{value}" for name, value in sorted(settings.items()))
        self._say("server config", f'env="map[{env}]"', source="routes.go:1951")
        self._say(f"Listening on {_LOOPBACK}:11434 (version {version})", source="routes.go:2008")

    def load_began(self, model: SimModel, num_ctx: int, slots: int) -> None:
        command = (
            f"/usr/local/lib/ollama/llama-server --model {_path(model)} --port 40000 --host {_LOOPBACK} --no-webui"
            f" --offline -c {num_ctx * slots} -np {slots} --log-verbosity 4 --no-log-prefix --no-log-timestamps"
        )
        self._say("starting llama-server", f'cmd="{command}"', source="llama_server.go:433")
        self._say("loading model via llama-server", f"model={_path(model)}", source="llama_server.go:1048")
        self._say("waiting for llama-server to start responding", source="llama_server.go:1295")

    def load_ended(self, model: SimModel, seconds: float, runners: int) -> None:
        """The scheduler asks a runner once more after it has placed it, so its start is told twice."""
        started = f"llama-server started in {seconds:.2f} seconds"
        name = model.name if "/" in model.name else f"library/{model.name}"
        self._say(started, source="llama_server.go:1362")
        self._say("template selection", f"model=registry.ollama.ai/{name} selected=go_template", source="images.go:381")
        self._say("loaded runners", f"count={runners}", source="sched.go:728")
        self._say("waiting for llama-server to start responding", source="llama_server.go:1295")
        self._say(started, source="llama_server.go:1362")

    def load_failed(self, model: SimModel, error: str) -> None:
        self._say("Load failed", f'model={_path(model)} error="{error}"', source="sched.go:641")

    def load_aborted(self, model: SimModel) -> None:
        message = "client connection closed before llama-server finished loading, aborting load"
        self._say(message, level="WARN", source="llama_server.go:1301")
        self.load_failed(model, "timed out waiting for llama-server to start: context canceled")

    def predicted_too_large(self) -> None:
        message = "llama-server model predicted to exceed available memory, evicting"
        self._say(message, "system_limited=false", source="sched.go:551")

    def one_slot_only(self, model: SimModel) -> None:
        message = "model architecture does not currently support parallel requests"
        self._say(message, f"architecture={model.family}", level="WARN", source="sched.go:509")

    def runner_found_dead(self) -> None:
        """Told by everybody who asks for it."""
        for _ in range(2):
            message = "llama-server process no longer running"
            self._say(message, 'sys=9 string="signal: killed"', level="WARN", source="llama_server.go:1196")

    def generation_failed(self, error: str) -> None:
        self._say("llama-server completion error", f'error="{error}"', level="ERROR", source="llama_server.go:1640")

    def out_of_memory(self, model: SimModel) -> None:
        wanted = "allocating 512.00 MiB on device 0: cudaMalloc failed: out of memory"
        self._write(f"ggml_backend_cuda_buffer_type_alloc_buffer: {wanted}")
        message = "runtime OOM detected; expiring loaded models to clear memory before next request"
        self._say(message, f"model={_path(model)}", level="WARN", source="sched.go:1648")

    def prompt_truncated(self, limit: int, before: int, kept: int, after: int) -> None:
        numbers = f"limit={limit} prompt={before} keep={kept} new={after}"
        self._say("truncating input prompt", numbers, level="WARN", source="llama_server.go:317")

    def left_the_queue(self) -> None:
        message = "aborting completion request due to client closing the connection"
        self._say(message, source="llama_server.go:1538")

    # -- llama-server

    def prompt_began(self, slot: int, task: int, num_ctx: int, tokens: int, cached: int) -> None:
        self._slot("launch_slot_", slot, task, "processing task, is_child = 0")
        said = f"new prompt, n_ctx_slot = {num_ctx}, n_keep = 4, task.n_tokens = {tokens}"
        self._slot("operator()", slot, task, said)
        self._slot("operator()", slot, task, f"cached n_tokens = {cached}, memory_seq_rm [{cached}, end)")

    def sampling(self, slot: int, task: int, tokens: int) -> None:
        said = f"init sampler, took 0.01 ms, tokens: text = {tokens}, total = {tokens}"
        self._slot("init_sampler", slot, task, said)

    def progress(self, slot: int, task: int, made: int, seconds: float) -> None:
        speed = made / seconds
        said = f"n_gen = {made:6d}, tg = {speed:6.2f} t/s, tg_3s = {speed:6.2f} t/s"
        self._slot("print_timing", slot, task, said)

    def answered(self, slot: int, task: int, processed: int, prompt_seconds: float, made: int, seconds: float) -> None:
        self._slot("print_timing", slot, task, f"prompt eval time = {_timing(processed, prompt_seconds)}")
        self._slot("print_timing", slot, task, f"       eval time = {_timing(made, seconds)}")
        total = (prompt_seconds + seconds) * 1e3
        self._slot("print_timing", slot, task, f"      total time = {total:10.2f} ms / {processed + made:5d} tokens")

    def shifted(self, slot: int, task: int, kept: int, left: int, discarded: int) -> None:
        said = f"slot context shift, n_keep = {kept}, n_left = {left}, n_discard = {discarded}"
        self._slot("update_slots", slot, task, said)

    def released(self, slot: int, task: int, tokens: int) -> None:
        self._slot("release", slot, task, f"stop processing: n_tokens = {tokens}, truncated = 0")

    def _slot(self, function: str, slot: int, task: int, said: str) -> None:
        self._write(f"slot {function:>12}: id {slot:2d} | task {task} | {said}")

    def _say(self, message: str, fields: str = "", *, level: str = "INFO", source: str) -> None:
        quoted = f'"{message}"' if " " in message else message
        at = self._moment().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._write(f"time={at} level={level} source={source} msg={quoted}{' ' if fields else ''}{fields}")

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)

    def _write(self, line: str) -> None:
        if self._sink is not None:
            self._sink(f"{line}\n")


def go_duration(seconds: float) -> str:
    """As Go prints a duration: `120.452µs`, `5.054276458s`, `32m31s`."""
    nanoseconds = round(seconds * 1e9)
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)):
        if nanoseconds < size * (1_000 if unit != "s" else 60):
            return f"{_short(nanoseconds / size)}{unit}"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    return f"{f'{hours}h' if hours else ''}{minutes}m{_short(rest / 1e9)}s"


def _short(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")


def _timing(tokens: int, seconds: float) -> str:
    per_token = seconds * 1e3 / tokens if tokens else 0.0
    speed = tokens / seconds if seconds else 0.0
    return (
        f"{seconds * 1e3:10.2f} ms / {tokens:5d} tokens ({per_token:8.2f} ms per token, {speed:8.2f} tokens per second)"
    )


def _path(model: SimModel) -> str:
    return f"/usr/share/ollama/.ollama/models/blobs/sha256-{model.blob}"
