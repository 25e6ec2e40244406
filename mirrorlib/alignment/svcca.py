"""Canonical correlations between two representations: SVCCA and PWCCA."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mirrorlib.alignment.rows import (
    blocks,
    check_finite,
    check_pair,
    column_means,
    wide_dtype,
    without_autocast,
)


@without_autocast
@torch.no_grad()
def svcca(x: Tensor, y: Tensor, variance: float = 0.99) -> Tensor:
    """Mean canonical correlation of the directions that hold most variance.

    x: (N, D), y: (N, E), row i of one the partner of row i of the other. variance: of each side as
    few principal directions are kept as hold this share, in (0, 1]. Returns () float64, between 0
    and 1: the mean of the min(kept of x, kept of y) correlations (Raghu et al., arXiv 1706.05806).
    O(N D^2) time by blocks of rows, (D, D) memory.

    Invariant to rotation, shift and scale of either side, and to one order of rows for both; at
    variance 1 to any invertible linear map. Blind to how much variance a kept direction holds:
    noise counts as signal does. Near 1 for independent rows where N is not far above the kept
    directions, and 1 where N - 1 is not above them: read it beside its permutation null. A side
    whose rows are equal gives 0. Raises ValueError for shapes that do not match, integers, numbers
    that are not finite and a variance outside (0, 1].
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance must be above 0 and at most 1, not {variance}")
    of_x, of_y = _pair(x, y, variance)
    if not (len(of_x.values) and len(of_y.values)):
        return of_x.values.new_zeros(())
    return torch.linalg.svdvals(_cross(x, of_x, y, of_y)).clamp_max(1).mean()


@without_autocast
@torch.no_grad()
def pwcca(x: Tensor, y: Tensor) -> Tensor:
    """Canonical correlations weighted by how much of x their directions account for.

    x: (N, D), y: (N, E), row i of one the partner of row i of the other. Returns () float64,
    between 0 and 1: sum_i a_i rho_i / sum_i a_i with a_i = sum_j |<h_i, x_j>|, h_i the canonical
    variates of x and x_j its centred columns (Morcos et al., arXiv 1806.05759). Not symmetric.
    O(N D^2) time by blocks of rows, (D, D) memory.

    Invariant to rotation, shift and scale of y and any invertible linear map of it, to shift,
    scale and signs of the columns of x, not to its rotation, and to one order of rows for both.
    Near 1 for independent rows where N is not far above D and E. A side whose rows are equal gives
    0. Raises ValueError for shapes that do not match, integers and numbers that are not finite.
    """
    of_x, of_y = _pair(x, y, 1.0)
    if not (len(of_x.values) and len(of_y.values)):
        return of_x.values.new_zeros(())
    variates, correlations, _ = torch.linalg.svd(_cross(x, of_x, y, of_y), full_matrices=False)
    weights = ((variates.T * of_x.values) @ of_x.directions).abs().sum(1)
    return weights @ correlations.clamp_max(1) / weights.sum()


class Principal(NamedTuple):
    """Singular values (K,) and directions (K, D) of centred rows, float64, and the rows' means."""

    values: Tensor
    directions: Tensor
    means: Tensor


def _pair(x: Tensor, y: Tensor, variance: float) -> tuple[Principal, Principal]:
    check_pair(x, y)
    check_finite(x=x, y=y)
    return _principal(x, variance), _principal(y, variance)


def _principal(x: Tensor, variance: float) -> Principal:
    """Of the least K directions that hold `variance`; K = 0 where the rows of x: (N, D) are equal.

    From the R of a QR decomposition that takes up block after block, so that (D, D) is held.
    """
    means = column_means(x, torch.float64)
    factor = means.new_zeros(0, x.shape[1])
    for block in blocks(len(x)):
        factor = torch.linalg.qr(torch.cat([factor, _centred(x[block], means)]), mode="r").R
    _, values, directions = torch.linalg.svd(factor, full_matrices=False)
    rounding = torch.finfo(wide_dtype(x)).eps * max(x.shape) * x.abs().max()
    share = values.square().cumsum(0) / values.square().sum()
    before = torch.cat([share.new_zeros(1), share[:-1]])
    kept = (values > rounding) & (before < variance)
    return Principal(values[kept], directions[kept], means)


def _cross(x: Tensor, of_x: Principal, y: Tensor, of_y: Principal) -> Tensor:
    """Inner products of the rows' principal variates, each of length 1: (K of x, K of y)."""
    product = x.new_zeros(len(of_x.values), len(of_y.values), dtype=torch.float64)
    for block in blocks(len(x)):
        left, right = (
            _centred(rows[block], of.means) @ (of.directions.T / of.values)
            for rows, of in ((x, of_x), (y, of_y))
        )
        product.addmm_(left.T, right)
    return product


def _centred(rows: Tensor, means: Tensor) -> Tensor:
    return rows.double() - means[0] - means[1]
