"""One page with everything in it, made of the report alone: opens without a network, prints, and can be mailed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from exporter.loadtest import charts
from exporter.loadtest.charts import Band, Line, Mark
from exporter.loadtest.style import STYLE

Report = Mapping[str, Any]

_QUANTILES = ("p50", "p95", "p99", "max")


def page(report: Report) -> str:
    body = "".join(
        (
            _head(report), _cards(report), _objectives(report), _over_time(report), _spread(report), _outcomes(report),
            _groups("Phases", report["phases"]), _groups("Workloads", report["workloads"]),
            _groups("Servers", report["servers"]), _starts(report), _reconciled(report["reconciliation"]),
            _itself(report), _surroundings(report),
        )
    )  # fmt: skip
    return document(f"Load test {report['scenario']['name']}: {report['verdict']}", body)


def document(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta name="viewport" content="width=device-width"/><title>{escape(title)}</title><style>{STYLE}</style>'
        f"</head><body><main>{body}</main></body></html>\n"
    )


# --- what matters first -----------------------------------------------------------------------------------------------


def _head(report: Report) -> str:
    scenario, when = report["scenario"], time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report["began_at"]))
    load = f"{scenario['users']} users" if scenario.get("users") else f"{scenario.get('rate', 0):g} requests a second"
    servers = len(report["environment"]["servers"])
    words = {
        "pass": "All objectives were met.",
        "fail": "Objectives were missed.",
        "invalid": "This run proves nothing about the servers.",
    }
    reasons = "".join(f"<li>{escape(why)}</li>" for why in report["why"])
    notes = "".join(f'<li class="soft">{escape(note)}</li>' for note in report["notes"])
    return (
        f'<div class="head"><span class="badge {report["verdict"]}">{report["verdict"].upper()}</span>'
        f"<h1>{escape(scenario['name'])}</h1></div>"
        f"<p>{words[report['verdict']]} {escape(load)}, {escape(_models(report))}, {servers}"
        f" server{'s' * (servers != 1)}, {report['seconds']:.0f} s,"
        f' <span class="soft">{when}</span></p><ul>{reasons}{notes}</ul>'
    )


def _models(report: Report) -> str:
    return ", ".join(dict.fromkeys(each["model"] for each in report["workloads"])) or str(
        report["scenario"].get("model")
    )


def _cards(report: Report) -> str:
    ttft, rates = report["ttft_seconds"], report["rates"]
    cards = [
        (_quantile(ttft, "p50"), "first token, half"),
        (_quantile(ttft, "p95"), "first token, 95 of 100"),
        (_quantile(ttft, "p99"), "first token, 99 of 100"),
        (share(report["success_ratio"]), "answered well"),
        (share(report["goodput_ratio"]), "good: within all objectives"),
        (f"{rates['completed_per_second']:.3g}/s", f"answered, of {rates['offered_per_second']:.3g}/s offered"),
        (f"{rates['tokens_per_second']:,.0f}/s", "tokens generated"),
        (_seconds(report["self_lag_seconds"]), "the tester's own lag, p99"),
    ]
    shown = "".join(f'<div class="card"><b>{value}</b><span>{name}</span></div>' for value, name in cards)
    return f'<div class="cards">{shown}</div>'


def _objectives(report: Report) -> str:
    rows = [
        (
            escape(each["objective"].replace("_", " ")), escape(each["bound"]), share(each["share"]),
            f"{each['needed']:.4g}", f"{each['requests']:,}",
            f'<span class="{"good" if each["kept"] else "wrong"}">{"met" if each["kept"] else "missed"}</span>',
        )
        for each in report["objectives"]
    ]  # fmt: skip
    return (
        section("Objectives", table(("objective", "bound", "share within", "needed", "requests", ""), rows))
        if rows
        else ""
    )


# --- charts -----------------------------------------------------------------------------------------------------------


def _over_time(report: Report) -> str:
    timeline = report["timeline"]
    width, slices = timeline["width_seconds"], timeline["slices"]
    bands = [
        Band(each["name"], each["begin_seconds"], each["begin_seconds"] + each["seconds"]) for each in report["phases"]
    ]

    def over(key: str, divide: float = 1.0) -> list[tuple[float, float | None]]:
        return [(each["at"] + width / 2, None if each[key] is None else each[key] / divide) for each in slices]

    latency = [
        Line("p50", "a", over("ttft_p50")),
        Line("p95", "b", over("ttft_p95")),
        Line("slowest", "c", over("ttft_max")),
    ]
    load = [
        Line("offered", "quiet", over("offered", width)), Line("answered", "ok", over("ended", width)),
        Line("failed", "bad", over("failed", width)),
    ]  # fmt: skip
    tokens = [Line("tokens of answers that ended", "a", over("tokens", width))]
    whole = [Line("p50", "a", over("total_p50")), Line("p95", "b", over("total_p95"))]
    pictures = (
        charts.lines("Time to the first token, by when a request was due", latency, bands, _marks(report, "ttft")),
        charts.lines("Requests a second", load, bands, timed=False),
        charts.lines("Time to the whole answer", whole, bands, _marks(report, "total")),
        charts.lines("Tokens a second", tokens, bands, timed=False),
    )
    return section("Over time", f'<div class="grid2">{"".join(pictures)}</div>') if slices else ""


def _spread(report: Report) -> str:
    found, timeline = report["distributions"], report["timeline"]
    width = timeline["width_seconds"]
    pairs = [
        (each["ended"] / width, each["ttft_p95"])
        for each in timeline["slices"]
        if each["ended"] and each["ttft_p95"] is not None
    ]
    ends = [(each["requests"]["completed"] / each["seconds"], each["ttft_seconds"]["p95"]) for each in report["phases"]]
    phases = [(rate, value) for rate, value in ends if value is not None and rate]
    pictures = (
        charts.distribution("Time to the first token", "a", found["ttft_seconds"], _marks(report, "ttft")),
        charts.distribution("Time to the whole answer", "b", found["total_seconds"], _marks(report, "total")),
        charts.points(
            "Latency against throughput", [("p95 of a slice of time", "a", pairs), ("p95 of a phase", "c", phases)],
            _marks(report, "ttft"), "answered a second",
        ),
        charts.distribution(
            "Time between two pieces of an answer", "c", found["inter_chunk_seconds"], counted="pieces"
        ),
    )  # fmt: skip
    return (
        section("How they spread", f'<div class="grid2">{"".join(pictures)}</div>')
        if report["requests"]["offered"]
        else ""
    )


def _marks(report: Report, what: str) -> list[Mark]:
    bounds = {
        each["objective"]: float(each["bound"].split()[0])
        for each in report["objectives"]
        if each["bound"].endswith(" s")
    }
    return [
        Mark(f"{name.partition('_')[2]} {bound:g} s", bound) for name, bound in bounds.items() if name.startswith(what)
    ]


# --- tables -----------------------------------------------------------------------------------------------------------


def _outcomes(report: Report) -> str:
    requests = report["requests"]
    rows = [("ok", requests["completed"]), *((name, count) for name, count in requests["failed"].items() if count)]
    cells = [
        (escape(name), f"{count:,}", share(count / requests["offered"] if requests["offered"] else None),
         escape(_MEANINGS.get(name, "")))
        for name, count in rows
    ]  # fmt: skip
    return section("How requests ended", table(("outcome", "requests", "share", "meaning"), cells, text=(3,)))


_MEANINGS = {
    "ok": "answered to the end",
    "busy": "503: the scheduler's queue was full (OLLAMA_MAX_QUEUE)",
    "http_4xx": "refused by status",
    "http_5xx": "an error by status",
    "stream_error": "HTTP 200, and an error as the last line of the answer",
    "truncated": "HTTP 200, and the answer ended without its end",
    "malformed": "HTTP 200, and no answer of Ollama's",
    "prompt_cut": "answered, after the prompt had been cut silently to the context",
    "timeout": "no whole answer in time",
    "connection": "refused, reset, or closed before an answer began",
    "client_lag": "not sent at its time, for the tester's own reasons",
    "interrupted": "in flight when the run was stopped",
}


def _groups(title: str, groups: Sequence[Report]) -> str:
    if not groups:
        return ""
    head = (
        "",
        "offered",
        "failed",
        "good",
        *(f"first token {q}" for q in _QUANTILES),
        "whole p50",
        "whole p95",
        "per token p50",
        "queue p95",
        "tokens",
    )
    rows = [
        (
            escape(f"{each['name']} ({each['model']})" if "model" in each else each["name"]),
            f"{each['requests']['offered']:,}", f"{each['requests']['failed_total']:,}", share(each["goodput_ratio"]),
            *(_quantile(each["ttft_seconds"], q) for q in _QUANTILES),
            _quantile(each["total_seconds"], "p50"), _quantile(each["total_seconds"], "p95"),
            _quantile(each["time_per_output_token_seconds"], "p50"),
            _quantile(each["queue_upper_bound_seconds"], "p95"), f"{each['tokens']['generated']:,}",
        )
        for each in groups
    ]  # fmt: skip
    return section(title, table(head, rows))


def _starts(report: Report) -> str:
    starts = [
        {"name": name, **report["starts"][name]}
        for name in ("warm", "cold")
        if report["starts"][name]["requests"]["offered"]
    ]
    return _groups("Cold and warm starts (cold: load_duration of half a second or more)", starts)


def _reconciled(rows: Sequence[Report]) -> str:
    tones = {"agrees": "good", "explained": "odd", "differs": "wrong", "not seen": "soft"}
    cells = [
        (
            escape(row["what"]), escape(row["server"]), number(row["tester"]), number(row["exporter"]),
            "–" if row["difference"] is None else f"{row['difference']:+.1%}",
            f'<span class="{tones[row["judgement"]]}">{escape(row["judgement"])}</span>', escape(row["why"]),
        )
        for row in rows
    ]  # fmt: skip
    head = ("what", "server", "tester", "exporter", "difference", "", "why")
    return section("Beside what the exporter saw", table(head, cells, text=(1, 6))) if rows else ""


def _itself(report: Report) -> str:
    own = report["self"]
    rows = [
        (name, *(_quantile(own[key], q) for q in _QUANTILES), f"{own[key]['count']:,}")
        for name, key in (("event loop", "lag_seconds"), ("sending", "send_lag_seconds"))
    ]
    busy = own["cpu_seconds"] / report["seconds"] if report["seconds"] else 0.0
    return section(
        "The tester itself",
        table(("late by", *_QUANTILES, "samples"), rows)
        + f'<p class="soft">Allowed: {_seconds(own["lag_allowed_seconds"])} at p99. It used {busy:.0%} of a core; the'
        f" clock moved by {abs(own['clock_jump_seconds']):.3f} s against itself; {own['unsent']} requests could not be"
        " sent.</p>",
    )


_NOTHING = {"name": "none", "context": None, "size_bytes": None, "vram_bytes": None, "quantization": ""}


def _surroundings(report: Report) -> str:
    rows = [
        (
            escape(server["name"]), escape(server["version"] or server["failure"] or "unknown"),
            escape(model["name"]), number(model["context"]), _bytes(model["size_bytes"]), _bytes(model["vram_bytes"]),
            escape(model["quantization"]),
        )
        for server in report["environment"]["servers"]
        for model in server["loaded"] or [_NOTHING]
    ]  # fmt: skip
    head = ("server", "version", "loaded model", "context", "memory", "of it on the GPU", "quantization")
    command = escape(" ".join(report["command"]))
    tool, machine = report["tool"], report["environment"]["machine"]
    return section(
        "What was measured, and with what",
        table(head, rows)
        + f'<p class="soft">{escape(tool["name"])} {escape(tool["version"])}, Python {escape(tool["python"])},'
        f" {machine['cpus']} CPUs, {escape(machine['system'])}; seed {report['scenario']['seed']}.</p>"
        + (f"<details><summary>The command</summary><pre>{command}</pre></details>" if command else ""),
    )


# --- small things -----------------------------------------------------------------------------------------------------


def section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text: Sequence[int] = ()) -> str:
    heads = "".join(
        f'<th class="text">{each}</th>' if place in text else f"<th>{each}</th>" for place, each in enumerate(head)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="text">{cell}</td>' if place in text else f"<td>{cell}</td>" for place, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _quantile(stats: Mapping[str, Any], q: str) -> str:
    value = stats[q]
    if value is not None:
        return _seconds(value)
    why = stats["absent"].get(q, "")
    short = "too few" if why.startswith("too few") else "failed" if why else "–"
    return f'<span class="soft" title="{escape(why)}">{short}</span>'


def _seconds(value: float | None) -> str:
    return "–" if value is None else charts.seconds(value)


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _bytes(value: float | None) -> str:
    return "–" if value is None else f"{value / 2**30:.2f} GiB" if value >= 2**29 else f"{value / 2**20:.0f} MiB"
