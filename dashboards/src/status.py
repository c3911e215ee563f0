"""Can I work? For people who use the models and never heard of canaries."""

from __future__ import annotations

from dashboards.src import names, panels
from dashboards.src.names import RATE, increase, over, pick, tokens_per_second
from dashboards.src.panels import MISSING, SHARE, Board, Column, Look, Query, Row
from exporter import catalog

_REAL = {"model": "!other"}


def _model_state() -> str:
    """2 in memory on a server that answers, 1 on disk of one, 0 on none of those seen within a day."""
    loaded = over("group", "model", pick(catalog.LOADED_SIZE, **_REAL))
    installed = over("group", "model", pick(catalog.INSTALLED_INFO))
    known = over("group", "model", f"last_over_time({pick(catalog.INSTALLED_INFO)}[1d])")
    return f"2 * {loaded} or {installed} or 0 * {known}"


def _server_state(answers: str) -> str:
    """2 with models in memory, 1 answering without one, 0 not answering."""
    answers = over("max", "server", answers)
    loaded = over("max", "server", pick(catalog.LOADED_MODELS))
    return f"{answers} + ({answers} * (({loaded} > bool 0) or 0 * {answers}))"


def _server_now() -> str:
    """The same, and 3 where requests wait."""
    answers, waiting = over("max", "server", pick(names.AVAILABLE)), over("max", "server", pick(names.WAITING))
    crowded = f"{answers} == 1 and {waiting} >= {panels.SATURATION_LIMITS.at[0][0]}"
    return f"3 * ({crowded}) or {_server_state(pick(names.AVAILABLE))}"


def _first_word(operation: str, by: str) -> str:
    """Of models in memory. The first token as canaries see it; where users are known to wait longer, their wait."""
    token, wait = pick(names.TTFT, **_REAL), f"on ({_SERVER}) group_left () {pick(names.QUEUE_WAIT)}"
    longer = f"({token} > {wait}) or (0 * {token} + {wait}) or {token}"
    return over(operation, by, f"({longer}) and on ({_SERVER}, model) {pick(catalog.LOADED_SIZE)}")


_SERVER = "job, instance, server"
_WORDS = ((2, "Online", panels.OK), (1, "Asleep", panels.NEUTRAL), (0, "Down", panels.BAD))
_AT_ONCE = 0.1
_RESPONSE = Look("suffix:s", panels.TTFT_LIMITS, MISSING, decimals=1, ranges=((None, _AT_ONCE, "at once", panels.OK),))
_SPEED = Look("suffix:words/s", panels.under_is_bad(7, 15), MISSING, decimals=0)
_TOKENS_PER_WORD = 1.33
_SUCCESS = Look(SHARE, panels.SUCCEEDING, MISSING, decimals=1)
_AVAILABLE = Look(SHARE, panels.under_is_bad(0.99, panels.AVAILABILITY), MISSING, decimals=1)


def _success_of_models() -> str:
    ok = over("sum", "model", increase(catalog.CANARY_ATTEMPTS, outcome="ok"))
    all_ = over("sum", "model", increase(catalog.CANARY_ATTEMPTS, outcome="!caused_load"))
    return f"{ok} / ({all_} > 0)"


def _words(by: str) -> str:
    return f"{tokens_per_second(by=by)} / {_TOKENS_PER_WORD}"


_NOW = Row(
    100,
    "Can I work?",
    (
        panels.stat(
            101,
            "Servers online",
            "How many servers can take your request? As long as it is not 0, some can.",
            f"sum({pick(names.AVAILABLE)})",
            Look(steps=panels.under_is_bad(1), decimals=0),
            width=6,
        ),
        panels.stat(
            102,
            "Models ready at once",
            "How many models answer without having to wake up? The others are asleep: their first answer takes longer.",
            f"count({over('group', 'model', pick(catalog.LOADED_SIZE, **_REAL))})",
            Look(empty="All asleep", decimals=0),
            width=6,
        ),
        panels.stat(
            103,
            "Typical time until an answer begins",
            "How long until the first word of a model that is awake, on average over the last half hour? Green: under"
            " 2 s. Red: over 5 s, try later.",
            _first_word("avg", ""),
            _RESPONSE,
            width=6,
        ),
        panels.stat(
            104,
            "Answers that arrive",
            "How many of 100 tries in the last hour were answered? Below 99, somebody is already looking into it.",
            f"1 - max({pick(names.ERRORS['1h'])})",
            _SUCCESS,
            width=6,
        ),
    ),
)

_MODELS = Row(
    200,
    "Models",
    (
        panels.table(
            201,
            "Every model, right now",
            "Which model can I use? Online: answers at once. Asleep: wakes up with your first request, which takes"
            " some seconds to a minute. Down: no server that has it answers; take another. First word: of the last half"
            " hour, on the quickest server. A dash: it is asleep, or nobody used it lately.",
            (
                Column("Model", "model", width=300),
                Column(
                    "Right now",
                    query=f"topk(60, {_model_state()})",
                    look=Look(mapping=_WORDS),
                    cell="colour",
                    width=120,
                ),
                Column("First word after", query=_first_word("min", "model"), look=_RESPONSE, cell="colour"),
                Column("Speed", query=_words("model"), look=_SPEED, cell="colour"),
                Column("Answers that arrive", query=_success_of_models(), look=_SUCCESS, cell="colour"),
            ),
            sort="Right now",
            step="1h",
            descending=True,
            width=14,
            height=11,
        ),
        panels.timeline(
            202,
            "Models in the last 24 hours",
            "Was it there when I needed it? Green: answered at once. Blue: asleep. Red: down. White: not known.",
            Query(f"topk(25, {_model_state()})", "{{model}}"),
            Look(mapping=_WORDS),
            width=10,
            height=11,
            back="24h",
        ),
    ),
)

_SERVERS = Row(
    300,
    "Servers",
    (
        panels.table(
            301,
            "Every server, right now",
            "Which server can I use? Online: answers, with models ready. Crowded: you will have to wait, another may be"
            " quicker. Asleep: answers, and wakes a model for you. Down: take another. First word: of the last half"
            " hour, of its slowest model.",
            (
                Column("Server", "server", width=170),
                Column(
                    "Right now",
                    query=_server_now(),
                    look=Look(mapping=((3, "Crowded", panels.WARN), *_WORDS)),
                    cell="colour",
                    width=110,
                ),
                Column(
                    "First word after",
                    query=_first_word("max", "server"),
                    look=_RESPONSE,
                    cell="colour",
                    width=150,
                ),
                Column("Speed", query=_words("server"), look=_SPEED, cell="colour", width=120),
                Column(
                    "Answers that arrive",
                    query=f"1 - {over('max', 'server', pick(names.SERVER_ERRORS['1h']))}",
                    look=_SUCCESS,
                    cell="colour",
                    width=180,
                ),
                Column(
                    "There in 24 hours",
                    query=f"1 - {over('max', 'server', pick(names.SERVER_UNAVAILABLE['1d']))}",
                    look=_AVAILABLE,
                    cell="colour",
                ),
            ),
            width=14,
            height=7,
        ),
        panels.timeline(
            302,
            "Servers in the last 24 hours",
            "Was it there when I needed it? Green: answered with models ready. Blue: asleep. Red: down, if only for a"
            " moment. White: not known.",
            Query(_server_state(f"min_over_time({pick(names.AVAILABLE)}[{RATE}])"), "{{server}}"),
            Look(mapping=_WORDS),
            width=10,
            height=7,
            back="24h",
        ),
    ),
)

BOARD = Board(
    "ollama-status",
    "Ollama / Status",
    "Can I work right now? For everybody who uses the models.",
    (_NOW, _MODELS, _SERVERS),
    annotations=(),
)
