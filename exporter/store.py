"""The current Snapshot: one reference, replaced whole. Whoever has taken it may keep it; it never changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from exporter.model import Entry, Reading, Snapshot, Watch


class Store:
    """Readings of the watches of one plan. `encode` turns a reading into its text once, when it arrives, so that a
    scrape is a join."""

    def __init__(self, encode: Callable[[Reading], Entry]) -> None:
        self._encode = encode
        self._places: dict[Watch, int] = {}
        self.snapshot = Snapshot()

    def plan(self, watches: Iterable[Watch]) -> None:
        """Keep these watches, in this order; the readings of all others go, and later ones of theirs are ignored."""
        self._places = {watch: place for place, watch in enumerate(watches)}
        entries = self.snapshot.entries
        self.snapshot = Snapshot({watch: entries[watch] for watch in self._places if watch in entries})

    def put(self, reading: Reading) -> None:
        if reading.watch not in self._places:
            return
        entries = {**self.snapshot.entries, reading.watch: self._encode(reading)}
        if len(entries) != len(self.snapshot.entries):
            entries = dict(sorted(entries.items(), key=lambda item: self._places[item[0]]))
        self.snapshot = Snapshot(entries)

    def complete(self) -> bool:
        """Whether every watch of the plan has been read at least once."""
        return len(self.snapshot.entries) == len(self._places)
