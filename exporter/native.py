"""A page of the /metrics that is proposed for Ollama itself -> its values. Pure.

No release that is known has one. The proposals agree on little but `ollama_build_info{version}`; a page without it, or
with another version than /api/version tells, is somebody else's: a gateway's, or another exporter's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from exporter import catalog
from exporter.model import Family

ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4"
PAGE_MAX = 1024 * 1024
"""Bytes. Two hundred models fill a quarter of it."""
_LINES_MAX, _LINE_MAX = 10_000, 4096
_FAMILIES: Mapping[str, Family] = {family.name: family for family in catalog.PASSED}
_CREATED = frozenset(f"{name.removesuffix('_total')}_created" for name in _FAMILIES)
_PARSERS = {"text/plain": parse_text, "application/openmetrics-text": parse_openmetrics}
_OF_EXPORTERS = ("ollama_up", "ollama_exporter_")
"""What names begin with that only exporters have: behind a gateway, one may answer in the place of Ollama."""
_NOBODYS = "otel_"
"""Labels that OpenTelemetry adds to every series of a process, always the same."""


class NotOllamas(Exception):
    """Whatever this page is, it is not this server's own."""


@dataclass(frozen=True, slots=True)
class Value:
    """One series. `labels`: all of the family's but `server`; empty where the server does not tell."""

    family: Family
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Page:
    """What can be passed on, and how many other series there were: of names that are not known, and known ones that
    cannot be right. What the api source tells already is in none of these."""

    values: tuple[Value, ...]
    unknown: int
    impossible: int


def parse(body: bytes, content_type: str, version: str) -> Page:
    """`version`: what /api/version tells. Raises NotOllamas."""
    samples = _told(body, content_type)
    if any(sample.name.startswith(_OF_EXPORTERS) for _, sample in samples):
        raise NotOllamas("another exporter's")
    builds = [sample.labels.get("version") for _, sample in samples if sample.name == "ollama_build_info"]
    if version not in builds:
        raise NotOllamas("no ollama_build_info of this version")
    values: list[Value] = []
    unknown = impossible = 0
    for kind, sample in samples:
        if sample.name in catalog.TOLD_BY_API or sample.name in _CREATED:
            continue
        family = _FAMILIES.get(sample.name)
        value = None if family is None else _value(family, kind, sample)
        unknown += family is None
        impossible += family is not None and value is None
        values += [value] if value is not None else []
    return Page(tuple(values), unknown, impossible)


def _told(body: bytes, content_type: str) -> list[tuple[str, Sample]]:
    """Every series with the type of its family."""
    read: Callable[[str], Iterable[Metric]] | None = _PARSERS.get(content_type.partition(";")[0].strip().lower())
    if read is None:
        raise NotOllamas("no page of metrics by its content type")
    lines = body.count(b"\n") + 1
    if len(body) > PAGE_MAX or lines > _LINES_MAX or max(map(len, body.split(b"\n"))) > _LINE_MAX:
        raise NotOllamas("too large")
    try:
        metrics: list[Metric] = list(read(body.decode("utf-8")))
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
        raise NotOllamas(f"no page of metrics: {type(error).__name__}") from None
    return _distinct(metrics)


def _distinct(metrics: Iterable[Metric]) -> list[tuple[str, Sample]]:
    samples = [(metric.type, sample) for metric in metrics for sample in metric.samples]
    keys = {(sample.name, frozenset(sample.labels.items())) for _, sample in samples}
    if len(keys) < len(samples):
        raise NotOllamas("a series twice")
    return samples


def _value(family: Family, kind: str, sample: Sample) -> Value | None:
    """None when it cannot be right."""
    told = {name: value for name, value in sample.labels.items() if not name.startswith(_NOBODYS)}
    if "exported_server" in told or kind not in (family.kind, "unknown", "untyped"):
        return None
    if "server" in told:
        told["exported_server"] = told.pop("server")
    free = family.labels[1:]
    if not told.keys() <= set(free):
        return None
    try:
        value = float(sample.value)
    except OverflowError:
        return None
    if not 0 <= value < math.inf:
        return None
    return Value(family, {name: told.get(name, "") for name in free}, value)
