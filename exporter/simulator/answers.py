"""One generated answer, from the scheduler to the last token: shared by /api/generate, /api/chat and /v1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.simulator.body import ApiError, Body
from exporter.simulator.engine import Wanted
from exporter.simulator.models import SimModel
from exporter.simulator.options import runner_options
from exporter.simulator.runner import NOTHING_SPENT, Runner, RunnerDiedError, Spent
from exporter.simulator.text import Prompt, answer_tokens, prompt_of, words

if TYPE_CHECKING:
    from exporter.simulator.machine import SimServer

_RENDER_SECONDS = 0.002  # template, tokenising, one /health: in no duration but the total
_NUM_KEEP = 4
_TOKENS_BEFORE_A_FAULT = 3
_STEP_UNSEEN = 8  # nobody watches the tokens of an answer that is not streamed
_THINKING_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Ask:
    """What an endpoint understood of its request."""

    model: SimModel
    echo: str  # the name as the client wrote it
    prompt: Prompt
    wanted: Wanted
    num_predict: int | None = None
    stream: bool = True
    truncate: bool = True
    thinks: bool = False
    output_format: object = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class Final:
    """`done` is false when the answer was cut because it repeated itself: then nothing else is known."""

    done: bool
    reason: str = ""
    total_seconds: float = 0.0
    load_seconds: float = 0.0
    spent: Spent = NOTHING_SPENT


def wanted_of(body: Body, model: SimModel, origin: str) -> Wanted:
    return Wanted(model, runner_options(body.options(), body.flag("shift")), body.keep_alive(), origin)


def tokenised(model: SimModel, text: str, raw: bool = False) -> Prompt:
    return prompt_of(text, extra_tokens=1 if raw else 1 + model.template_tokens)


async def answer(server: SimServer, ask: Ask) -> AsyncGenerator[Piece | Final, None]:
    """The tokens and then the account. Errors before the first token are the caller's chance to set a status."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with server.engine.runner(ask.wanted) as runner:
        load_seconds = loop.time() - started
        _check_format(ask.output_format)
        await asyncio.sleep(_RENDER_SECONDS)
        prompt = _fitted(server, ask, runner)
        tokens, reason = _length(ask, prompt, runner.num_ctx)
        vocabulary = words(prompt.seed)
        made, spent = 0, NOTHING_SPENT
        async with runner.slot(), aclosing(_steps(runner, prompt, tokens, ask.stream)) as steps:
            async for step in steps:
                if isinstance(step, Spent):
                    spent = step
                    continue
                thinking = ask.thinks and made < tokens * _THINKING_SHARE
                yield Piece("".join(next(vocabulary) for _ in range(step)), thinking)
                made += step
                if made >= _TOKENS_BEFORE_A_FAULT and _cut_by_fault(server, ask.path):
                    yield Final(done=False)
                    return
        server.totals.add(ask.model.name, spent, load_seconds)
        yield Final(True, reason, loop.time() - started, load_seconds, spent)


async def preload(server: SimServer, wanted: Wanted) -> None:
    """An empty prompt: loads the model or re-arms its keep-alive, and uses no slot."""
    async with server.engine.runner(wanted):
        pass


def _steps(runner: Runner, prompt: Prompt, tokens: int, stream: bool) -> AsyncGenerator[int | Spent, None]:
    return runner.generate(prompt, tokens, 1 if stream else _STEP_UNSEEN)


def _cut_by_fault(server: SimServer, path: str) -> bool:
    if server.faults.strikes("mid_stream_error", path) is not None:
        server.journal.generation_failed("unexpected EOF")
        raise RunnerDiedError("an error was encountered while running the model: unexpected EOF")
    return server.faults.strikes("repeat_cut", path) is not None


def _fitted(server: SimServer, ask: Ask, runner: Runner) -> Prompt:
    """A prompt longer than the context is cut to half of it without a word, unless the client forbade it."""
    if ask.prompt.tokens < runner.num_ctx:
        return ask.prompt
    if not ask.truncate:
        raise ApiError(400, _overflow(ask.prompt.tokens, runner.num_ctx))
    limit = _NUM_KEEP + (runner.num_ctx - _NUM_KEEP) // 2
    server.journal.prompt_truncated(limit, ask.prompt.tokens, _NUM_KEEP, limit)
    return ask.prompt.truncated(limit)


def _overflow(tokens: int, num_ctx: int) -> str:
    """llama-server's own JSON, passed on as a text."""
    return (
        f'{{"error":{{"code":400,"message":"request ({tokens} tokens) exceeds the available context size '
        f'({num_ctx} tokens), try increasing it","type":"exceed_context_size_error",'
        f'"n_prompt_tokens":{tokens},"n_ctx":{num_ctx}}}}}'
    )


def _length(ask: Ask, prompt: Prompt, num_ctx: int) -> tuple[int, str]:
    bound = 10 * num_ctx
    natural = answer_tokens(prompt, ask.model.mean_answer_tokens)
    if ask.num_predict == 0:  # the field is dropped on its way to the runner, which then has no limit
        return bound, "length"
    limit = bound if ask.num_predict is None or ask.num_predict < 0 else ask.num_predict
    return (natural, "stop") if natural <= limit else (limit, "length")


def _check_format(output_format: object) -> None:
    if output_format in (None, "", "json") or isinstance(output_format, dict):
        return
    quoted = f'"{output_format}"' if isinstance(output_format, str) else str(output_format)
    raise ApiError(500, f'invalid format: {_go_quoted(quoted)}; expected "json" or a valid JSON Schema object')


def _go_quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


async def whole(parts: AsyncIterator[Piece | Final]) -> tuple[str, str, Final]:
    """Text, thinking and account of an answer that is not streamed."""
    text: list[str] = []
    thinking: list[str] = []
    final = Final(done=False)
    async for part in parts:
        if isinstance(part, Final):
            final = part
        else:
            (thinking if part.thinking else text).append(part.text)
    return "".join(text), "".join(thinking), final
