"""What keeps a fleet from carrying more, out of the exporter's own metrics, and which settings would help. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from exporter import catalog
from exporter.loadtest.page import Page, grown
from exporter.loadtest.preflight import Seen

_FULL, _ALMOST = 0.95, 0.85
_WAITS = 0.5
_MEMORY_LEFT = 0.08


@dataclass(frozen=True, slots=True)
class Bound:
    """What was found to be at its limit: `what` out of slots, queue, gpu, cpu, memory, gpu_memory; `seen` in words."""

    what: str
    where: str
    seen: str


def bounds(pages: Sequence[Page], servers: Sequence[str]) -> list[Bound]:
    """Of the time that the pages were taken in: the first one before the load, the last one after it. The first bound
    says most."""
    if not pages:
        return []
    during = pages[1:-1] or pages
    found = [bound for server in servers for bound in _of_server(pages, during, server)]
    return [*found, *_of_machine(during if len(during) > 1 else pages)]


def _of_server(pages: Sequence[Page], during: Sequence[Page], server: str) -> Iterator[Bound]:
    slots = _mean(page.total(catalog.RUNNER_SLOTS, server=server) for page in during)
    busy = _mean(page.total(catalog.RUNNER_SLOTS_BUSY, server=server) for page in during)
    waiting = _mean(page.total(catalog.SOCKETS_WAITING, server=server) for page in during)
    if slots and busy is not None and busy >= _ALMOST * slots:
        queue = f", {waiting:.1f} requests waiting for each" if waiting else ""
        yield Bound("slots", server, f"{busy:.1f} of {slots:.0f} slots busy on average{queue}")
    elif slots and waiting is not None and waiting >= _WAITS * slots:
        yield Bound("queue", server, f"{waiting:.1f} requests waited with {slots:.0f} slots")
    refused = grown(pages[0], pages[-1], catalog.LOG_REQUESTS, server=server, status="503")
    if refused:
        yield Bound("queue", server, f"{refused:.0f} requests were refused with 503: the scheduler's queue was full")


def _of_machine(pages: Sequence[Page]) -> Iterator[Bound]:
    gpus = [value for page in pages for _, value in page.rows(catalog.GPU_UTILIZATION)]
    if gpus and sum(gpus) / len(gpus) >= _ALMOST:
        yield Bound("gpu", "this machine", f"GPUs busy {sum(gpus) / len(gpus):.0%} of the time")
    idle = grown(pages[0], pages[-1], catalog.HOST_CPU, mode="idle")
    every = grown(pages[0], pages[-1], catalog.HOST_CPU)
    if idle is not None and every and idle / every <= 1 - _ALMOST:
        yield Bound("cpu", "the exporter's machine", f"its CPUs were busy {1 - idle / every:.0%} of the time")
    available, total = pages[-1].total(catalog.HOST_MEMORY_AVAILABLE), pages[-1].total(catalog.HOST_MEMORY_TOTAL)
    if available is not None and total and available / total < _MEMORY_LEFT:
        yield Bound("memory", "the exporter's machine", f"{available / total:.0%} of its memory was left")
    used, there = pages[-1].total(catalog.GPU_MEMORY_USED), pages[-1].total(catalog.GPU_MEMORY_TOTAL)
    if used is not None and there and used / there >= _FULL:
        yield Bound("gpu_memory", "this machine", f"{used / there:.0%} of the GPUs' memory was in use")


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


# --- what would help --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kv:
    """Of one model: bytes of cache for a token of context, and of the rest, out of two settings seen or its shape."""

    model: str
    context: int
    bytes_per_token: float
    other_bytes: float

    def memory(self, parallel: int) -> float:
        return self.other_bytes + parallel * self.context * self.bytes_per_token


def kv_of(model: str, context: int, size: int, parallel: int, info: dict[str, object]) -> Kv | None:
    """From /api/show's `model_info`: two vectors of each layer's key-value heads, of 16 bits (f16, the default type).
    None where the shape is not told."""
    family = info.get("general.architecture")

    def number(key: str) -> int | None:
        value = info.get(f"{family}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    layers, width, heads = number("block_count"), number("embedding_length"), number("attention.head_count")
    if layers is None or width is None or heads is None:
        return None
    kv_heads = number("attention.head_count_kv") or heads
    length = number("attention.key_length") or width // heads
    each = 2.0 * layers * kv_heads * length * 2
    return Kv(model, context, each, max(0.0, size - parallel * context * each))


def advice(found: Sequence[Bound], seen: Sequence[Seen], parallel: int | None, kvs: Sequence[Kv]) -> list[str]:
    """In variables that Ollama reads (exporter.environment.READ), with what they cost."""
    kinds = {bound.what for bound in found}
    lines = []
    if "slots" in kinds and not kinds & {"gpu", "cpu", "memory", "gpu_memory"}:
        more = 2 * parallel if parallel else None
        lines.append(
            f"OLLAMA_NUM_PARALLEL: {'raise it' if more is None else f'try {more}'}: slots were full while the machine"
            " had room. Each slot takes the memory of a whole context"
        )
        lines += [_memory(kv, parallel, more) for kv in kvs if parallel and more]
    elif "slots" in kinds:
        lines.append(
            "more slots would not help: the machine itself was at its limit. A further server, a smaller or more"
            " quantized model, or OLLAMA_KV_CACHE_TYPE=q8_0 (with OLLAMA_FLASH_ATTENTION=1) where memory is short"
        )
    if any("503" in bound.seen for bound in found):
        lines.append(
            "OLLAMA_MAX_QUEUE: requests were refused while models were loaded; more of it turns refusals into waiting."
            " It does not bound who waits for a slot of a loaded model"
        )
    if kinds & {"memory", "gpu_memory"}:
        lines.append("OLLAMA_CONTEXT_LENGTH or OLLAMA_NUM_PARALLEL lower: memory grows with their product")
    if not lines:
        lines.append(
            "nothing that the exporter sees was at its limit"
            if seen
            else "no exporter was there to say what was at its limit (--exporter)"
        )
    return lines


def _memory(kv: Kv, now: int | None, then: int | None) -> str:
    return (
        f"  {kv.model}: about {kv.memory(now or 1) / 2**30:.2f} GiB with {now} slots of {kv.context:,} tokens,"
        f" {kv.memory(then or 1) / 2**30:.2f} GiB with {then}"
    )
