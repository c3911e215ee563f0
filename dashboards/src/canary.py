"""Do models answer, seen by a small request now and then?"""

from __future__ import annotations

from dashboards.src import names, panels
from dashboards.src.names import increase, mean, over, pick, within
from dashboards.src.panels import (
    CANARY_STEP,
    COUNT,
    LAST_HALF_HOUR,
    NO_TRAFFIC,
    SECONDS,
    SHARE,
    Board,
    Column,
    Look,
    Query,
    Row,
    link_to,
)  # fmt: skip
from exporter import catalog
from exporter.sources.canary import OUTCOMES, SKIPS

_SM = "server, model"
_RANGE = "$__range"


def _in_range(outcome: str) -> str:
    return over("sum", _SM, f"increase({pick(catalog.CANARY_ATTEMPTS, outcome=outcome)}[{_RANGE}])")


_STOPPED = over("max", _SM, pick(catalog.CANARY_STOPPED))
_WORTH_A_ROW = f"({_in_range('~.+')} > 0 or {_STOPPED} == 1)"
"""Models that nobody used have nothing to tell; those the canary has stopped for do."""


def _row(query: str) -> str:
    return f"({query}) and {_WORTH_A_ROW}"


_VERDICT = Row(
    100,
    "Do models answer?",
    (
        panels.stat(
            101,
            "Canaries that succeed",
            "Which share of the last half hour's canaries ended with outcome ok? Those that caused a load are left"
            " out. Below 99 % users fail too: the table below tells where.",
            f"sum({increase(catalog.CANARY_ATTEMPTS, outcome='ok')})"
            f" / (sum({increase(catalog.CANARY_ATTEMPTS, outcome='!caused_load')}) > 0)",
            Look(SHARE, panels.SUCCEEDING, NO_TRAFFIC, decimals=1, step=LAST_HALF_HOUR),
        ),
        panels.stat(
            102,
            "First token in time",
            "Which share of the last half hour's canaries had a first token within the time chosen above? The"
            " objective is 95 % within 2 s.",
            within(catalog.CANARY_TTFT, "$objective"),
            Look(SHARE, panels.PROMPT_ENOUGH, NO_TRAFFIC, decimals=1, step=LAST_HALF_HOUR),
        ),
        panels.stat(
            103,
            "Oldest last success",
            "Of the models that were probed, how long ago did the one succeed that succeeded longest ago? Old is no"
            " failure when nobody uses the model: see the reasons for skips.",
            f"time() - min({pick(catalog.CANARY_LAST_SUCCESS)})",
            Look(SECONDS, panels.CANARY_AGE, NO_TRAFFIC, decimals=0),
        ),
        panels.stat(
            104,
            "In flight for",
            "Is a canary waiting right now, and for how long at most? Seconds are normal; from a minute on its server"
            " is full, from five minutes on stuck (which alerts).",
            f"time() - min({pick(catalog.CANARY_PENDING)})",
            Look(SECONDS, panels.PENDING_LIMITS, "None in flight", decimals=0),
        ),
        panels.stat(
            105,
            "Stopped by caution",
            "For how many models has the canary stopped because it seemed to have caused a load? It goes on after a"
            " restart of the exporter or when the model changes. Next: does another program change the model's"
            " options?",
            f"sum({pick(catalog.CANARY_STOPPED)})",
            Look(COUNT, panels.ANY_IS_ODD, NO_TRAFFIC),
        ),
        panels.stat(
            106,
            "First tokens in a day",
            "On how many canaries do the objectives of the first token rest? Under 30 an hour, single failures weigh"
            " heavily, and alerts on the budget wait.",
            f"sum({pick(names.FIRST_TOKENS)})",
            Look(COUNT, empty=NO_TRAFFIC, decimals=0),
        ),
    ),
)

_MATRIX = Row(
    200,
    "Which model, on which server?",
    (
        panels.table(
            201,
            "Canaries of the chosen time",
            "Where do they fail? Share of attempts with outcome ok (loads by the canary left out), in the time"
            " chosen. Few attempts: the model is rarely used, or always busy. Stopped: see above.",
            (
                Column("Server", "server", link=link_to("ollama-server", "server"), width=170),
                Column("Model", "model", link=link_to("ollama-models", "model"), width=260),
                Column(
                    "Success",
                    query=f"{_in_range('ok')} / ({_in_range('!caused_load')} > 0)",
                    look=Look(SHARE, panels.SUCCEEDING, decimals=1, least=0, most=1),
                    cell="bar",
                ),
                Column("Attempts", query=_row(_in_range("~.+")), look=Look(COUNT, decimals=0), width=110),
                Column(
                    "Last success",
                    query=_row(f"time() - {over('max', _SM, pick(catalog.CANARY_LAST_SUCCESS))}"),
                    look=Look(SECONDS, panels.CANARY_AGE, decimals=0),
                    cell="colour",
                    width=130,
                ),
                Column(
                    "Last attempt",
                    query=_row(f"time() - {over('max', _SM, pick(catalog.CANARY_LAST_ATTEMPT))}"),
                    look=Look(SECONDS, decimals=0),
                    width=130,
                ),
                Column(
                    "Stopped",
                    query=_row(_STOPPED),
                    look=Look(mapping=((1, "stopped", panels.WARN), (0, "no", panels.QUIET))),
                    cell="colour",
                    width=100,
                ),
            ),
            empty=NO_TRAFFIC,
            sort="Success",
            height=9,
        ),
        panels.graph(
            202,
            "Attempts, by how they ended",
            "When did canaries fail, and how? rejected: the queue was full. timeout: no answer within the canary's"
            " patience. unreachable: no connection. caused_load is the canary's own fault.",
            Query(f"{over('sum', 'outcome', increase(catalog.CANARY_ATTEMPTS))} > 0", "{{outcome}}"),
            Look(
                COUNT,
                empty=NO_TRAFFIC,
                least=0,
                step=CANARY_STEP,
                names=OUTCOMES,
            ),
            width=12,
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            203,
            "Not sent, by reason",
            "Why is there no measurement? busy and unused are as it should be. saturated and in_flight: the server is"
            " full. incapable: an embedding model that is not named in the settings. old_server: before 0.30.",
            Query(over("sum", "reason", f"{increase(catalog.CANARY_SKIPS)} > 0"), "{{reason}}"),
            Look(COUNT, empty=NO_TRAFFIC, least=0, step=CANARY_STEP, names=SKIPS),
            width=12,
            stack=True,
            as_bars=True,
        ),
    ),
)

_TREND = Row(
    300,
    "Is it getting slower?",
    (
        panels.graph(
            301,
            "First token, mean of 30 minutes",
            "Which model on which server has become slow to start? Ten slowest, on the server's own clock. Dashed: 2"
            " s and 5 s.",
            Query(f"topk(10, {over('max', _SM, pick(names.TTFT))})", "{{server}} {{model}}"),
            Look(SECONDS, panels.TTFT_LIMITS, NO_TRAFFIC, least=0),
            height=10,
        ),
        panels.heat(
            302,
            "Whole durations: how they spread",
            "Are there stragglers? Durations of 16 tokens, the same for every canary.",
            catalog.CANARY_DURATION,
            width=8,
            height=10,
        ),
        panels.graph(
            303,
            "Mean wait for a slot (an upper bound), by model",
            "Which model's slots are full? Each model has its own. Ten longest.",
            Query(f"topk(10, {mean(catalog.CANARY_QUEUE_WAIT, _SM)})", "{{server}} {{model}}"),
            Look(SECONDS, panels.WAIT_LIMITS, NO_TRAFFIC, least=0, step=CANARY_STEP),
            height=10,
        ),
    ),
)

BOARD = Board(
    "ollama-canary",
    "Ollama / Canary",
    "Do models answer, seen by a small request now and then on models in use?",
    (_VERDICT, _MATRIX, _TREND),
)
