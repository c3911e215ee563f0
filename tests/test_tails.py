"""Where lines come from: files under rotation, systemd's journal, containers."""

from __future__ import annotations

import _thread
import gzip
import json
import os
import stat
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest

from exporter.dockerd import Daemon
from exporter.model import Lacking
from exporter.tails import LINE_MAX, Batch, Tail
from exporter.tails.container import ContainerTail
from exporter.tails.file import FileTail
from exporter.tails.journal import JournalTail

MOST = 1 << 20


def write(path: Path, *lines: str, end: str = "\n") -> None:
    with path.open("a") as file:
        file.write("".join(f"{line}{end}" for line in lines))


def read(tail: Tail) -> list[str]:
    return [line.decode() for line in tail.read(MOST).lines]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "server.log"
    write(path, "old")
    return path


@pytest.fixture
def tail(log: Path) -> Iterator[FileTail]:
    tail = FileTail(log)
    assert tail.history() == (b"old",)
    yield tail
    tail.close()


def test_what_was_there_is_history_and_what_comes_is_read_once(log: Path, tail: FileTail) -> None:
    write(log, "one", "two")

    assert read(tail) == ["one", "two"]
    assert read(tail) == []


def test_a_line_is_read_when_it_is_complete(log: Path, tail: FileTail) -> None:
    write(log, "hal", end="")
    assert read(tail) == []

    write(log, "f")
    assert read(tail) == ["half"]


def test_the_beginning_of_a_line_that_was_there_belongs_to_it(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    write(path, "old\nha", end="")
    tail = FileTail(path)
    assert tail.history() == (b"old",)

    write(path, "lf")

    assert read(tail) == ["half"]
    tail.close()


def test_a_renamed_file_is_read_to_its_end_before_the_new_one(log: Path, tail: FileTail) -> None:
    write(log, "before")
    old = log.rename(log.with_suffix(".1"))
    write(old, "still to the old one")
    write(log, "new")

    assert read(tail) == ["before", "still to the old one", "new"]


def test_a_writer_that_holds_the_renamed_file_a_while_is_heard(log: Path, tail: FileTail) -> None:
    old = log.rename(log.with_suffix(".1"))
    write(log, "new")
    assert read(tail) == ["new"]

    write(old, "late")
    write(log, "newer")

    assert read(tail) == ["late", "newer"]
    assert read(tail) == []


def test_a_file_without_a_name_for_a_while_is_read_on(log: Path, tail: FileTail) -> None:
    old = log.rename(log.with_suffix(".1"))
    write(old, "between two names")
    assert read(tail) == ["between two names"]

    write(log, "new")
    assert read(tail) == ["new"]


def test_a_truncated_file_is_read_from_its_beginning_and_the_gap_is_said(log: Path, tail: FileTail) -> None:
    write(log, "some", "more", "lines")
    assert read(tail) == ["some", "more", "lines"]

    os.truncate(log, 0)
    write(log, "a")

    batch = tail.read(MOST)
    assert (batch.lines, batch.gaps) == ((b"a",), 1)
    assert tail.read(MOST) == Batch((), 0, False, 0, 0)


def test_a_truncated_file_that_has_outgrown_our_place_is_noticed(log: Path, tail: FileTail) -> None:
    write(log, "a line of the past, long enough")
    assert len(read(tail)) == 1

    os.truncate(log, 0)
    write(log, *["another line, and so on, and so on"] * 9)

    batch = tail.read(MOST)
    assert (len(batch.lines), batch.gaps) == (9, 1)


def test_compressed_rotations_are_nobodys_business(log: Path, tail: FileTail) -> None:
    with gzip.open(log.with_suffix(".log.1.gz"), "wb") as file:
        file.write(b"old\n")
    write(log, "one")

    assert read(tail) == ["one"]


def test_a_file_that_was_not_there_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    tail = FileTail(path)
    with pytest.raises(Lacking, match="is not there"):
        tail.history()

    write(path, "first")

    assert tail.history() == ()
    assert read(tail) == ["first"]
    tail.close()


def test_what_is_no_file_and_what_may_not_be_read_is_lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Lacking, match="keeps lines"):
        FileTail(tmp_path / "pipe").history()

    def denied(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(Lacking, match="may not be read") as lacking:
        FileTail(tmp_path / "server.log").history()
    assert "exporter's user" in lacking.value.lack.remedy


def test_an_avalanche_is_read_in_portions_and_the_backlog_is_said(log: Path, tail: FileTail) -> None:
    write(log, *["x" * 99] * 10_000)

    first = tail.read(300_000)
    assert (first.size, first.behind, first.backlog) == (300_000, True, 700_000)

    lines = len(first.lines)
    while (batch := tail.read(300_000)).lines:
        lines += len(batch.lines)
    assert lines == 10_000
    assert tail.read(1).backlog == 0


def test_a_line_without_an_end_does_not_fill_the_memory(log: Path, tail: FileTail) -> None:
    write(log, "x" * (3 * LINE_MAX), end="")
    assert read(tail) == []

    write(log, "", "next")

    assert [len(line) for line in read(tail)] == [LINE_MAX, 4]


def test_a_log_that_is_found_under_another_path_goes_on_where_it_was(log: Path, tail: FileTail) -> None:
    link = log.with_name("fd")
    link.symlink_to(log)
    write(log, "one")
    tail.follow(link)

    assert read(tail) == ["one"]


def test_only_the_last_part_of_a_long_history_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    write(path, *["y" * 1023] * 5000)
    tail = FileTail(path)

    assert len(tail.history()) == 4 * 1024 - 1, "the first of them is cut"
    tail.close()


# --- the journal -----------------------------------------------------------------------------------------------------

JOURNALCTL = f"""\
#!{sys.executable}
import json, sys, time
from pathlib import Path

store = Path(__file__).with_name("entries")
arguments = sys.argv[1:]
Path(__file__).with_name("calls").open("a").write(json.dumps(arguments) + "\\n")
complaint = Path(__file__).with_name("complaint")
if complaint.exists():
    sys.exit(complaint.read_text())
cursor = next((a.split("=")[1] for a in arguments if a.startswith("--after-cursor=")), None)
start = int(cursor) if cursor else len(store.read_text().splitlines()) if "--lines=0" in arguments else 0
told = start
while True:
    entries = store.read_text().splitlines()
    for number in range(told, len(entries)):
        print(json.dumps({{"__CURSOR": str(number + 1), "MESSAGE": json.loads(entries[number])}}), flush=True)
    told = len(entries)
    if "--follow" not in arguments or Path(__file__).with_name("end").exists():
        break
    time.sleep(0.01)
"""


class Journal:
    """A `journalctl` that is none, and the entries that it tells."""

    def __init__(self, folder: Path) -> None:
        self.program, self._entries, self._folder = folder / "journalctl", folder / "entries", folder
        self.program.write_text(JOURNALCTL)
        self.program.chmod(stat.S_IRWXU)
        (folder / "store" / "machine").mkdir(parents=True)
        (folder / "store" / "machine" / "system.journal").touch()
        self.write("old")

    def write(self, *messages: str | list[int]) -> None:
        with self._entries.open("a") as file:
            file.writelines(f"{json.dumps(message)}\n" for message in messages)

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self._folder / "calls").read_text().splitlines()]

    def end(self) -> None:
        (self._folder / "end").touch()

    def complain(self, text: str) -> None:
        (self._folder / "complaint").write_text(text)

    def tail(self, unit: str = "ollama", *, user: bool = False) -> JournalTail:
        return JournalTail(unit, user=user, program=str(self.program), stores=(self._folder / "store",))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def until(tail: Tail, count: int) -> list[str]:
    """Read until so many lines have come; the test's own timeout is the limit."""
    lines: list[str] = []
    while len(lines) < count:
        lines += read(tail)
    return lines


def test_a_unit_is_followed_from_the_last_line_of_its_history(journal: Journal) -> None:
    tail = journal.tail()
    assert tail.history() == (b"old",)
    journal.write("one", "two")

    assert until(tail, 2) == ["one", "two"]
    assert read(tail) == []
    tail.close()

    look, follow = journal.calls()
    assert "_SYSTEMD_UNIT=ollama.service" in look
    assert {"--follow", "--after-cursor=1"} <= set(follow)


def test_a_user_s_own_unit_is_another_match(journal: Journal) -> None:
    tail = journal.tail("ollama.service", user=True)
    tail.history()
    tail.close()

    assert "_SYSTEMD_USER_UNIT=ollama.service" in journal.calls()[0]


def test_messages_that_are_no_text_come_as_bytes(journal: Journal) -> None:
    tail = journal.tail()
    tail.history()
    journal.write(list(b"\x1b[0mcolour"))

    assert until(tail, 1) == ["\x1b[0mcolour"]
    tail.close()


def test_a_journalctl_that_ends_is_started_again_where_it_was(journal: Journal) -> None:
    tail = journal.tail()
    tail.history()
    journal.end()
    journal.write("one")
    assert until(tail, 1) == ["one"]
    journal.write("two")

    assert until(tail, 1) == ["two"]
    assert tail.read(MOST).gaps == 0
    tail.close()


def test_what_is_not_asked_for_stays_in_the_journal(journal: Journal) -> None:
    tail = journal.tail()
    tail.history()
    journal.write(*["x" * 200] * 3000)

    lines = 0
    behind = False
    while lines < 3000:
        batch = tail.read(1)
        lines += len(batch.lines)
        behind |= batch.behind
    assert (lines, behind) == (3000, True)
    tail.close()


@pytest.mark.parametrize(
    ("complaint", "remedy"),
    [
        ("Hint: You are currently not seeing messages from other users and the system.", "systemd-journal"),
        ("No journal files were opened due to insufficient permissions.", "systemd-journal"),
    ],
)
def test_a_journal_that_may_not_be_read_is_lacking_what_helps(journal: Journal, complaint: str, remedy: str) -> None:
    journal.complain(complaint)

    with pytest.raises(Lacking) as lacking:
        journal.tail().history()
    assert remedy in lacking.value.lack.remedy


def test_without_journalctl_and_without_a_journal_it_is_lacking_too(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(Lacking, match="no /nowhere/journalctl here"):
        JournalTail("ollama", program="/nowhere/journalctl").history()
    with pytest.raises(Lacking, match="none here") as lacking:
        JournalTail("ollama", program=str(journal.program), stores=(tmp_path / "empty",)).history()
    assert "mount /var/log/journal" in lacking.value.lack.remedy


# --- containers ------------------------------------------------------------------------------------------------------


class Engine:
    """A Docker Engine that keeps one container's output. Its streams end when `ends` is set."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.refusal: tuple[int, str] | None = None
        self.changed = threading.Condition()
        self.ends = False
        self.queries: list[str] = []

    def write(self, at: str, line: str) -> None:
        with self.changed:
            self.lines.append((at, line))
            self.changed.notify_all()

    def end(self, ends: bool = True) -> None:
        with self.changed:
            self.ends = ends
            self.changed.notify_all()


class Handler(BaseHTTPRequestHandler):
    engine: Engine

    def do_GET(self) -> None:
        engine, path = self.engine, self.path.partition("?")[0]
        if path.endswith("/version"):
            self._json(200, {"ApiVersion": "1.41", "Version": "20.10", "MinAPIVersion": "1.12"})
        elif engine.refusal and path.endswith("/logs"):
            self._json(engine.refusal[0], {"message": engine.refusal[1]})
        elif path.endswith("/containers/ollama/json"):
            self._json(200, {"Id": "c" * 64, "Config": {"Tty": False}})
        elif path.endswith("/containers/ollama/logs"):
            engine.queries.append(self.path)
            self._logs("follow=1" in self.path)
        else:
            self._json(404, {"message": "No such container"})

    def _logs(self, follow: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.multiplexed-stream")
        self.end_headers()
        told = 0
        with self.engine.changed:
            while True:
                for at, line in self.engine.lines[told:]:
                    text = f"2026-11-23T17:00:{at}Z {line}\n".encode()
                    self.wfile.write(struct.pack(">BxxxL", 1 + told % 2, len(text)) + text)
                told = len(self.engine.lines)
                if not follow or self.engine.ends:
                    return
                self.engine.changed.wait()

    def _json(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...

    def address_string(self) -> str:
        return "unix"


@contextmanager
def engine_at(path: Path) -> Iterator[Engine]:
    engine = Engine()
    handler = type("BoundHandler", (Handler,), {"engine": engine})
    with ThreadingUnixStreamServer(str(path), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield engine
        finally:
            engine.end()
            server.shutdown()
            thread.join()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with engine_at(tmp_path / "docker.sock") as engine:
        yield engine


def container(folder: Path, name: str = "ollama", *, new: bool = False) -> ContainerTail:
    return ContainerTail(name, Daemon(f"unix://{folder}/docker.sock"), new=new)


def test_both_streams_of_a_container_are_followed_after_its_history(engine: Engine, tmp_path: Path) -> None:
    engine.write("01.000000001", "old")
    tail = container(tmp_path)
    assert tail.history() == (b"old",)
    engine.write("02.5", "one")
    engine.write("03", "two")

    assert until(tail, 2) == ["one", "two"]
    tail.close()
    assert "tail=10000" in engine.queries[0]
    assert "since=" in engine.queries[1]


def test_a_thread_that_dies_as_it_is_born_does_not_silence_a_container(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.write("01", "old")
    tail = container(tmp_path)
    assert tail.history() == (b"old",)
    engine.write("02", "one")
    with monkeypatch.context() as deadly:
        deadly.setattr(_thread, "start_new_thread", lambda *_: 1)
        assert tail.read(1000).lines == ()
    assert until(tail, 1) == ["one"]
    tail.close()


def test_a_container_that_ends_and_starts_again_is_followed_on_without_a_line_twice(
    engine: Engine, tmp_path: Path
) -> None:
    tail = container(tmp_path)
    assert tail.history() == ()
    engine.write("58.1", "one")
    tail.close()
    tail = container(tmp_path, new=True)
    tail.history()
    assert until(tail, 1) == ["one"]
    engine.end()
    while tail.read(MOST) != Batch():
        pass
    engine.write("59.2", "two")
    engine.end(False)

    assert until(tail, 1) == ["two"]
    tail.close()


def test_a_container_that_there_is_not_and_an_engine_that_there_is_not_are_lacking(
    engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(Lacking, match="no container other"):
        container(tmp_path, "other").history()
    with pytest.raises(Lacking):
        container(tmp_path / "nowhere").history()


def test_a_logging_driver_that_keeps_nothing_is_lacking(engine: Engine, tmp_path: Path) -> None:
    engine.refusal = (501, "configured logging driver does not support reading")

    with pytest.raises(Lacking, match="keeps nothing") as lacking:
        container(tmp_path).history()
    assert "json-file" in lacking.value.lack.remedy
