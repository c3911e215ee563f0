"""Do I need another server?"""

from __future__ import annotations

from dashboards.src import names, panels
from dashboards.src.names import RATE, increase, mean, over, pick, quantile, rate, share
from dashboards.src.panels import (
    BYTES,
    CANARY_STEP,
    COUNT,
    NEEDS_BOTH,
    NEEDS_LOGS,
    NEEDS_RUNNER,
    NEEDS_SOCKETS,
    NO_TRAFFIC,
    SECONDS,
    SHARE,
    TOKENS_PER_SECOND,
    Board,
    Look,
    Query,
    Row,
)  # fmt: skip
from exporter import catalog

_SATURATION = over("max", "server", pick(names.SATURATION))
_WARN = panels.SATURATION_LIMITS.at[0][0]
_TODAY = f"count({over('max', 'server', pick(names.AVAILABLE))})"
_OF_THE_FLEET = f"avg({pick(names.SATURATION)})[1d:5m]"
_SIX_HOURS = 6 * 12  # steps of 5 minutes
_SLOTS = f"sum({pick(names.SLOTS)})"
_SLOTS_NOW = f"sum({pick(catalog.RUNNER_SLOTS)})"
_STREAMING = f"sum(avg_over_time({pick(catalog.SOCKETS_STREAMING)}[{RATE}]))"
_MEAN_DURATION = mean(catalog.LOG_DURATION, "")
_BUSY = f"sum({pick(names.SLOTS_BUSY)} * {pick(names.SLOTS)})"
_WAITING_NOW = f"sum({pick(names.WAITING)} * {pick(names.SLOTS)})"
_DEMAND = f"({share(f'({_BUSY} + {_WAITING_NOW})', _SLOTS)})[1d:5m]"
_WELL_USED = 0.8


def _suggested() -> str:
    """Where slots and those who wait for one are seen: as many servers as keep the demand at its 95th percentile below
    80 % of the slots. Elsewhere one more, if the fleet was saturated by half."""
    by_slots = f"clamp_min(ceil({_TODAY} * quantile_over_time(0.95, {_DEMAND}) / {_WELL_USED}), 1)"
    by_signs = f"{_TODAY} + (quantile_over_time(0.95, {_OF_THE_FLEET}) > bool {_WARN})"
    return (
        f"({by_slots} and count_over_time({_DEMAND}) >= {_SIX_HOURS})"
        f" or ({by_signs} and count_over_time({_OF_THE_FLEET}) >= {_SIX_HOURS})"
    )


_VERDICT = Row(
    100,
    "Is there room?",
    (
        panels.stat(
            101,
            "Time without a free slot",
            "In which share of the last 15 minutes had the fullest server no free slot? Where slots cannot be seen:"
            " of the canaries due, the share that found none. 0: there is room. From half on users queue.",
            f"max({pick(names.SATURATION)})",
            Look(SHARE, panels.SATURATION_LIMITS, NO_TRAFFIC, decimals=0),
        ),
        panels.stat(
            102,
            "Canaries that waited 2 s",
            "At the server where it was worst, which share of the canaries of 30 minutes waited more than 2 s for a"
            " slot? The waits are upper bounds. Canaries are held back while users fill the slots: then the row below"
            " knows more.",
            f"max({pick(names.WAITED_OVER_2S)})",
            Look(SHARE, panels.WAITED_LIMITS, NO_TRAFFIC, decimals=0),
        ),
        panels.stat(
            103,
            "Refused in 15 minutes",
            "How many requests got a 503 because the scheduler's queue is full (OLLAMA_MAX_QUEUE)? Users' own by the"
            " access lines, else the canary's. Any is one too many. Requests that wait for a slot are never refused:"
            " see the row below.",
            f"sum({pick(names.REJECTED)})",
            Look(COUNT, panels.ANY_IS_BAD, NO_TRAFFIC, decimals=0),
        ),
        panels.stat(
            104,
            "Saturation in 4 hours",
            "Where does the fullest server's saturation lead if the last hour's trend goes on? A straight line, no"
            " prophecy: it knows no evening. Above half, make room before then. A server is not judged before there was"
            " traffic for an hour.",
            f"clamp(max(predict_linear({pick(names.SATURATION)}[1h], 4 * 3600)"
            f" and {pick(names.SATURATION)} offset 55m), 0, 1)",
            Look(SHARE, panels.SATURATION_LIMITS, "After an hour", decimals=0),
        ),
        panels.stat(
            105,
            "Servers today",
            "How many servers are in the fleet, answering or not?",
            _TODAY,
            Look(decimals=0),
        ),
        panels.stat(
            106,
            "Servers suggested, at least",
            "How many servers should there be, by what can be seen? With the sources runner and sockets: as many as"
            " keep busy slots and waiting requests, at their 95th percentile of a day, below 80 % of the slots; fewer"
            " than today is room, if memory allows. Else one more than there are, if the fleet was saturated by half"
            " for 5 % of the day. A single full server asks for its load to be spread. Before buying: could more"
            " requests run side by side (OLLAMA_NUM_PARALLEL)? Told from six hours of history on.",
            _suggested(),
            Look(empty="After six hours", decimals=0),
        ),
    ),
)

_NOW = Row(
    500,
    "Who waits now? (sources sockets and runner, on the server's machine)",
    (
        panels.stat(
            501,
            "Waiting now, estimated",
            "How many requests have been received and have no slot? The estimate lies between the bounds of the graph"
            " below. A few for seconds are normal; as many as there are slots double everybody's time. Next: which"
            " server, below.",
            f"sum({pick(catalog.SOCKETS_WAITING)})",
            Look(COUNT, empty=NEEDS_BOTH, decimals=0),
        ),
        panels.stat(
            502,
            "Waiting for each slot",
            "How many requests wait for each slot, at the server where they are most? 0: none. From 1 on, whoever"
            " comes waits for a whole answer first.",
            f"max({pick(names.WAITING)})",
            Look(COUNT, panels.SATURATION_LIMITS, NEEDS_BOTH, decimals=2),
        ),
        panels.stat(
            503,
            "Busy slots, all together",
            "Which share of all slots of the chosen servers is at work? High without waiting is good use. Slots"
            " belong to models: one model's may all be taken, with requests waiting, while others' are idle.",
            share(_BUSY, _SLOTS),
            Look(SHARE, empty=NEEDS_RUNNER, decimals=0),
        ),
        panels.stat(
            504,
            "Oldest unanswered",
            "How long has the oldest request been without any byte? An answer that is not streamed counts until it is"
            " whole. From 3 minutes on, look whether its server makes tokens (Runner internals).",
            f"max({pick(catalog.SOCKETS_OLDEST)})",
            Look(SECONDS, panels.OLDEST_LIMITS, NEEDS_SOCKETS, decimals=0),
        ),
        panels.stat(
            505,
            "Accept queue filled",
            "Does ollama serve take its connections? Share of the kernel's queue that is taken at the fullest server;"
            " more than a moment above 0: the process hangs or starves. At 100 % further users get no answer at all.",
            f"max({share(pick(catalog.SOCKETS_ACCEPT_QUEUE), pick(catalog.SOCKETS_ACCEPT_QUEUE_MAX))})",
            Look(SHARE, panels.over_is_bad(0.0001, 0.5), NEEDS_SOCKETS, decimals=1),
        ),
        panels.stat(
            506,
            "Tokens made, all together",
            "How many tokens a second does the fleet make? Of the last 5 minutes. Flat at its highest while requests"
            " wait: it can do no more.",
            f"sum({pick(names.TOKENS)})",
            Look(TOKENS_PER_SECOND, empty="Needs the source runner or logs", decimals=0),
        ),
        panels.graph(
            507,
            "Waiting requests, against slots",
            "How much is asked, and how much is there? Sum of the chosen servers at each look. waiting is the"
            " estimate, at least and at most its bounds. busy on slots with waiting above 0: too few slots. waiting"
            " with free slots: loads (see Models and memory), or one full server among empty ones.",
            [
                Query(_SLOTS_NOW, "slots"),
                Query(f"sum({pick(catalog.RUNNER_SLOTS_BUSY)})", "busy"),
                Query(f"sum({pick(catalog.SOCKETS_WAITING_LOW)})", "at least"),
                Query(f"sum({pick(catalog.SOCKETS_WAITING_HIGH)})", "at most"),
                Query(f"sum({pick(catalog.SOCKETS_WAITING)})", "waiting"),
            ],
            Look(COUNT, empty=NEEDS_BOTH, least=0, names=("slots", "busy", "at least", "at most", "waiting")),
            width=12,
        ),
        panels.graph(
            508,
            "Waiting requests for each slot, by server",
            "Which server is it? Estimated waiting requests over slots; from half on (dashed) users feel it, 1 is a"
            " whole answer's wait. One high among low ones: spread the load. All: more slots or servers.",
            Query(over("max", "server", pick(names.WAITING)), "{{server}}"),
            Look(COUNT, panels.SATURATION_LIMITS, NEEDS_BOTH, least=0),
            width=12,
        ),
        panels.graph(
            509,
            "Requests without an answer, at their most",
            "How high do bursts go that come and go between two looks? The highest of five looks each. Loads, prompts"
            " and answers that are not streamed are in it: no measure of waiting.",
            Query(f"topk(10, {over('max', 'server', pick(catalog.SOCKETS_UNANSWERED_MAX))})", "{{server}}"),
            Look(COUNT, empty=NEEDS_SOCKETS, least=0),
        ),
        panels.graph(
            510,
            "Oldest unanswered request, by server",
            "Does somebody wait for ever? A saw whose teeth grow is a queue that grows. A straight line up is a"
            " request that hangs, on a server that may have lost it: see Runner internals whether slots are idle."
            " Dashed: 3 and 10 minutes.",
            Query(f"topk(10, {over('max', 'server', pick(catalog.SOCKETS_OLDEST))})", "{{server}}"),
            Look(SECONDS, panels.OLDEST_LIMITS, NEEDS_SOCKETS, least=0),
        ),
        panels.graph(
            511,
            "Connections that the server has not taken",
            "Does ollama serve itself hang? What the kernel holds for it; 0 but for moments. Rising: the process is"
            " stopped, swapped out or starves for CPU. Ten most.",
            Query(f"topk(10, {over('max', 'server', pick(catalog.SOCKETS_ACCEPT_QUEUE))})", "{{server}}"),
            Look(COUNT, empty=NEEDS_SOCKETS, least=0),
        ),
        panels.graph(
            512,
            "Connections, by what they do",
            "What are users' connections doing? no answer yet: waiting, loading, reading the prompt, or not streamed."
            " streaming: tokens come. idle: kept open. exporter: our own canary, in none of the others.",
            [
                Query(f"sum({pick(catalog.SOCKETS_UNANSWERED)})", "no answer yet"),
                Query(f"sum({pick(catalog.SOCKETS_STREAMING)})", "streaming"),
                Query(f"sum({pick(catalog.SOCKETS_IDLE)})", "idle"),
                Query(f"sum({pick(catalog.SOCKETS_OWN)})", "exporter"),
            ],
            Look(COUNT, empty=NEEDS_SOCKETS, least=0, names=("no answer yet", "streaming", "idle", "exporter")),
            width=12,
            stack=True,
        ),
        panels.graph(
            513,
            "In flight: counted, and by Little's law",
            "Do two views agree? How many requests are in flight on average: as the kernel saw them, and by Little's"
            " law, requests a second times their mean duration, from the access lines (source logs). Steps of 2"
            " minutes. The law's line below: requests that have not ended yet, or broke off. Far apart for long: one"
            " of the sources misses some.",
            [
                Query(f"sum({rate(catalog.SOCKETS_UNANSWERED_SECONDS)}) + {_STREAMING}", "counted"),
                Query(
                    f"sum({rate(catalog.LOG_REQUESTS, status='2xx', **names.USE_A_MODEL)}) * {_MEAN_DURATION}",
                    "by Little's law",
                ),
            ],
            Look(COUNT, empty=f"{NEEDS_SOCKETS} or logs", least=0, step="2m", names=("counted", "by Little's law")),
            width=12,
        ),
        panels.graph(
            514,
            "Users' requests a minute, by server",
            "Where does the load come from? Requests that use a model, by access lines, without the canary's: mean of"
            " 5 minutes. More requests with the same waiting: there is room. Ten busiest.",
            Query(f"topk(10, {over('max', 'server', f'{pick(names.USERS_REQUESTS)} / 5')})", "{{server}}"),
            Look(COUNT, empty=NEEDS_LOGS, least=0),
            width=12,
        ),
        panels.graph(
            515,
            "Tokens made, by server",
            "Does a server make as much as it can? Flat while requests wait is its most. Falling while requests wait:"
            " throttled, or long prompts. Ten busiest.",
            Query(f"topk(10, {over('max', 'server', pick(names.TOKENS))})", "{{server}}"),
            Look(TOKENS_PER_SECOND, empty="Needs the source runner or logs", least=0),
            width=12,
        ),
    ),
)

_WAITING = Row(
    200,
    "How long do requests wait for a slot?",
    (
        panels.graph(
            201,
            "Mean wait for a slot",
            "Which server lets requests wait? Mean of 30 minutes. Where sockets, runner and logs tell: users' own,"
            " how many wait over how many come. Else the canary's time that is neither load, prompt nor generation,"
            " an upper bound. Dashed: 2 s and 10 s. One server: the load is not spread evenly. All: the fleet is too"
            " small.",
            Query(over("max", "server", pick(names.QUEUE_WAIT)), "{{server}}"),
            Look(SECONDS, panels.WAIT_LIMITS, NO_TRAFFIC, least=0),
        ),
        panels.graph(
            202,
            "Canaries' wait for a slot: half, most, nearly all",
            "Upper bounds. Do all wait a little, or some for long? p50 near 0 with a high p95: short bursts. Both high:"
            " always full.",
            [Query(quantile(q, catalog.CANARY_QUEUE_WAIT), f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)],
            Look(SECONDS, panels.WAIT_LIMITS, NO_TRAFFIC, least=0, names=("p50", "p95", "p99"), step=CANARY_STEP),
        ),
        panels.heat(
            203,
            "Canaries' waits for a slot: how they spread",
            "Upper bounds. When did waiting begin? A band that climbs is a queue that grows; a second band beside the"
            " low one is one server or model that is full.",
            catalog.CANARY_QUEUE_WAIT,
            width=8,
            height=8,
        ),
        panels.graph(
            204,
            "Canaries that waited more than 2 s",
            "How many canaries wait so long that users would feel it? Share of 30 minutes, by server, upper bound.",
            Query(over("max", "server", pick(names.WAITED_OVER_2S)), "{{server}}"),
            Look(SHARE, panels.WAITED_LIMITS, NO_TRAFFIC, least=0, most=1),
        ),
        panels.graph(
            205,
            "Canaries' wait as a part of all phases",
            "Is waiting what makes requests slow? The yellow part is the wait; if another part grows, more servers"
            " will not help. Canaries are held back while users fill the slots: a queue without a pause is in the row"
            " above.",
            Query(over("avg", "phase", pick(names.PHASES)), "{{phase}}"),
            Look(SECONDS, empty=NO_TRAFFIC, names=("queue", "load", "prompt", "generate"), least=0),
            stack=True,
        ),
        panels.graph(
            206,
            "Canaries' wait for the scheduler and loads",
            "Do requests wait for a model rather than for a slot? 95th percentile of load_duration, by server. Above"
            " half a second models are being loaded: see Models and memory.",
            Query(quantile(0.95, catalog.CANARY_LOAD, "server"), "{{server}}"),
            Look(SECONDS, panels.LOAD_LIMITS, NO_TRAFFIC, least=0, step=CANARY_STEP),
        ),
    ),
)

_SATURATED = Row(
    300,
    "How full are the servers?",
    (
        panels.graph(
            301,
            "Saturation of each server",
            "Who is full, and who has room? Share of 15 minutes without a free slot (where slots cannot be seen: of"
            " canaries). One high among low ones: spread the load better. All above half (dashed): more slots or"
            " servers.",
            Query(_SATURATION, "{{server}}"),
            Look(SHARE, panels.SATURATION_LIMITS, NO_TRAFFIC, least=0, most=1),
        ),
        panels.bars(
            302,
            "Peak of the last day",
            "How full was each server at its worst within a day? A peak under half is headroom.",
            Query(f"topk(20, {over('max', 'server', f'max_over_time({pick(names.SATURATION)}[1d])')})", "{{server}}"),
            Look(SHARE, panels.SATURATION_LIMITS, NO_TRAFFIC, decimals=0, least=0, most=1),
        ),
        panels.graph(
            303,
            "Measurements left out because of load, by reason",
            "Why was the canary not sent? busy: users were being served (no sign of trouble). saturated: the last one"
            " had waited, slots are left to users. in_flight: the last one has not come back.",
            Query(
                over("sum", "reason", increase(catalog.CANARY_SKIPS, reason="~busy|saturated|in_flight")), "{{reason}}"
            ),
            Look(COUNT, empty=NO_TRAFFIC, least=0, step=CANARY_STEP, names=("busy", "saturated", "in_flight")),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            304,
            "Models certainly busy",
            "How many models were certainly at work at the last poll? A lower bound: a request to a warm model may be"
            " unseen.",
            Query(over("sum", "server", pick(catalog.KNOWN_BUSY)), "{{server}}"),
            Look(COUNT, empty=NO_TRAFFIC, least=0),
        ),
        panels.graph(
            305,
            "Memory taken by models",
            "Is there room for another model? What loaded models take; the limits of the machine, its containers and"
            " GPUs are on Host. At its limit each new model pushes one out.",
            Query(over("max", "server", pick(names.LOADED_SIZE)), "{{server}}"),
            Look(BYTES, empty="Nothing is loaded", least=0),
        ),
        panels.graph(
            306,
            "Host memory left",
            "Will the machine last? Share of memory that can be had without swapping; below 8 % (dashed) the kernel"
            " is about to end a runner. Only of the machine the exporter runs on.",
            Query(over("min", "host", pick(names.MEMORY_AVAILABLE)), "{{host}}"),
            Look(SHARE, panels.MEMORY_LEFT, least=0, most=1),
        ),
    ),
)

_NO_LOAD_TEST = "No load test"
_OUTCOMES = (
    "busy", "http_4xx", "http_5xx", "stream_error", "truncated", "malformed", "prompt_cut", "timeout", "connection",
    "client_lag", "interrupted",
)  # fmt: skip

_LOAD_TEST = Row(
    600,
    "Load tests: what was offered, and what the tester and the exporter saw of it",
    (
        panels.graph(
            601,
            "Load test: requests a second",
            "Does the fleet answer what is offered? answered well below offered with waiting requests in the row above:"
            " the fleet is at its limit. With none: they fail, see beside. The phases are annotations.",
            [
                Query(f"sum({rate(catalog.LOAD_OFFERED)})", "offered"),
                Query(f"sum({rate(catalog.LOAD_REQUESTS, outcome='ok')})", "answered well"),
                Query(f"sum({rate(catalog.LOAD_REQUESTS, outcome='!ok')})", "failed"),
            ],
            Look("reqps", empty=_NO_LOAD_TEST, least=0, names=("offered", "answered well", "failed")),
        ),
        panels.graph(
            602,
            "Load test: requests that failed, by how",
            "What becomes of requests under load? Decided at the end of the answer, so errors under HTTP 200 are among"
            " them. client_lag is the tester's own fault, not the servers'.",
            Query(f"{over('sum', 'outcome', increase(catalog.LOAD_REQUESTS, outcome='!ok'))} > 0", "{{outcome}}"),
            Look(COUNT, empty="None, or no load test", least=0, names=_OUTCOMES),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            603,
            "Load test: share of good requests, by server",
            "Which server keeps its promises under load? Requests that were answered well and in time, of all that were"
            " offered. One low among high ones: its share of the load is too large (weights).",
            Query(
                share(
                    over("sum", "server", rate(catalog.LOAD_GOOD)), over("sum", "server", rate(catalog.LOAD_OFFERED))
                ),
                "{{server}}",
            ),
            Look(SHARE, empty=_NO_LOAD_TEST, least=0, most=1),
        ),
        panels.graph(
            604,
            "First token, 95th percentile: tester and canary",
            "Does the canary tell what users feel? Both beside each other, estimated within buckets. The canary is held"
            " back while users fill the slots, so that it may be silent under load. Without a load test: canary alone.",
            [
                Query(quantile(0.95, catalog.LOAD_TTFT), "tester"),
                Query(quantile(0.95, catalog.CANARY_TTFT), "canary"),
            ],
            Look(SECONDS, panels.TTFT_LIMITS, NO_TRAFFIC, least=0, names=("tester", "canary")),
        ),
        panels.graph(
            605,
            "Whole answer, 95th percentile: tester and access lines",
            "Does the server's log tell what the tester measured? Both beside each other, estimated within buckets. The"
            " tester higher: its network, or other users have shorter answers.",
            [
                Query(quantile(0.95, catalog.LOAD_DURATION), "tester"),
                Query(quantile(0.95, catalog.LOG_DURATION), "access lines"),
            ],
            Look(SECONDS, empty=NEEDS_LOGS, least=0, names=("tester", "access lines")),
        ),
        panels.graph(
            606,
            "Wait for a slot, 95th percentile: tester and canary",
            "How long do requests wait under load? Upper bounds, from the server's own account of each answer. Far"
            " above the canary's: it was held back while slots were full.",
            [
                Query(quantile(0.95, catalog.LOAD_QUEUE), "tester"),
                Query(quantile(0.95, catalog.CANARY_QUEUE_WAIT), "canary"),
            ],
            Look(SECONDS, panels.WAIT_LIMITS, NO_TRAFFIC, least=0, names=("tester", "canary")),
        ),
        panels.graph(
            607,
            "Tokens a second: tester and runners",
            "Is the tester alone on the fleet? Runners far above the tester: others use it, too. The tester counts an"
            " answer when it ends, runners as they go; made by runners or logs is a mean of five minutes.",
            [
                Query(f"sum({rate(catalog.LOAD_TOKENS)})", "tester"),
                Query(f"sum({pick(names.TOKENS)})", "runners or logs, 5 min"),
                Query(f"sum({rate(catalog.LOAD_PROMPT_TOKENS)})", "prompts, tester"),
                Query(f"sum({rate(catalog.RUNNER_PROMPT_TOKENS)})", "prompts, runners"),
            ],
            Look(
                TOKENS_PER_SECOND,
                empty="Needs the source runner or logs",
                least=0,
                names=("tester", "runners or logs, 5 min", "prompts, tester", "prompts, runners"),
            ),
            width=6,
        ),
        panels.graph(
            608,
            "Load test: time per token, 50th percentile",
            "Do answers slow down as the load grows? Flat is good: slots share the machine without hurting each other."
            " From 0.1 s on nobody likes to read along.",
            Query(quantile(0.5, catalog.LOAD_PER_TOKEN, "server"), "{{server}}"),
            Look(SECONDS, panels.PER_TOKEN_LIMITS, _NO_LOAD_TEST, least=0),
            width=6,
        ),
        panels.graph(
            609,
            "In flight: tester and kernel",
            "Do both count the same requests? The kernel's are those without an answer yet and those that stream, of"
            " everybody. Far above the tester: others use the fleet, too.",
            [
                Query(f"sum({pick(catalog.LOAD_IN_FLIGHT)})", "tester"),
                Query(f"sum({pick(catalog.SOCKETS_UNANSWERED)}) + {_STREAMING}", "kernel"),
            ],
            Look(COUNT, empty=NEEDS_SOCKETS, least=0, names=("tester", "kernel")),
            width=6,
        ),
        panels.graph(
            610,
            "Load test: the tester's own lag, 99th percentile",
            "Can the test be believed? How late requests were sent against their plan. From 0.1 s on (dashed) the run"
            " is invalid: the tester's machine is too slow or too busy.",
            Query(quantile(0.99, catalog.LOAD_LAG), "tester"),
            Look(SECONDS, panels.LAG_LIMITS, _NO_LOAD_TEST, least=0, names=("tester",)),
            width=6,
        ),
    ),
)

BOARD = Board(
    "ollama-capacity",
    "Ollama / Queue and capacity",
    "Do I need another server? By the best source that each server has: sockets and runner, else canaries.",
    (_VERDICT, _NOW, _WAITING, _SATURATED, _LOAD_TEST),
    start="now-6h",
    annotations=("alerts", "restarts", "load tests"),
)
