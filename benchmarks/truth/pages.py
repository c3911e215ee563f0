"""The exporter's page, read often enough that no reading of a source is missed, and taken apart afterwards."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.truth.book import Span

LAST_ATTEMPT = "ollama_source_last_attempt_timestamp_seconds"
DURATION = "ollama_source_duration_seconds"
_SLACK = 0.001
"""Seconds that lie between two clocks that are read one after the other."""


@dataclass(frozen=True, slots=True)
class Page:
    """`wall`: what to take from a time of the page to have CLOCK_MONOTONIC's."""

    wall: float
    samples: dict[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of all series that have these labels; None when there is none."""
        found = [value for given, value in self.samples.get(name, ()) if labels.items() <= given.items()]
        return sum(found) if found else None


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look of a source made of the page. The look lies within the span."""

    span: Span
    page: Page


def parsed(wall: float, text: str) -> Page:
    page = Page(wall)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            page.samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return page


def readings(pages: Iterable[Page], server: str, source: str) -> Iterator[Reading]:
    """Each reading of this source once."""
    last = None
    for page in pages:
        at = page.value(LAST_ATTEMPT, server=server, source=source)
        if at is None or at == last:
            continue
        last, took = at, page.value(DURATION, server=server, source=source) or 0.0
        end = at - page.wall
        yield Reading(Span(end - took - _SLACK, end + _SLACK), page)


class Reader:
    def __init__(self, address: str, every: float) -> None:
        self._address, self._every = address, every
        self._texts: list[tuple[float, bytes]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="the exporter's page", daemon=True)
        self._thread.start()

    def close(self) -> list[Page]:
        """All pages, in their order."""
        self._over.set()
        self._thread.join(10.0)
        return [parsed(wall, text.decode()) for wall, text in self._texts]

    def _follow(self) -> None:
        while not self._over.wait(self._every):
            connection = http.client.HTTPConnection(self._address, timeout=10.0)
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
                connection.request("GET", "/metrics")
                text = connection.getresponse().read()
                self._texts.append((time.time() - time.monotonic(), text))
