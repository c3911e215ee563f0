"""A real Prometheus beside us: the same files and the same rules, and our /sd as the list that it probes by."""

# ruff: noqa: E501 (a table: long and flat on purpose)

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config import load
from exporter.discovery.files import FileFinder
from exporter.relabel import relabelled
from tests.e2e import debian
from tests.wire import free_port

GROUPS = [
    {
        "targets": ["gpu1.rack-a.example.com:11434", "gpu2.rack-a.example.com:11434"],
        "labels": {"rack": "a", "Gen": "H100"},
    },
    {
        "targets": ["gpu3.rack-b.example.com:8080", "[fd00::7]:11434"],
        "labels": {"rack": "b", "a": "1", "b": "2", "empty": "", "tier": "Straße"},
    },
    {"targets": ["10.0.0.9:80"], "labels": {"__path__": "/ollama", "a": "1", "b": "1", "meta_x": "y", "meta_z": "w"}},
    {"targets": ["lonely:1"]},
]
OWN = {"__scheme__": "http", "__metrics_path__": "/metrics", "__scrape_interval__": "5m", "__scrape_timeout__": "10s"}
"""Labels that Prometheus adds before its rules, beside `job`."""
Targets = dict[str, list[dict[str, Any]]]

RULES: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "replace with groups": [
        {"source_labels": ["__address__"], "regex": r"([^.:]+)\.?(.*):(\d+)", "target_label": "server", "replacement": "${1}-$3$$x$3y"}
    ],
    "replace with names": [
        {"source_labels": ["__address__"], "regex": r"(?P<host>\w+).*", "target_label": "server", "replacement": "$host-${host}s$none"}
    ],
    "anchored alternatives": [{"source_labels": ["__address__"], "regex": "gpu1|lonely:1", "action": "keep"}],
    "case is ignored where it is said": [{"source_labels": ["Gen"], "regex": "(?i)h1.*", "action": "keep"}],
    "classes of RE2": [{"source_labels": ["tier"], "regex": r"\p{Lu}[[:alpha:]\pL]+", "target_label": "x", "replacement": "yes"}],
    "as few as possible": [{"source_labels": ["__address__"], "regex": r"(.*?)\d(.*)", "target_label": "x", "replacement": "$2"}],
    "a target that is made": [
        {"source_labels": ["rack"], "regex": "(.+)", "target_label": "rack_$1", "replacement": "yes"},
    ],
    "an empty replacement deletes": [{"target_label": "rack", "replacement": ""}],
    "a constant": [{"target_label": "site", "replacement": "north"}],
    "nothing matches everything": [{"source_labels": ["none"], "target_label": "x", "replacement": "[$1]"}],
    "several sources": [{"source_labels": ["rack", "none", "Gen"], "separator": "/", "target_label": "x"}],
    "no separator": [{"source_labels": ["rack", "Gen"], "separator": "", "target_label": "x"}],
    "drop": [{"source_labels": ["rack"], "regex": "a|", "action": "drop"}],
    "keep": [{"source_labels": ["rack", "Gen"], "regex": "a;.+", "action": "keep"}],
    "keepequal": [{"source_labels": ["a"], "target_label": "b", "action": "keepequal"}],
    "dropequal": [{"source_labels": ["a"], "target_label": "b", "action": "dropequal"}],
    "hashmod": [
        {"source_labels": ["__address__"], "modulus": 1000003, "target_label": "hash", "action": "hashmod"},
        {"source_labels": ["rack", "Gen"], "modulus": 18446744073709551615, "target_label": "whole", "action": "hashmod"},
    ],
    "a part of the fleet": [
        {"source_labels": ["__address__"], "modulus": 3, "target_label": "__tmp_part", "action": "hashmod"},
        {"source_labels": ["__tmp_part"], "regex": "1", "action": "keep"},
    ],
    "labelmap": [{"regex": "meta_(.+)", "action": "labelmap"}],
    "labelmap with a replacement": [{"regex": "(ra)(ck)", "replacement": "$2_$1", "action": "labelmap"}],
    "labelmap of meta labels": [{"regex": "__meta_(f.*)", "action": "labelmap"}],
    "labeldrop": [{"regex": "meta_.*|rack", "action": "labeldrop"}],
    "labelkeep": [{"regex": "__.*|job|rack", "action": "labelkeep"}],
    "lowercase": [{"source_labels": ["Gen", "tier"], "target_label": "low", "action": "lowercase"}],
    "uppercase": [{"source_labels": ["tier", "rack"], "target_label": "up", "action": "uppercase"}],
    "one after the other": [
        {"source_labels": ["rack"], "target_label": "x", "replacement": "r$1"},
        {"source_labels": ["x", "Gen"], "regex": "(r.);(.*)", "target_label": "x", "replacement": "$2$1"},
        {"source_labels": ["x"], "regex": "(.{4,})", "target_label": "y"},
    ],
}  # fmt: skip

CONFIG = """
host: {enabled: false}
web: {listen_address: "127.0.0.1:%d"}
servers: [{name: own, url: "http://127.0.0.1:9"}]
discovery:
  - name: racks
    files: {paths: [racks.yml]}
log: {level: error}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "targets.json").write_text(json.dumps(GROUPS))
    (folder / "racks.yml").write_text("- targets: [127.0.0.1:10]\n  labels: {server: gpu1}\n")
    return folder


@pytest.fixture(scope="module")
def targets(folder: Path) -> Iterator[Targets]:
    """What Prometheus says of its targets, by job: those that it scrapes."""
    program, ours, theirs = debian.prometheus(), free_port(), free_port()
    (folder / "exporter.yml").write_text(CONFIG % ours)
    jobs = [
        {"job_name": name, "relabel_configs": rules, "file_sd_configs": [{"files": ["targets.json"]}]}
        for name, rules in RULES.items()
    ]
    probe = {
        "job_name": "probe",
        "metrics_path": "/probe",
        "http_sd_configs": [{"url": f"http://127.0.0.1:{ours}/sd", "refresh_interval": "1s"}],
        "relabel_configs": [
            {"source_labels": ["__address__"], "target_label": "__param_target"},
            {"source_labels": ["__meta_ollama_server"], "target_label": "server"},
            {"source_labels": ["__meta_ollama_url"], "target_label": "url"},
            {"source_labels": ["__meta_ollama_discovery"], "target_label": "found_by"},
            {"target_label": "__address__", "replacement": f"127.0.0.1:{ours}"},
        ],
    }
    config = {"global": {"scrape_interval": "5m"}, "scrape_configs": [*jobs, probe]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    arguments = [
        f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{theirs}", "--log.level=warn",
    ]  # fmt: skip
    with running([sys.executable, "-m", "exporter", f"--config.file={folder}/exporter.yml"], folder / "exporter.log"):
        until(f"http://127.0.0.1:{ours}/sd", lambda answer: len(answer) == 2)
        with running([str(program.path), *arguments], folder / "prometheus.log"):
            url, number = f"http://127.0.0.1:{theirs}/api/v1/targets", 6 * len(jobs) + 2
            answer = until(url, lambda answer: count(answer["data"]) >= number)
            yield {
                job["job_name"]: [
                    target for target in answer["data"]["activeTargets"] if target["scrapePool"] == job["job_name"]
                ]
                for job in (*jobs, probe)
            }


def count(told: Any) -> int:
    return len(told["activeTargets"]) + len(told["droppedTargets"])


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)


def until(url: str, good: Any) -> Any:
    for _ in range(400):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)
            if good(found):
                return found
        time.sleep(0.05)
    raise AssertionError(f"{url} never said what was waited for")


@pytest.mark.parametrize("job", RULES)
def test_files_and_rules_mean_here_what_they_mean_there(targets: Targets, folder: Path, job: str) -> None:
    written = {"files": {"paths": ["targets.json"]}, "relabel_configs": RULES[job]}
    (folder / "ours.yml").write_text(yaml.safe_dump({"discovery": [written]}))
    (entry,) = load(str(folder / "ours.yml"), {}).discovery
    assert entry.files is not None
    found = asyncio.run(FileFinder(entry.files).look(())).targets
    rules = [each.rule for each in entry.relabel_configs]
    ours = [relabelled({**target.labels, **OWN, "job": job}, rules) for target in found]
    visible = [seen(labels) for labels in ours if labels is not None]
    assert by_name(visible) == by_name([target["labels"] for target in targets[job]])
    assert (len(visible) < 6) == (job in KEEPING), "the table tests what its names say"


def seen(labels: dict[str, str]) -> dict[str, str]:
    """What Prometheus leaves of labels after its rules."""
    return {"instance": labels["__address__"], **{k: v for k, v in labels.items() if not k.startswith("__")}}


def by_name(found: list[dict[str, str]]) -> list[dict[str, str]]:
    return sorted(found, key=lambda labels: labels["instance"])


KEEPING = {
    "anchored alternatives",
    "case is ignored where it is said",
    "drop",
    "keep",
    "keepequal",
    "dropequal",
    "a part of the fleet",
}


def test_prometheus_spreads_probes_by_our_list(targets: Targets) -> None:
    labels = [target["labels"] for target in targets["probe"]]
    seen = {(each["server"], each["url"], each.get("found_by", "")) for each in labels}
    assert seen == {("own", "http://127.0.0.1:9", ""), ("gpu1", "http://127.0.0.1:10", "racks")}
    asked = {target["scrapeUrl"].partition("/probe")[2] for target in targets["probe"]}
    assert asked == {"?target=own", "?target=gpu1"}
