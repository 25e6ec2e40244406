"""Retrieval between two representations: Recall@k and its chance level."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosine_scores(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of every row of x: (Q, D) with every row of y: (C, D). Returns (Q, C), float32 or
    wider. A row of zeros has cosine 0 with every row."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    queries, candidates = (torch.nn.functional.normalize(rows.to(dtype), dim=1) for rows in (x, y))
    return queries @ candidates.T


def recall_at_k(scores: Tensor, relevant: Tensor | None = None, k: int = 1) -> Tensor:
    """Share of the queries with a relevant candidate among the k that score highest.

    scores: (Q, C), larger is nearer; transpose both arguments for the other direction.
    relevant: (Q, C) bool, with at least one candidate a query; None: the diagonal.
    Returns () float64. Ties are broken against the query: an irrelevant candidate that scores as
    high as the best relevant one comes before it, so that a space collapsed to a point has recall
    0, and so have scores that are not numbers. Invariant to any increasing function of the scores.
    """
    relevant = _relevant(scores, relevant)
    best = scores.masked_fill(~relevant, -math.inf).amax(1, keepdim=True)
    ahead = (~(scores < best) & ~relevant).sum(1)
    return (ahead < k).double().mean()


def chance_recall_at_k(relevant: Tensor, k: int = 1) -> Tensor:
    """Expected `recall_at_k` of candidates in random order.

    relevant: (Q, C) bool. Returns () float64: the mean over queries of 1 - C(C - r, k) / C(C, k),
    where r of a query's C candidates are relevant.
    """
    count = relevant.shape[1]
    irrelevant = count - relevant.sum(1).double()
    missed = torch.ones_like(irrelevant)
    for drawn in range(min(k, count)):
        missed *= (irrelevant - drawn).clamp_min(0) / (count - drawn)
    return (1 - missed).mean()


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
