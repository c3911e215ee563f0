"""What is true, what was measured, and whether that is good enough: the rows of a run's table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.truth.book import LETS_GO, Bounds, Request, Span
from benchmarks.truth.judge import (
    Amount,
    Count,
    Gauge,
    Measure,
    certain,
    counted,
    generated,
    own,
    pace,
    read,
    total,
    with_status,
)
from benchmarks.truth.run import Run, busy_slots, crashed, unanswered_requests, waiting_bounds
from benchmarks.truth.runners import Runner
from benchmarks.truth.slots import Look, tasks, unwatched
from exporter import catalog
from exporter.model import Family

EXACT = 0.99
"""Share of readings of unanswered requests that have to be exact."""
NEAR = 0.01
"""Share by which tokens may be off."""

Verdict = str
YES, NO, LOWER, UNKNOWN, TOLD = "yes", "**NO**", "a lower bound", "cannot be judged", ""


@dataclass(frozen=True, slots=True)
class Row:
    source: str
    what: str
    true: str
    measured: str
    wrong: str
    verdict: Verdict


def rows(run: Run) -> Iterator[Row]:
    yield from _gauges(run)
    yield from _tokens(run)
    yield from _lives(run)
    yield from _requests(run)


# -- gauges


def _gauges(run: Run) -> Iterator[Row]:
    yield _gauge("sockets", "unanswered requests", unanswered_requests(run), EXACT)
    for side, seen in zip(("lower", "upper"), waiting_bounds(run), strict=True):
        wrong = f"{len(seen.wrong)} wrong; {seen.absent} absent, {seen.unjudged} not judged"
        verdict = NO if len(seen.wrong) > (1 - EXACT) * seen.judged else YES
        yield Row(
            "sockets",
            f"waiting requests, {side} bound",
            f"{seen.all} readings",
            f"{seen.exact + seen.within} hold",
            wrong,
            verdict,
        )
    for model in run.names.values():
        yield _gauge("runner", f"busy slots, {model}", busy_slots(run, model), 1.0)


def _gauge(source: str, what: str, seen: Gauge, share: float) -> Row:
    there = seen.all - seen.gone
    true = f"{there} readings; the truth is one number in {seen.sharp} ({_share(seen.sharp, there)})"
    measured = f"{seen.exact} exact, {seen.busy} of them above 0; {seen.within} within its bounds"
    wrong = f"{len(seen.wrong)} wrong"
    off = Counter(int(told - (bounds.low if told < bounds.low else bounds.high)) for _, told, bounds in seen.wrong)
    wrong += f" (by {', '.join(f'{by:+d}: {times}' for by, times in sorted(off.items()))})" if off else ""
    wrong += f"; {seen.absent} absent, {seen.unjudged} not judged"
    true += f"; {seen.gone} more without a runner that was ready" if seen.gone else ""
    return Row(source, what, true, measured, wrong, _verdict(seen.holds(share)))


def _verdict(holds: bool | None) -> Verdict:
    return UNKNOWN if holds is None else YES if holds else NO


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


# -- tokens


def _tokens(run: Run) -> Iterator[Row]:
    made, taken = token_bounds(run)
    whole, read_whole = total(made.values()), total(taken.values())
    told = {model: run.gained(catalog.RUNNER_TOKENS, model=model) for model in run.chat}
    short = "swaps" in run.kind  # what a runner makes after the last poll of its life is lost
    for model in run.chat:
        yield _amount("runner", f"tokens made, {model}", Amount(made[model], told[model]), short)
    counted = _sum(told.values())
    yield _amount("runner", "tokens made, all models", Amount(whole, counted), short)
    for model in run.chat:
        families = (catalog.RUNNER_PROMPT_TOKENS, catalog.RUNNER_PROMPT_CACHED)
        told[model] = _sum(run.gained(family, model=model) for family in families)
        yield _amount("runner", f"prompt tokens, {model}", Amount(taken[model], told[model]), short)
    yield _amount("runner", "prompt tokens, all models", Amount(read_whole, _sum(told.values())), short)
    yield _amount("runner", "tokens seen in /slots", Amount(whole, run.gained(catalog.RUNNER_TOKENS_SEEN)), lower=True)
    finished = [r for r in run.requests if r.outcome == "done" and r.model in run.chat]
    logged = run.gained(catalog.LOG_GENERATED_TOKENS)
    yield _finished("tokens of finished answers", sum(r.tokens for r in finished), whole.high, logged)
    logged = _sum((logged, run.gained(catalog.LOG_ABANDONED_TOKENS)))
    yield _amount("logs", "all tokens made, abandoned ones too", Amount(whole, logged), lower=True)
    logged = _sum((logged, run.gained(catalog.LOG_CUT_OFF_TOKENS)))
    recorded = max(counted or 0.0, logged or 0.0) if _end_often(run) else counted
    yield _amount("rules", "tokens of the server, as recorded", Amount(whole, recorded), short)
    prompt_tokens = _sum((run.gained(catalog.LOG_PROMPT_TOKENS), run.gained(catalog.LOG_CACHED_TOKENS)))
    embedded = sum(r.prompt_tokens for r in run.requests if r.kind == "embed")
    of_prompts = sum(r.prompt_tokens for r in finished)
    yield _finished("prompt tokens of finished answers", of_prompts, read_whole.high + embedded, prompt_tokens)
    if (cut_off := run.gained(catalog.LOG_CUT_OFF)) is not None:
        rest = sum(r.outcome not in ("done", "refused") or r.kind == "embed" for r in run.requests)
        generations = _sum((run.gained(catalog.LOG_GENERATIONS), run.gained(catalog.LOG_ABANDONED), cut_off))
        true = Bounds(len(finished), len(finished) + rest)
        yield _whole("generations, finished, abandoned or cut off", true, generations)
        what = f"tokens, with those told of {cut_off:.0f} cut off"
        yield _amount("logs", what, Amount(whole, logged), lower=True)
        guess = _amount("logs", "tokens, as the recorded rule estimates them", Amount(whole, _estimate(run)))
        yield replace(guess, verdict=TOLD)


def _end_often(run: Run) -> bool:
    """As alerts/recording.rules.yml asks before it takes the log's tokens: three in five minutes."""
    return sum((runner.ended or 0.0) > run.begun for runner in run.runners) > 0.01 * run.seconds


def _estimate(run: Run) -> float:
    """As alerts/recording.rules.yml does it: those cut off are as long as those that told their tokens."""
    estimate = 0.0
    for labels, _ in run.pages[-1].samples.get(catalog.LOG_GENERATIONS.name, ()):

        def gained(*families: Family, labels: Mapping[str, str] = labels) -> float:
            return _sum(run.gained(family, **labels) for family in families) or 0.0

        tokens = gained(catalog.LOG_GENERATED_TOKENS, catalog.LOG_ABANDONED_TOKENS)
        told = gained(catalog.LOG_GENERATIONS, catalog.LOG_ABANDONED)
        likely = tokens * (1 + gained(catalog.LOG_CUT_OFF) / told) if told else 0.0
        estimate += max(likely, tokens + gained(catalog.LOG_CUT_OFF_TOKENS))
    return estimate


def token_bounds(run: Run) -> tuple[dict[str, Bounds], dict[str, Bounds]]:
    """By model: tokens made, and tokens of prompts."""
    fastest = pace(run.requests)
    made, taken = {}, {}
    for model in run.chat:
        ours = [runner for runner in run.runners if run.model(runner) == model]
        looks = [run.looks.get(runner.pid, []) for runner in ours]
        met = [task for r, seen in zip(ours, looks, strict=True) for task in tasks(seen, fastest, r.ended)]
        asked = [request for request in run.requests if request.model == model]
        known = run.prompts[model]
        of_tokens, of_prompts = [], []
        for request in asked:
            cut = [] if request.outcome == "done" else own(request, met, known.get(request.prompt))
            sure = certain(request, cut, asked, known)
            unseen = 0.0 if request.outcome == "done" else _unseen(request, ours, looks)
            of_tokens.append(generated(request, cut, math.ceil(fastest * unseen), sure))
            of_prompts.append(read(request, cut, known[request.prompt], sure))
            if request.outcome not in ("done", "refused"):
                run.cut[request.number] = {"tasks": len(cut), "tokens": of_tokens[-1], "prompt": of_prompts[-1]}
        made[model], taken[model] = total(of_tokens), total(of_prompts)
    return made, taken


def _unseen(request: Request, runners: Sequence[Runner], looks: Sequence[Sequence[Look]]) -> float:
    """Seconds that a runner can have worked for it without that anybody looked."""
    end = request.end.high + LETS_GO if request.end else math.inf
    lives = [Span(runner.began or 0.0, runner.ended or math.inf) for runner in runners]
    span = Span(request.sent.low, end)
    return max((unwatched(seen, life, span) for seen, life in zip(looks, lives, strict=True)), default=0.0)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _amount(source: str, what: str, amount: Amount, lower: bool = False) -> Row:
    """`lower`: the exporter says itself that it is a lower bound."""
    low, high = amount.true
    true = f"{low:,.0f}" if amount.true.sharp else f"{low:,.0f} to {high:,.0f} (+{amount.width:.1%})"
    if amount.told is None:
        return Row(source, what, true, "absent", "", NO if low else TOLD)
    off = f"off by {amount.off:+.2%}" if amount.off else "exact" if amount.true.sharp else "within its bounds"
    verdict = LOWER if lower and amount.off <= 0 else _verdict(amount.holds(NEAR))
    return Row(source, what, true, f"{amount.told:,.0f}", off, verdict)


def _finished(what: str, complete: float, most: float, told: float | None) -> Row:
    """Of the log: an answer that its client did not wait for may have been finished or not, so that there is an upper
    bound as well."""
    value = told or 0.0
    amount = Amount(Bounds(complete, most), value)
    verdict = _verdict(abs(amount.off) <= NEAR)
    return Row("logs", what, f"{complete:,.0f}", f"{value:,.0f}", f"{value - complete:+,.0f}", verdict)


# -- lives of runners


def _lives(run: Run) -> Iterator[Row]:
    births = [(r.began, r) for r in run.runners if r.began is not None and r.began > run.begun]
    ends = [(r.ended, r) for r in run.runners if r.ended is not None and r.ended > run.begun]
    quick, slow = 2 * run.every + 2.0, 2 * run.every + 12.0

    def row(source: str, what: str, measure: Measure, events: Sequence[float], lag: float, lower: bool = False) -> Row:
        return _count(source, what, counted(run.readings(source), measure, sorted(events), lag), lower)

    starts = [at for at, _ in births]
    crashes = [at for at, runner in ends if crashed(runner)]
    unloads = [at for at, runner in ends if not crashed(runner)]
    yield row("runner", "loads", run.of(catalog.RUNNER_STARTS), starts, slow)
    for model in sorted({run.model(runner) for _, runner in births}):
        of_model = [at for at, runner in births if run.model(runner) == model]
        yield row("runner", f"loads, {model}", run.of(catalog.RUNNER_STARTS, model=model), of_model, slow)
    yield row("runner", "ends, whatever the reason", run.of(catalog.RUNNER_ENDS), [at for at, _ in ends], slow)
    yield row("runner", "unloads", run.of(catalog.RUNNER_ENDS, reason="unloaded"), unloads, slow)
    yield row("runner", "crashes", run.of(catalog.RUNNER_ENDS, reason="died"), crashes, slow)
    yield _reasons(run, len(unloads), len(crashes))
    yield row("logs", "loads", run.of(catalog.LOG_LOADS_BEGUN), starts, quick)
    yield row("logs", "crashes", run.of(catalog.LOG_EVENTS, kind="runner_died"), crashes, run.seconds, lower=True)
    yield row("api", "loads", run.of(catalog.LOADS_SEEN), starts, slow, lower=True)
    yield row("api", "unloads", run.of(catalog.UNLOADS_SEEN), [at for at, _ in ends], slow, lower=True)


def _reasons(run: Run, unloads: int, crashes: int) -> Row:
    told = {why: run.gained(catalog.RUNNER_ENDS, reason=why) or 0.0 for why in ("unloaded", "died", "unknown")}
    measured = ", ".join(f"{count:.0f} {why}" for why, count in told.items())
    passed = max(0.0, told["unloaded"] - unloads) + max(0.0, told["died"] - crashes)
    wrong = f"{passed:.0f} of the wrong reason, {told['unknown']:.0f} unknown"
    return Row("runner", "reasons", f"{unloads} unloaded, {crashes} died", measured, wrong, NO if passed else YES)


def _count(source: str, what: str, count: Count, lower: bool = False) -> Row:
    told = "absent" if count.told is None else f"{count.told:.0f}"
    verdict = YES if not count.missed and not count.twice else NO
    if lower and count.missed and not count.twice:
        verdict = LOWER
    if count.told is None and not count.true:
        return Row(source, what, "0", told, "", TOLD)
    return Row(source, what, str(count.true), told, f"{count.missed} missed, {count.twice} twice", verdict)


# -- requests


def _requests(run: Run) -> Iterator[Row]:
    cut = [r for r in run.requests if r.kind == "truncated"]
    certain = sum(r.outcome == "done" for r in cut)
    truncated = Bounds(certain, sum(r.outcome != "refused" for r in cut))
    yield _whole("prompts truncated", truncated, run.gained(catalog.LOG_EVENTS, kind="prompt_truncated"))
    for status, low, high in (("2xx", 200, 299), ("4xx", 400, 498), ("499", 499, 499), ("5xx", 500, 599)):
        true = with_status(run.requests, low, high, but=503)
        yield _whole(f"requests {status}", true, run.gained(catalog.LOG_REQUESTS, status=status))
    refused = sum(r.status == 503 for r in run.requests)
    yield _whole("requests 503", Bounds(refused, refused), run.gained(catalog.LOG_REQUESTS, status="503"))


def _whole(what: str, true: Bounds, told: float | None) -> Row:
    shown = f"{true.low:.0f}" if true.sharp else f"{true.low:.0f} to {true.high:.0f}"
    value = told or 0.0  # a status that nobody got has no series
    missed, twice = max(0.0, true.low - value), max(0.0, value - true.high)
    verdict = YES if not missed and not twice else NO
    return Row("logs", what, shown, f"{value:.0f}", f"{missed:.0f} missed, {twice:.0f} twice", verdict)
