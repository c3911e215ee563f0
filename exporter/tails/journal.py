"""systemd's journal, through its own `journalctl`: the one program that this exporter executes, with fixed arguments
and a checked name of a unit. There is no reader of the journal's files that pip could install."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from exporter.model import Lacking
from exporter.tails import LINE_MAX, Batch

_HISTORY_LINES = 10_000
_PATIENCE = 8.0
"""Seconds for the first look back."""
_PAUSE = 0.05
"""Seconds without a word from journalctl, after which it has told all."""
_CHUNK = 256 * 1024
_NO_PERMISSION = (b"not seeing messages", b"insufficient permissions")
_STORES = (Path("/var/log/journal"), Path("/run/log/journal"))


class JournalTail:
    """Follows a unit. journalctl writes into a pipe that is read when we are asked; when it is full, journalctl waits
    and the journal keeps what is to come."""

    def __init__(
        self, unit: str, *, user: bool = False, program: str = "journalctl", stores: tuple[Path, ...] = _STORES
    ) -> None:
        """`unit` without a suffix is a service; `user`: of a user's own systemd; `stores`: where journals are kept."""
        name = unit if "." in unit else f"{unit}.service"
        self._match = f"{'_SYSTEMD_USER_UNIT' if user else '_SYSTEMD_UNIT'}={name}"
        self._program, self._stores = program, stores
        self._cursor = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def history(self) -> tuple[bytes, ...]:
        try:
            told = subprocess.run(
                [*self._command(), f"--lines={_HISTORY_LINES}"],
                capture_output=True,
                timeout=_PATIENCE,
                check=False,
                env=_environment(),
            )
        except subprocess.TimeoutExpired:
            return ()
        self._check(told.stderr)
        return self._lines(told.stdout)

    def read(self, most: int) -> Batch:
        if self._process is None:
            self._process = self._follow()
        lines: list[bytes] = []
        size = 0
        while size < most:
            if not _ready(self._process):
                return Batch(tuple(lines), size)
            data = os.read(_out(self._process), _CHUNK)
            if not data:
                return self._ended(lines, size)
            size += len(data)
            complete, _, self._rest = (self._rest + data).rpartition(b"\n")
            lines += self._lines(complete)
        return Batch(tuple(lines), size, behind=True)

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with process:
            pass

    def _command(self) -> list[str]:
        program = shutil.which(self._program)
        if program is None:
            raise Lacking(
                f"the log is in the journal ({self._match}) and there is no {self._program} here",
                "run the exporter where journalctl is, or let Ollama log to a file and set servers[].logs.file",
            )
        # journalctl waits in silence where there is no journal, as in a container.
        if not any(next(store.glob("*/*.journal"), None) for store in self._stores):
            raise Lacking(
                f"the log is in the journal ({self._match}), of which there is none here",
                "mount /var/log/journal and /run/log/journal read-only, or let Ollama log to a file and set"
                " servers[].logs.file",
            )
        fields = "--output-fields=MESSAGE"
        return [program, self._match, "--output=json", fields, "--all", "--no-pager"]

    def _follow(self) -> subprocess.Popen[bytes]:
        start = [f"--after-cursor={self._cursor}"] if self._cursor else ["--lines=0"]
        self._rest = b""
        return subprocess.Popen(
            [*self._command(), "--follow", *start],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
        )

    def _ended(self, lines: list[bytes], size: int) -> Batch:
        """It goes on at its cursor at the next reading; before the first line there is none."""
        process = self._process
        complaint = process.stderr.read() if process is not None and process.stderr is not None else b""
        self.close()
        self._check(complaint)
        return Batch(tuple(lines), size, gaps=0 if self._cursor else 1)

    def _check(self, complaint: bytes) -> None:
        if any(words in complaint for words in _NO_PERMISSION):
            raise Lacking(
                f"the log is in the journal ({self._match}), which may not be read",
                "add the exporter's user to the group systemd-journal",
            )

    def _lines(self, text: bytes) -> tuple[bytes, ...]:
        lines: list[bytes] = []
        for entry in text.splitlines():
            try:
                fields = json.loads(entry)
                message, cursor = fields.get("MESSAGE"), fields.get("__CURSOR")
            except (ValueError, AttributeError):
                continue
            if isinstance(cursor, str):
                self._cursor = cursor
            if isinstance(message, list):  # bytes that are no text, such as colours
                with suppress(TypeError, ValueError):
                    lines.append(bytes(message)[:LINE_MAX])
            elif isinstance(message, str):
                lines.append(message.encode("utf-8", "replace")[:LINE_MAX])
        return tuple(lines)


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"}


def _out(process: subprocess.Popen[bytes]) -> int:
    if process.stdout is None:
        raise ValueError("journalctl was started without a pipe")
    return process.stdout.fileno()


def _ready(process: subprocess.Popen[bytes]) -> bool:
    return bool(select.select([_out(process)], [], [], _PAUSE)[0])
