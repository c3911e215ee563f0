"""What do the processes that compute do?"""

from __future__ import annotations

from dashboards.src import names, panels
from dashboards.src.names import age, mean, over, pick, quantile, rate, tokens_per_second
from dashboards.src.panels import (
    BYTES,
    CANARY_STEP,
    COUNT,
    NO_TRAFFIC,
    SECONDS,
    TOKENS_PER_SECOND,
    Board,
    Look,
    Query,
    Row,
)  # fmt: skip
from exporter import catalog

_NO_PROCESS = "No process of Ollama seen here"

_LATER = Row(
    100,
    "What this board tells today, and what is to come",
    (
        panels.note(
            101,
            "Two views from outside",
            "A **runner** is the process that holds one model (`llama-server`, or `ollama runner`). Today it is seen"
            " from two sides: how fast canaries are served, by model; and what the processes use, on the machine the"
            " exporter runs on (source `host`).\n\nWith the source `runner` (exporter on the same machine or in the"
            " same pod, and `LLAMA_ARG_ENDPOINT_METRICS=1` in the environment of `ollama serve`) come: slots and how"
            " many are busy, tokens per second of prompts and of generation, share of prompts found in the cache,"
            " context in use, tokens per decode step, restarts by model.",
            height=5,
        ),
    ),
)

_SPEED = Row(
    200,
    "How fast does each model compute?",
    (
        panels.graph(
            201,
            "Speed of one request, by model",
            "How many tokens a second does one request get, on the slowest server? Ten slowest; 10 and 20 are dashed."
            " Falls with requests side by side; without them: throttled GPU, or a part of the model on the CPU.",
            Query(f"bottomk(10, {tokens_per_second(by='model')})", "{{model}}"),
            Look(TOKENS_PER_SECOND, panels.SPEED_LIMITS, NO_TRAFFIC, least=0),
        ),
        panels.graph(
            202,
            "Time per token, 95th percentile by model",
            "How slow are the slow ones? Dashed: 50 and 100 ms. Ten slowest.",
            Query(f"topk(10, {quantile(0.95, catalog.CANARY_PER_TOKEN, 'model')})", "{{model}}"),
            Look(SECONDS, panels.PER_TOKEN_LIMITS, NO_TRAFFIC, least=0, step=CANARY_STEP),
        ),
        panels.heat(
            203,
            "Time per token: how it spreads",
            "Is the speed even? One thin band is; two bands are two models or two machines.",
            catalog.CANARY_PER_TOKEN,
            width=8,
            height=8,
        ),
        panels.graph(
            204,
            "Prompt time of canaries, by model",
            "How long until the (fixed, mostly cached) prompt is read? No measure of prefill speed; rising, it tells"
            " that the cache was lost or that others' prompts are computed at the same time. Ten slowest.",
            Query(f"topk(10, {mean(catalog.CANARY_PROMPT, 'model')})", "{{model}}"),
            Look(SECONDS, empty=NO_TRAFFIC, least=0, step=CANARY_STEP),
            width=12,
        ),
        panels.graph(
            205,
            "Prompt and generation, mean of the servers",
            "Which half of the computing has changed? Both are the server's own times.",
            Query(over("avg", "phase", pick(names.PHASES, phase="~prompt|generate")), "{{phase}}"),
            Look(SECONDS, empty=NO_TRAFFIC, names=("prompt", "generate"), least=0),
            width=12,
            stack=True,
        ),
    ),
)

_PROCESSES = Row(
    300,
    "What do the processes use, on the exporter's machine?",
    (
        panels.stat(
            301,
            "Runners",
            "How many runner processes are there? As many as loaded models; fewer: a runner has died and Ollama has"
            " not noticed.",
            Query(over("sum", "host", pick(catalog.HOST_PROCESSES, process="runner")), "{{host}}"),
            Look(COUNT, empty=_NO_PROCESS),
            width=6,
        ),
        panels.stat(
            302,
            "Youngest runner",
            "How long has the youngest runner been there? Seconds, again and again: runners die or models thrash.",
            Query(f"time() - {over('max', 'host', pick(catalog.HOST_PROCESS_START, process='runner'))}", "{{host}}"),
            Look(SECONDS, empty=_NO_PROCESS, decimals=0),
            width=6,
        ),
        panels.stat(
            303,
            "Youngest ollama serve",
            "How long has ollama serve been up? A restart that nobody ordered: the log of its service.",
            Query(f"time() - {over('max', 'host', pick(catalog.HOST_PROCESS_START, process='serve'))}", "{{host}}"),
            Look(SECONDS, empty=_NO_PROCESS, decimals=0),
            width=6,
        ),
        panels.stat(
            304,
            "Machine up for",
            "Was it the machine that restarted? Compare with ollama serve beside.",
            Query(age(catalog.HOST_BOOT, "host"), "{{host}}"),
            Look(SECONDS, decimals=0),
            width=6,
        ),
        panels.graph(
            305,
            "CPUs used by Ollama's processes",
            "Do runners compute on the CPU? One CPU each is the sampling beside a GPU; many are a model, or a part of"
            " one, on the CPU.",
            Query(over("sum", "process", rate(catalog.HOST_PROCESS_CPU)), "{{process}}"),
            Look("suffix:CPUs", empty=_NO_PROCESS, least=0),
        ),
        panels.graph(
            306,
            "Memory of Ollama's processes",
            "What do they hold in host memory? Memory-mapped weights count as far as they are in memory; prompt"
            " caches grow to 8 GiB per runner.",
            Query(over("sum", "process", pick(catalog.HOST_PROCESS_RSS)), "{{process}}"),
            Look(BYTES, empty=_NO_PROCESS, least=0),
        ),
        panels.graph(
            307,
            "Open files of Ollama's processes",
            "Do connections pile up? serve holds one for each request and each idle keep-alive; near its limit (often"
            " 1024) new ones are refused.",
            Query(over("sum", "process", pick(catalog.HOST_PROCESS_FDS)), "{{process}}"),
            Look(COUNT, empty=_NO_PROCESS, least=0),
        ),
    ),
)

BOARD = Board(
    "ollama-runner",
    "Ollama / Runner internals",
    "What do the processes that compute do?",
    (_LATER, _SPEED, _PROCESSES),
)
