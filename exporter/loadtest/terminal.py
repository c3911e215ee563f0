"""For the person watching: a live display while it runs, and the verdict with its figures at the end (rich)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from exporter.loadtest.measure import Histogram
from exporter.loadtest.run import Run
from exporter.loadtest.tally import Tally

_COLOURS = {"pass": "bold green", "fail": "bold red", "invalid": "bold yellow"}
_EVERY = 0.25
_WINDOW = 10.0


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


async def watch(run: Run, tally: Tally, console: Console) -> None:
    """The live display; until cancelled. Where there is no terminal, a line every ten seconds."""
    if not console.is_terminal:
        while True:
            await asyncio.sleep(10.0)
            console.print(_line(run, tally), soft_wrap=True)
    with Live(_display(run, tally), console=console, auto_refresh=False, transient=True) as live:
        while True:
            await asyncio.sleep(_EVERY)
            live.update(_display(run, tally), refresh=True)


def _line(run: Run, tally: Tally) -> str:
    everything = tally.all
    return (
        f"{run.elapsed():.0f} s of {run.course.seconds:.0f} s: {everything.offered} offered, {everything.completed} ok,"
        f" {everything.lost} failed, {run.in_flight} in flight"
    )


def _display(run: Run, tally: Tally) -> RenderableType:
    elapsed, whole, everything = run.elapsed(), run.course.seconds, tally.all
    if not elapsed:
        return Text("loading models: one request to each on each server", style="dim")
    recent = _recent(tally, elapsed)
    rows = Table.grid(padding=(0, 3))
    rows.add_row(
        f"in flight [bold]{run.in_flight}[/]", f"offered [bold]{everything.offered}[/]",
        f"ok [green]{everything.completed}[/]", f"failed [red]{everything.lost}[/]",
    )  # fmt: skip
    rows.add_row(
        f"first token, last {_WINDOW:.0f} s", f"p50 [bold]{seconds(_at(recent, 0.5))}[/]",
        f"p95 [bold]{seconds(_at(recent, 0.95))}[/]", f"max [bold]{seconds(recent.max)}[/]",
    )  # fmt: skip
    outcomes = ", ".join(f"{name} {count}" for name, count in everything.failed.items() if count)
    lag = run.watch.lag
    phase = run.course.phase_at(elapsed).name if elapsed < whole else "waiting for the last answers"
    return Panel(
        Group(
            ProgressBar(total=whole, completed=min(elapsed, whole), width=60),
            rows,
            Text(outcomes, style="red"),
            Text(f"own lag p99 {seconds(_at(lag, 0.99))}; Ctrl-C ends it and reports what ran", style="dim"),
        ),
        title=f"{run.scenario.name}: {phase}",
        subtitle=f"{elapsed:.0f} s of {whole:.0f} s",
        width=78,
    )


def _recent(tally: Tally, elapsed: float) -> Histogram:
    recent = Histogram()
    last = int(elapsed / tally.width)
    for each in tally.slices[max(0, last - max(1, int(_WINDOW / tally.width))) : last + 1]:
        recent.merge(each.ttft)
    return recent


def _at(values: Histogram, q: float) -> float | None:
    return values.at_rank(max(1, round(q * values.count)))


# --- the end ----------------------------------------------------------------------------------------------------------


def tell(report: Mapping[str, Any], console: Console) -> None:
    word = report["verdict"]
    console.print(Text(f"{report['scenario']['name']}: {word}", style=_COLOURS[word]))
    for why in report["why"]:
        console.print(Text(f"  {why}"))
    for note in report["notes"]:
        console.print(Text(f"  note: {note}", style="dim"))
    console.print(_latencies(report))
    requests = report["requests"]
    failed = ", ".join(f"{name} {count}" for name, count in requests["failed"].items() if count) or "none"
    rates = report["rates"]
    console.print(
        Text(
            f"{requests['offered']} requests offered ({rates['offered_per_second']:.3g}/s),"
            f" {requests['completed']} answered well ({rates['completed_per_second']:.3g}/s,"
            f" {rates['tokens_per_second']:.0f} tokens/s); failed: {failed}\n"
            f"good: {_share(report['goodput_ratio'])} of all; tester's own lag p99"
            f" {seconds(report['self_lag_seconds'])}"
        )
    )
    if report["reconciliation"]:
        console.print(_reconciled(report["reconciliation"]))


def _latencies(report: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in ("", "p50", "p95", "p99", "max", "requests"):
        table.add_column(head, justify="left" if not head else "right")
    rows = {"first token": "ttft_seconds", "whole answer": "total_seconds",
            "per token": "time_per_output_token_seconds", "between pieces": "inter_chunk_seconds",
            "queue, at most": "queue_upper_bound_seconds"}  # fmt: skip
    for name, key in rows.items():
        each = report[key]
        if each["count"] or each["missing"]:
            table.add_row(name, *(seconds(each[q]) for q in ("p50", "p95", "p99", "max")), f"{each['count']:,}")
    return table


def _reconciled(rows: list[Mapping[str, Any]]) -> Table:
    table = Table(
        title="beside what the exporter saw", title_justify="left", box=None, pad_edge=False, header_style="dim"
    )
    for head in ("what", "server", "tester", "exporter", "difference", ""):
        table.add_column(head, justify="right" if head in ("tester", "exporter", "difference") else "left")
    for row in rows:
        difference = "-" if row["difference"] is None else f"{row['difference']:+.1%}"
        table.add_row(
            row["what"], row["server"], _number(row["tester"]), _number(row["exporter"]), difference,
            f"{row['judgement']}: {row['why']}" if row["why"] else row["judgement"],
        )  # fmt: skip
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
