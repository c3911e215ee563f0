"""docs/reliability.md: what was seen, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tests.chaos.house import Seen
from tests.chaos.table import MACHINE, NETWORK, SELF, THOUSAND, Fault
from tests.chaos.verdict import judge

HEAD = """\
# Reliability

What goes wrong around an exporter, and what becomes of it. `tests/chaos` lets all of this happen to the real program: a
process, real sockets, in network, mount and process namespaces of its own; what stands here was seen there. Made by
`pytest tests/chaos --update-golden`; change `tests/chaos/table.py`.

Each fault is done, lasts until the page shows it and for two polls more, ends, and is done once more. Meanwhile the
page is scraped three times per poll, and every scrape is held to what must always be true:

- **Nothing stale, nothing false.** A server has exactly one state, and no series that its state does not allow: what
  describes a present that nobody sees any more goes with the reading that failed. No counter falls or goes, no value is
  NaN, infinite or below zero.
- **The right reason** is counted in `ollama_source_failures_total`, and no other (on a busy machine time-outs may be
  among them).
- **Neighbours on time.** Servers that are well, over kept connections, new ones and by name, are polled at most a poll
  late, and every page comes within 5 s.
- **Recovery without help**, from the end of the fault alone, unless the table says what it takes.
- **Memory and files flat.** After the second time the process is as large as after the first (within 10 MiB), and has
  as many files open (within ten). Faults of one table share an exporter, in the third table each has its own. Under
  "little memory" it is what is allocated and not freed that stays: of the 64 MB that come and go, the resident set kept
  20 to 41 after three rounds and 56 after twelve, in pieces that the few things that stay keep from being given back.
- **No crash**, no error of ours in the log, and exit code 0 after SIGTERM.

"""
_TITLES = {
    NETWORK: "The way to a server, and its answers",
    MACHINE: "The machine of a server",
    SELF: "The exporter itself, and who scrapes it",
    THOUSAND: "A fleet",
}
_COLUMNS = (
    "| fault | what is done | counted | state | nothing false | neighbours on time | recovered | memory, files flat |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
TAIL = """\

## Scale

Time is scaled where it makes no difference: servers are polled every second in place of every 15 (a thousand of them
every 5 s, those that answer with 4 MB every 2), so that six seconds of SIGSTOP are what a minute and a half is in
production; the exporter looks at its machine every second in place of every 15. Time-outs are 1.2 s, and 0.7 s for the
connection. What does not scale is the work that an answer makes, however seldom it comes.

## What this does not show

- DNS: one server, asked by glibc (2 s, two tries); another system's resolver may hang longer. Up to 64 names may hang
  without delaying others; beyond, names wait for their turn, and servers that are given by address do not.
- Half-open connections are made by a black hole in the routes of the other end, not by pulling a cable.
- A disk that hangs is a FUSE file system that answers nothing; NFS was not tried.
- dockerd is an engine of the tests' own behind a Unix socket; `tests/e2e` asks a real one, in peace.
- The clock that jumps is the process's (libfaketime), not the machine's.
- Memory is limited by RLIMIT_AS, which makes allocations fail. A cgroup kills in place of that: give the container
  room for the largest answer, about 100 MB more than it takes in peace.
- Of a log that is renamed more often than it is looked at, what was written in between is lost and cannot be counted as
  lost. Rotating by copying and truncating is counted as a gap.
- A server whose `ca_file` is replaced is a server of another configuration: its counters start at 0, as after a
  restart.
- Months: memory was watched for minutes.
"""


def page(faults: Sequence[Fault], seen: Mapping[str, Seen]) -> str:
    return "".join((HEAD, *_tables(faults, seen), TAIL))


def _tables(faults: Sequence[Fault], seen: Mapping[str, Seen]) -> Iterator[str]:
    for house, title in _TITLES.items():
        yield f"\n## {title}\n\n{_COLUMNS}" if house != NETWORK else f"## {title}\n\n{_COLUMNS}"
        for fault in faults:
            if fault.house == house:
                yield _row(fault, seen[house])


def _row(fault: Fault, seen: Seen) -> str:
    outcome, verdict = seen.of(fault.name), judge(fault, seen)
    counted = [f"`{reason}`" for reason in sorted(fault.reasons & outcome.reasons)]
    states = [f"`{state}`" for state in sorted(outcome.states)]
    done = f"{fault.done}. *{fault.told[:1].upper()}{fault.told[1:]}.*" if fault.told else f"{fault.done}."
    held = (verdict.false, verdict.delayed, verdict.ill, verdict.swollen)
    cells = [fault.name, done[:1].upper() + done[1:], ", ".join(counted), ", ".join(states)]
    return f"| {' | '.join([*cells, *('no' if wrong else 'yes' for wrong in held)])} |\n"
