"""Help for tests of the core and of plugins."""

from __future__ import annotations

import importlib.util
import inspect
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def run_in_processes(function: Callable[..., Any], size: int, *args: Any) -> list[Any]:
    """Call `function(*args)` in `size` fresh processes joined by gloo, on one thread each.

    The function must be at the top level of its file. Returns what each process returned, in
    order of rank: tensors, numbers, strings, and lists and dicts of them. An exception in one
    process is raised here.
    """
    where = inspect.getfile(function), function.__name__
    with tempfile.TemporaryDirectory() as folder:
        spawn(_process, (size, folder, *where, args), nprocs=size)
        return [torch.load(Path(folder, str(rank)), weights_only=True) for rank in range(size)]


def _process(
    rank: int, size: int, folder: str, file: str, name: str, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    function = getattr(_import_file(file), name)
    meeting_point = Path(folder, "meeting_point").as_uri()
    dist.init_process_group("gloo", meeting_point, timedelta(minutes=2), world_size=size, rank=rank)
    try:
        torch.save(function(*args), Path(folder, str(rank)))
    finally:
        dist.destroy_process_group()


def _import_file(file: str) -> Any:
    """Test files are imported by path: their folders are no packages."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
