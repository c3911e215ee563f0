"""What lives where, and is it churning?"""

from __future__ import annotations

from dashboards.src import names, panels
from dashboards.src.names import increase, over, pick, quantile
from dashboards.src.panels import (
    BYTES,
    CANARY_STEP,
    COUNT,
    NEEDS_LOGS,
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

_SM = "server, model"
_SHARE = over("max", _SM, pick(names.GPU_SHARE))
_EMPTY = "Nothing is loaded"

_LIVING = Row(
    100,
    "What is loaded where?",
    (
        panels.timeline(
            101,
            "Models in memory over time",
            "When was which model loaded, and did it fit into GPU memory? Green: all of it. Orange: a part lies on"
            " the CPU, which slows every token. Blue: all on the CPU, right for a machine without a GPU. Many short"
            " pieces are thrash. At most 40 rows: choose a model or server for the others.",
            Query(f"topk(40, {_SHARE})", "{{server}} {{model}}"),
            Look(
                SHARE,
                empty=_EMPTY,
                ranges=(
                    (0.98, None, "in GPU memory", panels.OK),
                    (0.001, 0.98, "partly on the CPU", panels.WARN),
                    (None, 0.001, "on the CPU", panels.NEUTRAL),
                ),
            ),
            height=9,
        ),
        panels.bars(
            102,
            "Share in GPU memory",
            "Which models do not fit? Below 98 % part of a model runs on the CPU (0 is right on a machine without a"
            " GPU). Next: a smaller context or quantization, or another server. The 20 lowest.",
            Query(f"bottomk(20, {_SHARE})", "{{server}} {{model}}"),
            Look(SHARE, panels.GPU_SHARE, _EMPTY, decimals=0, least=0, most=1),
        ),
        panels.graph(
            103,
            "Memory by model, over the fleet",
            "Which models take the memory? All copies together; ten largest. Compare with how much each is used,"
            " below.",
            Query(f"topk(10, {over('sum', 'model', pick(catalog.LOADED_SIZE))})", "{{model}}"),
            Look(BYTES, empty=_EMPTY, least=0),
            stack=True,
        ),
        panels.graph(
            104,
            "Context of one slot, in tokens",
            "With which context is each model loaded? It costs memory with every slot. Changing up and down: clients"
            " ask for different num_ctx and reload each other's model; put it into the Modelfile. The largest of all"
            " servers; ten largest models.",
            Query(f"topk(10, {over('max', 'model', pick(catalog.LOADED_CONTEXT))})", "{{model}}"),
            Look(panels.PLAIN, empty=_EMPTY, least=0),
        ),
    ),
)

_CHURN = Row(
    200,
    "Are models pushed in and out?",
    (
        panels.graph(
            201,
            "Loads of each model",
            "Which models come again and again? Each load makes users wait. Ten most; a lower bound, seen between"
            " polls. Two models in turn push each other out: give each a server of its own, or a longer keep_alive.",
            Query(f"topk(10, {over('sum', _SM, f'{increase(catalog.LOADS_SEEN)} > 0')})", "{{server}} {{model}}"),
            Look(COUNT, empty="No loads", least=0),
            stack=True,
            as_bars=True,
            width=12,
        ),
        panels.graph(
            203,
            "Unloads of each model",
            "Which models go? After their keep_alive, or pushed out, or their runner died: the log tells of the"
            " last two, below. Ten most; a lower bound.",
            Query(f"topk(10, {over('sum', _SM, f'{increase(catalog.UNLOADS_SEEN)} > 0')})", "{{server}} {{model}}"),
            Look(COUNT, empty="No unloads", least=0),
            stack=True,
            as_bars=True,
            width=12,
        ),
        panels.graph(
            202,
            "Loads in 15 minutes, by server",
            "Is it thrash? From 6 loads in 15 minutes on (dashed), yes.",
            Query(over("max", "server", pick(names.LOADS)), "{{server}}"),
            Look(COUNT, panels.LOADS_LIMITS, least=0, room=8),
            width=12,
        ),
        panels.graph(
            205,
            "Reconfigurations in 15 minutes, by server",
            "Do clients fight over options? From 3 in 15 minutes on (dashed), yes.",
            Query(over("max", "server", pick(names.RECONFIGURATIONS)), "{{server}}"),
            Look(COUNT, panels.RECONFIGURATION_LIMITS, least=0, room=4),
            width=12,
        ),
        panels.graph(
            204,
            "Reconfigurations of each model",
            "Which models are reloaded because requests ask for different options, or because the tag was replaced?"
            " Each counts as a load and an unload too. Next: which clients set num_ctx.",
            Query(
                f"topk(10, {over('sum', _SM, f'{increase(catalog.RECONFIGURATIONS_SEEN)} > 0')})",
                "{{server}} {{model}}",
            ),
            Look(COUNT, empty="No reconfigurations", least=0),
            stack=True,
            as_bars=True,
            width=12,
        ),
        panels.graph(
            206,
            "Wait for a load, as canaries saw it, 95th percentile",
            "How long does a request wait for its model? Only loads that a canary happened to meet: it never causes one"
            " knowingly. Warm models take less than 0.1 s; above 30 s (dashed) it alerts.",
            Query(f"topk(10, {quantile(0.95, catalog.CANARY_LOAD, 'model')})", "{{model}}"),
            Look(SECONDS, panels.LOAD_LIMITS, NO_TRAFFIC, least=0, step=CANARY_STEP),
            width=12,
        ),
    ),
)

_TROUBLE = ("load_failed", "load_aborted", "load_oom", "allocation_failed", "host_memory_pressure",
            "evicted_for_memory", "runtime_oom", "runner_died", "crash")  # fmt: skip
_CUT = ("prompt_truncated", "context_exceeded", "context_shift", "context_clamped")


def _events(kinds: tuple[str, ...]) -> Query:
    counted = increase(catalog.LOG_EVENTS, kind=f"~{'|'.join(kinds)}")
    return Query(f"{over('sum', 'kind', counted)} > 0", "{{kind}}")


_LOGGED = Row(
    500,
    "How do loads go, and does everything fit? (source logs)",
    (
        panels.graph(
            501,
            "Time of a load, by model, 95th percentile",
            "How long do users wait for a model to load? As the server tells it, for every load that succeeded;"
            " waiting in its queue and evictions not included. Above 30 s (dashed) it alerts: a slow disk, or a large"
            " model. Ten slowest.",
            Query(f"topk(10, {quantile(0.95, catalog.LOG_LOAD_DURATION, 'model')})", "{{model}}"),
            Look(SECONDS, panels.LOAD_LIMITS, "No loads, or no source logs", least=0),
        ),
        panels.heat(
            502,
            "Loads: how their times spread",
            "Are all loads slow, or the first ones? A low band beside a high one: files in the page cache, and files"
            " that must come from the disk.",
            catalog.LOG_LOAD_DURATION,
            width=8,
            height=8,
            empty=NEEDS_LOGS,
        ),
        panels.graph(
            503,
            "Loads begun, and those that succeeded",
            "Do loads fail? begun counts each attempt; succeeded less than that: failed, given up, or tried once more"
            " with less. Next: the panel beside.",
            [
                Query(f"sum({increase(catalog.LOG_LOADS_BEGUN)})", "begun"),
                Query(f"sum({increase(catalog.LOG_LOAD_DURATION, '_count')})", "succeeded"),
            ],
            Look(COUNT, empty=NEEDS_LOGS, least=0, names=("begun", "succeeded")),
            as_bars=True,
        ),
        panels.graph(
            504,
            "Failed loads, evictions, deaths and lack of memory",
            "What went wrong with models? load_failed and load_oom: users got errors, or half the context."
            " runtime_oom: all models were unloaded. runner_died: answers were lost. evicted_for_memory: two models"
            " do not fit together. Next: a smaller context, fewer slots, or another server.",
            _events(_TROUBLE),
            Look(COUNT, empty="None, or no source logs", least=0, names=_TROUBLE),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            505,
            "Prompts and answers that did not fit",
            "Do users get answers to a part of what they asked? prompt_truncated: cut. context_exceeded: refused."
            " context_shift: half of the context was dropped in mid-answer. context_clamped: more was wanted than the"
            " model was trained with. Next: num_ctx in the Modelfile.",
            _events(_CUT),
            Look(COUNT, empty="None, or no source logs", least=0, names=_CUT),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            506,
            "Tokens that were cut off",
            "How much is lost? of prompts: cut before the model saw them. of answers: context dropped in mid-answer."
            " What is left out of a chat's history before that is not logged.",
            [
                Query(f"sum({increase(catalog.LOG_TRUNCATED_TOKENS)})", "of prompts"),
                Query(f"sum({increase(catalog.LOG_SHIFTED_TOKENS)})", "of answers"),
            ],
            Look(COUNT, empty=NEEDS_LOGS, least=0, names=("of prompts", "of answers")),
            stack=True,
            as_bars=True,
        ),
    ),
)

_SKEW = Row(
    300,
    "Do all servers have the same?",
    (
        panels.stat(
            301,
            "Models that differ",
            "How many names stand for different files on different servers? Users then get different answers from"
            " server to server. Next: the matrix; `ollama pull` on the one that is behind.",
            f"count({pick(names.DIGESTS)} > 1) or 0 * count({pick(names.DIGESTS)})",
            Look(COUNT, panels.ANY_IS_ODD),
            height=6,
        ),
        panels.stat(
            302,
            "Versions of Ollama",
            "How many versions run? More than one for longer than an upgrade takes: a forgotten server.",
            f"max({pick(names.VERSIONS)})",
            Look(COUNT, panels.over_is_bad(2, None)),
            height=6,
        ),
        panels.table(
            303,
            "Versions, by server",
            "Which server runs which version? The one that differs is the one to upgrade, or to roll back.",
            (Column("Server", "server"), Column("Version", "version")),
            extra=(over("max", "server, version", pick(catalog.BUILD_INFO)),),
            width=16,
            height=6,
        ),
        panels.matrix(
            304,
            "Which build of each model is on which server",
            "Does a name mean the same everywhere? The beginning of the manifest's digest; a row with two different"
            " ones is skew, an empty cell is a server without the model. At most 100 models: choose some above for"
            " the others.",
            f"max by (model, server, digest) ({pick(catalog.INSTALLED_INFO)}"
            f" and on (model) topk(100, count by (model) ({pick(catalog.INSTALLED_INFO)})))",
            row="model",
            column="server",
            value="digest",
            height=8,
        ),
    ),
)

_DISK = Row(
    400,
    "What fills the disks?",
    (
        panels.bars(
            401,
            "Largest models on disk",
            "Which models take the disk? Sum over servers of the sizes Ollama tells; layers may be shared. The 15"
            " largest.",
            Query(f"topk(15, {over('sum', 'model', pick(catalog.INSTALLED_SIZE))})", "{{model}}"),
            Look(BYTES, least=0),
        ),
        panels.graph(
            402,
            "Models on disk, by server",
            "Where does the disk fill? Sum of all models of a server; layers may be shared, so what is in use can be"
            " less.",
            Query(over("sum", "server", pick(catalog.INSTALLED_SIZE)), "{{server}}"),
            Look(BYTES, least=0),
        ),
        panels.gauge(
            403,
            "Disk left for models",
            "How much of the file system of the model store is free? Below 10 % plan, below 5 % pulls fail soon. Only"
            " on the machine the exporter runs on.",
            Query(over("min", "host", pick(names.STORE_AVAILABLE)), "{{host}}"),
            Look(SHARE, panels.STORE_LEFT, decimals=0, least=0, most=1),
            height=8,
        ),
        panels.stat(
            404,
            "Disk full in",
            "When is the model store full, if the last day goes on? Nothing is foreseen while it does not shrink, and"
            " from less than six hours of history. Next: remove models from the table below.",
            f"min({pick(catalog.HOST_STORE_AVAILABLE)} / (-deriv({pick(catalog.HOST_STORE_AVAILABLE)}[1d]) > 0)"
            f" and {pick(catalog.HOST_STORE_AVAILABLE)} offset 6h)",
            Look(SECONDS, panels.under_is_bad(86400, 7 * 86400), "Not foreseen", decimals=0),
            height=8,
        ),
        panels.table(
            405,
            "On disk, and not loaded for a week",
            "What could be removed? Models that were on disk a week ago, are today, and that no poll in between saw in"
            " memory. The 30 largest. Nothing is told before the history is a week long.",
            (
                Column("Model", "model", link=link_to("ollama-models", "model")),
                Column("Server", "server", link=link_to("ollama-server", "server")),
                Column(
                    "On disk",
                    query=f"topk(30, {over('max', _SM, pick(catalog.INSTALLED_SIZE))}"
                    f" and {over('max', _SM, f'{pick(catalog.INSTALLED_SIZE)} offset 7d')}"
                    f" unless {over('max', _SM, f'max_over_time({pick(catalog.LOADED_SIZE)}[7d])')})",
                    look=Look(BYTES),
                ),
            ),
            empty="None, or less than a week of history",
            sort="On disk",
            descending=True,
            height=7,
        ),
    ),
)

BOARD = Board(
    "ollama-models",
    "Ollama / Models and memory",
    "What lives where, and is it churning?",
    (_LIVING, _CHURN, _LOGGED, _SKEW, _DISK),
    annotations=("alerts", "restarts", "loads"),
)
