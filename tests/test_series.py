"""The budget of series: what docs/series.md promises is never exceeded, and its switches do what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import httpx
import pytest

from exporter import catalog
from exporter.config import Config, load, plan
from exporter.exposition import encode, render
from exporter.fleet import Fleet
from exporter.meter import Histogram
from exporter.model import Entry, Snapshot
from exporter.series import Count, Switches, count, series_markdown
from exporter.simulator import (
    TINYLLAMA,
    EngineConfig,
    ServerConfig,
    SimServer,
    SimTransport,
    run_virtual,
    virtual_wall_clock,
)
from exporter.simulator.models import GIB
from exporter.sources import SOURCES, Surroundings, build
from exporter.store import Store
from tests.incidents import inside
from tests.scene import PATIENT, meanwhile

ROOT = Path(__file__).parent.parent
WATCHED = ("api", "canary", "native", "sockets", "runner", "logs", "docker", "audit")
MODELS = tuple(f"m{number:02}:latest" for number in range(20))
FEW = Switches(histogram_models=False, inventory=False)

CONFIG = """
servers: [{name: a, url: "http://a", container: a, logs: {file: %(log)s}}]
canary: {every: 15s}
host: {enabled: false}
gpu: {mode: off}
native: {every: 15s}
docker: {address: "unix://%(folder)s/d.sock"}
limits: {models: %(models)d, histogram_models: %(histogram_models)s, inventory: %(inventory)s}
"""


def test_the_page_is_in_step() -> None:
    assert (ROOT / "docs/series.md").read_text(encoding="utf-8") == series_markdown(), "run scripts/generate"


def configured(folder: Path, switches: Switches, models: int) -> Config:
    values = {
        "log": folder / "a.log",
        "folder": folder,
        "models": models,
        "histogram_models": str(switches.histogram_models).lower(),
        "inventory": str(switches.inventory).lower(),
    }
    path = folder / "exporter.yml"
    path.write_text(CONFIG % values)
    return load(str(path), {})


async def played(folder: Path, switches: Switches, models: int) -> Snapshot:
    """A server with twenty models, all in use, of which all that can be seen is seen: after twenty minutes."""
    log = inside.LogFile(folder / "a.log")
    engine = EngineConfig(num_parallel=4, max_loaded_models=20, gpu_bytes=400 * GIB, memory_bytes=900 * GIB)
    installed = tuple(replace(TINYLLAMA, name=name, digest="", blob="") for name in MODELS)
    server = SimServer(ServerConfig("a", engine, installed, metrics=True), virtual_wall_clock, log.write)
    within = inside.Inside({"a": server})
    around = Surroundings(virtual_wall_clock, lambda _: SimTransport({"a": server}), within.machine, within.wire)
    store = Store(encode)
    fleet = Fleet(
        lambda watch: build(watch, around),
        store.put,
        lambda watch: SOURCES[watch.source].reasons,
        Histogram(catalog.EXPORTER_LAG),
        virtual_wall_clock,
    )
    watches = [watch for watch in plan(configured(folder, switches, models)) if watch.source in WATCHED]
    store.plan(watches)
    fleet.apply(watches)
    with patch.object(asyncio, "to_thread", inside.at_once), inside.engine(folder, {"a": server}):
        async with (
            httpx.AsyncClient(transport=SimTransport({"a": server}), base_url="http://a", timeout=PATIENT) as people,
            meanwhile(fleet.run()),
        ):
            for _ in range(10):
                for name in MODELS:
                    await people.post("/api/generate", json={"model": name, "prompt": "Why?", "stream": False})
                await asyncio.sleep(120.0)
            snapshot = store.snapshot
    await within.aclose()
    await server.aclose()
    log.close()
    return snapshot


Play = Callable[[Switches, int], Mapping[str, Entry]]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """What is exported in a scene, by source. Each scene is played once."""
    known: dict[tuple[Switches, int], Mapping[str, Entry]] = {}

    def play(switches: Switches, models: int) -> Mapping[str, Entry]:
        if (switches, models) not in known:
            snapshot = run_virtual(played(tmp_path_factory.mktemp("series"), switches, models))
            found = {watch.source: entry for watch, entry in snapshot.entries.items()}
            assert found.keys() == set(WATCHED)
            assert {name: each.reading.failure for name, each in found.items()} == dict.fromkeys(WATCHED)
            assert not any(each.reading.blind for each in found.values())
            assert render(snapshot, openmetrics=False)
            known[switches, models] = found
        return known[switches, models]

    return play


def most(each: Count, models: int) -> int:
    """Of so many models with labels, with `unknown` and, past the cap, `other` beside them."""
    past_cap = models < len(MODELS)
    return each.total(models + 1 + past_cap, models + past_cap)


@pytest.mark.parametrize("source", WATCHED)
@pytest.mark.parametrize("models", [200, 5], ids=["below the cap", "past the cap"])
@pytest.mark.parametrize("switches", [Switches(), FEW], ids=["all", "few"])
def test_no_source_makes_more_series_than_are_promised(
    play: Play, source: str, switches: Switches, models: int
) -> None:
    made = play(switches, models)[source].series
    promised = most(count(source, switches), min(models, len(MODELS)))
    assert made <= promised
    assert made >= promised / 4  # or the promise is idle


def test_of_api_and_canary_the_number_is_exact(play: Play) -> None:
    seen = play(Switches(), 200)
    assert seen["api"].series == count("api").total(20, 20)
    # Of a canary in flight there is one series, of each model that none was sent to yet no histogram.
    assert count("canary").total(20, 0) - 20 <= seen["canary"].series <= count("canary").total(20, 0)


@pytest.mark.parametrize(
    "family", [family for family in catalog.FAMILIES if family.kind == "histogram" and family.labels[1:] == ("model",)]
)
def test_a_histogram_without_models_counts_as_much(play: Play, family: object) -> None:
    by_model, together = ({}, {})  # type: dict[str, int], dict[str, int]
    for switches, into in ((Switches(), by_model), (FEW, together)):
        for entry in play(switches, 200).values():
            for sample in entry.reading.samples:
                if sample.family is family:
                    into[sample.labels[1]] = sample.value.counts[-1]  # type: ignore[union-attr]
    assert len(by_model) >= 20
    assert together == {"": sum(by_model.values())}
    assert sum(by_model.values()) > 0


def test_without_the_inventory_models_are_still_counted(play: Play) -> None:
    families = {sample.family for sample in play(FEW, 200)["api"].reading.samples}
    assert not families & {catalog.INSTALLED_SIZE, catalog.INSTALLED_INFO}
    assert {catalog.INSTALLED_MODELS, catalog.LOADED_SIZE, catalog.LOADED_INFO, catalog.LOADS_SEEN} <= families


def test_the_switches_are_worth_it() -> None:
    plain, few = (sum(count(source, each).total(20, 20) for source in ("api", "canary")) for each in (Switches(), FEW))
    assert few < plain / 3
