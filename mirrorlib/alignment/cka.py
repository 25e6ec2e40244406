"""Centred kernel alignment (CKA), linear and Gaussian, of one batch or of many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from mirrorlib.alignment.cka_linear import LinearCKA, debiased_terms
from mirrorlib.alignment.cka_rbf import rbf_cka
from mirrorlib.alignment.rows import centred_unit_norm, check_pair, wide_dtype, without_autocast


@without_autocast
def cka(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Literal["linear", "rbf"] = "linear",
    debiased: bool = True,
    bandwidth: float = 1.0,
) -> Tensor:
    """How alike the similarities among the rows of x are to those among the rows of y.

    x: (N, D), y: (N, E), row i of one the partner of row i of the other. Returns (), float32 or
    wider, differentiable once: h(X, Y) / sqrt(h(X, X) h(Y, Y)), where h compares the kernel
    matrices of the two sides,

    - debiased: h is N (N - 3) times HSIC_1 (Song et al. 2012, "Feature selection via dependence
      maximization", equation 5): between -1 and 1, about 0 for independent rows; N is at least 4;
    - biased: h is (N - 1)^2 times HSIC (Kornblith et al., arXiv 1905.00414): between 0 and 1, and
      far above 0 for independent rows wherever N is not far above D and E.

    kernel "linear" is the inner product of centred rows. In O(N D^2) time and O(D^2) memory beside
    the rows, or O(N^2 D) and O(N^2) where that is less. "rbf" is exp(-|x_i - x_j|^2 / (2 s^2)),
    O(N^2 D), with s = `bandwidth` times the median distance between rows that differ: of all pairs
    of up to 2,048 rows, of more rows the pairs of 2,048 spaced evenly. To autograd the median is a
    constant. Blocks of rows hold no (N, N) matrix unless a gradient is asked for.

    Invariant to rotation, shift and scale of either side, and to one order of rows for both; ties
    do not matter. Blind to which directions carry the similarity: a rotation of one side leaves
    CKA at 1 and retrieval at chance; the linear kernel sees little but the directions of most
    variance. Where a side is collapsed, its rows equal or its debiased h not above rounding
    (as of rows that are all equally far apart), the value is 0 and so are the gradients; numbers
    that are not finite give nan. Raises ValueError for shapes that do not match, integers, too few
    rows, an unknown kernel and a bandwidth that is not above 0.
    """
    _check(x, y, debiased)
    if kernel == "linear":
        value: Tensor = LinearCKA.apply(x, y, debiased)
        return value
    if kernel != "rbf":
        raise ValueError(f"kernel must be 'linear' or 'rbf', not {kernel!r}")
    if not 0 < bandwidth < float("inf"):
        raise ValueError(f"bandwidth must be finite and above 0, not {bandwidth}")
    return rbf_cka(x, y, debiased, bandwidth)


def minibatch_cka(batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Debiased linear CKA of rows that come in batches: ratio of the sums of HSIC_1 over batches.

    batches: pairs of x: (N, D) and y: (N, E) as for `cka`, N at least 4 and the same or not.
    Returns () float64: sum h(X, Y) / sqrt(sum h(X, X) sum h(Y, Y)) with h = HSIC_1 of a batch
    (Nguyen et al., arXiv 2010.15327, equation 2). As many batches are drawn at random from the
    same rows, it approaches the `cka` of all rows at any batch size, which the mean of per-batch
    values does not. No gradients. Range, invariances and blindness are those of `cka`, with one
    rotation, shift and scale for all batches; a shift of single batches does not matter either. A
    collapsed side gives 0. Raises ValueError as `cka` does, and where there is no batch.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    smallest = torch.zeros(3, dtype=torch.float64)
    empty = True
    for x, y in batches:
        _check(x, y, debiased=True)
        terms, rounding = _hsic(x.detach(), y)
        sums, smallest, empty = sums + terms.cpu(), smallest + rounding.cpu(), False
    if empty:
        raise ValueError("minibatch_cka needs at least one batch")
    xx, xy, yy = sums
    if xx <= smallest[0] or yy <= smallest[2]:
        return torch.zeros_like(xy)
    return xy / (xx.sqrt() * yy.sqrt())


@torch.no_grad()
@without_autocast
def _hsic(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """HSIC_1 of (X, X), (X, Y), (Y, Y), (3,) float64, and what of each is rounding alone."""
    count, dtype = len(x), wide_dtype(x, y)
    (x, of_x), (y, of_y) = centred_unit_norm(x, dtype), centred_unit_norm(y, dtype)
    terms = debiased_terms(x, y)
    squares = torch.stack([of_x, of_y]).double().square()
    squares = torch.where(squares.isinf(), 0.0, squares)
    scale = torch.stack([squares[0] ** 2, squares.prod(), squares[1] ** 2]) / (count * (count - 3))
    rounding = count * torch.finfo(dtype).eps * terms.biased.double()
    return terms.debiased.double() * scale, rounding * scale


def _check(x: Tensor, y: Tensor, debiased: bool) -> None:
    check_pair(x, y)
    if debiased and len(x) < 4:
        raise ValueError(f"debiased CKA needs at least 4 rows, not {len(x)}")
