"""Wall time and peak memory of each phase of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

INTERVAL = 0.25
"""Seconds between two looks at the memory."""


@dataclass(frozen=True)
class Phase:
    """seconds: wall time. memory: peak resident bytes of this process and its children (pages
    they share count in each). gpu_memory: peak bytes that torch allocated on the GPU."""

    seconds: float
    memory: int
    gpu_memory: int


class Monitor:
    """Collects phases by name, in order."""

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the block and watches its memory."""
        peak, stop = [0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(peak, stop), daemon=True)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
            self.phases[name] = Phase(time.perf_counter() - start, peak[0], gpu)


def _watch(peak: list[int], stop: threading.Event) -> None:
    own = psutil.Process()
    while True:
        total = 0
        for process in [own, *own.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        peak[0] = max(peak[0], total)
        if stop.wait(INTERVAL):
            return
