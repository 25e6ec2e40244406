"""What objectives share: checked rows, unified in precision, of one process or of all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mirrorlib.errors import NotFinite
from mirrorlib.interfaces import World
from mirrorlib_objectives.rows import SMALLEST_NORM


@dataclass(frozen=True)
class Batch:
    """u, e: (N, Z) of all processes, float32 or wider. rows: the own rows' place among the N.
    weight: W / N, which makes the mean over processes of sums over own rows the mean over all."""

    u: Tensor
    e: Tensor
    rows: slice
    weight: float


def gather_batch(
    u: Tensor, e: Tensor, labels: Tensor | None, world: World | None, minimum: tuple[str, int]
) -> Batch:
    """Check the own rows u, e: (B, Z) and labels: (B,), and gather u and e of all processes.

    Call it with autocast off. Raises ValueError as `check_batch` does.
    """
    dtype, weight = check_batch(u, e, labels, world, minimum=minimum)
    if world is None:
        return Batch(u.to(dtype), e.to(dtype), slice(0, len(u)), weight)
    return Batch(world.u.to(dtype), world.e.to(dtype), world.rows, weight)


def check_batch(
    u: Tensor,
    e: Tensor,
    labels: Tensor | None,
    world: World | None,
    *,
    levels: bool = False,
    minimum: tuple[str, int] = ("", 1),
) -> tuple[torch.dtype, float]:
    """What the own rows u, e: (B, Z) are computed in, and the weight W / N of each.

    labels: (B,) int64, or (B, 3) where `levels`, or None. minimum: an objective's name and how
    many rows of all processes it needs. Raises ValueError for shapes that do not match, tensors
    that are not floating point, numbers that are not finite (`NotFinite`; on a GPU, where looking
    would stall it, only under `torch.autograd.set_detect_anomaly`) and batches with too few rows.
    The process that holds a row that is not finite raises; those that wait for it end with it.
    """
    for side, x in (("u", u), ("e", e)):
        if x.ndim != 2 or not x.shape[1]:
            raise ValueError(f"{side} must have shape (B, Z), not {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"{side} must be floating point, not {x.dtype}")
    if u.shape != e.shape or u.device != e.device:
        raise ValueError(
            f"u and e must have the same shape on one device, not {tuple(u.shape)} on {u.device} "
            f"and {tuple(e.shape)} on {e.device}"
        )
    _check_labels(labels, (len(u), 3) if levels else (len(u),), u.device)
    size, total = (1, len(u)) if world is None else (world.size, world.total)
    if total == 0:
        raise ValueError(f"no rows to align: u has shape {tuple(u.shape)}")
    if total < minimum[1]:
        raise ValueError(f"{minimum[0]} needs at least {minimum[1]} rows to align, not {total}")
    for side, x in (("u", u), ("e", e)):
        if x.device.type == "cpu" or torch.is_anomaly_enabled():
            _check_finite(side, x)
    return torch.promote_types(torch.promote_types(u.dtype, e.dtype), torch.float32), size / total


def unit_rows(x: Tensor) -> Tensor:
    """Rows of x: (N, Z) scaled to length 1. A row of zeros stays zero and gets no gradient."""
    norm = x.norm(dim=1, keepdim=True)
    return torch.where(norm <= SMALLEST_NORM, 0.0, x / norm.clamp_min(SMALLEST_NORM))


def _check_labels(labels: Tensor | None, shape: tuple[int, ...], device: torch.device) -> None:
    if labels is not None and (labels.dtype != torch.int64 or labels.shape != shape):
        raise ValueError(
            f"labels must be int64 of shape {shape}, "
            f"not {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if labels is not None and labels.device != device:
        raise ValueError(f"labels must be on {device} as u and e are, not on {labels.device}")


def _check_finite(side: str, x: Tensor) -> None:
    if x.detach().sum(dtype=torch.promote_types(x.dtype, torch.float32)).isfinite():
        return
    rows = (~x.isfinite().all(1)).nonzero()
    if len(rows):  # else the sum alone has overflowed
        raise NotFinite(f"{side}: row {int(rows[0])} of {len(x)} is not finite")
