"""The same page by prometheus_client alone: as a collector that builds families anew, and as long-lived objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from exporter import catalog
from exporter.exposition import vitals
from exporter.model import Distribution, Family, Reading, Sample

disable_created_metrics()  # type: ignore[no-untyped-call]


def by_family(readings: Iterable[Reading]) -> dict[Family, list[Sample]]:
    found: dict[Family, list[Sample]] = {family: [] for family in catalog.FAMILIES}
    for reading in readings:
        for sample in (*reading.samples, *vitals(reading)):
            found[sample.family].append(sample)
    return {family: samples for family, samples in found.items() if samples}


class Collector:
    """As a custom collector is usually written: every scrape turns the state into families."""

    def __init__(self, readings: Iterable[Reading]) -> None:
        self._samples = by_family(readings)

    def collect(self) -> Iterator[Metric]:
        for family, samples in self._samples.items():
            yield _family(family, samples)

    def describe(self) -> list[Metric]:
        return []


def collector(readings: Iterable[Reading]) -> CollectorRegistry:
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(Collector(readings))
    return registry


def objects(readings: Iterable[Reading]) -> CollectorRegistry:
    """As an exporter is usually written: one object a family, one child a series, set at each poll."""
    registry = CollectorRegistry()
    for family, samples in by_family(readings).items():
        fill = filler(family, registry)
        for sample in samples:
            fill(sample)
    return registry


def _family(family: Family, samples: list[Sample]) -> Metric:
    labels = list(family.labels)
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=labels, unit=family.unit)
        bounds = [*map(str, family.buckets), "+Inf"]
        for sample in samples:
            state = sample.value
            assert isinstance(state, Distribution)  # noqa: S101
            histogram.add_metric(list(sample.labels), list(zip(bounds, state.counts, strict=True)), state.total)
        return histogram
    if family.kind == "info":
        info = InfoMetricFamily(family.name.removesuffix("_info"), family.help, labels=labels)
        for sample in samples:
            info.add_metric(list(sample.labels), {})
        return info
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name.removesuffix("_total"), family.help, labels=labels, unit=family.unit)
    for sample in samples:
        metric.add_metric(list(sample.labels), sample.value)  # type: ignore[arg-type]
    return metric


def filler(family: Family, registry: CollectorRegistry) -> Callable[[Sample], None]:
    if family.kind == "histogram":
        histogram = Histogram(family.name, family.help, family.labels, registry=registry, buckets=family.buckets)
        return lambda sample: _fill(histogram.labels(*sample.labels), sample.value)
    if family.kind == "info":
        info = Info(family.name.removesuffix("_info"), family.help, family.labels, registry=registry)
        return lambda sample: info.labels(*sample.labels).info({})
    if family.kind == "counter":
        counter = Counter(family.name, family.help, family.labels, registry=registry)
        return lambda sample: counter.labels(*sample.labels).inc(sample.value)  # type: ignore[arg-type]
    gauge = Gauge(family.name, family.help, family.labels, registry=registry)
    return lambda sample: gauge.labels(*sample.labels).set(sample.value)  # type: ignore[arg-type]


def _fill(child: Histogram, state: object) -> None:
    """The counts as they are: observing them one by one would not give the same sum."""
    assert isinstance(state, Distribution)  # noqa: S101
    before = 0
    for bucket, count in zip(child._buckets, state.counts, strict=True):
        bucket.set(count - before)
        before = count
    child._sum.set(state.total)
