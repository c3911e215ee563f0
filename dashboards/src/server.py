"""What is this machine doing?"""

from __future__ import annotations

from dashboards.src import names, panels
from dashboards.src.names import increase, mean, over, pick, quantile, rate, state_code, tokens_per_second
from dashboards.src.panels import (
    BYTES,
    COUNT,
    NEEDS_AUDIT,
    NEEDS_LOGS,
    NO_TRAFFIC,
    PLAIN,
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
from exporter.model import REASONS, Family
from exporter.ollamalog import OCCURRENCES
from exporter.sources.logs import STATUSES

_SM = "server, model"
_CENTURY = 10 * 365 * 86400
_TOO_LATE = panels.over_is_bad(None, 1 - panels.WITHIN_2S)

_CHOSEN = ((0, "server chooses", panels.NEUTRAL),)


def _set(family: Family) -> str:
    return over("max", "server", pick(family))


_STATE = Row(
    100,
    "Is it well?",
    (
        panels.stat(
            101,
            "State now",
            "Does the server answer? stalled: HTTP works, but a load or unload holds the scheduler, or it is stuck."
            " starting: it takes connections and says nothing. Next: the row on changes, then the log of its service.",
            Query(state_code(), "{{server}}"),
            panels.STATES,
            show="both",
            width=8,
        ),
        panels.stat(
            103,
            "Requests that succeed",
            "Which share of the requests of the last hour ended well, at the worst of the chosen servers? Users' own"
            " by access lines, else the canary's. Below 99 % users see failures: the log's row, or Canary, tells how"
            " they ended.",
            f"1 - max({pick(names.SERVER_ERRORS['1h'])})",
            Look(SHARE, panels.SUCCEEDING, NO_TRAFFIC, decimals=1),
        ),
        panels.stat(
            104,
            "Canaries' first token late",
            "Which share of the canaries of the last half hour waited longer than 2 s for its first token, at the worst"
            " of the chosen servers? The objective allows 5 %. They are held back while users fill the slots. Next:"
            " the phases below.",
            f"max({pick(names.SERVER_OVER_2S['30m'])})",
            Look(SHARE, _TOO_LATE, NO_TRAFFIC, decimals=1),
        ),
        panels.stat(
            505,
            "Starts in the chosen time",
            "How often did the server start, by its log? More than its upgrades: it died, or was killed; look at the"
            " end of the log before the start.",
            f"sum(increase({pick(catalog.LOG_STARTS)}[$__range]))",
            Look(COUNT, panels.ANY_IS_ODD, NEEDS_LOGS, decimals=0),
        ),
        panels.stat(
            404,
            "Impossible values left out",
            "Did the server or a runner tell nonsense (sizes below 0, times of the wrong type)? Anything above 0 is a"
            " bug of Ollama's or of a proxy between: report it with the exporter's log.",
            f"sum(increase({pick(catalog.REJECTED_VALUES)}[$__range]))"
            f" + (sum(increase({pick(catalog.RUNNER_REJECTED)}[$__range])) or vector(0))",
            Look(COUNT, panels.ANY_IS_ODD, decimals=0),
        ),
        panels.table(
            106,
            "Servers and inventory",
            "Which machine is it, how is it doing, and what has it on disk? Version 0.0.0 is a development build."
            " Clock: how far it is from the exporter's (resolution 1 s); more than 10 s makes expiry times misleading."
            " Stubs of remote (cloud) models are counted, never probed.",
            (
                Column("Server", "server", width=170),
                Column("URL", "url"),
                Column("Version", "version", width=100),
                Column("Available 24 h", query=f"1 - {over('max', 'server', pick(names.SERVER_UNAVAILABLE['1d']))}",
                       look=Look(SHARE, panels.under_is_bad(0.99, panels.AVAILABILITY), decimals=2), cell="colour",
                       width=130),
                Column("Success", query=f"1 - {over('max', 'server', pick(names.SERVER_ERRORS['1h']))}",
                       look=Look(SHARE, panels.SUCCEEDING, decimals=1), cell="colour", width=100),
                Column("Canary late", query=over("max", "server", pick(names.SERVER_OVER_2S["30m"])),
                       look=Look(SHARE, _TOO_LATE, decimals=1), cell="colour", width=100),
                Column("Clock", query=over("max", "server", pick(catalog.CLOCK_OFFSET)),
                       look=Look("suffix:s", panels.CLOCK_LIMITS, decimals=0), cell="colour", width=90),
                Column("Installed", query=over("max", "server", pick(catalog.INSTALLED_MODELS)), width=100),
                Column("Remote stubs", query=over("max", "server", pick(catalog.REMOTE_MODELS)), width=120),
                Column("Loaded", query=over("max", "server", pick(catalog.LOADED_MODELS)), width=90),
            ),
            extra=(
                over("max", "server, url", pick(catalog.SERVER_INFO)),
                over("max", "server, version", pick(catalog.BUILD_INFO)),
            ),
            height=6,
        ),
    ),
)  # fmt: skip

_LOADED = Row(
    200,
    "What is loaded?",
    (
        panels.table(
            201,
            "Models in memory",
            "What occupies the memory, and until when? Less than all of a model in GPU memory is the usual reason for"
            " slowness on a machine with a GPU (on one without, 0 is right). Expires: below 0, a request outlives it;"
            " pinned stays.",
            (
                Column("Server", "server", width=150),
                Column("Model", "model", link=link_to("ollama-models", "model"), width=240),
                Column("Parameters", "parameter_size", width=100),
                Column("Quantization", "quantization", width=110),
                Column("Digest", "digest", width=120),
                Column("Memory", query=over("max", _SM, pick(catalog.LOADED_SIZE)), look=Look(BYTES), width=100),
                Column(
                    "In GPU memory",
                    query=over("max", _SM, f"{pick(catalog.LOADED_VRAM)} / ({pick(catalog.LOADED_SIZE)} > 0)"),
                    look=Look(SHARE, panels.GPU_SHARE, decimals=0, least=0, most=1),
                    cell="bar",
                ),
                Column(
                    "Context tokens",
                    query=over("max", _SM, pick(catalog.LOADED_CONTEXT)),
                    look=Look(PLAIN),
                    width=130,
                ),
                Column(
                    "Expires in",
                    query=f"{over('max', _SM, pick(catalog.LOADED_EXPIRY))} - time()",
                    look=Look(SECONDS, ranges=((_CENTURY, None, "pinned", panels.NEUTRAL),), decimals=0),
                    width=110,
                ),
                Column(
                    "Busy",
                    query=over("max", _SM, pick(catalog.KNOWN_BUSY)),
                    look=Look(mapping=((1, "certainly", panels.NEUTRAL), (0, "not known", panels.QUIET))),
                    cell="colour",
                    width=100,
                ),
            ),
            extra=(
                over("max", f"{_SM}, parameter_size, quantization, digest", pick(catalog.LOADED_INFO)),
            ),
            empty="Nothing is loaded",
            sort="Memory",
            descending=True,
            height=8,
        ),
        panels.graph(
            202,
            "Memory of loaded models",
            "What fills the memory over time? As Ollama fixed it at load: weights, KV cache, buffers; not the"
            " runner's prompt cache. Steps are loads and unloads. Ten largest.",
            Query(f"topk(10, {over('max', _SM, pick(catalog.LOADED_SIZE))})", "{{server}} {{model}}"),
            Look(BYTES, empty="Nothing is loaded", least=0),
            width=12,
            stack=True,
        ),
        panels.graph(
            203,
            "Memory of loaded models, by kind",
            "Do models lie in GPU memory? What Ollama counts as such (some builds count CPU buffers too) against the"
            " rest. Host memory in use on a machine with a GPU: the model or its context is too large for the card.",
            [
                Query(f"sum({pick(names.LOADED_VRAM)})", "GPU memory"),
                Query(f"sum({pick(names.LOADED_SIZE)}) - sum({pick(names.LOADED_VRAM)})", "host memory"),
            ],
            Look(BYTES, empty="Nothing is loaded", least=0, names=("GPU memory", "host memory")),
            width=12,
            stack=True,
        ),
    ),
)  # fmt: skip

_WAITING = Row(
    300,
    "Do users wait?",
    (
        panels.graph(
            301,
            "Where a canary's time goes",
            "What do canaries spend their time on at this server? queue: no free slot. load: models are swapped."
            " prompt: long prompts. generate: the GPU, or weights on the CPU. Mean of the chosen servers over 30"
            " minutes. They are held back while users fill the slots.",
            Query(over("avg", "phase", pick(names.PHASES)), "{{phase}}"),
            Look(SECONDS, empty=NO_TRAFFIC, names=("queue", "load", "prompt", "generate"), least=0),
            stack=True,
        ),
        panels.graph(
            304,
            "Saturation",
            "Does it have a free slot when one is needed? Share of 15 minutes in which there was none (where slots"
            " cannot be seen: of the canaries due). From half on (dashed) users queue. Next: Queue and capacity.",
            Query(over("max", "server", pick(names.SATURATION)), "{{server}}"),
            Look(SHARE, panels.SATURATION_LIMITS, NO_TRAFFIC, least=0, most=1),
        ),
        panels.graph(
            306,
            "Loads, unloads, reconfigurations",
            "What changed in memory? Loads without unloads fill it; both together are a swap; a reconfiguration is a"
            " reload because a request asked for another context or the tag was replaced. Lower bounds, seen between"
            " polls.",
            [
                Query(f"sum({increase(catalog.LOADS_SEEN)})", "loads"),
                Query(f"sum({increase(catalog.UNLOADS_SEEN)})", "unloads"),
                Query(f"sum({increase(catalog.RECONFIGURATIONS_SEEN)})", "reconfigurations"),
            ],
            Look(COUNT, empty=NO_TRAFFIC, least=0, names=("loads", "unloads", "reconfigurations")),
            as_bars=True,
        ),
        panels.graph(
            302,
            "Canaries' first token, by model",
            "Which model is slow to start? Mean of 30 minutes against the objectives of 2 s and 5 s (dashed). One"
            " model alone: its size or its place in memory. All of them: the server.",
            Query(f"topk(10, {over('max', _SM, pick(names.TTFT))})", "{{server}} {{model}}"),
            Look(SECONDS, panels.TTFT_LIMITS, NO_TRAFFIC, least=0),
            height=10,
        ),
        panels.graph(
            303,
            "Canaries' speed, by model",
            "How fast do tokens come, per request? Readers need 10 a second, 20 feel quick (dashed). Falls with more"
            " requests side by side; half of yesterday's at the same load: GPU throttled, or weights on the CPU.",
            Query(f"topk(10, {tokens_per_second(by=_SM)})", "{{server}} {{model}}"),
            Look(TOKENS_PER_SECOND, panels.SPEED_LIMITS, NO_TRAFFIC, least=0),
            height=10,
        ),
        panels.graph(
            305,
            "Polls that saw a model in use",
            "Which models have users on the chosen servers? Polls per second that found a request finished since the"
            " poll before: a lower bound. Ten busiest.",
            Query(f"topk(10, {over('sum', 'model', rate(catalog.USES_SEEN))})", "{{model}}"),
            Look("cps", empty=NO_TRAFFIC, least=0),
            height=10,
        ),
    ),
)

_API = Row(
    400,
    "How does its API feel?",
    (
        panels.graph(
            401,
            "Answer time of the API, 95th percentile",
            "How fast are the exporter's own polls answered, over the chosen servers? Milliseconds on a healthy one."
            " Slow /api/ps with a fast /api/version: the scheduler is held by a load. Everything slow: the network or"
            " the machine.",
            Query(quantile(0.95, catalog.API_DURATION, "api_endpoint"), "{{api_endpoint}}"),
            Look(SECONDS, least=0, names=("/api/version", "/api/ps", "/api/tags")),
        ),
        panels.graph(
            402,
            "Mean answer time of the API",
            "Has the API become slower? The mean moves with every poll; the percentile beside only with the slowest.",
            Query(mean(catalog.API_DURATION, "server"), "{{server}}"),
            Look(SECONDS, least=0),
        ),
        panels.graph(
            403,
            "Polls that failed, by reason",
            "Why could the server not be read? refused: no process. timeout: hung or starting. http_5xx: its own"
            " error. Nothing is drawn while all is well.",
            Query(over("sum", "server, source, reason", f"{increase(catalog.SOURCE_FAILURES, server='!')} > 0"),
                  "{{server}} {{source}} {{reason}}"),
            Look(COUNT, empty="No failures", least=0, last_words=REASONS),
            stack=True,
            as_bars=True,
        ),
    ),
)  # fmt: skip

_LOG = Row(
    500,
    "What does its log tell? (source logs)",
    (
        panels.graph(
            501,
            "Requests that use a model, by how they were answered",
            "Do users get answers? By access lines, the canary's among them. 503: the queue is full. 5xx: errors, and"
            " clients that left while they waited for a slot. 499: left while the model was loading.",
            Query(over("sum", "status", increase(catalog.LOG_REQUESTS, **names.USE_A_MODEL)), "{{status}}"),
            Look(COUNT, empty=NEEDS_LOGS, least=0, names=STATUSES),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            502,
            "Incidents in the log, by kind",
            "What does the server complain of? Red: something died. Orange: memory, loads. Blue: prompts too long for"
            " the context. yellow: clients gave up waiting. Grey: settings and options that do nothing. Next: Models"
            " and memory, which tells how much is lost.",
            Query(f"{over('sum', 'kind', increase(catalog.LOG_EVENTS))} > 0", "{{kind}}"),
            Look(COUNT, empty="None, or no source logs", least=0, names=OCCURRENCES),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            503,
            "Requests by route",
            "What do users ask for? Ten busiest routes; pulls and creations are here too, which fill the disk and the"
            " line.",
            Query(f"topk(10, {over('sum', 'api_endpoint', increase(catalog.LOG_REQUESTS))} > 0)", "{{api_endpoint}}"),
            Look(COUNT, empty=NEEDS_LOGS, least=0),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            504,
            "Requests that only read",
            "Who asks for lists and versions? The exporter's own polls are among them: a few a minute. Hundreds are a"
            " client that asks before each prompt. Ten most.",
            Query(f"topk(10, {over('sum', 'api_endpoint', rate(catalog.LOG_READS))})", "{{api_endpoint}}"),
            Look("reqps", empty=NEEDS_LOGS, least=0),
            width=24,
        ),
    ),
)

_SETTINGS = Row(
    600,
    "How is it set? (sources audit and logs)",
    (
        panels.table(
            601,
            "Settings, as its environment makes them",
            "With how many slots, how long and how much? Seen in: where from. Slots: of each runner. Queue: requests"
            " that may wait for the scheduler (not for a slot). Models: how many may be loaded at once. Do"
            " nothing: variables that its version ignores, named below.",
            (
                Column("Server", "server"),
                Column("Seen in", "origin"),
                Column("Slots", query=_set(catalog.CONFIG_PARALLEL)),
                Column("Queue", query=_set(catalog.CONFIG_MAX_QUEUE)),
                Column("Models", query=_set(catalog.CONFIG_MAX_LOADED), look=Look(PLAIN, mapping=_CHOSEN)),
                Column("Keep alive", query=_set(catalog.CONFIG_KEEP_ALIVE),
                       look=Look(SECONDS, ranges=((_CENTURY, None, "for good", panels.NEUTRAL),), decimals=0)),
                Column("Context", query=_set(catalog.CONFIG_CONTEXT), look=Look(PLAIN, mapping=_CHOSEN)),
                Column("Flash attention", "flash_attention"),
                Column("KV cache", "kv_cache_type"),
                Column("Do nothing", query=_set(catalog.CONFIG_IGNORED_COUNT),
                       look=Look(COUNT, panels.ANY_IS_ODD), cell="colour"),
            ),
            extra=(over("max", "server, origin, flash_attention, kv_cache_type", pick(catalog.CONFIG_INFO)),),
            empty=NEEDS_AUDIT,
            height=6,
        ),
        panels.table(
            602,
            "Variables that do nothing",
            "Which settings have no effect, and what would? A variable of another version, or misspelt: Ollama says"
            " nothing. Empty beside it: nothing comes near.",
            (Column("Server", "server"), Column("Variable", "variable"), Column("Instead", "instead")),
            extra=(over("max", "server, variable, instead", pick(catalog.CONFIG_IGNORED)),),
            empty="None, or no source audit",
            width=8,
            height=7,
        ),
        panels.table(
            603,
            "Values that cannot be read",
            "Which variables have a value that Ollama cannot read? The default holds instead, silently.",
            (Column("Server", "server"), Column("Variable", "variable")),
            extra=(over("max", "server, variable", pick(catalog.CONFIG_INVALID)),),
            empty="None, or no source audit",
            width=8,
            height=7,
        ),
        panels.table(
            604,
            "Settings that hurt, and broken rules",
            "What should be changed? `ollama-exporter check --online` says each problem in words; rules are those of"
            " the policy file.",
            (Column("Server", "server"), Column("Problem", "problem"), Column("Rule of the policy", "rule")),
            extra=(
                over("max", "server, problem", f"{pick(catalog.CONFIG_PROBLEM)} == 1"),
                over("max", "server, rule", f"{pick(catalog.POLICY_VIOLATION)} == 1"),
            ),
            empty="None, or no source audit",
            width=8,
            height=7,
        ),
        panels.matrix(
            605,
            "Settings in force, as the server logged them",
            "What did each server say at its last start, and do they differ? Defaults are included. Nothing is here"
            " when that line was too far back at the exporter's first look.",
            over("max", "setting, server, value", pick(catalog.LOG_SETTING)),
            row="setting",
            column="server",
            value="value",
            empty=NEEDS_LOGS,
            height=10,
        ),
    ),
)  # fmt: skip

BOARD = Board(
    "ollama-server",
    "Ollama / Server",
    "What is this machine doing? Choose one server above; several are shown side by side.",
    (_STATE, _LOADED, _WAITING, _API, _LOG, _SETTINGS),
    annotations=("alerts", "restarts", "loads"),
)
