"""How many series each source makes at most, counted out of the catalogue; docs/series.md."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, fields

from exporter import catalog, ollamalog
from exporter.environment import PROBLEMS
from exporter.local.vigil import WHYS
from exporter.model import Family, Policy
from exporter.sources import SOURCES
from exporter.sources.api import STATES
from exporter.sources.audit import IGNORED_MAX
from exporter.sources.canary import OUTCOMES, SKIPS
from exporter.sources.docker import HEALTH
from exporter.sources.docker import STATES as CONTAINER_STATES
from exporter.sources.gpu import CAUSES, THROTTLING
from exporter.sources.logs import KNOWN_STATUSES, SETTINGS
from exporter.sources.native import WHY
from exporter.sources.own import PROBE_OUTCOMES, PROBE_REFUSALS


@dataclass(frozen=True, slots=True)
class Count:
    """Series of one source: so many in any case, and so many more per loaded and per installed model."""

    fixed: int
    per_loaded: int = 0
    per_installed: int = 0

    def total(self, loaded: int, installed: int) -> int:
        return self.fixed + self.per_loaded * loaded + self.per_installed * installed


@dataclass(frozen=True, slots=True)
class Switches:
    """The settings of `limits` that decide how many there are."""

    histogram_models: bool = True
    inventory: bool = True


ALL_ON = Switches()

_VOCABULARIES: Mapping[str, Mapping[str, int]] = {
    "api": {"state": len(STATES), "api_endpoint": 3},
    "canary": {"outcome": len(OUTCOMES), "reason": len(SKIPS)},
    "native": {"why": len(WHY)},
    "logs": {"status": len(KNOWN_STATUSES), "kind": len(ollamalog.OCCURRENCES), "setting": len(SETTINGS)},
    "runner": {"reason": len(WHYS)},
    "docker": {"state": len(CONTAINER_STATES), "health": len(HEALTH)},
    "audit": {"problem": len(PROBLEMS), "rule": len(fields(Policy)), "variable": IGNORED_MAX},
    "exporter": {"outcome": len(PROBE_OUTCOMES), "reason": len(PROBE_REFUSALS)},
    "gpu": {"reason": len(THROTTLING), "cause": len(CAUSES), "error": 2},
}
"""Values of a label, where it has a fixed set of them; one of any other."""
_OF_FAMILIES: Mapping[Family, int] = {
    catalog.LOG_REQUESTS: len(ollamalog.ENDPOINTS) * len(KNOWN_STATUSES),
    catalog.LOG_READS: len(ollamalog.READS),
    catalog.LOG_DURATION: len(ollamalog.INFERENCE),
    catalog.LOG_MISFITS: len(ollamalog.MISFIT_KINDS),
}
"""Where the same label has another set."""
_INVENTORY = frozenset({catalog.INSTALLED_SIZE, catalog.INSTALLED_INFO})


def count(source: str, switches: Switches = ALL_ON, names: Set[str] | None = None) -> Count:
    """The most series that a watch through this source can have; of `host`, nobody knows before looking. Of `gpu`, of
    one GPU, with a model in its memory counted as loaded. `names`: of samples, where not all of them are kept."""
    sizes = {"fixed": sum(_lines(family, names) for family in _OF_EACH_WATCH), "loaded": 0, "installed": 0}
    sizes["fixed"] += len(SOURCES[source].reasons) * _lines(catalog.SOURCE_FAILURES, names)
    for family in catalog.FAMILIES:
        if catalog.VANTAGE[family] == source and (switches.inventory or family not in _INVENTORY):
            sizes[_subject(family, source, switches)] += _children(family, source) * _lines(family, names)
    return Count(sizes["fixed"], sizes["loaded"], sizes["installed"])


_OF_EACH_WATCH = (
    catalog.SOURCE_UP, catalog.SOURCE_DURATION, catalog.SOURCE_LAST_ATTEMPT, catalog.SOURCE_LAST_SUCCESS
)  # fmt: skip


def _subject(family: Family, source: str, switches: Switches) -> str:
    if "model" not in family.labels or (family.kind == "histogram" and not switches.histogram_models):
        return "fixed"
    of_installed = source == "api" and not family.name.startswith("ollama_loaded_model_")
    return "installed" if of_installed else "loaded"


def _children(family: Family, source: str) -> int:
    sizes = _VOCABULARIES.get(source, {})
    return _OF_FAMILIES.get(family) or math.prod(sizes.get(label, 1) for label in family.labels)


def _lines(family: Family, names: Set[str] | None) -> int:
    """`+Inf`, sum and count are lines of a histogram too."""
    lines = {"": 1}
    if family.kind == "histogram":
        lines = {"_bucket": len(family.buckets) + 1, "_sum": 1, "_count": 1}
    return sum(number for suffix, number in lines.items() if names is None or family.name + suffix in names)


# --- docs/series.md --------------------------------------------------------------------------------------------------

_PLAIN = ("api", "canary")
_INSIDE = ("native", "sockets", "runner", "logs", "docker", "audit")
_SWITCHES = {
    "api": "always on; `limits.inventory: false` takes {inventory} per installed model",
    "canary": "`canary.mode: off`; `limits.histogram_models: false` leaves {histograms} per loaded model",
    "native": "`native.mode: off`",
    "sockets": "`sockets.mode: off`",
    "runner": "`runner.mode: off`",
    "logs": "`logs.mode: off`; `limits.histogram_models: false` leaves {histograms} per loaded model",
    "docker": "`docker.mode: off`",
    "audit": "`audit.mode: off`",
    "gpu": "`gpu.mode: off`",
    "exporter": "always on",
}
_FEW = Switches(histogram_models=False, inventory=False)
_SCENES: tuple[tuple[str, tuple[str, ...], Switches], ...] = (
    ("`api` alone (`canary.mode: off`, nothing seen from inside)", ("api",), ALL_ON),
    ("plain: `api` and `canary`", _PLAIN, ALL_ON),
    ("the same with `limits.inventory: false`", _PLAIN, Switches(inventory=False)),
    ("the same with `limits.histogram_models: false`", _PLAIN, Switches(histogram_models=False)),
    ("the same with both", _PLAIN, _FEW),
    ("all sources", (*_PLAIN, *_INSIDE), ALL_ON),
    ("all sources, `limits.histogram_models: false` and `limits.inventory: false`", (*_PLAIN, *_INSIDE), _FEW),
    ("all sources but `canary` and `logs`", ("api", *(each for each in _INSIDE if each != "logs")), ALL_ON),
)
_MODELS = ((3, 10), (20, 20))


def series_markdown() -> str:
    """docs/series.md."""
    return "".join(f"{line}\n" for line in _page())


def _page() -> Iterator[str]:
    yield from (
        "# Series",
        "",
        "<!-- Made by exporter/series.py out of the catalogue; change it there. -->",
        "",
        "What a server costs in Prometheus, at most: a counter of something that never happened may be there or not."
        " `ollama_exporter_series` tells how many there are, `ollama-exporter check` how many to expect.",
        "",
        "## By source",
        "",
        "| source | of | fixed | per loaded model | per installed model | how to lower it |",
        "|---|---|---|---|---|---|",
    )
    for source, how in _SWITCHES.items():
        of = {"gpu": "a GPU", "exporter": "the exporter"}.get(source, "a server")
        each = count(source)
        fewer = how.format(
            inventory=each.per_installed - count(source, _FEW).per_installed, histograms=count(source, _FEW).per_loaded
        )
        yield f"| `{source}` | {of} | {each.fixed} | {each.per_loaded} | {each.per_installed} | {fewer} |"
    yield from (
        "",
        "`host` makes as many as the machine has disks, devices and processes of Ollama; `check` counts them"
        " (`host.enabled: false`). A model counts as loaded from its first load on where counters and histograms go on"
        " without it (`canary`, `logs`, `runner`, `native`). Of `native`, the names of all proposals are counted; a"
        " server has those of one, and `http_requests_total` once for each of its combinations. `logs` and `runner`"
        " may have one model more, `unknown`.",
        "",
        "## By server",
        "",
        "| what is watched | "
        + " | ".join(f"{loaded} of {installed} models loaded" for loaded, installed in _MODELS)
        + " |",
        "|---|---|---|",
    )
    for name, sources, switches in _SCENES:
        totals = (
            sum(count(source, switches).total(loaded, installed) for source in sources) for loaded, installed in _MODELS
        )
        yield f"| {name} | {' | '.join(map(str, totals))} |"
    yield from (
        "",
        "## What keeps it bounded",
        "",
        "- `limits.models` (200): values of the label `model` per server; what is beyond is summed under `other`, and"
        " `ollama_exporter_label_values_dropped` tells how many.",
        "- Every other label has a fixed vocabulary, or a cap of its own. What clients write (paths, prompts,"
        " addresses) is never a label.",
        "- With `limits.histogram_models: false` the label `model` of histograms is empty, which Prometheus takes for"
        " not there. Recorded names of single models then tell of all of them together.",
        "",
        "What fleets of 10 to 10,000 servers cost, and how several exporters share one: [scaling](scaling.md).",
    )
