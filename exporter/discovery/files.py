"""Servers in files, as Prometheus' file_sd reads them. Each file is read again when it has changed.

A file that cannot be read, or only half of which is written, keeps the targets that it had; so does one that is gone
and was named without a `*`. One that a pattern no longer matches has none.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exporter.config import Server
from exporter.config.places import FileSd
from exporter.discovery import groups
from exporter.discovery.targets import TARGETS_MAX, Seen, Target, Trouble
from exporter.discovery.threads import Thread
from exporter.model import Reason

_FILES_MAX = 1000
_FRESH = 2.0
"""Seconds for which a file may change again without showing it in its time and its size."""


@dataclass(frozen=True, slots=True)
class _File:
    """As it was when it was read. `sign`: inode, time and size; None where they say nothing yet."""

    sign: tuple[int, int, int] | None
    targets: tuple[Target, ...]


class FileFinder:
    def __init__(self, settings: FileSd, now: Callable[[], float] = time.time) -> None:
        self._settings, self._now = settings, now
        self._thread = Thread()
        self._files: dict[str, _File] = {}

    async def look(self, configured: Sequence[Server]) -> Seen:
        return await self._thread.run(self._look)

    async def aclose(self) -> None:
        pass

    def _look(self) -> Seen:
        files: dict[str, _File] = {}
        troubles: list[Trouble] = []
        for path in self._paths():
            try:
                files[path] = self._current(path)
            except (Trouble, OSError) as error:
                if isinstance(error, FileNotFoundError) and path not in self._settings.paths:
                    continue  # deleted since the folder was looked at
                troubles.append(_about(path, error))
                if path in self._files:
                    files[path] = self._files[path]
        self._files = files
        targets = tuple(target for file in files.values() for target in file.targets)
        if len(targets) > TARGETS_MAX:
            raise Trouble("too_large", f"the files have more than {TARGETS_MAX:,} targets")
        return Seen(targets, (), tuple(troubles))

    def _paths(self) -> list[str]:
        found: dict[str, None] = {}
        for pattern in self._settings.paths:
            folder, name = os.path.split(pattern)
            matched = glob.glob(os.path.join(glob.escape(folder), name)) if "*" in name else [pattern]
            found.update(dict.fromkeys(sorted(matched)))
        if len(found) > _FILES_MAX:
            raise Trouble("too_large", f"the patterns match more than {_FILES_MAX:,} files")
        return list(found)

    def _current(self, path: str) -> _File:
        with open(path, "rb", opener=_opener) as file:
            known, status = self._files.get(path), os.fstat(file.fileno())
            sign = (status.st_ino, status.st_mtime_ns, status.st_size)
            if known is not None and known.sign == sign:
                return known
            body = file.read(groups.BODY_MAX + 1)
        if len(body) > groups.BODY_MAX:
            raise Trouble("too_large", "it is larger than 16 MiB")
        read = groups.from_json if path.lower().endswith(".json") else groups.from_yaml
        settled = self._now() - status.st_mtime > _FRESH
        return _File(sign if settled else None, read(body, {"__meta_filepath": path}))


def _opener(path: str, flags: int) -> int:
    """Without waiting for whoever might write into a named pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _about(path: str, error: Trouble | OSError) -> Trouble:
    reason: Reason = error.reason if isinstance(error, Trouble) else "unavailable"
    what = error.what if isinstance(error, Trouble) else f"it cannot be read: {error.strerror}"
    return Trouble(reason, f"{path}: {what}")
