"""Rules on what is seen from inside of a server's machine: sockets, runners, logs, containers, GPUs, settings.

Silent on servers of which none of that can be seen.
"""

# ruff: noqa: E501 (tables of sentences: long and flat on purpose)

from __future__ import annotations

from alerting import INFO, OF_HOST, OF_MODEL, OF_SERVER, PAGE, TICKET, Alert
from recording import LOGS_READ, MODEL, NATIVE_READ, SERVER, USE_A_MODEL, Group, increased, indented, mean, record

GPU = "job, instance, host, gpu"
OF_GPU = (*OF_HOST, "gpu")
_WAITING = "ollama_sockets_waiting_requests_estimate"
_OLDEST = "ollama_sockets_oldest_unanswered_seconds"
_SEEN_TOKENS = "ollama_runner_generated_tokens_seen_total"
_ENDS_OFTEN = 0.01
"""Runners a second that end, beyond which their own counts are not taken for whole: three in five minutes. With each
what it made since the last poll is lost, of 5 s at most, 1.7 % of five minutes."""


# --- recorded --------------------------------------------------------------------------------------------------------


def recorded() -> list[Group]:
    """Before all others: they ask for these."""
    return [
        Group(
            "ollama-inside",
            "30s",
            (
                record("server:ollama_slots:sum", _over_models("ollama_runner_slots")),
                record(
                    "server:ollama_slots_busy:ratio", f"{_over_models('ollama_runner_slots_busy')}\n/\n({_SLOTS} > 0)"
                ),
                record("server:ollama_requests_waiting:ratio", f"sum by ({SERVER}) ({_WAITING})\n/\n({_SLOTS} > 0)"),
                record("server:ollama_work:ratio", _work()),
                record("server:ollama_slots_taken:state", _taken()),
                record("server:ollama_user_requests:increase_5m", _users("5m")),
                record("server:ollama_user_requests:increase_30m", _users("30m")),
                record(
                    "server:ollama_request_duration_seconds:mean_30m",
                    mean("ollama_log_request_duration_seconds", SERVER),
                ),
                record("server:ollama_generated_tokens:rate_5m", _tokens("5m")),
                record("model:ollama_log_generated_tokens_estimate:rate_5m", _tokens_estimate("5m")),
                record("server:ollama_crashes:increase_30m", _crashes("30m")),
                record("model:ollama_longest_sequence:ratio", _longest()),
                record("server:ollama_container_memory_used:ratio", _container_memory()),
                record("server:ollama_container_throttled:ratio_rate_15m", _throttled("15m")),
                record("gpu:ollama_gpu_memory_used:ratio", _gpu_memory()),
            ),
        )
    ]


_SLOTS = f"sum by ({SERVER}) (ollama_runner_slots)"


def _over_models(family: str) -> str:
    return f"sum by ({SERVER}) ({family})"


def _work() -> str:
    """Requests at work and waiting, in servers: 1 is a full one. 0 where nothing is loaded, nothing where it cannot be
    told. What autoscalers ask: that nobody waits does not say that a server can be spared."""
    idle = f"0 * ({_over_models('ollama_loaded_models')} == 0)"
    return f"server:ollama_slots_busy:ratio + server:ollama_requests_waiting:ratio\nor\n{idle}"


def _taken() -> str:
    """1 while a request would find no free slot: some wait already, or all slots of some model are at work. A look at a
    server that is loading a model, or does not answer at all, says nothing: who waits then may wait for that."""
    waiting = f"sum by ({SERVER}) ({_WAITING}) > bool 0.5"
    full = f"max by ({SERVER}) (ollama_runner_slots_busy >= bool (ollama_runner_slots > 0))"
    elsewhere = f"(\n  {_over_models('ollama_runner_loading')} > 0\n  or ollama_up == 0\n)"
    return f"{waiting}\nunless on ({SERVER}) {elsewhere}\nor\n{full}"


def _users(window: str) -> str:
    """Requests that use a model, however they ended, without the canary's that have an access line."""
    logged = increased(f"ollama_log_requests_total{{{USE_A_MODEL}}}", window, SERVER)
    canaries = increased('ollama_canary_attempts_total{outcome!~"timeout|unreachable"}', window, SERVER)
    return f"clamp_min(\n  {logged}\n  - ({canaries} or 0 * {logged}),\n  0\n)\nand on ({SERVER}) {LOGS_READ}"


def _tokens(window: str) -> str:
    """By the runners' own count, in which answers in the making are; else of ended answers by the server's own count,
    or by the runners' timing lines; else by what is seen of them growing: a lower bound. Where runners come and go, what
    each made after its last poll is lost: there the log tells more, as long as it does."""
    counted, ended, finished, abandoned, cut_off, seen, ends = (
        f"sum by ({SERVER}) (rate({family}[{window}]))"
        for family in (
            "ollama_runner_generated_tokens_total",
            "ollama_generated_tokens_total",
            "ollama_log_generated_tokens_total",
            "ollama_log_abandoned_tokens_total",
            "ollama_log_cut_off_seen_tokens_total",
            _SEEN_TOKENS,
            "ollama_runner_ends_seen_total",
        )
    )
    logged = f"({finished} + {abandoned} + {cut_off})"
    return (
        f'{counted} and on ({SERVER}) ollama_source_up{{source="runner"}} == 1\n'
        f"unless on ({SERVER}) (\n"
        f"  {logged} > {counted}\n"
        f"  and on ({SERVER}) {ends} > {_ENDS_OFTEN}\n"
        f"  and on ({SERVER}) {LOGS_READ}\n)\n"
        f"or\n{ended} and on ({SERVER}) {NATIVE_READ}\n"
        f"or\n{logged} and on ({SERVER}) {LOGS_READ}\nor\n{seen}"
    )


def _tokens_estimate(window: str) -> str:
    """By the log: each generation that was cut off counts as much as one that told its tokens, finished or abandoned, and
    no less than what was told of it on the way. Right where runners go after their answers, as in a swap; too high where
    answers break off."""
    finished, abandoned, generations, given_up, cut, seen = (
        f"sum by ({MODEL}) (rate(ollama_log_{what}_total[{window}]))"
        for what in (
            "generated_tokens",
            "abandoned_tokens",
            "generations",
            "generations_abandoned",
            "generations_cut_off",
            "cut_off_seen_tokens",
        )
    )
    told = f"({finished} + {abandoned})"
    likely = f"{told} * (1 + {cut} / ({generations} + {given_up} > 0))"
    least = f"{told} + {seen}"
    here = f"and on ({SERVER}) {LOGS_READ}"
    return f"(\n  {likely}\n  >=\n  {least}\n  or\n  {least}\n)\n{here}"


def _crashes(window: str) -> str:
    """The log tells of a death when somebody notices, and of the server's own; who watches processes may find no reason.
    Each is a lower bound: the larger one."""
    logged = increased('ollama_log_events_total{kind=~"runner_died|crash"}', window, SERVER)
    seen = increased('ollama_runner_ends_seen_total{reason="died"}', window, SERVER)
    return f"{logged} >= {seen}\nor\n{seen}\nor\n{logged}"


def _longest() -> str:
    room = f"max by ({MODEL}) (ollama_runner_slot_context_tokens)"
    return f"max by ({MODEL}) (ollama_runner_longest_sequence_tokens)\n/\n({room} > 0)"


def _container_memory() -> str:
    used = _over_models("ollama_container_memory_working_set_bytes")
    return f"{used}\n/\n({_over_models('ollama_container_memory_limit_bytes')} > 0)"


def _throttled(window: str) -> str:
    held = increased("ollama_container_cpu_throttled_periods_total", window, SERVER)
    return f"{held}\n/\n({increased('ollama_container_cpu_periods_total', window, SERVER)} > 0)"


def _gpu_memory() -> str:
    used, total = (f"sum by ({GPU}) (ollama_gpu_memory_{part}_bytes)" for part in ("used", "total"))
    return f"{used}\n/\n({total} > 0)"


# --- alerts ----------------------------------------------------------------------------------------------------------


def _events(kinds: str, window: str) -> str:
    operator = "=~" if "|" in kinds else "="
    return increased(f'ollama_log_events_total{{kind{operator}"{kinds}"}}', window, SERVER)


_CUT = _events("context_exceeded|context_shift|prompt_truncated", "30m")
_LOST_ACCESS = f"""\
(
{indented(increased("ollama_log_reads_total", "15m", SERVER), 2)}
  + {increased("ollama_log_requests_total", "15m", SERVER)}
  + {increased('ollama_log_misfit_lines_total{kind="access"}', "15m", SERVER)}
)
== 0"""

REQUESTS = (
    Alert(
        "OllamaSlotLost", PAGE, "ollama-runner", OF_SERVER, "5m",
        "Requests wait although all slots are free.",
        "The oldest request to {{ $labels.server }} has been without an answer for {{ $value | humanizeDuration }}. All slots"
        " are idle and nothing is being loaded: Ollama has lost count of its slots, or the request.",
        f"""
        {_OLDEST} > 180
        and on ({SERVER}) {_over_models("ollama_runner_slots_busy")} == 0
        and on ({SERVER}) {_over_models("ollama_runner_loading")} == 0
        """,
    ),
    Alert(
        "OllamaRequestsHanging", PAGE, "ollama-runner", OF_SERVER, "2m",
        "Requests hang, and no tokens are made.",
        "The oldest request to {{ $labels.server }} has been without an answer for {{ $value | humanizeDuration }}, and its"
        " runners have made no token for 10 minutes.",
        f"""
        {_OLDEST} > 600
        and on ({SERVER}) {increased(_SEEN_TOKENS, "10m", SERVER)} == 0
        """,
    ),
    Alert(
        "OllamaRequestsHanging", TICKET, "ollama-capacity", OF_SERVER, "5m",
        "Requests hang, and no tokens are made.",
        "The oldest request to {{ $labels.server }} has been without an answer for {{ $value | humanizeDuration }}; whether its"
        " runners make tokens cannot be seen.",
        f"""
        {_OLDEST} > 900
        unless on ({SERVER}) {increased(_SEEN_TOKENS, "10m", SERVER)} >= 0
        """,
    ),
    Alert(
        "OllamaAcceptQueueFilling", TICKET, "ollama-capacity", OF_SERVER, "5m",
        "An Ollama server does not take its connections.",
        "{{ $value }} connections have been waiting for {{ $labels.server }} to take them at each look of 5 minutes: its process"
        " hangs or starves.",
        "ollama_sockets_accept_queue_connections > 0",
    ),
    Alert(
        "OllamaGenerationsFailing", TICKET, "ollama-server", OF_SERVER, "0m",
        "Runners break off their answers.",
        "Runners of {{ $labels.server }} left {{ printf \"%.0f\" $value }} requests without an end in 15 minutes. Of a stream,"
        " users and status codes see a 200.",
        f"{_events('generation_failed', '15m')} > 2.5",
    ),
    Alert(
        "OllamaPromptsTruncated", TICKET, "ollama-server", OF_SERVER, "0m",
        "Prompts or answers do not fit the context.",
        "{{ printf \"%.0f\" $value }} prompts or answers at {{ $labels.server }} were cut or refused in 30 minutes because they"
        " exceeded the context: users get answers to a part of what they asked.",
        f"""
        {_CUT} > 4.5
        and {_CUT} > 0.01 * server:ollama_user_requests:increase_30m
        """,
    ),
    Alert(
        "OllamaContextNearlyFull", TICKET, "ollama-runner", OF_MODEL, "10m",
        "Requests come close to the end of their context.",
        "The longest request to {{ $labels.model }} at {{ $labels.server }} has filled {{ $value | humanizePercentage }} of its"
        " slot's context within 5 minutes, and so again and again for 10. At the end the oldest tokens are dropped, or the answer is cut.",
        "max_over_time(model:ollama_longest_sequence:ratio[5m]) > 0.9",
    ),
)  # fmt: skip

RUNNERS = (
    Alert(
        "OllamaRunnerCrashed", PAGE, "ollama-runner", OF_SERVER, "0m",
        "Runners of an Ollama server die.",
        "Runners of {{ $labels.server }}, or the server itself, died at least {{ printf \"%.0f\" $value }} times in 30 minutes:"
        " the answers in the making were lost each time.",
        "server:ollama_crashes:increase_30m > 2.5",
    ),
    Alert(
        "OllamaRunnerCrashed", TICKET, "ollama-runner", OF_SERVER, "0m",
        "Runners of an Ollama server die.",
        "Runners of {{ $labels.server }}, or the server itself, died at least {{ printf \"%.0f\" $value }} times in 30 minutes:"
        " the answers in the making were lost each time.",
        "server:ollama_crashes:increase_30m > 0.5",
    ),
    Alert(
        "OllamaGhostModel", TICKET, "ollama-runner", OF_MODEL, "10m",
        "A model is listed as loaded, and has no process.",
        "/api/ps of {{ $labels.server }} has listed {{ $labels.model }} for 10 minutes, and no runner is there: it died, and the"
        " next request waits for a load.",
        "ollama_runner_missing == 1",
    ),
    Alert(
        "OllamaModelLoadFailing", PAGE, "ollama-models", OF_SERVER, "0m",
        "Models fail to load.",
        "Server {{ $labels.server }} failed {{ printf \"%.0f\" $value }} times in 15 minutes to load a model: whoever asks for it"
        " gets an error.",
        f"{_events('load_failed', '15m')} > 2.5",
    ),
    Alert(
        "OllamaRuntimeOutOfMemory", TICKET, "ollama-models", OF_SERVER, "0m",
        "A runner ran out of memory while it worked.",
        "Runners of {{ $labels.server }} ran out of memory {{ printf \"%.0f\" $value }} times in 30 minutes. Ollama unloads all"
        " models each time.",
        f"{_events('runtime_oom', '30m')} > 0.5",
    ),
)  # fmt: skip

CONTAINERS = (
    Alert(
        "OllamaContainerRestarting", TICKET, "ollama-host", OF_SERVER, "0m",
        "The container of an Ollama server restarts again and again.",
        "The container of {{ $labels.server }} was started {{ printf \"%.0f\" $value }} times within an hour.",
        f"{increased('ollama_container_restarts_total', '1h', SERVER)} > 2.5",
    ),
    Alert(
        "OllamaContainerOutOfMemory", TICKET, "ollama-host", OF_SERVER, "0m",
        "The kernel killed a process of Ollama for want of memory.",
        "At least {{ printf \"%.0f\" $value }} processes in the container of {{ $labels.server }} were killed in 30 minutes"
        " because its memory was at its limit: a runner, or all of it.",
        f"{increased('ollama_container_oom_kills_total', '30m', SERVER)} > 0.5",
    ),
    Alert(
        "OllamaContainerUnhealthy", TICKET, "ollama-host", OF_SERVER, "5m",
        "The health check of an Ollama server's container fails.",
        "The container of {{ $labels.server }} has called itself unhealthy for 5 minutes.",
        f'sum by ({SERVER}) (ollama_container_health{{health="unhealthy"}}) == 1',
    ),
    Alert(
        "OllamaContainerMemoryHigh", TICKET, "ollama-host", OF_SERVER, "15m",
        "The container of an Ollama server is near its memory limit.",
        "The container of {{ $labels.server }} has used {{ $value | humanizePercentage }} of its memory limit for 15 minutes.",
        "server:ollama_container_memory_used:ratio > 0.95",
    ),
    Alert(
        "OllamaContainerThrottled", TICKET, "ollama-host", OF_SERVER, "15m",
        "The container of an Ollama server is held by its CPU quota.",
        "The container of {{ $labels.server }} used up its CPU quota in {{ $value | humanizePercentage }} of its periods.",
        "server:ollama_container_throttled:ratio_rate_15m > 0.5",
    ),
)  # fmt: skip

GPUS = (
    Alert(
        "OllamaGpuLost", PAGE, "ollama-host", OF_HOST, "5m",
        "A GPU has vanished.",
        "{{ $labels.host }} shows {{ $value }} GPUs, and showed more within the last 6 hours. Models that are loaded now run"
        " on the CPU.",
        "ollama_gpus < max_over_time(ollama_gpus[6h])",
    ),
    Alert(
        "OllamaGpuFailing", TICKET, "ollama-host", OF_GPU, "0m",
        "A GPU or its driver reports errors.",
        "GPU {{ $labels.gpu }} of {{ $labels.host }} reported {{ printf \"%.0f\" $value }} errors of its own in an hour: XID"
        " errors that no program makes, or memory errors that could not be corrected.",
        f"""
        {increased('ollama_gpu_xid_errors_total{cause="device"}', "1h", GPU)} > 0.5
        or
        {increased('ollama_gpu_ecc_errors_total{error="uncorrected"}', "1h", GPU)} > 0.5
        """,
    ),
    Alert(
        "OllamaGpuHot", TICKET, "ollama-host", OF_GPU, "5m",
        "A GPU is too hot, or held back.",
        "GPU {{ $labels.gpu }} of {{ $labels.host }} is hotter than 87 degrees, or its driver has held back its clock for most"
        " of 10 minutes for heat or want of power.",
        f"""
        max by ({GPU}) (ollama_gpu_temperature_celsius) > 87
        or
        max by ({GPU}) (avg_over_time(ollama_gpu_throttled{{reason=~"hardware_slowdown|hardware_thermal|power_brake|software_thermal"}}[10m])) > 0.5
        """,
    ),
    Alert(
        "OllamaGpuMemoryFull", TICKET, "ollama-host", OF_GPU, "30m",
        "The memory of a GPU is full.",
        "{{ $value | humanizePercentage }} of the memory of GPU {{ $labels.gpu }} of {{ $labels.host }} has been in use for 30"
        " minutes: what comes next is loaded on the CPU, or pushes something out.",
        "gpu:ollama_gpu_memory_used:ratio > 0.98",
    ),
)  # fmt: skip

SETTINGS = (
    Alert(
        "OllamaSettingIgnored", INFO, "ollama-server", OF_SERVER, "1h",
        "Ollama does nothing with some of its settings.",
        "{{ $value }} variables in the environment of {{ $labels.server }} do nothing in its version.",
        "ollama_config_ignored_variables > 0",
    ),
    Alert(
        "OllamaSettingHurts", TICKET, "ollama-server", OF_SERVER, "30m",
        "A setting of an Ollama server hurts.",
        "The settings of {{ $labels.server }} hurt: {{ $labels.problem }}. `ollama-exporter check --online` says it in words.",
        'ollama_config_problem{problem!~"parallel_beside_cpu|parallel_forced_to_1"} == 1',
    ),
    Alert(
        "OllamaSettingHurts", INFO, "ollama-server", OF_SERVER, "1h",
        "A setting of an Ollama server hurts.",
        "OLLAMA_NUM_PARALLEL of {{ $labels.server }} does not suit a loaded model: {{ $labels.problem }}.",
        'ollama_config_problem{problem=~"parallel_beside_cpu|parallel_forced_to_1"} == 1',
    ),
    Alert(
        "OllamaPolicyViolated", TICKET, "ollama-server", OF_SERVER, "15m",
        "An Ollama server breaks a rule of the policy.",
        "{{ $labels.server }} breaks the rule {{ $labels.rule }} of the policy file.",
        "ollama_policy_violation == 1",
    ),
)  # fmt: skip

LOGS = (
    Alert(
        "OllamaLogFormatChanged", TICKET, "ollama-exporter", OF_SERVER, "0m",
        "Ollama writes its log in a form that the exporter does not know.",
        "{{ printf \"%.0f\" $value }} lines in the log of {{ $labels.server }} could not be read within an hour, though they look"
        " like those that are counted: what is counted is too low.",
        f"{increased('ollama_log_misfit_lines_total', '1h', SERVER)} > 9.5",
    ),
    Alert(
        "OllamaLogIncomplete", TICKET, "ollama-exporter", OF_SERVER, "15m",
        "The log of an Ollama server is not read whole.",
        "The log of {{ $labels.server }} broke off several times within an hour, or has been longer for 15 minutes than the"
        " exporter may read: what is counted is too low, or late.",
        f"""
        {increased("ollama_log_gaps_total", "1h", SERVER)} > 2.5
        or
        min_over_time(ollama_log_behind[10m]) == 1
        """,
    ),
    Alert(
        "OllamaLogSilent", TICKET, "ollama-exporter", OF_SERVER, "10m",
        "A server answers, and its log does not say so.",
        "{{ $labels.server }} has answered the exporter all the time, and the log that is read for it has had no access line for"
        " 15 minutes: it is not this server's, or no longer.",
        f"""
        {_LOST_ACCESS}
        and on ({SERVER}) {LOGS_READ}
        and on ({SERVER}) min_over_time(ollama_up[15m]) == 1
        """,
    ),
)  # fmt: skip


def alerting() -> tuple[tuple[str, tuple[Alert, ...]], ...]:
    return (
        ("ollama-alerts-requests", REQUESTS),
        ("ollama-alerts-runners", RUNNERS),
        ("ollama-alerts-containers", CONTAINERS),
        ("ollama-alerts-gpus", GPUS),
        ("ollama-alerts-settings", SETTINGS),
        ("ollama-alerts-logs", LOGS),
    )
