"""Whether one representation is a rotation of the other: orthogonal Procrustes."""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib.alignment.rows import (
    centred_unit_norm,
    check_finite,
    check_pair,
    wide_dtype,
    without_autocast,
)


@without_autocast
@torch.no_grad()
def procrustes(x: Tensor, y: Tensor) -> Tensor:
    """How much of one side a rotation of the other, with one shift and one scale, explains.

    x: (N, D), y: (N, E), row i of one the partner of row i of the other. Returns (), float32 or
    wider, between 0 and 1: ||X^T Y||_* / (||X||_F ||Y||_F), X and Y the centred rows and ||.||_*
    the sum of singular values. Its square is 1 less the least squared error of a rotation,
    reflections included, with the best scale, over ||Y||_F^2 (Schoenemann 1966, "A generalized
    solution of the orthogonal Procrustes problem"; as a similarity, Williams et al.,
    arXiv 2110.14739). O(N D E + D E min(D, E)) time.

    Invariant to rotation, shift and scale of either side, and to one order of rows for both; ties
    do not matter. Blind to which rotation it takes; far above 0 for independent rows wherever N is
    not far above D and E. A side whose rows are equal gives 0. Raises ValueError for shapes that
    do not match, integers and numbers that are not finite.
    """
    check_pair(x, y)
    check_finite(x=x, y=y)
    dtype = wide_dtype(x, y)
    (x, _), (y, _) = centred_unit_norm(x, dtype), centred_unit_norm(y, dtype)
    return torch.linalg.svdvals(x.T @ y).sum().clamp_max(1)
