"""Alerting rules. Critical: users are hurt now. Warning: somebody should look today. Info: worth knowing.

A rule is silent where its source is not there, on a fleet that nobody uses and on one that has just started.
"""

# ruff: noqa: E501 (tables of sentences: long and flat on purpose)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent

from recording import JOB, MODEL, SERVER

RUNBOOKS = "https://ollama-exporter.example/docs/runbooks.md"
"""Where docs/runbooks.md can be read. A site that serves it elsewhere changes this line, or the prefix by sed."""
GRAFANA = "http://localhost:3000"

PAGE, TICKET, INFO = "critical", "warning", "info"
OF_SERVER = ("job", "instance", "server")
OF_MODEL = (*OF_SERVER, "model")
OF_EXPORTER = ("job", "instance")
OF_HOST = ("job", "instance", "host")


@dataclass(frozen=True, slots=True)
class Alert:
    """`carries`: the labels that the expression leaves, which the link to the dashboard fills in."""

    name: str
    severity: str
    dashboard: str
    carries: tuple[str, ...]
    lasts: str
    summary: str
    description: str
    expr: str
    extra: tuple[tuple[str, str], ...] = ()

    def dashboard_url(self) -> str:
        variables = [name for name in self.carries if name != "instance"]
        query = "&".join(f"var-{name}={{{{ $labels.{name} }}}}" for name in variables)
        return f"{GRAFANA}/d/{self.dashboard}" + (f"?{query}" if query else "")

    def runbook_url(self) -> str:
        return f"{RUNBOOKS}#{self.name.lower()}"

    def as_yaml(self) -> dict[str, object]:
        return {
            "alert": self.name,
            "expr": dedent(self.expr).strip(),
            **({} if self.lasts == "0m" else {"for": self.lasts}),
            "labels": {"severity": self.severity, **dict(self.extra)},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": self.runbook_url(),
                "dashboard_url": self.dashboard_url(),
            },
        }


# --- objectives ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair:
    """A long window shows that it matters, a short one that it still goes on. `floor`: measured requests in the long
    one below which nothing is said; canaries come at most once a minute for each model."""

    long: str
    short: str
    factor: float
    lasts: str
    severity: str
    floor: int


PAIRS = (
    Pair("1h", "5m", 14.4, "2m", PAGE, 10),
    Pair("6h", "30m", 6.0, "15m", PAGE, 30),
    Pair("1d", "2h", 3.0, "1h", TICKET, 60),
    Pair("3d", "6h", 1.0, "3h", TICKET, 120),
)
BAD_FLOOR = 3
"""Fewer bad requests than this are no trend, whatever their share."""
DOWN_FLOOR = {"5m": 0.5, "30m": 0.1, "2h": 0.025, "6h": 0.01}
"""Some server was away for three minutes or so of the short window. A restart in a minute is no outage, although it
would be a fiftieth of an hour."""


@dataclass(frozen=True, slots=True)
class Objective:
    alert: str
    budget: float
    bad: str
    every: str
    dashboard: str
    summary: str
    what: str


OBJECTIVES = (
    Objective(
        "OllamaAvailabilityBudgetBurn", 0.001, "job:ollama_unavailable:ratio", "", "ollama-overview",
        "Ollama servers are unavailable faster than the objective of 99.9 % allows.",
        "of the servers' time was unavailable",
    ),
    Objective(
        "OllamaSuccessBudgetBurn", 0.01, "job:ollama_request_errors", "job:ollama_requests", "ollama-latency",
        "Requests to Ollama fail faster than the objective of 99 % success allows.",
        "of measured requests failed",
    ),
    Objective(
        "OllamaFirstTokenOver2sBudgetBurn", 0.05, "job:ollama_ttft_over_2s", "job:ollama_ttft_requests", "ollama-latency",
        "First tokens take more than 2 s more often than the objective of 95 % allows.",
        "of measured requests waited more than 2 s for the first token",
    ),
    Objective(
        "OllamaFirstTokenOver5sBudgetBurn", 0.01, "job:ollama_ttft_over_5s", "job:ollama_ttft_requests", "ollama-latency",
        "First tokens take more than 5 s more often than the objective of 99 % allows.",
        "of measured requests waited more than 5 s for the first token",
    ),
)  # fmt: skip


def _burn(objective: Objective, pair: Pair) -> Alert:
    return Alert(
        name=objective.alert,
        severity=pair.severity,
        dashboard=objective.dashboard,
        carries=("job",),
        lasts=pair.lasts,
        summary=objective.summary,
        description=f"{{{{ $value | humanizePercentage }}}} {objective.what} in job {{{{ $labels.job }}}} over {pair.long}:"
        f" more than {pair.factor:g} times what the objective allows, and so it was over the last {pair.short}.",
        expr=_burn_expr(objective, pair),
        extra=(("long", pair.long), ("short", pair.short)),
    )


def _burn_expr(objective: Objective, pair: Pair) -> str:
    limit = f"{pair.factor:g} * {objective.budget:g}"
    if not objective.every:
        # A fleet younger than the window has no budget to burn yet: its first minute down would be a tenth of its life.
        return dedent(
            f"""\
            {objective.bad}_{pair.long} > {limit}
            and {objective.bad}_{pair.short} > {limit}
            and on (job) server:ollama_unavailable:ratio_{pair.short} > {DOWN_FLOOR[pair.short]:g}
            and on (job) last_over_time(server:ollama_available:state[{pair.short}] offset {pair.long})"""
        )
    return dedent(
        f"""\
        {objective.bad}:ratio_rate_{pair.long} > {limit}
        and {objective.bad}:ratio_rate_{pair.short} > {limit}
        and {objective.every}:increase_{pair.long} > {pair.floor - 0.5}
        and {objective.bad}:increase_{pair.long} > {BAD_FLOOR - 0.5}"""
    )


# --- what users feel -------------------------------------------------------------------------------------------------

_ATTEMPTS = "ollama_canary_attempts_total"
_BAD = _ATTEMPTS + '{outcome!~"ok|caused_load"}'
_MEASURED = _ATTEMPTS + '{outcome!="caused_load"}'


def _increase(selector: str, window: str, by: str = SERVER) -> str:
    return f"sum by ({by}) (increase({selector}[{window}]))"


# Of the time where slots are seen, of the canaries elsewhere.
_NO_FREE_SLOT = (
    "{{ $value | humanizePercentage }} of what was looked at in 15 minutes met no free slot at {{ $labels.server }}."
)

SYMPTOMS = (
    Alert(
        "OllamaServerDown", PAGE, "ollama-server", OF_SERVER, "2m",
        "An Ollama server does not answer.",
        "Server {{ $labels.server }} has not answered /api/version for 2 minutes, as seen by {{ $labels.instance }}.",
        "ollama_up == 0",
    ),
    Alert(
        "OllamaServerStuckStarting", TICKET, "ollama-server", OF_SERVER, "10m",
        "An Ollama server accepts connections and stays silent.",
        "Server {{ $labels.server }} has accepted connections without answering HTTP for 10 minutes: it hangs in the"
        " discovery of its GPUs, or altogether.",
        'sum by (job, instance, server) (ollama_state{state="starting"}) == 1',
    ),
    Alert(
        "OllamaServerStalled", PAGE, "ollama-server", OF_SERVER, "10m",
        "An Ollama server's scheduler hangs.",
        "Server {{ $labels.server }} answers /api/version and has not answered /api/ps for 10 minutes: a load or unload"
        " holds its scheduler, and requests wait behind it.",
        'sum by (job, instance, server) (ollama_state{state="stalled"}) == 1',
    ),
    Alert(
        "OllamaCanaryFailing", PAGE, "ollama-canary", OF_MODEL, "2m",
        "A model does not generate although its server answers.",
        "{{ $value | humanizePercentage }} of the canaries on {{ $labels.model }} at {{ $labels.server }} failed in 15"
        " minutes, while the server's API answers.",
        f"""
        {_increase(_BAD, "15m", MODEL)}
        /
        ({_increase(_MEASURED, "15m", MODEL)} > 0)
        > 0.5
        and {_increase(_ATTEMPTS + '{outcome=~"empty|http_error|malformed|timeout|unreachable"}', "15m", MODEL)} > 2.5
        and on ({SERVER}) ollama_up == 1
        """,
    ),
    Alert(
        "OllamaGenerationStuck", PAGE, "ollama-canary", OF_MODEL, "1m",
        "A tiny generation has been waiting for minutes.",
        "The canary on {{ $labels.model }} at {{ $labels.server }} has been waiting for {{ $value | humanizeDuration }}: the"
        " queue is that long, or the runner hangs.",
        "time() - ollama_canary_pending_since_timestamp_seconds > 300",
    ),
    Alert(
        "OllamaRequestsRejected", PAGE, "ollama-capacity", OF_SERVER, "0m",
        "An Ollama server turns requests away with 503.",
        "Server {{ $labels.server }} answered {{ printf \"%.0f\" $value }} requests with 503 in 15 minutes: its queue is full.",
        "server:ollama_requests_rejected:increase_15m > 1.5",
    ),
    Alert(
        "OllamaErrorRatioHigh", TICKET, "ollama-latency", OF_SERVER, "5m",
        "Requests to an Ollama server fail.",
        "{{ $value | humanizePercentage }} of measured requests to {{ $labels.server }} failed in 30 minutes.",
        """
        server:ollama_request_errors:ratio_rate_30m > 0.05
        and server:ollama_request_errors:increase_30m > 2.5
        """,
    ),
    Alert(
        "OllamaAnswersMalformed", TICKET, "ollama-canary", OF_MODEL, "0m",
        "A model's answers are empty or broken under HTTP 200.",
        "{{ printf \"%.0f\" $value }} canaries on {{ $labels.model }} at {{ $labels.server }} got HTTP 200 with an empty or"
        " malformed answer in 15 minutes. Status codes show nothing of it.",
        f"""{_increase(_ATTEMPTS + '{outcome=~"empty|malformed"}', "15m", MODEL)} > 1.5""",
    ),
    Alert(
        "OllamaFirstTokenSlow", TICKET, "ollama-latency", OF_SERVER, "5m",
        "Most first tokens of an Ollama server take more than 2 s.",
        "{{ $value | humanizePercentage }} of measured requests to {{ $labels.server }} waited more than 2 s for the first"
        " token in 30 minutes.",
        f"""
        server:ollama_ttft_over_2s:ratio_rate_30m > 0.5
        and on ({SERVER}) {_increase("ollama_canary_time_to_first_token_seconds_count", "30m")} > 4.5
        """,
    ),
    Alert(
        "OllamaQueueWaitHigh", TICKET, "ollama-capacity", OF_SERVER, "5m",
        "Requests wait for a slot of an Ollama server.",
        "Measured requests to {{ $labels.server }} waited {{ $value | humanizeDuration }} for a slot, on average over 30"
        " minutes.",
        f"""
        server:ollama_queue_wait_seconds:mean_30m > 2
        and (
          server:ollama_queue_wait_over_2s:ratio_rate_30m > 0.25
          and on ({SERVER}) {_increase("ollama_canary_queue_wait_upper_bound_seconds_count", "30m")} > 2.5
          or
          avg_over_time(server:ollama_slots_taken:state[30m]) > 0.25
        )
        """,
    ),
    Alert(
        "OllamaQueueSaturated", PAGE, "ollama-capacity", OF_SERVER, "10m",
        "An Ollama server has no free slots.",
        _NO_FREE_SLOT,
        """
        server:ollama_saturation:ratio_15m > 0.9
        and (
          server:ollama_saturation_signs:increase_15m > 2.5
          or
          avg_over_time(server:ollama_requests_waiting:ratio[15m]) > 0.9
        )
        """,
    ),
    Alert(
        "OllamaQueueSaturated", TICKET, "ollama-capacity", OF_SERVER, "5m",
        "An Ollama server has no free slots.",
        _NO_FREE_SLOT,
        """
        server:ollama_saturation:ratio_15m > 0.5
        and (
          server:ollama_saturation_signs:increase_15m > 1.5
          or
          server:ollama_slots_taken:state offset 10m
        )
        """,
    ),
    Alert(
        "OllamaQueueSaturationPredicted", TICKET, "ollama-capacity", OF_SERVER, "15m",
        "The queue of an Ollama server grows towards the objective.",
        "At its present pace the wait for a slot at {{ $labels.server }} is {{ printf \"%.1f\" $value }} s in 2 hours.",
        """
        predict_linear(server:ollama_queue_wait_seconds:mean_30m[1h], 7200) > 2
        and server:ollama_queue_wait_seconds:mean_30m > 0.5
        and server:ollama_queue_wait_seconds:mean_30m <= 2
        and deriv(server:ollama_queue_wait_seconds:mean_30m[15m]) > 0
        and server:ollama_queue_wait_seconds:mean_30m offset 45m
        """,
    ),
)  # fmt: skip


# --- why -------------------------------------------------------------------------------------------------------------

MODELS = (
    Alert(
        "OllamaModelThrash", TICKET, "ollama-models", OF_SERVER, "5m",
        "Models of an Ollama server push each other out of memory.",
        "Server {{ $labels.server }} loaded models {{ printf \"%.0f\" $value }} times in 15 minutes, one of them at least 4"
        " times: each load makes its users wait.",
        f"""
        server:ollama_model_loads:increase_15m - server:ollama_model_reconfigurations:increase_15m > 6
        and on ({SERVER})
          max by ({SERVER}) (
            increase(ollama_model_loads_seen_total[15m])
            unless on ({MODEL}) increase(ollama_model_reconfigurations_seen_total[15m]) > 1.5
          )
          > 3.5
        """,
    ),
    Alert(
        "OllamaModelReconfigured", TICKET, "ollama-models", OF_MODEL, "0m",
        "A model is reloaded again and again with other options.",
        "{{ $labels.model }} at {{ $labels.server }} was reloaded {{ printf \"%.0f\" $value }} times in 30 minutes because"
        " requests asked for another context length, or because its tag was replaced.",
        f"""{_increase("ollama_model_reconfigurations_seen_total", "30m", MODEL)} > 2.5""",
    ),
    Alert(
        "OllamaModelOffGPU", TICKET, "ollama-models", OF_MODEL, "10m",
        "A model runs on the CPU, in whole or in part, where it used to run on the GPU.",
        "Only {{ $value | humanizePercentage }} of {{ $labels.model }} is in GPU memory at {{ $labels.server }}: less than in"
        " the last day, or than elsewhere.",
        f"""
        model:ollama_loaded_vram:ratio < 0.9 * max_over_time(model:ollama_loaded_vram:ratio[1d])
        or
        (
          model:ollama_loaded_vram:ratio < 0.1
          and on (job, model) (max by (job, model) (model:ollama_loaded_vram:ratio) > 0.9)
          and on ({SERVER}) (max by ({SERVER}) (max_over_time(model:ollama_loaded_vram:ratio[7d:1h])) > 0.9)
        )
        """,
    ),
    Alert(
        "OllamaDecodeSlow", TICKET, "ollama-models", OF_MODEL, "30m",
        "A model generates at less than half of its usual speed.",
        "{{ $labels.model }} at {{ $labels.server }} takes {{ $value | humanizeDuration }} for a token, more than twice the"
        " median of the day before.",
        f"""
        model:ollama_time_per_output_token_seconds:mean_30m
        > 2 * quantile_over_time(0.5, model:ollama_time_per_output_token_seconds:mean_30m[1d:10m] offset 1d)
        and on ({MODEL}) (
          {_increase("ollama_canary_time_per_output_token_seconds_count", "30m", MODEL)} > 4.5
          or {_increase("ollama_requests_total", "30m", MODEL)} > 4.5
        )
        """,
    ),
    Alert(
        "OllamaModelLoadSlow", TICKET, "ollama-models", OF_MODEL, "0m",
        "Loading a model takes more than half a minute.",
        "{{ printf \"%.0f\" $value }} of the loads of {{ $labels.model }} at {{ $labels.server }} that were seen took more than"
        " 30 s in the last hour.",
        "model:ollama_slow_loads:increase_1h > 0.5",
    ),
    Alert(
        "OllamaCanaryCausedLoad", TICKET, "ollama-canary", OF_MODEL, "0m",
        "The exporter's canary caused a model to be loaded, and has stopped.",
        "The canary on {{ $labels.model }} at {{ $labels.server }} waited for a load that nobody else had asked for. It has"
        " stopped for this model; nothing measures it now.",
        "ollama_canary_stopped == 1",
    ),
    Alert(
        "OllamaCanaryNotRunning", TICKET, "ollama-canary", OF_MODEL, "10m",
        "A model in use is not measured, and nothing says why.",
        "Users used {{ $labels.model }} at {{ $labels.server }} at least {{ printf \"%.0f\" $value }} times in 30 minutes."
        " No canary was sent meanwhile, nor skipped for a good reason.",
        f"""
        {_increase("ollama_model_uses_seen_total", "30m", MODEL)} > 2.5
        and on ({MODEL}) ollama_loaded_model_size_bytes
        and on ({MODEL}) {_increase(_ATTEMPTS, "30m", MODEL)} == 0
        unless on ({MODEL})
          {_increase('ollama_canary_skips_total{reason!~"in_flight|expiring|replaced|untold"}', "30m", MODEL)} > 0
        unless on ({MODEL}) ollama_canary_pending_since_timestamp_seconds
        and on ({SERVER}) ollama_source_up{{source="canary"}}
        and on (job, instance) (time() - process_start_time_seconds{{job="{JOB}"}} > 1800)
        """,
    ),
)  # fmt: skip

HOSTS = (
    Alert(
        "OllamaHostMemoryLow", TICKET, "ollama-host", OF_HOST, "10m",
        "A host of Ollama is short of memory.",
        "{{ $value | humanizePercentage }} of the memory of {{ $labels.host }} is available.",
        "host:ollama_memory_available:ratio < 0.08",
    ),
    Alert(
        "OllamaHostMemoryExhaustionPredicted", TICKET, "ollama-host", OF_HOST, "45m",
        "A host of Ollama runs out of memory within 4 hours.",
        "{{ $value | humanizePercentage }} of the memory of {{ $labels.host }} is available and at its present pace it is"
        " used up within 4 hours.",
        """
        host:ollama_memory_available:ratio < 0.3
        and predict_linear(host:ollama_memory_available:ratio[2h], 14400) < 0
        and predict_linear(host:ollama_memory_available:ratio[30m], 14400) < 0
        and host:ollama_memory_available:ratio offset 1h
        """,
    ),
    Alert(
        "OllamaHostSwapping", TICKET, "ollama-host", OF_HOST, "10m",
        "A host of Ollama swaps.",
        "{{ $labels.host }} has moved more than 256 MiB to swap in 30 minutes and has {{ $value | humanize1024 }}B there.",
        """
        ollama_host_swap_used_bytes > 0.1 * ollama_host_swap_total_bytes
        and delta(ollama_host_swap_used_bytes[30m]) > 256 * 1024 * 1024
        """,
    ),
    Alert(
        "OllamaModelStoreLow", TICKET, "ollama-host", OF_HOST, "15m",
        "The disk of a model store is nearly full.",
        "{{ $value | humanizePercentage }} of the disk that holds the model store of {{ $labels.host }} is free.",
        "host:ollama_model_store_available:ratio < 0.1",
    ),
    Alert(
        "OllamaModelStoreExhaustionPredicted", TICKET, "ollama-host", OF_HOST, "2h",
        "The disk of a model store is full within a day.",
        "{{ $value | humanizePercentage }} of the disk that holds the model store of {{ $labels.host }} is free and at its"
        " present pace it is full within a day.",
        """
        host:ollama_model_store_available:ratio < 0.4
        and predict_linear(host:ollama_model_store_available:ratio[6h], 86400) < 0
        and predict_linear(host:ollama_model_store_available:ratio[1h], 86400) < 0
        and host:ollama_model_store_available:ratio offset 3h
        """,
    ),
    Alert(
        "OllamaServeRestarting", TICKET, "ollama-host", OF_HOST, "0m",
        "Ollama restarts again and again.",
        "The youngest ollama serve on {{ $labels.host }} was replaced {{ printf \"%.0f\" $value }} times within an hour.",
        'sum by (job, instance, host) (changes(ollama_host_process_start_time_seconds{process="serve"}[1h])) > 2.5',
    ),
)  # fmt: skip

FLEET = (
    Alert(
        "OllamaVersionSkew", INFO, "ollama-overview", ("job",), "1d",
        "Servers of the fleet run different versions of Ollama.",
        "Job {{ $labels.job }} has run {{ $value }} versions of Ollama side by side for a day.",
        "job:ollama_versions:count > 1",
    ),
    Alert(
        "OllamaModelDigestSkew", TICKET, "ollama-models", ("job", "model"), "1h",
        "The same model name means different models on different servers.",
        "{{ $labels.model }} has {{ $value }} digests across job {{ $labels.job }}: its users get other answers depending on"
        " the server.",
        "model:ollama_digests:count > 1",
    ),
    Alert(
        "OllamaModelMissing", INFO, "ollama-models", OF_MODEL, "1h",
        "A model has vanished from a server while others still have it.",
        "{{ $labels.model }} was installed at {{ $labels.server }} a day ago and is gone; other servers still have it.",
        f"""
        group by ({MODEL}) (ollama_installed_model_info offset 1d)
        unless on ({MODEL}) ollama_installed_model_info
        and on ({SERVER}) ollama_installed_models
        and on (job, model) ollama_installed_model_info
        """,
    ),
    Alert(
        "OllamaUnbalanced", INFO, "ollama-overview", ("job", "model"), "1h",
        "One server does nearly all the work of a model that others hold ready.",
        "{{ $labels.model }} is loaded on several servers of job {{ $labels.job }}. The busiest was seen in use"
        " {{ printf \"%.0f\" $value }} times in an hour, the idlest less than a tenth of that.",
        f"""
        max by (job, model) (model:ollama_user_uses:increase_1h and on ({MODEL}) ollama_loaded_model_size_bytes)
        > 60
        and
        max by (job, model) (model:ollama_user_uses:increase_1h and on ({MODEL}) ollama_loaded_model_size_bytes)
        > 10 *
        min by (job, model) (model:ollama_user_uses:increase_1h and on ({MODEL}) ollama_loaded_model_size_bytes)
        and
        min by (job, model) (ollama_loaded_model_size_bytes offset 1h) > 0
        """,
    ),
    Alert(
        "OllamaClockSkew", TICKET, "ollama-server", OF_SERVER, "15m",
        "The clocks of an Ollama server and of its exporter disagree.",
        "The clock of {{ $labels.server }} is {{ $value | humanizeDuration }} from that of {{ $labels.instance }}: expiries"
        " and log times of the two do not compare.",
        "abs(ollama_clock_offset_seconds) > 10",
    ),
)  # fmt: skip

# --- whether we see at all -------------------------------------------------------------------------------------------

_LAG = "ollama_exporter_loop_lag_seconds"
EXPORTER = (
    Alert(
        "OllamaExporterDown", TICKET, "ollama-exporter", OF_EXPORTER, "5m",
        "Prometheus cannot scrape an exporter.",
        "{{ $labels.instance }} of job {{ $labels.job }} could not be scraped for 5 minutes. Its servers count as unavailable.",
        f'up{{job="{JOB}"}} == 0',
    ),
    Alert(
        "OllamaExporterAbsent", PAGE, "ollama-exporter", ("job",), "10m",
        "No exporter is scraped at all.",
        "Prometheus has had no target in job {{ $labels.job }} for 10 minutes: nobody watches Ollama.",
        f'absent(up{{job="{JOB}"}})',
    ),
    Alert(
        "OllamaExporterRestarting", TICKET, "ollama-exporter", OF_EXPORTER, "0m",
        "An exporter restarts again and again.",
        "{{ $labels.instance }} restarted {{ printf \"%.0f\" $value }} times within an hour. Its counters began anew each time.",
        f'changes(process_start_time_seconds{{job="{JOB}"}}[1h]) > 2.5',
    ),
    Alert(
        "OllamaMetricsMissing", TICKET, "ollama-exporter", OF_EXPORTER, "10m",
        "An exporter shows fewer servers than it is configured for.",
        "{{ $labels.instance }} is scraped, and {{ $value }} of its servers have no ollama_up.",
        """
        ollama_exporter_servers - on (job, instance) (count by (job, instance) (ollama_up) or 0 * ollama_exporter_servers)
        > 0
        """,
    ),
    Alert(
        "OllamaNotAnExporter", TICKET, "ollama-exporter", OF_EXPORTER, "10m",
        "A target in the exporters' job is none.",
        "{{ $labels.instance }} of job {{ $labels.job }} is scraped and shows nothing of ollama-exporter: wrong port or path.",
        f'up{{job="{JOB}"}} == 1 unless on (job, instance) ollama_exporter_build_info',
    ),
    Alert(
        "OllamaSourceFailing", TICKET, "ollama-exporter", (*OF_SERVER, "source"), "10m",
        "A source of the exporter fails.",
        "Source {{ $labels.source }} of {{ $labels.instance }} has failed for 10 minutes (server: \"{{ $labels.server }}\").",
        """
        ollama_source_up == 0
        unless on (job, instance, server) ollama_state{state="ok"} == 0
        """,
    ),
    Alert(
        "OllamaSourceStale", TICKET, "ollama-exporter", (*OF_SERVER, "source"), "5m",
        "What the exporter shows is old.",
        "The last reading of source {{ $labels.source }} by {{ $labels.instance }} is {{ $value | humanizeDuration }} old"
        " (server: \"{{ $labels.server }}\").",
        "time() - ollama_source_last_attempt_timestamp_seconds > 600",
    ),
    Alert(
        "OllamaLabelOverflow", INFO, "ollama-exporter", OF_SERVER, "15m",
        "A server has more models than get a label of their own.",
        "{{ $value }} model names of {{ $labels.server }} are left out or summed under other.",
        "ollama_exporter_label_values_dropped > 0",
    ),
    Alert(
        "OllamaValuesRejected", TICKET, "ollama-exporter", OF_SERVER, "5m",
        "An Ollama server tells impossible values.",
        "{{ printf \"%.0f\" $value }} values in answers of {{ $labels.server }} were left out within an hour because their type"
        " or range was impossible.",
        "increase(ollama_api_rejected_values_total[1h]) > 0.5",
    ),
    Alert(
        "OllamaConfigReloadFailed", TICKET, "ollama-exporter", OF_EXPORTER, "5m",
        "An exporter runs on an old configuration.",
        "The last reload of {{ $labels.instance }} failed: its configuration has mistakes, and the one before stays in force.",
        "ollama_exporter_config_last_reload_successful == 0 or ollama_exporter_web_config_last_reload_successful == 0",
    ),
    Alert(
        "OllamaExporterLagging", TICKET, "ollama-exporter", OF_EXPORTER, "10m",
        "An exporter polls late.",
        "{{ $value | humanizePercentage }} of the polls of {{ $labels.instance }} started more than a second late in 10 minutes.",
        f"""
        1 - sum by (job, instance) (rate({_LAG}_bucket{{le="1.0"}}[10m]))
        / (sum by (job, instance) (rate({_LAG}_count[10m])) > 0)
        > 0.05
        """,
    ),
    Alert(
        "OllamaProbesRefused", TICKET, "ollama-exporter", OF_EXPORTER, "10m",
        "An exporter refuses to probe what it is asked for.",
        "{{ $labels.instance }} refused {{ printf \"%.0f\" $value }} probes in 10 minutes ({{ $labels.reason }}): nobody watches these targets.",
        "sum by (job, instance, reason) (increase(ollama_exporter_probes_refused_total[10m])) > 0.5",
    ),
    Alert(
        "Watchdog", "none", "ollama-overview", (), "0m",
        "Alerting works from Prometheus to here.",
        "This alert always fires. Send it to a service that raises the alarm when it stops coming.",
        "vector(1)",
    ),
)  # fmt: skip


def alerts() -> Iterator[Alert]:
    for _, members in groups():
        yield from members


def groups() -> tuple[tuple[str, tuple[Alert, ...]], ...]:
    burns = tuple(_burn(objective, pair) for objective in OBJECTIVES for pair in PAIRS)
    return (
        ("ollama-alerts-objectives", burns),
        ("ollama-alerts-symptoms", SYMPTOMS),
        ("ollama-alerts-models", MODELS),
        ("ollama-alerts-hosts", HOSTS),
        ("ollama-alerts-fleet", FLEET),
        ("ollama-alerts-exporter", EXPORTER),
    )
