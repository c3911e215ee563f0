"""What `load capacity` found, as one page: latency against load and throughput, and the levels that were tried."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from exporter.loadtest import charts
from exporter.loadtest.charts import Line, Mark
from exporter.loadtest.report_html import document, number, section, share, table

_TONES = ("a", "b", "c", "ok", "quiet")


def page(found: Mapping[str, Any], ttft_p95: float | None) -> str:
    marks = [Mark(f"p95 {ttft_p95:g} s", ttft_p95)] if ttft_p95 else []
    body = [f'<div class="head"><h1>Capacity: {escape(found["scenario"])}</h1></div>']
    body += ["<ul>", *(f"<li>{escape(line)}</li>" for each in found["capacities"] for line in each["words"]), "</ul>"]
    body.append(f'<div class="grid2">{"".join(_pictures(found["capacities"], marks))}</div>')
    body += [_levels(each) for each in found["capacities"]]
    return document(f"Capacity: {found['scenario']}", "".join(body))


def _pictures(capacities: list[Mapping[str, Any]], marks: list[Mark]) -> list[str]:
    latency, throughput, both = [], [], []
    for place, each in enumerate(capacities):
        tone, name = _TONES[place % len(_TONES)], _name(each)
        levels = each["found"]["levels"]
        begun = [level for level in levels if level["ttft"] is not None]
        latency.append((name, tone, [(level["load"], level["ttft"]) for level in begun]))
        throughput.append(Line(name, tone, [(level["load"], level["throughput"]) for level in levels]))
        both.append((name, tone, [(level["throughput"], level["ttft"]) for level in begun]))
    unit = capacities[0]["unit"] if capacities else ""
    return [
        charts.points(f"First token, p95, by load ({unit})", latency, marks),
        charts.lines(f"Answers a second, by load ({unit})", throughput, timed=False, across_text=charts.plain),
        charts.points("First token, p95, against throughput", both, marks, "answers a second"),
    ]


def _levels(each: Mapping[str, Any]) -> str:
    tones = {"pass": "good", "fail": "wrong", "invalid": "odd"}
    rows = [
        (
            number(level["load"]), f'<span class="{tones[level["verdict"]]}">{level["verdict"]}</span>',
            str(level["runs"]),            number(level["throughput"]), " to ".join(map(number, level["spread"])),
            "–" if level["ttft"] is None else charts.seconds(level["ttft"]), share(level["goodput"]),
            escape("; ".join(level["why"])),
        )
        for level in each["found"]["levels"]
    ]  # fmt: skip
    head = (
        each["unit"],
        "",
        "runs",
        "answers a second",
        "of its runs",
        "first token p95",
        "good, the worst run",
        "why",
    )
    return section(_name(each), table(head, rows, text=(7,)))


def _name(each: Mapping[str, Any]) -> str:
    return "as it is" if each["parallel"] is None else f"{each['parallel']} slots"
