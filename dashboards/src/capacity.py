"""Do I need another server?"""

from __future__ import annotations

from dashboards.src import names, panels
from dashboards.src.names import increase, over, pick, quantile
from dashboards.src.panels import (
    BYTES,
    CANARY_STEP,
    COUNT,
    NO_TRAFFIC,
    SECONDS,
    SHARE,
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

_VERDICT = Row(
    100,
    "Is there room?",
    (
        panels.stat(
            101,
            "Fullest server",
            "Of the measurements due in 15 minutes, how many found the fullest server without a free slot? 0: there"
            " is room. From half on users queue.",
            f"max({pick(names.SATURATION)})",
            Look(SHARE, panels.SATURATION_LIMITS, NO_TRAFFIC, decimals=0),
        ),
        panels.stat(
            102,
            "Waited more than 2 s",
            "At the server where it was worst, which share of measured requests of 30 minutes waited more than 2 s"
            " for a slot? The waits are upper bounds.",
            f"max({pick(names.WAITED_OVER_2S)})",
            Look(SHARE, panels.WAITED_LIMITS, NO_TRAFFIC, decimals=0),
        ),
        panels.stat(
            103,
            "Refused or timed out",
            "How many measured requests of the chosen time were refused (503: the queue is full) or never answered?"
            " Any is one too many: users get the same.",
            f"sum(increase({pick(catalog.CANARY_ATTEMPTS, outcome='~rejected|timeout')}[$__range]))",
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
            "How many servers should there be, by what can be known today? One more than there are, if the fleet was"
            " saturated by half, all servers taken together, for 5 % of the last day. A single full server asks for"
            " its load to be spread. A lower bound: how many requests wait is not known without the source sockets."
            " Before buying: could more requests run side by side (OLLAMA_NUM_PARALLEL)? Told from six hours of"
            " traffic on.",
            f"{_TODAY} + (quantile_over_time(0.95, {_OF_THE_FLEET}) > bool {_WARN})"
            f" and count_over_time({_OF_THE_FLEET}) >= {_SIX_HOURS}",
            Look(empty="After six hours", decimals=0),
        ),
    ),
)

_WAITING = Row(
    200,
    "How long do requests wait for a slot?",
    (
        panels.graph(
            201,
            "Mean wait for a slot (an upper bound)",
            "Which server lets requests wait? Mean of 30 minutes of the time that is neither load, prompt nor"
            " generation. Dashed: 2 s and 10 s. One server: the load is not spread evenly. All: the fleet is too"
            " small.",
            Query(over("max", "server", pick(names.QUEUE_WAIT)), "{{server}}"),
            Look(SECONDS, panels.WAIT_LIMITS, NO_TRAFFIC, least=0),
        ),
        panels.graph(
            202,
            "Wait for a slot: half, most, nearly all (upper bounds)",
            "Do all wait a little, or some for long? p50 near 0 with a high p95: short bursts. Both high: always full.",
            [Query(quantile(q, catalog.CANARY_QUEUE_WAIT), f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)],
            Look(SECONDS, panels.WAIT_LIMITS, NO_TRAFFIC, least=0, names=("p50", "p95", "p99"), step=CANARY_STEP),
        ),
        panels.heat(
            203,
            "Waits for a slot: how they spread (upper bounds)",
            "When did waiting begin? A band that climbs is a queue that grows; a second band beside the low one is"
            " one server or model that is full.",
            catalog.CANARY_QUEUE_WAIT,
            width=8,
            height=8,
        ),
        panels.graph(
            204,
            "Share that waited more than 2 s",
            "How many requests wait so long that users feel it? Share of 30 minutes, by server, upper bound.",
            Query(over("max", "server", pick(names.WAITED_OVER_2S)), "{{server}}"),
            Look(SHARE, panels.WAITED_LIMITS, NO_TRAFFIC, least=0, most=1),
        ),
        panels.graph(
            205,
            "Mean wait as a part of all phases",
            "Is waiting what makes requests slow? The yellow part is the wait; if another part grows, more servers"
            " will not help.",
            Query(over("avg", "phase", pick(names.PHASES)), "{{phase}}"),
            Look(SECONDS, empty=NO_TRAFFIC, names=("queue", "load", "prompt", "generate"), least=0),
            stack=True,
        ),
        panels.graph(
            206,
            "Wait for the scheduler and loads",
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
            "Who is full, and who has room? Share of measurements of 15 minutes that found no free slot. One high"
            " among low ones: spread the load better. All above half (dashed): more slots or servers.",
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
            "Is there room for another model? What loaded models take; the machine's own limit is on Host, of GPUs"
            " with the source gpu. At its limit each new model pushes one out.",
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

_LATER = Row(
    400,
    "What cannot be known yet",
    (
        panels.note(
            401,
            "Waiting against slots",
            "Everything above is seen through **canaries**: one small request a minute on models in use. It tells"
            " *that* requests wait and for how long, not *how many*.\n\n- Requests received and not yet answered, per"
            " server: the source `sockets`.\n- Slots, and how many are busy: the source `runner`. With both: waiting"
            " against slots, and the forecast of when slots run out.\n- Rate of all requests and their mean duration,"
            " hence the check by Little's law (rate x duration = in flight): the source `gateway`.\n\nThe recorded"
            " names behind these panels stay; better sources take their place in front of the canary.",
            height=6,
        ),
    ),
)

BOARD = Board(
    "ollama-capacity",
    "Ollama / Queue and capacity",
    "Do I need another server? Seen through canaries: shares and upper bounds, not counts of what waits.",
    (_VERDICT, _WAITING, _SATURATED, _LATER),
    start="now-6h",
)
