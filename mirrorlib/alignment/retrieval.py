"""Retrieval between two representations: ranks, Recall@k, and what chance gives.

Blind to all but the order of a query's candidates: how far apart they are, and whether both sides
have collapsed to a few directions that still tell the rows apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirrorlib.alignment.rows import (
    TIED,
    blocks,
    check_pair,
    unit_rows,
    wide_dtype,
    without_autocast,
)


@dataclass(frozen=True)
class Direction:
    """How queries of one side find their relevant candidates on the other.

    recall[k]: share of the queries whose rank is at most k. median_rank: 1 is best.
    mean_reciprocal_rank: mean of 1 / rank, at most 1. Ranks are those of `ranks`.
    """

    recall: Mapping[int, float]
    median_rank: float
    mean_reciprocal_rank: float


@dataclass(frozen=True)
class Retrieval:
    """x2y: queries x among candidates y; y2x: the other way. chance: candidates in random order,
    expected values, and the median over random orders; the same both ways."""

    x2y: Direction
    y2x: Direction
    chance: Direction


@without_autocast
@torch.no_grad()
def retrieval(
    x: Tensor, y: Tensor, labels: Tensor | None = None, *, ks: Sequence[int] = (1, 5, 10)
) -> Retrieval:
    """How well rows of x find their partners in y by cosine, and the other way.

    x, y: (N, D), row i of one the partner of row i of the other. labels: (N,) int64, rows of equal
    labels are relevant to each other; None: only the diagonal. ks: the k of Recall@k, at least 1.
    By blocks: O(N^2 D) time, no (N, N) matrix. Ranks are those of `ranks`, ties against the query,
    and cosines that are equal up to rounding tie.

    Invariant to one rotation of both sides, to the lengths of rows and to one order of rows for
    both; not to a shift, nor to a rotation of one side. Raises ValueError for shapes that do not
    match, integers, labels of another length or type, and a k below 1.
    """
    check_pair(x, y, one_width=True)
    if labels is None:
        labels = torch.arange(len(x), device=x.device)
    if labels.shape != x.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 of shape ({len(x)},), "
            f"not {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be at least 1, not {tuple(ks)}")
    labels, dtype = labels.to(x.device), wide_dtype(x, y)
    x, y = unit_rows(x, dtype), unit_rows(y, dtype)
    found = _direction(x, y, labels, ks), _direction(y, x, labels, ks)
    return Retrieval(*found, chance=_chance(labels, ks))


@without_autocast
def cosine_scores(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of every row of x: (Q, D) with every row of y: (C, D). Returns (Q, C), float32 or
    wider. A row of zeros has cosine 0 with every row."""
    dtype = wide_dtype(x, y)
    return unit_rows(x, dtype) @ unit_rows(y, dtype).T


def ranks(scores: Tensor, relevant: Tensor | None = None) -> Tensor:
    """Rank of each query's best relevant candidate: 1 and how many irrelevant ones precede it.

    scores: (Q, C), larger is nearer; transpose both arguments for the other direction.
    relevant: (Q, C) bool, with at least one candidate a query; None: the diagonal.
    Returns (Q,) int64, between 1 and C, by counting. Ties are broken against the query: an
    irrelevant candidate that scores as high as the best relevant one comes before it, so that a
    space collapsed to a point ranks last, and so do scores that are not numbers. Invariant to any
    increasing function of the scores. Raises ValueError where shapes or types do not fit.
    """
    return _ranks(scores, _relevant(scores, relevant))


def recall_at_k(scores: Tensor, relevant: Tensor | None = None, k: int = 1) -> Tensor:
    """Share of the queries with a relevant candidate among the k that score highest.

    scores, relevant: (Q, C), as for `ranks`. Returns () float64, between 0 and 1: the share of
    ranks of at most k. Ties are broken against the query, so that a space collapsed to a point has
    recall 0. Invariant to any increasing function of the scores.
    """
    return (ranks(scores, relevant) <= k).double().mean()


def chance_recall_at_k(relevant: Tensor, k: int = 1) -> Tensor:
    """Expected `recall_at_k` of candidates in random order.

    relevant: (Q, C) bool. Returns () float64: the mean over queries of 1 - C(C - r, k) / C(C, k),
    where r of a query's C candidates are relevant.
    """
    missed = _missed(relevant.sum(1), relevant.shape[1])
    return 1 - missed[min(k, relevant.shape[1])]


def _ranks(scores: Tensor, relevant: Tensor, tied: float = 0.0) -> Tensor:
    """tied: how far below the best relevant score one still ties with it."""
    best = scores.masked_fill(~relevant, -math.inf).amax(1, keepdim=True) - tied
    return 1 + (~(scores < best) & ~relevant).sum(1)


def _direction(queries: Tensor, candidates: Tensor, labels: Tensor, ks: Sequence[int]) -> Direction:
    """queries, candidates: (N, D) of length 1."""
    tied = TIED * torch.finfo(queries.dtype).eps
    found = torch.cat(
        [
            _ranks(queries[block] @ candidates.T, labels[block, None] == labels, tied)
            for block in blocks(len(queries))
        ]
    ).double()
    return Direction(
        {k: float((found <= k).double().mean()) for k in ks},
        float(found.quantile(0.5)),
        float(found.reciprocal().mean()),
    )


def _chance(labels: Tensor, ks: Sequence[int]) -> Direction:
    count = len(labels)
    _, place, members = labels.unique(return_inverse=True, return_counts=True)
    missed = _missed(members[place], count)
    ranks = torch.arange(1, count + 1, device=labels.device)
    return Direction(
        {k: float(1 - missed[min(k, count)]) for k in ks},
        float((missed > 0.5).sum()),
        float((-missed.diff() / ranks).sum()),
    )


def _missed(relevant: Tensor, count: int) -> Tensor:
    """Chance, mean over queries, that none of the first k candidates of a random order is relevant.

    relevant: (Q,) how many of a query's `count` candidates are. Returns (count + 1,) float64, for
    k = 0 to count.
    """
    drawn = torch.arange(count, device=relevant.device, dtype=torch.float64)
    missed = torch.zeros(count + 1, dtype=torch.float64, device=relevant.device)
    for members, queries in zip(*relevant.unique(return_counts=True), strict=True):
        left = ((count - members - drawn) / (count - drawn)).clamp_min(0).cumprod(0)
        missed += queries / len(relevant) * torch.cat([torch.ones_like(left[:1]), left])
    return missed


def _relevant(scores: Tensor, relevant: Tensor | None) -> Tensor:
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"scores must have shape (Q, C), not {tuple(scores.shape)}")
    if relevant is None:
        if scores.shape[0] != scores.shape[1]:
            raise ValueError(
                f"scores of shape {tuple(scores.shape)} have no diagonal: say what is relevant"
            )
        return torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    if relevant.shape != scores.shape or relevant.dtype != torch.bool:
        raise ValueError(
            f"relevant must be bool of shape {tuple(scores.shape)}, "
            f"not {relevant.dtype} of shape {tuple(relevant.shape)}"
        )
    without = int((~relevant.any(1)).sum())
    if without:
        raise ValueError(f"{without} of {len(scores)} queries have no relevant candidate")
    return relevant
