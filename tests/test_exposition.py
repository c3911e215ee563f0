"""The text is, byte for byte, what prometheus_client's own writers give, and valid for its parsers and for promtool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import replace
from itertools import chain, zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import catalog
from exporter.exposition import Page, encode, render
from exporter.model import Distribution, Family, Lack, Reading, Reason, Sample, Snapshot, Watch

WATCH = Watch("a", "api", 15.0, 16.0)
PER_MODEL = (catalog.LOADED_SIZE, catalog.LOADED_VRAM)
ONE, OTHER = (catalog.LOADS_SEEN(3.0, server="a", model=name) for name in ("one", "other"))


def page(samples: Iterable[Sample], *, openmetrics: bool = False) -> bytes:
    return render(Snapshot({WATCH: encode(Reading(WATCH, 1e9, 0.1, tuple(samples)))}), openmetrics)


class Oracle:
    """The same samples, through prometheus_client's families and writers."""

    def __init__(self, readings: Iterable[Reading]) -> None:
        self._samples = [sample for reading in readings for sample in (*reading.samples, *_vitals(reading))]

    def collect(self) -> Iterator[Metric]:
        for family in catalog.FAMILIES:
            mine = [sample for sample in self._samples if sample.family is family]
            if mine:
                yield _oracle_family(family, mine)

    def describe(self) -> list[Metric]:
        return []


def _vitals(reading: Reading) -> list[Sample]:
    labels = {"server": reading.watch.server, "source": reading.watch.source}
    found = [
        catalog.SOURCE_UP(float(reading.failure is None), **labels),
        catalog.SOURCE_DURATION(reading.took, **labels),
        catalog.SOURCE_LAST_ATTEMPT(reading.at, **labels),
    ]
    if reading.succeeded_at is not None:
        found.append(catalog.SOURCE_LAST_SUCCESS(reading.succeeded_at, **labels))
    return found + [catalog.SOURCE_FAILURES(n, **labels, reason=reason) for reason, n in reading.failures.items()]


def _oracle_family(family: Family, samples: list[Sample]) -> Metric:
    unit, labels = family.unit, list(family.labels)
    metric: Metric
    if family.kind == "histogram":
        metric = HistogramMetricFamily(family.name, family.help, labels=labels, unit=unit)
        for sample in samples:
            assert isinstance(sample.value, Distribution)
            bounds = [*map(_bound, family.buckets), "+Inf"]
            metric.add_metric(
                list(sample.labels), list(zip(bounds, sample.value.counts, strict=True)), sample.value.total
            )
        return metric
    if family.kind == "info":
        metric = InfoMetricFamily(family.name.removesuffix("_info"), family.help, labels=labels)
        for sample in samples:
            metric.add_metric(list(sample.labels), {})
        return metric
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name.removesuffix("_total"), family.help, labels=labels, unit=unit)
    for sample in samples:
        metric.add_metric(list(sample.labels), sample.value)
    return metric


def _bound(value: float) -> str:
    return str(float(value))


def oracle(readings: Iterable[Reading], *, openmetrics: bool) -> bytes:
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(Oracle(readings))
    return generate_openmetrics(registry) if openmetrics else generate_latest(registry)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
number = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    family = draw(st.sampled_from(catalog.FAMILIES))
    labels = {name: draw(text) for name in family.labels}
    if family.kind == "histogram":
        counts = sorted(draw(st.lists(st.integers(0, 10**12), min_size=len(family.buckets) + 1, max_size=99)))
        total = draw(st.floats(0, 1e12))
        return family(Distribution(tuple(counts[: len(family.buckets) + 1]), total), **labels)
    return family(1.0 if family.kind == "info" else draw(number), **labels)


readings = st.builds(
    Reading,
    watch=st.builds(Watch, text, text, st.just(15.0), st.just(16.0)),
    at=st.floats(0, 1e10),
    took=st.floats(0, 100),
    samples=st.lists(samples(), max_size=12).map(tuple),
    failure=st.sampled_from([None, "timeout"]),
    failures=st.just({"timeout": 3, "dns": 0}),
    succeeded_at=st.one_of(st.none(), st.floats(0, 1e10)),
)


@given(st.lists(readings, max_size=4, unique_by=lambda reading: reading.watch), st.booleans())
def test_the_page_is_byte_for_byte_that_of_prometheus_client(many: list[Reading], openmetrics: bool) -> None:
    snapshot = Snapshot({reading.watch: encode(reading) for reading in many})
    assert render(snapshot, openmetrics) == oracle(many, openmetrics=openmetrics)


@st.composite
def successions(draw: st.DrawFn) -> tuple[Reading, Reading]:
    """Two readings of one watch, of which the second has some of the first one's samples and counts: the very objects,
    as from sources that saw no change, or equal ones."""
    first, second = draw(readings), draw(readings)
    kept = [draw(st.sampled_from([sample, copy(sample), None])) for sample in first.samples]
    mixed = [old or new for old, new in zip_longest(kept, second.samples)]
    failures = draw(st.sampled_from([first.failures, dict(first.failures), {"timeout": 4}]))
    again = draw(st.sampled_from([first.samples, tuple(sample for sample in mixed if sample is not None)]))
    return first, replace(second, watch=first.watch, samples=again, failures=failures)


@given(st.lists(successions(), max_size=4, unique_by=lambda pair: pair[0].watch))
def test_what_is_kept_of_the_entry_before_changes_no_byte(pairs: list[tuple[Reading, Reading]]) -> None:
    entries = [encode(after, encode(before)) for before, after in pairs]
    snapshot = Snapshot({entry.reading.watch: entry for entry in entries})
    assert render(snapshot, openmetrics=False) == oracle([after for _, after in pairs], openmetrics=False)
    assert [entry.series for entry in entries] == [encode(after).series for _, after in pairs]


def test_what_did_not_change_is_not_written_again() -> None:
    up, loads = catalog.UP(1.0, server="a"), catalog.LOADS_SEEN(3.0, server="a", model="m")
    first = encode(Reading(WATCH, 1e9, 0.1, (up, loads), failures={"dns": 1}))
    more = catalog.LOADS_SEEN(4.0, server="a", model="m")
    second = encode(Reading(WATCH, 2e9, 0.2, (up, more), failures=first.reading.failures), first)
    blocks = zip(chain(*first.text), chain(*second.text), strict=True)
    same = {old.partition(b"{")[0].decode() for old, new in blocks if old.endswith(b"\n") and old is new}
    assert same == {catalog.UP.name, catalog.SOURCE_FAILURES.name}


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ([catalog.UP(0.0, server="a")], [catalog.UP(-0.0, server="a")]),
        ([ONE], [ONE, OTHER]),
        ([ONE, OTHER], [ONE]),
        ([ONE, OTHER], [OTHER, ONE]),
        ([ONE, catalog.UP(1.0, server="a")], [catalog.UP(1.0, server="a"), ONE]),
    ],
    ids=["the_other_zero", "one_more", "one_less", "another_order", "another_order_of_families"],
)
def test_the_text_follows_its_samples(then: list[Sample], now: list[Sample]) -> None:
    before, after = (Reading(WATCH, 1e9, 0.1, tuple(samples)) for samples in (then, now))
    assert encode(after, encode(before)).text == encode(after).text


def test_a_family_that_the_catalogue_does_not_have_is_no_text() -> None:
    stranger = Family("ollama_stranger", "gauge", "Not in the catalogue.")
    first = encode(Reading(WATCH, 1e9, 0.1, (ONE,)))
    for before in (None, first):
        with pytest.raises(KeyError):
            encode(Reading(WATCH, 2e9, 0.1, (stranger(1.0),)), before)


def test_one_that_has_become_blind_keeps_nothing_about_its_failures() -> None:
    failures: dict[Reason, int] = {"timeout": 0}
    first = encode(Reading(WATCH, 1e9, 0.1, failures=failures))
    assert encode(Reading(WATCH, 2e9, 0.1, failures=failures, lacks=(Lack("sight", "light"),)), first).text == ()


def test_one_sample_of_every_family_survives_both_parsers() -> None:
    many = [
        family(
            Distribution((0,) * len(family.buckets) + (2,), 3.5) if family.kind == "histogram" else 1.0,
            **dict.fromkeys(family.labels, 'a"b\\c\nd'),
        )
        for family in catalog.FAMILIES
    ]
    plain = {s.name for f in parse_text(page(many).decode()) for s in f.samples}
    modern = {s.name for f in parse_openmetrics(page(many, openmetrics=True).decode()) for s in f.samples}
    assert plain == modern
    for family in catalog.FAMILIES:
        assert (f"{family.name}_count" if family.kind == "histogram" else family.name) in plain


def test_label_values_come_back_unchanged_through_a_parser() -> None:
    nasty = 'quote " backslash \\ newline \n end'
    (family,) = [f for f in parse_text(page([catalog.UP(1.0, server=nasty)]).decode()) if f.name == "ollama_up"]
    assert family.samples[0].labels == {"server": nasty}


@pytest.mark.parametrize("odd", ["\0", "a\0b\n\0", '"', "\\", "\n", "%s", "%", "é\0"])
def test_no_label_value_moves_a_line_to_another_family(odd: str) -> None:
    reading = Reading(Watch(odd, "api", 15.0, 16.0), 1e9, 0.1, (catalog.LOADS_SEEN(3.0, server=odd, model=odd), ONE))
    assert render(Snapshot({reading.watch: encode(reading)}), openmetrics=False) == oracle([reading], openmetrics=False)


def test_an_inventory_larger_than_what_is_kept_of_shapes() -> None:
    many = [
        family(1e6 * n, server="a", model=str(n)) for n in range(300) for family in (*PER_MODEL, catalog.LOADS_SEEN)
    ]
    reading = Reading(WATCH, 1e9, 0.1, tuple(many))
    entry = encode(reading)
    assert render(Snapshot({WATCH: entry}), openmetrics=False) == oracle([reading], openmetrics=False)
    assert entry.series == len(many) + 3


@pytest.mark.parametrize(
    "wrong",
    [
        Sample(catalog.LOADS_SEEN, ("a",), 1.0),
        Sample(catalog.LOADS_SEEN, ("a", "b", "c"), 1.0),
        catalog.API_DURATION(Distribution((1, 1), 0.5), server="a", api_endpoint="/api/ps"),
    ],
    ids=["a label is missing", "one label too many", "buckets are missing"],
)
def test_a_sample_that_does_not_fit_its_family_is_no_text(wrong: Sample) -> None:
    with pytest.raises(ValueError, match="labels or buckets"):
        page([ONE, wrong, OTHER])


def test_a_page_comes_in_pieces_as_often_as_it_is_asked() -> None:
    watches = [Watch(f"server-{place}", "api", 15.0, 16.0) for place in range(2000)]
    laid_out = Page(Snapshot({watch: encode(Reading(watch, 1e9, 0.1)) for watch in watches}), openmetrics=False)
    first, again = list(laid_out.pieces()), list(laid_out.pieces())
    assert first == again
    assert sum(map(len, first)) == laid_out.size
    assert 2 < len(first) < 8
    assert list(Page(Snapshot(), openmetrics=False).pieces()) == []


def test_families_stand_together_though_readings_come_apart() -> None:
    other = Watch("b", "api", 15.0, 16.0)
    snapshot = Snapshot(
        {watch: encode(Reading(watch, 1e9, 0.1, (catalog.UP(1.0, server=watch.server),))) for watch in (WATCH, other)}
    )
    lines = render(snapshot, openmetrics=False).decode().splitlines()
    heads = [line for line in lines if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    place = lines.index('ollama_up{server="a"} 1.0')
    assert lines[place + 1] == 'ollama_up{server="b"} 1.0'


def test_no_created_series_no_timestamps_no_exemplars() -> None:
    many = [catalog.LOADS_SEEN(3.0, server="a", model="m"), catalog.UP(1.0, server="a")]
    for openmetrics in (False, True):
        for line in page(many, openmetrics=openmetrics).decode().splitlines():
            assert "_created" not in line
            if not line.startswith("#"):
                assert len(line.rsplit("}", 1)[-1].split()) == 1
