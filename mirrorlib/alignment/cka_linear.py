"""Linear CKA with its gradient written out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mirrorlib.alignment.rows import blocks, centred_unit_norm, column_means, wide_dtype


class Terms(NamedTuple):
    """h(X, X), h(X, Y), h(Y, Y) with and without their bias, each (3,), and what they are of.

    r, s: (N,) squared lengths of the rows of X: (N, D) and Y: (N, E). products: by features
    X^T X, X^T Y, Y^T Y; by Gram matrices X X^T, Y Y^T.
    """

    biased: Tensor
    debiased: Tensor
    r: Tensor
    s: Tensor
    products: tuple[Tensor, ...]


def by_features(x: Tensor, y: Tensor) -> bool:
    """Whether forward and backward cost less by D x D products than by N x N Gram matrices."""
    (count, d), e = x.shape, y.shape[1]
    return 2 * count * (d + e) >= 2 * d * d + 3 * d * e + 2 * e * e


def debiased_terms(x: Tensor, y: Tensor) -> Terms:
    """x: (N, D), y: (N, E), centred, of one dtype; N > 2 for the debiased ones.

    Biased: h(X, Y) = ||X^T Y||_F^2 = <X X^T, Y Y^T>. Debiased: that less what a row's similarity
    to itself adds, N / (N - 2) sum_i r_i s_i - sum_i r_i sum_i s_i / ((N - 1) (N - 2)).
    """
    if by_features(x, y):
        products: tuple[Tensor, ...] = (x.T @ x, x.T @ y, y.T @ y)
        biased = torch.stack([_inner(product, product) for product in products])
    else:
        products = k, m = x @ x.T, y @ y.T
        biased = torch.stack([_inner(k, k), _inner(k, m), _inner(m, m)])
    r, s = _squared_lengths(x), _squared_lengths(y)
    first, second = bias_factors(len(x))
    inner = torch.stack([r @ r, r @ s, s @ s])
    outer = torch.stack([r.sum() * r.sum(), r.sum() * s.sum(), s.sum() * s.sum()])
    return Terms(biased, biased - first * inner + second * outer, r, s, products)


def bias_factors(count: int) -> tuple[float, float]:
    """N / (N - 2) and 1 / ((N - 1) (N - 2))."""
    if count < 3:
        return 0.0, 0.0
    return count / (count - 2), 1 / ((count - 1) * (count - 2))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return torch.vdot(a.flatten(), b.flatten())


def _squared_lengths(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1).square_()


class LinearCKA(torch.autograd.Function):
    """CKA of x: (N, D) and y: (N, E), ().

    With X, Y the centred rows over their norms and v the value, the gradient by X is

    by features       G = a Y (X^T Y)^T + b X (X^T X) + w X,
    by Gram matrices  G = (a Y Y^T + b X X^T + diag w) X,

    a = 2 / sqrt(h(X, X) h(Y, Y)), b = -2 v / h(X, X) and w, (N,), what the bias adds; the gradient
    by x is G less its column means, over the norm of x. Kept for it: x, y and three D x D or two
    N x N matrices. By features the centred rows are made again, block by block.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, debiased: bool) -> Tensor:
        dtype = wide_dtype(x, y)
        of_x, norm_x = centred_unit_norm(x, dtype)
        of_y, norm_y = centred_unit_norm(y, dtype)
        terms = debiased_terms(of_x, of_y)
        xx, xy, yy = terms.debiased if debiased else terms.biased
        rounding = len(x) * torch.finfo(dtype).eps if debiased else 0.0
        smallest_xx, _, smallest_yy = rounding * terms.biased
        collapsed = (xx <= smallest_xx) | (yy <= smallest_yy)
        norm = torch.where(collapsed, torch.inf, xx * yy).sqrt()
        value = torch.where(collapsed, 0.0, xy / norm)
        factors = [2 / norm, *(torch.where(collapsed, 0.0, -2 * value / h) for h in (xx, yy))]
        ctx.debiased, ctx.by_features = debiased, by_features(x, y)
        ctx.save_for_backward(
            x, y, norm_x, norm_y, torch.stack(factors), terms.r, terms.s, *terms.products
        )
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y, norm_x, norm_y, factors, r, s, *products = ctx.saved_tensors
        a, b_x, b_y = factors * grad
        of_x = (x, norm_x, b_x, _bias_weights(a, s, b_x, r) if ctx.debiased else None)
        of_y = (y, norm_y, b_y, _bias_weights(a, r, b_y, s) if ctx.debiased else None)
        through = _through_features if ctx.by_features else _through_gram
        with torch.autocast(x.device.type, enabled=False):
            grads = through(of_x, of_y, a, products)
        return grads[0].to(x.dtype), grads[1].to(y.dtype), None


Side = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""What the gradient by one side is made of: its rows as given, their norm, b and w."""


def _bias_weights(a: Tensor, others: Tensor, b: Tensor, own: Tensor) -> Tensor:
    """w, (N,), from the squared lengths of the other side's rows and of its own, each (N,)."""
    first, second = bias_factors(len(own))
    return a * (second * others.sum() - first * others) + b * (second * own.sum() - first * own)


def _through_features(
    of_x: Side, of_y: Side, a: Tensor, products: list[Tensor]
) -> tuple[Tensor, Tensor]:
    (x, norm_x, b_x, weights_x), (y, norm_y, b_y, weights_y) = of_x, of_y
    xx, xy, yy = products
    dtype, means_x, means_y = xx.dtype, column_means(x, xx.dtype), column_means(y, xx.dtype)
    xx, xy, yy = b_x * xx, a * xy, b_y * yy
    by_x, by_y = (torch.empty(rows.shape, dtype=dtype, device=rows.device) for rows in (x, y))
    for block in blocks(len(x)):
        rows_x = _centred(x[block], means_x).div_(norm_x)
        rows_y = _centred(y[block], means_y).div_(norm_y)
        torch.mm(rows_x, xx, out=by_x[block]).addmm_(rows_y, xy.T)
        torch.mm(rows_y, yy, out=by_y[block]).addmm_(rows_x, xy)
        if weights_x is not None and weights_y is not None:
            by_x[block].addcmul_(rows_x, weights_x[block, None])
            by_y[block].addcmul_(rows_y, weights_y[block, None])
    return _by_rows(by_x, norm_x), _by_rows(by_y, norm_y)


def _through_gram(
    of_x: Side, of_y: Side, a: Tensor, products: list[Tensor]
) -> tuple[Tensor, Tensor]:
    k, m = products
    grads = []
    for (rows, norm, b, weights), own, others in ((of_x, k, m), (of_y, m, k)):
        through = (a * others).add_(b * own)
        if weights is not None:
            through.diagonal().add_(weights)
        centred = _centred(rows, column_means(rows, k.dtype)).div_(norm)
        grads.append(_by_rows(through @ centred, norm))
    return grads[0], grads[1]


def _centred(rows: Tensor, means: Tensor) -> Tensor:
    return (rows.to(means.dtype) - means[0]).sub_(means[1])


def _by_rows(gradient: Tensor, norm: Tensor) -> Tensor:
    """From the gradient by centred rows of norm 1 to that by the rows, in place."""
    return gradient.sub_(gradient.mean(0)).div_(norm)
