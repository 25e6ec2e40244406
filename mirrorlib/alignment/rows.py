"""What the measures share: checks, widening, centring, unit rows, blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

BLOCK_ROWS = 512
BLOCK_ENTRIES = 2**24
"""Rows whose similarities with all N rows are held at a time, and how many similarities at most."""

TIED = 8
"""Machine epsilons within which cosines are held to be equal."""

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(measure: Callable[P, R]) -> Callable[P, R]:
    """`measure` with autocast off, so that matrix products are not taken in half precision."""

    @wraps(measure)
    def measured(*args: P.args, **kwargs: P.kwargs) -> R:
        given = (*args, *kwargs.values())
        device = next((arg.device.type for arg in given if isinstance(arg, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return measure(*args, **kwargs)

    return measured


def check_pair(x: Tensor, y: Tensor, *, one_width: bool = False) -> None:
    """Raises ValueError unless x: (N, D) and y: (N, E) floats; D = E where `one_width`."""
    wide = not one_width or x.shape == y.shape
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not (x.numel() and y.numel() and wide):
        wanted = "one shape (N, D)" if one_width else "shapes (N, D) and (N, E)"
        raise ValueError(f"x and y must have {wanted}, not {tuple(x.shape)} and {tuple(y.shape)}")
    check_floats(x=x, y=y)


def check_rows(x: Tensor) -> None:
    """Raises ValueError unless x: (N, D) floats."""
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"x must have shape (N, D), not {tuple(x.shape)}")
    check_floats(x=x)


def check_floats(**sides: Tensor) -> None:
    """Raises ValueError, naming the side, for tensors that are not of floating point."""
    for name, rows in sides.items():
        if not rows.is_floating_point():
            raise ValueError(f"{name} must be of floating point, not {rows.dtype}")


def check_finite(**sides: Tensor) -> None:
    """Raises ValueError, naming the side and its first such row, where numbers are not finite."""
    for name, rows in sides.items():
        wrong = (~rows.isfinite().all(1)).nonzero()
        if len(wrong):
            raise ValueError(
                f"{name} is not finite in {len(wrong)} of {len(rows)} rows, first {int(wrong[0])}"
            )


def wide_dtype(*rows: Tensor) -> torch.dtype:
    """What to compute in: the widest of their dtypes, at least float32."""
    dtype = torch.float32
    for each in rows:
        dtype = torch.promote_types(dtype, each.dtype)
    return dtype


def blocks(count: int) -> Iterator[slice]:
    """Slices that cover `count` rows in order, of rows that may each be held against all rows."""
    size = max(1, min(BLOCK_ROWS, BLOCK_ENTRIES // count))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def unit_rows(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Rows of x: (N, D) at length 1, in `dtype` (float32 or wider); a row of zeros stays zero and
    has no gradient."""
    x = x.to(dtype or wide_dtype(x))
    lengths = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    none = lengths == 0
    return torch.where(none, 0.0, x / torch.where(none, 1.0, lengths))


def column_means(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(2, D): the mean of x: (N, D), and the mean that rounding leaves once the first is off."""
    x = x.to(dtype)
    mean = x.mean(0)
    return torch.stack([mean, (x - mean).mean(0)])


def centred_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows less their mean, and the largest norm that rounding alone leaves where they are equal.

    x: (N, D). Returns (N, D) and (), float32 or wider. The mean is taken off twice: the second
    takes what rounding left of a large common offset. Raises ValueError for other shapes.
    """
    check_rows(x)
    x = x.to(wide_dtype(x))
    rows = x - x.mean(0)
    rounding = torch.finfo(x.dtype).eps * max(x.shape) * x.detach().abs().max()
    rows -= rows.mean(0)
    return rows, rounding


def centred_unit_norm(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Centred rows of x: (N, D) over their Frobenius norm, and the norm, ().

    The norm is infinite, and the rows zeros, where they are rounding alone.
    """
    rows, rounding = centred_rows(x.to(dtype))
    norm = torch.linalg.matrix_norm(rows)
    norm = torch.where(norm <= rounding, torch.inf, norm)
    return rows.div_(norm), norm
