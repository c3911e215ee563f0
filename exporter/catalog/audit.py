"""Audit: the settings of a server, as its environment makes them, against what Ollama reads and what the operator wants."""

from __future__ import annotations

from exporter.model import Family

_S = ("server",)

CONFIG_INFO = Family(
    "ollama_config_info", "info",
    "Always 1. Where the server's settings were seen: process (its environment in /proc), container (that of its container) or"
    " log (its last `server config` line); how flash attention is set (on, off, auto; off_or_auto by the log) and the type of"
    " the KV cache. A model's own runner may differ.",
    ("server", "origin", "flash_attention", "kv_cache_type"),
)  # fmt: skip
CONFIG_PARALLEL = Family(
    "ollama_config_parallel", "gauge",
    "Slots that each runner of the server gets, as set (OLLAMA_NUM_PARALLEL, default 1). Some models get one all the same.", _S,
)  # fmt: skip
CONFIG_MAX_QUEUE = Family(
    "ollama_config_max_queue", "gauge",
    "Requests that may wait for the server's scheduler before 503, as set (OLLAMA_MAX_QUEUE, default 512). Not those that wait"
    " for a slot.",
    _S,
)  # fmt: skip
CONFIG_MAX_LOADED = Family(
    "ollama_config_max_loaded_models", "gauge",
    "Models that may be loaded at once, as set (OLLAMA_MAX_LOADED_MODELS); 0: the server chooses, 3 per GPU.", _S,
)  # fmt: skip
CONFIG_KEEP_ALIVE = Family(
    "ollama_config_keep_alive_seconds", "gauge",
    "How long a model stays loaded after a request that does not say, as set (OLLAMA_KEEP_ALIVE, default 300); +Inf: for good.",
    _S, "seconds",
)  # fmt: skip
CONFIG_CONTEXT = Family(
    "ollama_config_context_tokens", "gauge",
    "Context of one slot for a request that does not say, as set (OLLAMA_CONTEXT_LENGTH); 0: the server chooses by its GPUs'"
    " memory.",
    _S, "tokens",
)  # fmt: skip
CONFIG_IGNORED = Family(
    "ollama_config_ignored_variable_info", "info",
    "Always 1. A variable in the server's environment that its version does nothing with, and what to set instead (empty: nothing"
    " comes near). At most 20. Told only for versions whose variables the exporter knows, and not from a log.",
    ("server", "variable", "instead"),
)  # fmt: skip
CONFIG_IGNORED_COUNT = Family(
    "ollama_config_ignored_variables", "gauge",
    "Variables in the server's environment that its version does nothing with. Absent where that is not known.", _S,
)  # fmt: skip
CONFIG_INVALID = Family(
    "ollama_config_invalid_variable_info", "info",
    "Always 1. A variable of the server whose value cannot be read, so that its default holds.", ("server", "variable"),
)  # fmt: skip
CONFIG_PROBLEM = Family(
    "ollama_config_problem", "gauge",
    "1 if the server's settings hurt in this way at the last reading, else 0; absent where it cannot be told. `check --online`"
    " says in words what each problem is.",
    ("server", "problem"),
)  # fmt: skip
POLICY_VIOLATION = Family(
    "ollama_policy_violation", "gauge",
    "1 if the server breaks this rule of the policy file at the last reading, else 0; absent where it cannot be told."
    " Installed models are looked at every five minutes.",
    ("server", "rule"),
)  # fmt: skip
