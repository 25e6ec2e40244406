"""How far a representation spreads, over how many dimensions, and how near partners are."""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib.alignment.rows import (
    blocks,
    centred_rows,
    check_pair,
    check_rows,
    unit_rows,
    wide_dtype,
    without_autocast,
)


def effective_rank(x: Tensor) -> Tensor:
    """Exponential of the entropy of the centred rows' singular values, each over their sum.

    x: (N, D). Returns (), float32 or wider, between 1 and min(N - 1, D); 0 where all rows are
    equal up to rounding. Invariant to rotation, shift and scale (Roy and Vetterli 2007,
    "The effective rank", with rows centred so that a common offset does not count). Blind to
    which directions are taken, and to how rows cluster within them.
    """
    rows, rounding = centred_rows(x)
    values = torch.linalg.svdvals(rows)
    values = values[values > rounding]
    if not len(values):
        return rows.new_zeros(())
    share = values / values.sum()
    return torch.special.entr(share).sum().exp()


def scale(x: Tensor) -> Tensor:
    """Root mean square deviation of the entries from their column means.

    x: (N, D). Returns (), float32 or wider, at least 0, in the units of x. Invariant to rotation
    and shift. Blind to how the deviations spread over directions.
    """
    rows, _ = centred_rows(x)
    return rows.square().mean().sqrt()


def alignment(x: Tensor, y: Tensor, *, power: float = 2.0) -> Tensor:
    """Mean distance of partners on the unit sphere, to a power: how far apart positives lie.

    x, y: (N, D), row i of one the partner of row i of the other. Returns (), float32 or wider,
    differentiable: the mean of |x_i / |x_i| - y_i / |y_i||^power, between 0 and 2^power; at power
    2, 2 less twice the mean cosine (Wang and Isola, arXiv 2005.10242, equation 4, alpha the
    power). A row of zeros lies at the centre, at distance 1 from any other.

    Invariant to one rotation of both sides, to the lengths of rows and to one order of rows for
    both; not to a shift. Blind to collapse: 0 where all rows are equal; read it beside
    `uniformity`. Raises ValueError for shapes that differ, integers and a power that is not above
    0; below power 1 coinciding partners have no finite gradient.
    """
    check_pair(x, y, one_width=True)
    if not power > 0:
        raise ValueError(f"power must be above 0, not {power}")
    dtype = wide_dtype(x, y)
    squares = (unit_rows(x, dtype) - unit_rows(y, dtype)).square().sum(1)
    if power == 2:
        return squares.mean()
    apart = squares > 0
    return torch.where(apart, torch.where(apart, squares, 1.0) ** (power / 2), 0.0).mean()


@without_autocast
def uniformity(x: Tensor, *, t: float = 2.0) -> Tensor:
    """Logarithm of the mean Gaussian potential of pairs on the unit sphere: less is more uniform.

    x: (N, D), N at least 2. Returns (), float32 or wider, differentiable: log of the mean over
    pairs i < j of exp(-t |x_i / |x_i| - x_j / |x_j||^2), between -4 t and 0; 0 where all rows point
    one way, about -2 t for rows drawn uniformly in many dimensions (Wang and Isola,
    arXiv 2005.10242, equation 5). A row of zeros lies at the centre. By blocks: O(N^2 D) time, and
    no (N, N) matrix unless a gradient is asked for.

    Invariant to rotation, to the lengths of rows and to their order; not to a shift. Blind to what
    the rows mean: independent noise is uniform. Raises ValueError for another shape, integers,
    fewer than 2 rows and a t that is not above 0.
    """
    check_rows(x)
    if len(x) < 2 or not t > 0:
        raise ValueError(f"uniformity needs at least 2 rows and t above 0, not {len(x)} and {t}")
    x = unit_rows(x)
    own, parts = -t * x.square().sum(1), []
    for block in blocks(len(x) - 1):
        others = slice(block.start + 1, len(x))
        exponents = torch.addmm(own[block, None] + own[others], x[block], x[others].T, alpha=2 * t)
        count = len(exponents)
        before = torch.ones(count, count, dtype=torch.bool, device=x.device).tril_(-1)
        exponents = exponents.clamp_max(0)
        exponents[:, :count].masked_fill_(before, -torch.inf)
        parts.append(exponents.logsumexp((0, 1)))
    pairs = len(x) * (len(x) - 1) / 2
    return torch.stack(parts).logsumexp(0) - torch.tensor(pairs, dtype=x.dtype).log()
