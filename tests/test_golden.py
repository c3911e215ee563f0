"""The whole page, per scenario of the simulated fleet, as files that are read in review (`pytest --update-golden`)."""

from __future__ import annotations

import ast
import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import catalog
from exporter.exposition import encode, render, vitals
from exporter.fleet import Fleet
from exporter.meter import Histogram
from exporter.model import ApiSettings, CanarySettings, Endpoint, Snapshot, Watch
from exporter.simulator import (
    EngineConfig,
    Fault,
    ServerConfig,
    SimServer,
    SimTransport,
    run_virtual,
    virtual_wall_clock,
)
from exporter.sources import SOURCES, Surroundings, build
from exporter.store import Store
from tests.scene import PATIENT, every, meanwhile

GOLDEN = Path(__file__).parent / "golden"
SLOTS = {"primary": 50, "secondary": 30, "tertiary": 20}

Servers = dict[str, SimServer]


async def users(servers: Servers, name: str, model: str, **body: object) -> None:
    async with httpx.AsyncClient(transport=SimTransport(servers), base_url=f"http://{name}", timeout=PATIENT) as client:
        await client.post("/api/generate", json={"model": model, "prompt": "Why?", "stream": False, **body})


async def idle(servers: Servers) -> None:
    await asyncio.sleep(120)


async def busy(servers: Servers) -> None:
    traffic = [every(10.0, lambda name=name: users(servers, name, "tinyllama")) for name in servers]
    async with meanwhile(*traffic, every(45.0, lambda: users(servers, "primary", "llama3.2:3b", keep_alive="30s"))):
        await asyncio.sleep(300)


async def dead_one(servers: Servers) -> None:
    async with meanwhile(every(10.0, lambda: users(servers, "secondary", "tinyllama"))):
        await asyncio.sleep(100)
    servers["secondary"].inject(Fault("dead"))
    await asyncio.sleep(31)


async def stalled_and_starting(servers: Servers) -> None:
    await asyncio.sleep(31)
    servers["primary"].inject(Fault("ps_stalled"))
    servers["tertiary"].inject(Fault("starting"))
    await asyncio.sleep(31)


async def reconfigured(servers: Servers) -> None:
    for context in (2048, 1024, 2048):
        await users(servers, "primary", "tinyllama", options={"num_ctx": context})
        await asyncio.sleep(31)


async def pinned_and_expired(servers: Servers) -> None:
    await users(servers, "primary", "tinyllama", keep_alive=-1)
    await users(servers, "secondary", "tinyllama", keep_alive="20s")
    await asyncio.sleep(91)


SCENARIOS: dict[str, Callable[[Servers], Awaitable[None]]] = {
    scenario.__name__: scenario
    for scenario in (idle, busy, dead_one, stalled_and_starting, reconfigured, pinned_and_expired)
}


async def play(scenario: Callable[[Servers], Awaitable[None]]) -> Snapshot:
    """The fleet under the real Fleet and Store, for as long as the scenario lasts."""
    servers = {
        name: SimServer(ServerConfig(name, EngineConfig(num_parallel=slots)), virtual_wall_clock)
        for name, slots in SLOTS.items()
    }
    around = Surroundings(now=virtual_wall_clock, transport=lambda _: SimTransport(servers))
    store = Store(encode)
    fleet = Fleet(
        lambda watch: build(watch, around),
        store.put,
        lambda watch: SOURCES[watch.source].reasons,
        Histogram(catalog.EXPORTER_LAG),
        virtual_wall_clock,
    )
    plan = [
        watch
        for name in servers
        for endpoint in [Endpoint(f"http://{name}")]
        for watch in (
            Watch(name, "api", 15.0, 20.0, ApiSettings(endpoint)),
            Watch(name, "canary", 15.0, 40.0, CanarySettings(endpoint)),
        )
    ]
    store.plan(plan)
    fleet.apply(plan)
    async with meanwhile(fleet.run()):
        await scenario(servers)
        snapshot = store.snapshot
    for server in servers.values():
        await server.aclose()
    return snapshot


@pytest.fixture(scope="module")
def pages() -> dict[str, Snapshot]:
    return {name: run_virtual(play(scenario)) for name, scenario in SCENARIOS.items()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_page_is_the_golden_one(name: str, pages: dict[str, Snapshot], update_golden: bool) -> None:
    path = GOLDEN / f"{name}.txt"
    page = render(pages[name], openmetrics=False).decode()
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(page, encoding="utf-8")
    assert page == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCENARIOS)
def test_both_formats_parse_to_the_same_series_without_duplicates(name: str, pages: dict[str, Snapshot]) -> None:
    plain = [s for f in parse_text(render(pages[name], openmetrics=False).decode()) for s in f.samples]
    modern = [s for f in parse_openmetrics(render(pages[name], openmetrics=True).decode()) for s in f.samples]
    keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in plain]
    assert len(set(keys)) == len(keys)
    assert {(*key, sample.value) for key, sample in zip(keys, plain, strict=True)} == {
        (sample.name, tuple(sorted(sample.labels.items())), sample.value) for sample in modern
    }


@pytest.mark.parametrize("name", SCENARIOS)
def test_promtool_finds_nothing(name: str, promtool: Path, pages: dict[str, Snapshot]) -> None:
    page = render(pages[name], openmetrics=False)
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_the_scenarios_show_every_family_of_the_fleet(pages: dict[str, Snapshot]) -> None:
    readings = [entry.reading for page in pages.values() for entry in page.entries.values()]
    shown = {sample.family for reading in readings for sample in (*reading.samples, *vitals(reading))}
    expected = {
        family
        for family in catalog.FAMILIES
        if family not in catalog.PASSED
        and not family.name.startswith(
            (
                "ollama_host_",
                "ollama_sockets_",
                "ollama_runner_",
                "ollama_container_",
                "ollama_log_",
                "ollama_gpu",
                "ollama_config_",
                "ollama_policy_",
                "ollama_native_",
                "ollama_load_",
                "ollama_exporter_",
                "process_",
                "probe_",
            )
        )
    }
    assert {family.name for family in expected - shown - {catalog.CANARY_PENDING}} == set()


def test_every_family_is_emitted_by_some_source() -> None:
    """Declared and never set is a lie by omission: each name of the catalogue is used where samples are made."""
    package = Path(__file__).parent.parent / "exporter"
    used: set[str] = set()
    passed = {name for name, value in vars(catalog).items() if any(value is family for family in catalog.PASSED)}
    elsewhere = [package / "exposition.py", package / "probing" / "__init__.py", package / "loadtest" / "publish.py"]
    for path in [*package.glob("sources/**/*.py"), *elsewhere]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "catalog":
                used.add(node.attr)
    names = {name for name, value in vars(catalog).items() if any(value is family for family in catalog.FAMILIES)}
    assert names - used - passed == set()  # those come as a server tells them: tests/sources/test_native.py
