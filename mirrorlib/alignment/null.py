"""What a measure gives for rows that are not partners: a permutation null."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Null:
    """A measure's value beside those it takes when the rows of one side are permuted.

    observed: of the rows as they are. mean, deviation (n - 1), quantile_95: of the permuted.
    p_value: (1 + how many permuted are at least the observed) / (1 + permutations), so never 0.
    """

    observed: float
    mean: float
    deviation: float
    quantile_95: float
    p_value: float


@torch.no_grad()
def permutation_null(
    metric: Callable[[Tensor, Tensor], Tensor | float],
    x: Tensor,
    y: Tensor,
    *,
    permutations: int = 200,
    generator: torch.Generator | None = None,
) -> Null:
    """How far `metric(x, y)` lies above what it is for rows whose partners are drawn at random.

    x: (N, D), y: (N, E), row i of one the partner of row i of the other; permutations: at least 2.
    metric: any measure of this package that returns one number and is larger for more alike rows
    (negate one that is smaller). Measures with a bias (biased CKA, SVCCA, Procrustes, R^2) are
    above 0 for independent rows, the more so the wider the representations: only the distance to
    this null tells whether rows agree (arXiv 2602.14486). generator, on the CPU, draws the
    permutations of the rows of y; None: torch's own.

    Costs permutations + 1 times the measure. The p-value is exact where the rows are
    exchangeable: draw one row of each group that belongs together. An observed value that is nan
    has p-value 1. Raises ValueError for sides of different length and fewer than 2 permutations.
    """
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
        raise ValueError(
            f"x and y must have shapes (N, D) and (N, E), not {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if permutations < 2:
        raise ValueError(f"permutations must be at least 2, not {permutations}")
    observed = float(metric(x, y))
    values = torch.empty(permutations, dtype=torch.float64)
    for i in range(permutations):
        order = torch.randperm(len(y), generator=generator).to(y.device)
        values[i] = float(metric(x, y[order]))
    reached = int((~(values < observed)).sum())
    return Null(
        observed=observed,
        mean=float(values.mean()),
        deviation=float(values.std()),
        quantile_95=float(values.quantile(0.95)),
        p_value=(1 + reached) / (1 + permutations),
    )
