"""What do the processes that compute do?"""

from __future__ import annotations

from dashboards.src import names, panels
from dashboards.src.names import increase, mean, over, pick, quantile, rate, share, tokens_per_second
from dashboards.src.panels import (
    BYTES,
    CANARY_STEP,
    COUNT,
    NEEDS_LOGS,
    NEEDS_METRICS,
    NEEDS_NATIVE,
    NEEDS_RUNNER,
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
from exporter.model import Family

_SM = "server, model"


def _of_models(family: Family) -> str:
    return over("sum", "model", rate(family))


def _quotient(part: Family, whole: Family) -> str:
    return share(_of_models(part), _of_models(whole))


def _per_answer(seconds: Family) -> str:
    return share(f"sum({rate(seconds)})", f"sum({rate(catalog.NATIVE_REQUESTS)})")


_AFTER_THE_FIRST = f"({_of_models(catalog.LOG_GENERATED_TOKENS)} - {_of_models(catalog.LOG_GENERATIONS)})"

_SLOTS = Row(
    400,
    "Are slots free, and does the context suffice? (source runner, on the server's machine)",
    (
        panels.stat(
            401,
            "Busy slots, busiest server",
            "Which share of its slots is at work at the busiest server? All of them, and requests wait: see Queue and"
            " capacity.",
            f"max({pick(names.SLOTS_BUSY)})",
            Look(SHARE, empty=NEEDS_RUNNER, decimals=0),
        ),
        panels.stat(
            402,
            "Runners that are loading",
            "How many models are being loaded now? The only place where a load in progress is seen: Ollama lists a"
            " model when it is ready.",
            f"sum({pick(catalog.RUNNER_LOADING)})",
            Look(COUNT, empty=NEEDS_RUNNER, decimals=0),
        ),
        panels.stat(
            403,
            "Ghosts",
            "How many models does Ollama list as loaded that have no process? Their runner died; the next request"
            " waits for a load. Next: the deaths beside, and what the log says on Models and memory.",
            f"sum({pick(catalog.RUNNER_MISSING)})",
            Look(COUNT, panels.ANY_IS_ODD, NEEDS_RUNNER, decimals=0),
        ),
        panels.stat(
            404,
            "Deaths in 30 minutes",
            "How often did a runner (or a server) die? A lower bound: by the log or by the processes, whichever saw"
            " more. Each loses the answers in the making. Next: memory, on Host and Models and memory.",
            f"sum({pick(names.CRASHES)})",
            Look(COUNT, panels.CRASH_LIMITS, "Needs the source runner or logs", decimals=0),
        ),
        panels.stat(
            405,
            "Fullest context",
            "How full is the context of the longest request now? From 90 % on it is about to lose its oldest tokens,"
            " or its end. Next: a larger num_ctx for the model, in its Modelfile. 0: nothing is at work.",
            f"max({pick(names.LONGEST_SEQUENCE)})",
            Look(SHARE, panels.FULL_CONTEXT, NEEDS_RUNNER, decimals=0),
        ),
        panels.stat(
            406,
            "Tokens made, all together",
            "How many tokens a second do all chosen servers make? Of the last 5 minutes, by the best source that each"
            " has: the runners' count, their lines in the log, or tokens seen growing (a lower bound).",
            f"sum({pick(names.TOKENS)})",
            Look(TOKENS_PER_SECOND, empty="Needs the source runner or logs", decimals=0),
        ),
        panels.graph(
            407,
            "Busy slots, against all slots",
            "Is there a free slot? Sum over the chosen servers at each look. Where busy lies on slots, requests wait in"
            " Ollama (see Queue and capacity). reading prompts: busy, and no token made yet.",
            [
                Query(f"sum({pick(catalog.RUNNER_SLOTS)})", "slots"),
                Query(f"sum({pick(catalog.RUNNER_SLOTS_BUSY)})", "busy"),
                Query(f"sum({pick(catalog.RUNNER_SLOTS_READING)})", "reading prompts"),
            ],
            Look(COUNT, empty=NEEDS_RUNNER, least=0, names=("slots", "busy", "reading prompts")),
            width=12,
        ),
        panels.graph(
            408,
            "Busy slots, by model",
            "Which models take the slots? Ten busiest. A model that is always full can have more slots"
            " (OLLAMA_NUM_PARALLEL), if memory allows, or a second server.",
            Query(f"topk(10, {over('sum', 'model', pick(catalog.RUNNER_SLOTS_BUSY))})", "{{model}}"),
            Look(COUNT, empty=NEEDS_RUNNER, least=0),
            width=12,
            stack=True,
        ),
        panels.graph(
            409,
            "Longest sequence, of its slot's context",
            "Who is about to reach the end of the context? Fullest busy slot of each model; from 90 % (dashed) on the"
            " oldest tokens are dropped soon, or the answer is cut. Ten fullest.",
            Query(f"topk(10, {over('max', _SM, pick(names.LONGEST_SEQUENCE))})", "{{server}} {{model}}"),
            Look(SHARE, panels.FULL_CONTEXT, NEEDS_RUNNER, least=0, most=1),
            width=24,
        ),
        panels.table(
            410,
            "Runners, and how each was started",
            "With which settings does each model run? From its command line; empty is what that does not tell."
            " Context is of all slots together, one slot's beside it. KV types and flash attention decide how much"
            " memory a token of context takes. Resident memory: no GPU memory, and up to 8 GiB of prompt cache.",
            (
                Column("Server", "server", link=link_to("ollama-server", "server"), width=130),
                Column("Model", "model", link=link_to("ollama-models", "model"), width=220),
                Column("Processes", query=over("max", _SM, pick(catalog.RUNNER_PROCESSES)), width=90),
                Column("Up for", query=f"time() - {over('max', _SM, pick(catalog.RUNNER_STARTED))}",
                       look=Look(SECONDS, decimals=0), width=90),
                Column("Resident", query=over("max", _SM, pick(catalog.RUNNER_RESIDENT)), look=Look(BYTES), width=100),
                Column("Context of a slot", query=over("max", _SM, pick(catalog.RUNNER_SLOT_CONTEXT)),
                       look=Look(panels.PLAIN), width=130),
                Column("Engine", "engine", width=80),
                Column("Slots", "slots", width=60),
                Column("Context", "context", width=80),
                Column("Batch", "batch", width=70),
                Column("Keys", "cache_k", width=70),
                Column("Values", "cache_v", width=70),
                Column("Flash attention", "flash_attention", width=120),
                Column("GPU layers", "gpu_layers", width=90),
                Column("Threads", "threads", width=80),
                Column("Build", "build"),
            ),
            extra=(
                over(
                    "max",
                    f"{_SM}, engine, slots, context, batch, cache_k, cache_v, flash_attention, gpu_layers, threads,"
                    " build",
                    pick(catalog.RUNNER_INFO),
                ),
            ),
            empty=NEEDS_RUNNER,
            sort="Resident",
            descending=True,
            height=9,
        ),
    ),
)  # fmt: skip

_TOKENS = Row(
    500,
    "What do runners compute? (source runner; most of it with LLAMA_ARG_ENDPOINT_METRICS=1 for ollama serve)",
    (
        panels.graph(
            501,
            "Tokens being made, by model",
            "Which models make tokens at this moment? Seen growing in the slots from look to look: smooth, and a lower"
            " bound that misses short answers. Ten busiest.",
            Query(f"topk(10, {_of_models(catalog.RUNNER_TOKENS_SEEN)})", "{{model}}"),
            Look(TOKENS_PER_SECOND, empty=NEEDS_RUNNER, least=0),
            stack=True,
        ),
        panels.graph(
            502,
            "Tokens made, by model, as runners count",
            "How much does each model really make? By the runners' own count; what one made after the last look before"
            " its end is lost. Far above the panel beside: many answers too short to be seen in the making. Ten"
            " busiest.",
            Query(f"topk(10, {_of_models(catalog.RUNNER_TOKENS)})", "{{model}}"),
            Look(TOKENS_PER_SECOND, empty=NEEDS_METRICS, least=0),
            stack=True,
        ),
        panels.graph(
            503,
            "Speed of users' answers, by model",
            "How many tokens a second does one answer get? Of users' own requests; the row below knows canaries only."
            " 10 is reading speed, 20 feels quick (dashed). Ten slowest.",
            Query(
                f"bottomk(10, {_quotient(catalog.RUNNER_ANSWERED_TOKENS, catalog.RUNNER_ANSWERED_SECONDS)})",
                "{{model}}",
            ),
            Look(TOKENS_PER_SECOND, panels.SPEED_LIMITS, NEEDS_METRICS, least=0),
        ),
        panels.graph(
            504,
            "Prompts: computed, or from the cache",
            "How much of the prompts need not be computed again? Chats should be mostly cached; agents whose prompts"
            " begin with the time of day never are. cached falls while conversations go on: more of them than slots.",
            [
                Query(f"sum({rate(catalog.RUNNER_PROMPT_TOKENS)})", "computed"),
                Query(f"sum({rate(catalog.RUNNER_PROMPT_CACHED)})", "cached"),
            ],
            Look(TOKENS_PER_SECOND, empty=NEEDS_METRICS, least=0, names=("computed", "cached")),
            stack=True,
        ),
        panels.graph(
            505,
            "Speed of prompts, by model",
            "How fast are prompts read, those in the cache left out? It is what long prompts wait for. Hundreds to"
            " thousands a second on a GPU, tens on a CPU. Ten slowest.",
            Query(
                f"bottomk(10, {_quotient(catalog.RUNNER_PROMPT_TOKENS, catalog.RUNNER_PROMPT_SECONDS)})",
                "{{model}}",
            ),
            Look(TOKENS_PER_SECOND, empty=NEEDS_METRICS, least=0),
        ),
        panels.graph(
            506,
            "Tokens per step of the model",
            "Do requests share the machine? Each step makes a token for every slot at work (and steps that read prompts"
            " make none): 1 is one request at a time, near the slots is as good as it gets. Ten busiest.",
            Query(
                f"topk(10, {_quotient(catalog.RUNNER_TOKENS, catalog.RUNNER_DECODES)})",
                "{{model}}",
            ),
            Look(COUNT, empty=NEEDS_METRICS, least=0),
        ),
        panels.graph(
            507,
            "Context in use",
            "How much of the context's room is taken? busy: by what is at work. cached: kept for prompts that begin"
            " alike, and given up at once. Much room and little use: a smaller context would free memory for another"
            " model.",
            [
                Query(f"sum({pick(catalog.RUNNER_SLOTS)} * {pick(catalog.RUNNER_SLOT_CONTEXT)})", "room"),
                Query(f"sum({pick(catalog.RUNNER_CONTEXT_USED)})", "busy"),
                Query(f"sum({pick(catalog.RUNNER_CONTEXT_CACHED)})", "cached"),
            ],
            Look(COUNT, empty=NEEDS_RUNNER, least=0, names=("room", "busy", "cached")),
        ),
        panels.graph(
            508,
            "Drafted tokens that held",
            "Does speculative decoding pay? Share of the proposed tokens that the model accepted; below a half it"
            " hardly does. Nothing is drawn for models without it.",
            Query(
                f"topk(10, {_quotient(catalog.RUNNER_ACCEPTED, catalog.RUNNER_DRAFTED)})",
                "{{model}}",
            ),
            Look(SHARE, empty="No speculative decoding", least=0, most=1),
        ),
        panels.graph(
            509,
            "Starts of runners, by model",
            "Which models are loaded again and again? Each start is a load that users wait for. Ten most. Next:"
            " why runners end, beside, and Models and memory.",
            Query(f"topk(10, {over('sum', _SM, f'{increase(catalog.RUNNER_STARTS)} > 0')})", "{{server}} {{model}}"),
            Look(COUNT, empty="No starts seen", least=0),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            512,
            "Ends of runners, by reason",
            "Why do runners end? unloaded: Ollama made room, or nobody asked for long. died: by itself or killed, and"
            " whoever waited for an answer lost it. unknown: while loading, or the server did not say. Next: the log.",
            Query(f"{over('sum', 'reason', increase(catalog.RUNNER_ENDS))} > 0", "{{reason}}"),
            Look(COUNT, empty="No ends seen", least=0, names=("unloaded", "died", "unknown")),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            510,
            "Memory of each runner",
            "Does a runner grow? Resident memory, GPU memory not included. llama-server's prompt cache adds up to 8"
            " GiB over time: no leak. Beyond that, or near the machine's end: a smaller OLLAMA_CONTEXT_LENGTH. Ten"
            " largest.",
            Query(f"topk(10, {over('sum', _SM, pick(catalog.RUNNER_RESIDENT))})", "{{server}} {{model}}"),
            Look(BYTES, empty=NEEDS_RUNNER, least=0),
        ),
        panels.graph(
            511,
            "CPUs of each runner",
            "Which model computes on the CPU? About one beside a GPU; many are weights on the CPU. Ten busiest.",
            Query(f"topk(10, {over('sum', _SM, rate(catalog.RUNNER_CPU))})", "{{server}} {{model}}"),
            Look("suffix:CPUs", empty=NEEDS_RUNNER, least=0),
        ),
    ),
)

_LINES = Row(
    600,
    "What do runners write into the server's log? (source logs; finished answers, Ollama 0.30 and newer)",
    (
        panels.graph(
            601,
            "Answers finished, by model",
            "How many answers are made? Without those that were cancelled. Model unknown: several were loaded, and"
            " their lines have no names. Ten most.",
            Query(f"topk(10, {over('sum', 'model', increase(catalog.LOG_GENERATIONS))})", "{{model}}"),
            Look(COUNT, empty=NEEDS_LOGS, least=0),
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            602,
            "Tokens of finished answers, by model",
            "How many tokens do users get? Counted when an answer ends, so long ones come in heaps. A lower bound: see"
            " Generations cut off. Ten busiest.",
            Query(f"topk(10, {_of_models(catalog.LOG_GENERATED_TOKENS)})", "{{model}}"),
            Look(TOKENS_PER_SECOND, empty=NEEDS_LOGS, least=0),
            stack=True,
        ),
        panels.graph(
            603,
            "Speed of finished answers, by model",
            "How fast do users' answers come, by the log? 10 is reading speed, 20 feels quick (dashed). The first token"
            " of each answer costs no generation time and is left out. Ten slowest.",
            Query(f"bottomk(10, {share(_AFTER_THE_FIRST, _of_models(catalog.LOG_GENERATION_SECONDS))})", "{{model}}"),
            Look(TOKENS_PER_SECOND, panels.SPEED_LIMITS, NEEDS_LOGS, least=0),
        ),
        panels.graph(
            604,
            "Prompt tokens by the log: computed, or cached",
            "Do caches work, as far as the log tells? computed is of finished answers, cached of all that began.",
            [
                Query(f"sum({rate(catalog.LOG_PROMPT_TOKENS)})", "computed"),
                Query(f"sum({rate(catalog.LOG_CACHED_TOKENS)})", "cached"),
            ],
            Look(TOKENS_PER_SECOND, empty=NEEDS_LOGS, least=0, names=("computed", "cached")),
            stack=True,
        ),
        panels.graph(
            605,
            "Speed of prompts by the log",
            "How fast are prompts read, those in the cache left out? The time is shared with what other slots do, so it"
            " falls with load. Ten slowest.",
            Query(
                f"bottomk(10, {_quotient(catalog.LOG_PROMPT_TOKENS, catalog.LOG_PROMPT_SECONDS)})",
                "{{model}}",
            ),
            Look(TOKENS_PER_SECOND, empty=NEEDS_LOGS, least=0),
        ),
        panels.graph(
            606,
            "Drafted tokens that held, by the log",
            "Does speculative decoding pay? Share of the proposed tokens that held. Nothing is drawn for models"
            " without.",
            Query(
                f"topk(10, {_quotient(catalog.LOG_ACCEPTED, catalog.LOG_DRAFTED)})",
                "{{model}}",
            ),
            Look(SHARE, empty="No speculative decoding", least=0, most=1),
        ),
        panels.graph(
            607,
            "Generations cut off, by model",
            "Is the log short? Answers whose runner was gone before it had written their end: swapped for another model"
            " at once, or dead. Their tokens are missing in all panels of this row. Ten most. Next: Models and memory,"
            " for loads.",
            Query(f"topk(10, {over('sum', 'model', increase(catalog.LOG_CUT_OFF))})", "{{model}}"),
            Look(COUNT, empty=NEEDS_LOGS, least=0),
            width=12,
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            608,
            "Tokens by the log: told, and estimated",
            "How many tokens were made, and for whom? finished: of answers that came to their end. abandoned: made for"
            " clients who left before. cut off, seen: what runners had told of those that went with them. estimate:"
            " each of these counts like one of the others; too high where answers break off.",
            [
                Query(f"sum({rate(catalog.LOG_GENERATED_TOKENS)})", "finished"),
                Query(f"sum({rate(catalog.LOG_ABANDONED_TOKENS)})", "abandoned"),
                Query(f"sum({rate(catalog.LOG_CUT_OFF_TOKENS)})", "cut off, seen"),
                Query(f"sum({pick(names.LOG_TOKENS_ESTIMATE)})", "estimate, 5 min"),
            ],
            Look(TOKENS_PER_SECOND, empty=NEEDS_LOGS, least=0),
            width=12,
        ),
    ),
)

_NATIVE = Row(
    700,
    "What do servers count themselves? (source native; /metrics is proposed for Ollama, no release has it)",
    (
        panels.graph(
            701,
            "Answers by the servers' own count, by model",
            "How many answers do users get? Only those that came to their end; canaries are among them. Ten most.",
            Query(f"topk(10, {over('sum', 'model', increase(catalog.NATIVE_REQUESTS))})", "{{model}}"),
            Look(COUNT, empty=NEEDS_NATIVE, least=0),
            width=12,
            stack=True,
            as_bars=True,
        ),
        panels.graph(
            702,
            "Tokens by the servers' own count",
            "How much is read and written? Tokens of ended answers. Cached ones of prompts cost next to nothing.",
            [
                Query(f"sum({rate(catalog.NATIVE_GENERATED)})", "of answers"),
                Query(f"sum({rate(catalog.NATIVE_PROMPT_TOKENS)})", "of prompts"),
                Query(f"sum({rate(catalog.NATIVE_PROMPT_CACHED)})", "cached"),
            ],
            Look(TOKENS_PER_SECOND, empty=NEEDS_NATIVE, least=0, names=("of answers", "of prompts", "cached")),
            width=12,
        ),
        panels.graph(
            703,
            "Mean time of users' answers, by phase",
            "Where does the time of real answers go? load: the scheduler and loads. prompt: reading. generate: writing."
            " The wait for a slot is in none of them: see Queue and capacity.",
            [
                Query(_per_answer(catalog.NATIVE_LOAD), "load"),
                Query(_per_answer(catalog.NATIVE_PROMPT_SECONDS), "prompt"),
                Query(_per_answer(catalog.NATIVE_EVAL_SECONDS), "generate"),
            ],
            Look(SECONDS, empty=NEEDS_NATIVE, least=0, names=("load", "prompt", "generate")),
            width=12,
            stack=True,
        ),
        panels.graph(
            704,
            "Scheduler's queue by the servers' own count",
            "How many requests wait for a load, and beyond how many is the next one refused (room)? Those that wait for"
            " a slot of a loaded model are not in it.",
            [
                Query(f"sum({pick(catalog.NATIVE_QUEUED)})", "waiting"),
                Query(f"sum({pick(catalog.NATIVE_QUEUE_CAPACITY)})", "room"),
            ],
            Look(COUNT, empty=NEEDS_NATIVE, least=0, names=("waiting", "room")),
            width=12,
        ),
    ),
)

_SPEED = Row(
    200,
    "How fast does each model compute? (canaries, and speed by users' own answers where servers count them)",
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

BOARD = Board(
    "ollama-runner",
    "Ollama / Runner internals",
    "What do the processes that compute do?",
    (_SLOTS, _TOKENS, _LINES, _NATIVE, _SPEED),
)
