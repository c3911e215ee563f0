"""What becomes of the fleet when servers are found, lost, and found again: the whole program, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from exporter import catalog
from exporter.app import Exporter
from exporter.config import Server, load
from exporter.discovery import Listed, as_http_sd
from exporter.discovery import search as searches
from exporter.discovery.search import WITHIN, Search
from exporter.discovery.targets import Answer, Finder, Found, Seen, Target, Trouble
from exporter.exposition import render
from exporter.model import ApiSettings, Family
from exporter.simulator import Fault, ServerConfig, SimServer, SimTransport, virtual_wall_clock
from exporter.sources import Surroundings
from exporter.sources.own import DiscoveryVitals, Vitals
from tests.scene import meanwhile, virtually

CONFIG = """
host: {enabled: false}
canary: {mode: off}
native: {mode: off}
sockets: {mode: off}
runner: {mode: off}
logs: {mode: off}
docker: {mode: off}
gpu: {mode: off}
audit: {mode: off}
"""


class House:
    """An exporter that looks into two files for simulated servers, and into its configuration."""

    def __init__(self, folder: Path, more: str = "", names: str = "abcd") -> None:
        self.folder, self.file = folder, folder / "exporter.yml"
        self.servers = {name: SimServer(ServerConfig(name), virtual_wall_clock) for name in names}
        around = Surroundings(virtual_wall_clock, lambda _: SimTransport(self.servers), vitals=Vitals())
        self.configure(more)
        self.exporter = Exporter(self._load(), self._load, around)

    def configure(self, more: str = "") -> None:
        entries = "".join(f"  - {{name: {name}, files: {{paths: [{name}.json]}}{more}}}\n" for name in ("one", "two"))
        self.file.write_text(f"{CONFIG}discovery:\n{entries}")

    def _load(self):  # type: ignore[no-untyped-def]
        return load(str(self.file), {})

    def tell(self, file: str, *names: str, text: str | None = None) -> None:
        groups = [{"targets": [f"{name}:80"], "labels": {"server": name}} for name in names]
        fresh = self.folder / "fresh"
        fresh.write_text(json.dumps(groups) if text is None else text)
        fresh.rename(self.folder / f"{file}.json")

    def values(self, family: Family) -> dict[tuple[str, ...], float]:
        page = render(self.exporter.snapshot(), openmetrics=False).decode()
        return {
            tuple(sample.labels[name] for name in family.labels): sample.value
            for found in parse(page)
            for sample in found.samples
            if sample.name == family.name
        }

    def up(self) -> set[str]:
        return {name for (name,), value in self.values(catalog.UP).items() if value}

    def nonzero(self, family: Family) -> dict[tuple[str, ...], float]:
        return {labels: value for labels, value in self.values(family).items() if value}


@virtually
async def join_and_leave(tmp_path: Path) -> None:
    it = House(tmp_path)
    it.tell("one", "a", "b")
    it.tell("two", "c")
    async with meanwhile(it.exporter.run()):
        await asyncio.sleep(20)
        assert it.up() == {"a", "b", "c"}
        it.servers["a"].inject(Fault("error_rate", 40, path="/api/ps"))
        await asyncio.sleep(60)
        failures = it.nonzero(catalog.SOURCE_FAILURES)
        assert failures[("a", "api", "http_5xx")] >= 2
        it.tell("one", "a", "d")  # b leaves, d joins
        await asyncio.sleep(30)
        assert it.up() == {"a", "c", "d"}
        assert it.nonzero(catalog.SOURCE_FAILURES) == failures, "the counters of who stays go on"
        page = render(it.exporter.snapshot(), openmetrics=False).decode()
        assert 'server="b"' not in page, "the series of who leaves go"
        it.tell("one", text="[]")
        await asyncio.sleep(30)
        assert it.up() == {"c"}, "an empty answer is an answer"
        assert it.values(catalog.DISCOVERY_SERVERS) == {("one",): 0.0, ("two",): 1.0}
        assert set(it.values(catalog.DISCOVERY_UP).values()) == {1.0}


def test_who_stays_keeps_its_counters_and_who_leaves_takes_its_series(tmp_path: Path) -> None:
    join_and_leave(tmp_path)


@virtually
async def fail(tmp_path: Path) -> None:
    it = House(tmp_path)
    it.tell("one", "a", "b")
    it.tell("two", "c")
    async with meanwhile(it.exporter.run()):
        await asyncio.sleep(20)
        before = it.values(catalog.DISCOVERY_SUCCESS)
        it.tell("one", text='[{"targets": ["d:8')
        await asyncio.sleep(30)
        assert it.up() == {"a", "b", "c"}
        assert it.values(catalog.DISCOVERY_UP) == {("one",): 0.0, ("two",): 1.0}
        assert it.values(catalog.DISCOVERY_SERVERS) == {("one",): 2.0, ("two",): 1.0}
        after = it.values(catalog.DISCOVERY_SUCCESS)
        assert (before["one",] + 5 >= after["one",], after["two",] > before["two",] + 20) == (True, True)
        assert {labels: value >= 5 for labels, value in it.nonzero(catalog.DISCOVERY_FAILURES).items()} == {
            ("one", "decode"): True
        }
        it.tell("one", "d")
        await asyncio.sleep(30)
        assert it.up() == {"c", "d"}
        assert it.values(catalog.DISCOVERY_UP)["one",] == 1.0


def test_a_discovery_that_fails_keeps_its_answer_and_says_so_by_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exporter.discovery")
    fail(tmp_path)
    assert len([record for record in caplog.records if "is not JSON" in record.message]) == 1, "said once"
    assert [record.message for record in caplog.records].count("discovery one: looks again") == 1


@virtually
async def start_with_a_failure(tmp_path: Path) -> None:
    it = House(tmp_path)
    it.tell("two", "c")
    async with meanwhile(it.exporter.run()):
        assert not it.exporter.ready()
        await asyncio.sleep(20)
        assert it.exporter.ready(), "what fails must not keep the rest from being scraped"
        assert it.up() == {"c"}
        assert it.values(catalog.DISCOVERY_UP)["one",] == 0.0
        assert ("one",) not in it.values(catalog.DISCOVERY_SUCCESS)
        assert it.exporter.listing() is None, "a list that is too short would be taken for the truth"
        assert it.exporter.listing("two") == (Listed("c", "http://c", "two"),)
        it.tell("one", "a")
        await asyncio.sleep(20)
        assert it.exporter.listing() == (Listed("a", "http://a", "one"), Listed("c", "http://c", "two"))
        with pytest.raises(LookupError):
            it.exporter.listing("three")


def test_after_a_restart_a_discovery_that_fails_holds_nobody_up(tmp_path: Path) -> None:
    start_with_a_failure(tmp_path)


@virtually
async def newcomer(tmp_path: Path) -> None:
    it = House(tmp_path)
    it.tell("one", "a")
    it.tell("two")
    async with meanwhile(it.exporter.run()):
        await asyncio.sleep(20)
        assert it.exporter.ready()
        it.servers["b"].inject(Fault("starting"))
        it.tell("one", "a", "b")
        for _ in range(30):
            await asyncio.sleep(1)
            assert it.exporter.ready()


def test_a_newcomer_that_hangs_does_not_make_the_exporter_unready(tmp_path: Path) -> None:
    newcomer(tmp_path)


@virtually
async def clash(tmp_path: Path) -> None:
    it = House(tmp_path)
    it.tell("one", "a", "b")
    it.tell("two", text='[{"targets": ["a:80"], "labels": {"server": "other"}},'
                        ' {"targets": ["c:80"], "labels": {"server": "b"}}, {"targets": ["d:80", "x y"]}]')  # fmt: skip
    async with meanwhile(it.exporter.run()):
        await asyncio.sleep(20)
        assert it.up() == {"a", "b", "d:80"}
        assert it.nonzero(catalog.DISCOVERY_LEFT_OUT) == {
            ("two", "address_taken"): 1.0, ("two", "name_taken"): 1.0, ("two", "invalid"): 1.0,
        }  # fmt: skip
        it.tell("one", "b")
        await asyncio.sleep(20)
        assert it.up() == {"other", "b", "d:80"}, "who was left out comes in when there is room"


def test_a_name_or_an_address_that_is_taken_is_left_out_and_told(tmp_path: Path) -> None:
    clash(tmp_path)


@virtually
async def settle(tmp_path: Path) -> None:
    it = House(tmp_path, ", server: {timeout: 3s, canary: {mode: off}}")
    with it.file.open("a") as file:
        file.write("limits: {servers: 2}\n")
    it.tell("one", "a", "b", "c")
    it.tell("two", "d")
    async with meanwhile(it.exporter.run()):
        assert await it.exporter.reload() == ()
        await asyncio.sleep(20)
        assert it.up() == {"a", "b"}
        assert it.nonzero(catalog.DISCOVERY_LEFT_OUT) == {("one", "limit"): 1.0, ("two", "limit"): 1.0}
        settings = [w.settings for w in it.exporter.snapshot().entries if w.source == "api"]
        assert {s.endpoint.timeout for s in settings if isinstance(s, ApiSettings)} == {3.0}
        it.configure(", relabel_configs: [{source_labels: [server], target_label: server, replacement: 'x-$1'}]")
        assert await it.exporter.reload() == ()
        await asyncio.sleep(20)
        assert it.up() == {"x-a", "x-b", "x-c", "x-d"}


def test_found_servers_take_the_settings_of_their_discovery_and_a_reload_changes_them(tmp_path: Path) -> None:
    settle(tmp_path)


# --- one search ------------------------------------------------------------------------------------------------------


class Scripted(Finder):
    """Does what it is told, look after look, and then hangs."""

    def __init__(self, *script: Seen | Exception) -> None:
        self._script = list(script)
        self.closed = False

    async def look(self, configured: Sequence[Server]) -> Seen:
        if not self._script:
            await asyncio.sleep(1e9)
        step = self._script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def aclose(self) -> None:
        self.closed = True


def search(finder: Finder, changes: list[Answer], folder: Path) -> Search:
    (folder / "exporter.yml").write_text("discovery: [{files: {paths: [x.json]}, every: 10s}]")
    (entry,) = load(str(folder / "exporter.yml"), {}).discovery
    vitals = DiscoveryVitals(entry.name)
    it = Search(entry, "", finder, vitals, Answer(), lambda: changes.append(it.answer), virtual_wall_clock)
    return it


@virtually
async def one_search(folder: Path) -> None:
    two = Seen((Target({"__address__": "a:80"}), Target({"__address__": "b:80"})))
    part = Seen(two.targets[:1], (), (Trouble("dns", "b: no answer"), Trouble("timeout", "c: no answer")))
    finder = Scripted(two, RuntimeError("oops"), two, Trouble("refused", "nobody listens"), part)
    changes: list[Answer] = []
    it = search(finder, changes, folder)
    task = asyncio.create_task(it.run())
    await asyncio.sleep(45)
    assert [[found.name for found in answer.found] for answer in changes] == [["a:80", "b:80"], ["a:80"]]
    assert not it.vitals.up
    await asyncio.sleep(10 + WITHIN)
    counted = {sample.labels[1]: sample.value for sample in it.vitals.failures.samples() if sample.value}
    assert counted == {"bug": 1.0, "refused": 1.0, "dns": 1.0, "timeout": 2.0}
    assert it.answer == Answer((Found("a:80", "http://a"),)), "a look that hangs changes nothing"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert finder.closed


def test_every_end_of_a_look_is_told_and_the_next_comes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one_search(tmp_path)
    assert "bug in discovery files" in caplog.text
    assert "oops" in caplog.text, "the traceback is kept"


def test_a_fleet_that_could_not_be_planned_is_planned_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plans: list[str] = []

    class Once(list[Answer]):
        def append(self, _: Answer) -> None:
            plans.append("asked")
            if len(plans) == 1:
                raise RuntimeError("oops")

    @virtually
    async def run() -> None:
        seen = Seen((Target({"__address__": "a:80"}),))
        it = search(Scripted(seen, seen, seen), Once(), tmp_path)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(25):
                await it.run()
        assert it.vitals.up

    run()
    assert len(plans) == 2
    assert "bug in discovery files" in caplog.text


def test_a_list_that_has_not_changed_costs_no_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[Seen] = []
    real = searches.answered
    monkeypatch.setattr(searches, "answered", lambda seen, rules: (costs.append(seen), real(seen, rules))[1])
    two = [Seen((Target({"__address__": "a:80"}),)) for _ in range(2)]

    @virtually
    async def run() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(35):
                await search(Scripted(*two, Seen()), [], tmp_path).run()

    run()
    assert costs == [two[0], Seen()]


def test_many_that_come_at_once_are_counted_in_the_log_and_not_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exporter.discovery")
    many = Seen(tuple(Target({"__address__": f"s{number}:80"}) for number in range(100)))

    @virtually
    async def run() -> None:
        it = search(Scripted(many), [], tmp_path)
        async with asyncio.timeout(5):
            await asyncio.gather(it.run(), return_exceptions=True)

    with pytest.raises(TimeoutError):
        run()
    assert len(caplog.records) == 21
    assert caplog.records[-1].message == "discovery files: 80 more"


def test_the_list_for_others_is_that_of_http_sd() -> None:
    listed = (Listed("gpu1", "http://gpu1:11434", ""), Listed("ü", "http://b", "racks"))
    assert json.loads(as_http_sd(listed)) == [
        {
            "targets": ["gpu1"],
            "labels": {"__meta_ollama_server": "gpu1", "__meta_ollama_url": "http://gpu1:11434"},
        },
        {
            "targets": ["ü"],
            "labels": {
                "__meta_ollama_server": "ü",
                "__meta_ollama_url": "http://b",
                "__meta_ollama_discovery": "racks",
            },
        },
    ]
    assert json.loads(as_http_sd(())) == []
