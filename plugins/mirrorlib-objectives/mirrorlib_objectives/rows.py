"""Rows of unit length and products row by row, by hand: no temporary is larger than a tile."""

from __future__ import annotations

import torch
from torch import Tensor

from mirrorlib_objectives.tiles import spans

SMALLEST_NORM = 1e-12
"""A row that is shorter counts as zero."""


def to_unit(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows of x: (B, Z) scaled to length 1 in `dtype`, and their inverse lengths, (B, 1).

    A row of zeros stays zero, and its inverse length is 0.
    """
    unit = x.detach().to(dtype, copy=True)
    norm = torch.linalg.vector_norm(unit, dim=1, keepdim=True)
    inverse = torch.where(norm > SMALLEST_NORM, 1 / norm, 0.0)
    return unit.mul_(inverse), inverse


def to_unit_backward(gradient: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """From the gradient of unit rows to that of the rows, (B, Z), in the same memory."""
    gradient.addcmul_(unit, row_dots(gradient, unit)[:, None], value=-1)
    return gradient.mul_(inverse)


def row_dots(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of matching rows of x, y: (B, Z). Returns (B,)."""
    dots = x.new_empty(len(x))
    for rows in spans(len(x)):
        dots[rows] = (x[rows] * y[rows]).sum(1)
    return dots
