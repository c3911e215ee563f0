"""Ollama's own endpoints."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace

from exporter.simulator import metrics, wire
from exporter.simulator.answers import Ask, Final, Piece, answer, preload, tokenised, wanted_of, whole
from exporter.simulator.body import ApiError, Body
from exporter.simulator.engine import Wanted
from exporter.simulator.http import Exchange, Routes
from exporter.simulator.models import SimModel
from exporter.simulator.runner import Runner, RunnerDiedError
from exporter.simulator.text import Prompt, embedding, prompt_of, token_ids
from exporter.simulator.wire import Json

_NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
_PULL_OFFLINE = (
    'pull model manifest: Get "https://registry.ollama.ai/v2/library/{name}/manifests/latest": '
    "dial tcp: lookup registry.ollama.ai: no such host"
)


# -- cheap, read only


async def root(exchange: Exchange) -> None:
    await exchange.reply(200, b"Ollama is running", "text/plain; charset=utf-8")


async def version(exchange: Exchange) -> None:
    await exchange.json({"version": exchange.server.config.version})


async def status(exchange: Exchange) -> None:
    disabled = exchange.server.config.cloud_disabled
    await exchange.json({"cloud": {"disabled": disabled, "source": "env" if disabled else "none"}})


async def ps(exchange: Exchange) -> None:
    rows = exchange.server.engine.loaded()
    if exchange.server.faults.active("size_unread"):
        rows = tuple(replace(row, size_bytes=0, vram_bytes=0) for row in rows)
    await exchange.json(wire.ps(rows, exchange.server.skew_seconds))


async def tags(exchange: Exchange) -> None:
    await exchange.json(wire.tags(exchange.server.models))


async def own_metrics(exchange: Exchange) -> None:
    server = exchange.server
    text = metrics.page(server.totals, server.engine.loaded(), server.config.version, server.skew_seconds)
    await exchange.reply(200, text, metrics.TEXT)


async def show(exchange: Exchange) -> None:
    body = Body(exchange.body, "ShowRequest")
    name = body.text("model") or body.text("name")
    if not name:
        raise ApiError(400, "model is required")
    name = local_name(exchange, name)
    model = exchange.server.find(name)
    if model is None:
        full = name if ":" in name else f"{name}:latest"
        raise ApiError(404, f"model '{full}' not found")
    await exchange.json(wire.show(model))


# -- what leaves the machine: recorded, never done


async def external(exchange: Exchange) -> None:
    exchange.server.log.record("external_call", detail=exchange.path, origin=exchange.origin)
    raise ApiError(401, "unauthorized", signin_url="https://ollama.com/connect")


async def pull(exchange: Exchange) -> None:
    body = Body(exchange.body, "PullRequest")
    name = body.text("model") or body.text("name")
    exchange.server.log.record("external_call", name, exchange.path, exchange.origin)
    await exchange.json({"error": _PULL_OFFLINE.format(name=name)}, 500, wire.PLAIN_JSON)


async def delete(exchange: Exchange) -> None:
    body = Body(exchange.body, "DeleteRequest")
    name = body.text("model") or body.text("name")
    model = exchange.server.find(name)
    if model is None:
        raise ApiError(404, f"model '{name}' not found")
    exchange.server.remove(model.name)
    await exchange.reply(200, b"")


def local_name(exchange: Exchange, name: str) -> str:
    """Strip `:local`. A cloud name, or a stub of a remote model, would be forwarded: recorded and refused."""
    if name.endswith(":local"):
        bare = name.removesuffix(":local")
        model = exchange.server.find(bare)
        if model is not None and model.is_remote:
            raise ApiError(404, f"model '{name}' not found")
        return bare
    model = exchange.server.find(name)
    if not (name.endswith((":cloud", "-cloud")) or (model is not None and model.is_remote)):
        return name
    if exchange.server.config.cloud_disabled:
        raise ApiError(403, "ollama cloud is disabled: remote inference is unavailable")
    exchange.server.log.record("external_call", name, exchange.path, exchange.origin)
    raise ApiError(401, "unauthorized", signin_url="https://ollama.com/connect")


# -- generate and chat


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where generate and chat differ."""

    is_chat: bool
    echo: str
    context_seed: int | None = None  # generate returns a token array, unless raw

    def text(self, text: str, thinking: str = "") -> Json:
        extra = wire.without_zeros(thinking=thinking)
        if self.is_chat:
            return {"message": {"role": "assistant", "content": text, **extra}}
        return {"response": text, **extra}

    def chunk(self, exchange: Exchange, text: str, thinking: str = "") -> Json:
        return {"model": self.echo, "created_at": exchange.timestamp(), **self.text(text, thinking)}

    def account(self, final: Final) -> Json:
        if not final.done:
            return {"done": False}
        spent = final.spent
        context = [] if self.context_seed is None else token_ids(self.context_seed, spent.prompt_tokens + spent.tokens)
        return {
            "done": True,
            "done_reason": final.reason,
            **wire.without_zeros(
                context=context,
                total_duration=wire.nanoseconds(final.total_seconds),
                load_duration=wire.nanoseconds(final.load_seconds),
                prompt_eval_count=spent.prompt_tokens,
                prompt_eval_duration=wire.nanoseconds(spent.prompt_seconds),
                eval_count=spent.tokens,
                eval_duration=wire.nanoseconds(spent.eval_seconds),
            ),
        }


async def generate(exchange: Exchange) -> None:
    body = Body(exchange.body, "GenerateRequest")
    name = body.text("model")
    model = _installed(exchange, name)
    text, raw = body.text("prompt"), bool(body.flag("raw"))
    shape = _Shape(False, name)
    if not text and await _unloaded(exchange, body, model, shape):
        return
    _check_ability(body, model, name, "generate")
    if raw and (body.text("template") or body.text("system") or body.items("context")):
        raise ApiError(400, "raw mode does not support template, system, or context")
    wanted = wanted_of(body, model, exchange.origin)
    if not text:
        await preload(exchange.server, wanted)
        await exchange.json({**shape.chunk(exchange, ""), "done": True, "done_reason": "load"})
        return
    prompt = tokenised(model, body.text("system") + text, raw)
    shape = _Shape(False, name, None if raw else prompt.seed)
    await _respond(exchange, _ask(exchange, body, wanted, prompt, thinks=not raw), shape)


async def chat(exchange: Exchange) -> None:
    body = Body(exchange.body, "ChatRequest")
    name = body.text("model")
    if not name:
        raise ApiError(400, "model is required")
    model = _installed(exchange, name)
    messages = body.items("messages")
    shape = _Shape(True, name)
    if not messages and await _unloaded(exchange, body, model, shape):
        return
    _check_ability(body, model, name, "chat")
    wanted = wanted_of(body, model, exchange.origin)
    if not messages:
        await preload(exchange.server, wanted)
        await exchange.json({**shape.chunk(exchange, ""), "done": True, "done_reason": "load"})
        return
    prompt = tokenised(model, conversation(messages))
    await _respond(exchange, _ask(exchange, body, wanted, prompt, thinks=True), shape)


def conversation(messages: object) -> str:
    items = messages if isinstance(messages, list) else []
    return "\n".join(str(item.get("content") or "") for item in items if isinstance(item, dict))


def _installed(exchange: Exchange, name: str) -> SimModel:
    model = exchange.server.find(local_name(exchange, name))
    if model is None:
        raise ApiError(404, f"model '{name}' not found")
    return model


async def _unloaded(exchange: Exchange, body: Body, model: SimModel, shape: _Shape) -> bool:
    """Nothing to answer and keep_alive 0 means: unload."""
    if body.keep_alive() != 0:
        return False
    exchange.server.engine.expire(model)
    await exchange.json({**shape.chunk(exchange, ""), "done": True, "done_reason": "unload"})
    return True


def _check_ability(body: Body, model: SimModel, name: str, ability: str) -> None:
    if not model.can_complete:
        raise ApiError(400, f'"{name}" does not support {ability}')
    if body.any("think") and not model.can_think:
        raise ApiError(400, f'"{name}" does not support thinking')


def _ask(exchange: Exchange, body: Body, wanted: Wanted, prompt: Prompt, thinks: bool) -> Ask:
    num_predict = body.options().get("num_predict")
    return Ask(
        model=wanted.model,
        echo=body.text("model"),
        prompt=prompt,
        wanted=wanted,
        num_predict=None if num_predict is None else int(num_predict),
        stream=body.flag("stream") is not False,
        truncate=body.flag("truncate") is not False,
        thinks=thinks and wanted.model.can_think and body.any("think") is not False,
        output_format=body.any("format"),
        path=exchange.path,
    )


async def _respond(exchange: Exchange, ask: Ask, shape: _Shape) -> None:
    async with aclosing(answer(exchange.server, ask)) as parts:
        if not ask.stream:
            text, thinking, final = await whole(parts)
            await exchange.json({**shape.chunk(exchange, text, thinking), **shape.account(final)})
            return
        async for part in parts:
            if not exchange.started:
                await exchange.start_stream(wire.NDJSON)
            if isinstance(part, Piece):
                spoken = ("", part.text) if part.thinking else (part.text, "")
                await exchange.line({**shape.chunk(exchange, *spoken), "done": False})
            elif part.done:
                await exchange.line({**shape.chunk(exchange, ""), **shape.account(part)})
    await exchange.end_stream()


# -- embeddings


async def embed(exchange: Exchange) -> None:
    body = Body(exchange.body, "EmbedRequest")
    inputs = _inputs(body.any("input"))
    vectors, tokens, total_seconds, load_seconds = await embedded(exchange, body, inputs, refusal=501)
    durations = (total_seconds, load_seconds) if inputs else (0.0, 0.0)
    await exchange.json(
        {
            "model": body.text("model"),
            "embeddings": vectors,
            **wire.without_zeros(
                total_duration=wire.nanoseconds(durations[0]),
                load_duration=wire.nanoseconds(durations[1]),
                prompt_eval_count=tokens,
            ),
        }
    )


async def embeddings(exchange: Exchange) -> None:
    body = Body(exchange.body, "EmbeddingRequest")
    text = body.text("prompt")
    vectors, *_ = await embedded(exchange, body, [text] if text else [], refusal=500)
    await exchange.json({"embedding": vectors[0] if vectors else []})


def _inputs(value: object) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return list(value)
    raise ApiError(400, "invalid input type")


async def embedded(
    exchange: Exchange, body: Body, inputs: list[str], refusal: int
) -> tuple[list[list[float]], int, float, float]:
    """Vectors, tokens, total and load seconds. A generative model is loaded first and refused afterwards."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    name = body.text("model")
    model = exchange.server.find(local_name(exchange, name))
    if model is None:
        raise ApiError(404, f'model "{name}" not found, try pulling it first')
    prompts = [prompt_of(text, 0) for text in inputs]
    async with exchange.server.engine.runner(wanted_of(body, model, exchange.origin)) as runner:
        load_seconds = loop.time() - started
        if prompts and not model.can_embed:
            raise ApiError(refusal, _NO_EMBEDDINGS)
        await _embed_all(runner, prompts)
    vectors = [embedding(prompt.seed, model.embedding_length) for prompt in prompts]
    return vectors, sum(prompt.tokens for prompt in prompts), loop.time() - started, load_seconds


async def _embed_all(runner: Runner, prompts: list[Prompt]) -> None:
    """Every input waits for the slot on its own, all of them ahead of whoever comes later."""
    try:
        async with asyncio.TaskGroup() as group:
            for prompt in prompts:
                group.create_task(runner.embed(prompt))
    except* RunnerDiedError as died:
        raise died.exceptions[0] from None


ROUTES: Routes = {
    "/": {"GET": root, "HEAD": root},
    "/api/version": {"GET": version, "HEAD": version},
    "/api/status": {"GET": status},
    "/api/ps": {"GET": ps},
    "/api/tags": {"GET": tags, "HEAD": tags},
    "/api/show": {"POST": show},
    "/api/generate": {"POST": generate},
    "/api/chat": {"POST": chat},
    "/api/embed": {"POST": embed},
    "/api/embeddings": {"POST": embeddings},
    "/api/delete": {"DELETE": delete},
    "/api/pull": {"POST": pull},
    "/api/me": {"POST": external},
    "/api/experimental/model-recommendations": {"GET": external},
}
METRICS: Routes = {"/metrics": {"GET": own_metrics}}
"""With OLLAMA_METRICS=1 alone."""
