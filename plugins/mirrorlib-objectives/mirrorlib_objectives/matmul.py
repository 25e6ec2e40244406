"""oneDNN's float32 matmul on the CPU, where asked for, for our own calls alone.

On some CPUs it is twice as fast as torch's default, on others no faster (benchmarks/objectives.py
of mirrorlib prints both), so it is taken only with MIRRORLIB_FAST_MATMUL=1. torch offers it
through a flag that also permits rounding to bfloat16, which CPUs with AMX make use of: a trial
must show products as exact as float32 should be.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

ENABLED = os.environ.get("MIRRORLIB_FAST_MATMUL", "0") == "1"
SMALLEST = 2**30
"""Multiplications of a product below which the default stays: a small one gains nothing."""
UNSET, FAST = "none", "bf16"
"""The flag where nobody has set it, and where oneDNN's kernels are permitted."""

_lock = threading.Lock()
_depth = 0


@contextmanager
def fast_matmul(multiplications: int) -> Iterator[None]:
    """Within the block, float32 products on the CPU may take oneDNN's kernels.

    The flag is torch's own and global: it is set only where nobody else has set it, and the last
    block to end unsets it.
    """
    if multiplications < SMALLEST or not ENABLED or not is_exact():
        yield
        return
    with _flag():
        yield


@cache
def is_exact() -> bool:
    """Whether oneDNN's kernels exist here and round as float32 does. Tried once a process."""
    if _backend() is None:
        return False
    generator = torch.Generator("cpu").manual_seed(0)
    x, y = torch.rand(2, 256, 1024, generator=generator, dtype=torch.float32, device="cpu")
    exact = x.double() @ y.double().T
    with _flag():
        error = (x @ y.T - exact).norm() / exact.norm()
    return bool(error < 1e-6)


def _backend() -> Any:
    backend = getattr(torch.backends.mkldnn, "matmul", None)
    available = torch.backends.mkldnn.is_available() and hasattr(backend, "fp32_precision")
    return backend if available else None


@contextmanager
def _flag() -> Iterator[None]:
    global _depth
    with _lock:
        ours = _depth > 0 or _backend().fp32_precision == UNSET
        if ours:
            _backend().fp32_precision = FAST
            _depth += 1
    try:
        yield
    finally:
        with _lock:
            if ours:
                _depth -= 1
                if _depth == 0:
                    _backend().fp32_precision = UNSET
