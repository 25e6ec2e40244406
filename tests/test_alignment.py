"""Alignment measures against brute force."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlib.alignment import (
    chance_recall_at_k,
    cosine_scores,
    effective_rank,
    mutual_information_bound,
    recall_at_k,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def recall_by_sorting(scores: list[list[float]], relevant: list[list[bool]], k: int) -> float:
    """Sort every query's candidates, the irrelevant first among equals."""
    hits = 0
    for row, wanted in zip(scores, relevant, strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], wanted[j]))
        hits += any(wanted[j] for j in order[:k])
    return hits / len(scores)


@settings(max_examples=100, deadline=None)
@given(
    queries=st.integers(1, 6),
    candidates=st.integers(1, 6),
    k=st.integers(1, 7),
    seed=st.integers(0, 2**31),
)
def test_recall_matches_sorting(queries, candidates, k, seed):
    # few distinct scores, so that many tie
    scores = torch.randint(0, 4, (queries, candidates), generator=generator(seed)).double()
    relevant = torch.rand(queries, candidates, generator=generator(seed + 1)) < 0.4
    relevant[:, 0] = True
    expected = recall_by_sorting(scores.tolist(), relevant.tolist(), k)
    assert recall_at_k(scores, relevant, k).item() == pytest.approx(expected)


def test_recall_without_relevance_is_of_the_diagonal():
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.7, 0.1], [0.2, 0.3, 0.4]])
    assert recall_at_k(scores).item() == pytest.approx(2 / 3)
    assert recall_at_k(scores, k=2).item() == 1.0
    assert recall_at_k(scores.T).item() == pytest.approx(2 / 3)


def test_collapsed_and_undefined_spaces_recall_nothing():
    x = torch.ones(5, 3)
    assert recall_at_k(cosine_scores(x, x)).item() == 0
    assert recall_at_k(cosine_scores(x * 0, x)).item() == 0
    assert recall_at_k(torch.full((5, 5), math.nan)).item() == 0
    one_undefined = torch.eye(5)
    one_undefined[0, 0] = math.nan
    assert recall_at_k(one_undefined).item() == pytest.approx(4 / 5)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_chance_matches_all_orders(k):
    relevant = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 1]]).bool()
    orders = list(itertools.permutations(range(5)))
    hits = [any(row[j] for j in order[:k]) for row in relevant.tolist() for order in orders]
    assert chance_recall_at_k(relevant, k).item() == pytest.approx(sum(hits) / len(hits))


def test_chance_is_what_random_scores_recall():
    relevant = torch.rand(4000, 12, generator=generator()) < 0.2
    relevant[:, 3] = True
    scores = torch.rand(4000, 12, generator=generator(1))
    for k in (1, 4):
        found = recall_at_k(scores, relevant, k).item()
        assert found == pytest.approx(chance_recall_at_k(relevant, k).item(), abs=0.025)


@pytest.mark.parametrize(
    ("scores", "relevant", "message"),
    [
        (torch.ones(2, 3), None, "no diagonal"),
        (torch.ones(0, 0), None, r"\(Q, C\), not \(0, 0\)"),
        (torch.ones(2, 2), torch.ones(2, 3).bool(), r"not torch.bool of shape \(2, 3\)"),
        (torch.ones(2, 2), torch.eye(2), "not torch.float32"),
        (torch.ones(2, 2), torch.tensor([[True, False], [False, False]]), "1 of 2 queries"),
    ],
)
def test_recall_refuses_what_it_cannot_answer(scores, relevant, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(scores, relevant)


def test_mutual_information_bound_matches_loops():
    x, y = torch.randn(2, 7, 4, dtype=torch.float64, generator=generator())
    loss = 0.0
    for left, right in ((x, y), (y, x)):
        for i in range(7):
            cosines = [torch.cosine_similarity(left[i], row, dim=0).item() / 0.2 for row in right]
            loss -= math.log(math.exp(cosines[i]) / sum(map(math.exp, cosines))) / 14
    bound = mutual_information_bound(x, y, temperature=0.2)
    assert bound.item() == pytest.approx(math.log(7) - loss, rel=1e-12)
    assert mutual_information_bound(torch.eye(8), torch.eye(8), 0.01).item() == pytest.approx(
        math.log(8)
    )
    with pytest.raises(ValueError, match=r"\(8, 8\) and \(7, 8\)"):
        mutual_information_bound(torch.eye(8), torch.eye(8)[:7])


def test_mutual_information_bound_stays_below_the_truth():
    """Gaussians of correlation r in 3 dimensions share -3/2 log(1 - r^2) nats."""
    bounds = []
    for seed in range(20):
        x, noise = torch.randn(2, 256, 3, generator=generator(seed))
        y = 0.8 * x + 0.6 * noise
        bounds.append(mutual_information_bound(x, y, temperature=0.3).item())
    truth = -1.5 * math.log(1 - 0.8**2)
    assert 0.3 * truth < sum(bounds) / len(bounds) < truth


def test_effective_rank():
    basis, _ = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64, generator=generator()))
    values = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    rows, _ = torch.linalg.qr(
        torch.cat([torch.ones(40, 1), torch.randn(40, 3, generator=generator(1))], 1).double()
    )
    x = rows[:, 1:] * values @ basis[:3]
    share = [v / 7 for v in (4, 2, 1)]
    expected = math.exp(-sum(s * math.log(s) for s in share))
    assert effective_rank(x).item() == pytest.approx(expected, rel=1e-10)
    assert effective_rank(x * 100 + 7).item() == pytest.approx(expected, rel=1e-10)
    assert effective_rank(x.float() + 100).item() == pytest.approx(expected, rel=1e-3)
    assert effective_rank(torch.full((9, 4), 0.1)).item() == 0
    assert effective_rank(torch.full((9, 4), 0.1).bfloat16()).dtype == torch.float32
