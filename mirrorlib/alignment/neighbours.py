"""Whether rows have the same neighbours on both sides: mutual kNN and CKNNA.

Neighbours are the other rows of highest cosine. Where several rows tie for the last places among
the k, their cosines equal up to rounding, each gets an equal share of them, which is the expected
value over ties broken at random and apart on the two sides: a space collapsed to a point agrees
with any other as chance does. (So such ties make a side agree with itself less than fully.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mirrorlib.alignment.rows import (
    TIED,
    blocks,
    check_finite,
    check_pair,
    unit_rows,
    wide_dtype,
    without_autocast,
)

SPARE = 8
"""Scores beyond the k-th that are looked at for ties with it."""


class Nearest(NamedTuple):
    """The k nearest of some rows, and whatever ties with the k-th, each (M,).

    place: int64, row times N plus column, ascending. score: float64 cosine. share: float64, how
    much of a neighbour it is; a row's shares sum to k.
    """

    place: Tensor
    score: Tensor
    share: Tensor


@without_autocast
@torch.no_grad()
def mutual_knn(x: Tensor, y: Tensor, k: int = 10) -> Tensor:
    """Mean share of a row's k nearest neighbours on one side that are so on the other too.

    x: (N, D), y: (N, E), row i of one the partner of row i of the other; 1 <= k < N. Returns ()
    float64, between 0 and 1; k / (N - 1) by chance. By blocks: O(N^2 D) time, no (N, N) matrix
    (Huh et al., arXiv 2405.07987, equation 11).

    Invariant to rotation of either side, to the lengths of rows, to one order of rows for both;
    not to a shift. Blind to all beyond the k nearest: how clusters lie to each other. Ties share
    the last places. Raises ValueError for shapes that do not match, integers, numbers that
    are not finite and a k that is out of range.
    """
    _check(x, y, k)
    overlap = torch.zeros((), dtype=torch.float64, device=x.device)
    for of_x, of_y in _nearest_pairs(x, y, k):
        on_x, on_y = _on_both(of_x, of_y)
        overlap += of_x.share[on_x] @ of_y.share[on_y]
    return overlap / (len(x) * k)


@without_autocast
@torch.no_grad()
def cknna(x: Tensor, y: Tensor, k: int = 10) -> Tensor:
    """Centred kernel nearest-neighbour alignment: CKA of the pairs that are near on both sides.

    x: (N, D), y: (N, E), row i of one the partner of row i of the other; 1 <= k < N. Returns ()
    float64: A(X, Y) / sqrt(A(X, X) A(Y, Y)), where A(X, Y) sums the products of the two cosines of
    i and j, each less the mean of row i, over the pairs where j is among the k nearest of i on
    both sides. Between -1 and 1; about k / (N - 1) by chance. (Huh et al., arXiv 2405.07987,
    appendix, with their equation; their code takes HSIC_1 of kernels set to 0 elsewhere, and its
    values do not compare.) By blocks: O(N^2 D) time, no (N, N) matrix.

    Invariant to rotation of either side, to the lengths of rows, to one order of rows for both;
    not to a shift. Blind to all beyond the k nearest. Ties share the last places. A side whose
    rows all point one way gives 0. Raises ValueError for shapes that do not match, integers,
    numbers that are not finite and a k that is out of range.
    """
    _check(x, y, k)
    xx, xy, yy = torch.zeros(3, dtype=torch.float64, device=x.device)
    means = _row_means(x), _row_means(y)
    for of_x, of_y in _nearest_pairs(x, y, k):
        near_x, near_y = (
            near.score - mean[near.place // len(x)]
            for near, mean in zip((of_x, of_y), means, strict=True)
        )
        on_x, on_y = _on_both(of_x, of_y)
        xx += of_x.share @ near_x.square()
        yy += of_y.share @ near_y.square()
        xy += (of_x.share * near_x)[on_x] @ (of_y.share * near_y)[on_y]
    rounding = len(x) * k * (TIED * torch.finfo(wide_dtype(x, y)).eps) ** 2
    collapsed = (xx <= rounding) | (yy <= rounding)
    norm = torch.where(collapsed, 1.0, xx * yy).sqrt()
    return torch.where(collapsed, 0.0, xy / norm)


def _nearest_pairs(x: Tensor, y: Tensor, k: int) -> Iterator[tuple[Nearest, Nearest]]:
    dtype = wide_dtype(x, y)
    x, y = unit_rows(x, dtype), unit_rows(y, dtype)
    for block in blocks(len(x)):
        yield _nearest(x, block, k), _nearest(y, block, k)


def _nearest(x: Tensor, block: slice, k: int) -> Nearest:
    """Of the rows `block` of x: (N, D), which are of length 1."""
    scores = x[block] @ x.T
    own = torch.arange(block.start, block.stop, device=x.device)
    scores[own - block.start, own] = -math.inf
    members, columns = _candidates(scores, k)
    largest = members.topk(k).values
    tied = TIED * torch.finfo(x.dtype).eps
    lower, upper = largest[:, -1:] - tied, largest[:, -1:] + tied
    inside = members >= lower
    above = (largest > upper).sum(1)
    share = (k - above) / (inside.sum(1) - above).double()
    row, candidate = inside.nonzero(as_tuple=True)
    score = members[row, candidate]
    share = torch.where(score > upper[row, 0], 1.0, share[row])
    first = (row + block.start) * len(x)
    if columns is None:
        return Nearest(first + candidate, score.double(), share)
    place, order = (first + columns[row, candidate]).sort()
    return Nearest(place, score[order].double(), share[order])


def _candidates(scores: Tensor, k: int) -> tuple[Tensor, Tensor | None]:
    """Scores among which are the k largest of each row and all that tie with the k-th.

    scores: (B, N). Returns (B, C) scores and their columns; None where they are all columns, as
    more than SPARE tie.
    """
    values, columns = scores.topk(min(k + SPARE, scores.shape[1]))
    lower = values[:, k - 1] - TIED * torch.finfo(scores.dtype).eps
    if bool((values[:, -1] >= lower).any()):
        return scores, None
    return values, columns


def _on_both(of_x: Nearest, of_y: Nearest) -> tuple[Tensor, Tensor]:
    """Where in of_x and where in of_y the places are that both have."""
    found = torch.searchsorted(of_y.place, of_x.place).clamp_max(len(of_y.place) - 1)
    on_x = (of_y.place[found] == of_x.place).nonzero()[:, 0]
    return on_x, found[on_x]


def _row_means(x: Tensor) -> Tensor:
    """Mean cosine of each row of x: (N, D) with all rows, itself among them; (N,) float64."""
    x = unit_rows(x)
    return (x @ x.mean(0)).double()


def _check(x: Tensor, y: Tensor, k: int) -> None:
    check_pair(x, y)
    if not 1 <= k < len(x):
        raise ValueError(f"k must be at least 1 and below the number of rows {len(x)}, not {k}")
    check_finite(x=x, y=y)
