"""CKA of Gaussian kernels, by blocks of rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mirrorlib.alignment.rows import blocks, centred_rows, wide_dtype

MEDIAN_ROWS = 2048
"""Rows whose pairs give the median distance; of more rows, as many spaced evenly."""
EQUAL = 32
"""Machine epsilons within which squared distances, in medians, are held to be equal."""


def rbf_cka(x: Tensor, y: Tensor, debiased: bool, bandwidth: float) -> Tensor:
    """`cka` of x: (N, D) and y: (N, E) with the Gaussian kernel, whose arguments it has checked.

    With K, M the kernel matrices, k, m their row sums and, debiased, no diagonal, h(X, Y) is

    - biased (tr of K H M H, H the centring matrix): <K, M> - 2 / N k.m + sum k sum m / N^2
    - debiased: <K, M> - 2 / (N - 2) k.m + sum k sum m / ((N - 1) (N - 2)),

    summed in float64. Neither changes where a constant is taken off the kernel: its value at the
    median distance is, so that what is left is not the difference of large sums.
    """
    dtype, count = wide_dtype(x, y), len(x)
    (x, differ_x), (y, differ_y) = _in_medians(x.to(dtype)), _in_medians(y.to(dtype))
    sums = []
    totals = x.new_zeros(3, dtype=torch.float64)
    for block in blocks(count):
        k, m = (_kernel(rows, block, bandwidth, debiased) for rows in (x, y))
        products = (torch.linalg.vecdot(a, b) for a, b in ((k, k), (k, m), (m, m)))
        totals = totals + torch.stack([rows.double().sum() for rows in products])
        sums.append(torch.stack([k.sum(1, dtype=torch.float64), m.sum(1, dtype=torch.float64)]))
    k, m = torch.cat(sums, 1)
    inner = torch.stack([k @ k, k @ m, m @ m])
    outer = torch.stack([k.sum() * k.sum(), k.sum() * m.sum(), m.sum() * m.sum()])
    first, second = 2 / count, 1 / count**2
    if debiased:
        first, second = 2 / (count - 2), 1 / ((count - 1) * (count - 2))
    xx, xy, yy = totals - first * inner + second * outer
    smallest = _rounding(count, dtype, bandwidth)
    collapsed = ~differ_x | ~differ_y | (xx <= smallest) | (yy <= smallest)
    norm = torch.where(collapsed, 1.0, xx).sqrt() * torch.where(collapsed, 1.0, yy).sqrt()
    return torch.where(collapsed, 0.0, xy / norm).to(dtype)


def _in_medians(x: Tensor) -> tuple[Tensor, Tensor]:
    """Centred rows of x: (N, D) over the median distance of those that differ; whether any do."""
    rows, rounding = centred_rows(x)
    with torch.no_grad():
        chosen = rows
        if len(rows) > MEDIAN_ROWS:
            chosen = rows[torch.linspace(0, len(rows) - 1, MEDIAN_ROWS).long()]
        lengths = chosen.square().sum(1)
        lengths = lengths[:, None] + lengths
        squares = torch.addmm(lengths, chosen, chosen.T, alpha=-2)
        equal = squares <= EQUAL * torch.finfo(x.dtype).eps * lengths
        squares = squares[(~equal).triu_(1)]
        differ = torch.tensor(len(squares) > 0).to(x.device)
        differ &= ~(torch.linalg.matrix_norm(rows) <= rounding)
        median = squares.median().sqrt() if len(squares) else rows.new_ones(())
    return torch.where(differ, rows / median, 0.0), differ


def _kernel(x: Tensor, block: slice, bandwidth: float, debiased: bool) -> Tensor:
    """Rows `block` of the kernel matrix of x: (N, D), less its value at distance 1.

    Its diagonal is that of the kernel where it is to count, and 0 where it is not.
    """
    sharpness = 0.5 / bandwidth**2
    at_median, lengths = math.exp(-sharpness), -sharpness * x.square().sum(1)
    of_pairs = lengths[block, None] + (lengths + sharpness)
    exponents = torch.addmm(of_pairs, x[block], x.T, alpha=2 * sharpness)
    kernel = exponents.clamp_max(sharpness).expm1() * at_median
    own = torch.arange(block.start, block.stop, device=x.device)
    kernel[own - block.start, own] = 0.0 if debiased else 1 - at_median
    return kernel


def _rounding(count: int, dtype: torch.dtype, bandwidth: float) -> float:
    """h of kernels whose values differ by rounding alone."""
    deviation = EQUAL * torch.finfo(dtype).eps * math.exp(-0.5 / bandwidth**2) / bandwidth**2
    return (count * deviation) ** 2
