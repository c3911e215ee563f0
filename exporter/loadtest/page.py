"""An exporter's /metrics, read from outside as Prometheus does: numbers by family and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from exporter.model import Endpoint, Family
from exporter.ollama import Client, OllamaError

_ACCEPT = "text/plain;version=0.0.4"


@dataclass(frozen=True, slots=True)
class Page:
    samples: Mapping[str, tuple[tuple[Mapping[str, str], float], ...]]

    def total(self, family: Family, suffix: str = "", **labels: str) -> float | None:
        """The sum over the series with these labels; None when there is none."""
        values = [value for _, value in self.rows(family, suffix, **labels)]
        return sum(values) if values else None

    def rows(self, family: Family, suffix: str = "", **labels: str) -> Iterator[tuple[Mapping[str, str], float]]:
        for own, value in self.samples.get(family.name + suffix, ()):
            if all(own.get(name) == wanted for name, wanted in labels.items()):
                yield own, value


async def fetch(url: str, timeout: float = 5.0) -> Page | None:
    """None when nothing answers there, or no page of an exporter's."""
    client = Client(Endpoint(url, timeout=timeout))
    try:
        kind, body = (await client.text("/metrics", _ACCEPT)).value
    except OllamaError:
        return None
    finally:
        await client.aclose()
    return parse(body) if kind.startswith("text/plain") else None


def parse(body: bytes) -> Page | None:
    samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    try:
        for metric in text_string_to_metric_families(body.decode("utf-8")):
            for sample in metric.samples:
                samples.setdefault(sample.name, []).append((sample.labels, float(sample.value)))
    except (ValueError, LookupError, TypeError):
        return None
    return Page({name: tuple(rows) for name, rows in samples.items()})


def grown(before: Page, after: Page, family: Family, suffix: str = "", **labels: str) -> float | None:
    """By how much counters grew, series by series: one that is new began at 0, one that fell began anew. None when
    there is none."""
    first = {_key(own): value for own, value in before.rows(family, suffix, **labels)}
    rows = list(after.rows(family, suffix, **labels))
    if not rows:
        return None
    return sum(value if value < (was := first.get(_key(own), 0.0)) else value - was for own, value in rows)


def _key(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())
