"""How much of one representation a linear map of the other predicts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mirrorlib.alignment.rows import (
    blocks,
    check_finite,
    check_pair,
    column_means,
    without_autocast,
)

TEST_EVERY = 5
"""Where no test rows are given, every fifth row is one."""


@without_autocast
@torch.no_grad()
def linear_r2(
    x: Tensor,
    y: Tensor,
    *,
    ridge: float = 1e-3,
    test: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Share of the variance of y that the best affine map of x predicts on rows it has not seen.

    x: (N, D), y: (N, E), row i of one the partner of row i of the other. test: rows x: (M, D) and
    y: (M, E) to predict, the map being fitted to all N; None: of the N, the fifth, tenth and so on
    are predicted (N is at least 5; give your own where rows that belong together lie on both
    sides). Passing x and y themselves as test gives the in-sample value, which is optimistic: 1
    for independent rows wherever N - 1 <= D. ridge: added to the variances of x along its principal
    directions, in means of them; at 0 the least map of those that fit best.

    Returns () float64, at most 1 and below 0 where the map does worse than the mean of y over the
    rows it was fitted to: 1 - sum |y - predicted|^2 / sum |y - mean|^2, over all entries. Not
    symmetric. Invariant to rotation, shift and scale of either side, to the order of the fitted
    rows; at ridge 0 with N > D to any invertible linear map of x. Blind to directions of y that
    hold little variance, and to directions of x that y does not need. 0 where y has no variance on
    the test rows or x none. O(N D (D + E)) time in float64, D x D memory. Raises ValueError for
    shapes that do not match, integers, numbers that are not finite, too few rows, a ridge below 0.
    """
    check_pair(x, y)
    check_finite(x=x, y=y)
    if not 0 <= ridge < math.inf:
        raise ValueError(f"ridge must be finite and at least 0, not {ridge}")
    if test is None:
        if len(x) < TEST_EVERY:
            raise ValueError(f"linear_r2 needs at least {TEST_EVERY} rows or test, not {len(x)}")
        held_out = torch.arange(1, len(x) + 1, device=x.device) % TEST_EVERY == 0
        test = x[held_out], y[held_out]
        x, y = x[~held_out], y[~held_out]
    _check_test(x, y, *test)
    means_x, means_y = column_means(x, torch.float64), column_means(y, torch.float64)
    weights = _fit(x, y, means_x, means_y, ridge)
    missed, total = torch.zeros(2, dtype=torch.float64, device=x.device)
    for block in blocks(len(test[0])):
        wanted = _less(test[1][block], means_y)
        missed += (wanted - _less(test[0][block], means_x) @ weights).square().sum()
        total += wanted.square().sum()
    rounding = (torch.finfo(y.dtype).eps * test[1].abs().max().double()).square()
    without = (total <= rounding * test[1].numel()) | ~weights.any()
    return torch.where(without, 0.0, 1 - missed / total)


def _check_test(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> None:
    if len(x_test) != len(y_test) or (x_test.shape[1:], y_test.shape[1:]) != (
        x.shape[1:],
        y.shape[1:],
    ):
        raise ValueError(
            f"test must have shapes (M, {x.shape[1]}) and (M, {y.shape[1]}), "
            f"not {tuple(x_test.shape)} and {tuple(y_test.shape)}"
        )
    check_pair(x_test, y_test)
    check_finite(x_test=x_test, y_test=y_test)


def _fit(x: Tensor, y: Tensor, means_x: Tensor, means_y: Tensor, ridge: float) -> Tensor:
    """(D, E) float64; zeros where the rows of x are equal."""
    of_xx = means_x.new_zeros(x.shape[1], x.shape[1])
    of_xy = means_x.new_zeros(x.shape[1], y.shape[1])
    for block in blocks(len(x)):
        rows = _less(x[block], means_x)
        of_xx.addmm_(rows.T, rows)
        of_xy.addmm_(rows.T, _less(y[block], means_y))
    variances, directions = torch.linalg.eigh(of_xx)
    eps, largest = torch.finfo(torch.float64).eps, variances[-1]
    offset = torch.finfo(x.dtype).eps * x.abs().max().double()
    above = (variances > max(x.shape) * eps * largest) & (largest > len(x) * offset.square())
    inverse = torch.where(above, 1 / (variances + ridge * variances.mean()), 0.0)
    return (directions * inverse) @ (directions.T @ of_xy)


def _less(rows: Tensor, means: Tensor) -> Tensor:
    return rows.double() - means[0] - means[1]
