"""What a fleet costs beyond one machine: the exporter, Prometheus, and what is written to a store far away.

    python -m benchmarks.scaling [--quick] --prometheus PATH --victoria-metrics PATH

Three things are measured, each in processes of its own on loopback: one exporter that watches 10, 100 and 1,000 servers
in its loops; four exporters between which a real Prometheus spreads /probe by hashmod, with the configuration that
docs/scaling.md shows; and what this Prometheus writes to a real VictoriaMetrics. The figures go to
benchmarks/scaling.json, out of which `scripts/generate` makes the tables of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import programs, servers
from benchmarks.figures import say
from benchmarks.programs import Program
from dashboards.src import kept

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "scaling.json"
EVERY = 15.0
LOADED, INSTALLED = 3, 10
EXPORTERS = 4
PORT = programs.free_port()
FINDER, PROMETHEUS, STORE = (f"127.0.2.{place}:{PORT}" for place in (1, 2, 3))
PROBERS = [f"127.0.2.1{place}:{PORT}" for place in range(EXPORTERS)]
LONG_TERM = ("ollama-overview", "ollama-status")
"""The boards that docs/scaling.md keeps a store far away for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", type=Path, required=True)
    parser.add_argument("--victoria-metrics", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="fewer periods; the figures are shown and not kept")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    periods = 2 if arguments.quick else 5
    results: dict[str, Any] = {"machine": _machine(arguments.prometheus)}
    results["loops"] = [in_loops(count, periods) for count in (10, 100, 1000)]
    results |= spread(1000, periods, arguments.prometheus, arguments.victoria_metrics)
    results["machine"]["load_after"] = round(os.getloadavg()[0], 1)
    text = json.dumps(results, indent=2) + "\n"
    say(text)
    if not arguments.quick:
        RESULTS.write_text(text, encoding="utf-8")


def _machine(prometheus: Path) -> dict[str, Any]:
    told = subprocess.run([prometheus, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"version (\d+\.\d+\.\d+)", told.stdout + told.stderr)
    return {
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "prometheus": version[1] if version else "",
        "load_before": round(os.getloadavg()[0], 1),
    }


# --- one exporter, by its loops --------------------------------------------------------------------------------------


def in_loops(count: int, periods: int) -> dict[str, Any]:
    """Scraped every 15 s with gzip, as Prometheus does. CPU is the mean of the periods."""
    with tempfile.TemporaryDirectory() as folder, servers.running(count, LOADED, INSTALLED) as urls:
        fleet = {"servers": [{"name": f"gpu-node-{place:05}", "url": url} for place, url in enumerate(urls)]}
        with programs.exporter(Path(folder), "loops", FINDER, fleet) as it:
            _wait(lambda: it.value("ollama_up") == count)
            time.sleep(EVERY)
            spent = []
            for _ in range(periods):
                before, ends = it.cpu(), time.monotonic() + EVERY
                packed, encoding = it.asked("/metrics", **{"Accept-Encoding": "gzip"})
                time.sleep(max(0.0, ends - time.monotonic()))
                spent.append((it.cpu() - before) / EVERY)
            page = it.get("/metrics")
            failures = it.value("ollama_source_failures_total")
            resident = it.resident()
    if encoding != "gzip" or failures:
        raise SystemExit(f"a page that is {encoding or 'not compressed'}, {failures:g} polls that failed: no figures")
    series = sum(b'server="' in line for line in page.splitlines())
    found = {"servers": count, "series": series, "page_bytes": len(page), "gzip_bytes": len(packed)}
    found |= {"cpu_cores": round(statistics.mean(spent), 5), "cpu_spread": [round(each, 5) for each in sorted(spent)]}
    found |= {"rss_bytes": resident}
    say(f"{found}")
    return found


def _wait(good: Any, patience: float = 60.0) -> None:
    until = time.monotonic() + patience
    while not good():
        if time.monotonic() > until:
            raise SystemExit("what was waited for did not come")
        time.sleep(0.5)


# --- four exporters and a Prometheus ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cluster:
    finder: Program
    probers: Sequence[Program]
    prometheus: Program


def shown(title: str) -> dict[str, Any]:
    """The first YAML under this heading of docs/scaling.md, with our addresses in place of its names."""
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(title)}$.*?^```yaml\n(.*?)^```$", page, re.M | re.S)
    if found is None:
        raise LookupError(title)
    text = found[1].replace("finder:8082", FINDER)
    return dict(yaml.safe_load(re.sub(r"exporter-(\$1|\d):8082", rf"127.0.2.1\1:{PORT}", text)))


@contextlib.contextmanager
def cluster(folder: Path, binary: Path, urls: list[str], more: dict[str, Any], every: str = "15s") -> Iterator[Cluster]:
    """One exporter that finds the servers, four that look at them, and the Prometheus that says who looks at whom."""
    groups = [{"targets": [url.removeprefix("http://")]} for url in urls]
    (folder / "targets.json").write_text(json.dumps(groups), encoding="utf-8")
    finding = shown("The list")
    finding["discovery"] = [{"files": {"paths": ["targets.json"]}, "server": finding["discovery"][0]["server"]}]
    ports = sorted(int(url.rpartition(":")[2]) for url in urls)
    probe = {"allow": ["127.0.0.1"], "ports": ports, "modules": {"default": {"native": "off"}}}
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every},
        **shown("One job for all exporters"),
        **more,
    }
    with contextlib.ExitStack() as stack:
        finder = stack.enter_context(programs.exporter(folder, "finder", FINDER, finding))
        probers = [
            stack.enter_context(programs.exporter(folder, f"prober-{place}", address, {"servers": [], "probe": probe}))
            for place, address in enumerate(PROBERS)
        ]
        _wait(lambda: len(json.loads(finder.get("/sd"))) == len(urls))
        yield Cluster(finder, probers, stack.enter_context(programs.prometheus(binary, folder, PROMETHEUS, config)))


def spread(count: int, periods: int, binary: Path, victoria: Path) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as name,
        servers.running(count, LOADED, INSTALLED) as urls,
        programs.victoria_metrics(victoria, Path(name), STORE) as store,
    ):
        writing = {
            "remote_write": [
                {"url": f"http://{STORE}/api/v1/write", "write_relabel_configs": yaml.safe_load(kept.rule(LONG_TERM))}
            ],
            "rule_files": [str(ROOT / "alerts" / "recording.rules.yml")],
        }
        with cluster(Path(name), binary, urls, writing) as it:
            empty = it.prometheus.resident()
            _wait(lambda: _seen(it) == count, 4 * EVERY)
            time.sleep(2 * EVERY)
            found = _measured(it, periods)
            shares = [int(each.value("ollama_exporter_probe_states")) for each in it.probers]
            lost = it.prometheus.query("count(probe_success == 0) or vector(0)")[0]["value"][1]
            if sum(shares) != count or float(lost):
                raise SystemExit(f"shares of {shares} for {count} servers, {lost} not seen: no figures")
            probing = {"servers": count, "exporters": EXPORTERS, "shares": shares, "empty_rss_bytes": empty, **found}
            return {"spread": probing, "remote": _stored(it, store)}


def _seen(it: Cluster) -> int:
    return int(float(it.prometheus.query("count(probe_success) or vector(0)")[0]["value"][1]))


APPENDED, SENT = "prometheus_tsdb_head_samples_appended_total", "prometheus_remote_storage_samples_total"


def _measured(it: Cluster, periods: int) -> dict[str, Any]:
    everybody = [*it.probers, it.prometheus]
    before, began = [each.cpu() for each in everybody], time.monotonic()
    samples = it.prometheus.value(APPENDED, type="float"), it.prometheus.value(SENT)
    time.sleep(periods * EVERY)
    seconds = time.monotonic() - began
    *probers, prometheus = [(each.cpu() - cpu) / seconds for each, cpu in zip(everybody, before, strict=True)]
    appended, sent = (
        it.prometheus.value(APPENDED, type="float") - samples[0],
        it.prometheus.value(SENT) - samples[1],
    )
    return {
        "prober_cpu_cores": [round(each, 5) for each in probers],
        "prober_rss_bytes": [each.resident() for each in it.probers],
        "prometheus_cpu_cores": round(prometheus, 5),
        "prometheus_rss_bytes": it.prometheus.resident(),
        "head_series": int(it.prometheus.value("prometheus_tsdb_head_series")),
        "appended_per_second": round(appended / seconds, 1),
        "sent_per_second": round(sent / seconds, 1),
    }


def _stored(it: Cluster, store: Program) -> dict[str, Any]:
    """What lies in the store. Its bytes for each sample are of minutes, and fall with time; its index is of series."""
    store.get("/internal/force_flush")
    time.sleep(5)
    samples = _by_kind(store, "vm_rows")["storage"]
    sizes = _by_kind(store, "vm_data_size_bytes")
    return {
        "boards": list(LONG_TERM),
        "raw_series": int(float(it.prometheus.query('count({__name__=~".+"})')[0]["value"][1])),
        "kept_series": int(float(store.query('count({__name__=~".+"})')[0]["value"][1])),
        "samples": int(samples),
        "storage_bytes": int(sizes["storage"]),
        "index_bytes": int(sizes["indexdb"]),
    }


def _by_kind(store: Program, name: str) -> dict[str, float]:
    """Of `storage` and `indexdb`, whatever parts a version has of them."""
    found = {"storage": 0.0, "indexdb": 0.0}
    for kind, value in re.findall(rf'^{name}{{type="(\w+)[^"]*"}} (\S+)$', store.get("/metrics").decode(), re.M):
        found[kind] = found.get(kind, 0.0) + float(value)
    return found


if __name__ == "__main__":
    main()
