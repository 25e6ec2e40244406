"""Canonical correlations between two representations: SVCCA and PWCCA."""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib.alignment.rows import centred_rows, check_finite, check_pair, without_autocast


@without_autocast
@torch.no_grad()
def svcca(x: Tensor, y: Tensor, variance: float = 0.99) -> Tensor:
    """Mean canonical correlation of the directions that hold most variance.

    x: (N, D), y: (N, E), row i of one the partner of row i of the other. variance: of each side as
    few principal directions are kept as hold this share, in (0, 1]. Returns () float64, between 0
    and 1: the mean of the min(kept of x, kept of y) correlations (Raghu et al., arXiv 1706.05806).
    O(N D min(N, D)) time.

    Invariant to rotation, shift and scale of either side, and to one order of rows for both; at
    variance 1 to any invertible linear map. Blind to how much variance a kept direction holds:
    noise counts as signal does. Near 1 for independent rows where N is not far above the kept
    directions, and 1 where N - 1 is not above them: read it beside its permutation null. A side
    whose rows are equal gives 0. Raises ValueError for shapes that do not match, integers, numbers
    that are not finite and a variance outside (0, 1].
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance must be above 0 and at most 1, not {variance}")
    (u, _, _), (w, _, _) = _directions(x, y, variance)
    if not (u.shape[1] and w.shape[1]):
        return u.new_zeros(())
    return torch.linalg.svdvals(u.T @ w).clamp_max(1).mean()


@without_autocast
@torch.no_grad()
def pwcca(x: Tensor, y: Tensor) -> Tensor:
    """Canonical correlations weighted by how much of x their directions account for.

    x: (N, D), y: (N, E), row i of one the partner of row i of the other. Returns () float64,
    between 0 and 1: sum_i a_i rho_i / sum_i a_i with a_i = sum_j |<h_i, x_j>|, h_i the canonical
    variates of x and x_j its centred columns (Morcos et al., arXiv 1806.05759). Not symmetric.
    O(N D min(N, D)) time.

    Invariant to rotation, shift and scale of y and any invertible linear map of it, to shift,
    scale and signs of the columns of x, not to its rotation, and to one order of rows for both.
    Near 1 for independent rows where N is not far above D and E. A side whose rows are equal gives
    0. Raises ValueError for shapes that do not match, integers and numbers that are not finite.
    """
    (u, values, v), (w, _, _) = _directions(x, y, 1.0)
    if not (u.shape[1] and w.shape[1]):
        return u.new_zeros(())
    variates, correlations, _ = torch.linalg.svd(u.T @ w, full_matrices=False)
    weights = ((variates.T * values) @ v).abs().sum(1)
    return weights @ correlations.clamp_max(1) / weights.sum()


def _directions(x: Tensor, y: Tensor, variance: float) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each side's centred rows the thin SVD, (N, K), (K,) and (K, D) float64, of the least K
    that holds `variance`; K = 0 where the rows are equal."""
    check_pair(x, y)
    check_finite(x=x, y=y)
    directions = []
    for side in (x, y):
        rows, rounding = centred_rows(side)
        u, values, v = torch.linalg.svd(rows.double(), full_matrices=False)
        above = values > rounding
        share = values.square().cumsum(0) / values.square().sum()
        before = torch.cat([share.new_zeros(1), share[:-1]])
        kept = above & (before < variance)
        directions.append((u[:, kept], values[kept], v[kept]))
    return directions
