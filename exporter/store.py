"""The current Snapshot: one reference, replaced whole. Whoever has taken it may keep it; it never changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from exporter.model import Entry, Reading, Snapshot, Watch


class Store:
    """Readings of the watches of one plan. `encode` turns a reading into its text once, when it arrives, so that a
    scrape is a join; it is given the entry that the new one replaces."""

    def __init__(self, encode: Callable[[Reading, Entry | None], Entry]) -> None:
        self._encode = encode
        # A place for each watch, in the order of the plan, so that a reading is put without looking for its neighbours.
        self._places: dict[Watch, Entry | None] = {}
        self._snapshot: Snapshot | None = Snapshot()

    @property
    def snapshot(self) -> Snapshot:
        """The same object until something changes. Made when it is asked for: readings come more often than scrapes."""
        if self._snapshot is None:
            awaited: tuple[Watch, ...] = ()
            if not self.complete():
                awaited = tuple(watch for watch, entry in self._places.items() if entry is None)
            entries = self._places.copy()  # to put them in one by one would be to hash every watch again
            for watch in awaited:
                del entries[watch]
            self._snapshot = Snapshot(cast("dict[Watch, Entry]", entries), awaited)
        return self._snapshot

    def plan(self, watches: Iterable[Watch]) -> None:
        """Keep these watches, in this order; the readings of all others go, and later ones of theirs are ignored."""
        self._places = {watch: self._places.get(watch) for watch in watches}
        self._snapshot = None

    def put(self, reading: Reading) -> None:
        if reading.watch in self._places:
            self._places[reading.watch] = self._encode(reading, self._places[reading.watch])
            self._snapshot = None

    def complete(self) -> bool:
        """Whether every watch of the plan has been read at least once."""
        return None not in self._places.values()
