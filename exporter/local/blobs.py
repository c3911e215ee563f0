"""From a blob of weights to the models that are made of it, by the manifests in a server's model store."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from exporter.model import canonical

_WEIGHTS = "application/vnd.ollama.image.model"
_SIZE_MAX = 1 << 20
"""Bytes. A manifest has a thousand."""
_MANIFESTS_MAX = 20_000


@dataclass(slots=True)
class _Index:
    """What a store held when it was looked at; `files`: a manifest's time and the blobs it names."""

    at: float
    files: dict[str, tuple[int, frozenset[str]]] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Blobs:
    """Remembers each store, and looks again when `keep` seconds have passed; reads only manifests that changed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, keep: float = 30.0) -> None:
        self._clock, self._keep = clock, keep
        self._lock = threading.Lock()
        self._stores: dict[Path, _Index] = {}

    def names(self, store: Path, blob: str) -> tuple[str, ...]:
        """The models in this store whose weights are this blob (`sha256-<hex>`), canonical and sorted."""
        with self._lock:
            index = self._stores.get(store)
            if index is None or self._clock() - index.at >= self._keep:
                index = self._stores[store] = self._look(store, index.files if index else {})
            return index.names.get(blob, ())

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
