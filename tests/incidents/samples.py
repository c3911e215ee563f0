"""What a Prometheus that scrapes an exporter would store, in the notation of promtool's tests."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ALERTS = Path(__file__).resolve().parents[2] / "alerts"
RULES = (ALERTS / "recording.rules.yml", ALERTS / "alerting.rules.yml")
JOB, INSTANCE = "ollama", "exporter:8082"

_LINE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_MISSING, _STALE = "_", "stale"


class Recording:
    """One scrape after the other. Kept is what the rules can ask for: families that they name, and of histograms the
    buckets that they name; no rule interpolates between buckets."""

    def __init__(self) -> None:
        text = "".join(path.read_text("utf-8") for path in RULES)
        self._names = frozenset(re.findall(r"[a-z_]+", text))
        self._bounds = frozenset(re.findall(r'le="([^"]+)"', text))
        self._series: dict[str, list[str]] = {}
        self._known: dict[str, str | None] = {}
        self._scrapes = 0

    def answered(self, page: str) -> None:
        """The target answered with this page."""
        self._take({f"up{_target()}": "1", **dict(self._samples(page))})

    def refused(self) -> None:
        """The target did not answer: `up` is 0, and all that it showed ends."""
        self._take({f"up{_target()}": "0"})

    def not_listed(self) -> None:
        """Nobody told Prometheus of the target, or not any more: not even `up` is there."""
        self._take({})

    def series(self) -> Iterator[tuple[str, str]]:
        """Each series and its values, one for each scrape."""
        for name, values in sorted(self._series.items()):
            yield name, _notation(values)

    def _take(self, samples: dict[str, str]) -> None:
        for name in samples.keys() - self._series.keys():
            self._series[name] = [_MISSING] * self._scrapes
        for name, values in self._series.items():
            gone = _STALE if values and values[-1] not in (_MISSING, _STALE) else _MISSING
            values.append(samples.get(name, gone))
        self._scrapes += 1

    def _samples(self, page: str) -> Iterator[tuple[str, str]]:
        for line in page.splitlines():
            if line.startswith("#"):
                continue
            head, _, value = line.rpartition(" ")
            if head not in self._known:
                self._known[head] = self._named(head)
            name = self._known[head]
            if name is not None:
                yield name, value

    def _named(self, head: str) -> str | None:
        """The series' name with the labels of its target; None when no rule can ask for it."""
        match = _LINE.fullmatch(f"{head} 0")
        assert match is not None, head
        bound = re.search(r'\ble="([^"]+)"', match["labels"] or "")
        if match["name"] not in self._names or (bound is not None and bound[1] not in self._bounds):
            return None
        return match["name"] + _target(match["labels"] or "")


def _target(labels: str = "") -> str:
    return "{" + ",".join(filter(None, (f'instance="{INSTANCE}",job="{JOB}"', labels))) + "}"


def _notation(values: Iterable[str]) -> str:
    """A run of the same value is written once."""
    runs = ((value, sum(1 for _ in run)) for value, run in itertools.groupby(values))
    return " ".join(_run(value, times) for value, times in runs)


def _run(value: str, times: int) -> str:
    if times == 1:
        return value
    return f"{value}x{times}" if value == _MISSING else f"{value}x{times - 1}"
