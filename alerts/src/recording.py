"""Recording rules: each recorded name is one question that dashboards and alerts ask.

The best vantage point that a server has answers, `A or B`: server by server, for they need not have the same ones. What
can only be seen from inside is in inside.py. Names are `level:metric:operations`; a name that ends in a window looks
back that far.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

JOB = "ollama"
"""The scrape job of the exporters. Only `up` and the exporter's own process metrics need it: all else is `ollama_`."""

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")
SHORT_WINDOWS = ("5m", "30m", "1h")
"""These are read off the raw series. Longer ones are put together of tiles of 5 minutes or an hour that are recorded
already: three days of raw counters of a large fleet would be tens of millions of samples at every evaluation."""

SERVER = "job, instance, server"
MODEL = "job, instance, server, model"
_ATTEMPTS = "ollama_canary_attempts_total"
_SKIPS = "ollama_canary_skips_total"
_TTFT = "ollama_canary_time_to_first_token_seconds"
_WAIT = "ollama_canary_queue_wait_upper_bound_seconds"
_MEASURED = _ATTEMPTS + '{outcome!="caused_load"}'
_BAD = _ATTEMPTS + '{outcome!~"ok|caused_load"}'
_CROWDED_OUT = _SKIPS + '{reason=~"saturated|in_flight"}'
_UNANSWERED = _ATTEMPTS + '{outcome=~"timeout|unreachable"}'
_UNSEEN_IN_LOGS = _ATTEMPTS + '{outcome=~"empty|malformed|timeout|unreachable"}'
_LOAD = "ollama_canary_load_duration_seconds"
USE_A_MODEL = 'api_endpoint=~"/api/(generate|chat|embed|embeddings)|/v1/.+"'
_LOGGED = "ollama_log_requests_total"
_ANSWERED = f'{_LOGGED}{{{USE_A_MODEL},status=~"2xx|5xx|503"}}'
_REFUSED = f'{_LOGGED}{{{USE_A_MODEL},status=~"5xx|503"}}'
_LEFT = 'ollama_log_events_total{kind="client_left_queue"}'
LOGS_READ = 'ollama_source_up{source="logs"} == 1'
"""Counters of a log that cannot be read any more stand still: then it tells nothing."""
NATIVE_READ = 'ollama_source_up{source="native"} == 1'
OBJECTIVES = {"2s": "2.0", "5s": "5.0"}
"""Seconds to the first token, as they are called in names and as Prometheus spells the bucket."""


@dataclass(frozen=True, slots=True)
class Record:
    name: str
    expr: str
    labels: tuple[tuple[str, str], ...] = ()

    def as_yaml(self) -> dict[str, object]:
        rule: dict[str, object] = {"record": self.name, "expr": self.expr}
        return rule | ({"labels": dict(self.labels)} if self.labels else {})


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    interval: str
    rules: tuple[Record, ...]

    def as_yaml(self) -> dict[str, object]:
        return {"name": self.name, "interval": self.interval, "rules": [rule.as_yaml() for rule in self.rules]}


def groups() -> list[Group]:
    """Intervals stay far below 5 minutes, after which Prometheus takes a recorded value for gone."""
    return [
        Group("ollama-availability", "30s", (_state(), *_unavailable(SHORT_WINDOWS))),
        Group("ollama-availability-long", "1m", tuple(_unavailable(WINDOWS[3:]))),
        Group("ollama-requests", "30s", tuple(_requests(SHORT_WINDOWS))),
        Group("ollama-requests-long", "1m", tuple(_requests(WINDOWS[3:]))),
        Group("ollama-servers", "30s", tuple(_servers())),
        Group("ollama-models", "30s", tuple(_models())),
        Group("ollama-hosts", "30s", tuple(_hosts())),
    ]


# --- availability ----------------------------------------------------------------------------------------------------


def _state() -> Record:
    # A target that service discovery no longer lists has no `up` at all: it was taken away, it is not down. An exporter
    # that restarts was blind for a moment: its servers count as unavailable only when it stays away.
    return record(
        "server:ollama_available:state",
        f"""
        ollama_up
        or on ({SERVER})
          0 * (last_over_time(ollama_up[1d]) and on (job, instance) (max_over_time(up{{job="{JOB}"}}[2m30s]) == 0))
        """,
    )


def _unavailable(windows: tuple[str, ...]) -> list[Record]:
    """Weighted by time, so that a server of five minutes' standing does not count as much as one of three days."""
    return [rule for window in windows for rule in (_server_unavailable(window), _job_unavailable(window))]


def _server_unavailable(window: str) -> Record:
    name = "server:ollama_unavailable:ratio_"
    if window == "30d":
        return record(name + window, f"avg_over_time({name}1h[30d:15m])")
    return record(name + window, f"1 - avg_over_time(server:ollama_available:state[{window}])")


def _job_unavailable(window: str) -> Record:
    name = "job:ollama_unavailable:ratio_"
    if window == "30d":
        return record(name + window, f"avg_over_time({name}1h[30d:15m])")
    state = f"server:ollama_available:state[{window}]"
    return record(
        name + window,
        f"""
        1 -
          sum by (job) (sum_over_time({state}))
        /
          sum by (job) (count_over_time({state}))
        """,
    )


# --- requests that were measured -------------------------------------------------------------------------------------


def _requests(windows: tuple[str, ...]) -> list[Record]:
    rules: list[Record] = []
    for window in windows:
        if window in SHORT_WINDOWS:
            rules += _server_requests(window)
        rules += [
            _count("job:ollama_requests", window, _of_servers("requests", window)),
            _count("job:ollama_request_errors", window, _of_servers("request_errors", window)),
            _count("job:ollama_ttft_requests", window, increased(f"{_TTFT}_count", window)),
            _ratio("job:ollama_request_errors", "job:ollama_requests", window),
        ]
        for objective, le in OBJECTIVES.items():
            over = f"job:ollama_ttft_over_{objective}"
            rules.append(_count(over, window, _slower(_TTFT, le, window)))
            rules.append(_ratio(over, "job:ollama_ttft_requests", window))
    return rules


def _server_requests(window: str) -> list[Record]:
    every, bad = "server:ollama_requests", "server:ollama_request_errors"
    rules = [
        record(f"{every}:increase_{window}", _every_request(window)),
        record(f"{bad}:increase_{window}", _bad_requests(window)),
        _ratio(bad, every, window),
    ]
    for objective, le in OBJECTIVES.items():
        rules.append(record(f"server:ollama_ttft_over_{objective}:ratio_rate_{window}", _share(_TTFT, le, window)))
    return rules


def _every_request(window: str) -> str:
    """Users' requests by their access lines, the canary's among them, with those of the canary's that have no line.
    4xx are their senders' own. Without a log, the canary's alone."""
    logged = increased(_ANSWERED, window, SERVER)
    return _either(
        f"{logged}\n+ ({increased(_UNANSWERED, window, SERVER)} or 0 * {logged})", increased(_MEASURED, window, SERVER)
    )


def _bad_requests(window: str) -> str:
    """A log does not show what breaks off under HTTP 200, nor a server that hangs: there the canary is the only sample.
    Who leaves while waiting for a slot is logged as 500."""
    refused = increased(_REFUSED, window, SERVER)
    logged = f"clamp_min(\n  {refused}\n  - {increased(_LEFT, window, SERVER)},\n  0\n)"
    unseen = f"({increased(_UNSEEN_IN_LOGS, window, SERVER)} or 0 * {refused})"
    return _either(f"{logged}\n+ {unseen}", increased(_BAD, window, SERVER))


def _either(logged: str, else_: str) -> str:
    return f"(\n{indented(logged, 2)}\n)\nand on ({SERVER}) {LOGS_READ}\nor\n{else_}"


def _of_servers(what: str, window: str) -> str:
    return f"sum by (job) (server:ollama_{what}:increase_{window})"


def _count(level_metric: str, window: str, expr: str) -> Record:
    """How many in a window: counted for a short one, put together of tiles for a long one."""
    name = f"{level_metric}:increase_"
    if window == "30d":
        expr = f"sum_over_time({name}1h[30d:1h])"
    elif window not in SHORT_WINDOWS:
        expr = f"sum_over_time({name}5m[{window}:5m])"
    return record(name + window, expr)


def _ratio(bad: str, every: str, window: str) -> Record:
    return record(f"{bad}:ratio_rate_{window}", f"{bad}:increase_{window} / ({every}:increase_{window} > 0)")


def increased(selector: str, window: str, by: str = "job") -> str:
    return f"sum by ({by}) (increase({selector}[{window}]))"


def _slower(histogram: str, le: str, window: str, by: str = "job") -> str:
    """How many were slower. Never below 0, where extrapolation treats bucket and count unlike."""
    every, within = f"{histogram}_count", f'{histogram}_bucket{{le="{le}"}}'
    return f"clamp_min(\n  {increased(every, window, by)}\n  - {increased(within, window, by)},\n  0\n)"


def _share(histogram: str, le: str, window: str) -> str:
    return f"{_slower(histogram, le, window, SERVER)}\n/\n({increased(f'{histogram}_count', window, SERVER)} > 0)"


# --- servers, models, hosts ------------------------------------------------------------------------------------------


def _servers() -> list[Record]:
    return [
        record("server:ollama_queue_wait_over_2s:ratio_rate_30m", _share(_WAIT, "2.0", "30m")),
        record("server:ollama_queue_wait_seconds:mean_30m", _wait()),
        record("server:ollama_requests_rejected:increase_15m", _rejected("15m")),
        record("server:ollama_saturation_signs:increase_15m", _saturation_signs("15m")),
        record("server:ollama_saturation:ratio_15m", _saturation("15m")),
        _phase("queue", mean(_WAIT, SERVER)),
        _phase("load", mean(_LOAD, SERVER)),
        _phase("prompt", mean("ollama_canary_prompt_duration_seconds", SERVER)),
        _phase("generate", _generate()),
        record("server:ollama_model_loads:increase_15m", increased("ollama_model_loads_seen_total", "15m", SERVER)),
        record(
            "server:ollama_model_reconfigurations:increase_15m",
            increased("ollama_model_reconfigurations_seen_total", "15m", SERVER),
        ),
        record("server:ollama_loaded_size_bytes:sum", _loaded("ollama_loaded_model_size_bytes")),
        record("server:ollama_loaded_vram_bytes:sum", _loaded("ollama_loaded_model_vram_bytes")),
        record("job:ollama_versions:count", "count by (job) (group by (job, version) (ollama_build_info))"),
    ]


def _models() -> list[Record]:
    return [
        record("model:ollama_time_per_output_token_seconds:mean_30m", _per_token()),
        record("model:ollama_ttft_seconds:mean_30m", mean(_TTFT, MODEL)),
        record("model:ollama_loaded_vram:ratio", _vram_share()),
        record("model:ollama_user_uses:increase_1h", _user_uses("1h")),
        record("model:ollama_slow_loads:increase_1h", _slow_loads("1h")),
        record(
            "model:ollama_digests:count",
            "count by (job, model) (group by (job, model, digest) (ollama_installed_model_info))",
        ),
    ]


def _hosts() -> list[Record]:
    memory, store = "ollama_host_memory", "ollama_host_model_store"
    return [
        record("host:ollama_memory_available:ratio", _part(f"{memory}_available_bytes", f"{memory}_total_bytes")),
        record("host:ollama_model_store_available:ratio", _part(f"{store}_available_bytes", f"{store}_size_bytes")),
    ]


def _saturation_signs(window: str) -> str:
    """Canaries that users' requests kept waiting, turned away or outlasted. `saturated` skips follow from these.

    The histogram begins with the first canary that ended well: until then, nobody is known to have waited.
    """
    turned_away = _ATTEMPTS + '{outcome=~"rejected|timeout"}'
    in_flight = _SKIPS + '{reason="in_flight"}'
    return dedent(
        """\
        (
        {waited}
          or 0 * {every}
        )
        + {turned_away}
        + {in_flight}"""
    ).format(
        waited=indented(_slower(_WAIT, "2.0", window, SERVER), 2),
        every=increased(_MEASURED, window, SERVER),
        turned_away=increased(turned_away, window, SERVER),
        in_flight=increased(in_flight, window, SERVER),
    )


def _wait() -> str:
    """Little's law: how many wait on average, over how many come in a second. It holds for users' own requests, also
    where a queue without a pause keeps the canary away."""
    return dedent(
        f"""\
        (
          sum by ({SERVER}) (avg_over_time(ollama_sockets_waiting_requests_estimate[30m]))
          and on ({SERVER}) ollama_sockets_waiting_requests_estimate
        )
        / (server:ollama_user_requests:increase_30m / 1800 > 0)
        or
        {{else_}}"""
    ).format(else_=mean(_WAIT, SERVER))


def _rejected(window: str) -> str:
    logged = increased(f'{_LOGGED}{{{USE_A_MODEL},status="503"}}', window, SERVER)
    return _either(logged, increased(_ATTEMPTS + '{outcome="rejected"}', window, SERVER))


def _slow_loads(window: str) -> str:
    logged = _slower("ollama_log_load_duration_seconds", "30.0", window, MODEL)
    return _either(logged, f"{_slower(_LOAD, '30.0', window, MODEL)}\nunless on ({SERVER}) {LOGS_READ}")


def _saturation(window: str) -> str:
    """Share of the time in which no slot was free, by a look every half minute. Where nobody can look: of the canaries
    that would have told, those that told of a queue or were held back because one had."""
    saturated = increased(_SKIPS + '{reason="saturated"}', window, SERVER)
    every, crowded_out = increased(_MEASURED, window, SERVER), increased(_CROWDED_OUT, window, SERVER)
    return dedent(
        f"""\
        avg_over_time(server:ollama_slots_taken:state[{window}]) and server:ollama_slots_taken:state
        or
        (
          server:ollama_saturation_signs:increase_{window}
          + {saturated}
        )
        /
        (
          {every}
          + {crowded_out}
          > 0
        )"""
    )


def _generate() -> str:
    """What is left of a request after its first token. Embeddings have no first token and drop out of the match."""
    whole, first = "ollama_canary_duration_seconds", _TTFT
    return dedent(
        f"""\
        sum by ({SERVER}) (rate({whole}_sum[30m]) - rate({first}_sum[30m]))
        /
        (sum by ({SERVER}) (rate({first}_count[30m])) > 0)"""
    )


def _per_token() -> str:
    """Of users' own answers where the server counts them itself and five or more are there, else of canaries. The first
    token of an answer costs no time in either."""
    seconds, tokens, answers = (
        f"sum by ({MODEL}) (rate(ollama_{what}_total[30m]))"
        for what in ("eval_duration_seconds", "generated_tokens", "requests")
    )
    enough = f"{increased('ollama_requests_total', '30m', MODEL)} > 4.5"
    counted = f"(\n  {seconds}\n  /\n  ({tokens} - {answers} > 0)\n  and {enough}\n)\nand on ({SERVER}) {NATIVE_READ}"
    return f"{counted}\nor\n{mean('ollama_canary_time_per_output_token_seconds', MODEL)}"


def mean(histogram: str, by: str, window: str = "30m") -> str:
    return dedent(
        f"""\
        sum by ({by}) (rate({histogram}_sum[{window}]))
        /
        (sum by ({by}) (rate({histogram}_count[{window}])) > 0)"""
    )


def _vram_share() -> str:
    """How much of a loaded model Ollama counts as GPU memory. The sum of unnamed models is no model."""
    vram, size = (f'ollama_loaded_model_{part}_bytes{{model!="other"}}' for part in ("vram", "size"))
    return f"sum by ({MODEL}) ({vram})\n/\n(sum by ({MODEL}) ({size}) > 0)"


def _user_uses(window: str) -> str:
    """Uses without the canary's own, which are all there are of a pinned model that nobody asks. Below the truth where
    a user and a canary came between the same two polls."""
    uses = increased("ollama_model_uses_seen_total", window, MODEL)
    canaries = increased(_ATTEMPTS + '{outcome="ok"}', window, MODEL)
    return f"clamp_min(\n  {uses}\n  - ({canaries} or 0 * {uses}),\n  0\n)"


def _phase(phase: str, expr: str) -> Record:
    return Record("server:ollama_phase_seconds:mean_30m", expr, (("phase", phase),))


def _loaded(family: str) -> str:
    """0, not absent, where a server has nothing loaded."""
    return f"sum by ({SERVER}) ({family})\nor\nsum by ({SERVER}) (0 * ollama_loaded_models)"


def _part(available: str, whole: str) -> str:
    by = "job, instance, host"
    return f"sum by ({by}) ({available})\n/\n(sum by ({by}) ({whole}) > 0)"


def record(name: str, expr: str) -> Record:
    return Record(name, dedent(expr).strip())


def indented(text: str, columns: int) -> str:
    return "\n".join(" " * columns + line for line in text.splitlines())
