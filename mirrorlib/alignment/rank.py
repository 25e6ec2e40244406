"""How many dimensions a representation uses."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(x: Tensor) -> Tensor:
    """Exponential of the entropy of the centred rows' singular values, each over their sum.

    x: (N, D). Returns (), float32 or wider, between 1 and min(N - 1, D); 0 where all rows are
    equal up to rounding. Invariant to rotation, shift and scale (Roy and Vetterli 2007,
    "The effective rank", with rows centred so that a common offset does not count).
    """
    if x.ndim != 2 or not len(x):
        raise ValueError(f"x must have shape (N, D), not {tuple(x.shape)}")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    values = torch.linalg.svdvals(x - x.mean(0))
    rounding = torch.finfo(x.dtype).eps * max(x.shape) * x.abs().max()
    values = values[values > rounding]
    if not len(values):
        return x.new_zeros(())
    share = values / values.sum()
    return torch.special.entr(share).sum().exp()
