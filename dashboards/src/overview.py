"""Is anyone hurt, and where?"""

from __future__ import annotations

from dashboards.src import names, panels
from dashboards.src.names import increase, over, pick, rate, state_code, tokens_per_second, within
from dashboards.src.panels import (
    COUNT,
    NEEDS_BOTH,
    NEEDS_LOGS,
    NEEDS_SOCKETS,
    NO_TRAFFIC,
    SECONDS,
    SHARE,
    TOKENS_PER_SECOND,
    Board,
    Column,
    Look,
    Query,
    Row,
    link_to,
)  # fmt: skip
from exporter import catalog
from exporter.sources.canary import OUTCOMES
from exporter.sources.logs import STATUSES

_LOADED = over("count", "model", pick(catalog.LOADED_SIZE))
_AVAILABLE, _ALERTS = pick(names.AVAILABLE), names.ALERTS.name


def firing(severity: str) -> str:
    matchers = f'alertname=~"Ollama.+",alertstate="firing",severity="{severity}",job=~"$job|",server=~"$server|"'
    return f"count({_ALERTS}{{{matchers}}}) or vector(0)"


_VERDICT = Row(
    100,
    "Are users being served?",
    (
        panels.stat(
            101,
            "Servers away",
            "How many servers do not answer /api/version, counting those whose exporter is gone? 0 is well. Anything"
            " else: the table below tells which, a click on it why.",
            f"count({_AVAILABLE} == 0) or 0 * count({_AVAILABLE})",
            Look(steps=panels.ANY_IS_BAD),
        ),
        panels.stat(
            103,
            "Success",
            "Which share of the requests of the last hour ended well? Users' own, by access lines, where the source"
            " logs reads them; else the canary's. Below 99 % the objective is missed: Latency tells by status, Canary"
            " how its own ended. Whoever waits still is not in it.",
            f"1 - max({pick(names.ERRORS['1h'])})",
            Look(SHARE, panels.SUCCEEDING, NO_TRAFFIC, decimals=1),
        ),
        panels.stat(
            108,
            "Waiting for each slot, now",
            "How many requests wait for each slot, at the server where they are most? From half on users feel it; 1 is"
            " a whole answer's wait for whoever comes. An estimate. Next: the table below, then Queue and capacity.",
            f"max({pick(names.WAITING)})",
            Look(COUNT, panels.SATURATION_LIMITS, NEEDS_BOTH, decimals=1),
        ),
        panels.stat(
            109,
            "Oldest unanswered, now",
            "Does somebody wait for ever? How long the oldest request has been without any byte; one that is not"
            " streamed counts until it is whole. From 3 minutes on: Runner internals, whether its server makes"
            " tokens.",
            f"max({pick(catalog.SOCKETS_OLDEST)})",
            Look(SECONDS, panels.OLDEST_LIMITS, NEEDS_SOCKETS, decimals=0),
        ),
        panels.stat(
            107,
            "Alerts firing",
            "How many alerts fire for the chosen servers, by severity? Critical: users are hurt now. Each alert links"
            " to its runbook; they are marked in the graphs.",
            [Query(firing("critical"), "critical"), Query(firing("warning"), "warning")],
            width=8,
            show="both",
            severities=True,
        ),
        panels.gauge(
            102,
            "Availability budget",
            "How much of the 0.1 % of 30 days in which servers may be away is left? Below a quarter, plan no risky"
            " change; once it is spent, the objective of 99.9 % is missed. Next: Latency and objectives tells how fast"
            " it burns. Of a younger history only what happened counts.",
            names.budget_left(names.UNAVAILABLE, panels.AVAILABILITY),
            panels.BUDGET,
            height=4,
        ),
        panels.stat(
            105,
            "Mean wait for a slot",
            "How long do requests wait for a slot at the server where they wait longest, on average over 30 minutes?"
            " Users' own where sockets, runner and logs tell, else the canary's, an upper bound. From 2 s on users feel"
            " it: see Queue and capacity.",
            f"max({pick(names.QUEUE_WAIT)})",
            Look(SECONDS, panels.WAIT_LIMITS, NO_TRAFFIC),
        ),
        panels.stat(
            106,
            "Time without a free slot",
            "In which share of the last 15 minutes had the fullest server no free slot? 0: there always was one. From"
            " half on, users queue: see Queue and capacity. Where slots cannot be seen: share of the canaries due.",
            f"max({pick(names.SATURATION)})",
            Look(SHARE, panels.SATURATION_LIMITS, NO_TRAFFIC, decimals=0),
        ),
        panels.stat(
            104,
            "Canaries' first token in time",
            "Which share of the canaries of the last half hour had their first token within the time chosen above? The"
            " objective is 95 % within 2 s. They are held back while users fill the slots: then look at who waits,"
            " above.",
            within(catalog.CANARY_TTFT, "$objective"),
            Look(SHARE, panels.PROMPT_ENOUGH, NO_TRAFFIC, decimals=1, step=panels.LAST_HALF_HOUR),
        ),
        panels.stat(
            110,
            "Users' requests a minute",
            "How much is asked? Requests that use a model and ended within 5 minutes, by access lines, without the"
            " canary's. 0 while users complain: they do not reach these servers.",
            f"sum({pick(names.USERS_REQUESTS)}) / 5",
            Look(COUNT, empty=NEEDS_LOGS, decimals=1),
        ),
        panels.stat(
            111,
            "Refused in 15 minutes",
            "How many requests got a 503, because the scheduler's queue was full? Users' own by access lines, else the"
            " canary's. Any is one too many: see Queue and capacity.",
            f"sum({pick(names.REJECTED)})",
            Look(COUNT, panels.ANY_IS_BAD, NO_TRAFFIC, decimals=0),
        ),
    ),
)

_SERVERS = Row(
    200,
    "Which server is it?",
    (
        panels.table(
            201,
            "Servers, and how each is doing",
            "Which server is different from the others? Worst first by the share of 15 minutes in which it had no free"
            " slot. Waiting is now; times and speeds are means of the last 30 minutes, the canary's of its slowest"
            " model. A click on a name opens its board.",
            (
                Column("Server", "server", link=link_to("ollama-server", "server"), width=170),
                Column("State", "state", look=panels.STATES_BY_NAME, cell="colour", width=90),
                Column("Version", "version", width=90),
                Column(
                    "Answers",
                    query=over("max", "server", _AVAILABLE),
                    look=Look(mapping=((1, "yes", panels.OK), (0, "no", panels.BAD))),
                    cell="colour",
                    width=90,
                ),
                Column("Models loaded", query=over("max", "server", pick(catalog.LOADED_MODELS)), width=120),
                Column(
                    "No free slot",
                    query=over("max", "server", pick(names.SATURATION)),
                    look=Look(SHARE, panels.SATURATION_LIMITS, decimals=0, least=0, most=1),
                    cell="bar",
                ),
                Column(
                    "Waiting per slot",
                    query=over("max", "server", pick(names.WAITING)),
                    look=Look(COUNT, panels.SATURATION_LIMITS, decimals=1, least=0, most=2),
                    cell="bar",
                ),
                Column(
                    "Wait for a slot",
                    query=over("max", "server", pick(names.QUEUE_WAIT)),
                    look=Look(SECONDS, panels.WAIT_LIMITS, least=0, most=10),
                    cell="bar",
                ),
                Column(
                    "Canary's first token",
                    query=over("max", "server", pick(names.TTFT)),
                    look=Look(SECONDS, panels.TTFT_LIMITS, least=0, most=5),
                    cell="bar",
                ),
                Column(
                    "Canary's speed",
                    query=tokens_per_second(by="server"),
                    look=Look(TOKENS_PER_SECOND, panels.SPEED_LIMITS, decimals=0, least=0, most=100),
                    cell="bar",
                ),
                Column(
                    "In GPU memory",
                    query=f"max by (server) ({pick(names.LOADED_VRAM)} / ({pick(names.LOADED_SIZE)} > 0))",
                    look=Look(SHARE, panels.GPU_SHARE, decimals=0, least=0, most=1),
                    cell="bar",
                ),
            ),
            extra=(
                over("max", "server, state", f"{pick(catalog.STATE)} == 1"),
                over("max", "server, version", pick(catalog.BUILD_INFO)),
            ),
            sort="No free slot",
            descending=True,
            height=7,
        ),
        panels.timeline(
            202,
            "State of each server over time",
            "When was a server away, and for how long? Green answers; orange is stalled: HTTP works, the scheduler"
            " does not (loading, or stuck); light blue starts; red is down; grey is not seen, because its exporter is"
            " gone.",
            Query(state_code(), "{{server}}"),
            panels.STATES,
            height=6,
        ),
    ),
)

_TIME = Row(
    300,
    "Where does the time go? (by canaries)",
    (
        panels.graph(
            301,
            "Mean time of a canary, by phase",
            "What do canaries spend their time on, on average over the servers? queue: more slots or servers are"
            " needed. load: models push each other out. prompt: long prompts, lost caches. generate: the GPU, or"
            " weights on the CPU. They are short, and held back while users fill the slots: then look at waiting"
            " requests, below.",
            Query(over("avg", "phase", pick(names.PHASES)), "{{phase}}"),
            Look(SECONDS, empty=NO_TRAFFIC, names=("queue", "load", "prompt", "generate"), least=0),
            width=12,
            stack=True,
        ),
        panels.graph(
            302,
            "Mean time of a canary, by server",
            "On which server do canaries take longest? One that stands out has its own reason: open its board. All"
            " rising together: the fleet is too small, or the models are too large.",
            Query(over("sum", "server", pick(names.PHASES)), "{{server}}"),
            Look(SECONDS, empty=NO_TRAFFIC, least=0),
            width=12,
        ),
    ),
)

_TRAFFIC = Row(
    400,
    "What is going on?",
    (
        panels.graph(
            401,
            "Canaries, by how they ended",
            "How many canaries were sent, and how did they end? Green is well; caused_load is not the users'"
            " failure but the canary's. Red and orange: the board Canary tells which model.",
            Query(f"{over('sum', 'outcome', increase(catalog.CANARY_ATTEMPTS))} > 0", "{{outcome}}"),
            Look(
                COUNT,
                empty=NO_TRAFFIC,
                step=panels.CANARY_STEP,
                least=0,
                names=OUTCOMES,
            ),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            402,
            "Polls that saw a model in use",
            "Where are the users? How often per second a poll found that a request had finished since the poll"
            " before: a lower bound, which cannot pass one per model and poll. Flat at 0 while users complain: they"
            " do not reach this server.",
            Query(over("sum", "server", rate(catalog.USES_SEEN)), "{{server}}"),
            Look("cps", empty=NO_TRAFFIC, least=0),
        ),
        panels.graph(
            403,
            "Loads of models",
            "Do models push each other out? More than 6 loads of a server in 15 minutes (dashed) is thrash: every one"
            " of them makes users wait. Next: Models and memory tells which models.",
            Query(over("max", "server", pick(names.LOADS)), "{{server}}"),
            Look(COUNT, panels.LOADS_LIMITS, least=0, room=8),
        ),
        panels.graph(
            404,
            "Users' requests, by how they were answered",
            "How many requests end, and how? By access lines; the canary's are among them. 503: the queue is full. 5xx:"
            " errors, and clients that left while they waited for a slot. A stream that broke off counts as 2xx."
            " Next: what the log says, on Server.",
            Query(over("sum", "status", increase(catalog.LOG_REQUESTS, **names.USE_A_MODEL)), "{{status}}"),
            Look(COUNT, empty=NEEDS_LOGS, least=0, names=STATUSES),
            width=12,
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            405,
            "Waiting requests, by server",
            "Where do users wait? Estimated, at each look. One server alone: the load is not spread. All: the fleet"
            " is too small, see Queue and capacity.",
            Query(f"topk(10, {over('max', 'server', pick(catalog.SOCKETS_WAITING))})", "{{server}}"),
            Look(COUNT, empty=NEEDS_BOTH, least=0),
            width=12,
        ),
    ),
)

_MODELS = Row(
    500,
    "Which model is it?",
    (
        panels.table(
            501,
            "Models in memory, and how each is doing",
            "Which model is slow, and where does it live? Means of the last 30 minutes, of the slowest server. More"
            " than one build under one name: users get different answers from server to server. A click on a name"
            " opens its board.",
            (
                Column("Model", "model", link=link_to("ollama-models", "model"), width=260),
                Column("Loaded on", query=f"topk(50, {_LOADED})", width=100),
                Column("Memory", query=over("sum", "model", pick(catalog.LOADED_SIZE)), look=Look("bytes"), width=110),
                Column(
                    "Canary's first token",
                    query=f"{over('max', 'model', pick(names.TTFT))} and {_LOADED}",
                    look=Look(SECONDS, panels.TTFT_LIMITS, least=0, most=5),
                    cell="bar",
                ),
                Column(
                    "Canary's speed",
                    query=f"{tokens_per_second(by='model')} and {_LOADED}",
                    look=Look(TOKENS_PER_SECOND, panels.SPEED_LIMITS, decimals=0, least=0, most=100),
                    cell="bar",
                ),
                Column(
                    "Builds",
                    query=f"{over('max', 'model', pick(names.DIGESTS))} and {_LOADED}",
                    look=Look(steps=panels.over_is_bad(2, None)),
                    cell="colour",
                    width=100,
                ),
            ),
            sort="Canary's first token",
            descending=True,
            height=8,
        ),
    ),
)

BOARD = Board(
    "ollama-overview",
    "Ollama / Fleet overview",
    "Is anyone hurt, and where? Read from the top: the verdict, the server, the phase, the model.",
    (_VERDICT, _SERVERS, _TIME, _TRAFFIC, _MODELS),
)
