"""From a blob of weights to the models that are made of it, by the manifests in a server's model store."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path

from exporter.model import canonical
from exporter.threads import Threads

_WEIGHTS = "application/vnd.ollama.image.model"
_SIZE_MAX = 1 << 20
"""Bytes. A manifest has a thousand."""
_MANIFESTS_MAX = 20_000
_STORES_MAX = 64
"""A server that starts anew is seen by another path."""

Store = tuple[Path, ...]
"""The folders in which it may be seen; the first one that can be read."""


@dataclass(slots=True)
class _Index:
    """What a store held when it was looked at; `files`: a manifest's time and the blobs it names."""

    at: float
    files: dict[str, tuple[int, frozenset[str]]] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Look:
    """At a store, in a thread. `until`: as long as it is waited for, by the clock."""

    index: Future[_Index]
    until: float


class Blobs:
    """Remembers each store, and looks again when `keep` seconds have passed; reads only manifests that changed.

    A disk may hang: after `patience` seconds what is known already has to do, and nobody looks again until that look
    has come to an end. A blob is named after its content, so a name that it had is not wrong for being old.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, keep: float = 30.0, patience: float = 1.0) -> None:
        self._clock, self._keep, self._patience = clock, keep, patience
        self._lock, self._threads = threading.Lock(), Threads(_STORES_MAX)
        self._known: dict[Store, _Index] = {}
        self._looks: dict[Store, _Look] = {}

    def names(self, store: Store, blob: str) -> tuple[str, ...]:
        """The models in this store whose weights are this blob (`sha256-<hex>`), canonical and sorted."""
        look = self._due(store)
        if look is not None:
            try:
                look.index.result(max(0.0, look.until - self._clock()))
            except TimeoutError:
                if look.index.cancel():  # it has not begun
                    with self._lock:
                        self._looks.pop(store, None)
            except CancelledError:  # another one was first to find that
                pass
        with self._lock:
            index = self._known.get(store)
            return index.names.get(blob, ()) if index else ()

    def _due(self, store: Store) -> _Look | None:
        """The look that is under way, or is due."""
        with self._lock:
            known, now = self._known.get(store), self._clock()
            if store not in self._looks and (known is None or now - known.at >= self._keep):
                index = self._threads.submit(self._look_anew, store, known.files if known else {})
                self._looks[store] = _Look(index, now + self._patience)
            return self._looks.get(store)

    def _look_anew(self, store: Store, before: dict[str, tuple[int, frozenset[str]]]) -> _Index:
        try:
            index = self._look(_readable(store), before)
            with self._lock:
                self._known.pop(store, None)
                self._known[store] = index
                while len(self._known) > _STORES_MAX:
                    del self._known[next(iter(self._known))]
            return index
        finally:
            with self._lock:
                self._looks.pop(store, None)

    def _look(self, store: Path, before: dict[str, tuple[int, frozenset[str]]]) -> _Index:
        index = _Index(self._clock())
        names: dict[str, set[str]] = {}
        for path, name, changed in _manifests(store / "manifests"):
            known = before.get(path)
            weights = known[1] if known and known[0] == changed else _weights(path)
            index.files[path] = (changed, weights)
            for blob in weights:
                names.setdefault(blob, set()).add(name)
        index.names = {blob: tuple(sorted(found)) for blob, found in names.items()}
        return index


def _readable(store: Store) -> Path:
    return next((path for path in store[:-1] if os.access(path / "manifests", os.R_OK)), store[-1])


def _manifests(root: Path) -> Iterator[tuple[str, str, int]]:
    """Path, model and time of change (nanoseconds) of each manifest: below HOST/NAMESPACE/MODEL/TAG."""
    count = 0
    for folder, _, files in os.walk(root):
        parts = Path(folder).relative_to(root).parts
        if len(parts) != 3:
            continue
        for tag in files:
            path = os.path.join(folder, tag)
            try:
                changed = os.stat(path).st_mtime_ns
            except OSError:
                continue
            yield path, _name(*parts, tag), changed
            count += 1
            if count >= _MANIFESTS_MAX:
                return


def _name(host: str, namespace: str, model: str, tag: str) -> str:
    """As Ollama writes it: what is the default is left out, but for the tag."""
    name = f"{model}:{tag}"
    if host != "registry.ollama.ai":
        return canonical(f"{host}/{namespace}/{name}")
    return canonical(name if namespace == "library" else f"{namespace}/{name}")


def _weights(path: str) -> frozenset[str]:
    """The blobs of weights that a manifest names; none when it cannot be read: it may be just being written."""
    try:
        with open(path, "rb") as file:
            manifest = json.loads(file.read(_SIZE_MAX))
        layers = [layer for layer in manifest["layers"] if layer["mediaType"] == _WEIGHTS]
        return frozenset(str(layer["digest"]).replace(":", "-") for layer in layers)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return frozenset()
