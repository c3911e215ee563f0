"""The status page: the verdict first, the same truth as /metrics, and nothing of a target's words taken for HTML."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import catalog, status
from exporter.gaps import ADVICE, Gap, what_helps
from exporter.model import REASONS, Entry, Family, Lack, Reading, Reason, Sample, Snapshot, Watch
from exporter.status import Status, page
from exporter.status.html import prose

NOW = 1_800_000_000.0
CANARY_OUTCOMES = ("ok", "caused_load", "timeout", "rejected")


def look(
    server: str,
    source: str,
    *samples: Sample,
    failure: Reason | None = None,
    failures: Mapping[Reason, int] | None = None,
    age: float = 3.0,
    good: float | None = 3.0,
    took: float = 0.012,
) -> Reading:
    """A reading that ended `age` seconds ago; the last good one `good` seconds ago."""
    watch = Watch(server, source, every=5.0, within=5.0)
    succeeded_at = None if good is None else NOW - good
    return Reading(watch, NOW - age, took, samples, failure, failures or {}, succeeded_at)


def snapshot(*readings: Reading) -> Snapshot:
    return Snapshot({reading.watch: Entry(reading, (), 0) for reading in readings})


def survey(*readings: Reading) -> Status:
    return status.survey(snapshot(*readings), NOW, "9.8.7")


def html(*readings: Reading, view: page.View = page.USUAL, more: tuple[str, ...] = ()) -> str:
    return page.render_page(survey(*readings), NOW, view, more)


def condition(server: str, state: str, url: str = "http://a:11434") -> Iterator[Sample]:
    yield catalog.SERVER_INFO(1.0, server=server, url=url)
    yield catalog.UP(float(state in ("ok", "stalled")), server=server)
    for name in ("ok", "stalled", "starting", "down"):
        yield catalog.STATE(float(name == state), server=server, state=name)


def model(server: str, name: str, size: float = 1.2e9, vram: float = 1.2e9, expires: float = 60.0) -> Iterator[Sample]:
    labels = {"server": server, "model": name}
    yield catalog.LOADED_SIZE(size, **labels)
    yield catalog.LOADED_VRAM(vram, **labels)
    yield catalog.LOADED_CONTEXT(4096.0, **labels)
    yield catalog.LOADED_EXPIRY(NOW + expires, **labels)
    yield catalog.KNOWN_BUSY(0.0, **labels)


def answering(server: str, *models: str) -> Reading:
    loaded = [sample for name in models for sample in model(server, name)]
    count = catalog.LOADED_MODELS(float(len(models)), server=server)
    return look(server, "api", *condition(server, "ok"), count, *loaded)


def canary(
    server: str,
    name: str,
    attempt: float | None = None,
    success: float | None = None,
    pending: float | None = None,
    stopped: bool = False,
    seen: tuple[str, ...] = (),
) -> Reading:
    """Times as ages in seconds; `seen`: outcomes that have been counted."""
    labels = {"server": server, "model": name}
    times = (
        (catalog.CANARY_LAST_ATTEMPT, attempt),
        (catalog.CANARY_LAST_SUCCESS, success),
        (catalog.CANARY_PENDING, pending),
    )
    samples = [family(NOW - age, **labels) for family, age in times if age is not None]
    samples += [catalog.CANARY_ATTEMPTS(float(word in seen), **labels, outcome=word) for word in CANARY_OUTCOMES]
    return look(server, "canary", *samples, catalog.CANARY_STOPPED(float(stopped), **labels))


def own(servers: int, **values: float) -> Reading:
    samples = [catalog.EXPORTER_SERVERS(float(servers)), catalog.EXPORTER_CONFIG(1.0, hash="9f86d081884c")]
    families: dict[str, Family] = {
        "reload_ok": catalog.EXPORTER_RELOAD_OK,
        "series": catalog.EXPORTER_SERIES,
        "started": catalog.PROCESS_START,
        "memory": catalog.PROCESS_RSS,
    }
    return look("", "exporter", *samples, *[families[name](value) for name, value in values.items()])


def refused(server: str, good: float | None = 12.0) -> Reading:
    failures: Mapping[Reason, int] = {"refused": 3, "timeout": 0}
    return look(server, "api", *condition(server, "down"), failure="refused", failures=failures, good=good)


class Reader(HTMLParser):
    """What a browser would make of the page: its tags, and the texts of each row's cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += ("|" if "small" in self.open else "") + data


def rows(*readings: Reading) -> list[list[str]]:
    return Reader(html(*readings)).rows


# --- the verdict -----------------------------------------------------------------------------------------------------


def verdict(*readings: Reading) -> tuple[str, str, list[str]]:
    found = survey(*readings)
    return found.level, found.headline, list(found.lines)


def test_all_is_well() -> None:
    assert verdict(answering("a"), answering("b"), answering("c")) == ("ok", "3 of 3 servers answer", [])


def test_one_server_alone() -> None:
    assert verdict(answering("a")) == ("ok", "1 of 1 server answers", [])


def test_the_one_that_is_down_is_the_headline() -> None:
    level, headline, lines = verdict(answering("a"), refused("b"), answering("c"))
    assert (level, headline) == ("bad", "b is down: connection refused, last good reading 12 s ago")
    assert lines == ["2 of 3 servers answer"]


def test_several_troubles_are_listed_with_the_worst_first() -> None:
    silent = look("a", "api", *condition("a", "starting"), failure="timeout", good=31.0)
    level, headline, lines = verdict(silent, refused("b", good=None), answering("c"))
    assert (level, headline) == ("bad", "1 of 3 servers answer")
    assert lines == [
        "b is down: connection refused, no good reading yet",
        "a is starting: takes connections, but is silent (no answer in time), last good reading 31 s ago",
    ]


def test_a_stalled_server_is_no_outage_but_no_answer_either() -> None:
    stalled = look("a", "api", *condition("a", "stalled"), failure="http_5xx", good=95.0)
    level, headline, lines = verdict(stalled)
    assert (level, headline) == ("warn", "0 of 1 server answers")
    assert lines == [
        "a is stalled: answers, but not about its models (HTTP error 5xx), last good reading 1 min 35 s ago"
    ]


def test_a_bug_in_the_exporter_is_no_state_of_the_server() -> None:
    level, headline, _ = verdict(look("a", "api", failure="bug", good=8.0), answering("b"))
    assert level == "unknown"
    assert headline == (
        "a is unknown: its state is not told (bug in the exporter, see its log), last good reading 8 s ago"
    )


def test_an_old_reading_is_no_state_either() -> None:
    """Three intervals and the time of one reading: 20 s here."""
    fresh = look("a", "api", *condition("a", "ok"), age=19.9)
    stale = look("a", "api", *condition("a", "ok"), age=20.1)
    assert verdict(fresh)[0] == "ok"
    level, _, lines = verdict(stale)
    assert level == "unknown"
    assert lines == ["a is unknown: last looked at 20 s ago, the exporter is late"]


def test_the_state_comes_from_the_source_that_tells_it() -> None:
    level, headline, lines = verdict(look("a", "canary", failure="timeout", good=99.0), refused("a"))
    assert (level, headline) == ("bad", "0 of 1 server answers")
    assert lines == ["a is down: connection refused, last good reading 12 s ago"]


def test_a_long_list_of_troubles_is_cut() -> None:
    _, headline, lines = verdict(*[refused(f"s{number:02d}") for number in range(30)])
    assert headline == "0 of 30 servers answer"
    assert (len(lines), lines[-1]) == (9, "and 22 more")


def test_nothing_yet() -> None:
    assert verdict() == ("unknown", "No server has been looked at yet", [])
    assert verdict(own(3)) == ("unknown", "No server has been looked at yet", [])
    assert verdict(own(0)) == ("unknown", "No server is configured or found", [])


def test_servers_that_were_not_looked_at_are_counted() -> None:
    assert verdict(own(3), answering("a")) == (
        "ok",
        "1 of 1 server answers",
        ["2 more servers not looked at yet"],
    )


def test_a_failed_reload_is_told() -> None:
    level, headline, lines = verdict(own(1, reload_ok=0.0), answering("a"))
    assert (level, headline) == ("warn", "1 of 1 server answers")
    assert lines == ["The last reload of the configuration failed: the one before it is in force"]


# --- canaries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "level", "told"),
    [
        (canary("a", "m", attempt=34, success=33), "ok", "ok 33 s ago"),
        (canary("a", "m"), "ok", ""),
        (canary("a", "m", attempt=12, success=90, pending=12), "ok", "waiting for 12 s, last ok 1 min 30 s ago"),
        (canary("a", "m", attempt=12, pending=12), "ok", "waiting for 12 s, never ok yet"),
        (canary("a", "m", attempt=31, success=90, pending=31), "warn", "waiting|for 31 s, last ok 1 min 30 s ago"),
        (
            canary("a", "m", attempt=12, success=400, seen=("ok", "timeout")),
            "warn",
            "failed|12 s ago (timeout), last ok 6 min 40 s ago",
        ),
        (
            canary("a", "m", attempt=12, success=400, seen=("ok", "timeout", "rejected")),
            "warn",
            "failed|12 s ago, last ok 6 min 40 s ago",
        ),
        (canary("a", "m", attempt=12, seen=("rejected",)), "warn", "failed|12 s ago (rejected), never ok yet"),
        (
            canary("a", "m", attempt=50, success=90, stopped=True, seen=("caused_load",)),
            "warn",
            "stopped|as it seemed to cause a load, last ok 1 min 30 s ago",
        ),
    ],
)
def test_how_the_last_canary_ended(last: Reading, level: str, told: str) -> None:
    _, server, _, row, *_ = rows(answering("a", "m"), last)
    assert row[-1] == told
    assert server[5] == told
    assert survey(answering("a", "m"), last).level == level


def test_http_that_works_is_not_a_model_that_answers() -> None:
    level, headline, lines = verdict(answering("a", "m"), canary("a", "m", attempt=12, success=90, seen=("timeout",)))
    assert (level, headline) == ("warn", "1 of 1 server answers, 1 model in doubt")
    assert lines == ["m on a: canary failed 12 s ago (timeout), last ok 1 min 30 s ago"]


def test_a_model_that_is_gone_is_shown_only_while_its_canary_is_in_doubt() -> None:
    gone = canary("a", "gone", attempt=12, success=90)
    (found,) = survey(answering("a"), gone).servers[0].models
    assert (found.name, found.loaded) == ("gone", False)
    assert survey(answering("a"), canary("a", "gone", attempt=90, success=89)).servers[0].models == ()


def test_doubts_of_a_server_that_is_down_are_not_told_twice() -> None:
    _, _, lines = verdict(refused("a"), answering("b"), canary("a", "m", attempt=12, success=90))
    assert lines == ["1 of 2 servers answer"]


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_row_says_all_about_a_server() -> None:
    version = catalog.BUILD_INFO(1.0, server="a", version="0.33.0")
    installed = catalog.INSTALLED_MODELS(1234.0, server="a")
    count = catalog.LOADED_MODELS(2.0, server="a")
    models = (*model("a", "m", size=1.2e9), *model("a", "n", size=6.9e9))
    reading = look("a", "api", *condition("a", "ok", "http://10.0.0.1:11434"), version, installed, count, *models)
    assert rows(reading)[1] == [
        "a|http://10.0.0.1:11434", "ok", "0.33.0", "2|8.1 GB", "1,234", "", "3 s ago",
    ]  # fmt: skip


def test_a_server_that_is_down_shows_its_reason_and_no_numbers() -> None:
    reason = "down|connection refused, last good reading 12 s ago"
    assert rows(refused("a"))[3] == ["a|http://a:11434", reason, "", "", "", "", "3 s ago"]


def test_a_row_says_all_about_a_model() -> None:
    busy = catalog.KNOWN_BUSY(1.0, server="a", model="m")
    samples = [s for s in model("a", "m", size=6.9e9, vram=4.1e9, expires=252) if s.family is not catalog.KNOWN_BUSY]
    reading = look("a", "api", *condition("a", "ok"), *samples, busy)
    assert rows(reading)[3] == ["m", "a", "6.9 GB", "59%|4.1 GB", "4,096", "in 4 min 12 s", "in flight", ""]


@pytest.mark.parametrize(
    ("expires", "offset", "told"),
    [
        (252.0, 0.0, "in 4 min 12 s"),
        (252.0, 52.0, "in 3 min 20 s"),
        (-7.0, 0.0, "7 s overdue"),
        (9.2e9, 0.0, "pinned"),
        (86400.0 * 400, 0.0, "in 400 d"),
    ],
)
def test_expiry_is_told_on_the_servers_clock(expires: float, offset: float, told: str) -> None:
    clock = catalog.CLOCK_OFFSET(offset, server="a")
    assert rows(look("a", "api", *condition("a", "ok"), clock, *model("a", "m", expires=expires)))[3][5] == told


def test_a_model_without_a_size_has_no_share() -> None:
    labels = {"server": "a", "model": "m"}
    only_vram = look("a", "api", *condition("a", "ok"), catalog.LOADED_VRAM(2e9, **labels))
    no_size = look("a", "api", *condition("a", "ok"), catalog.LOADED_SIZE(0.0, **labels))
    assert rows(only_vram)[3][2:4] == ["", "2.0 GB"]
    assert rows(no_size)[3][2:4] == ["0 B", ""]


def test_what_is_no_number_is_left_to_metrics() -> None:
    labels = {"server": "a", "model": "m"}
    samples = (catalog.LOADED_SIZE(float("nan"), **labels), catalog.LOADED_EXPIRY(float("inf"), **labels))
    assert rows(look("a", "api", *condition("a", "ok"), *samples))[3][2:6] == ["", "", "", ""]


def test_a_source_that_fails_is_told_in_full_before_anything_else() -> None:
    failures: Mapping[Reason, int] = {"refused": 2, "timeout": 1200, "dns": 0}
    failed = look("a", "api", failure="refused", failures=failures, good=14.0)
    alike = look("a", "canary", failure="refused", failures={"refused": 1}, good=70.0)
    never = look("", "host", failure="timeout", failures={"timeout": 4}, good=None)
    head, first, second, *_ = rows(answering("b"), failed, alike, never)
    assert head == ["Server", "Source", "Reason", "Since", "Failures so far", "What helps"]
    assert first == [
        "a", "api, canary", "connection refused", "last good 1 min 10 s ago", "1,203", ADVICE["refused"],
    ]  # fmt: skip
    helps = what_helps("host", "timeout")
    assert second == ["this machine", "host", "no answer in time", "never good yet", "4", helps]
    assert helps != ADVICE["timeout"], "a disk is not loading a model"


def test_a_failure_for_want_of_something_tells_what_would_enable_it() -> None:
    lack = Lack("the log is out of sight", "set `logs.file`")
    row = rows(replace(look("a", "logs", failure="unavailable"), lacks=(lack,)))[1]
    assert (row[2], row[5]) == ("the log is out of sight", "set logs.file")
    assert "<code>logs.file</code>" in html(replace(look("a", "logs", failure="unavailable"), lacks=(lack,)))


def test_failing_sources_are_never_folded() -> None:
    failed = [look(f"s{number:03d}", "logs", failure="timeout") for number in range(200)]
    before = html(*failed).split("<h2>Servers", 1)[0]
    assert "<details>" not in before
    assert all(f">s{number:03d}<" in before for number in range(200))


def test_the_matrix_has_a_row_a_server_and_a_word_for_each_source() -> None:
    lack = Lack("what", "remedy")
    blind = replace(look("a", "sockets", good=None), lacks=(lack,))
    part = replace(look("a", "runner"), lacks=(lack,))
    found = [answering("b"), answering("a"), blind, part, look("a", "logs", failure="timeout", good=14.0)]
    late, here = look("a", "docker", age=300.0), look("", "host")
    readings = snapshot(*found, late, here)
    awaited = replace(readings, awaited=(Watch("b", "logs", 5.0, 5.0),))
    text = page.render_page(status.survey(awaited, NOW, "9.8.7"), NOW)
    assert Reader(text).rows[-5:] == [
        ["Server", "api", "sockets", "runner", "logs", "docker"],
        ["a", "ok", "blind", "ok|in part", "failing|no answer in time, last good 14 s ago", "late|looked at 5 min ago"],
        ["b", "ok", "off", "off", "not yet", "off"],
        ["Machine", "host"],
        ["this machine", "ok"],
    ]
    assert text.count('scope="col"') + text.count('scope="row"') == text.count("<th ")


def test_a_blind_source_is_looked_through_seldom_and_not_late() -> None:
    blind = replace(look("a", "sockets", good=None, age=290.0), lacks=(Lack("what", "remedy"),))
    assert rows(answering("a"), blind)[-1] == ["a", "ok", "blind"]


def test_of_a_large_fleet_only_sums_and_failing_servers_are_shown_and_a_link_to_all() -> None:
    fleet = [answering(f"s{number:04d}") for number in range(1000)]
    failed = look("s0500", "logs", failure="timeout", failures={"timeout": 1}, good=14.0)
    text = html(*fleet, failed, view=page.View(refresh=False))
    shown = text.split("<h2>Sources", 1)[1]
    assert '<a href="?pause&amp;sources=all">Show all 1,000</a>' in shown
    assert Reader(text).rows[-3:] == [
        ["Server", "api", "logs"],
        ["1,000 servers", "1,000 ok", "999 off, 1 failing"],
        ["s0500", "ok", "failing|no answer in time, last good 14 s ago"],
    ]
    everything = html(*fleet, failed, view=page.View(every_source=True)).split("<h2>Sources", 1)[1]
    assert all(f">s{number:04d}<" in everything for number in range(1000))
    assert '<a href="?">Only the sums, and what fails</a>' in everything
    assert 'href="?pause&amp;sources=all"' in everything


def test_sources_that_fail_beside_are_in_the_verdict() -> None:
    failing = [look(server, "logs", failure="timeout") for server in ("a", "b", "")]
    level, _, lines = verdict(answering("a"), answering("c"), refused("b"), *failing)
    assert level == "bad"
    assert lines == ["2 of 3 servers answer", "2 more sources fail: logs of a, and 1 more"]
    assert verdict(answering("a"), failing[2]) == (
        "warn", "1 of 1 server answers", ["1 more source fails: logs of this machine"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("plain <b>", "<span>plain &lt;b&gt;</span>"),
        ("set `a<b` here", "<span>set <code>a&lt;b</code> here</span>"),
        ("`a` or `b`", "<span><code>a</code> or <code>b</code></span>"),
        ("not ` closed", "<span>not ` closed</span>"),
    ],
)
def test_code_between_backticks(told: str, shown: str) -> None:
    assert prose(told) == shown


def test_what_cannot_be_seen_is_told_once_with_the_line_that_helps() -> None:
    lack = Lack("the server is on another machine", "run an exporter there")
    blind = [replace(look(name, "sockets", good=None), lacks=(lack,)) for name in ("a", "b")]
    found = survey(*blind, look("a", "api", *condition("a", "ok")))
    assert found.gaps == (Gap("sockets", lack, ("a", "b")),)
    row = rows(*blind, look("a", "api", *condition("a", "ok")))[4]
    assert row == ["sockets", "a|and 1 more", "the server is on another machine", "run an exporter there"]
    assert "Not seen" not in html(look("a", "api", *condition("a", "ok")))


def test_a_late_source_says_so() -> None:
    row = rows(look("", "host", age=300.0))[1]
    assert row[:3] == ["this machine", "host", "the exporter has not looked in time"]


def test_servers_in_trouble_come_first() -> None:
    doubtful = canary("c", "m", attempt=12, success=90)
    stalled = look("d", "api", *condition("d", "stalled"), failure="timeout")
    found = survey(answering("a"), refused("b"), answering("c", "m"), doubtful, stalled)
    assert [server.name for server in found.servers] == ["b", "d", "c", "a"]


def test_the_exporter_tells_about_itself() -> None:
    about = survey(own(1, series=1284.0, started=NOW - 93784, memory=48.3e6)).about
    assert about == ["ollama-exporter 9.8.7", "config 9f86d081884c", "1,284 series", "48 MB memory", "up 1 d 2 h"]


def test_links_work_behind_a_path_of_a_proxy() -> None:
    always = ["metrics", "config", "-/healthy", "-/ready", "?pause"]
    assert re.findall('href="([^"]*)"', html()) == always
    some = ["metrics", "config", "probe", "sd", "-/healthy", "-/ready", "?pause"]
    assert re.findall('href="([^"]*)"', html(more=("probe", "sd"))) == some


def test_a_page_that_only_some_want_comes_with_where_it_is_described() -> None:
    assert "docs/multi-target.md" in html(more=("probe",))
    assert "docs/discovery.md" in html(more=("sd",))
    assert "docs/" not in html()


# --- size ------------------------------------------------------------------------------------------------------------


def test_a_small_fleet_is_open_to_the_eye() -> None:
    assert "<details>" not in html(answering("a", *[f"m{number}" for number in range(50)]))


def test_many_models_are_folded_but_for_those_in_doubt() -> None:
    names = [f"m{number:03d}" for number in range(200)]
    text = html(answering("a", *names), canary("a", "m111", attempt=12, success=90))
    before, folded = text.split("<details>", 1)
    assert [name for name in names if f">{name}<" in before] == ["m111"]
    assert "<summary>199 more</summary>" in folded
    assert all(f">{name}<" in folded for name in names if name != "m111")


def test_three_hundred_servers_are_one_page() -> None:
    fleet = [answering(f"s{number:03d}", "m") for number in range(299)]
    text = html(*fleet, refused("down"))
    assert text.index(">down<") < text.index(">s000<")
    assert all(f">s{number:03d}<" in text for number in range(299))
    assert len(text) < 1_000_000


def test_a_page_has_an_end() -> None:
    names = [f"m{number}" for number in range(2500)]
    text = html(answering("a", *names))
    assert "500 more: see /metrics" in text
    assert text.count("<tr>") == 1 + 1 + 1 + 2000 + 1 + 1


def test_a_long_name_is_cut_with_an_ellipsis() -> None:
    name = "x" * 100_000
    text = html(answering("a", name), canary("a", name, attempt=12, success=90))
    assert "x" * 79 + "…<" in text
    assert len(text) < 20_000


# --- safety ----------------------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;"


def test_whatever_a_target_says_is_text() -> None:
    version = catalog.BUILD_INFO(1.0, server=EVIL, version=EVIL)
    reading = look(EVIL, "api", *condition(EVIL, "ok", EVIL), version, *model(EVIL, EVIL))
    found = Reader(html(reading, canary(EVIL, EVIL, attempt=12, success=90), look(EVIL, EVIL)))
    assert not {"script", "img"} & set(found.tags)
    assert found.rows[1][0] == f"{EVIL}|{EVIL}"
    assert found.rows[1][2] == EVIL
    assert found.rows[3][:2] == [EVIL, EVIL]


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@given(name=st.text(max_size=100), url=st.text(max_size=100), numbers=st.lists(NUMBERS, min_size=10, max_size=10))
def test_no_name_and_no_number_breaks_the_page(name: str, url: str, numbers: list[float]) -> None:
    labels = {"server": "a", "model": name}
    families = (
        catalog.LOADED_SIZE, catalog.LOADED_VRAM, catalog.LOADED_CONTEXT, catalog.LOADED_EXPIRY,
        catalog.CANARY_LAST_ATTEMPT, catalog.CANARY_LAST_SUCCESS, catalog.CANARY_PENDING,
    )  # fmt: skip
    samples = [family(number, **labels) for family, number in zip(families, numbers, strict=False)]
    samples += [catalog.CLOCK_OFFSET(numbers[7], server="a"), catalog.LOADED_MODELS(numbers[8], server="a")]
    text = html(look("a", "api", *condition("a", "ok", url), *samples), own(numbers != [], started=numbers[9]))
    found = Reader(text)
    assert found.open == []
    assert set(found.tags) <= {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "ul", "li", "main", "section", "h2", "small",
        "table", "thead", "tbody", "tr", "th", "td", "span", "p", "footer", "a",
    }  # fmt: skip
    assert text.encode("utf-8", "replace")


def test_every_reason_has_words() -> None:
    assert status.REASONS.keys() == set(REASONS)


def test_the_policy_allows_this_style_and_nothing_else() -> None:
    text = html()
    (style,) = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}';" in page.HEADERS["Content-Security-Policy"]
    assert not re.search(r"<[^>]* (style|on\w+)=", text)
    assert "http:" not in style
    assert "url(" not in style


def test_the_title_says_it_before_the_tab_is_opened() -> None:
    assert "<title>1 of 1 server answers – ollama-exporter</title>" in html(answering("a"))


# --- numbers for people ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0.0, "0 B"), (512.0, "512 B"), (999.0, "999 B"), (1000.0, "1.0 kB"), (999_600.0, "1.0 MB"), (1.18e9, "1.2 GB"),
        (9.94e9, "9.9 GB"), (9.96e9, "10 GB"), (2.0e13, "20 TB"), (4e18, "4,000 PB"), (None, ""),
    ],
)  # fmt: skip
def test_sizes(number: float | None, told: str) -> None:
    assert status.size(number) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-3.0, "0 s ago"), (0.4, "0 s ago"), (34.2, "34 s ago"), (59.6, "1 min ago"), (252.0, "4 min 12 s ago"),
        (3600.0, "1 h ago"), (11_100.0, "3 h 5 min ago"), (187_200.0, "2 d 4 h ago"), (1e9, "11,574 d 1 h ago"),
    ],
)  # fmt: skip
def test_ages(seconds: float, told: str) -> None:
    assert status.ago(seconds) == told


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0002, "< 1 ms"), (0.0123, "12 ms"), (0.9996, "1.0 s"), (5.0, "5.0 s")]
)
def test_times_taken(seconds: float, told: str) -> None:
    assert status.took(seconds) == told
