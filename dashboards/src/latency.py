"""Are the objectives kept, and if not, since when and by whom?"""

from __future__ import annotations

from collections.abc import Mapping

from dashboards.src import names, panels
from dashboards.src.names import Recorded, increase, mean, over, pick, quantile, tokens_per_second, within
from dashboards.src.panels import (
    CANARY_STEP,
    COUNT,
    LAST_HALF_HOUR,
    NEEDS_LOGS,
    NO_TRAFFIC,
    SECONDS,
    SHARE,
    TOKENS_PER_SECOND,
    Board,
    Look,
    Panel,
    Query,
    Row,
    Steps,
)  # fmt: skip
from exporter import catalog
from exporter.sources.logs import STATUSES

_OBJECTIVES: tuple[tuple[str, str, Mapping[str, Recorded], float], ...] = (
    ("Availability", "servers answer 99.9 % of the time", names.UNAVAILABLE, panels.AVAILABILITY),
    ("Success", "99 % of requests end well", names.ERRORS, panels.SUCCESS),
    ("First token within 2 s", "95 % of first tokens come within 2 s", names.OVER_2S, panels.WITHIN_2S),
    ("First token within 5 s", "99 % of first tokens come within 5 s", names.OVER_5S, panels.WITHIN_5S),
)


def _left(id: int, name: str, objective: str, bad: Mapping[str, Recorded], target: float) -> Panel:
    return panels.gauge(
        id,
        f"{name}: budget left",
        f"The objective is that {objective}. How much of what it allows to go wrong in 30 days is left? Below a"
        " quarter, take no risks; once it is spent, the objective is missed. Next: the burn rate below. A younger"
        " history counts for as many of the 30 days as it covers.",
        names.budget_left(bad, target),
        panels.BUDGET,
        width=6,
        height=6,
    )


def _burn(id: int, name: str, bad: Mapping[str, Recorded], target: float) -> Panel:
    rates = [Query(f"max({pick(bad[window])}) / {1 - target:.3g}", window) for window in ("5m", *panels.BURN_RATES)]
    return panels.graph(
        id,
        f"{name}: burn rate",
        "How many times faster than allowed is the budget used up? 1 lasts just 30 days. Alerts: 1h above 14.4 or 6h"
        " above 6 page, 1d above 3 or 3d above 1 open a ticket, while a shorter window confirms that it goes on."
        " Next: who, below.",
        rates,
        Look(
            "suffix:x",
            Steps(panels.OK, ((1.0, panels.WARN), (6.0, panels.BAD))),
            NO_TRAFFIC,
            least=0,
            room=8,
            names=("5m", *panels.BURN_RATES),
        ),
        width=6,
    )


_BUDGETS = Row(
    100,
    "What is left of the error budgets of 30 days?",
    tuple(_left(101 + place, *objective) for place, objective in enumerate(_OBJECTIVES)),
)

_BURNING = Row(
    200,
    "How fast do they burn?",
    tuple(_burn(201 + place, name, bad, target) for place, (name, _, bad, target) in enumerate(_OBJECTIVES)),
)

_FIRST_TOKEN = Row(
    300,
    "How long until the first token? (by canaries)",
    (
        panels.graph(
            301,
            "First tokens in time, by server",
            "Which server misses the time chosen above? Share of measured requests; dashed is the objective of 95 %"
            " (which stands for 2 s). One server low: its board. All low: Queue and capacity.",
            Query(within(catalog.CANARY_TTFT, "$objective", "server"), "{{server}}"),
            Look(SHARE, panels.PROMPT_ENOUGH, NO_TRAFFIC, least=0, most=1, step=CANARY_STEP),
        ),
        panels.heat(
            302,
            "First tokens: how they spread",
            "Are all a little slow, or a few very slow? Each column is a moment, each cell how many requests fell"
            " into that span of time. Two bands: two kinds of model, or some wait for a slot and others do not.",
            catalog.CANARY_TTFT,
            width=8,
            height=8,
        ),
        panels.graph(
            303,
            "First token: half, most, nearly all",
            "What do typical and unlucky requests see? Half of the requests are faster than p50, 95 % than p95."
            " Estimated within buckets, for the eye: the objectives use exact shares. Dashed: 2 s and 5 s.",
            [Query(quantile(q, catalog.CANARY_TTFT), f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)],
            Look(SECONDS, panels.TTFT_LIMITS, NO_TRAFFIC, least=0, names=("p50", "p95", "p99"), step=CANARY_STEP),
        ),
        panels.graph(
            304,
            "First token by model, 95th percentile",
            "Which model keeps users waiting? The ten slowest. A large model is slower by nature: compare with its own"
            " yesterday. Next: Models and memory, whether it lies in GPU memory.",
            Query(f"topk(10, {quantile(0.95, catalog.CANARY_TTFT, 'model')})", "{{model}}"),
            Look(SECONDS, panels.TTFT_LIMITS, NO_TRAFFIC, least=0, step=CANARY_STEP),
        ),
        panels.graph(
            305,
            "First token by model, mean of 30 minutes",
            "The same, calmer: what has lasted? Ten slowest, each on its slowest server.",
            Query(f"topk(10, {over('max', 'model', pick(names.TTFT))})", "{{model}}"),
            Look(SECONDS, panels.TTFT_LIMITS, NO_TRAFFIC, least=0),
        ),
        panels.graph(
            306,
            "First tokens after more than 2 s, by server",
            "Who spends the budget? Share of measured requests in an hour with a first token after 2 s; dashed is"
            " what the objective allows.",
            Query(over("max", "server", pick(names.SERVER_OVER_2S["1h"])), "{{server}}"),
            Look(SHARE, panels.over_is_bad(None, 1 - panels.WITHIN_2S), NO_TRAFFIC, least=0, room=0.1),
        ),
    ),
)

_SPEED = Row(
    400,
    "How fast do answers come then? (by canaries)",
    (
        panels.graph(
            401,
            "Speed of one request, by model",
            "How many tokens a second does one request get? 10 is reading speed, 20 feels quick (dashed). Ten"
            " slowest, each on its slowest server. Falls with load; fallen without load: throttled GPU, or weights on"
            " the CPU.",
            Query(f"bottomk(10, {tokens_per_second(by='model')})", "{{model}}"),
            Look(TOKENS_PER_SECOND, panels.SPEED_LIMITS, NO_TRAFFIC, least=0),
        ),
        panels.graph(
            402,
            "Time per token: half, most, nearly all",
            "How even is the speed? p95 far above p50: some requests share the GPU with many others. Dashed: 50 and"
            " 100 ms.",
            [Query(quantile(q, catalog.CANARY_PER_TOKEN), f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)],
            Look(SECONDS, panels.PER_TOKEN_LIMITS, NO_TRAFFIC, least=0, names=("p50", "p95", "p99"), step=CANARY_STEP),
        ),
        panels.stat(
            403,
            "Tokens fast enough to read",
            "Which share of measured requests of the last half hour needed at most 0.1 s per token? The aim is 95 %.",
            within(catalog.CANARY_PER_TOKEN, "0.1"),
            Look(SHARE, panels.PROMPT_ENOUGH, NO_TRAFFIC, decimals=1, step=LAST_HALF_HOUR),
            height=8,
        ),
        panels.stat(
            404,
            "Beyond 5 minutes",
            "Which share of measured requests of the last half hour had its first token after the largest bucket, 5"
            " minutes? Above 0 the percentiles above are too low.",
            f"1 - ({within(catalog.CANARY_TTFT, str(catalog.TTFT_BUCKETS[-1]))})",
            Look(SHARE, panels.over_is_bad(None, 0.001), NO_TRAFFIC, decimals=1, step=LAST_HALF_HOUR),
            height=8,
        ),
        panels.graph(
            405,
            "Whole duration of a measured request",
            "How long does the whole of a request take? 16 tokens, so comparable over time and servers and with no"
            " user's request. Rising with the first token: waiting. Rising alone: generation.",
            Query(mean(catalog.CANARY_DURATION, "server"), "{{server}}"),
            Look(SECONDS, empty=NO_TRAFFIC, least=0, step=CANARY_STEP),
            width=12,
        ),
        panels.graph(
            406,
            "Network between the exporter and the server",
            "What of the time is the way, not the server? Round trip minus the server's own duration. Users elsewhere"
            " have their own way. Rising: the network, or a proxy that buffers.",
            Query(mean(catalog.CANARY_NETWORK, "server"), "{{server}}"),
            Look(SECONDS, empty=NO_TRAFFIC, least=0, step=CANARY_STEP),
            width=12,
        ),
    ),
)

_USERS = Row(
    500,
    "How long do users' requests take, all in all? (source logs)",
    (
        panels.heat(
            501,
            "Users' requests: how their times spread",
            "Are all slow, or some? The whole time of requests that were answered, to the last byte: waiting, loading"
            " and all tokens. Long answers are slow by nature: look for a cloud that moves up, not for a high one.",
            catalog.LOG_DURATION,
            width=12,
            height=8,
            empty=NEEDS_LOGS,
        ),
        panels.graph(
            502,
            "Whole time of users' requests: half, most, nearly all",
            "What do typical and unlucky users wait until their answer is whole? No measure of the first token."
            " Estimated within buckets, for the eye. p50 and p95 rising together: waiting or slow tokens, see the"
            " phases on Server.",
            [Query(quantile(q, catalog.LOG_DURATION), f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)],
            Look(SECONDS, empty=NEEDS_LOGS, least=0, names=("p50", "p95", "p99"), step=CANARY_STEP),
            width=12,
        ),
        panels.graph(
            503,
            "Whole time of users' requests, by server",
            "Which server is slow to its users? Mean of 30 minutes. One that is slower with the same models: Server,"
            " where its time goes. Ten slowest.",
            Query(f"topk(10, {over('max', 'server', pick(names.REQUEST_DURATION))})", "{{server}}"),
            Look(SECONDS, empty=NEEDS_LOGS, least=0),
        ),
        panels.graph(
            504,
            "Whole time by route, 95th percentile",
            "Is it chats, completions or embeddings that are slow? Embeddings take milliseconds when nobody waits:"
            " they are the finest sign of a queue.",
            Query(quantile(0.95, catalog.LOG_DURATION, "api_endpoint"), "{{api_endpoint}}"),
            Look(SECONDS, empty=NEEDS_LOGS, least=0, step=CANARY_STEP),
        ),
        panels.graph(
            505,
            "Requests that were not answered well",
            "Which errors do users get? By access lines. 503: the queue is full. 5xx: errors, and clients that left"
            " while they waited for a slot. 499: left while the model was loading. 4xx: their own mistakes, or no"
            " such model.",
            Query(
                f"{over('sum', 'status', increase(catalog.LOG_REQUESTS, status='!2xx', **names.USE_A_MODEL))} > 0",
                "{{status}}",
            ),
            Look(COUNT, empty="None, or no source logs", least=0, names=STATUSES),
            stack=True,
            as_bars=True,
        ),
    ),
)

BOARD = Board(
    "ollama-latency",
    "Ollama / Latency and objectives",
    "Are the objectives kept, and if not, since when and by whom? First tokens and speed by canaries on models in use,"
    " success and whole times by users' own requests where the source logs reads them.",
    (_BUDGETS, _BURNING, _FIRST_TOKEN, _SPEED, _USERS),
)
