"""What changed is told where it is beyond noise, and only there."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from exporter.loadtest import compare, report
from exporter.loadtest.outcomes import Result
from tests.loadtest.scene import ScriptedWire, play, smoke
from tests.loadtest.test_report import facts


def rows(seed: int, median: float = 0.5, failed: float = 0.0, count: int = 800) -> list[Result]:
    """A stretch of a busy machine now and then, as there is in every run."""
    rng, found = random.Random(seed), []
    for number in range(count):
        at = number / 25
        slow = 1.3 if rng.random() < 0.5 and int(at) % 7 == 3 else 1.0
        ttft = rng.lognormvariate(0.0, 0.4) * median * slow
        outcome = "http_5xx" if rng.random() < failed else "ok"
        found.append(
            Result(at, "steady", "w", "m", "s", outcome, True, 200, 0.0, ttft, ttft + 1.0, 0.1, 0.01, 0.0, 0.0, 10, 50)  # type: ignore[arg-type]
        )
    return found


def changed(before: list[Result], after: list[Result]) -> dict[str, bool]:
    return {change.name: change.beyond_noise for change in compare.changes(before, after, random.Random(1))}


def test_two_runs_of_the_same_do_not_differ() -> None:
    told = sum(sum(changed(rows(seed), rows(seed + 100)).values()) for seed in range(3))
    assert told <= 2  # of 24 comparisons, each of which errs in one of a hundred


def test_a_tenth_slower_is_seen() -> None:
    found = changed(rows(1), rows(2, median=0.6))
    assert found["first token p50"]
    assert found["whole answer p50"]
    assert not found["time per token p50"]


def test_more_failures_are_seen_and_told_in_words() -> None:
    (change,) = [
        each for each in compare.changes(rows(1), rows(2, failed=0.1), random.Random(1)) if each.name == "answered well"
    ]
    assert change.beyond_noise
    assert change.text().startswith("answered well: 100.00% -> ")
    assert "less beyond noise" in change.text()


def test_a_short_run_tells_nothing() -> None:
    found = compare.changes(rows(1, count=20), rows(2, median=5.0, count=20), random.Random(1))
    assert not any(change.beyond_noise for change in found)
    assert "too" in found[0].text()


def test_folders_are_compared_with_what_makes_them_another_experiment(tmp_path: Path) -> None:
    for name, pause in (("a", 0.1), ("b", 0.2)):
        (tmp_path / name).mkdir()
        played = play(
            smoke(rate=20, duration="30s", seed=1 if name == "a" else 2),
            ScriptedWire(lambda now, p=pause: (p, 0.01, 9)),
        )  # type: ignore[misc]
        built = report.build(facts(played))
        built["scenario"]["rate"] = pause
        (tmp_path / name / report.JSON).write_text(json.dumps(built))
        written = report.Requests(tmp_path / name / report.CSV)
        for result in played.results:
            written.hear(result)
        written.close()
    lines = compare.told(tmp_path / "a", tmp_path / "b")
    assert lines[0] == "careful: the two differ in what was asked: rate"
    assert any(line.startswith("first token p50: 0.1 s -> 0.2 s; more beyond noise") for line in lines)
    assert lines[-1].startswith("changed beyond noise: first token p50")


def test_a_folder_without_a_report_is_told(tmp_path: Path) -> None:
    (tmp_path / report.JSON).write_text("[]")
    with pytest.raises(ValueError, match="is no report of this version"):
        compare.told(tmp_path, tmp_path)
