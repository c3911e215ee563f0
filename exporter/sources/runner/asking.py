"""Runners asked for their slots, counters and settings, each engine in its way. Nothing that is asked takes a slot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from exporter.llama import Client, HttpError
from exporter.model import Lack
from exporter.sources.runner.seen import Runner

_T = TypeVar("_T")

NO_METRICS = Lack(
    "the runners' own counters (every token made, prompts, cache hits, drafts): their /metrics is switched off",
    "set LLAMA_ARG_ENDPOINT_METRICS=1 in Ollama's environment",
)
NO_SLOTS = Lack(
    "slots, tokens in the making and context in use: the runners' /slots is switched off",
    "remove LLAMA_ARG_ENDPOINT_SLOTS from Ollama's environment",
)
BEHIND_KEY = Lack(
    "slots and counters: the runners want a key, which keeps Ollama itself out as well",
    "remove LLAMA_API_KEY from Ollama's environment",
)
OLD = Lack("slots and tokens: the runners of Ollama before 0.30 tell neither", "update Ollama to 0.30 or newer")


async def _ask_llama(runner: Runner, client: Client) -> None:
    if runner.props is None:
        props = await _unless_off(client.props(), BEHIND_KEY, runner)
        if props is None:
            return
        runner.blob = runner.blob or props.blob
        runner.props = props
        if runner.process.pid is None and not props.blob:  # somebody's own llama-server
            runner.foreign = True
            return
    runner.context = runner.props.context
    # The counters before the slots: a task that ends in between is then missing for a moment, and not counted twice.
    if runner.props.has_metrics:
        runner.totals = await _unless_off(client.metrics(), NO_METRICS, runner)
    else:
        runner.lacks.append(NO_METRICS)
    if runner.props.has_slots:
        runner.slots = await _unless_off(client.slots(), NO_SLOTS, runner)
    else:
        runner.lacks.append(NO_SLOTS)
    if runner.slots is not None:
        runner.capacity = len(runner.slots.rows), runner.slots.busy


async def _ask_old(runner: Runner, client: Client) -> None:
    """Their /slots is not asked: it would show prompts."""
    health = await client.health()
    runner.loading = health.loading
    if health.idle is not None and health.busy is not None:
        runner.capacity = health.idle + health.busy, health.busy
    runner.lacks.append(OLD)


async def _ask_mlx(runner: Runner, client: Client) -> None:
    runner.context = (await client.mlx_status()).context


ASK: dict[str, Callable[[Runner, Client], Awaitable[None]]] = {
    "llama": _ask_llama,
    "old": _ask_old,
    "mlx": _ask_mlx,
}


async def _unless_off(answer: Awaitable[_T], off: Lack, runner: Runner) -> _T | None:
    """The answer, or None and a lack where the path is switched off or wants a key."""
    try:
        return await answer
    except HttpError as error:
        if error.status not in (401, 403, 404, 501):
            raise
        runner.lacks.append(BEHIND_KEY if error.status in (401, 403) else off)
        return None
