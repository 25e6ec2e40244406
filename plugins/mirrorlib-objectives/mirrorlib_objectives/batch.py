"""What row-wise objectives share: checked rows, gathered and unified in precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mirrorlib.interfaces import World


@dataclass(frozen=True)
class Batch:
    """u, e: (N, Z) of all processes, float32 or wider. labels: (N,) int64 or None.

    rows: the own rows' place among the N. weight: W / N, which makes the mean over processes of
    sums over own rows the mean over all rows.
    """

    u: Tensor
    e: Tensor
    labels: Tensor | None
    rows: slice
    weight: float


def gather_batch(u: Tensor, e: Tensor, labels: Tensor | None, world: World | None) -> Batch:
    """Check the own rows u, e: (B, Z) and labels: (B,), and gather all processes' rows.

    Call it with autocast off. Raises ValueError for shapes that do not match, tensors that are
    not floating point, and batches without rows.
    """
    _check(u, e, labels)
    rows, total, size = slice(0, len(u)), len(u), 1
    if world is not None:
        u, e, labels = world.u, world.e, None if labels is None else world.labels
        rows, total, size = world.rows, world.total, world.size
    if total == 0:
        raise ValueError(f"no rows to align: u has shape {tuple(u.shape)}")
    dtype = torch.promote_types(torch.promote_types(u.dtype, e.dtype), torch.float32)
    return Batch(u.to(dtype), e.to(dtype), labels, rows, size / total)


def unit_rows(x: Tensor) -> Tensor:
    """Rows of x: (N, Z) scaled to length 1. A row of zeros stays zero and gets no gradient."""
    norm = x.norm(dim=1, keepdim=True)
    smallest = 1e-12
    return torch.where(norm > smallest, x / norm.clamp_min(smallest), 0.0)


def _check(u: Tensor, e: Tensor, labels: Tensor | None) -> None:
    for side, x in (("u", u), ("e", e)):
        if x.ndim != 2:
            raise ValueError(f"{side} must have shape (B, Z), not {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"{side} must be floating point, not {x.dtype}")
    if u.shape != e.shape:
        raise ValueError(
            f"u and e must have the same shape, not {tuple(u.shape)} and {tuple(e.shape)}"
        )
    if labels is not None and (labels.dtype != torch.int64 or labels.shape != u.shape[:1]):
        raise ValueError(
            f"labels must be int64 of shape ({len(u)},), "
            f"not {labels.dtype} of shape {tuple(labels.shape)}"
        )
