"""Canary: a timed tiny generation on a model that is loaded anyway."""

from __future__ import annotations

from exporter.catalog.buckets import (
    DURATION_BUCKETS,
    LOAD_BUCKETS,
    NETWORK_BUCKETS,
    PER_TOKEN_BUCKETS,
    TTFT_BUCKETS,
    WAIT_BUCKETS,
)
from exporter.model import Family

_SM = ("server", "model")

CANARY_ATTEMPTS = Family(
    "ollama_canary_attempts_total", "counter",
    "Canary generations that ended, by outcome. ok: HTTP 200, done, at least one token. caused_load: answered, but after a"
    " load or reload that it had to wait for; the canary then stops for that model.",
    (*_SM, "outcome"),
)  # fmt: skip
CANARY_SKIPS = Family(
    "ollama_canary_skips_total", "counter",
    "Canaries that were due and not sent, by reason, at most one per interval and model. busy: users' requests are in"
    " flight. unused: nobody used the model since the last canary, so it is left to expire.",
    (*_SM, "reason"),
)  # fmt: skip
CANARY_TTFT = Family(
    "ollama_canary_time_to_first_token_seconds", "histogram",
    "Time to first token of canaries with outcome ok, on the server's own clock: total_duration - eval_duration.",
    _SM, "seconds", TTFT_BUCKETS,
)  # fmt: skip
CANARY_DURATION = Family(
    "ollama_canary_duration_seconds", "histogram",
    "total_duration of canaries with outcome ok, on the server's own clock.",
    _SM, "seconds", DURATION_BUCKETS,
)  # fmt: skip
CANARY_QUEUE_WAIT = Family(
    "ollama_canary_queue_wait_upper_bound_seconds", "histogram",
    "Upper bound of the time that canaries with outcome ok waited for a slot: total - load - prompt_eval - eval. Includes"
    " 5 to 30 ms of overhead. Not known for embeddings.",
    _SM, "seconds", WAIT_BUCKETS,
)  # fmt: skip
CANARY_LOAD = Family(
    "ollama_canary_load_duration_seconds", "histogram",
    "load_duration of canaries with outcome ok or caused_load: the wait for the scheduler to hand over a runner, a load"
    " included if there was one.",
    _SM, "seconds", LOAD_BUCKETS,
)  # fmt: skip
CANARY_PROMPT = Family(
    "ollama_canary_prompt_duration_seconds", "histogram",
    "prompt_eval_duration of canaries with outcome ok. The prompt is fixed and mostly cached: no measure of prefill speed.",
    _SM, "seconds", PER_TOKEN_BUCKETS,
)  # fmt: skip
CANARY_PER_TOKEN = Family(
    "ollama_canary_time_per_output_token_seconds", "histogram",
    "Decode time per output token of canaries with outcome ok: eval_duration / (eval_count - 1). Absent below 8 tokens.",
    _SM, "seconds", PER_TOKEN_BUCKETS,
)  # fmt: skip
CANARY_NETWORK = Family(
    "ollama_canary_network_seconds", "histogram",
    "Round trip of canaries with outcome ok as the exporter saw it minus the server's total_duration.",
    _SM, "seconds", NETWORK_BUCKETS,
)  # fmt: skip
CANARY_LAST_ATTEMPT = Family(
    "ollama_canary_last_attempt_timestamp_seconds", "gauge", "Unix time at which the last canary was sent.",
    _SM, "seconds",
)  # fmt: skip
CANARY_LAST_SUCCESS = Family(
    "ollama_canary_last_success_timestamp_seconds", "gauge", "Unix time at which the last canary ended with outcome ok.",
    _SM, "seconds",
)  # fmt: skip
CANARY_PENDING = Family(
    "ollama_canary_pending_since_timestamp_seconds", "gauge",
    "Unix time at which the canary that is in flight now was sent. Absent when none is.",
    _SM, "seconds",
)  # fmt: skip
CANARY_STOPPED = Family(
    "ollama_canary_stopped", "gauge",
    "1 if the canary has stopped for this model because one of its attempts seemed to cause a load. Until the exporter"
    " restarts, its settings change or the model's digest does.",
    _SM,
)  # fmt: skip
