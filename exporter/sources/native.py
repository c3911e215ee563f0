"""A server's own /metrics, where it has one: as it is proposed for Ollama, and in no release that is known.

Where there is none the question costs next to nothing: it is asked once, again after a change of version or an outage,
and once an hour. Until a page of Ollama's own was seen, nothing is a failure here: whether a server answers, the api
source tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import cast

from exporter import catalog
from exporter.model import Failed, Family, Lack, Lacking, NativeSettings, Sample, Watch, canonical
from exporter.native import ACCEPT, NotOllamas, Page, Value, parse
from exporter.ollama import NAME_MAX, BadAnswer, Client, HttpError, OllamaError

log = logging.getLogger(__name__)

OTHER = "other"
WHY = ("unknown", "impossible", "capped")
_LOOK_EVERY = 3600.0
"""Seconds between two looks for a /metrics that was not there."""
_VALUES_MAX, _VALUE_MAX = 32, 64
"""Different values of one label other than model, and characters of each."""

NONE = Lack(
    "the server's own counters: it has no /metrics (proposed for Ollama, in no release that is known)",
    "where its version has it, OLLAMA_METRICS=1 in the environment of `ollama serve`",
)
REFUSED = Lack(
    "the server's own counters: /metrics is refused or fails",
    "let the proxy before it pass /metrics on, or set native.mode: off",
)
FOREIGN = Lack(
    "the server's own counters: what answers at /metrics is not Ollama",
    "let the proxy before it pass /metrics on, or set native.mode: off",
)
SILENT = Lack(
    "the server's own counters: whether it has a /metrics, because it does not answer",
    "nothing: it is asked again when the server answers",
)


class NativeSource:
    """Exposes, for a server named `a`, what its page says under the same names:

        ollama_requests_total{exported_server="",model="llama3.2:3b",reason="",server="a"} 1042
        ollama_generated_tokens_total{exported_server="",model="llama3.2:3b",reason="",server="a"} 211853

    Its counters start anew when the server does, as they do on its own page.
    """

    def __init__(self, watch: Watch, client: Client) -> None:
        settings = cast(NativeSettings, watch.settings)
        self._server, self._client, self._patient = watch.server, client, watch.optional
        self._seen = False
        self._lack: Lack | None = None
        self._look_due, self._looked_at = 0.0, ""
        self._labels = _Labels(settings.models_max)
        self._last: tuple[bytes, str, str, Page] | None = None
        self._shown: tuple[Page, tuple[Sample, ...]] | None = None

    async def collect(self) -> Iterable[Sample]:
        try:
            version = await self._version()
            self._wait_for_look(version)
            page = await self._page(version)
        except OllamaError as error:
            raise self._without(error, error) from error
        except NotOllamas as error:
            log.debug("%s: /metrics: %s", self._server, error)
            raise self._without(error) from error
        self._seen, self._lack = True, None
        if self._shown is None or self._shown[0] is not page:
            self._shown = (page, tuple(self._samples(page)))
        return self._shown[1]

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _version(self) -> str:
        try:
            return (await self._client.version()).value
        except OllamaError:
            self._looked_at = ""  # it may come back as another one
            raise

    def _wait_for_look(self, version: str) -> None:
        """Raises what was lacking last, as long as there is no reason to look again."""
        now = asyncio.get_running_loop().time()
        seldom = self._patient and not self._seen
        if seldom and self._lack is not None and version == self._looked_at and now < self._look_due:
            raise Lacking(self._lack.what, self._lack.remedy)
        self._looked_at, self._look_due = version, now + _LOOK_EVERY

    async def _page(self, version: str) -> Page:
        content_type, body = (await self._client.text("/metrics", ACCEPT)).value
        if self._last is None or self._last[:3] != (body, content_type, version):
            self._last = (body, content_type, version, parse(body, content_type, version))
        return self._last[3]

    def _without(self, error: Exception, answer: OllamaError | None = None) -> Failed | Lacking:
        """Once it was there, its absence is a failure; so is it where somebody insists, by `Observer`."""
        lack = _lack_of(error)
        if self._seen and lack is not NONE:
            return Failed(answer.reason if answer else "malformed")
        # Whether it has one, a server that is down does not tell: what was known of it stays.
        self._lack = (self._lack or lack) if lack is SILENT else lack
        return Lacking(self._lack.what, self._lack.remedy)

    def _samples(self, page: Page) -> Iterator[Sample]:
        left_out = Counter(unknown=page.unknown, impossible=page.impossible)
        summed: dict[tuple[Family, tuple[tuple[str, str], ...]], float] = {}
        for value in page.values:
            labels, capped = self._labels.bounded(value)
            left_out["capped"] += capped
            if not capped or value.family.kind == "counter":
                key = (value.family, tuple(labels.items()))
                summed[key] = summed.get(key, 0.0) + value.value
        for (family, pairs), total in summed.items():
            yield family(total, server=self._server, **dict(pairs))
        for why in WHY:
            yield catalog.NATIVE_LEFT_OUT(float(left_out[why]), server=self._server, why=why)


def _lack_of(error: Exception) -> Lack:
    if isinstance(error, NotOllamas | BadAnswer):
        return FOREIGN
    if isinstance(error, HttpError):
        return NONE if error.status in (404, 405) else REFUSED
    return SILENT


class _Labels:
    """Keeps label values to so many, first come, first served: who has one keeps it, so that no counter ever goes
    down because another one came."""

    def __init__(self, models_max: int) -> None:
        self._models_max = models_max
        self._known: dict[str, set[str]] = {}

    def bounded(self, value: Value) -> tuple[dict[str, str], bool]:
        """The labels to use, and whether one of them had to become `other`."""
        labels = {name: self._label(name, told) for name, told in value.labels.items()}
        return labels, any(label == OTHER != value.labels[name] for name, label in labels.items())

    def _label(self, name: str, told: str) -> str:
        if not told:
            return ""
        is_model = name == "model"
        label = canonical(told) if is_model else told
        known = self._known.setdefault(name, set())
        if label not in known:
            most, longest = (self._models_max, NAME_MAX) if is_model else (_VALUES_MAX, _VALUE_MAX)
            if len(known) >= most or len(label) > longest:
                return OTHER
            known.add(label)
        return label
