"""Statistics of columns, for objectives that look at dimensions rather than at rows."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_columns(x: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of x: (N, Z), centred and scaled to length 1, and which of them are constant.

    Returns (N, Z) and (Z,) bool. A column whose entries differ by no more than 16 units of
    rounding of the largest is constant: zero, and without gradient.
    """
    rows = x - x.mean(0)
    with torch.no_grad():
        largest = rows.abs().amax(0)
        constant = largest <= 16 * torch.finfo(x.dtype).eps * x.abs().amax(0)
        scale = torch.where(constant, 1.0, largest)  # keeps squares from over- and underflow
    rows = torch.where(constant, 0.0, rows / scale)
    length = torch.where(constant, 1.0, rows.square().sum(0)).sqrt()
    return rows / length, constant


def off_diagonal_square(x: Tensor, y: Tensor) -> Tensor:
    """Sum of the squares of x^T y (Z, Z) off its diagonal. x, y: (N, Z). Returns ().

    ||x^T y||_F^2 is the inner product of x x^T and y y^T (N, N), too, which cost less where N is
    below half of Z. Of x = y with columns of one length the diagonal is at most half of it there,
    so that little cancels.
    """
    count, width = x.shape
    if 2 * count < width:
        of_x = x @ x.T
        of_y = of_x if y is x else y @ y.T
        diagonal = (x * y).sum(0)
        return ((of_x * of_y).sum() - diagonal.square().sum()).clamp_min(0)
    product = x.T @ y
    after_diagonal = product.flatten()[1:].view(width - 1, width + 1)
    return after_diagonal[:, :-1].square().sum()
