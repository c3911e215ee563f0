"""Runner: the processes in which a server runs its models, seen from its own machine."""

from __future__ import annotations

from exporter.model import Family

_SM = ("server", "model")

RUNNER_PROCESSES = Family(
    "ollama_runner_processes", "gauge",
    "Runners of a model on the server's machine at the last poll: one, or for a moment two while one replaces another."
    " Model is unknown where the weights' file belongs to several names and /api/ps lists none of them yet (or the"
    " server's model store cannot be read), other past the label cap; so in all of ollama_runner.",
    _SM,
)  # fmt: skip
RUNNER_LOADING = Family(
    "ollama_runner_loading", "gauge",
    "Runners of a model that were still loading it at the last poll, by their own answer: the only sign of a load in"
    " progress, because /api/ps lists a model when it is ready.",
    _SM,
)  # fmt: skip
RUNNER_MISSING = Family(
    "ollama_runner_missing", "gauge",
    "1 for a model that /api/ps lists and that had no process at this poll and the one before, 4 s apart or more: its"
    " runner died, and the next request for it waits for a load. 0 for the other listed models. Absent when processes"
    " or /api/ps could not be seen, or a process cannot be told to be another model's.",
    _SM,
)  # fmt: skip
RUNNER_SLOTS = Family(
    "ollama_runner_slots", "gauge",
    "Requests that a model's runners can work on at once (OLLAMA_NUM_PARALLEL, less for some models), as /slots told at"
    " the last poll.",
    _SM,
)  # fmt: skip
RUNNER_SLOTS_BUSY = Family(
    "ollama_runner_slots_busy", "gauge",
    "Slots at work at the moment of the last poll. Requests that wait for a slot wait in Ollama and are not seen here:"
    " see ollama_sockets.",
    _SM,
)  # fmt: skip
RUNNER_SLOTS_READING = Family(
    "ollama_runner_slots_reading_prompt", "gauge",
    "Busy slots that had not made a token yet at the moment of the last poll: they read a prompt, or compute embeddings.",
    _SM,
)  # fmt: skip
RUNNER_SLOT_CONTEXT = Family(
    "ollama_runner_slot_context_tokens", "gauge",
    "Tokens that one slot of a model's runner has room for, as it told itself at the last poll.",
    _SM, "tokens",
)  # fmt: skip
RUNNER_CONTEXT_USED = Family(
    "ollama_runner_context_used_tokens", "gauge",
    "Tokens, prompts and answers together, in the busy slots of a model at the last poll. All slots have room for"
    " ollama_runner_slots times ollama_runner_slot_context_tokens.",
    _SM, "tokens",
)  # fmt: skip
RUNNER_CONTEXT_CACHED = Family(
    "ollama_runner_context_cached_tokens", "gauge",
    "Tokens that idle slots of a model still held at the last poll, to be reused by a prompt that begins alike. They need"
    " no room: whatever comes next overwrites them.",
    _SM, "tokens",
)  # fmt: skip
RUNNER_LONGEST = Family(
    "ollama_runner_longest_sequence_tokens", "gauge",
    "Tokens in the fullest busy slot of a model at the last poll; 0 while none is busy. At"
    " ollama_runner_slot_context_tokens the oldest are dropped, or the answer is cut.",
    _SM, "tokens",
)  # fmt: skip
RUNNER_TOKENS_SEEN = Family(
    "ollama_runner_generated_tokens_seen_total", "counter",
    "Tokens made, as seen growing in /slots from poll to poll; smooth while an answer is long in the making. A lower"
    " bound: an answer that begins and ends between two polls is missed, and of others part of the last tokens can be. But"
    " some builds show the tokens of the task before for a moment after a slot has taken the next: where that is shorter, the"
    " difference is too many.",
    _SM,
)  # fmt: skip
RUNNER_TOKENS = Family(
    "ollama_runner_generated_tokens_total", "counter",
    "Tokens made: those of ended answers by the runner's own count (/metrics, none is missed) and those of answers in"
    " the making by /slots, together and never twice. What a runner made after the last poll of its life is lost. Absent"
    " without /metrics; then ollama_runner_generated_tokens_seen_total is what there is.",
    _SM, "tokens",
)  # fmt: skip
RUNNER_ANSWERED_TOKENS = Family(
    "ollama_runner_answered_tokens_total", "counter",
    "Tokens of ended answers, by the runner's own count (/metrics). Over ollama_runner_answered_seconds_total it is the"
    " speed at which one answer is made. Absent without /metrics.",
    _SM, "tokens",
)  # fmt: skip
RUNNER_ANSWERED_SECONDS = Family(
    "ollama_runner_answered_seconds_total", "counter",
    "Time spent on making the tokens of ended answers, prompts left out, by the runner's own count (/metrics), summed over"
    " slots. Absent without /metrics.",
    _SM, "seconds",
)  # fmt: skip
RUNNER_PROMPT_TOKENS = Family(
    "ollama_runner_prompt_tokens_total", "counter",
    "Tokens of prompts that were computed, by the runner's own count (/metrics); what came from the cache is not in it,"
    " nor what a runner computed after the last poll of its life. Absent without /metrics.",
    _SM, "tokens",
)  # fmt: skip
RUNNER_PROMPT_CACHED = Family(
    "ollama_runner_prompt_cached_tokens_total", "counter",
    "Tokens of prompts that were in a slot's cache already, by the runner's own count (/metrics). Absent without /metrics"
    " and with builds that do not tell.",
    _SM, "tokens",
)  # fmt: skip
RUNNER_PROMPT_SECONDS = Family(
    "ollama_runner_prompt_seconds_total", "counter",
    "Time spent on computing prompts, by the runner's own count (/metrics), summed over slots. Absent without /metrics.",
    _SM, "seconds",
)  # fmt: skip
RUNNER_DECODES = Family(
    "ollama_runner_decode_calls_total", "counter",
    "Steps of the model, by the runner's own count (/metrics). Each makes a token for every slot at work: tokens per step"
    " tell how well requests share the machine. Absent without /metrics.",
    _SM,
)  # fmt: skip
RUNNER_DRAFTED = Family(
    "ollama_runner_draft_tokens_total", "counter",
    "Tokens that a draft model proposed, by the runner's own count (/metrics); 0 without speculative decoding.",
    _SM, "tokens",
)  # fmt: skip
RUNNER_ACCEPTED = Family(
    "ollama_runner_draft_accepted_tokens_total", "counter",
    "Proposed tokens that the model accepted, by the runner's own count (/metrics); 0 without speculative decoding.",
    _SM, "tokens",
)  # fmt: skip
RUNNER_STARTS = Family(
    "ollama_runner_starts_seen_total", "counter",
    "Runners of a model that began: each is a load. The server's children are looked at four times a second, so one that"
    " lived for less can be missed. Where only ports are seen, or the kernel does not list children, one that came and"
    " went between two polls is. Those at the exporter's start are not counted.",
    _SM,
)  # fmt: skip
RUNNER_ENDS = Family(
    "ollama_runner_ends_seen_total", "counter",
    "Runners of a model that ended, by reason. died: its server still listed the model, or its exit status tells of a"
    " failure (Linux 6.15 and newer). unloaded: /api/ps, asked at its end, no longer listed the model. unknown: /api/ps did"
    " not answer, as when Ollama itself ends, or the runner was not seen ready before, or the kernel's out-of-memory killer"
    " was at work on the machine. Where the exporter may see who kills (root, or CAP_PERFMON and tracefs), that decides."
    " Elsewhere Ollama, if somebody waits for its place, may take a runner that was killed off the list before /api/ps is"
    " answered: died by SIGKILL can pass for unloaded then. Absent where processes are not"
    " visible; those left behind by a server that died are not counted.",
    (*_SM, "reason"),
)  # fmt: skip
RUNNER_INFO = Family(
    "ollama_runner_info", "info",
    "Always 1. How a model's runner was started, read from its command line at the last poll; empty is what it does not"
    " tell, and the runner's own default. engine: llama (llama-server of 0.30 and newer), old, mlx. context: tokens of"
    " all slots together. build: llama.cpp's, by /props.",
    (*_SM, "engine", "slots", "context", "batch", "cache_k", "cache_v", "flash_attention", "gpu_layers", "threads", "build"),
)  # fmt: skip
RUNNER_RESIDENT = Family(
    "ollama_runner_resident_memory_bytes", "gauge",
    "Resident memory of a model's runners at the last poll; memory-mapped weights count when in memory, GPU memory does"
    " not. llama-server's prompt cache can add 8 GiB over time: that is no leak.",
    _SM, "bytes",
)  # fmt: skip
RUNNER_CPU = Family(
    "ollama_runner_cpu_seconds_total", "counter",
    "CPU time of a model's runners since the exporter's first poll, carried across their ends; what one used between the"
    " last poll and its end is lost.",
    _SM, "seconds",
)  # fmt: skip
RUNNER_STARTED = Family(
    "ollama_runner_start_time_seconds", "gauge",
    "Unix time at which the youngest of a model's runners started.",
    _SM, "seconds",
)  # fmt: skip
RUNNER_REJECTED = Family(
    "ollama_runner_rejected_values_total", "counter",
    "Values in runners' answers that were left out because their type or range was impossible.",
    ("server",),
)  # fmt: skip
