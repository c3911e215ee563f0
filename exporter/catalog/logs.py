"""Logs: what a server's own log tells, counted from the exporter's first look at it."""

from __future__ import annotations

from exporter.catalog.buckets import DURATION_BUCKETS, LOAD_BUCKETS
from exporter.model import Family

_SM = ("server", "model")

LOG_REQUESTS = Family(
    "ollama_log_requests_total", "counter",
    "Requests by the access lines of the server's log, written when a request ends; reads such as /api/ps are apart. status:"
    " 2xx, 3xx, 4xx (without 499), 499 (the client left while its model was loading), 5xx (without 503), 503 (the"
    " scheduler's queue was full). A stream that broke off counts as 2xx; a client that left before its answer began as"
    " 5xx; one that left while it waited in the scheduler's queue is never written. The exporter's canary is among them,"
    " under /api/generate or /api/embed.",
    ("server", "api_endpoint", "status"),
)  # fmt: skip
LOG_READS = Family(
    "ollama_log_reads_total", "counter",
    "Requests that only read (/, /api/version, /api/status, /api/ps, /api/tags, /api/show, /v1/models), by the server's access"
    " lines. The exporter's own polls are among them.",
    ("server", "api_endpoint"),
)  # fmt: skip
LOG_DURATION = Family(
    "ollama_log_request_duration_seconds", "histogram",
    "Time of requests that use a model and were answered 2xx, by the server's access lines: to the last byte, so waiting,"
    " loading and all tokens are in it, and a slow client too. Not the time to the first token. The exporter's canary is"
    " among them.",
    ("server", "api_endpoint"), "seconds", DURATION_BUCKETS,
)  # fmt: skip
LOG_GENERATIONS = Family(
    "ollama_log_generations_total", "counter",
    "Answers that a runner finished, by its timing lines in the server's log (0.30 and newer). Those that were cancelled have"
    " none, nor have those of ollama_log_generations_cut_off_total. model: that of the only runner alive; unknown while several may be, because they share one log without names.",
    _SM,
)  # fmt: skip
LOG_PROMPT_TOKENS = Family(
    "ollama_log_processed_prompt_tokens_total", "counter",
    "Prompt tokens that runners computed for finished answers, those in the cache left out (timing lines, 0.30 and newer)."
    " model as in ollama_log_generations_total.",
    _SM, "tokens",
)  # fmt: skip
LOG_PROMPT_SECONDS = Family(
    "ollama_log_prompt_seconds_total", "counter",
    "Time in which runners computed those prompt tokens, summed over slots: wall clock shared with what other slots did.",
    _SM, "seconds",
)  # fmt: skip
LOG_CACHED_TOKENS = Family(
    "ollama_log_cached_prompt_tokens_total", "counter",
    "Prompt tokens that were in the runner's cache already when a slot began with the prompt, whatever became of the answer"
    " (0.30 and newer).",
    _SM, "tokens",
)  # fmt: skip
LOG_GENERATED_TOKENS = Family(
    "ollama_log_generated_tokens_total", "counter",
    "Tokens of finished answers, thinking included (timing lines, 0.30 and newer): those that ollama_log_generations_total"
    " counts: a lower bound. The first token of each answer costs no generation time: speed is (tokens - generations) /"
    " ollama_log_generation_seconds_total.",
    _SM, "tokens",
)  # fmt: skip
LOG_GENERATION_SECONDS = Family(
    "ollama_log_generation_seconds_total", "counter",
    "Time in which runners generated those tokens, summed over slots.",
    _SM, "seconds",
)  # fmt: skip
LOG_ABANDONED = Family(
    "ollama_log_generations_abandoned_total", "counter",
    "Generations that a runner ended before their end, mostly because the client had left: work that nobody reads."
    " model as in ollama_log_generations_total.",
    _SM,
)  # fmt: skip
LOG_ABANDONED_TOKENS = Family(
    "ollama_log_abandoned_tokens_total", "counter",
    "Tokens that were made for them (0.30 and newer); where the context was shifted meanwhile, a lower bound.",
    _SM, "tokens",
)  # fmt: skip
LOG_CUT_OFF = Family(
    "ollama_log_generations_cut_off_total", "counter",
    "Generations that were begun and whose runner was gone before it had written their end: ended by Ollama to make room,"
    " right after their answer or their client's leaving, or dead. Their tokens are missing in"
    " ollama_log_generated_tokens_total. Counted when it is certain, mostly at the next load; a lower bound while several"
    " models are loaded. model as in ollama_log_generations_total.",
    _SM,
)  # fmt: skip
LOG_CUT_OFF_TOKENS = Family(
    "ollama_log_cut_off_seen_tokens_total", "counter",
    "Tokens that runners told of generations while they were at work (every three seconds) and that were cut off afterwards:"
    " a lower bound of the tokens of ollama_log_generations_cut_off_total, 0 of short ones.",
    _SM, "tokens",
)  # fmt: skip
LOG_DRAFTED = Family(
    "ollama_log_draft_tokens_total", "counter",
    "Tokens that speculative decoding proposed, for models that have it (the server's log).",
    _SM, "tokens",
)  # fmt: skip
LOG_ACCEPTED = Family(
    "ollama_log_accepted_draft_tokens_total", "counter",
    "Tokens that speculative decoding proposed and that held, for models that have it (the server's log).",
    _SM, "tokens",
)  # fmt: skip
LOG_LOADS_BEGUN = Family(
    "ollama_log_loads_begun_total", "counter",
    "Runners that the server started to load a model, by its log; each attempt counts.",
    ("server",),
)  # fmt: skip
LOG_LOAD_DURATION = Family(
    "ollama_log_load_duration_seconds", "histogram",
    "Time of loads that succeeded, as the server tells it: from the start of the runner to its readiness, waiting in the"
    " scheduler's queue and evictions not included. model: the name that it was loaded by; unknown where only weights are told"
    " that several names share.",
    _SM, "seconds", LOAD_BUCKETS,
)  # fmt: skip
LOG_EVENTS = Family(
    "ollama_log_events_total", "counter",
    "Incidents by their messages in the server's log. load_failed: each attempt. load_oom: tried once more, smaller or alone."
    " runtime_oom: every model is unloaded. evicted_for_memory: because of a predicted shortage; evictions for"
    " OLLAMA_MAX_LOADED_MODELS and expiry are not logged. runner_died: once per death, when somebody notices, while loading too if"
    " a signal ended it (beside load_failed); a lower bound."
    " client_left_queue: while it waited for a slot. load_aborted: while its model loaded. context_shift: half of the context"
    " was dropped in mid-answer. prompt_truncated, context_exceeded: a prompt was too long, and cut or refused.",
    ("server", "kind"),
)  # fmt: skip
LOG_TRUNCATED_TOKENS = Family(
    "ollama_log_truncated_prompt_tokens_total", "counter",
    "Prompt tokens that the server cut off because a prompt exceeded the context (its log). What it drops of a chat's history"
    " before that is not logged.",
    ("server",), "tokens",
)  # fmt: skip
LOG_SHIFTED_TOKENS = Family(
    "ollama_log_context_shift_tokens_total", "counter",
    "Tokens of context that runners threw away in mid-answer because it was full (the server's log).",
    _SM, "tokens",
)  # fmt: skip
LOG_STARTS = Family(
    "ollama_log_server_starts_total", "counter", "Starts of the server since the exporter's first look, by its log.",
    ("server",),
)  # fmt: skip
LOG_SETTING = Family(
    "ollama_log_setting_info", "info",
    "Always 1. A setting as the server told it in its log at its last start: what is in force, defaults included. Absent when"
    " that line was too far back at the exporter's first look.",
    ("server", "setting", "value"),
)  # fmt: skip
LOG_MISFITS = Family(
    "ollama_log_misfit_lines_total", "counter",
    "Lines that look like those counted here and cannot be read, by kind: access, message, slot, timing. Above 0 Ollama writes"
    " them in another way than the exporter knows, and what is counted here is too low.",
    ("server", "kind"),
)  # fmt: skip
LOG_LINES = Family("ollama_log_lines_total", "counter", "Lines read of the server's log.", ("server",))
LOG_BYTES = Family(
    "ollama_log_read_bytes_total", "counter",
    "Bytes read of the server's log, in the form that it is kept in (of the journal: its export).",
    ("server",), "bytes",
)  # fmt: skip
LOG_GAPS = Family(
    "ollama_log_gaps_total", "counter",
    "Times that lines may have been lost: the file was truncated, or the journal broke off. What is counted here may be too"
    " low since.",
    ("server",),
)  # fmt: skip
LOG_BEHIND = Family(
    "ollama_log_behind", "gauge",
    "1 if the last reading ended before the end of the log, because there was more than may be read at a time: what is counted"
    " here is late, not lost.",
    ("server",),
)  # fmt: skip
LOG_BACKLOG = Family(
    "ollama_log_backlog_bytes", "gauge",
    "Bytes of the log file that were not read yet after the last reading. Absent for journal and container.",
    ("server",), "bytes",
)  # fmt: skip
LOG_LAST_LINE = Family(
    "ollama_log_last_line_timestamp_seconds", "gauge",
    "Unix time of the last reading that found a new line in the log. Absent before the first.",
    ("server",), "seconds",
)  # fmt: skip
LOG_READER = Family(
    "ollama_log_reader_info", "info", "Always 1. Where the server's log is read: file, journal or container.",
    ("server", "reader"),
)  # fmt: skip
