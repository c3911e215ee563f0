"""Reports: the schema holds for runs of every kind, the page is whole, the rows are what was heard."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from exporter.loadtest import report, report_html
from exporter.loadtest.outcomes import OUTCOMES, Result
from exporter.loadtest.preflight import Seen
from exporter.loadtest.report import Facts
from exporter.loadtest.run import Run
from exporter.loadtest.scenario import load
from tests.loadtest.scene import Played, ScriptedWire, play, smoke

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "load-report.schema.json").read_text("utf-8"))


def facts(played: Played, **more: Any) -> Facts:
    run = played.run
    seen = (Seen("s0", "http://127.0.0.1:1", "0.33.0"), Seen("s1<&>", "http://127.0.0.1:2", failure="refused"))
    given = {"reconciliation": (), **more}
    return Facts(
        played.scenario, played.tally, played.own, played.verdict, seen, 1.8e9, 1.8e9 + run.seconds, run.seconds,
        played.ending, run.warm_ups, 1.5, command=("ollama-exporter", "load", "--scenario", "<x>"), **given,
    )  # fmt: skip


def quick(now: float) -> tuple[float, float, int]:
    return (0.1 if int(now) % 7 else 3.0), 0.01, 20


async def stop_at_once(run: Run) -> None:
    run.stop()


RUNS = {
    "steady": lambda: play(smoke(rate=20, duration="60s"), ScriptedWire(quick)),
    "phases": lambda: play(load("agents-174", {"users": 20, "duration": "40s", "shape": "spike", "warm_up": False}),
                           ScriptedWire(quick), ScriptedWire(quick)),
    "all failed": lambda: play(replace(smoke(rate=5, duration="5s"), abort_on=None),
                               ScriptedWire(lambda now: (99.0, 0.0, 1))),
    "nothing ran": lambda: play(smoke(), ScriptedWire(quick), meanwhile=stop_at_once),
    "one request": lambda: play(smoke(rate=1, duration="900ms"), ScriptedWire(quick)),
    "settled": lambda: play(replace(smoke(rate=5, duration="5s"), settle=1.0), ScriptedWire(quick)),
}  # fmt: skip
ROWS = [
    {"what": "requests <answered>", "server": "s0", "tester": 1.0, "exporter": None, "difference": None,
     "judgement": "not seen", "why": "needs it", "source": "logs"},
    {"what": "tokens", "server": "s0", "tester": 100, "exporter": 110.0, "difference": 0.1, "judgement": "differs",
     "why": "", "source": "runner"},
]  # fmt: skip


@pytest.fixture(scope="module", params=RUNS, ids=list(RUNS))
def built(request: pytest.FixtureRequest) -> dict[str, Any]:
    return report.build(facts(RUNS[request.param](), reconciliation=ROWS))


def test_a_report_keeps_to_its_schema(built: dict[str, Any]) -> None:
    plain = json.loads(json.dumps(built, allow_nan=False))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    errors = [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(plain)
    ]
    assert errors == []


def test_the_schema_notices_what_is_missing_or_new(built: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert not validator.is_valid({key: value for key, value in built.items() if key != "self_lag_seconds"})
    assert not validator.is_valid({**built, "news": 1})
    assert not validator.is_valid({**built, "verdict": "perhaps"})


def test_requests_add_up(built: dict[str, Any]) -> None:
    for group in (built, *built["workloads"], *built["servers"]):
        requests = group["requests"]
        assert requests["offered"] == requests["completed"] + sum(requests["failed"].values())
        assert requests["failed_total"] == sum(requests["failed"].values())
    assert sum(each["requests"]["offered"] for each in built["servers"]) == built["requests"]["offered"]
    assert sum(each["requests"]["offered"] for each in built["phases"]) == built["requests"]["offered"]


def test_the_timeline_has_every_request_in_slices_that_are_worth_drawing(built: dict[str, Any]) -> None:
    slices = built["timeline"]["slices"]
    whole = built["requests"]["offered"] + built["requests"]["settling"]
    assert sum(each["offered"] for each in slices) == whole
    assert len(slices) <= max(24, whole / 3)


def test_a_page_is_well_formed_and_needs_no_network(built: dict[str, Any]) -> None:
    page = report_html.page(built)
    assert page.startswith("<!DOCTYPE html>\n")
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))  # noqa: S314 - our own
    assert root.find("body") is not None
    assert not re.findall(r"(?:src|href)=|@import|url\(|https?://(?!127)", page)
    assert "<script" not in page
    assert "NaN" not in page
    assert built["verdict"].upper() in page


def test_a_picture_names_what_it_counts() -> None:
    page = report_html.page(report.build(facts(RUNS["phases"]())))
    legends = dict(re.findall(r"<figcaption>([^<]+)<span class=\"legend\"><span><i [^>]*></i>([^<]+)<", page))
    assert legends["Time to the first token"] == "requests"
    assert legends["Time between two pieces of an answer"] == "pieces"


def test_what_comes_from_outside_is_escaped(built: dict[str, Any]) -> None:
    page = report_html.page(built)
    assert "<x>" not in page
    assert "s1<&>" not in page
    assert "&lt;x&gt;" in page


def test_percentiles_that_the_sample_does_not_carry_are_null_and_say_why() -> None:
    built = report.build(facts(RUNS["one request"]()))
    ttft = built["ttft_seconds"]
    assert (ttft["count"], ttft["p50"], ttft["p99"], ttft["max"]) == (1, None, None, pytest.approx(3.0))
    assert ttft["absent"]["p99"] == "too few: 1 of 368"


def test_failed_requests_make_percentiles_among_them_null() -> None:
    built = report.build(facts(RUNS["all failed"]()))
    assert built["ttft_seconds"]["absent"]["p50"] == "falls among those that failed"
    assert (built["success_ratio"], built["goodput_ratio"], built["verdict"]) == (0.0, 0.0, "fail")


def test_rows_are_read_back_as_they_were_heard(tmp_path: Path) -> None:
    results = [
        Result(
            0.5,
            "steady",
            "w",
            "m:latest",
            "s",
            outcome,
            True,
            200,
            0.001,
            0.25,
            1.5,
            0.125,
            0.0625,
            0.5,
            0.75,
            10,
            20,
            9,
        )
        for outcome in OUTCOMES
    ]
    results.append(Result(1.0, "a, b", "w", "m", "s", "client_lag", False))
    rows = report.Requests(tmp_path / "report.csv")
    for result in results:
        rows.hear(result)
    rows.close()
    assert list(report.read(tmp_path / "report.csv")) == results


def test_what_is_no_table_of_requests_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"is no report.csv"):
        list(report.read(tmp_path / "x.csv"))
