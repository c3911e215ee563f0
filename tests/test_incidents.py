"""Every alert is seen to fire in an incident that happens to a simulated fleet, and no other alert is.

The incidents are in `incidents/table.py`; what was seen is in docs/incidents.md (`pytest --update-golden`).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.incidents import pages, verdict
from tests.incidents.samples import RULES, Recording
from tests.incidents.table import INCIDENTS, Incident
from tests.incidents.verdict import Question, Told
from tests.incidents.world import MINUTE, play

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "incidents.md"
NEWER = ROOT / ".cache" / "promtools" / "usr" / "bin" / "promtool"
WITHOUT_INCIDENT = {"Watchdog": "fires always: it is seen where nothing happens"}
WATCHDOG = "`Watchdog` fires always. It is seen in every incident, and left out here.\n"
LEAST_PRIORITY = 19
"""Nothing here is in a hurry; tests beside it may be."""
LONGEST = 1800
"""Seconds for all, when other tests run beside them."""
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

ALERTING = [
    rule
    for path in RULES
    for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
]

Seen = dict[str, Future[tuple[Told, ...]]]


@pytest.fixture(scope="module")
def promtool_3() -> Path:
    """Prometheus 2 leaves windows open at the other end, which moves some alerts by an evaluation. What is compared to
    the second was seen by 3."""
    if not NEWER.exists() and os.environ.get("CI") == "true":
        done = subprocess.run([ROOT / "scripts" / "promtools"], capture_output=True, text=True, check=False)
        if done.returncode not in (0, 3):
            pytest.fail(done.stderr)
    if not NEWER.exists():
        pytest.skip("NO PROMETHEUS 3: run scripts/promtools. No incident was played.")
    return NEWER


@pytest.fixture(scope="module")
def seen(promtool_3: Path, request: pytest.FixtureRequest) -> Iterator[Seen]:
    """All incidents that this run asks for, begun at once; each test waits for its own."""
    items = [item for item in request.session.items if item.path == request.path]
    asked = {item.callspec.params["incident"].name for item in items if hasattr(item, "callspec")}
    everything = any(not hasattr(item, "callspec") for item in items)
    wanted = [incident for incident in INCIDENTS if everything or incident.name in asked]
    longest_first = sorted(wanted, key=lambda incident: -incident.story.until)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, os.nice, (LEAST_PRIORITY,)) as pool:
        yield {incident.name: pool.submit(_played, incident.name, promtool_3) for incident in longest_first}


def _played(name: str, promtool: Path) -> tuple[Told, ...]:
    logging.disable()  # the exporter tells what goes wrong, and here much does
    incident = next(incident for incident in INCIDENTS if incident.name == name)
    with tempfile.TemporaryDirectory() as folder:
        series = tuple(play(incident.story, Path(folder)))
        listened = verdict.names(incident.fires)
        question = Question(series, incident.story.scrape, incident.step, incident.story.until, listened)
        return verdict.ask(promtool, question, Path(folder))


@pytest.mark.timeout(LONGEST)
@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.name)
def test_an_incident_is_told_by_its_alerts_and_by_no_other(incident: Incident, seen: Seen) -> None:
    told = seen[incident.name].result()
    assert {alert.key for alert in told} == incident.fires
    for alert in told:
        assert incident.fired_after(alert) >= _patience(alert), f"{alert.key} fired before its time"
        assert incident.silent_after(alert) is not None, f"{alert.key} never fell silent"
        for nonsense in ("<no value>", "{{", "NaN", "Inf"):
            assert nonsense not in alert.said


def _patience(told: Told) -> float:
    """The `for` of the rule, in seconds; of several under one name and severity the least."""
    severity, name, *_ = told.key.split()
    rules = [rule for rule in ALERTING if (rule["alert"], rule["labels"]["severity"]) == (name, severity)]
    return min(_seconds(rule.get("for", "0s")) for rule in rules)


def _seconds(duration: str) -> float:
    return float(duration[:-1]) * _SECONDS[duration[-1]]


@pytest.mark.timeout(LONGEST)
def test_the_page_tells_what_was_seen(seen: Seen, update_golden: bool) -> None:
    page = pages.page(INCIDENTS, {name: future.result() for name, future in seen.items()}, WATCHDOG)
    if update_golden:
        PAGE.write_text(page, encoding="utf-8")
    assert page == PAGE.read_text("utf-8")


def test_every_alert_has_an_incident() -> None:
    seen = {(key.split()[0], key.split()[1], _long(key)) for incident in INCIDENTS for key in incident.fires}
    rules = {
        (rule["labels"]["severity"], rule["alert"], rule["labels"].get("long", ""))
        for rule in ALERTING
        if rule["alert"] not in WITHOUT_INCIDENT
    }
    assert seen == rules


def _long(key: verdict.Key) -> str:
    return key.split()[2] if "BudgetBurn" in key else ""


def test_incidents_have_names_of_their_own_and_a_beginning_within_their_story() -> None:
    assert len({incident.name for incident in INCIDENTS}) == len(INCIDENTS)
    for incident in INCIDENTS:
        story = incident.story
        assert 0 < story.begins < story.begins + story.lasts < story.until
        assert story.until * MINUTE % incident.step == 0


# --- the recording ---------------------------------------------------------------------------------------------------


def _recorded(*pages_: str | None) -> dict[str, str]:
    recording = Recording()
    for page in pages_:
        if page is None:
            recording.refused()
        else:
            recording.answered(page)
    recording.not_listed()
    return dict(recording.series())


_TARGET = 'instance="exporter:8082",job="ollama"'


def test_a_series_that_comes_late_and_goes_is_missing_before_and_stale_once() -> None:
    line = '# HELP ollama_up x\nollama_up{server="a"} 1.0\n'
    series = _recorded("", "", line, line, None, None)
    assert series == {
        f"up{{{_TARGET}}}": "1x3 0x1 stale",
        f'ollama_up{{{_TARGET},server="a"}}': "_x2 1.0x1 stale _x2",
    }


def test_what_no_rule_asks_for_is_left_out() -> None:
    bucket = "ollama_canary_time_to_first_token_seconds_bucket"
    page = f'ollama_made_up 1.0\n{bucket}{{le="2.0",server="a"}} 3.0\n{bucket}{{le="0.25",server="a"}} 1.0\n'
    assert sorted(_recorded(page)) == [f'{bucket}{{{_TARGET},le="2.0",server="a"}}', f"up{{{_TARGET}}}"]
