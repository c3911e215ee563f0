"""A run as JSON (docs/load-report.schema.json) and its requests as CSV. What other reports show is taken from here."""

from __future__ import annotations

import csv
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO

from exporter import __version__
from exporter.config.kinds import shown
from exporter.loadtest.measure import QUANTILES, Histogram, percentile
from exporter.loadtest.outcomes import Result
from exporter.loadtest.page import Page
from exporter.loadtest.preflight import Seen
from exporter.loadtest.run import Ending
from exporter.loadtest.scenario import Scenario
from exporter.loadtest.tally import Group, Slice, Tally
from exporter.loadtest.verdict import Own, Verdict, lag_bound, own_p99

SCHEMA = 1
JSON, CSV, HTML = "report.json", "report.csv", "report.html"

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a report tells of."""

    scenario: Scenario
    tally: Tally
    own: Own
    verdict: Verdict
    seen: Sequence[Seen]
    began_at: float
    ended_at: float
    seconds: float
    ending: Ending
    warm_ups: Sequence[Result] = ()
    cpu_seconds: float = 0.0
    reconciliation: Sequence[Mapping[str, Any]] = ()
    command: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    pages: Sequence[Page] = ()
    """Of the exporter's metrics, taken while it ran."""


def build(facts: Facts) -> Report:
    tally, everything, own, gaps = facts.tally, facts.tally.all, facts.own, facts.tally.gaps()
    width, slices = tally.timeline()
    return {
        "schema": SCHEMA,
        "tool": {"name": "ollama-exporter load", "version": __version__, "python": platform.python_version()},
        "command": list(facts.command),
        "scenario": {**shown(facts.scenario), "trace": None},
        "began_at": facts.began_at,
        "ended_at": facts.ended_at,
        "seconds": facts.seconds,
        "ending": facts.ending,
        "verdict": facts.verdict.word,
        "why": list(facts.verdict.why),
        "notes": [*facts.verdict.notes, *facts.notes],
        "objectives": [asdict(each) for each in facts.verdict.judgements],
        "requests": {
            **_requests(everything),
            "censored": everything.censored,
            "warm_up": len(facts.warm_ups),
            "settling": tally.settling.offered,
        },
        **_measures(everything),
        "inter_chunk_seconds": stats(gaps),
        "rates": _rates(facts),
        "self_lag_seconds": own_p99(own.lag),
        "self": {
            "lag_seconds": stats(own.lag),
            "send_lag_seconds": stats(own.send_lag),
            "lag_allowed_seconds": lag_bound(everything, facts.scenario.objectives),
            "clock_jump_seconds": own.jump,
            "unsent": own.unsent,
            "cpu_seconds": facts.cpu_seconds,
        },
        "warm_up": [
            {"server": each.server, "model": each.model, "outcome": each.outcome, "load_seconds": each.load,
             "total_seconds": each.total}
            for each in facts.warm_ups
        ],
        "starts": {"cold": _group(tally.cold), "warm": _group(tally.warm)},
        "workloads": [
            {"name": name, "model": model, **_group(group)} for (name, model), group in tally.by_workload.items()
        ],
        "servers": [{"name": name, **_group(group)} for name, group in sorted(tally.by_server.items())],
        "phases": _phases(facts),
        "timeline": {
            "width_seconds": width,
            "slices": [_slice(each, width, place) for place, each in enumerate(slices)],
        },
        "distributions": {
            "ttft_seconds": coarse(everything.ttft), "total_seconds": coarse(everything.total),
            "inter_chunk_seconds": coarse(gaps),
        },
        "environment": _environment(facts.seen),
        "reconciliation": list(facts.reconciliation),
    }  # fmt: skip


def stats(values: Histogram, missing: int = 0) -> dict[str, Any]:
    """`absent` says why a percentile is null, `intervals` where it lies in 95 of 100 runs (null: among the failed)."""
    told = {name: percentile(values, q, missing) for name, q in QUANTILES.items()}
    return {
        "count": values.count,
        "missing": missing,
        "mean": values.mean,
        **{name: each.value for name, each in told.items()},
        "max": values.max,
        "intervals": {name: [each.low, each.high] for name, each in told.items() if not each.why},
        "absent": {name: each.why for name, each in told.items() if each.why},
    }


def coarse(values: Histogram, parts: int = 12) -> list[list[float]]:
    """For a picture: counts by a dozen bars in each power of ten, as (lower bound, upper bound, count). What is less
    than 0.1 ms came with what was before it, and is put there."""
    bars: dict[int, int] = {}
    for value, times in values.buckets():
        place = math.floor(math.log10(max(value, 1e-4)) * parts)
        bars[place] = bars.get(place, 0) + times
    return [[10 ** (place / parts), 10 ** ((place + 1) / parts), count] for place, count in sorted(bars.items())]


def _requests(group: Group) -> dict[str, Any]:
    failed = group.failed
    return {
        "offered": group.offered, "completed": group.completed, "good": group.good, "failed": failed,
        "failed_total": sum(failed.values()),
    }  # fmt: skip


def _measures(group: Group) -> dict[str, Any]:
    return {
        "success_ratio": group.success,
        "goodput_ratio": group.goodput,
        "ttft_seconds": stats(group.ttft, group.missing),
        "total_seconds": stats(group.total, group.lost),
        "time_per_output_token_seconds": stats(group.per_token),
        "inter_chunk_seconds": stats(group.gaps),
        "queue_upper_bound_seconds": stats(group.queue),
        "load_seconds": stats(group.load),
        "tokens": {"prompt": group.prompt_tokens, "generated": group.tokens, "prompt_words": group.words},
    }


def _group(group: Group) -> dict[str, Any]:
    return {"requests": _requests(group), **_measures(group)}


def _phases(facts: Facts) -> list[dict[str, Any]]:
    groups = facts.tally.by_phase
    return [
        {"name": phase.name, "begin_seconds": begin, "seconds": phase.seconds, "start": phase.start, "end": phase.end,
         **_group(groups.get(phase.name) or Group(facts.scenario.objectives))}
        for begin, phase in facts.scenario.course.begins()
    ]  # fmt: skip


def _slice(each: Slice, width: float, place: int) -> dict[str, Any]:
    """For a picture, so percentiles of few are told here: a line with holes would show less."""
    ranks = {"p50": 0.5, "p95": 0.95}
    return {
        "at": place * width,
        "offered": each.offered,
        "failed": each.failed,
        "ended": each.ended,
        "tokens": each.tokens,
        **{
            f"{what}_{name}": values.at_rank(max(1, round(q * values.count)))
            for what, values in (("ttft", each.ttft), ("total", each.total))
            for name, q in ranks.items()
        },
        "ttft_max": each.ttft.max,
    }


def _rates(facts: Facts) -> dict[str, float]:
    """Offered while requests were due; completed also while the last answers were waited for."""
    groups = (facts.tally.all, facts.tally.settling)
    planned = facts.scenario.course.seconds
    due = planned if facts.ending == "complete" else min(planned, facts.seconds)
    whole = max(due, facts.seconds)
    return {
        "offered_per_second": sum(group.offered for group in groups) / due if due else 0.0,
        "completed_per_second": sum(group.completed for group in groups) / whole if whole else 0.0,
        "tokens_per_second": sum(group.tokens for group in groups) / whole if whole else 0.0,
    }


def _environment(seen: Sequence[Seen]) -> dict[str, Any]:
    return {
        "machine": {"system": platform.system(), "release": platform.release(), "cpus": os.cpu_count()},
        "servers": [
            {
                "name": each.server, "url": each.url, "version": each.version or None, "failure": each.failure or None,
                "loaded": [
                    {"name": model.name, "digest": model.digest[:12], "context": model.context,
                     "size_bytes": model.size, "vram_bytes": model.vram, "quantization": model.details.quantization}
                    for model in each.loaded
                ],
            }
            for each in seen
        ],
    }  # fmt: skip


# --- CSV --------------------------------------------------------------------------------------------------------------

COLUMNS = tuple(each.name for each in fields(Result))


class Requests:
    """report.csv: a row for each request, written when it has ended. Nothing is lost if the tester itself ends."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8", newline="", buffering=64 * 1024)
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def hear(self, result: Result) -> None:
        self._writer.writerow([_cell(getattr(result, name)) for name in COLUMNS])

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6f}"
    return "" if value is None else value


def read(path: Path) -> Iterable[Result]:
    """The rows of a report.csv. Raises ValueError for what is none."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} is no report.csv of this version")
        for row in reader:
            yield Result(**{each.name: _value(str(each.type), row[each.name]) for each in fields(Result)})


def _value(kind: str, text: str) -> Any:
    if text == "" and "None" in kind:
        return None
    match kind.partition(" ")[0]:
        case "float":
            return float(text)
        case "int":
            return int(text)
        case "bool":
            return text == "True"
    return text
