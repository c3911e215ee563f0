"""File systems of a test's own: one that is full, one that answers nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

from tests.chaos.network import run

_DETACH = 2


def mount(folder: Path, size: str) -> Path:
    """A disk of this size."""
    folder.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    return folder


def fill(folder: Path) -> Path:
    """To the last byte. Returns the file that takes the room."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 65536):
            pass
    return ballast


class Silent:
    """A file system over a folder whose server answers nothing: whoever asks it waits. (FUSE, of which nobody reads the
    requests; a network disk whose server is gone does the same.)"""

    def __init__(self, folder: Path) -> None:
        self._folder, self._device = folder, -1
        self._libc = ctypes.CDLL(None, use_errno=True)

    def begin(self) -> None:
        self._device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0".encode()
        if self._libc.mount(b"silent", os.fsencode(self._folder), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), "cannot mount a file system of FUSE")

    def end(self) -> None:
        """Who waits is told that it is gone."""
        os.close(self._device)
        self._libc.umount2(os.fsencode(self._folder), _DETACH)
