"""/probe: a fleet of one through the functions of the loops; who may be asked, how often, with which credentials."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from exporter import catalog
from exporter.app import Exporter, serving
from exporter.check import plan_text
from exporter.config import Config, ConfigError, load
from exporter.config.targets import parse_allowed
from exporter.exposition import render
from exporter.loop import Loop
from exporter.model import Family, Reading, Watch
from exporter.probing import Probing, Question, Refusal, Seen, deadline, ordered, states
from exporter.probing.report import report
from exporter.simulator import Fault, ServerConfig, SimServer, SimTransport, virtual_wall_clock
from exporter.simulator.faults import FaultKind
from exporter.sources import Surroundings
from tests.scene import Recorder, every, meanwhile, virtually
from tests.wire import Wire, answer, free_port, healthy, json_answer, make_authority

ROOT = Path(__file__).parent.parent
TARGET = "http://10.0.0.7:11434"
ALLOW = "allow: [10.0.0.0/8]"


def configured(tmp_path: Path, probe: str, *servers: str) -> Config:
    """A configuration with this section `probe` (flow or block), and servers of which nothing is seen from inside."""
    file = tmp_path / "exporter.yml"
    listed = "\n".join(f"  - {{{server}}}" for server in servers or ("name: a, url: http://a:11434",))
    body = "\n".join(f"  {line}" for line in probe.splitlines())
    file.write_text(f"servers:\n{listed}\nhost:\n  enabled: false\nprobe:\n{body}\n")
    return load(str(file), {"SECRET": "s3cret-value"})


def asking(target: str = TARGET, module: str = "", timeout: str = "") -> Question:
    return Question((target,), (module,) if module else (), timeout)


class Page:
    """What a probe would export."""

    def __init__(self, seen: Seen) -> None:
        self.text = render(seen.snapshot, openmetrics=False).decode()
        self._samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in parse(self.text)
            for sample in family.samples
        }

    def __call__(self, family: Family | str, **labels: str) -> float | None:
        name = family if isinstance(family, str) else family.name
        return self._samples.get((name, tuple(sorted(labels.items()))))

    def names(self) -> set[str]:
        return {name for name, _ in self._samples}


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30))

    return run


# --- the question ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 10.0),
        ("5", 4.5),
        ("5.25", 4.7),
        ("1.5", 1.0),
        ("1", 0.5),
        ("0.5", 0.2),
        ("0.000001", 0.1),
        ("0", 0.1),
        ("3600", 10.0),
        ("999999", 10.0),
        ("9999999999", 10.0),
        ("nan", 10.0),
        ("inf", 10.0),
        ("-5", 10.0),
        ("1e3", 10.0),
        ("0x10", 10.0),
        ("5s", 10.0),
        ("٥", 10.0),
        ("5, 6", 10.0),
        ("9" * 100000, 10.0),
    ],
)
def test_the_deadline_is_prometheus_less_an_offset_and_never_none_and_never_above_the_modules(
    header: str, seconds: float
) -> None:
    assert deadline(header, 0.5, 10.0) == seconds


REFUSED: dict[str, tuple[Question, str, str]] = {
    "no_target": (Question(()), "missing", "target: is missing"),
    "an_empty_target": (asking(""), "missing", "target: is missing"),
    "two_targets": (Question((TARGET, "http://10.0.0.8:11434")), "malformed", "target: is given 2 times"),
    "two_modules": (Question((TARGET,), ("default", "b")), "malformed", "module: is given 2 times"),
    "unknown_module": (asking(module="defualt"), "module", "did you mean default?"),
    "no_url": (asking("ftp://10.0.0.7"), "malformed", "a URL such as http://"),
    "userinfo": (asking("http://u:s3cret@10.0.0.7"), "malformed", "no user or password"),
    "a_stranger": (asking("http://gpu9:11434"), "not_allowed", "neither the name of a configured server"),
    "an_address_outside": (asking("11.0.0.1"), "not_allowed", "probe.allow"),
    "loopback": (asking("127.0.0.1"), "not_allowed", "probe.allow"),
    "metadata": (asking("http://169.254.169.254:80"), "not_allowed", "probe.allow"),
    "another_port": (asking("10.0.0.7:22"), "not_allowed", "port 22"),
    "the_url_of_a_configured_server": (asking("http://a:11434"), "not_allowed", "probe.allow"),
    "not_this_modules": (asking(module="near"), "not_allowed", "probe.modules.near.targets"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_not_be_asked_is_refused_in_words(case: str, tmp_path: Path) -> None:
    question, reason, words = REFUSED[case]
    config = configured(tmp_path, f"{ALLOW}\nmodules:\n  near:\n    targets: [10.1.0.0/16]")
    with pytest.raises(Refusal) as caught:
        ordered(config, question)
    assert (caught.value.reason, caught.value.code) == (reason, 400)
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_default_module_exists_without_configuration_and_is_passive() -> None:
    config = load(None, {"OLLAMA_EXPORTER_SERVERS": "a=http://a:11434"})
    order = ordered(config, asking("a"))
    assert [watch.source for watch in order.watches] == ["api"]
    with pytest.raises(Refusal):
        ordered(config, asking("http://a:11434"))


MODULES = f"""\
{ALLOW}
modules:
  secret:
    targets: [10.1.0.0/16, gpu1]
    headers: {{X-Key: "${{SECRET}}"}}
    host_header: localhost
  plain: {{}}"""


def test_a_modules_credentials_go_to_its_targets_and_to_no_other(tmp_path: Path) -> None:
    config = configured(tmp_path, MODULES, "name: a, url: http://a:11434", "name: b, url: http://10.1.0.9:11434")
    (watch,) = ordered(config, asking("10.1.0.7", "secret")).watches
    assert [value.reveal() for _, value in watch.settings.endpoint.headers] == ["s3cret-value"]  # type: ignore[attr-defined]
    (watch,) = ordered(config, asking("10.1.0.7", "plain")).watches
    assert watch.settings.endpoint.headers == ()  # type: ignore[attr-defined]
    with pytest.raises(Refusal):
        ordered(config, asking("10.2.0.7", "secret"))
    for name in "ab":
        (watch,) = ordered(config, asking(name, "secret")).watches
        assert watch.settings.endpoint.headers == ()  # type: ignore[attr-defined]


def test_a_configured_servers_credentials_go_when_it_is_called_by_its_name(tmp_path: Path) -> None:
    server = 'name: a, url: http://10.0.0.7:11434, headers: {X-Key: "${SECRET}"}'
    config = configured(tmp_path, ALLOW, server)
    (watch,) = ordered(config, asking("a")).watches
    assert len(watch.settings.endpoint.headers) == 1  # type: ignore[attr-defined]
    (watch,) = ordered(config, asking("10.0.0.7:11434")).watches
    assert watch.settings.endpoint.headers == ()  # type: ignore[attr-defined]


@pytest.mark.parametrize("timeout", ["0.2", "1", "3", "10", "60"])
def test_every_wait_of_a_probe_fits_into_its_time(timeout: str, tmp_path: Path) -> None:
    config = configured(tmp_path, f"{ALLOW}\nmodules:\n  default: {{native: auto}}")
    order = ordered(config, asking(timeout=timeout))
    assert order.within < float(timeout)
    for watch in order.watches:
        endpoint = watch.settings.endpoint  # type: ignore[attr-defined]
        assert endpoint.connect_timeout <= endpoint.timeout < watch.within < order.within


# --- mistakes in the configuration -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "mistake"),
    [
        ("alow: []", "probe.alow: unknown key, did you mean allow?"),
        ("allow: 10.0.0.0/8", "probe.allow: must be a list"),
        ("allow: [gpu1, 10.0.0.1/8]", "probe.allow[1]: must be a network"),
        ("allow: ['http://gpu1']", "probe.allow[0]: must be a network"),
        ("allow: ['gpu1:11434']", "probe.allow[0]: must be a host"),
        ("ports: [0]", "probe.ports[0]: must be a whole number from 1 to 65535"),
        ("timeout_offset: 0", "probe.timeout_offset: must be > 0"),
        ("concurrency: 0", "probe.concurrency: must be a whole number"),
        ("modules: [a]", "probe.modules: must be a mapping"),
        ("modules: {a b: {}}", "probe.modules.a b: must be 1 to 64 letters"),
        ("modules: {x: {timeout: 1h}}", "probe.modules.x.timeout: must be at most 2m"),
        ("modules: {x: {tmeout: 1s}}", "probe.modules.x.tmeout: unknown key, did you mean timeout?"),
        ("modules: {x: {canary: {mode: always}}}", "probe.modules.x.canary.mode: must be off or loaded"),
        ("modules: {x: {headers: {X-Key: s3cret}}}", "probe.modules.x.headers.X-Key: must take its value from the env"),
        (
            "modules: {x: {headers: {X-A: b}}}",
            "probe.modules.x.targets: must name the targets that headers may be sent",
        ),
        ("modules: {x: {request_timeout: 1s}}", "probe.modules.x.connect_timeout: must be at most request_timeout"),
        ("modules: {x: {tls: {key_file: k}}}", "probe.modules.x.tls.key_file: "),
        ("modules: {x: {bearer_token_file: none}}", "probe.modules.x.bearer_token_file: must be the path of a file"),
    ],
)
def test_each_mistake_is_told_with_its_path(probe: str, mistake: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, probe)
    assert any(told.startswith(mistake) for told in caught.value.mistakes), caught.value.mistakes
    assert "s3cret" not in str(caught.value)


def test_what_is_in_force_is_shown_and_can_be_read_again(tmp_path: Path) -> None:
    config = configured(tmp_path, MODULES)
    text = config.effective_yaml()
    assert "s3cret-value" not in text
    (tmp_path / "again.yml").write_text(text.replace("X-Key: <secret>", 'X-Key: "${SECRET}"'))
    again = load(str(tmp_path / "again.yml"), {"SECRET": "s3cret-value"})
    assert again.probe == config.probe


def test_check_tells_modules_and_allow_list(tmp_path: Path) -> None:
    config = configured(tmp_path, MODULES)
    here = Reading(Watch("", "host", 15.0, 10.0), 0.0, 0.0)
    text = plan_text(config, here)
    assert "10.0.0.0/8" in text
    assert "secret" in text
    assert "gpu1" in text
    assert "s3cret-value" not in text


# --- looks, in virtual time ------------------------------------------------------------------------------------------


class Scene:
    """Simulated servers and what may ask them."""

    def __init__(self, config: Config, *hosts: str) -> None:
        self.config = config
        self.servers = {host: SimServer(ServerConfig(host), virtual_wall_clock) for host in hosts}
        self.recorder = Recorder(SimTransport(self.servers))
        self.around = Surroundings(now=virtual_wall_clock, transport=lambda _: self.recorder)
        self.probing = Probing(self.around)
        self.people = httpx.AsyncClient(transport=SimTransport(self.servers), timeout=1e6)

    async def probe(self, target: str = TARGET, module: str = "", timeout: str = "10") -> Page:
        return Page(await self.probing.probe(self.config, asking(target, module, timeout)))

    async def use(self, host: str = "10.0.0.7", **body: Any) -> None:
        body = {"model": "tinyllama", "prompt": "Why?", "stream": False, **body}
        await self.people.post(f"http://{host}:11434/api/generate", json=body)

    def generated(self) -> int:
        return len(self.recorder.sent("/api/generate"))


@contextlib.asynccontextmanager
async def scene(config: Config, *hosts: str) -> AsyncIterator[Scene]:
    it = Scene(config, *(hosts or ("10.0.0.7",)))
    try:
        async with meanwhile(it.probing.run()):
            await asyncio.sleep(0)
            yield it
    finally:
        await it.people.aclose()
        for server in it.servers.values():
            await server.aclose()


CANARY = f"{ALLOW}\nmodules:\n  canary:\n    canary: {{mode: loaded}}\n  other:\n    canary: {{mode: loaded}}"


def test_a_probe_says_what_the_loops_say(tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, ALLOW)) as it:
            await it.use()
            page = await it.probe()
            assert page(catalog.PROBE_SUCCESS) == 1.0
            assert page(catalog.PROBE_TIMEOUT) == 9.5
            assert page(catalog.UP, server="10.0.0.7:11434") == 1.0
            assert page(catalog.LOADED_MODELS, server="10.0.0.7:11434") == 1.0
            assert page(catalog.SOURCE_UP, server="10.0.0.7:11434", source="api") == 1.0
            assert not any("canary" in name for name in page.names())

    run()


def test_a_target_that_is_not_there_is_an_answer_with_its_reason(tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, ALLOW)) as it:
            page = await it.probe("10.9.9.9")
            assert page(catalog.PROBE_SUCCESS) == 0.0
            assert page(catalog.PROBE_DURATION) == 0.0
            assert page(catalog.UP, server="10.9.9.9:11434") == 0.0
            labels = {"server": "10.9.9.9:11434", "source": "api"}
            assert page(catalog.SOURCE_FAILURES, **labels, reason="unreachable") == 1.0

    run()


@pytest.mark.parametrize(("fault", "state"), [("starting", "starting"), ("ps_stalled", "stalled")])
def test_a_silent_target_is_told_of_before_prometheus_gives_up(fault: FaultKind, state: str, tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, ALLOW)) as it:
            it.servers["10.0.0.7"].faults.inject(Fault(fault))
            began = asyncio.get_running_loop().time()
            page = await it.probe(timeout="3")
            assert asyncio.get_running_loop().time() - began <= 2.5
            assert page(catalog.PROBE_SUCCESS) == 0.0
            assert page(catalog.STATE, server="10.0.0.7:11434", state=state) == 1.0

    run()


def test_probes_at_the_same_time_are_one_look_and_later_ones_are_another(tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, ALLOW)) as it:
            pages = await asyncio.gather(*(it.probe() for _ in range(20)))
            assert len(it.recorder.sent("/api/version")) == 1
            assert all(page(catalog.PROBE_SUCCESS) == 1.0 for page in pages)
            await it.probe()
            assert len(it.recorder.sent("/api/version")) == 2
            assert len(it.recorder.sent("/api/tags")) == 1

    run()


def test_what_was_seen_is_never_told_again_of_a_target_that_has_gone(tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, ALLOW)) as it:
            await it.use()
            assert (await it.probe())(catalog.LOADED_MODELS, server="10.0.0.7:11434") == 1.0
            it.servers["10.0.0.7"].faults.inject(Fault("dead"))
            page = await it.probe()
            assert page(catalog.PROBE_SUCCESS) == page(catalog.UP, server="10.0.0.7:11434") == 0.0
            assert page(catalog.LOADED_MODELS, server="10.0.0.7:11434") is None

    run()


def test_too_many_at_the_same_time_are_sent_away_and_counted(tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, f"{ALLOW}\nconcurrency: 3")) as it:
            came = await asyncio.gather(*(it.probe() for _ in range(5)), return_exceptions=True)
            refusals = [each for each in came if isinstance(each, Refusal)]
            assert [(each.code, each.reason) for each in refusals] == [(503, "too_many")] * 2
            await it.probe()
            vitals = it.around.vitals.probe
            assert vitals.refused.total(reason="too_many") == 2
            assert vitals.done.total(outcome="success") == 4
            assert vitals.in_flight == 0

    run()


# --- the canary through /probe ---------------------------------------------------------------------------------------


def test_nothing_is_generated_unless_the_module_says_so(tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, CANARY)) as it, meanwhile(every(20.0, it.use)):
            for _ in range(12):
                await asyncio.sleep(15)
                await it.probe()
            assert it.generated() == 0
            assert {request.method for request in it.recorder.requests} == {"GET"}

    run()


@pytest.mark.parametrize("scrapers", [1, 3])
def test_however_many_ask_there_is_one_canary_an_interval(scrapers: int, tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, CANARY)) as it, meanwhile(every(20.0, it.use)):
            for _ in range(24):
                await asyncio.sleep(15)
                timeouts = [str(3 + place) for place in range(scrapers)]
                pages = await asyncio.gather(*(it.probe(module="canary", timeout=timeout) for timeout in timeouts))
            assert 4 <= it.generated() <= 6
            sent = {"server": "10.0.0.7:11434", "model": "tinyllama:latest", "outcome": "ok"}
            assert all(page(catalog.CANARY_ATTEMPTS, **sent) == it.generated() for page in pages)

    run()


def test_a_model_that_only_the_canary_uses_is_let_go(tmp_path: Path) -> None:
    """Two modules with a canary on one server would take each other for users, and keep its models for good."""

    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, CANARY)) as it:
            await it.use()
            for _ in range(32):
                await asyncio.sleep(15)
                await it.probe(module="canary")
                await it.probe(module="other")
                await it.probe("10.0.0.7:11434", module="other", timeout="5")
            assert it.generated() == 1
            assert [event.kind for event in it.servers["10.0.0.7"].log.of("load", "unload")] == ["load", "unload"]

    run()


@pytest.mark.parametrize("target", ["a", TARGET])
def test_a_configured_server_has_no_second_canary(target: str, tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        config = configured(tmp_path, CANARY, f"name: a, url: {TARGET}")
        async with scene(config) as it, meanwhile(every(20.0, it.use)):
            for _ in range(12):
                await asyncio.sleep(15)
                seen = await it.probing.probe(config, asking(target, "canary"))
            assert it.generated() == 0
            assert "its canary is that of the loops" in report(seen)

    run()


def test_a_canary_that_waits_outlasts_the_probe_and_is_not_sent_again(tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, CANARY)) as it:
            await it.use(keep_alive=-1)
            it.servers["10.0.0.7"].faults.inject(Fault("slow", factor=1e4))
            for _ in range(30):
                await asyncio.sleep(15)
                page = await it.probe(module="canary", timeout="2")
                assert page(catalog.PROBE_SUCCESS) == 1.0
            assert it.generated() == 1
            assert page(catalog.CANARY_PENDING, server="10.0.0.7:11434", model="tinyllama:latest") is not None

    run()


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_the_longest_unasked_makes_room_and_nobody_stays_for_good(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(states, "STATES_MAX", 5)

    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, ALLOW)) as it:
            await it.probe("10.0.1.0")
            for place in range(9):
                await it.probe("10.0.1.0")
                await it.probe(f"10.0.2.{place}")
                assert len(it.probing._states) <= 5
            kept = {watch.server for watch, _ in it.probing._states._passive}
            assert kept == {"10.0.1.0:11434", *(f"10.0.2.{place}:11434" for place in (5, 6, 7, 8))}
            await asyncio.sleep(states.IDLE_SECONDS + 100)
            assert len(it.probing._states) == it.around.vitals.probe.states == 0

    run()


def test_there_are_so_many_canaries_and_no_more(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(states, "CANARIES_MAX", 2)

    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, CANARY)) as it:
            for place in range(4):
                await it.probe(f"10.0.2.{place}", "canary")
            assert set(it.probing._states._canaries) == {"http://10.0.2.0:11434", "http://10.0.2.1:11434"}

    run()


def test_a_canary_whose_module_changed_is_another_one(tmp_path: Path) -> None:
    @virtually
    async def run() -> None:
        async with scene(configured(tmp_path, CANARY)) as it:
            await it.probe(module="canary")
            (_, before), *_ = it.probing._states._canaries.values()
            it.config = configured(tmp_path, CANARY.replace("mode: loaded", "mode: loaded, every: 5m"))
            await it.probe(module="canary")
            (_, after), *none = it.probing._states._canaries.values()
            assert after is not before
            assert not none

    run()


def test_a_certificate_that_has_gone_is_a_failed_look_and_no_failed_page(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    modules = f"{ALLOW}\nmodules:\n  default: {{tls: {{ca_file: {authority.ca}}}}}"

    @in_loop
    async def run() -> None:
        config = configured(tmp_path, modules)
        authority.ca.unlink()
        probing = Probing(Surroundings())
        async with meanwhile(probing.run()):
            await asyncio.sleep(0)
            page = Page(await probing.probe(config, asking("https://10.0.0.7:443")))
            assert page(catalog.PROBE_SUCCESS) == 0.0
            assert page(catalog.SOURCE_FAILURES, server="10.0.0.7:443", source="api", reason="bug") == 1.0

    run()


def test_another_allow_list_starts_anew(tmp_path: Path) -> None:
    """What an old list let through is not used by the leave of a new one."""

    @virtually
    async def run() -> None:
        first, second = configured(tmp_path, ALLOW), configured(tmp_path, "allow: [10.0.0.0/16]")
        async with scene(first) as it:
            await it.probe()
            it.config = second
            await it.probe()
            assert len(it.probing._states) == 2

    run()


# --- over real sockets -----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def exporting(config: Config) -> AsyncIterator[httpx.AsyncClient]:
    """The whole exporter on a port."""
    exporter, port = Exporter(config, lambda: config), free_port()
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False)
    async with serving(exporter, ("127.0.0.1", port)), client:
        yield client


def local(tmp_path: Path, port: int, more: str = "") -> Config:
    return configured(tmp_path, f"allow: [127.0.0.1, localhost]\nports: [{port}]\n{more}")


def test_a_scrape_as_prometheus_makes_it(tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        async with healthy() as wire, exporting(local(tmp_path, wire.port)) as client:
            headers = {
                "Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
                "Accept-Encoding": "gzip",
                "X-Prometheus-Scrape-Timeout-Seconds": "10",
            }
            response = await client.get("/probe", params={"target": f"127.0.0.1:{wire.port}"}, headers=headers)
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("application/openmetrics-text")
            assert response.headers["content-encoding"] == "gzip"
            families = {family.name for family in parse_openmetrics(response.text)}
            assert {"probe_success", "probe_duration_seconds", "ollama_up", "ollama_loaded_models"} <= families
            assert wire.paths[:3] == ["/api/version", "/api/ps", "/api/tags"]
            plain = await client.get("/probe", params={"target": "a"}, headers={"Accept-Encoding": "identity"})
            assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert "probe_success 0.0\n" in plain.text

    run()


def test_a_wrong_question_is_a_400_and_a_switched_off_probe_a_404(tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        async with exporting(local(tmp_path, 1)) as client:
            for query in ("", "?target=", "?target=gpu9", "?target=a&module=no", "?target=a&target=b"):
                response = await client.get(f"/probe{query}")
                assert response.status_code == 400
                assert response.headers["content-type"].startswith("text/plain")
                assert response.text.strip()
            assert (await client.post("/probe?target=a")).status_code == 405
        async with exporting(configured(tmp_path, "enabled: false")) as client:
            assert (await client.get("/probe?target=a")).status_code == 404

    run()


def test_debug_tells_what_was_asked_and_what_came_back_without_a_secret(tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        async with healthy(tags=[answer(b"no", status=500)]) as wire:
            modules = 'modules:\n  keyed:\n    targets: [127.0.0.1]\n    headers: {Authorization: "Bearer ${SECRET}"}'
            async with exporting(local(tmp_path, wire.port, modules)) as client:
                target = f"127.0.0.1:{wire.port}"
                text = (await client.get(f"/probe?target={target}&module=keyed&debug=true")).text
        assert f"GET /api/version at {target}: 200, 21 bytes" in text
        assert f"GET /api/tags at {target}: 500" in text
        assert "api: http_5xx" in text
        assert "probe_success 0.0" in text
        assert "s3cret-value" not in text
        assert wire.requests[0].header("Authorization") == ["Bearer s3cret-value"]

    run()


def test_a_redirect_is_not_followed_and_takes_no_credentials_along(tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        async with healthy() as other, Wire() as wire:
            wire.routes["/api/version"] = [answer(b"", f"Location: {other.url}/api/version", status=302)]
            async with exporting(local(tmp_path, wire.port)) as client:
                text = (await client.get(f"/probe?target=127.0.0.1:{wire.port}")).text
        assert "probe_success 0.0" in text
        assert re.search(r'reason="redirect",server="[^"]*",source="api"} 1.0', text)
        assert not other.requests

    run()


@pytest.mark.parametrize("authorization", ["", "Bearer wrong-token-wrong", "Basic dTpw"])
def test_the_token_guards_the_page(authorization: str, tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        (tmp_path / "token").write_text("a-token-of-some-length")
        file = tmp_path / "exporter.yml"
        async with healthy() as wire:
            file.write_text(
                f"servers: [{{name: a, url: '{wire.url}'}}]\nhost: {{enabled: false}}\nnative: {{mode: 'off'}}\n"
                "web: {tokens: {probe_file: token}}\n"
            )
            async with exporting(load(str(file), {})) as client:
                headers = {"Authorization": authorization} if authorization else {}
                refused = await client.get("/probe?target=a", headers=headers)
                assert refused.status_code == 401
                granted = await client.get(
                    "/probe?target=a", headers={"Authorization": "Bearer a-token-of-some-length"}
                )
                assert "probe_success 1.0" in granted.text
                assert (await client.get("/metrics")).status_code == 200

    run()


# --- names that lead elsewhere ---------------------------------------------------------------------------------------


async def _named(tmp_path: Path, port: int, *answers: Iterable[str]) -> tuple[Probing, Config, list[str]]:
    """A /probe for which `gpu1` has these addresses, one answer of DNS after the other."""
    asked: list[str] = []
    left = list(answers)

    async def resolve(host: str) -> Iterable[str]:
        asked.append(host)
        return left.pop(0) if len(left) > 1 else left[0]

    return Probing(Surroundings(), resolve), configured(tmp_path, f"allow: [gpu1]\nports: [{port}]"), asked


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"], ["169.254.169.254"], ["::1"], ["::ffff:127.0.0.1"], ["0.0.0.0"], ["::"], ["fe80::1"],
        ["10.0.0.7", "127.0.0.1"], ["64:ff9b::7f00:1"], ["fd00:ec2::254"],
    ],
    ids=str,
)  # fmt: skip
def test_a_name_that_leads_inside_is_refused_and_nothing_is_sent(addresses: list[str], tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        async with healthy() as wire:
            probing, config, _ = await _named(tmp_path, wire.port, addresses)
            async with meanwhile(probing.run()):
                await asyncio.sleep(0)
                with pytest.raises(Refusal) as caught:
                    await probing.probe(config, asking(f"gpu1:{wire.port}"))
            assert caught.value.reason == "address"
            assert wire.connections == 0

    run()


def test_a_name_that_changes_its_mind_after_it_was_judged_gains_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    """Each connection resolves once, judges what came, and goes there."""

    @in_loop
    async def run() -> None:
        async with healthy() as wire:
            probing, config, asked = await _named(tmp_path, wire.port, ["127.0.0.9"], ["127.0.0.1"])
            monkeypatch.setattr("exporter.config.targets._SPECIAL", ())
            async with meanwhile(probing.run()):
                await asyncio.sleep(0)
                assert not Page(await probing.probe(config, asking(f"gpu1:{wire.port}")))(catalog.PROBE_SUCCESS)
            assert wire.connections == 0
            assert asked == ["gpu1"]

    run()


def test_a_rebound_name_is_refused_when_it_is_connected_to_anew(tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        version = [json_answer({"version": "0.33.0"}, "Connection: close")]
        async with healthy(version=version) as wire:
            probing, config, _ = await _named(tmp_path, wire.port, ["127.0.0.1"], ["127.0.0.2"])
            opened = replace(
                config, probe=replace(config.probe, allow=(*config.probe.allow, parse_allowed("127.0.0.1")))
            )
            async with meanwhile(probing.run()):
                await asyncio.sleep(0)
                with pytest.raises(Refusal):
                    await probing.probe(opened, asking(f"gpu1:{wire.port}"))
            assert [request.target for request in wire.requests] == ["/api/version"]

    run()


def test_a_slow_dns_holds_up_no_other_thread(tmp_path: Path) -> None:
    """On the loop that the program runs on."""
    hung = threading.Event()

    async def run() -> None:
        config = configured(tmp_path, "allow: ['*.example.org']")
        probing = Probing(Surroundings())
        async with meanwhile(probing.run()):
            await asyncio.sleep(0)
            names = (f"gpu{place}.example.org" for place in range(40))
            seen = await asyncio.gather(*(probing.probe(config, asking(name, timeout="0.6")) for name in names))
            assert not any(Page(each)(catalog.PROBE_SUCCESS) for each in seen)
            assert await asyncio.to_thread(lambda: "free") == "free"
            hung.set()

    with asyncio.Runner(loop_factory=partial(Loop, lookup=lambda *_: hung.wait(20) and [])) as runner:
        runner.run(run())


# --- the pages that tell of it ---------------------------------------------------------------------------------------


def test_the_scrape_configuration_of_the_docs_is_prometheus_own(tmp_path: Path, promtool: Path) -> None:
    """All YAML of the page that begins with scrape_configs or global."""
    text = (ROOT / "docs" / "multi-target.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "scrape_configs:" in block]
    assert blocks
    for block in blocks:
        (tmp_path / "prometheus.yml").write_text(block)
        (tmp_path / "token").write_text("token")
        done = subprocess.run(
            [promtool, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def test_the_modules_of_the_docs_are_right(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "multi-target.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith("probe:")]
    assert blocks
    for block in blocks:
        (tmp_path / "secrets").mkdir(exist_ok=True)
        (tmp_path / "secrets" / "token").write_text("token")
        (tmp_path / "exporter.yml").write_text(block)
        assert load(str(tmp_path / "exporter.yml"), {}).probe.modules
