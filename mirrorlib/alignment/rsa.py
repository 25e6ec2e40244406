"""Representational similarity analysis (RSA): whether far pairs are far on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from mirrorlib.alignment.rows import (
    blocks,
    centred_rows,
    check_finite,
    check_pair,
    unit_rows,
    wide_dtype,
    without_autocast,
)

SPEARMAN_ROWS = 8192
"""Most rows whose N (N - 1) / 2 dissimilarities are ranked: about 2 GiB."""


@without_autocast
@torch.no_grad()
def rsa(
    x: Tensor,
    y: Tensor,
    *,
    dissimilarity: Literal["correlation", "euclidean"] = "correlation",
    correlation: Literal["pearson", "spearman"] = "pearson",
) -> Tensor:
    """Correlation, over pairs of rows, of how dissimilar they are in x and in y.

    x: (N, D), y: (N, E), row i of one the partner of row i of the other; N is at least 3. Returns
    () float64, between -1 and 1, about 0 for independent rows (Kriegeskorte et al. 2008,
    "Representational similarity analysis"). dissimilarity: "correlation", 1 less the correlation
    of two rows over their entries, 1 with a row of equal entries; "euclidean", their distance.
    correlation: "pearson" by blocks, O(N^2 D) time and no (N, N) matrix; "spearman" of ranks, of at
    most 8,192 rows, ties ranked at their mean as far as rounding leaves them equal.

    Invariant to one order of rows for both. With "correlation" to scale and shift of each row, not
    to rotation; with "euclidean" to rotation, shift and scale of either side. Spearman's also to
    any increasing function of the dissimilarities. Blind to what distances alone do not tell, and
    led by the many far pairs: near neighbours count little. Where all pairs of a side are equally
    dissimilar up to rounding, 0. Raises ValueError for shapes that do not match, too few rows, too
    many for "spearman", integers, numbers that are not finite and unknown options.
    """
    _check(x, y, dissimilarity, correlation)
    dtype, euclidean = wide_dtype(x, y), dissimilarity == "euclidean"
    x, y = _prepared(x.to(dtype), euclidean), _prepared(y.to(dtype), euclidean)
    pairs: Iterator[tuple[Tensor, Tensor]] = (
        (_dissimilarities(x, block, euclidean), _dissimilarities(y, block, euclidean))
        for block in blocks(len(x) - 1)
    )
    if correlation == "spearman":
        after = [[_after(part) for part in side] for side in zip(*pairs, strict=True)]
        ranked = [_mean_ranks(torch.cat(side))[None] for side in after]
        pairs, dtype = iter([(ranked[0], ranked[1])]), torch.float64
    return _pearson(pairs, len(x) * (len(x) - 1) // 2, 32 * torch.finfo(dtype).eps)


def _check(x: Tensor, y: Tensor, dissimilarity: str, correlation: str) -> None:
    check_pair(x, y)
    if len(x) < 3:
        raise ValueError(f"RSA needs at least 3 rows, not {len(x)}")
    if dissimilarity not in ("correlation", "euclidean"):
        raise ValueError(f"dissimilarity must be correlation or euclidean, not {dissimilarity!r}")
    if correlation not in ("pearson", "spearman"):
        raise ValueError(f"correlation must be pearson or spearman, not {correlation!r}")
    if correlation == "spearman" and len(x) > SPEARMAN_ROWS:
        raise ValueError(
            f"ranks of all pairs fit in memory up to {SPEARMAN_ROWS} rows, not {len(x)}: "
            "use pearson or fewer rows"
        )
    check_finite(x=x, y=y)


def _prepared(x: Tensor, euclidean: bool) -> Tensor:
    """Rows of x: (N, D) whose squared distances are those asked for, or twice them."""
    if euclidean:
        rows, _ = centred_rows(x)
        exponent = torch.frexp(rows.abs().max()).exponent
        return torch.ldexp(rows, -exponent)  # exact, and squares do not overflow
    rows, _ = centred_rows(x.T)
    rounding = torch.finfo(x.dtype).eps * x.shape[1] * x.abs().amax(1)
    flat = torch.linalg.vector_norm(rows, dim=0) <= rounding
    return unit_rows(torch.where(flat[:, None], 0.0, rows.T))


def _dissimilarities(x: Tensor, block: slice, euclidean: bool) -> Tensor:
    """(B, M): of the B rows of the block to all M after the first; nan where not after its own."""
    rows, others = x[block], x[block.start + 1 :]
    if euclidean:
        lengths = rows.square().sum(1, keepdim=True) + others.square().sum(1)
        values = torch.addmm(lengths, rows, others.T, alpha=-2).clamp_min_(0).sqrt_()
    else:
        values = torch.addmm(rows.new_ones(1, 1), rows, others.T, alpha=-1)
    count = len(rows)
    before = torch.ones(count, count, dtype=torch.bool, device=x.device).tril_(-1)
    values[:, :count].masked_fill_(before, torch.nan)
    return values


def _after(values: Tensor) -> Tensor:
    return values[~values.isnan()]


def _pearson(pairs: Iterator[tuple[Tensor, Tensor]], count: int, rounding: float) -> Tensor:
    """Correlation of `count` values that come in parts, (B, M) each, among them nan that do not
    count; sums in float64, of values less the mean of their first row. rounding: deviations, in
    such means, that count as none."""
    origins: tuple[Tensor, Tensor] | None = None
    sums = torch.zeros(5, dtype=torch.float64)
    for d, e in pairs:
        origins = origins or (d[0].mean(), e[0].mean())
        d, e = (d - origins[0]).nan_to_num_(0), (e - origins[1]).nan_to_num_(0)
        products = ((d, d), (d, e), (e, e))
        parts = [d.sum(1), e.sum(1), *(torch.linalg.vecdot(a, b) for a, b in products)]
        sums = sums.to(d.device) + torch.stack(parts).double().sum(1)
    assert origins is not None
    of_d, of_e, dd, de, ee = sums
    dd, de, ee = dd - of_d * of_d / count, de - of_d * of_e / count, ee - of_e * of_e / count
    smallest_d, smallest_e = (count * (rounding * origin.double()) ** 2 for origin in origins)
    if bool((dd <= smallest_d) | (ee <= smallest_e)):
        return torch.zeros_like(de)
    return (de / (dd * ee).sqrt()).clamp(-1, 1)


def _mean_ranks(values: Tensor) -> Tensor:
    """Rank from 1 of each of (M,) values, (M,) float64; equal ones share their ranks' mean."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[place]
