"""Marks for torch.compile, heeded within `marks_heeded` alone: to set torch's own ones takes
seconds, in every process that imports them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])


class _Call:
    """What a marked function calls: itself as written or, while marks are heeded, untraced."""

    def __init__(self, written: Callable[..., Any]) -> None:
        self.written = self.used = written


_calls: list[_Call] = []
_constants: list[Callable[..., Any]] = []


def untraced(function: F) -> F:
    """It, and what it calls, runs as written: it reads strings, or its results' shapes depend on
    values, or processes meet in it."""
    call = _Call(function)
    _calls.append(call)

    @wraps(function)
    def marked(*args: Any, **named: Any) -> Any:
        return call.used(*args, **named)

    return cast(F, marked)


def constant(function: F) -> F:
    """Its result depends on its arguments alone, which are no tensors."""
    _constants.append(function)
    return function


@contextmanager
def marks_heeded() -> Iterator[None]:
    """Within the block torch.compile heeds the marks."""
    for function in _constants:
        torch.compiler.assume_constant_result(function)
    for call in _calls:
        call.used = torch.compiler.disable(call.written)
    try:
        yield
    finally:
        for call in _calls:
            call.used = call.written
