"""Load: what `ollama-exporter load` offers and gets, on the /metrics of its own process while it runs."""

from __future__ import annotations

from exporter.catalog.buckets import DURATION_BUCKETS, LAG_BUCKETS, PER_TOKEN_BUCKETS, TTFT_BUCKETS, WAIT_BUCKETS
from exporter.model import Family

_SWM = ("server", "workload", "model")

LOAD_OFFERED = Family(
    "ollama_load_offered_requests_total", "counter",
    "Requests that the load tester has meant to send, counted at their ends or when they could not be sent.", _SWM,
)  # fmt: skip
LOAD_REQUESTS = Family(
    "ollama_load_requests_total", "counter",
    "Requests of the load tester by how they ended, decided at the end of the answer. ok: answered well; busy: 503;"
    " stream_error: an error under HTTP 200; truncated: without its end; prompt_cut: fewer tokens read than words sent;"
    " client_lag: not sent, for the tester's own reasons; interrupted: in flight when it was stopped.",
    (*_SWM, "outcome"),
)  # fmt: skip
LOAD_GOOD = Family(
    "ollama_load_good_requests_total", "counter",
    "Requests of the load tester that were answered well and within all objectives of its scenario (good_*).", _SWM,
)  # fmt: skip
LOAD_IN_FLIGHT = Family(
    "ollama_load_in_flight_requests", "gauge",
    "Requests of the load tester that have been sent, or wait for their connection, and are not answered in full.",
    ("server",),
)  # fmt: skip
LOAD_TTFT = Family(
    "ollama_load_time_to_first_token_seconds", "histogram",
    "Time from when a streamed request was meant to be sent to the first token of its answer, as the load tester saw it."
    " Failed requests are in none of its buckets.",
    _SWM, "seconds", TTFT_BUCKETS,
)  # fmt: skip
LOAD_DURATION = Family(
    "ollama_load_request_duration_seconds", "histogram",
    "Time from when a request was meant to be sent to the end of its answer, of those answered well, as the load tester"
    " saw it.",
    _SWM, "seconds", DURATION_BUCKETS,
)  # fmt: skip
LOAD_PER_TOKEN = Family(
    "ollama_load_time_per_output_token_seconds", "histogram",
    "Seconds for each token after the first, one value for each streamed answer of two tokens or more, by the load tester's"
    " clock and the server's count.",
    _SWM, "seconds", PER_TOKEN_BUCKETS,
)  # fmt: skip
LOAD_QUEUE = Family(
    "ollama_load_queue_wait_upper_bound_seconds", "histogram",
    "Time of the load tester's requests that is neither load, prompt nor generation by the server's own account: the wait"
    " for a slot, and some overhead.",
    _SWM, "seconds", WAIT_BUCKETS,
)  # fmt: skip
LOAD_PROMPT_TOKENS = Family(
    "ollama_load_prompt_tokens_total", "counter",
    "Tokens of the load tester's prompts by the server's count, cached ones included (from 0.30.1 on).", _SWM, "tokens",
)  # fmt: skip
LOAD_TOKENS = Family(
    "ollama_load_generated_tokens_total", "counter",
    "Tokens of answers to the load tester by the server's count, at the end of each answer.", _SWM, "tokens",
)  # fmt: skip
LOAD_LAG = Family(
    "ollama_load_send_lag_seconds", "histogram",
    "How late the load tester sent its requests, against their plan: its own delay, which makes a run invalid.",
    ("server",), "seconds", LAG_BUCKETS,
)  # fmt: skip
LOAD_PHASE = Family(
    "ollama_load_phase_info", "info",
    "1 while the load tester is in this phase of this scenario.", ("scenario", "phase"),
)  # fmt: skip
