"""Every way in which a server can fail, on real sockets and through the whole line: watch, source, reading, page.

After each fault three things must hold: the reason is exact, the state is right, and nothing on the page describes a
condition that is no longer known.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import catalog, ollama
from exporter.exposition import encode, render
from exporter.fleet import Fleet, Observer
from exporter.meter import Histogram
from exporter.model import ApiSettings, Endpoint, Family, PinnedFile, Reading, Reason, Watch
from exporter.ollama import BODY_MAX, ROWS_MAX
from exporter.sources import SOURCES, Surroundings, build
from exporter.store import Store
from tests.faults import (
    FAULTS,
    INSTALLED,
    LOADED,
    NEVER_SEEN,
    WHEN_DOWN,
    WHEN_STALLED,
    WHEN_WELL,
    WITHOUT_INVENTORY,
)
from tests.wire import (
    CLOSE,
    HANG,
    PS,
    RESET,
    TAGS,
    VERSION,
    Authority,
    Endless,
    Request,
    Script,
    Trickle,
    Wire,
    answer,
    free_port,
    full_backlog,
    healthy,
    json_answer,
    make_authority,
)

pytestmark = pytest.mark.anyio

HAS_IPV6 = Path("/proc/net/if_inet6").exists()
SHORT = 0.4
"""Seconds that a poll of a server that hangs may take: long enough for the answers that it does give."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


# --- the line --------------------------------------------------------------------------------------------------------

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Line:
    """One watch, from its settings to the page."""

    def __init__(self, url: str, *, models_max: int = 200, now: float = 1795455480.0, **endpoint: Any) -> None:
        self.watch = watch("a", url, models_max=models_max, **endpoint)
        self.store = Store(encode)
        self.store.plan([self.watch])
        self.source = build(self.watch, Surroundings(now=lambda: now))
        self._observer = Observer(self.watch, self.source, SOURCES["api"].reasons, lambda: now)

    async def poll(self) -> Reading:
        reading = await self._observer.observe()
        self.store.put(reading)
        return reading

    def page(self) -> Page:
        return Page(self.store)


def watch(server: str, url: str, *, models_max: int = 200, every: float = 15.0, **endpoint: Any) -> Watch:
    made = Endpoint(url, **({"connect_timeout": 5.0} | endpoint))
    return Watch(server, "api", every, 3 * made.timeout + 1, ApiSettings(made, 0.0, models_max))


@contextlib.asynccontextmanager
async def line(url: str, **settings: Any) -> AsyncIterator[Line]:
    it = Line(url, **settings)
    try:
        yield it
    finally:
        await it.source.aclose()


class Page:
    """A rendered page. Both of its formats are valid, say the same, and have no series twice."""

    def __init__(self, store: Store) -> None:
        text, openmetrics = (render(store.snapshot, wanted).decode("utf-8") for wanted in (False, True))
        self.series = only_once(sample for family in parse_text(text) for sample in family.samples)
        again = only_once(sample for family in parse_openmetrics(openmetrics) for sample in family.samples)
        assert again == self.series
        self.text = text

    def value(self, family: Family, **labels: str) -> float | None:
        """The value of the one series of server `a` with these labels; None where there is none."""
        return self.series.get((family.name, frozenset({"server": "a", **labels}.items())))

    def families(self) -> set[Family]:
        histogram = ("_bucket", "_count", "_sum")
        names = {name for name, _ in self.series}
        return {
            family
            for family in catalog.FAMILIES
            if any(family.name + end in names for end in (histogram if family.kind == "histogram" else ("",)))
        }

    def state(self) -> str | None:
        states = {state: self.value(catalog.STATE, state=state) for state in ("ok", "stalled", "starting", "down")}
        assert sorted(states.values(), key=str) == [0.0, 0.0, 0.0, 1.0]
        return next(state for state, value in states.items() if value)

    def failures(self) -> dict[str, float]:
        """This source's failures by reason, those that happened."""
        found = {}
        for (name, labels), value in self.series.items():
            if name == catalog.SOURCE_FAILURES.name and value:
                found[dict(labels)["reason"]] = value
        return found


def only_once(samples: Any) -> Series:
    series: Series = {}
    for sample in samples:
        key = (sample.name, frozenset(sample.labels.items()))
        assert key not in series, key
        series[key] = sample.value
    return series


DATED = "Date: Mon, 23 Nov 2026 17:38:00 GMT"


def well() -> dict[str, Script]:
    """The scripts of a server that is well, as the keywords of `healthy`."""
    return {
        "version": [json_answer(VERSION, DATED)],
        "ps": [json_answer(PS, DATED)],
        "tags": [json_answer(TAGS, DATED)],
    }


def assert_counters_kept(before: Page, after: Page) -> None:
    """No counter goes, and none goes down: a fault is no reset."""
    counters = {family.name for family in catalog.FAMILIES if family.kind == "counter"}
    for key, value in before.series.items():
        if key[0] in counters:
            assert after.series[key] >= value, key


async def test_a_server_that_is_well_has_every_family_that_a_fault_can_take() -> None:
    async with healthy(**well()) as wire, line(wire.url) as it:
        reading = await it.poll()
    page = it.page()
    assert reading.failure is None
    assert page.families() == WHEN_WELL
    assert page.state() == "ok"
    assert page.value(catalog.UP) == 1
    assert page.value(catalog.SOURCE_UP, source="api") == 1
    assert page.failures() == {}


# --- faults of an answer, on each of the three paths ----------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("path", ["version", "ps", "tags"])
async def test_a_fault_has_its_reason_its_state_and_leaves_nothing_stale(path: str, fault: str) -> None:
    case = FAULTS[fault]
    timeout = SHORT if case.hangs else 10.0
    async with healthy(**well()) as wire, line(wire.url, timeout=timeout) as it:
        assert (await it.poll()).failure is None
        before = it.page()
        wire.requests.clear()
        wire.routes[f"/api/{path}"] = case.script
        reading = await it.poll()
        asked = Counter(wire.paths)
    after = it.page()

    if path == "ps" and fault == "404":  # servers before 0.1.38 have no such path: they are well, and tell less
        assert reading.failure is None
        assert after.state() == "ok"
        assert after.families() == WHEN_WELL - LOADED
        return
    assert reading.failure == case.reason
    assert after.failures() == {case.reason: 1.0}
    assert after.value(catalog.SOURCE_UP, source="api") == 0
    assert after.value(catalog.SOURCE_LAST_SUCCESS, source="api") is not None
    state = {"version": "starting" if case.hangs else "down", "ps": "stalled", "tags": "ok"}[path]
    assert after.state() == state
    assert after.value(catalog.UP) == (1 if state in ("ok", "stalled") else 0)
    assert after.families() == {"version": WHEN_DOWN, "ps": WHEN_STALLED, "tags": WITHOUT_INVENTORY}[path]
    assert_counters_kept(before, after)
    assert asked[f"/api/{path}"] == (2 if case.reason == "reset" else 1)


@pytest.mark.parametrize("fault", ["reset_before_headers", "503", "no_end_of_body", "truncated"])
async def test_a_server_that_comes_back_is_whole_again_and_its_failures_stay_counted(fault: str) -> None:
    case = FAULTS[fault]
    async with healthy(**well()) as wire, line(wire.url, timeout=SHORT if case.hangs else 10.0) as it:
        await it.poll()
        good, wire.routes["/api/version"] = wire.routes["/api/version"], case.script
        await it.poll()
        await it.poll()
        wire.routes["/api/version"] = good
        reading = await it.poll()
    page = it.page()
    assert reading.failure is None
    assert page.families() == WHEN_WELL
    assert page.state() == "ok"
    assert page.failures() == {case.reason: 2.0}


@pytest.mark.parametrize(
    "fault", ["endless_chunks", "endless_without_length", "endless_for_its_length", "500_without_end"]
)
async def test_what_has_no_end_is_read_up_to_the_cap_and_no_further(fault: str) -> None:
    buffers = 12 * 2**20  # what the kernel and asyncio may hold on both ends of a loopback connection
    async with healthy(version=FAULTS[fault].script) as wire, line(wire.url, timeout=10.0) as it:
        tracemalloc.start()
        try:
            await it.poll()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await wire.idle()
    assert wire.sent < BODY_MAX + buffers
    assert peak < 3 * BODY_MAX


# --- faults of the way to the server ---------------------------------------------------------------------------------


async def test_a_server_that_stops_is_refused_and_takes_its_series_with_it() -> None:
    async with healthy(**well()) as wire, line(wire.url) as it:
        await it.poll()
        before = it.page()
        await wire.stop()
        reading = await it.poll()
    after = it.page()
    assert reading.failure == "refused"
    assert (after.state(), after.value(catalog.UP)) == ("down", 0)
    assert after.families() == WHEN_DOWN
    assert_counters_kept(before, after)


@pytest.mark.parametrize(
    ("greeting", "reason", "state"),
    [
        ([RESET], "reset", "down"),
        ([CLOSE], "reset", "down"),
        ([b"220 mail ESMTP\r\n\r\n"], "decode", "down"),
        ([HANG], "timeout", "starting"),
    ],
    ids=["reset", "closed", "another_protocol", "accepted_and_silent"],
)
async def test_a_connection_that_is_taken_and_not_served_has_its_reason(
    greeting: Script, reason: Reason, state: str
) -> None:
    async with healthy(**well()) as wire, line(wire.url, timeout=SHORT if greeting == [HANG] else 10.0) as it:
        await it.poll()
        await wire.hang_up()
        wire.on_accept = greeting
        reading = await it.poll()
    after = it.page()
    assert reading.failure == reason
    assert after.state() == state
    assert after.families() == WHEN_DOWN


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{port}", "refused"),
        ("http://localhost:{port}", "refused"),
        ("http://[::1]:{port}", "refused"),
        ("https://127.0.0.1:{port}", "refused"),
        ("http://nosuchhost.invalid:{port}", "dns"),
        ("http://a..invalid:{port}", "dns"),
        ("http://255.255.255.255:{port}", "unreachable"),
    ],
)
async def test_a_server_that_was_never_there_is_down_with_its_reason(url: str, reason: Reason) -> None:
    if "[::1]" in url and not HAS_IPV6:
        pytest.skip("this machine has no IPv6")
    async with line(url.format(port=free_port())) as it:
        reading = await it.poll()
    page = it.page()
    assert reading.failure == reason
    assert (page.state(), page.value(catalog.UP)) == ("down", 0)
    assert page.families() == NEVER_SEEN
    assert page.failures() == {reason: 1.0}


@pytest.mark.parametrize("connect_timeout", [0.1, 0.3], ids=["shorter", "as_long_as_the_whole"])
async def test_a_host_that_swallows_connections_is_down_and_not_starting(connect_timeout: float) -> None:
    with full_backlog() as port:
        async with line(f"http://127.0.0.1:{port}", timeout=0.3, connect_timeout=connect_timeout) as it:
            reading = await it.poll()
    assert reading.failure == "connect_timeout"
    assert it.page().state() == "down"
    assert it.page().families() == NEVER_SEEN


async def test_every_reason_of_the_vocabulary_is_counted_from_zero() -> None:
    async with line(f"http://127.0.0.1:{free_port()}") as it:
        await it.poll()
    counted = {
        dict(labels)["reason"]: value for (name, labels), value in it.page().series.items()
        if name == catalog.SOURCE_FAILURES.name
    }  # fmt: skip
    assert counted == {reason: float(reason == "refused") for reason in SOURCES["api"].reasons}


async def test_every_fault_has_a_reason_that_was_announced() -> None:
    reasons = {fault.reason for fault in FAULTS.values()} | {
        "dns",
        "refused",
        "unreachable",
        "tls",
        "connect_timeout",
        "bug",
    }
    assert reasons == set(SOURCES["api"].reasons)


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("certificate", ["good", "expired", "elsewhere", "selfsigned"])
@pytest.mark.parametrize("trusted", [True, False], ids=["with_its_ca", "without"])
async def test_only_a_certificate_of_a_trusted_ca_for_this_name_and_time_is_accepted(
    certificate: str, trusted: bool, authority: Authority
) -> None:
    ca = PinnedFile(str(authority.ca), "1") if trusted else None
    async with Wire({"/api/version": [json_answer(VERSION)]}, tls=authority.server(certificate)) as wire:
        async with line(wire.url, ca=ca) as it:
            reading = await it.poll()
        asked = wire.paths
    if certificate == "good" and trusted:
        assert it.page().value(catalog.UP) == 1
        assert asked[0] == "/api/version"
    else:
        assert reading.failure == "tls"
        assert it.page().state() == "down"
        assert asked == []


async def test_a_server_with_client_certificates_is_read_whole_by_who_has_one_and_refuses_who_has_none(
    authority: Authority,
) -> None:
    certificate, key = (PinnedFile(str(path), "1") for path in authority.certificate("good"))
    ca = PinnedFile(str(authority.ca), "1")
    routes: Any = {f"/api/{name}": script for name, script in well().items()}
    async with Wire(routes, tls=authority.server("good", ask_client=True)) as wire:
        async with line(wire.url, ca=ca, certificate=certificate, key=key) as it:
            assert (await it.poll()).failure is None
            assert it.page().families() == WHEN_WELL
        async with line(wire.url, ca=ca) as stranger:
            assert (await stranger.poll()).failure == "tls"


def tls_url(wire: Wire) -> str:
    return f"https://127.0.0.1:{wire.port}"


@pytest.mark.parametrize(
    "greeting", [[b"HTTP/1.1 400 Bad Request\r\n\r\n"], [CLOSE], [RESET]], ids=["http", "closed", "reset"]
)
async def test_a_server_that_speaks_no_tls_is_a_tls_failure(greeting: Script) -> None:
    async with Wire(on_accept=greeting) as wire, line(tls_url(wire)) as it:
        assert (await it.poll()).failure == "tls"
    assert it.page().state() == "down"


async def test_a_tls_handshake_that_hangs_is_a_connection_that_did_not_come_about() -> None:
    async with Wire(on_accept=[HANG]) as wire, line(tls_url(wire), timeout=5.0, connect_timeout=0.1) as it:
        assert (await it.poll()).failure == "connect_timeout"
    assert it.page().state() == "down"


async def test_plain_http_spoken_to_a_tls_port_is_no_server(authority: Authority) -> None:
    async with Wire(tls=authority.server("good")) as wire, line(f"http://127.0.0.1:{wire.port}", timeout=5.0) as it:
        reading = await it.poll()
    assert reading.failure in ("reset", "decode")
    assert it.page().state() == "down"


# --- redirects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_the_other_host_hears_nothing(status: int) -> None:
    async with healthy() as other, healthy() as wire, line(wire.url) as it:
        wire.routes["/api/version"] = [answer(b"", f"Location: {other.url}/api/version", status=status)]
        reading = await it.poll()
        assert other.connections == 0
        assert wire.paths == ["/api/version"]
    assert reading.failure == "redirect"
    assert it.page().state() == "down"


async def test_a_redirect_to_itself_is_asked_once() -> None:
    async with healthy() as wire, line(wire.url) as it:
        wire.routes["/api/version"] = [answer(b"", "Location: /api/version", status=302)]
        reading = await it.poll()
        assert wire.paths == ["/api/version"]
    assert reading.failure == "redirect"


# --- values that cannot be -------------------------------------------------------------------------------------------

ATTRIBUTES = {
    "size": catalog.LOADED_SIZE, "size_vram": catalog.LOADED_VRAM, "context_length": catalog.LOADED_CONTEXT,
    "expires_at": catalog.LOADED_EXPIRY,
}  # fmt: skip
NONSENSE = ["-1", "1e400", str(2**70), str(2**63), "1.5", "true", '"many"', "[]", "{}", '"1960-01-01T00:00:00Z"']


@pytest.mark.parametrize("field", ATTRIBUTES)
@pytest.mark.parametrize("value", NONSENSE)
async def test_an_impossible_value_is_absent_and_counted_and_the_server_is_well(field: str, value: str) -> None:
    body = json.dumps({"models": [PS["models"][0] | {field: "@"}]}).replace('"@"', value)
    async with healthy(**well()) as wire, line(wire.url) as it:
        await it.poll()
        wire.routes["/api/ps"] = [answer(body.encode())]
        reading = await it.poll()
    page = it.page()
    assert reading.failure is None
    assert page.state() == "ok"
    assert page.value(catalog.REJECTED_VALUES) == 1
    assert page.value(ATTRIBUTES[field], model="smollm2:latest") is None
    gone = {ATTRIBUTES[field]} | ({catalog.LOADED_VRAM} if field == "size" else set())
    assert page.families() == WHEN_WELL - gone


@pytest.mark.parametrize("how", ["missing", "null"])
async def test_a_field_that_is_not_told_is_absent_and_no_rejected_value(how: str) -> None:
    rows = [{"name": "a"} if how == "missing" else {"name": "a"} | dict.fromkeys([*ATTRIBUTES, "digest", "details"])]
    async with healthy(**well()) as wire, line(wire.url) as it:
        wire.routes["/api/ps"] = [json_answer({"models": rows}, DATED)]
        assert (await it.poll()).failure is None
    page = it.page()
    assert page.families() == WHEN_WELL - set(ATTRIBUTES.values())
    assert page.value(catalog.REJECTED_VALUES) == 0
    assert page.value(catalog.LOADED_MODELS) == 1


@pytest.mark.parametrize(
    ("expires", "expected"),
    [
        ("0001-01-01T00:00:00Z", None),
        ("2318-03-05T17:26:28.693587369Z", 10987291588.693587),
        ("2319-03-05T17:26:28.693587369Z", 11018827588.693587),
        ("9999-12-31T23:59:59.999999999Z", 253402300800.0),
    ],
)
async def test_an_expiry_centuries_ahead_is_shown_and_the_zero_time_is_not(
    expires: str, expected: float | None
) -> None:
    rows = [PS["models"][0] | {"expires_at": expires}]
    async with healthy(ps=[json_answer({"models": rows})]) as wire, line(wire.url) as it:
        await it.poll()
    page = it.page()
    value = page.value(catalog.LOADED_EXPIRY, model="smollm2:latest")
    assert value == (None if expected is None else pytest.approx(expected, abs=1e-3))
    assert page.value(catalog.REJECTED_VALUES) == 0
    assert page.value(catalog.KNOWN_BUSY, model="smollm2:latest") == 0


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ('quo"te', 'quo"te:latest'),
        ("new\nline", "new\nline:latest"),
        ("back\\slash", "back\\slash:latest"),
        ("back\\nslash", "back\\nslash:latest"),
        ('end\\"', 'end\\":latest'),
        ('"} 1\nollama_up{server="b"', '"} 1\nollama_up{server="b":latest'),
        ("Ünï/cödé:日本", "Ünï/cödé:日本"),
        ("carriage\rreturn\x85\u2028", "carriage\rreturn\x85\u2028:latest"),
        ("nul\0", "nul\0:latest"),
        ("lone\ud800surrogate", "lone?surrogate:latest"),
        ("other", "other:latest"),
        ("x" * 377, "x" * 377 + ":latest"),
    ],
    ids=["quote", "newline", "backslash", "backslash_n", "escape_at_the_end", "forged_series", "unicode", "line_ends",
         "nul", "surrogate", "other", "longest"],
)  # fmt: skip
async def test_a_strange_name_is_one_label_value_and_nothing_else(name: str, label: str) -> None:
    body = json.dumps({"models": [PS["models"][0] | {"name": name}]}).encode()
    async with healthy(ps=[answer(body)], tags=[answer(body)]) as wire, line(wire.url) as it:
        assert (await it.poll()).failure is None
    page = it.page()
    assert page.value(catalog.LOADED_SIZE, model=label) == 511568772
    assert page.value(catalog.INSTALLED_SIZE, model=label) == 511568772
    assert {dict(labels)["model"] for _, labels in page.series if "model" in dict(labels)} == {label}
    assert {dict(labels)["server"] for _, labels in page.series} == {"a"}


async def test_a_name_of_100_kb_is_no_label_value_but_is_summed_and_counted() -> None:
    body = json.dumps({"models": [PS["models"][0], PS["models"][0] | {"name": "x" * 100_000}]}).encode()
    async with healthy(ps=[answer(body)], tags=[answer(body)]) as wire, line(wire.url) as it:
        assert (await it.poll()).failure is None
    page = it.page()
    assert len(page.text) < 50_000
    assert page.value(catalog.LOADED_MODELS) == 2
    assert page.value(catalog.LOADED_SIZE, model="other") == 511568772
    assert page.value(catalog.EXPORTER_DROPPED) == 2


@pytest.mark.parametrize("twin", ["smollm2", "smollm2:latest"])
async def test_a_model_listed_twice_is_one_series_and_counted(twin: str) -> None:
    rows = [PS["models"][0], PS["models"][0] | {"name": twin, "size": 1}]
    async with healthy(ps=[json_answer({"models": rows})]) as wire, line(wire.url) as it:
        assert (await it.poll()).failure is None
    page = it.page()
    assert page.value(catalog.LOADED_MODELS) == 1
    assert page.value(catalog.LOADED_SIZE, model="smollm2:latest") == 511568772
    assert page.value(catalog.REJECTED_VALUES) == 1


async def test_as_many_models_as_may_be_are_counted_summed_and_few_are_shown() -> None:
    rows = ",".join(f'{{"name":"m{n:06}","size":2}}' for n in range(ROWS_MAX))
    body = f'{{"models":[{rows}]}}'.encode()
    assert len(body) < BODY_MAX
    async with healthy(ps=[answer(body)], tags=[answer(body)]) as wire, line(wire.url, timeout=30.0) as it:
        reading = await it.poll()
    page = it.page()
    assert reading.failure is None
    assert len(reading.samples) < 5000
    for count, size in (
        (catalog.LOADED_MODELS, catalog.LOADED_SIZE),
        (catalog.INSTALLED_MODELS, catalog.INSTALLED_SIZE),
    ):
        assert page.value(count) == ROWS_MAX
        assert page.value(size, model="other") == 2 * (ROWS_MAX - 200)
        assert page.value(size, model="m000199:latest") == 2
        assert page.value(size, model="m000200:latest") is None
    assert page.value(catalog.EXPORTER_DROPPED) == 2 * (ROWS_MAX - 200)


@pytest.mark.parametrize("path", ["ps", "tags"])
async def test_a_model_more_is_too_large(path: str) -> None:
    body = b'{"models":[' + b",".join(b'{"name":"%d"}' % n for n in range(ROWS_MAX + 1)) + b"]}"
    async with healthy(**{path: [answer(body)]}) as wire, line(wire.url, timeout=30.0) as it:
        reading = await it.poll()
    assert reading.failure == "too_large"
    assert it.page().state() == {"ps": "stalled", "tags": "ok"}[path]


async def test_an_answer_for_which_there_is_no_memory_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    async with healthy(**well()) as wire, line(wire.url) as it:
        await it.poll()
        before = it.page()
        wire.routes["/api/ps"] = [json_answer({"models": []})]
        decode = ollama._JSON.decode

        def give_up(text: str) -> Any:
            if "models" in text:
                raise MemoryError
            return decode(text)

        monkeypatch.setattr(ollama._JSON, "decode", give_up)
        reading = await it.poll()
    assert reading.failure == "too_large"
    assert it.page().state() == "stalled"
    assert_counters_kept(before, it.page())


async def test_a_hundred_thousand_models_above_the_cap_are_too_large() -> None:
    body = b'{"models":[' + b",".join(b'{"name":"%040d"}' % n for n in range(100_000)) + b"]}"
    assert len(body) > BODY_MAX
    async with healthy(tags=[answer(body)]) as wire, line(wire.url, timeout=30.0) as it:
        reading = await it.poll()
    assert reading.failure == "too_large"
    assert it.page().state() == "ok"
    assert not it.page().families() & INSTALLED


@pytest.mark.parametrize("tags", ["answer", "fail"])
async def test_names_that_change_at_every_poll_do_not_pile_up(tags: str) -> None:
    polls = iter(range(10**6))

    def ps(_: Request) -> Script:
        poll = next(polls)
        return [json_answer({"models": [{"name": f"m{poll}-{n}", "digest": f"{poll:032x}"} for n in range(10)]})]

    inventory: Script = [json_answer({"models": []})] if tags == "answer" else [answer(b"", status=500)]
    async with healthy(ps=ps, tags=inventory) as wire, line(wire.url, models_max=10) as it:
        for _ in range(60):
            await it.poll()
    names = {dict(labels)["model"] for _, labels in it.page().series if "model" in dict(labels)}
    assert {f"m59-{n}:latest" for n in range(10)} <= names
    assert len(names) <= 100


async def test_the_counters_of_an_installed_model_outlive_a_failing_inventory() -> None:
    async with healthy(**well()) as wire, line(wire.url) as it:
        await it.poll()
        for n in range(30):
            wire.routes["/api/tags"] = [answer(b"", status=500)]
            strangers = [{"name": f"stranger{n}-{k}", "digest": "ab" * 16} for k in range(30)]
            wire.routes["/api/ps"] = [json_answer({"models": strangers + (PS["models"] if n % 2 else [])})]
            await it.poll()
    assert it.page().value(catalog.LOADS_SEEN, model="smollm2:latest") == 15
    assert it.page().value(catalog.LOADS_SEEN, model="gemma3:latest") == 0


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("date", "offset", "busy"),
    [
        ("Mon, 23 Nov 2026 17:38:00 GMT", 0.0, 0.0),
        ("Mon, 23 Nov 2026 17:43:00 GMT", 300.0, 0.0),
        ("Mon, 23 Nov 2026 17:44:00 GMT", 360.0, 1.0),
        ("Mon, 23 Nov 2026 17:33:00 GMT", -300.0, 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", -1795455480.0, 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 251606845319.0, 1.0),
        ("yesterday", None, 0.0),
        ("Mon, 23 Nov 2026 17:38:00 +9999", None, 0.0),
        ("", None, 0.0),
    ],
)
async def test_the_servers_clock_is_shown_and_expiries_are_judged_by_it(
    date: str, offset: float | None, busy: float
) -> None:
    scripts: dict[str, Script] = {
        name: [json_answer(value, f"Date: {date}")]
        for name, value in (("version", VERSION), ("ps", PS), ("tags", TAGS))
    }
    async with healthy(**scripts) as wire, line(wire.url, now=1795455480.0) as it:
        assert (await it.poll()).failure is None
    assert it.page().value(catalog.CLOCK_OFFSET) == offset
    assert it.page().value(catalog.KNOWN_BUSY, model="smollm2:latest") == busy


# --- a fleet ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(*watches: Watch) -> AsyncIterator[tuple[asyncio.Queue[Reading], Store]]:
    """A fleet on these watches: its readings as they come, and its store."""
    readings: asyncio.Queue[Reading] = asyncio.Queue()
    store = Store(encode)
    store.plan(watches)

    def publish(reading: Reading) -> None:
        store.put(reading)
        readings.put_nowait(reading)

    fleet = Fleet(build, publish, lambda watch: SOURCES[watch.source].reasons, Histogram(catalog.EXPORTER_LAG))
    fleet.apply(watches)
    task = asyncio.create_task(fleet.run())
    try:
        yield readings, store
        assert fleet.healthy()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    "script",
    [[HANG], [answer(b"{", length=100), HANG], [Trickle(answer(b'{"version":"0.33.0"}'), 1.0)]],
    ids=["silent", "in_the_body", "a_byte_a_second"],
)
async def test_a_slow_server_never_delays_the_readings_of_another(script: Script) -> None:
    async with healthy(version=script) as slow, healthy() as quick:
        slow_watch = watch("slow", slow.url, every=0.1, timeout=60.0)
        quick_watch = watch("quick", quick.url, every=0.1, timeout=60.0)
        async with running(slow_watch, quick_watch) as (readings, store):
            await slow.arrived(1)
            for _ in range(4):
                reading = await readings.get()
                assert reading.watch == quick_watch
                assert reading.failure is None
            assert slow.paths == ["/api/version"]
            assert set(store.snapshot.entries) == {quick_watch}
            slow.routes["/api/version"] = [RESET]
            await slow.hang_up()
            first_of_slow = await next_of(readings, slow_watch)
    assert first_of_slow.failure == "reset"


async def test_a_server_that_dies_and_one_that_lives_do_not_share_a_fate() -> None:
    async with healthy() as mortal, healthy() as survivor:
        a, b = watch("a", mortal.url, every=0.1), watch("b", survivor.url, every=0.1)
        async with running(a, b) as (readings, store):
            assert (await next_of(readings, a)).failure is None
            await mortal.stop()
            while (await next_of(readings, a)).failure is None:
                pass
            assert (await next_of(readings, b)).failure is None
            page = Page(store)
    assert page.value(catalog.UP, server="a") == 0
    assert page.value(catalog.UP, server="b") == 1
    assert page.value(catalog.LOADED_MODELS, server="a") is None
    assert page.value(catalog.LOADED_MODELS, server="b") == 1


async def next_of(readings: asyncio.Queue[Reading], watch: Watch) -> Reading:
    while (reading := await readings.get()).watch != watch:
        pass
    return reading


# --- leaks -----------------------------------------------------------------------------------------------------------


async def test_after_two_hundred_failed_polls_nothing_has_piled_up() -> None:
    quick = [fault for fault in FAULTS.values() if not fault.hangs and not isinstance(fault.script[-1], Endless)]
    faults = [fault for fault in quick if sum(len(step) for step in fault.script if isinstance(step, bytes)) < 10_000]
    hang = replace(FAULTS["no_end_of_body"])
    async with healthy(**well()) as wire, line(wire.url, timeout=10.0) as it, line(wire.url, timeout=0.02) as hasty:

        async def fail(polls: int) -> None:
            paths = cycle(["/api/version", "/api/ps", "/api/tags"])
            good = dict(wire.routes)
            for fault, path in islice(zip(cycle(faults), paths, strict=False), polls):
                wire.routes[path] = fault.script
                await it.poll()
                wire.routes.update(good)
            it.page()
            wire.routes["/api/version"] = hang.script
            for _ in range(10):
                assert (await hasty.poll()).failure == "timeout"
            wire.routes.update(good)
            await wire.hang_up()
            wire.requests.clear()

        await fail(120)  # caches fill, pools start
        tracemalloc.start()
        try:
            await fail(40)
            before = resources()
            await fail(200)
            after = resources()
        finally:
            tracemalloc.stop()
    assert after.files <= before.files + 1
    assert after.tasks <= before.tasks + 1
    assert after.memory <= before.memory + 100_000


@dataclass(frozen=True)
class Resources:
    files: int
    tasks: int
    memory: int


def resources() -> Resources:
    gc.collect()
    files = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    return Resources(files, len(asyncio.all_tasks()), tracemalloc.get_traced_memory()[0])
