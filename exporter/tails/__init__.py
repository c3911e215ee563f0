"""Where lines come from: a file that grows, systemd's journal, a container's output.

Each reads on from where it was, as much as it is asked for, and is asked from one thread at a time. Nothing is read
ahead: what is not taken stays where it is kept, and an avalanche costs memory nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

LINE_MAX = 64 * 1024
"""Bytes. What is longer is cut."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Complete lines without their ends. `size`: bytes taken from the log. `behind`: more is there already; `backlog`:
    how many bytes, where that can be told. `gaps`: times that lines may have been lost before these."""

    lines: tuple[bytes, ...] = ()
    size: int = 0
    behind: bool = False
    backlog: int | None = None
    gaps: int = 0


class Tail(Protocol):
    """One log. Raises `model.Lacking` when it cannot be read from here."""

    def history(self) -> tuple[bytes, ...]:
        """The last lines that were there at the beginning, as many as is reasonable. Called once, before `read`, which
        goes on after them."""

    def read(self, most: int) -> Batch:
        """What has come since; about `most` bytes of it. Returns at once, or within a fraction of a second."""

    def close(self) -> None:
        """Let go of files, processes and connections."""
