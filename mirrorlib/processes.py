"""Worker processes: how many, and how they start and end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait


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


@contextmanager
def hashing_alike() -> Iterator[None]:
    """Processes started within the block order sets of strings alike, unless PYTHONHASHSEED says
    otherwise: a scene that is drawn from such a set is then the same in each."""
    if "PYTHONHASHSEED" in os.environ:
        yield
        return
    os.environ["PYTHONHASHSEED"] = "0"
    try:
        yield
    finally:
        del os.environ["PYTHONHASHSEED"]


def end_with_parent() -> None:
    """Called in a worker process: it ends when the process that started it does, however that
    came about, and with it the group of processes that it leads, if it does."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
