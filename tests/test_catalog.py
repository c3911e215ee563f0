"""The catalogue keeps Prometheus' conventions, also those that promtool does not check."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from exporter import catalog
from exporter.catalog import FAMILIES
from exporter.model import Family

BASE_UNITS = {"seconds", "bytes", "tokens", "watts", "joules", "celsius", ""}
TARGET_LABELS = frozenset(
    {"cluster", "region", "zone", "env", "owner", "customer", "stage", "instance", "job", "endpoint", "type"}
)
PREFIXES = ("ollama_", "process_", "probe_", "http_requests_total")  # the last one as a server calls it itself

each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@each_family
def test_names_are_legacy_snake_case_with_the_units_and_suffixes_of_their_kind(family: Family) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
    assert family.name.startswith(PREFIXES)
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert family.name.endswith("_info") == (family.kind == "info")
    assert not re.search(r"_(percent|ms|milliseconds|mb|gb|count|sum|bucket)(_|$)", family.name)
    assert family.unit in BASE_UNITS
    assert family.name.removesuffix("_total").endswith(family.unit)


@each_family
def test_a_unit_in_the_name_is_declared(family: Family) -> None:
    last = family.name.removesuffix("_total").rsplit("_", 1)[-1]
    assert family.unit == (last if last in BASE_UNITS else "")


@each_family
def test_label_names_are_sane_and_leave_those_of_targets_alone(family: Family) -> None:
    assert len(set(family.labels)) == len(family.labels)
    for label in family.labels:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", label)
        assert label not in TARGET_LABELS
        assert label not in ("le", "quantile")
        assert f"_by_{label}" not in family.name


@each_family
def test_help_is_a_sentence_that_tells_something(family: Family) -> None:
    assert family.help[0].isupper() or family.help.split()[0].startswith(("total_", "load_", "prompt_", "1"))
    assert family.help.endswith(".")
    assert "  " not in family.help
    assert len(family.help) > 25
    assert "\n" not in family.help


@each_family
def test_only_histograms_have_buckets_and_they_rise(family: Family) -> None:
    assert bool(family.buckets) == (family.kind == "histogram")
    assert all(low < high for low, high in pairwise(family.buckets))
    assert float("inf") not in family.buckets


def test_a_family_is_told_from_where_its_file_and_its_name_say() -> None:
    told = {family: vantage for family, vantage in catalog.VANTAGE.items() if family.name.startswith("ollama_host_")}
    assert set(told.values()) == {"host"}
    assert catalog.VANTAGE[catalog.EXPORTER_DROPPED] == "api"
    assert catalog.VANTAGE[catalog.SOURCE_UP] == "source"
    assert set(catalog.VANTAGE) == set(FAMILIES)


def test_objectives_are_bucket_boundaries() -> None:
    assert {2.0, 5.0} <= set(catalog.CANARY_TTFT.buckets)
    assert {2.0, 5.0} <= set(catalog.CANARY_DURATION.buckets)
    assert {2.0, 5.0} <= set(catalog.CANARY_QUEUE_WAIT.buckets)


def test_no_two_families_share_a_name_in_either_format() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    exposed = [
        name
        for family in FAMILIES
        for name in (
            [f"{family.name}_bucket", f"{family.name}_count", f"{family.name}_sum", family.name]
            if family.kind == "histogram"
            else [family.name]
        )
    ]
    assert len(set(exposed)) == len(exposed)
    openmetrics = [name.removesuffix("_total").removesuffix("_info") for name in names]
    clashes = {name for name in openmetrics if openmetrics.count(name) > 1}
    assert not clashes


def test_the_vantage_point_is_in_the_name() -> None:
    for family in FAMILIES:
        if family.name.startswith("ollama_canary_"):
            assert family.labels[:2] == ("server", "model")
        elif family.name.startswith("ollama_host_"):
            assert family.labels[0] == "host"
            assert "server" not in family.labels
        elif family.name.startswith("ollama_gpu"):
            assert family.labels[0] == "host"
        elif family is catalog.LOAD_PHASE:
            assert family.labels == ("scenario", "phase")  # of the load tester, and of no server
        elif family.name.startswith(("ollama_exporter_", "process_")):
            assert "model" not in family.labels
        elif family.name.startswith("probe_"):
            assert family.labels == ()
        else:
            assert family.labels[0] == "server"


def test_a_family_refuses_wrong_labels() -> None:
    with pytest.raises(TypeError, match="ollama_up takes labels"):
        catalog.UP(1.0)
    with pytest.raises(TypeError, match="takes labels"):
        catalog.UP(1.0, server="a", model="b")
    with pytest.raises(TypeError, match="takes labels"):
        catalog.UP(1.0, sever="a")
