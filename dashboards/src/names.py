"""What a dashboard may ask for: families of the catalogue, names recorded by alerts/recording.rules.yml, and PromQL.

Selectors carry the dashboards' variables by themselves, so that no panel can forget one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter import catalog
from exporter.catalog import load
from exporter.model import Family
from exporter.ollamalog import INFERENCE

RATE = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded series; `unit` as in the catalogue, or `ratio`, or `per second`."""

    name: str
    labels: tuple[str, ...]
    unit: str = ""


Metric = Family | Recorded

_JOB = ("job",)
_SERVER = ("job", "instance", "server")
_MODEL = ("job", "instance", "server", "model")
_HOST = ("job", "instance", "host")
_GPU = (*_HOST, "gpu")

USE_A_MODEL = {"api_endpoint": f"~{'|'.join(INFERENCE)}"}
"""For `pick()`: the routes of access lines by which users' requests come."""

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")


def _windows(name: str, labels: tuple[str, ...], windows: tuple[str, ...] = WINDOWS) -> dict[str, Recorded]:
    return {window: Recorded(f"{name}_{window}", labels, "ratio") for window in windows}


AVAILABLE = Recorded("server:ollama_available:state", _SERVER)
SERVER_UNAVAILABLE = _windows("server:ollama_unavailable:ratio", _SERVER)
UNAVAILABLE = _windows("job:ollama_unavailable:ratio", _JOB)
ERRORS = _windows("job:ollama_request_errors:ratio_rate", _JOB)
SERVER_ERRORS = _windows("server:ollama_request_errors:ratio_rate", _SERVER, ("5m", "30m", "1h"))
OVER_2S = _windows("job:ollama_ttft_over_2s:ratio_rate", _JOB)
OVER_5S = _windows("job:ollama_ttft_over_5s:ratio_rate", _JOB)
SERVER_OVER_2S = _windows("server:ollama_ttft_over_2s:ratio_rate", _SERVER, ("5m", "30m", "1h"))
FIRST_TOKENS = Recorded("job:ollama_ttft_requests:increase_1d", _JOB)
WAITED_OVER_2S = Recorded("server:ollama_queue_wait_over_2s:ratio_rate_30m", _SERVER, "ratio")
QUEUE_WAIT = Recorded("server:ollama_queue_wait_seconds:mean_30m", _SERVER, "seconds")
SATURATION = Recorded("server:ollama_saturation:ratio_15m", _SERVER, "ratio")
REJECTED = Recorded("server:ollama_requests_rejected:increase_15m", _SERVER)
SLOTS = Recorded("server:ollama_slots:sum", _SERVER)
SLOTS_BUSY = Recorded("server:ollama_slots_busy:ratio", _SERVER, "ratio")
WAITING = Recorded("server:ollama_requests_waiting:ratio", _SERVER, "ratio")
USERS_REQUESTS = Recorded("server:ollama_user_requests:increase_5m", _SERVER)
REQUEST_DURATION = Recorded("server:ollama_request_duration_seconds:mean_30m", _SERVER, "seconds")
TOKENS = Recorded("server:ollama_generated_tokens:rate_5m", _SERVER, "per second")
LOG_TOKENS_ESTIMATE = Recorded("model:ollama_log_generated_tokens_estimate:rate_5m", _MODEL, "per second")
CRASHES = Recorded("server:ollama_crashes:increase_30m", _SERVER)
LONGEST_SEQUENCE = Recorded("model:ollama_longest_sequence:ratio", _MODEL, "ratio")
CONTAINER_MEMORY = Recorded("server:ollama_container_memory_used:ratio", _SERVER, "ratio")
CONTAINER_THROTTLED = Recorded("server:ollama_container_throttled:ratio_rate_15m", _SERVER, "ratio")
GPU_MEMORY = Recorded("gpu:ollama_gpu_memory_used:ratio", _GPU, "ratio")
PER_TOKEN = Recorded("model:ollama_time_per_output_token_seconds:mean_30m", _MODEL, "seconds")
TTFT = Recorded("model:ollama_ttft_seconds:mean_30m", _MODEL, "seconds")
PHASES = Recorded("server:ollama_phase_seconds:mean_30m", (*_SERVER, "phase"), "seconds")
LOADS = Recorded("server:ollama_model_loads:increase_15m", _SERVER)
RECONFIGURATIONS = Recorded("server:ollama_model_reconfigurations:increase_15m", _SERVER)
GPU_SHARE = Recorded("model:ollama_loaded_vram:ratio", _MODEL, "ratio")
LOADED_SIZE = Recorded("server:ollama_loaded_size_bytes:sum", _SERVER, "bytes")
LOADED_VRAM = Recorded("server:ollama_loaded_vram_bytes:sum", _SERVER, "bytes")
MEMORY_AVAILABLE = Recorded("host:ollama_memory_available:ratio", _HOST, "ratio")
STORE_AVAILABLE = Recorded("host:ollama_model_store_available:ratio", _HOST, "ratio")
DIGESTS = Recorded("model:ollama_digests:count", ("job", "model"))
VERSIONS = Recorded("job:ollama_versions:count", _JOB)

SCRAPED = Recorded("up", ("job", "instance"))
SCRAPE_DURATION = Recorded("scrape_duration_seconds", ("job", "instance"), "seconds")
SCRAPE_SAMPLES = Recorded("scrape_samples_scraped", ("job", "instance"))
ALERTS = Recorded("ALERTS", ("job", "instance", "server", "model", "alertname", "alertstate", "severity"))

BUILT_IN = (SCRAPED, SCRAPE_DURATION, SCRAPE_SAMPLES, ALERTS)
"""What Prometheus makes by itself."""


OF_TARGETS = (catalog.PROBE_SUCCESS, catalog.PROBE_DURATION, catalog.PROBE_TIMEOUT)
LOAD_JOB = "ollama-load"
_OF_LOAD = tuple(value.name for value in vars(load).values() if isinstance(value, Family))


def pick(metric: Metric, suffix: str = "", **where: str) -> str:
    """A selector with the variables that the metric's labels allow. A value in `where` may begin with its operator
    (`!`, `~`, `!~`); it is `=` otherwise."""
    labels = metric.labels
    # The load tester is scraped under a name of its own: it comes and goes, and its absence must alarm nobody.
    matchers = [f'job=~"$job|{LOAD_JOB}"' if metric.name in _OF_LOAD else 'job=~"$job"']
    if "source" in labels:
        matchers += ['server=~"$server|"', 'source=~"$source"']  # a source that is about no server has an empty one
    elif "server" in labels and "host" in labels:
        matchers += ['host=~"$host"', 'server=~"$server|"']  # what is no server's has an empty one
    elif "server" in labels:
        matchers.append('server=~"$server"')
    elif "host" in labels:
        matchers.append('host=~"$host"')
    elif metric in OF_TARGETS:
        pass  # their instance is a target of /probe, which the variable does not have
    elif isinstance(metric, Family) or "instance" in labels:
        matchers.append('instance=~"$instance"')
    if "model" in labels:
        matchers.append('model=~"$model"')
    if "gpu" in labels:
        matchers.append('gpu=~"$gpu"')
    return f"{metric.name}{suffix}{{{','.join([*matchers, *(_matcher(*pair) for pair in where.items())])}}}"


def rate(family: Family, suffix: str = "", **where: str) -> str:
    return f"rate({pick(family, suffix, **where)}[{RATE}])"


def increase(family: Family, suffix: str = "", **where: str) -> str:
    return f"increase({pick(family, suffix, **where)}[{RATE}])"


def over(operation: str, by: str, expression: str) -> str:
    """`over("sum", "server", ...)`; without `by`, over everything."""
    return f"{operation} by ({by}) ({expression})" if by else f"{operation}({expression})"


def mean(family: Family, by: str, **where: str) -> str:
    """Mean of a histogram; nothing where nothing was observed."""
    count = over("sum", by, rate(family, "_count", **where))
    return f"{over('sum', by, rate(family, '_sum', **where))} / ({count} > 0)"


def quantile(q: float, family: Family, by: str = "", **where: str) -> str:
    """For display only; objectives are ratios of buckets. Nothing where nothing was observed, never NaN."""
    buckets = over("sum", f"le, {by}" if by else "le", rate(family, "_bucket", **where))
    count = over("sum", by, rate(family, "_count", **where))
    matching = f"on ({by}) " if by else "on () "
    return f"histogram_quantile({q}, {buckets}) and {matching}({count} > 0)"


def within(family: Family, bound: str, by: str = "", **where: str) -> str:
    """Share of observations up to a bucket's boundary: exact, and addable over servers."""
    count = over("sum", by, rate(family, "_count", **where))
    return f"{over('sum', by, rate(family, '_bucket', le=bound, **where))} / ({count} > 0)"


def share(part: str, whole: str) -> str:
    """Nothing where there is nothing to have a share of."""
    return f"{part} / ({whole} > 0)"


def age(family: Family, by: str) -> str:
    """Seconds since a time that a family tells; of the youngest where there are several."""
    return f"time() - {over('max', by, pick(family))}"


def budget_left(bad: Mapping[str, Recorded], target: float) -> str:
    """Share of what may go wrong in 30 days that has not gone wrong yet; below 0 more has.

    What is younger than 30 days counts for as much of them as it covers, or the first minute of the first day would
    have spent everything. Until the slow rules over 30 days have an answer, those over a day know as much.
    """
    known, cells = pick(UNAVAILABLE["5m"]), 30 * 24 * 12
    seen = f"clamp_max((count_over_time({known}[30d:5m]) or 0 * {known}) + 1, {cells}) / {cells}"  # + 1: has just begun
    share = f"({pick(bad['30d'])} or {pick(bad['1d'])})"
    return f"1 - max({share} * {seen}) / {1 - target:.3g}"


def tokens_per_second(operation: str = "min", by: str = "") -> str:
    """Speed of one request's stream of tokens, from the recorded seconds per token."""
    return over(operation, by, f"1 / ({pick(PER_TOKEN)} > 0)")


def state_code(by: str = "server") -> str:
    """3 ok, 2 stalled, 1 starting, 0 down, -1 not seen because the exporter is gone."""
    codes = {"ok": 3, "stalled": 2, "starting": 1}
    seen = " + ".join(f"{code} * {over('max', by, pick(catalog.STATE, state=state))}" for state, code in codes.items())
    return f"({seen}) or ({over('max', by, pick(AVAILABLE))} - 1)"


def _matcher(label: str, value: str) -> str:
    operator = next((sign for sign in ("!~", "~", "!") if value.startswith(sign)), "")
    written = {"": "=", "~": "=~", "!": "!=", "!~": "!~"}[operator]
    return f'{label}{written}"{value.removeprefix(operator)}"'
