"""Pass, fail, or a run that proves nothing. Pure.

Objectives on percentiles are judged by counting: p95 within 2 s means that 95 of 100 requests are, and that can be
counted in any sample, where the percentile itself may be too much for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from exporter.loadtest.measure import Histogram
from exporter.loadtest.run import Ending
from exporter.loadtest.scenario import Objectives
from exporter.loadtest.tally import Group

Word = Literal["pass", "fail", "invalid"]
EXIT: dict[Word, int] = {"pass": 0, "fail": 1, "invalid": 3}

_OWN_SHARE = 0.1
"""Of the median time to the first token: how late the tester may be in 99 of 100 moments."""
_OF_OBJECTIVE = 0.05
"""Of the objective of p95 (100 ms of 2 s): what is less cannot change what is judged, however fast the answers are."""
_UNSENT_MAX = 0.02
_JUMP_MAX = 0.5


@dataclass(frozen=True, slots=True)
class Judgement:
    """One objective. `share` of the requests kept it, `needed` had to."""

    objective: str
    bound: str
    share: float | None
    needed: float
    kept: bool
    requests: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`why`: what makes a run invalid, or an objective missed, in words. `notes`: what else a reader should know."""

    word: Word
    judgements: tuple[Judgement, ...]
    why: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Own:
    """What the tester says of itself. `offered`, `unsent`: over the whole run, with what is not judged."""

    lag: Histogram
    send_lag: Histogram
    jump: float
    offered: int
    unsent: int
    ending: Ending
    refused: tuple[str, ...] = ()
    """Why the run could not begin at all."""


def judge(group: Group, objectives: Objectives, own: Own) -> Verdict:
    judgements = tuple(_judgements(group, objectives))
    notes = tuple(_notes(group, own))
    invalid = tuple(_invalid(group, objectives, own))
    if invalid:
        return Verdict("invalid", judgements, invalid, notes)
    missed = [_missed(each) for each in judgements if not each.kept]
    if own.ending == "errors":
        missed.append("the run ended by itself: too many of its last requests failed")
    return Verdict("fail" if missed else "pass", judgements, tuple(missed), notes)


def lag_bound(group: Group, objectives: Objectives) -> float:
    median = group.ttft.at_rank((group.ttft.count + 1) // 2) or 0.0
    return max(_OWN_SHARE * median, _OF_OBJECTIVE * (objectives.ttft_p95 or objectives.ttft_p99 or 2.0))


# --- objectives -------------------------------------------------------------------------------------------------------


def _judgements(group: Group, objectives: Objectives) -> Iterator[Judgement]:
    streamed = group.ttft.count + group.missing
    for name, bound, needed in (("ttft_p95", objectives.ttft_p95, 0.95), ("ttft_p99", objectives.ttft_p99, 0.99)):
        if bound is not None and streamed:
            within = 1 - (group.ttft.above(bound) + group.missing) / streamed
            yield Judgement(name, f"{bound:g} s", within, needed, within >= needed, streamed)
    whole = group.total.count + group.lost
    if objectives.total_p95 is not None and whole:
        within = 1 - (group.total.above(objectives.total_p95) + group.lost) / whole
        yield Judgement("total_p95", f"{objectives.total_p95:g} s", within, 0.95, within >= 0.95, whole)
    success, goodput = group.success, group.goodput
    if success is not None:
        kept = success > objectives.success or success == 1.0
        yield Judgement("success", "answered well", success, objectives.success, kept, group.judged)
    if objectives.goodput is not None and goodput is not None:
        kept = goodput >= objectives.goodput
        yield Judgement("goodput", "good", goodput, objectives.goodput, kept, group.judged)


def _missed(judgement: Judgement) -> str:
    share = 0.0 if judgement.share is None else judgement.share
    if judgement.objective in ("success", "goodput"):
        return f"{judgement.objective}: {share:.2%} were {judgement.bound}, {judgement.needed:.4g} is needed"
    return f"{judgement.objective}: {share:.2%} were within {judgement.bound}, {judgement.needed:.0%} is needed"


# --- a run that proves nothing ----------------------------------------------------------------------------------------


def _invalid(group: Group, objectives: Objectives, own: Own) -> Iterator[str]:
    yield from own.refused
    if own.refused:
        return
    if not group.judged:
        yield "no request was judged"
        return
    bound = lag_bound(group, objectives)
    for what, lag in (("its own event loop", own.lag), ("its requests", own.send_lag)):
        late = own_p99(lag)
        if late > bound:
            yield (
                f"the tester lagged: 1 of 100 times {what} ran {late * 1000:.0f} ms late or more, {bound * 1000:.0f} ms"
                " are allowed. Give it a faster or less busy machine, or less to do"
            )
    if abs(own.jump) > _JUMP_MAX:
        yield (
            f"the clock jumped by {own.jump:+.1f} s during the run: the machine was suspended, or somebody set the"
            " clock"
        )
    if own.offered and own.unsent / own.offered > _UNSENT_MAX:
        yield (
            f"{own.unsent} of {own.offered} requests were not sent for the tester's own reasons (its limit of requests"
            " in flight, or of open files: ulimit -n)"
        )


def own_p99(lag: Histogram) -> float:
    """Also of a sample that carries no percentile for a report: better a rough judgement of oneself than none."""
    return lag.at_rank(math.ceil(0.99 * lag.count)) or 0.0


def _notes(group: Group, own: Own) -> Iterator[str]:
    endings = {
        "interrupted": "the run was stopped early; what ran is judged",
        "tokens": "the run ended at its limit of tokens (limits.tokens); what ran is judged",
        "duration": "the run ended at its limit of time (limits.duration); what ran is judged",
    }
    if own.ending in endings:
        yield endings[own.ending]
    if group.censored:
        yield f"{group.censored} requests were in flight when it was stopped, and are in no share"
    cut = group.outcomes["prompt_cut"]
    if cut:
        yield f"{cut} prompts were cut silently to the server's context (OLLAMA_CONTEXT_LENGTH): they count as failed"
