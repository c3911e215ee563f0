"""The /v1 endpoints: the same scheduler, queue and runners behind OpenAI's shapes; token counts, no durations."""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime
from typing import Any

from exporter.simulator import wire
from exporter.simulator.answers import Ask, Final, Piece, answer, tokenised, whole
from exporter.simulator.body import ApiError, Body
from exporter.simulator.engine import Wanted
from exporter.simulator.http import Exchange, Routes
from exporter.simulator.models import SimModel
from exporter.simulator.native import conversation, embedded, local_name
from exporter.simulator.wire import Json

_FINGERPRINT = "fp_ollama"


async def models(exchange: Exchange) -> None:
    listed = wire.tags(exchange.server.models)["models"]
    data = [
        {
            "id": row["name"],
            "object": "model",
            "created": int(datetime.fromisoformat(row["modified_at"]).timestamp()),
            "owned_by": "library",
        }
        for row in listed
    ]
    await exchange.json({"object": "list", "data": data or None}, content_type=wire.PLAIN_JSON)


async def chat_completions(exchange: Exchange) -> None:
    body = Body(exchange.body, "ChatCompletionRequest")
    messages = body.items("messages")
    if not messages:
        raise ApiError(400, "[] is too short - 'messages'")
    await _complete(exchange, body, conversation(messages), is_chat=True)


async def completions(exchange: Exchange) -> None:
    body = Body(exchange.body, "CompletionRequest")
    await _complete(exchange, body, body.text("prompt"), is_chat=False)


async def embeddings(exchange: Exchange) -> None:
    body = Body(exchange.body, "EmbedRequest")
    given = body.any("input")
    inputs = [given] if isinstance(given, str) else [str(item) for item in body.items("input")]
    if not inputs:
        raise ApiError(400, "invalid input")
    vectors, tokens, *_ = await embedded(exchange, body, inputs, refusal=501)
    data = [{"object": "embedding", "embedding": vector, "index": i} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer_body = {"object": "list", "data": data, "model": body.text("model"), "usage": usage}
    await exchange.json(answer_body, content_type=wire.PLAIN_JSON)


async def _complete(exchange: Exchange, body: Body, text: str, is_chat: bool) -> None:
    name = body.text("model")
    model: SimModel | None = exchange.server.find(local_name(exchange, name))
    if model is None:
        raise ApiError(404, f"model '{name}' not found")
    if not model.can_complete:
        raise ApiError(400, f'"{name}" does not support {"chat" if is_chat else "generate"}')
    ask = Ask(
        model=model,
        echo=name,
        prompt=tokenised(model, text),
        wanted=Wanted(model, origin=exchange.origin),  # neither options nor keep_alive can be sent here
        num_predict=body.integer("max_tokens"),
        stream=bool(body.flag("stream")),
        thinks=model.can_think,
        path=exchange.path,
    )
    shape = _Shape(exchange, name, is_chat)
    async with aclosing(answer(exchange.server, ask)) as parts:
        if ask.stream:
            include_usage = bool(body.mapping("stream_options").get("include_usage"))
            await _stream(exchange, shape, parts, include_usage)
        else:
            said, _, final = await whole(parts)
            await exchange.json(shape.complete(said, final), content_type=wire.PLAIN_JSON)


async def _stream(exchange: Exchange, shape: _Shape, parts: Any, include_usage: bool) -> None:
    async for part in parts:
        if not exchange.started:
            await exchange.start_stream(wire.SSE)
        if isinstance(part, Piece):
            await _event(exchange, shape.chunk(part.text, None))
        elif part.done:
            await _event(exchange, shape.chunk("", part.reason))
            if include_usage:
                await _event(exchange, {**shape.chunk("", None), "choices": [], "usage": _usage(part)})
            await exchange.chunk(b"data: [DONE]\n\n")
    await exchange.end_stream()


async def _event(exchange: Exchange, value: Json) -> None:
    await exchange.chunk(b"data: " + wire.go_json(value) + b"\n\n")


def _usage(final: Final) -> Json:
    spent = final.spent
    return {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.tokens,
        "total_tokens": spent.prompt_tokens + spent.tokens,
    }


class _Shape:
    """Where chat and plain completions differ."""

    def __init__(self, exchange: Exchange, name: str, is_chat: bool) -> None:
        self._is_chat = is_chat
        self._head = {
            "id": "chatcmpl-63" if is_chat else "cmpl-63",
            "object": "chat.completion" if is_chat else "text_completion",
            "created": int(exchange.server.wall_time()),
            "model": name,
            "system_fingerprint": _FINGERPRINT,
        }

    def complete(self, text: str, final: Final) -> Json:
        said = {"message": {"role": "assistant", "content": text}} if self._is_chat else {"text": text}
        if self._is_chat:
            choice = {"index": 0, **said, "finish_reason": final.reason or None}
        else:
            choice = {**said, "index": 0, "finish_reason": final.reason or None}
        return {**self._head, "choices": [choice], "usage": _usage(final)}

    def chunk(self, text: str, reason: str | None) -> Json:
        if not self._is_chat:
            return {**self._head, "choices": [{"text": text, "index": 0, "finish_reason": reason}]}
        delta = {"role": "assistant", "content": text}
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        return {**self._head, "object": "chat.completion.chunk", "choices": choices}


ROUTES: Routes = {
    "/v1/models": {"GET": models},
    "/v1/chat/completions": {"POST": chat_completions},
    "/v1/completions": {"POST": completions},
    "/v1/embeddings": {"POST": embeddings},
}
