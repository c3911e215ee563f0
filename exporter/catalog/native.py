"""Native: what a server tells on a /metrics of its own, as it is proposed for Ollama. Passed on under its own names.

A counter that ends in no `_total` there gets it here. What the api source tells under the same name is left to it.
"""

from __future__ import annotations

from exporter.model import Family

_ANSWERS = ("server", "exported_server", "model", "reason")
_OF_SERVER = ("server", "exported_server")

NATIVE_REQUESTS = Family(
    "ollama_requests_total", "counter",
    "Generations that were answered to their end, by the server's own count (/metrics at the last poll). Errors, embeddings and"
    " requests that wait are not in it; the exporter's canary is. In all that a server counts itself, exported_server is a label"
    " server of its own, and model is other past the label cap.",
    _ANSWERS,
)  # fmt: skip
NATIVE_PROMPT_TOKENS = Family(
    "ollama_prompt_tokens_total", "counter",
    "Prompt tokens of those generations, by the server's own count; those in the cache are among them.",
    _ANSWERS, "tokens",
)  # fmt: skip
NATIVE_PROMPT_CACHED = Family(
    "ollama_prompt_cached_tokens_total", "counter",
    "Prompt tokens of those generations that were in the cache already, by the server's own count.",
    _ANSWERS, "tokens",
)  # fmt: skip
NATIVE_GENERATED = Family(
    "ollama_generated_tokens_total", "counter",
    "Tokens of those generations, by the server's own count: those of an answer when it ends, of one that broke off never.",
    _ANSWERS, "tokens",
)  # fmt: skip
NATIVE_LOAD = Family(
    "ollama_load_duration_seconds_total", "counter",
    "Sum of load_duration over generations that were answered, by the server's own count: the wait for the scheduler to hand"
    " over a runner, a load included if there was one. reason: why the answer ended, where the server tells.",
    _ANSWERS, "seconds",
)  # fmt: skip
NATIVE_PROMPT_SECONDS = Family(
    "ollama_prompt_eval_duration_seconds_total", "counter",
    "Sum of prompt_eval_duration over generations that were answered, by the server's own count: time for reading prompts.",
    _ANSWERS, "seconds",
)  # fmt: skip
NATIVE_EVAL_SECONDS = Family(
    "ollama_eval_duration_seconds_total", "counter",
    "Sum of eval_duration over generations that were answered, by the server's own count: time for making tokens. The first"
    " token of each answer costs none: a token took ollama_eval_duration_seconds_total / (ollama_generated_tokens_total -"
    " ollama_requests_total).",
    _ANSWERS, "seconds",
)  # fmt: skip
NATIVE_TOTAL_SECONDS = Family(
    "ollama_total_duration_seconds_total", "counter",
    "Sum of total_duration over generations that were answered, by the server's own count.",
    _ANSWERS, "seconds",
)  # fmt: skip
NATIVE_PROMPT_EVALS = Family(
    "ollama_prompt_eval_total", "counter",
    "Prompt tokens by the server's own count, as a proposal of 2026-07 calls them.",
    _ANSWERS,
)  # fmt: skip
NATIVE_EVALS = Family(
    "ollama_eval_total", "counter",
    "Generated tokens by the server's own count, as a proposal of 2026-07 calls them.",
    _ANSWERS,
)  # fmt: skip
NATIVE_PEAK_MEMORY = Family(
    "ollama_peak_memory_bytes", "gauge",
    "Peak memory of a generation, as the server tells it at the last poll.",
    _ANSWERS, "bytes",
)  # fmt: skip
NATIVE_QUEUED = Family(
    "ollama_requests_queued", "gauge",
    "Requests in the scheduler's queue at the last poll, as the server tells it: they wait for a load. Those that wait for a"
    " slot of a loaded model are not in it: see ollama_sockets_waiting_requests_estimate.",
    _OF_SERVER,
)  # fmt: skip
NATIVE_QUEUE_CAPACITY = Family(
    "ollama_queue_capacity", "gauge",
    "Requests that the scheduler's queue holds before it answers 503, as the server tells it at the last poll.",
    _OF_SERVER,
)  # fmt: skip
NATIVE_HTTP_REQUESTS = Family(
    "http_requests_total", "counter",
    "Requests to a watched server (never to this exporter) by its own count. The exporter's own polls are among them.",
    (*_OF_SERVER, "action", "status", "status_code"),
)  # fmt: skip
NATIVE_LEFT_OUT = Family(
    "ollama_native_left_out_series", "gauge",
    "Series of the server's /metrics at the last poll that are not passed on as they are. unknown: of names that no proposal for"
    " Ollama has. impossible: with a type, label or value that they cannot have. capped: counters past a label cap, summed under"
    " other; gauges past it.",
    ("server", "why"),
)  # fmt: skip

PASSED: tuple[Family, ...] = (
    NATIVE_REQUESTS, NATIVE_PROMPT_TOKENS, NATIVE_PROMPT_CACHED, NATIVE_GENERATED, NATIVE_LOAD, NATIVE_PROMPT_SECONDS,
    NATIVE_EVAL_SECONDS, NATIVE_TOTAL_SECONDS, NATIVE_PROMPT_EVALS, NATIVE_EVALS, NATIVE_PEAK_MEMORY, NATIVE_QUEUED,
    NATIVE_QUEUE_CAPACITY, NATIVE_HTTP_REQUESTS,
)  # fmt: skip
"""What is passed on under the server's own names."""
TOLD_BY_API: frozenset[str] = frozenset({
    "ollama_build_info", "ollama_loaded_model_size_bytes", "ollama_loaded_model_vram_bytes",
    "ollama_loaded_model_expiry_timestamp_seconds", "ollama_models_loaded",
})  # fmt: skip
"""Names of the proposals whose numbers the api source exports already."""
