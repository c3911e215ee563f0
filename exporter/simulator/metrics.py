"""/metrics as it is proposed for Ollama (OLLAMA_METRICS=1): what was answered to its end, by model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from exporter.simulator.engine import Loaded
from exporter.simulator.runner import Spent

TEXT = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class Answered:
    """Totals of one model since the server's start, in seconds and tokens."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    prompt_seconds: float = 0.0
    eval_seconds: float = 0.0
    load_seconds: float = 0.0


_COUNTERS: tuple[tuple[str, str, Callable[[Answered], float]], ...] = (
    ("ollama_requests_total", "Completed requests.", lambda it: it.requests),
    ("ollama_prompt_tokens_total", "Prompt tokens, cached ones included.", lambda it: it.prompt_tokens),
    ("ollama_prompt_cached_tokens_total", "Prompt tokens out of the cache.", lambda it: it.cached_tokens),
    ("ollama_generated_tokens_total", "Generated tokens.", lambda it: it.tokens),
    ("ollama_prompt_eval_duration_seconds_total", "Time for prompts.", lambda it: it.prompt_seconds),
    ("ollama_eval_duration_seconds_total", "Time for tokens.", lambda it: it.eval_seconds),
    ("ollama_load_duration_seconds_total", "Time until a runner was there.", lambda it: it.load_seconds),
)
_GAUGES: tuple[tuple[str, str, Callable[[Loaded], float]], ...] = (
    ("ollama_loaded_model_size_bytes", "Memory of a loaded model.", lambda row: row.size_bytes),
    ("ollama_loaded_model_vram_bytes", "Part of it in VRAM.", lambda row: row.vram_bytes),
    ("ollama_loaded_model_expiry_timestamp_seconds", "When it is unloaded.", lambda row: row.expires_at),
)


@dataclass(slots=True)
class Totals:
    """What a server has counted since its start."""

    models: dict[str, Answered] = field(default_factory=dict)

    def add(self, model: str, spent: Spent, load_seconds: float) -> None:
        it = self.models.setdefault(model, Answered())
        it.requests += 1
        it.prompt_tokens += spent.prompt_tokens
        it.cached_tokens += spent.cached_tokens
        it.tokens += spent.tokens
        it.prompt_seconds += spent.prompt_seconds
        it.eval_seconds += spent.eval_seconds
        it.load_seconds += load_seconds


def page(totals: Totals, rows: Iterable[Loaded], version: str, skew_seconds: float) -> bytes:
    return "".join(_lines(totals, tuple(rows), version, skew_seconds)).encode()


def _lines(totals: Totals, rows: tuple[Loaded, ...], version: str, skew_seconds: float) -> Iterator[str]:
    yield _head("ollama_build_info", "Version of the server.", "gauge")
    yield f'ollama_build_info{{version="{version}"}} 1\n'
    for name, help, of_model in _COUNTERS:
        yield _head(name, help, "counter")
        for model, it in sorted(totals.models.items()):
            yield f'{name}{{model="{model}"}} {of_model(it):.15g}\n'
    for name, help, of_row in _GAUGES:
        yield _head(name, help, "gauge")
        skew = skew_seconds if "expiry" in name else 0.0
        for row in rows:
            yield f'{name}{{model="{row.model.name}"}} {of_row(row) + skew:.15g}\n'


def _head(name: str, help: str, kind: str) -> str:
    return f"# HELP {name} {help}\n# TYPE {name} {kind}\n"
