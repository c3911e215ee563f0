"""What each alert is for, as a series of events, and when it must speak. Becomes promtool tests.

A check before the minute in which an alert fires, and one after it has resolved, find it silent. Minutes are counted
from the beginning of the series. Descriptions are written out: they are what somebody reads at night.
"""

# ruff: noqa: E501 (tables of sentences: long and flat on purpose)

from __future__ import annotations

import itertools
from dataclasses import dataclass

Series = tuple[str, str]
EXPORTER = {"job": "ollama", "instance": "exporter:8082"}
SERVER = {**EXPORTER, "server": "gpu1"}
MODEL = {**SERVER, "model": "llama3.2:3b"}
HOST = {**EXPORTER, "host": "gpu1"}


def series(family: str, labels: dict[str, str], values: str) -> Series:
    return family + "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}", values


def steps(*parts: tuple[float, int]) -> str:
    """A gauge: values, and for how many minutes each."""
    return " ".join(f"{value:g}x{minutes - 1}" for value, minutes in parts)


def count(*parts: tuple[float, int], start: float = 0) -> str:
    """A counter: how much is added in each minute, and for how many minutes."""
    said, total = [], start
    for rate, minutes in parts:
        said.append(f"{total + rate:g}+{rate:g}x{minutes - 1}")
        total += rate * minutes
    return " ".join(said)


def slope(*parts: tuple[float, float, int]) -> str:
    """A gauge that changes steadily: first value, change in each minute, minutes."""
    return " ".join(f"{first:g}{change:+g}x{minutes - 1}" for first, change, minutes in parts)


@dataclass(frozen=True, slots=True)
class Says:
    labels: dict[str, str]
    description: str
    severity: str = ""
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """`silent`: minutes at which the alert says nothing; `speaks`: minute -> what it says then.

    `step`: minutes between evaluations; 4 where the incident takes days.
    """

    alert: str
    story: str
    series: tuple[Series, ...]
    silent: tuple[int, ...]
    speaks: tuple[tuple[int, tuple[Says, ...]], ...]
    step: int = 1


def attempts(outcome: str, values: str, labels: dict[str, str] = MODEL) -> Series:
    return series("ollama_canary_attempts_total", {**labels, "outcome": outcome}, values)


def skips(reason: str, values: str, labels: dict[str, str] = MODEL) -> Series:
    return series("ollama_canary_skips_total", {**labels, "reason": reason}, values)


def histogram(family: str, every: str, within: dict[str, str], total: str = "") -> tuple[Series, ...]:
    buckets = [series(f"{family}_bucket", {**MODEL, "le": le}, values) for le, values in within.items()]
    sums = [series(f"{family}_sum", MODEL, total)] if total else []
    return (series(f"{family}_count", MODEL, every), *buckets, *sums)


TTFT = "ollama_canary_time_to_first_token_seconds"
WAIT = "ollama_canary_queue_wait_upper_bound_seconds"


def _windows(what: str, factor: str, long: str, short: str, severity: str) -> Says:
    return Says(
        {"job": "ollama"},
        f"{what} over {long}: more than {factor} times what the objective allows, and so it was over the last {short}.",
        severity,
        (("long", long), ("short", short)),
    )


def _page(what: str) -> Says:
    return _windows(what, "14.4", "1h", "5m", "critical")


def _slow_page(what: str) -> Says:
    return _windows(what, "6", "6h", "30m", "critical")


def _ticket(what: str) -> Says:
    return _windows(what, "3", "1d", "2h", "warning")


def _slow_ticket(what: str) -> Says:
    return _windows(what, "1", "3d", "6h", "warning")


def _outage(healthy: int, down: int, after: int, unseen: int | None = None) -> tuple[Series, ...]:
    """`unseen`: a minute without sight of the server, where a window begins. Prometheus 3 leaves the first instant of a
    window out, 2 does not; where nothing was seen, they agree to the last digit."""
    before = steps((1, healthy)) if unseen is None else f"{steps((1, unseen))} stale {steps((1, healthy - unseen - 1))}"
    return (
        series("ollama_up", SERVER, f"{before} {steps((0, down), (1, after))}"),
        series("up", EXPORTER, steps((1, healthy + down + after))),
    )


def _first_tokens(le: str) -> tuple[Series, ...]:
    """Five hours and a half of slow answers, one a minute, then quick ones."""
    return histogram(TTFT, count((1, 720)), {le: count((0, 330), (1, 390))})


def _burning(what: str) -> tuple[tuple[int, tuple[Says, ...]], ...]:
    """One window after the other has seen enough, waits its time, and speaks."""
    page, slow_page, ticket, slow_ticket = _page(what), _slow_page(what), _ticket(what), _slow_ticket(what)
    return (
        (20, (page,)),
        (65, (page, slow_page)),
        (140, (page, slow_page, ticket)),
        (320, (page, slow_page, ticket, slow_ticket)),
    )


def _over(what: str) -> tuple[tuple[int, tuple[Says, ...]], ...]:
    """All four speak, nobody asks any more after minute 330, and one short window after the other sees it."""
    page, slow_page, ticket, slow_ticket = _page(what), _slow_page(what), _ticket(what), _slow_ticket(what)
    return (
        (325, (page, slow_page, ticket, slow_ticket)),
        (345, (slow_page, ticket, slow_ticket)),
        (375, (ticket, slow_ticket)),
        (460, (slow_ticket,)),
    )


A = "OllamaAvailabilityBudgetBurn"
_DOWN = "of the servers' time was unavailable in job ollama"
_FAILED = "of measured requests failed in job ollama"
_OVER_2S = "of measured requests waited more than 2 s for the first token in job ollama"
_OVER_5S = "of measured requests waited more than 5 s for the first token in job ollama"

BURNS = (
    Case(A, "the only server goes down for 10 minutes", _outage(90, 10, 60, unseen=36), (91, 93, 104, 150),
         ((96, (_page(f"11.67% {_DOWN}"),)),)),
    Case(A, "the exporter goes away, and with it the sight of its server",
         (series("ollama_up", SERVER, "1x39 stale 1x48 stale"), series("up", EXPORTER, steps((1, 90), (0, 30)))),
         (92, 94), ((100, (_page(f"15.52% {_DOWN}"),)),)),
    Case(A, "a fleet of half an hour's standing is restarted", _outage(30, 2, 60), (31, 33, 35, 40, 60), ()),
    Case(A, "a fleet of half an hour's standing has an outage: its first minutes are no measure of a month",
         _outage(30, 10, 60), (33, 36, 39, 50), ()),
    Case(A, "a server is taken out of the configuration after an outage",
         (series("ollama_up", SERVER, "1x89 0x0 stale"), series("up", EXPORTER, steps((1, 150)))),
         (91, 93, 100, 120), ()),
    Case(A, "an outage of 5 minutes after 6 hours: the slow page", _outage(400, 5, 60, unseen=60), (411, 440),
         ((420, (_slow_page(f"1.389% {_DOWN}"),)),)),
    Case(A, "an outage of 12 minutes after a day: first a ticket", _outage(1480, 12, 240, unseen=120), (1530, 1630),
         ((1560, (_ticket(f"0.8333% {_DOWN}"),)),), step=4),
    Case(A, "an outage of 12 minutes after three days: the last ticket", _outage(4400, 12, 460, unseen=280), (4560, 4800),
         ((4600, (_slow_ticket(f"0.2778% {_DOWN}"),)),), step=4),
    Case("OllamaSuccessBudgetBurn", "every second request fails for five hours and a half",
         (attempts("ok", count((0.5, 330), (1, 390))), attempts("http_error", count((0.5, 330), (0, 390)))),
         (5, 10, 715), _burning(f"50% {_FAILED}")),
    Case("OllamaSuccessBudgetBurn", "every second request fails, and then nobody asks: what is over is not said to go on",
         (attempts("ok", count((0.5, 330), (0, 390))), attempts("http_error", count((0.5, 330), (0, 390)))), (715,), _over(f"50% {_FAILED}")),
    Case("OllamaFirstTokenOver2sBudgetBurn", "all answers are slow, and then nobody asks: what is over is not said to go on",
         histogram(TTFT, count((1, 330), (0, 390)), {"2.0": count((0, 720))}), (715,), _over(f"100% {_OVER_2S}")),
    Case("OllamaFirstTokenOver5sBudgetBurn", "all answers are very slow, and then nobody asks: what is over is not said to go on",
         histogram(TTFT, count((1, 330), (0, 390)), {"5.0": count((0, 720))}), (715,), _over(f"100% {_OVER_5S}")),
    Case("OllamaSuccessBudgetBurn", "two errors in an hour of few requests are no trend",
         (attempts("ok", count((0, 2), (0.16, 118))), attempts("http_error", count((0, 100), (1, 2), (0, 18)))),
         (101, 103, 105, 110, 119), ()),
    Case("OllamaSuccessBudgetBurn", "ten minutes of errors are over before they have lasted a quarter of an hour",
         (attempts("ok", count((1, 100), (0, 10), (1, 40))), attempts("http_error", count((0, 100), (1, 10), (0, 40)))), (101, 118), ()),
    Case("OllamaFirstTokenOver2sBudgetBurn", "five hours and a half of slow answers", _first_tokens("2.0"), (5, 10, 715),
         _burning(f"100% {_OVER_2S}")),
    Case("OllamaFirstTokenOver5sBudgetBurn", "ten slow minutes are over before they have lasted a quarter of an hour",
         histogram(TTFT, count((1, 150)), {"5.0": count((1, 100), (0, 10), (1, 40))}), (101, 118), ()),
    Case("OllamaFirstTokenOver5sBudgetBurn", "five hours and a half of very slow answers", _first_tokens("5.0"), (5, 10, 715),
         _burning(f"100% {_OVER_5S}")),
)  # fmt: skip


def _waits(*seconds: float) -> tuple[Series, ...]:
    """One canary a minute, and how long each waited for a slot."""
    total = itertools.accumulate(seconds)
    return histogram(
        WAIT, count((1, len(seconds))), {"2.0": count((1, len(seconds)))}, " ".join(f"{t:.3f}" for t in total)
    )


def told(labels: dict[str, str], description: str, severity: str = "") -> tuple[Says, ...]:
    return (Says(labels, description, severity),)


SYMPTOMS = (
    Case("OllamaServerDown", "down for 10 minutes", _outage(10, 10, 10), (9, 11, 20),
         ((12, told(SERVER, "Server gpu1 has not answered /api/version for 2 minutes, as seen by exporter:8082.")),)),
    Case("OllamaServerStuckStarting", "silent for 15 minutes",
         (series("ollama_state", {**SERVER, "state": "starting"}, steps((0, 5), (1, 15), (0, 5))),), (14, 20),
         ((15, told(SERVER, "Server gpu1 has accepted connections without answering HTTP for 10 minutes: it hangs in the discovery of its GPUs, or altogether.")),)),
    Case("OllamaServerStalled", "stalled for 15 minutes",
         (series("ollama_state", {**SERVER, "state": "stalled"}, steps((0, 5), (1, 15), (0, 5))),), (14, 20),
         ((15, told(SERVER, "Server gpu1 answers /api/version and has not answered /api/ps for 10 minutes: a load or unload holds its scheduler, and requests wait behind it.")),)),
    Case("OllamaCanaryFailing", "generation breaks for 20 minutes while the API answers",
         (series("ollama_up", SERVER, steps((1, 80))), attempts("ok", count((1, 20), (0, 20), (1, 40))),
          attempts("http_error", count((0, 20), (1, 20), (0, 40)))), (20, 28, 50),
         ((35, told(MODEL, "100% of the canaries on llama3.2:3b at gpu1 failed in 15 minutes, while the server's API answers.")),)),
    Case("OllamaCanaryFailing", "the server itself is down: that is another alert",
         (series("ollama_up", SERVER, steps((1, 20), (0, 40))), attempts("ok", count((1, 20), (0, 40))),
          attempts("unreachable", count((0, 20), (1, 40)))), (30, 40, 55), ()),
    Case("OllamaCanaryFailing", "two failures are no trend",
         (series("ollama_up", SERVER, steps((1, 60))), attempts("ok", count((0, 60))),
          attempts("http_error", count((0, 20), (1, 2), (0, 38)))), (22, 25, 30), ()),
    Case("OllamaGenerationStuck", "a canary waits for 10 minutes",
         (series("ollama_canary_pending_since_timestamp_seconds", MODEL, "_x10 600x10 stale"),), (15, 16, 22),
         ((17, told(MODEL, "The canary on llama3.2:3b at gpu1 has been waiting for 7m 0s: the queue is that long, or the runner hangs.")),)),
    Case("OllamaRequestsRejected", "503 twice, four minutes apart",
         (attempts("rejected", count((0, 10), (1, 1), (0, 3), (1, 1), (0, 30))),), (11, 30),
         ((14, told(SERVER, "Server gpu1 answered 2 requests with 503 in 15 minutes: its queue is full.")),)),
    Case("OllamaErrorRatioHigh", "one request in four fails for half an hour",
         (attempts("ok", count((1, 40), (0.75, 40), (1, 60))), attempts("http_error", count((0, 40), (0.25, 40), (0, 60)))),
         (40, 50, 118), ((79, told(SERVER, "25% of measured requests to gpu1 failed in 30 minutes.")),)),
    Case("OllamaAnswersMalformed", "two empty answers under HTTP 200",
         (attempts("empty", count((0, 10), (1, 2), (0, 30))),), (10, 30),
         ((12, told(MODEL, "2 canaries on llama3.2:3b at gpu1 got HTTP 200 with an empty or malformed answer in 15 minutes. Status codes show nothing of it.")),)),
    Case("OllamaFirstTokenSlow", "all answers are slow for 40 minutes",
         histogram(TTFT, count((1, 120)), {"2.0": count((1, 40), (0, 40), (1, 40)), "5.0": count((1, 120))}), (40, 55, 100),
         ((75, told(SERVER, "100% of measured requests to gpu1 waited more than 2 s for the first token in 30 minutes.")),)),
    Case("OllamaFirstTokenSlow", "three slow answers are no trend",
         histogram(TTFT, count((0, 20), (1, 3), (0, 40)), {"2.0": count((0, 63))}), (24, 30, 40), ()),
    Case("OllamaQueueWaitHigh", "each canary waits 10 s",
         histogram(WAIT, count((1, 120)), {"2.0": count((1, 40), (0, 40), (1, 40))}, count((0.01, 40), (10, 40), (0.01, 40))),
         (40, 44, 51, 110), ((75, told(SERVER, "Measured requests to gpu1 waited 10s for a slot, on average over 30 minutes.")),)),
    Case("OllamaQueueWaitHigh", "one canary in twenty waits for two minutes",
         histogram(WAIT, count((1, 120)), {"2.0": count((1, 40), (0, 1), (1, 79))}, count((0.01, 40), (120, 1), (0.01, 79))),
         (45, 50, 60), ()),
    Case("OllamaQueueWaitHigh", "two slow canaries are no trend",
         histogram(WAIT, count((0, 20), (1, 2), (0, 60)), {"2.0": count((0, 82))}, count((0, 20), (10, 2), (0, 60))), (26, 30, 40), ()),
    Case("OllamaQueueSaturated", "a slow canary every four minutes, three held back after each",
         (*histogram(WAIT, count((1, 20), (0.25, 40), (1, 40)), {"2.0": count((1, 20), (0, 40), (1, 40))}),
          attempts("ok", count((1, 20), (0.25, 40), (1, 40))), attempts("timeout", count((0, 100))),
          attempts("rejected", count((0, 100))), skips("saturated", count((0, 20), (0.75, 40), (0, 40))),
          skips("in_flight", count((0, 100)))), (20, 27, 78),
         ((34, told(SERVER, "100% of what was looked at in 15 minutes met no free slot at gpu1.", "warning")),
          (50, (*told(SERVER, "100% of what was looked at in 15 minutes met no free slot at gpu1.", "critical"),
                *told(SERVER, "100% of what was looked at in 15 minutes met no free slot at gpu1.", "warning"))))),
    Case("OllamaQueueSaturated", "one slow canary alone is no queue, though three are held back after it",
         (*histogram(WAIT, count((0, 20), (1, 1), (0, 40)), {"2.0": count((0, 61))}),
          attempts("ok", count((0, 20), (1, 1), (0, 40))), attempts("timeout", count((0, 61))),
          skips("saturated", count((0, 21), (1, 3), (0, 37))), skips("in_flight", count((0, 61)))), (22, 26, 30, 34), ()),
    Case("OllamaQueueSaturationPredicted", "the wait grows by 10 ms a minute",
         histogram(WAIT, count((1, 200)), {"2.0": count((1, 200))},
                   " ".join(f"{0.05 * m + 0.01 * max(0, m - 40) ** 2 / 2:.3f}" for m in range(160)) + " " + " ".join(f"{0.05 * 159 + 0.01 * 119**2 / 2 + 0.05 * m:.3f}" for m in range(1, 41))),
         (60, 120, 138, 199), ((150, told(SERVER, "At its present pace the wait for a slot at gpu1 is 2.2 s in 2 hours.")),)),
    Case("OllamaQueueSaturationPredicted", "the wait has grown beyond the objective: that is another alert",
         _waits(*(0.05 + 0.02 * max(0, m - 40) for m in range(240))), (60, 180, 200, 239), ((124, told(SERVER, "At its present pace the wait for a slot at gpu1 is 3.8 s in 2 hours.")),)),
    Case("OllamaQueueSaturationPredicted", "the wait shrinks again, though the hour as a whole points upwards",
         _waits(*(0.05 + 0.02 * max(0, min(m, 110) - 40) - 0.02 * max(0, m - 110) for m in range(150))), (137, 140), ((120, told(SERVER, "At its present pace the wait for a slot at gpu1 is 3.7 s in 2 hours.")),)),
    Case("OllamaQueueSaturationPredicted", "the first minutes of a server that was just added are no trend",
         _waits(*(0.05 + 0.03 * m for m in range(100))), (40, 50, 58), ()),
)  # fmt: skip


def _vram(first: float, minutes: int, then: float, rest: int, labels: dict[str, str] = MODEL) -> tuple[Series, ...]:
    return (
        series("ollama_loaded_model_vram_bytes", labels, steps((first, minutes), (then, rest))),
        series("ollama_loaded_model_size_bytes", labels, steps((4e9, minutes + rest))),
    )


def _running_canary(uses: str, minutes: int, started: int = 0) -> tuple[Series, ...]:
    """A model in use for `minutes`, under an exporter that has run since the beginning."""
    return (
        series("ollama_model_uses_seen_total", MODEL, uses),
        series("ollama_loaded_model_size_bytes", MODEL, steps((4e9, minutes))),
        series("ollama_source_up", {**SERVER, "source": "canary"}, steps((1, minutes))),
        series("process_start_time_seconds", EXPORTER, steps((started, minutes))),
    )


_PER_TOKEN = "ollama_canary_time_per_output_token_seconds"
MODELS = (
    Case("OllamaModelThrash", "two models push each other out every two minutes",
         tuple(series(f"ollama_model_{what}_total", {**SERVER, "model": model}, values) for model in ("a:1b", "b:1b")
               for what, values in (("loads_seen", count((0, 20), (0.5, 30), (0, 30))), ("reconfigurations_seen", count((0, 80))))),
         (20, 30, 62), ((45, told(SERVER, "Server gpu1 loaded models 15 times in 15 minutes, one of them at least 4 times: each load makes its users wait.")),)),
    Case("OllamaModelThrash", "ten models are loaded once each after a restart",
         tuple(series(f"ollama_model_{what}_total", {**SERVER, "model": f"m{n}:1b"}, values) for n in range(10)
               for what, values in (("loads_seen", count((0, 20), (1, 1), (0, 30))), ("reconfigurations_seen", count((0, 51))))),
         (22, 28, 34), ()),
    Case("OllamaModelThrash", "one model is reloaded with other options again and again, and some polls find it gone: that is another alert",
         (series("ollama_model_loads_seen_total", MODEL, count((0, 20), (1, 30), (0, 30))),
          series("ollama_model_reconfigurations_seen_total", MODEL, count((0, 20), (0.4, 30), (0, 30)))), (35, 45, 50), ()),
    Case("OllamaModelReconfigured", "two clients ask for different contexts",
         (series("ollama_model_reconfigurations_seen_total", MODEL, count((0, 20), (1, 5), (0, 60))),), (21, 60),
         ((25, told(MODEL, "llama3.2:3b at gpu1 was reloaded 5 times in 30 minutes because requests asked for another context length, or because its tag was replaced.")),)),
    Case("OllamaModelOffGPU", "the GPU is lost, and the model loads on the CPU", _vram(4e9, 60, 0, 60), (60, 69),
         ((70, told(MODEL, "Only 0% of llama3.2:3b is in GPU memory at gpu1: less than in the last day, or than elsewhere.")),)),
    Case("OllamaModelOffGPU", "the model was never on this server's GPU before, but is on another's",
         (*_vram(4e9, 200, 4e9, 1), *_vram(0, 200, 0, 1, {**MODEL, "server": "gpu2"}),
          *_vram(4e9, 200, 4e9, 1, {**MODEL, "server": "gpu2", "model": "other-model:7b"})), (5, 9),
         ((90, told({**MODEL, "server": "gpu2"}, "Only 0% of llama3.2:3b is in GPU memory at gpu2: less than in the last day, or than elsewhere.")),)),
    Case("OllamaModelOffGPU", "a server without a GPU beside one with",
         (*_vram(4e9, 200, 4e9, 1), *_vram(0, 200, 0, 1, {**MODEL, "server": "cpu1"})), (30, 90, 190), ()),
    Case("OllamaDecodeSlow", "from one day to the next, a token takes three times as long",
         (series(f"{_PER_TOKEN}_count", MODEL, count((1, 3200))),
          series(f"{_PER_TOKEN}_sum", MODEL, count((0.02, 2900), (0.06, 100), (0.02, 200)))), (2900, 2920, 3100),
         ((2980, told(MODEL, "llama3.2:3b at gpu1 takes 60ms for a token, more than twice the median of the day before.")),), step=4),
    Case("OllamaDecodeSlow", "a token takes three times as long, in four canaries of half an hour: too few to tell",
         (series(f"{_PER_TOKEN}_count", MODEL, count((0.125, 3200))),
          series(f"{_PER_TOKEN}_sum", MODEL, count((0.0025, 2900), (0.0075, 100), (0.0025, 200)))), (2940, 2980, 2996), (), step=4),
    Case("OllamaModelLoadSlow", "one load takes 45 seconds",
         histogram("ollama_canary_load_duration_seconds", count((1, 120)), {"30.0": count((1, 30), (0, 1), (1, 89))}), (29, 95),
         ((32, told(MODEL, "1 of the loads of llama3.2:3b at gpu1 that were seen took more than 30 s in the last hour.")),)),
    Case("OllamaCanaryCausedLoad", "until the exporter restarts",
         (series("ollama_canary_stopped", MODEL, steps((0, 10), (1, 10), (0, 10))),), (9, 20),
         ((10, told(MODEL, "The canary on llama3.2:3b at gpu1 waited for a load that nobody else had asked for. It has stopped for this model; nothing measures it now.")),)),
    Case("OllamaCanaryNotRunning", "users use the model, and the canary neither runs nor says why",
         (*_running_canary(count((1, 120)), 120), attempts("ok", count((1, 30), (0, 50), (1, 40))), skips("unused", count((0, 120)))), (60, 66, 82),
         ((72, told(MODEL, "Users used llama3.2:3b at gpu1 at least 30 times in 30 minutes. No canary was sent meanwhile, nor skipped for a good reason.")),)),
    Case("OllamaCanaryNotRunning", "it is skipped because users' requests are in flight",
         (*_running_canary(count((1, 120)), 120), attempts("ok", count((0, 120))), skips("busy", count((1, 120)))), (60, 90, 119), ()),
    Case("OllamaCanaryNotRunning", "the exporter has just started",
         (*_running_canary(count((1, 120)), 120, started=6000), attempts("ok", count((0, 120))), skips("unused", count((0, 120)))), (90, 119), ()),
    Case("OllamaCanaryNotRunning", "a canary waits for its answer: that is another alert",
         (*_running_canary(count((1, 120)), 120), attempts("ok", count((0, 120))), skips("unused", count((0, 120))),
          series("ollama_canary_pending_since_timestamp_seconds", MODEL, steps((60, 120)))), (60, 90, 119), ()),
    Case("OllamaCanaryNotRunning", "nobody uses the model",
         (*_running_canary(count((0, 120)), 120), attempts("ok", count((0, 120))), skips("unused", count((1, 120)))), (60, 90, 119), ()),
)  # fmt: skip

HOSTS = (
    Case("OllamaHostMemoryLow", "5 % left",
         (series("ollama_host_memory_available_bytes", HOST, steps((50e9, 10), (5e9, 20), (50e9, 10))),
          series("ollama_host_memory_total_bytes", HOST, steps((100e9, 40)))), (19, 30),
         ((20, told(HOST, "5% of the memory of gpu1 is available.")),)),
    Case("OllamaHostMemoryExhaustionPredicted", "memory leaks at 15 % an hour",
         (series("ollama_host_memory_available_bytes", HOST, slope((70e9, -0.25e9, 240), (40e9, 0, 30))),
          series("ollama_host_memory_total_bytes", HOST, steps((100e9, 270)))), (160, 205, 245),
         ((230, told(HOST, "12.5% of the memory of gpu1 is available and at its present pace it is used up within 4 hours.")),)),
    Case("OllamaHostMemoryExhaustionPredicted", "a large model is loaded: a step, not a trend",
         (series("ollama_host_memory_available_bytes", HOST, slope((70e9, 0, 120), (70e9, -10e9, 5), (20e9, 0, 180))),
          series("ollama_host_memory_total_bytes", HOST, steps((100e9, 305)))), (125, 150, 170, 200, 300), ()),
    Case("OllamaHostMemoryExhaustionPredicted", "a short run of work, and the two hours as a whole hold out",
         (series("ollama_host_memory_available_bytes", HOST, slope((29e9, 0, 200), (29e9, -8e9 / 60, 76), (40e9, 0, 30))),
          series("ollama_host_memory_total_bytes", HOST, steps((100e9, 306)))), (200, 245, 268, 271, 300), ()),
    Case("OllamaHostSwapping", "a gigabyte goes to swap",
         (series("ollama_host_swap_used_bytes", HOST, slope((0, 0, 60), (0, 64 * 2**20, 40), (40 * 64 * 2**20, 0, 60))),
          series("ollama_host_swap_total_bytes", HOST, steps((8 * 2**30, 160)))), (60, 82, 140),
         ((90, told(HOST, "gpu1 has moved more than 256 MiB to swap in 30 minutes and has 1.875GiB there.")),)),
    Case("OllamaModelStoreLow", "5 % left",
         (series("ollama_host_model_store_available_bytes", HOST, steps((50e9, 10), (5e9, 20), (50e9, 10))),
          series("ollama_host_model_store_size_bytes", HOST, steps((100e9, 40)))), (24, 30),
         ((25, told(HOST, "5% of the disk that holds the model store of gpu1 is free.")),)),
    Case("OllamaModelStoreExhaustionPredicted", "models fill the disk at 3 % an hour",
         (series("ollama_host_model_store_available_bytes", HOST, slope((50e9, -0.05e9, 500), (60e9, 0, 60))),
          series("ollama_host_model_store_size_bytes", HOST, steps((100e9, 560)))), (205, 310, 505),
         ((400, told(HOST, "30% of the disk that holds the model store of gpu1 is free and at its present pace it is full within a day.")),)),
    Case("OllamaModelStoreExhaustionPredicted", "somebody pulls models for three hours, and the six hours as a whole hold out",
         (series("ollama_host_model_store_available_bytes", HOST, slope((39e9, 0, 500), (39e9, -1.8e9 / 60, 180), (33.6e9, 0, 60))),
          series("ollama_host_model_store_size_bytes", HOST, steps((100e9, 740)))), (500, 600, 675, 679, 735), ()),
    Case("OllamaServeRestarting", "four restarts in 20 minutes",
         (series("ollama_host_process_start_time_seconds", {**HOST, "process": "serve"}, steps((100, 30), (200, 5), (300, 5), (400, 5), (500, 90))),),
         (35, 39, 105), ((41, told(HOST, "The youngest ollama serve on gpu1 was replaced 3 times within an hour.")),)),
)  # fmt: skip


def _installed(server: str, digest: str, values: str) -> Series:
    described = {"digest": digest, "family": "llama", "parameter_size": "3.2B", "quantization": "Q4_K_M"}
    return series("ollama_installed_model_info", {**MODEL, "server": server, **described}, values)


_ON_THE_JOB = {"job": "ollama", "model": "llama3.2:3b"}
FLEET = (
    Case("OllamaVersionSkew", "one server is forgotten for two days",
         (series("ollama_build_info", {**SERVER, "version": "0.33.0"}, steps((1, 3000))),
          series("ollama_build_info", {**SERVER, "server": "gpu2", "version": "0.32.1"}, f"_x60 {steps((1, 2000))} stale")),
         (60, 1496, 2072), ((1512, told({"job": "ollama"}, "Job ollama has run 2 versions of Ollama side by side for a day.")),), step=4),
    Case("OllamaModelDigestSkew", "a tag is pulled anew on one server only",
         (_installed("gpu1", "aaaaaaaaaaaa", steps((1, 300))), _installed("gpu2", "aaaaaaaaaaaa", "1x59 stale"),
          _installed("gpu2", "bbbbbbbbbbbb", f"_x60 {steps((1, 120))} stale")), (60, 119, 181),
         ((121, told(_ON_THE_JOB, "llama3.2:3b has 2 digests across job ollama: its users get other answers depending on the server.")),)),
    Case("OllamaModelMissing", "a model is removed from one of two servers",
         (_installed("gpu1", "aaaaaaaaaaaa", steps((1, 2000))), _installed("gpu2", "aaaaaaaaaaaa", "1x1499 stale"),
          series("ollama_installed_models", SERVER, steps((5, 2000))),
          series("ollama_installed_models", {**SERVER, "server": "gpu2"}, steps((5, 2000)))), (1496, 1540),
         ((1580, told({**MODEL, "server": "gpu2"}, "llama3.2:3b was installed at gpu2 a day ago and is gone; other servers still have it.")),), step=4),
    Case("OllamaModelMissing", "a model is removed everywhere",
         (_installed("gpu1", "aaaaaaaaaaaa", "1x1499 stale"), _installed("gpu2", "aaaaaaaaaaaa", "1x1499 stale"),
          series("ollama_installed_models", SERVER, steps((5, 2000))),
          series("ollama_installed_models", {**SERVER, "server": "gpu2"}, steps((5, 2000)))), (1580, 1700), (), step=4),
    Case("OllamaModelMissing", "the inventory cannot be read",
         (_installed("gpu1", "aaaaaaaaaaaa", steps((1, 2000))), _installed("gpu2", "aaaaaaaaaaaa", "1x1499 stale"),
          series("ollama_installed_models", SERVER, steps((5, 2000))),
          series("ollama_installed_models", {**SERVER, "server": "gpu2"}, "5x1499 stale")), (1580, 1700), (), step=4),
    Case("OllamaUnbalanced", "gpu1 works, gpu2 holds the model ready and is not asked",
         (series("ollama_model_uses_seen_total", MODEL, count((2, 300), (0, 100))),
          series("ollama_model_uses_seen_total", {**MODEL, "server": "gpu2"}, count((0, 400))),
          series("ollama_loaded_model_size_bytes", MODEL, steps((4e9, 400))),
          series("ollama_loaded_model_size_bytes", {**MODEL, "server": "gpu2"}, steps((4e9, 400)))), (60, 119, 340),
         ((125, told(_ON_THE_JOB, "llama3.2:3b is loaded on several servers of job ollama. The busiest was seen in use 120 times in an hour, the idlest less than a tenth of that.")),)),
    Case("OllamaUnbalanced", "gpu2 holds the model pinned, and nobody but the canary asks it",
         (series("ollama_model_uses_seen_total", MODEL, count((3, 300), (1, 100))),
          series("ollama_model_uses_seen_total", {**MODEL, "server": "gpu2"}, count((1, 400))),
          attempts("ok", count((1, 400))), attempts("ok", count((1, 400)), {**MODEL, "server": "gpu2"}),
          series("ollama_loaded_model_size_bytes", MODEL, steps((4e9, 400))),
          series("ollama_loaded_model_size_bytes", {**MODEL, "server": "gpu2"}, steps((4e9, 400)))), (60, 119, 380),
         ((125, told(_ON_THE_JOB, "llama3.2:3b is loaded on several servers of job ollama. The busiest was seen in use 120 times in an hour, the idlest less than a tenth of that.")),)),
    Case("OllamaClockSkew", "the server's clock goes a minute slow",
         (series("ollama_clock_offset_seconds", SERVER, steps((0, 10), (-60, 20), (0, 10))),), (24, 30),
         ((25, told(SERVER, "The clock of gpu1 is 1m 0s from that of exporter:8082: expiries and log times of the two do not compare.")),)),
)  # fmt: skip

_HOST_SOURCE = {**EXPORTER, "source": "host"}
_API_SOURCE = {**SERVER, "source": "api"}
META = (
    Case("OllamaExporterDown", "for 10 minutes", (series("up", EXPORTER, steps((1, 10), (0, 10), (1, 10))),), (14, 20),
         ((15, told(EXPORTER, "exporter:8082 of job ollama could not be scraped for 5 minutes. Its servers count as unavailable.")),)),
    Case("OllamaExporterAbsent", "the job has no targets", (series("up", EXPORTER, "1x9 stale _x20 1x10"),), (9, 19, 32),
         ((20, told({"job": "ollama"}, "Prometheus has had no target in job ollama for 10 minutes: nobody watches Ollama.")),)),
    Case("OllamaExporterRestarting", "four starts in 20 minutes",
         (series("process_start_time_seconds", EXPORTER, steps((100, 30), (200, 5), (300, 5), (400, 5), (500, 90))),), (35, 39, 105),
         ((41, told(EXPORTER, "exporter:8082 restarted 3 times within an hour. Its counters began anew each time.")),)),
    Case("OllamaMetricsMissing", "one of two servers is nowhere",
         (series("ollama_exporter_servers", EXPORTER, steps((1, 10), (2, 40))), series("ollama_up", SERVER, steps((1, 50))),
          series("ollama_up", {**SERVER, "server": "gpu2"}, "_x30 1x20")), (19, 30),
         ((20, told(EXPORTER, "exporter:8082 is scraped, and 1 of its servers have no ollama_up.")),)),
    Case("OllamaMetricsMissing", "no server at all has been looked at", (series("ollama_exporter_servers", EXPORTER, steps((3, 20))),), (9,),
         ((10, told(EXPORTER, "exporter:8082 is scraped, and 3 of its servers have no ollama_up.")),)),
    Case("OllamaNotAnExporter", "the target is something else", (series("up", EXPORTER, steps((1, 20))),), (9,),
         ((10, told(EXPORTER, "exporter:8082 of job ollama is scraped and shows nothing of ollama-exporter: wrong port or path.")),)),
    Case("OllamaSourceFailing", "the host source fails for 20 minutes",
         (series("ollama_source_up", _HOST_SOURCE, steps((1, 10), (0, 20), (1, 10))),), (19, 30),
         ((20, told(_HOST_SOURCE, "Source host of exporter:8082 has failed for 10 minutes (server: \"\").")),)),
    Case("OllamaSourceFailing", "the server is down: that is another alert",
         (series("ollama_source_up", _API_SOURCE, steps((1, 10), (0, 30))),
          series("ollama_state", {**SERVER, "state": "ok"}, steps((1, 10), (0, 30)))), (20, 39), ()),
    Case("OllamaSourceStale", "a loop has stopped",
         (series("ollama_source_last_attempt_timestamp_seconds", _API_SOURCE, "0+60x9 540x29 2400+60x9"),), (24, 45),
         ((25, told(_API_SOURCE, "The last reading of source api by exporter:8082 is 16m 0s old (server: \"gpu1\").")),)),
    Case("OllamaLabelOverflow", "250 models, 200 labels",
         (series("ollama_exporter_label_values_dropped", SERVER, steps((0, 10), (50, 30), (0, 10))),), (24, 40),
         ((25, told(SERVER, "50 model names of gpu1 are left out or summed under other.")),)),
    Case("OllamaValuesRejected", "a new version tells a size as text",
         (series("ollama_api_rejected_values_total", SERVER, count((0, 70), (4, 5), (0, 90))),), (70, 74, 140),
         ((80, told(SERVER, "20 values in answers of gpu1 were left out within an hour because their type or range was impossible.")),)),
    Case("OllamaConfigReloadFailed", "a mistake in the file",
         (series("ollama_exporter_config_last_reload_successful", EXPORTER, steps((1, 10), (0, 20), (1, 10))),), (14, 30),
         ((15, told(EXPORTER, "The last reload of exporter:8082 failed: its configuration has mistakes, and the one before stays in force.")),)),
    Case("OllamaExporterLagging", "a tenth of the polls come late",
         (series("ollama_exporter_loop_lag_seconds_count", EXPORTER, count((20, 90))),
          series("ollama_exporter_loop_lag_seconds_bucket", {**EXPORTER, "le": "1.0"}, count((20, 20), (18, 30), (20, 40)))), (20, 30, 60),
         ((45, told(EXPORTER, "10% of the polls of exporter:8082 started more than a second late in 10 minutes.")),)),
    Case("OllamaProbesRefused", "a target that is not on the list is asked for every minute, for 30 minutes",
         (series("ollama_exporter_probes_refused_total", {**EXPORTER, "reason": "not_allowed"}, count((0, 20), (1, 30), (0, 30))),
          series("ollama_exporter_probes_refused_total", {**EXPORTER, "reason": "too_many"}, count((0, 80)))), (20, 29, 65),
         ((40, (Says({**EXPORTER, "reason": "not_allowed"},
                     "exporter:8082 refused 10 probes in 10 minutes (not_allowed): nobody watches these targets."),)),)),
    Case("OllamaProbesRefused", "somebody mistyped a target once",
         (series("ollama_exporter_probes_refused_total", {**EXPORTER, "reason": "missing"}, count((0, 20), (1, 1), (0, 30))),), (22, 31, 40), ()),
    Case("Watchdog", "always", (series("up", EXPORTER, steps((1, 5))),), (),
         ((0, told({}, "This alert always fires. Send it to a service that raises the alarm when it stops coming.")),)),
)  # fmt: skip

FILES = {"objectives": BURNS, "symptoms": SYMPTOMS, "models": MODELS, "hosts": HOSTS, "fleet": FLEET, "exporter": META}
