"""How busy the machine is while a run goes on: processors, memory, disk, network, GPUs.

MLflow's own collectors, under MLflow's own names; not its monitor, which asks the server before
every sample and ends for good once that does not answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from mirrorlib.errors import UserError

INTERVAL = 10.0
"""Seconds between two samples."""


@contextmanager
def sampling(log: Callable[[Mapping[str, float]], None]) -> Iterator[None]:
    """Calls `log` from a thread of its own, every INTERVAL seconds and at the block's end, with
    `system/...`: what MLflow shows as a run's system metrics. What the machine cannot tell is left
    out; where `log` raises UserError, as on a full disk, sampling ends and the run goes on."""
    collectors, stop = _collectors(), threading.Event()
    _sample(collectors)  # processors are measured since the sample before
    thread = threading.Thread(target=_watch, args=(collectors, log, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(
    collectors: list[Any], log: Callable[[Mapping[str, float]], None], stop: threading.Event
) -> None:
    with suppress(UserError):
        ended = False
        while not ended:
            ended = stop.wait(INTERVAL)
            log(_sample(collectors))


def _collectors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    found = []
    for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor, ROCMMonitor):
        with suppress(Exception):  # each says in its own way that the machine has no such thing
            found.append(kind())
    return found


def _sample(collectors: list[Any]) -> dict[str, float]:
    metrics = {}
    for collector in collectors:
        with suppress(Exception):
            collector.clear_metrics()
            collector.collect_metrics()
            metrics.update(collector.aggregate_metrics())
    return {f"system/{name}": float(value) for name, value in metrics.items()}
