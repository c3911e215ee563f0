"""The threads of this very process."""

from __future__ import annotations

import psutil


def alive() -> set[int]:
    """Numbers of the threads that live. Others' may end at any time, when they have been idle for long enough."""
    return {thread.id for thread in psutil.Process().threads()}
