"""What recorded names come to that no alert asks for, so that no alert's test would notice."""

# ruff: noqa: E501 (tables of sentences: long and flat on purpose)

from __future__ import annotations

from dataclasses import dataclass

from cases import MODEL, SERVER, Series, count, series, steps


@dataclass(frozen=True, slots=True)
class Expected:
    """`values`: of the name's only series at these minutes, None for none."""

    name: str
    story: str
    series: tuple[Series, ...]
    values: tuple[tuple[int, float | None], ...]
    labels: tuple[tuple[str, str], ...] = tuple(sorted(MODEL.items()))


_ESTIMATE = "model:ollama_log_generated_tokens_estimate:rate_5m"


_NONE = count((0, 40))


def _logged(
    tokens: str, generations: str, cut_off: str, seen: str, read: str, left: tuple[str, str] = (_NONE, _NONE)
) -> tuple[Series, ...]:
    """`left`: tokens and generations whose clients did."""
    return (
        series("ollama_log_generated_tokens_total", MODEL, tokens),
        series("ollama_log_abandoned_tokens_total", MODEL, left[0]),
        series("ollama_log_generations_total", MODEL, generations),
        series("ollama_log_generations_abandoned_total", MODEL, left[1]),
        series("ollama_log_generations_cut_off_total", MODEL, cut_off),
        series("ollama_log_cut_off_seen_tokens_total", MODEL, seen),
        series("ollama_source_up", {**SERVER, "source": "logs"}, read),
    )


_TOKENS = "server:ollama_generated_tokens:rate_5m"


def _made(by_runners: str, by_log: str, ends: str, read: str, left: str = _NONE) -> tuple[Series, ...]:
    return (
        series("ollama_runner_generated_tokens_total", MODEL, by_runners),
        series("ollama_log_generated_tokens_total", MODEL, by_log),
        series("ollama_log_abandoned_tokens_total", MODEL, left),
        series("ollama_log_cut_off_seen_tokens_total", MODEL, _NONE),
        series("ollama_runner_ends_seen_total", {**MODEL, "reason": "unloaded"}, ends),
        series("ollama_source_up", {**SERVER, "source": "runner"}, steps((1, 40))),
        series("ollama_source_up", {**SERVER, "source": "logs"}, read),
    )


_BY_SERVER = tuple(sorted(SERVER.items()))

EXPECTED = (
    Expected(_TOKENS, "runners go on: their count, which has long answers before they end",
             _made(count((600, 40)), count((0, 9), (6000, 1), (0, 30)), count((0, 40)), steps((1, 40))), ((13, 10.0), (30, 10.0)), _BY_SERVER),
    Expected(_TOKENS, "one ends: its count",
             _made(count((600, 40)), count((900, 40)), count((0, 10), (1, 1), (0, 29)), steps((1, 40))), ((13, 10.0),), _BY_SERVER),
    Expected(_TOKENS, "a storm of swaps: the log, which has what they made after their last poll; and without it their count",
             _made(count((120, 40)), count((600, 40)), count((20, 40)), steps((1, 20), (0, 20))), ((15, 10.0), (30, 2.0)), _BY_SERVER),
    Expected(_TOKENS, "a storm of swaps that clients do not wait for: the log, with what was made for those who left",
             _made(count((120, 40)), count((480, 40)), count((20, 40)), steps((1, 40)), count((120, 40))), ((15, 10.0),), _BY_SERVER),
    Expected(_TOKENS, "a storm of swaps, of long answers: what tells more",
             _made(count((600, 40)), count((120, 40)), count((20, 40)), steps((1, 40))), ((15, 10.0),), _BY_SERVER),
    Expected(_ESTIMATE, "nothing is cut off, and then the log cannot be read",
             _logged(count((600, 40)), count((6, 40)), count((0, 40)), count((0, 40)), steps((1, 20), (0, 20))), ((15, 10.0), (30, None))),
    Expected(_ESTIMATE, "one in five generations is cut off: it counts like the four others",
             _logged(count((480, 40)), count((4, 40)), count((1, 40)), count((0, 40)), steps((1, 40))), ((30, 10.0),)),
    Expected(_ESTIMATE, "clients leave: what was made for them counts, and they count among those that tell how long one is",
             _logged(count((480, 40)), count((3, 40)), count((1, 40)), count((0, 40)), steps((1, 40)), (count((120, 40)), count((1, 40)))), ((30, 12.5),)),
    Expected(_ESTIMATE, "long ones are cut off: no less than what they had told",
             _logged(count((480, 40)), count((4, 40)), count((1, 40)), count((420, 40)), steps((1, 40))), ((30, 15.0),)),
    Expected(_ESTIMATE, "none is finished: what they had told",
             _logged(count((0, 40)), count((0, 40)), count((1, 40)), count((300, 40)), steps((1, 40))), ((30, 5.0),)),
)  # fmt: skip
