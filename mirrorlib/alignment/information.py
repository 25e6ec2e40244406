"""Mutual information between two representations, bounded from below."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mirrorlib.alignment.rows import blocks, check_pair, unit_rows, wide_dtype, without_autocast


@without_autocast
def mutual_information_bound(x: Tensor, y: Tensor, temperature: float = 0.1) -> Tensor:
    """log N minus the bidirectional InfoNCE of matching rows, in nats.

    x, y: (N, D), row i of one the partner of row i of the other, and all N pairs drawn
    independently: no two of one instruction. Returns (), float32 or wider, differentiable. In
    expectation a lower bound on I(x; y), and at most log N, so that values compare only at equal N
    (van den Oord et al., arXiv 1807.03748, section 2.3). By blocks: O(N^2 D) time, and no (N, N)
    matrix unless a gradient is asked for.

    Invariant to one rotation of both sides, to the lengths of rows and to one order of rows for
    both; not to a shift. Blind to information beyond log N and to what cosine at this temperature
    does not read. Raises ValueError for shapes that differ, integers and a temperature that is not
    above 0.
    """
    check_pair(x, y, one_width=True)
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    dtype = wide_dtype(x, y)
    x, y = unit_rows(x, dtype) / temperature, unit_rows(y, dtype)
    by_rows, by_columns = [], []
    for block in blocks(len(x)):
        logits = x[block] @ y.T
        by_rows.append(logits.logsumexp(1))
        by_columns.append(logits.logsumexp(0))
    columns = by_columns[0]
    for part in by_columns[1:]:
        columns = torch.logaddexp(columns, part)
    normalisers = (torch.cat(by_rows) + columns) / 2
    return math.log(len(x)) - (normalisers - (x * y).sum(1)).mean()
