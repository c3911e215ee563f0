"""The tables of docs/scaling.md, made of what benchmarks/scaling.json has measured and exporter/series.py counts.

python -m benchmarks.scaling_page
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from benchmarks import scaling
from dashboards.src import kept
from exporter.catalog import FAMILIES
from exporter.series import ALL_ON, Switches, count

PAGE = scaling.ROOT / "docs" / "scaling.md"
FLEETS = (10, 100, 1000, 10_000)
EVERY = int(scaling.EVERY)
DAY = 86_400
DISK_BYTES = 1.5
"""For each sample in Prometheus, by its own documentation 1 to 2 after compaction, which minutes do not show."""
INSIDE = ("native", "sockets", "runner", "logs", "docker", "audit")
WATCHED: tuple[tuple[str, tuple[str, ...], Switches], ...] = (
    ("`api` alone", ("api",), ALL_ON),
    ("plain: `api` and `canary`", ("api", "canary"), ALL_ON),
    ("plain, without inventory and models of histograms", ("api", "canary"), Switches(False, False)),
    ("all sources", ("api", "canary", *INSIDE), ALL_ON),
    ("all sources, without inventory and models of histograms", ("api", "canary", *INSIDE), Switches(False, False)),
)


def filled(page: str) -> str:
    """The page with its tables as they should be."""
    results = json.loads(scaling.RESULTS.read_text(encoding="utf-8"))
    for name, table in TABLES.items():
        page = _between(
            page, f"<!-- table: {name} -->\n", "<!-- end -->", "".join(f"{row}\n" for row in table(results))
        )
    indented = "".join(f"      {line}\n" for line in kept.rule(scaling.LONG_TERM).splitlines())
    return _between(
        page, "    write_relabel_configs: # of the boards ollama-overview and ollama-status\n", "```\n", indented
    )


def _between(page: str, start: str, end: str, content: str) -> str:
    before, mark, after = page.partition(start)
    if not mark:
        raise LookupError(f"docs/scaling.md has no line {start.strip()}")
    return before + mark + content + end + after.partition(end)[2]


def sample_names() -> Iterator[str]:
    """All names that a page may have."""
    for family in FAMILIES:
        suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        yield from (family.name + suffix for suffix in suffixes)


def recorded_names() -> Iterator[str]:
    groups = yaml.safe_load((scaling.ROOT / "alerts" / "recording.rules.yml").read_text(encoding="utf-8"))["groups"]
    yield from (rule["record"] for group in groups for rule in group["rules"])


# --- what is known of a fleet ----------------------------------------------------------------------------------------


class Model:
    """Figures of a fleet of any size: those measured where it was, else computed of them."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.loops = {each["servers"]: each for each in results["loops"]}
        self.spread = results["spread"]
        self._most, self._second = sorted(self.loops)[-1], sorted(self.loops)[-2]

    def page(self, servers: int, what: str) -> float:
        """Of series, page_bytes, gzip_bytes and cpu_cores, which grow by the server."""
        return float(self._of(servers, what, self._largest(what) / self._most * servers))

    def memory(self, servers: int, exporters: int) -> float:
        """What each exporter has by itself, and so much more for each server."""
        largest, second = self._largest("rss_bytes"), self.loops[self._second]["rss_bytes"]
        each = (largest - second) / (self._most - self._second)
        return self._of(servers, "rss_bytes", (largest - each * self._most) * exporters + each * servers)

    def _of(self, servers: int, what: str, computed: float) -> float:
        return float(self.loops[servers][what] if servers in self.loops else computed)

    def _largest(self, what: str) -> float:
        return float(self.loops[self._most][what])

    @property
    def bytes_a_series(self) -> float:
        """What Prometheus grew by since before its first scrape, by the series in its head."""
        grown = self.spread["prometheus_rss_bytes"] - self.spread["empty_rss_bytes"]
        return float(grown / self.spread["head_series"])

    def prometheus(self, total: float) -> float:
        """Memory for so many series."""
        return float(self.spread["empty_rss_bytes"] + total * self.bytes_a_series)


def series(sources: tuple[str, ...], switches: Switches, names: frozenset[str] | None = None) -> int:
    """Of one server at most; of these names alone."""
    counts = (count(source, switches, names) for source in sources)
    return sum(each.total(scaling.LOADED, scaling.INSTALLED) for each in counts)


def sample_limit() -> int:
    """Series that prometheus.yml lets one exporter have."""
    jobs = yaml.safe_load((scaling.ROOT / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    return int(next(job["sample_limit"] for job in jobs if job["job_name"] == "ollama"))


# --- tables ----------------------------------------------------------------------------------------------------------


def _fleet(results: dict[str, Any]) -> Iterator[str]:
    model = Model(results)
    yield from _wrapped(
        "`api` alone, 3 of 10 models loaded, every 15 s, by the exporters' loops. Pages, CPU and memory are of all"
        " exporters together. Bold is measured, the rest computed."
    )
    yield ""
    yield (
        "| servers | series | exporters | page | compressed | samples/s | CPU, cores | memory | Prometheus: memory |"
        " disk a day |"
    )
    yield "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for servers in FLEETS:
        total = model.page(servers, "series")
        exporters = math.ceil(total / sample_limit())
        cells = [
            f"{total:,.0f}",
            _size(model.page(servers, "page_bytes")),
            _size(model.page(servers, "gzip_bytes")),
            f"{total / EVERY:,.0f}",
            f"{model.page(servers, 'cpu_cores'):.2g}",
            _size(model.memory(servers, exporters)),
        ]
        if servers in model.loops:
            cells = [cell if place == 3 else f"**{cell}**" for place, cell in enumerate(cells)]
        cells.insert(1, f"{exporters}")
        cells += [
            _size(model.prometheus(total)),
            _size(total / EVERY * DAY * DISK_BYTES),
        ]
        yield f"| {servers:,} | {' | '.join(cells)} |"
    yield ""
    yield "What is watched decides more than how many are. 10,000 servers, all of it computed:"
    yield ""
    yield "| | series a server | series | samples/s | exporters | Prometheus: memory | disk a day | kept far away |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    names = kept.names(scaling.LONG_TERM)
    for name, sources, switches in WATCHED:
        each = series(sources, switches)
        total = each * FLEETS[-1]
        yield (
            f"| {name} | {each:,} | {total:,} | {total / EVERY:,.0f} | {math.ceil(total / sample_limit())} |"
            f" {_size(model.prometheus(total))} | {_size(total / EVERY * DAY * DISK_BYTES)} |"
            f" {series(sources, switches, names) / each:.0%} |"
        )


def _machine(results: dict[str, Any]) -> Iterator[str]:
    it = results["machine"]
    yield from _wrapped(
        f"Measured with Python {it['python']} and Prometheus {it['prometheus']} on {it['cores']} cores shared with"
        f" other work, load average {it['load_before']} before and {it['load_after']} after. CPU is that of processes;"
        " still read the ratios. Servers are simulated, on loopback, with 3 of 10 models loaded; half of them are in"
        " use. `python -m benchmarks.scaling` measures anew."
    )


def _loops(results: dict[str, Any]) -> Iterator[str]:
    yield "| servers | series | a server | page | compressed | CPU, cores | lowest to highest | us a poll | memory |"
    yield "|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for it in results["loops"]:
        servers, cpu = it["servers"], it["cpu_cores"]
        yield (
            f"| {servers:,} | {it['series']:,} | {it['series'] / servers:.0f} | {_size(it['page_bytes'])} |"
            f" {_size(it['gzip_bytes'])} | {cpu:.2g} | {min(it['cpu_spread']):.2g} to {max(it['cpu_spread']):.2g} |"
            f" {cpu * EVERY / servers * 1e6:,.0f} | {_size(it['rss_bytes'])} |"
        )


def _spread(results: dict[str, Any]) -> Iterator[str]:
    model, it = Model(results), results["spread"]
    probers = it["prober_cpu_cores"]
    by_loops = model.page(it["servers"], "cpu_cores")
    yield f"| {it['servers']:,} servers by `/probe`, every 15 s | |"
    yield "|---|--:|"
    yield f"| servers of each exporter | {', '.join(map(str, it['shares']))} |"
    yield f"| CPU of the exporters together, cores | {sum(probers):.2g} |"
    yield f"| computed: for 10,000 servers, cores | {sum(probers) / it['servers'] * FLEETS[-1]:.2g} |"
    yield f"| the same by the loops of one exporter, cores | {by_loops:.2g} (x {by_loops / sum(probers):.2f}) |"
    yield f"| memory of an exporter | {_size(max(it['prober_rss_bytes']))} at most |"
    yield f"| Prometheus: series | {it['head_series']:,} |"
    yield f"| samples/s, with those recorded | {it['appended_per_second']:,.0f} |"
    yield f"| CPU, cores, with recording rules and remote write | {it['prometheus_cpu_cores']:.2g} |"
    yield f"| memory; before the first scrape | {_size(it['prometheus_rss_bytes'])}; {_size(it['empty_rss_bytes'])} |"
    yield f"| memory a series | {_size(model.bytes_a_series)} |"


def _remote(results: dict[str, Any]) -> Iterator[str]:
    it, spread = results["remote"], results["spread"]
    share = spread["sent_per_second"] / spread["appended_per_second"]
    yield f"Measured with {spread['servers']:,} servers, the list above, and VictoriaMetrics:"
    yield ""
    yield "| | |"
    yield "|---|--:|"
    yield f"| series in Prometheus, with those recorded | {it['raw_series']:,} |"
    yield f"| of these in the store | {it['kept_series']:,} ({it['kept_series'] / it['raw_series']:.0%}) |"
    yield f"| samples/s sent | {spread['sent_per_second']:,.0f} ({share:.0%}) |"
    yield f"| bytes a sample in the store | {it['storage_bytes'] / it['samples']:.2g} |"
    yield f"| index, bytes a series | {it['index_bytes'] / it['kept_series']:,.0f} |"
    yield ""
    yield from _wrapped(
        f"These are minutes ({it['samples'] / it['kept_series']:.0f} samples a series): over months bytes a sample"
        " fall, and the index weighs little."
    )


def _formulas(results: dict[str, Any]) -> Iterator[str]:
    model = Model(results)
    yield "| | |"
    yield "|---|---|"
    yield "| series, page, compressed, CPU of exporters | those of the largest fleet measured, by the server |"
    yield "| memory of exporters | by the server as between the two largest fleets measured; the rest by the exporter |"
    yield "| series by what is watched | the most that [docs/series.md](series.md) counts for 3 of 10 models loaded |"
    yield f"| samples/s | series / {EVERY} s, without those recorded |"
    yield f"| exporters | series / {sample_limit():,}, the `sample_limit` of prometheus.yml |"
    yield (
        f"| memory of Prometheus | {_size(model.spread['empty_rss_bytes'])} + series x {model.bytes_a_series:,.0f}"
        " bytes: measured after minutes, with rules and remote write; hours of samples in the head add to it |"
    )
    yield "| kept far away | raw series of the names in the list above, without those recorded |"
    yield f"| disk of Prometheus | samples x {DISK_BYTES} bytes; its documentation says 1 to 2 |"


TABLES = {
    "fleet": _fleet,
    "machine": _machine,
    "loops": _loops,
    "spread": _spread,
    "remote": _remote,
    "formulas": _formulas,
}


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
