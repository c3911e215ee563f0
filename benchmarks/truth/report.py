"""A run and its table, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.truth.run import CLOCK, Run, busy_slots, unanswered_requests
from benchmarks.truth.table import Row


def markdown(run: Run, table: Sequence[Row], say: Callable[[str], None]) -> None:
    outcomes = Counter(request.outcome for request in run.requests)
    kinds = Counter(request.kind for request in run.requests)
    stalled = sum(stall.high - stall.low for stall in run.stalls)
    longest = max((stall.high - stall.low for stall in run.stalls), default=0.0)
    say(f"\n## {run.kind}: {run.seconds:.0f} s, sources every {run.every:g} s\n")
    say(
        f"{len(run.requests)} requests ({', '.join(f'{n} {kind}' for kind, n in kinds.items())}), of which"
        f" {', '.join(f'{n} {outcome}' for outcome, n in outcomes.items())}."
        f" {sum((r.began or 0.0) > run.begun for r in run.runners)} runners began,"
        f" {sum((r.ended or 0.0) > run.begun for r in run.runners)} ended,"
        f" {sum(bool(r.killed) for r in run.runners)} of them killed."
        f" The machine was busy for {run.machine:.0f} %. The client was kept waiting {len(run.stalls)} times, for"
        f" {stalled:.1f} s together, {longest * 1e3:.0f} ms at most: the truth allows for it.\n"
    )
    if run.lost:
        say(f"**The kernel's events are not complete ({run.lost} lost): loads and ends cannot be judged.**\n")
    if run.clock > CLOCK:
        say(f"**The machine's clock was set by {run.clock * 1e3:.0f} ms: times of readings cannot be trusted.**\n")
    head = ("source", "what", "true", "measured", "missed, twice, wrong", "good enough")
    lines = [head, *((r.source, r.what, r.true, r.measured, r.wrong, r.verdict) for r in table)]
    body = ["| " + " | ".join(line) + " |" for line in lines]
    say("\n".join([body[0], "|" + "---|" * len(head), *body[1:]]))
    if run.cost:
        say("\n| exporter with | CPU, ms a second | adds |\n|---|---:|---:|")
        base = run.cost["api"]
        for name, cost in run.cost.items():
            say(f"| {name} | {cost:.2f} | {cost - base:+.2f} |")
    if run.added:
        say("\n| who looks | CPU of Ollama and its idle runner, ms a second | adds |\n|---|---:|---:|")
        base = run.added["nobody"]
        for name, added in run.added.items():
            say(f"| {name} | {added:.2f} | {added - base:+.2f} |")


def raw(run: Run, table: Sequence[Row]) -> dict[str, Any]:
    """For whoever wants to know which reading was wrong, and what happened around it."""
    busy = {f"busy slots, {model}": busy_slots(run, model).wrong for model in run.names.values()}
    return {
        "kind": run.kind,
        "rows": [asdict(row) for row in table],
        "cost": run.cost,
        "added": run.added,
        "wrong": {"unanswered requests": unanswered_requests(run).wrong, **busy},
        "requests": [asdict(request) for request in run.requests],
        "cut": run.cut,
        "stalls": run.stalls,
        "runners": [asdict(runner) for runner in run.runners],
    }
