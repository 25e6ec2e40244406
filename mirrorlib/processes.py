"""Worker processes: how many, and how they start."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def own_cores() -> int:
    """CPU cores that this process may use, shared with the other processes of the launch on this
    machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started within the block ignore Ctrl-C from their first moment: the terminal
    sends it to all, and only the one that started them should answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
