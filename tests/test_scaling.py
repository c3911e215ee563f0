"""docs/scaling.md: what it shows is taken by those that it is for, and does what it says; its tables are made anew."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import scaling, scaling_page, servers
from dashboards.src import kept
from exporter.config import load
from exporter.discovery.targets import Seen, Target, answered
from exporter.series import Count, count
from exporter.sources import SOURCES
from tests.e2e import debian
from tests.test_dashboards import FILES, UIDS, queries_of

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "scaling.md").read_text("utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.M | re.S)
OURS = [block for block in BLOCKS if block.startswith(("discovery:", "servers:"))]
THEIRS = [block for block in BLOCKS if block.startswith(("scrape_configs:", "global:"))]
SERVERS = 40


def test_the_tables_are_in_step() -> None:
    assert scaling_page.filled(TEXT) == TEXT, "run scripts/generate"


def test_what_the_text_says_of_probe_is_what_was_measured() -> None:
    results = json.loads(scaling.RESULTS.read_text("utf-8"))
    (loops,) = [each for each in results["loops"] if each["servers"] == results["spread"]["servers"]]
    times = sum(results["spread"]["prober_cpu_cores"]) / loops["cpu_cores"]
    assert f"| 1 | about {times:.0f} |" in TEXT


def test_every_example_is_one_of_ours_or_of_prometheus() -> None:
    assert len(BLOCKS) == len(OURS) + len(THEIRS)
    assert len(OURS) == 3
    assert len(THEIRS) == 2


@pytest.mark.parametrize("block", OURS)
def test_the_exporter_takes_its_examples(tmp_path: Path, block: str) -> None:
    (tmp_path / "exporter.yml").write_text(block)
    config = load(str(tmp_path / "exporter.yml"), {})
    assert config.discovery or config.probe.allow


@pytest.mark.parametrize("block", THEIRS)
def test_prometheus_takes_its_examples(tmp_path: Path, promtool: Path, block: str) -> None:
    (tmp_path / "alerts").symlink_to(ROOT / "alerts")
    (tmp_path / "prometheus.yml").write_text(block)
    command = [promtool, "check", "config", tmp_path / "prometheus.yml"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


# --- who looks at whom -----------------------------------------------------------------------------------------------


def test_parts_of_discovery_are_whole_and_overlap_nowhere(tmp_path: Path) -> None:
    """The first example, on each of its four exporters."""
    targets = tuple(Target({"__address__": f"gpu{place}.example.com:11434"}) for place in range(1000))
    parts = []
    for part in range(4):
        (tmp_path / "exporter.yml").write_text(OURS[0].replace('regex: "0"', f'regex: "{part}"'))
        (entry,) = load(str(tmp_path / "exporter.yml"), {}).discovery
        found = answered(Seen(targets), [each.rule for each in entry.relabel_configs]).found
        parts.append({server.url for server in found})
    assert sum(map(len, parts)) == len(set().union(*parts)) == 1000
    assert min(map(len, parts)) > 200


def test_each_server_is_looked_at_by_one_exporter_and_none_by_two(tmp_path: Path) -> None:
    """Five exporters and a Prometheus, with the configuration of docs/scaling.md but for names and the interval."""
    binary = debian.prometheus().path
    with servers.running(SERVERS) as urls, scaling.cluster(tmp_path, binary, urls, {}, every="1s") as it:

        def shares() -> list[int]:
            return [int(each.value("ollama_exporter_probe_states")) for each in it.probers]

        until(lambda: sum(shares()) >= SERVERS)
        until(lambda: int(one(it.prometheus.query("sum(probe_success) or vector(0)"))) >= SERVERS)
        told = json.loads(it.prometheus.get("/api/v1/targets?state=active"))["data"]["activeTargets"]
        asked = [target for target in told if target["scrapePool"] == "ollama-probe"]
        names = {url.removeprefix("http://") for url in urls}
        assert Counter(target["labels"]["instance"] for target in asked) == Counter(names)
        by_exporter = Counter(_host(target) for target in asked)
        assert [by_exporter[address] for address in scaling.PROBERS] == shares()
        assert min(shares()) > 0
        assert sum(shares()) == SERVERS
        seen = it.prometheus.query("count by (instance) (ollama_up == 1)")
        assert {each["metric"]["instance"]: each["value"][1] for each in seen} == dict.fromkeys(names, "1")
        until(lambda: int(one(it.prometheus.query('sum(up{job="ollama"}) or vector(0)'))) == 5)
        assert it.prometheus.query('count({job="ollama", server!=""})') == []


def _host(target: dict[str, Any]) -> str:
    return str(target["scrapeUrl"]).removeprefix("http://").partition("/")[0]


def one(answer: list[dict[str, Any]]) -> float:
    return float(answer[0]["value"][1])


def until(good: Callable[[], bool]) -> None:
    for _ in range(200):
        if good():
            return
        time.sleep(0.1)
    raise AssertionError("what was waited for did not come")


def test_an_exporter_that_only_probes_has_no_servers(tmp_path: Path) -> None:
    (tmp_path / "exporter.yml").write_text("servers: []\nprobe: {allow: [gpu1]}\n")
    config = load(str(tmp_path / "exporter.yml"), {"OLLAMA_HOST": "http://gpu9"})
    assert config.servers == ()


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uids", [UIDS, scaling.LONG_TERM], ids=["all", "those of docs/scaling.md"])
def test_the_list_has_the_names_that_the_boards_ask_for(uids: tuple[str, ...]) -> None:
    """Found another way: by their spelling alone, out of the committed boards."""
    words = {word for uid in uids for _, query in queries_of(FILES[uid]) for word in re.findall(r"[\w:]+", query)}
    known = {*scaling_page.sample_names(), *scaling_page.recorded_names()}
    others = {"ALERTS", "up", "scrape_duration_seconds", "scrape_samples_scraped"}
    assert kept.names(uids) == words & (known | others)


def test_the_rule_keeps_these_names_and_no_other() -> None:
    (rule,) = yaml.safe_load(kept.rule(scaling.LONG_TERM))
    assert (rule["action"], rule["source_labels"]) == ("keep", ["__name__"])
    assert set(rule["regex"].split("|")) == kept.names(scaling.LONG_TERM)
    (shown,) = [block for block in THEIRS if block.startswith("global:")]
    assert yaml.safe_load(shown)["remote_write"][0]["write_relabel_configs"] == [rule]


@pytest.mark.parametrize("source", SOURCES)
def test_names_are_counted_as_they_are_kept(source: str) -> None:
    everything = frozenset(scaling_page.sample_names())
    assert count(source, names=everything) == count(source)
    assert count(source, names=frozenset()) == Count(0)
    halves = [count(source, names=frozenset(sorted(everything)[part::2])) for part in (0, 1)]
    assert sum(half.total(3, 10) for half in halves) == count(source).total(3, 10)
    assert count("api", names={"ollama_up"}) == Count(1)
