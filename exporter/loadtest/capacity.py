"""`load capacity`: how much servers carry within the objectives, where it bends, what bounds it, what would help."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from exporter import catalog
from exporter.config.kinds import duration_text
from exporter.loadtest import capacity_html, preflight, report
from exporter.loadtest.bounds import Bound, Kv, advice, bounds, kv_of
from exporter.loadtest.measure import Histogram
from exporter.loadtest.page import Page
from exporter.loadtest.report import Facts
from exporter.loadtest.safety import beyond, cost
from exporter.loadtest.scenario import Scenario
from exporter.loadtest.search import LEVELS_MAX, Found, Level, Stopped, Word, search
from exporter.loadtest.session import Session

_START, _MOST = 1 / 8, 16.0
_BACK_WITHIN = 120.0
_PILE, _PILE_LEAST = 2.0, 5
"""How many times as many requests may be in flight at the end as at the beginning, and so many more."""
_PAUSE = 2.0
"""Seconds between two runs, in which queues run empty."""


class NotRestarted(Exception):
    """The server did not come back, or the command failed."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of one setting of OLLAMA_NUM_PARALLEL; None: as the servers were found."""

    parallel: int | None
    unit: str
    found: Found
    bound_by: tuple[Bound, ...]
    advice: tuple[str, ...]


def main(session: Session, given: Mapping[str, Any], out: Path) -> int:
    """Exit code: 0 there is a load that is carried, 1 not even the lowest, 2 the server could not be restarted, 3 the
    lowest proved nothing."""
    settings = [int(each) for each in (given["parallel"] or "").split(",") if each.strip().isdigit()]
    if settings and not given["restart"]:
        print("--parallel needs --restart: the server reads OLLAMA_NUM_PARALLEL when it starts")
        return 2
    console = session.console
    scenario = session.scenario
    each = duration_text(scenario.course.seconds)
    runs = LEVELS_MAX * given["repeats"] * max(1, len(settings))
    console.print(
        f"at most {runs} runs of {each}, and the waits for their last answers;"
        f" one run of the scenario as it is: {cost(scenario).text()}"
    )
    try:
        found = asyncio.run(_all(session, settings, given, out))
    except NotRestarted as error:
        print(error)
        return 2
    built = {
        "schema": report.SCHEMA, "scenario": scenario.name, "capacities": [_told(each) for each in found],
        "command": list(session.command),
    }  # fmt: skip
    (out / "capacity.json").write_text(json.dumps(built, indent=1) + "\n", "utf-8")
    (out / "capacity.html").write_text(capacity_html.page(built, scenario.objectives.ttft_p95), "utf-8")
    for capacity in found:
        Console(highlight=False, quiet=console.quiet).print("\n".join(lines(capacity)), soft_wrap=True, markup=False)
    console.print(f"reports: {out}/capacity.json, capacity.html, and one for each run", soft_wrap=True)
    if any(capacity.found.highest for capacity in found):
        return 0
    return 3 if all(capacity.found.bounded_by_tester for capacity in found) else 1


async def _all(session: Session, settings: Sequence[int], given: Mapping[str, Any], out: Path) -> list[Capacity]:
    found = []
    for parallel in settings or (None,):
        if parallel is not None:
            await _restart(session, given["restart"], parallel)
        found.append(await _one(session, parallel, given, out))
    return found


async def _one(session: Session, parallel: int | None, given: Mapping[str, Any], out: Path) -> Capacity:
    scenario = session.scenario
    whole = scenario.users is not None
    load = float(scenario.users or scenario.rate or 1.0)
    last: list[Facts] = []

    async def measure(load: float) -> Level:
        scaled = _scaled(scenario, load)
        refusals = list(beyond(scaled, cost(scaled)))
        if refusals:
            return Level(load, "invalid", 0, 0.0, (0.0, 0.0), None, None, tuple(refusals))
        session.console.print(f"load {load:g}{f', {parallel} slots' if parallel else ''}")
        runs: list[Facts] = []
        for number in range(given["repeats"]):
            again = replace(scaled, seed=scaled.seed + number)
            facts = await replace(session, scenario=again).conduct()
            name = f"run-{f'p{parallel}-' if parallel else ''}{load:g}-{number + 1}.json"
            (out / name).write_text(json.dumps(report.build(facts), indent=1, allow_nan=False) + "\n", "utf-8")
            runs.append(facts)
            if facts.ending == "interrupted":
                raise Stopped
            if facts.verdict.word != "pass" or piled_up(facts):
                break
            await asyncio.sleep(_PAUSE)
        level = level_of(load, runs)
        if level.verdict != "pass" or not last:
            last[:] = [runs[-1]]
        return level

    found = await search(measure, given["start"] or load * _START, given["most"] or load * _MOST, whole=whole)
    pages = last[0].pages if last else ()
    bound_by = bounds(pages, [server.name for server in session.servers]) if found.lowest_failed else []
    seen = last[0].seen if last else ()
    slots = parallel or _slots(pages, session)
    helps = advice(bound_by, seen if pages else (), slots, await _kvs(session, seen, slots))
    unit = "users" if whole else "requests a second"
    return Capacity(parallel, unit, found, tuple(bound_by), tuple(helps) if found.lowest_failed else ())


def piled_up(facts: Facts) -> str:
    """Of an open loop, why its load was not carried although the objectives were met: a short run may end before a
    growing queue hurts. Empty when it was, or where users wait for their answers."""
    scenario, tally = facts.scenario, facts.tally
    if scenario.closed:
        return ""
    inside = [each for place, each in enumerate(tally.slices) if place * tally.width < scenario.course.seconds]
    early = Histogram()
    for each in inside[: max(1, len(inside) // 3)]:
        early.merge(each.total)
    offered, over = sum(each.offered for each in inside), sum(each.ended + each.failed for each in inside)
    usual = (scenario.rate or 0.0) * (early.at_rank((early.count + 1) // 2) or 0.0)
    if offered - over <= _PILE * usual + _PILE_LEAST:
        return ""
    return f"requests piled up: {offered - over} were unanswered at the end, {usual:.0f} at its beginning"


def level_of(load: float, runs: Sequence[Facts]) -> Level:
    rates = [facts.tally.all.completed / max(facts.seconds, 1e-9) for facts in runs]
    begun = [facts.tally.all.ttft for facts in runs if facts.tally.all.ttft.count]
    ttfts = [value for each in begun if (value := each.at_rank(max(1, round(0.95 * each.count)))) is not None]
    goodputs = [value for facts in runs if (value := facts.tally.all.goodput) is not None]
    words: list[Word] = [facts.verdict.word for facts in runs]
    why = runs[-1].verdict.why
    if words[-1] == "pass" and (pile := piled_up(runs[-1])):
        words[-1], why = "fail", (pile,)
    return Level(
        load,
        "fail" if "fail" in words else "invalid" if "invalid" in words else "pass",
        len(runs),
        statistics.median(rates),
        (min(rates), max(rates)),
        statistics.median(ttfts) if ttfts else None,
        min(goodputs) if goodputs else None,
        why,
    )


def _scaled(scenario: Scenario, load: float) -> Scenario:
    if scenario.users is not None:
        return replace(scenario, users=round(load))
    return replace(scenario, rate=load)


def _slots(pages: Sequence[Page], session: Session) -> int | None:
    values = [page.total(catalog.RUNNER_SLOTS, server=session.servers[0].name) for page in pages[-1:]]
    return int(values[0]) if values and values[0] else None


async def _kvs(session: Session, seen: Sequence[preflight.Seen], slots: int | None) -> list[Kv]:
    """Of the models that were asked, as loaded on the first server."""
    found = []
    for loaded in seen[0].loaded if seen and slots else ():
        if loaded.name in session.scenario.models and loaded.size and loaded.context:
            info = await preflight.model_info(session.servers[0].endpoint, loaded.name)
            kv = kv_of(loaded.name, loaded.context, loaded.size, slots or 1, info)
            found += [kv] if kv else []
    return found


async def _restart(session: Session, command: str, parallel: int) -> None:
    session.console.print(f"restarting with OLLAMA_NUM_PARALLEL={parallel}")
    words = shlex.split(command.replace("{parallel}", str(parallel)))
    try:
        process = await asyncio.create_subprocess_exec(
            *words, env={**os.environ, "OLLAMA_NUM_PARALLEL": str(parallel)}, stdin=asyncio.subprocess.DEVNULL
        )
        code = await asyncio.wait_for(process.wait(), _BACK_WITHIN)
    except OSError as error:
        raise NotRestarted(f"--restart: {words[0]}: {error.strerror}") from None
    except TimeoutError:
        raise NotRestarted(f"--restart: the command did not end within {_BACK_WITHIN:.0f} s") from None
    if code != 0:
        raise NotRestarted(f"--restart: the command ended with {code}")
    until = asyncio.get_running_loop().time() + _BACK_WITHIN
    while any(each.failure for each in await preflight.look((s.name, s.endpoint) for s in session.servers)):
        if asyncio.get_running_loop().time() > until:
            raise NotRestarted(f"--restart: the servers did not answer within {_BACK_WITHIN:.0f} s")
        await asyncio.sleep(0.5)


# --- in words ---------------------------------------------------------------------------------------------------------


def lines(capacity: Capacity) -> list[str]:
    found, unit = capacity.found, capacity.unit
    head = f"OLLAMA_NUM_PARALLEL={capacity.parallel}: " if capacity.parallel is not None else ""
    if found.highest is None:
        lowest = found.levels[0] if found.levels else None
        why = "; ".join(lowest.why) if lowest else "nothing was tried"
        told = [f"{head}not even {lowest.load if lowest else 0:g} {unit} were carried within the objectives: {why}"]
    else:
        best = found.highest
        told = [
            f"{head}{best.load:g} {unit} are carried within the objectives ({best.runs} of {best.runs} runs),"
            f" {best.throughput:.3g} answers a second"
        ]
        if found.lowest_failed is None:
            told.append("  the search ended there (--most); it may carry more")
        elif found.bounded_by_tester:
            told.append(f"  beyond it the tester itself was the limit: {'; '.join(found.lowest_failed.why)}")
        else:
            told.append(f"  {found.lowest_failed.load:g} are too much: {'; '.join(found.lowest_failed.why)}")
    if found.knee:
        told.append(f"  knee: from {found.knee.load:g} {unit} on, latency rises faster than throughput")
    if found.saturation:
        told.append(
            f"  saturated: from {found.saturation.load:g} {unit} on, more load brings no more than"
            f" {found.saturation.throughput:.3g} answers a second"
        )
    told += [f"  bounded by {bound.what} ({bound.where}): {bound.seen}" for bound in capacity.bound_by]
    told += [f"  {line}" for line in capacity.advice]
    return told


def _told(capacity: Capacity) -> dict[str, Any]:
    return {**asdict(capacity), "words": lines(capacity)}
