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


def _logged(tokens: str, generations: str, cut_off: str, seen: str, read: str) -> tuple[Series, ...]:
    return (
        series("ollama_log_generated_tokens_total", MODEL, tokens),
        series("ollama_log_generations_total", MODEL, generations),
        series("ollama_log_generations_cut_off_total", MODEL, cut_off),
        series("ollama_log_cut_off_seen_tokens_total", MODEL, seen),
        series("ollama_source_up", {**SERVER, "source": "logs"}, read),
    )


EXPECTED = (
    Expected(_ESTIMATE, "nothing is cut off, and then the log cannot be read",
             _logged(count((600, 40)), count((6, 40)), count((0, 40)), count((0, 40)), steps((1, 20), (0, 20))), ((15, 10.0), (30, None))),
    Expected(_ESTIMATE, "one in five generations is cut off: it counts like the four others",
             _logged(count((480, 40)), count((4, 40)), count((1, 40)), count((0, 40)), steps((1, 40))), ((30, 10.0),)),
    Expected(_ESTIMATE, "long ones are cut off: no less than what they had told",
             _logged(count((480, 40)), count((4, 40)), count((1, 40)), count((420, 40)), steps((1, 40))), ((30, 15.0),)),
    Expected(_ESTIMATE, "none is finished: what they had told",
             _logged(count((0, 40)), count((0, 40)), count((1, 40)), count((300, 40)), steps((1, 40))), ((30, 5.0),)),
)  # fmt: skip
