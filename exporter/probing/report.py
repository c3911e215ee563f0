"""`debug=true`: what was asked, what came back, and what would be exported. No body of an answer, and no secret."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.config import document
from exporter.config.kinds import shown
from exporter.exposition import render
from exporter.model import Reading
from exporter.probing import Seen
from exporter.probing.exchanges import Exchange


def report(seen: Seen) -> str:
    return "\n".join(_lines(seen)) + "\n"


def _lines(seen: Seen) -> Iterator[str]:
    order = seen.order
    yield f"target: {order.server.name} at {order.server.url}"
    yield f"module: {order.module_name}, within {order.within:g} s"
    if order.judge is None:
        yield "  (a configured server is asked with its own settings and credentials)"
    yield from (f"  {line}" for line in document.dump(shown(order.module)).splitlines())
    yield "\nasked:"
    yield from (f"  {_exchange(each)}" for each in seen.exchanges)
    if not seen.exchanges:
        yield "  nothing"
    yield "\nseen:"
    yield from (f"  {_reading(each)}" for each in seen.readings)
    if seen.without:
        yield f"  no canary: {seen.without}"
    yield "\nexported:"
    yield render(seen.snapshot, openmetrics=False).decode("utf-8", "replace")


def _exchange(each: Exchange) -> str:
    came = f"{each.status}, {each.size} bytes" if each.status is not None else "no answer"
    broken = f", {each.failure}" if each.failure else ""
    where = f" at {each.address}" if each.address else ""
    return f"{each.method} {each.path}{where}: {came}{broken}, {each.took * 1000:.1f} ms"


def _reading(each: Reading) -> str:
    if each.blind:
        return f"{each.watch.source}: nothing to see here ({'; '.join(lack.what for lack in each.lacks)})"
    return f"{each.watch.source}: {each.failure or 'well'}, {len(each.samples)} samples, {each.took * 1000:.1f} ms"
