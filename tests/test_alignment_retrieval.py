"""Ranks, recall and their chance level against sorting and all orders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlib.alignment import (
    chance_recall_at_k,
    cosine_scores,
    ranks,
    recall_at_k,
    retrieval,
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


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 12),
    labels=st.integers(1, 12),
    values=st.sampled_from([2, 3, 100]),
    seed=st.integers(0, 2**31),
)
def test_retrieval_matches_sorting(count, labels, values, seed):
    """Vectors along few axes, so that many cosines tie exactly."""
    source = generator(seed)
    x, y = torch.eye(values, dtype=torch.float64)[
        torch.randint(0, values, (2, count), generator=source)
    ]
    x = x * torch.rand(count, 1, dtype=torch.float64, generator=source)
    same = torch.randint(0, labels, (count,), generator=source)
    found = retrieval(x, y, same, ks=(1, 2, 5))
    scores = (x != 0).double() @ (y != 0).double().T
    relevant = same[:, None] == same
    for direction, table in ((found.x2y, scores), (found.y2x, scores.T)):
        expected = []
        for row, wanted in zip(table.tolist(), relevant.tolist(), strict=True):
            order = sorted(range(count), key=lambda j: (-row[j], wanted[j]))
            expected.append(1 + next(i for i, j in enumerate(order) if wanted[j]))
        assert direction.median_rank == np.median(expected)
        assert direction.mean_reciprocal_rank == pytest.approx(np.mean(1 / np.array(expected)))
        assert direction.recall == {
            k: pytest.approx(np.mean([rank <= k for rank in expected])) for k in (1, 2, 5)
        }
        assert ranks(table, relevant).tolist() == expected


def test_retrieval_without_labels_is_of_the_diagonal():
    x, y = torch.randn(2, 40, 6, generator=generator())
    y = x + 0.5 * y
    found, labelled = retrieval(x, y), retrieval(x, y, torch.arange(40) * 3)
    assert found == labelled
    scores = cosine_scores(x, y)
    assert found.x2y.recall == {k: recall_at_k(scores, k=k).item() for k in (1, 5, 10)}
    assert found.y2x.recall == {k: recall_at_k(scores.T, k=k).item() for k in (1, 5, 10)}
    assert found.x2y.median_rank == ranks(scores).double().quantile(0.5).item()


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 1, 3), (5,), (4, 4)])
def test_chance_of_retrieval_matches_all_orders(sizes):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    count = len(labels)
    if count > 6:
        labels, count = labels[2:], count - 2  # of sizes 2 and 4
    found = []
    for query in labels.tolist():
        for order in itertools.permutations(labels.tolist()):
            found.append(1 + order.index(query))
    x = torch.ones(count, 2)
    chance = retrieval(x, x, labels, ks=(1, 2, 50)).chance
    for k in (1, 2, 50):
        assert chance.recall[k] == pytest.approx(np.mean([rank <= k for rank in found]))
    assert chance.mean_reciprocal_rank == pytest.approx(np.mean(1 / np.array(found)))
    assert chance.median_rank == np.quantile(found, 0.5, method="inverted_cdf")
    relevant = labels[:, None] == labels
    assert chance.recall[2] == pytest.approx(chance_recall_at_k(relevant, 2).item())


@pytest.mark.parametrize("block", [1, 7, 60])
def test_retrieval_does_not_depend_on_blocks(monkeypatch, block):
    x, y = torch.randn(2, 60, 5, dtype=torch.float64, generator=generator())
    labels = torch.arange(60) // 3
    expected = retrieval(x, x + y, labels)
    monkeypatch.setattr("mirrorlib.alignment.rows.BLOCK_ROWS", block)
    assert retrieval(x, x + y, labels) == expected


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_retrieval_is_invariant_to_one_rotation_lengths_and_order(seed):
    source = generator(seed)
    x, y = torch.randn(2, 30, 4, dtype=torch.float64, generator=source)
    y = x + y
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=source))
    lengths = 0.1 + torch.rand(2, 30, 1, dtype=torch.float64, generator=source)
    order = torch.randperm(30, generator=source)
    moved = retrieval((lengths[0] * x @ rotation)[order], (lengths[1] * y @ rotation)[order])
    expected = retrieval(x, y)
    assert moved.x2y.recall == expected.x2y.recall and moved.y2x.recall == expected.y2x.recall
    assert moved.x2y.median_rank == expected.x2y.median_rank
    assert moved.x2y.mean_reciprocal_rank == pytest.approx(expected.x2y.mean_reciprocal_rank)


def test_retrieval_in_a_collapsed_space_ranks_last():
    x = torch.randn(1, 3, generator=generator()).repeat(5, 1)
    for side in (x, x * 0, x * math.nan, x * torch.rand(5, 1, generator=generator(1))):
        found = retrieval(side, x)
        assert found.x2y.recall[1] == found.y2x.recall[1] == 0
        assert found.x2y.median_rank == 5 and found.y2x.mean_reciprocal_rank == 0.2
    assert found.chance.recall == {1: pytest.approx(0.2), 5: 1, 10: 1}
    assert found.chance.median_rank == 3


def test_scores_are_computed_wide_whatever_autocast_says():
    x, y = torch.randn(2, 50, 16, generator=generator()).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        scores = cosine_scores(x, y)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, cosine_scores(x.float(), y.float()))


def test_retrieval_refuses_what_it_cannot_answer():
    x = torch.ones(4, 2)
    for y, labels, ks, message in (
        (torch.ones(4, 3), None, (1,), r"one shape \(N, D\), not \(4, 2\) and \(4, 3\)"),
        (torch.ones(3, 2), None, (1,), r"\(4, 2\) and \(3, 2\)"),
        (x, torch.arange(3), (1,), r"labels must be int64 of shape \(4,\), not torch.int64"),
        (x, torch.ones(4), (1,), "not torch.float32"),
        (x, None, (0, 1), r"ks must be at least 1, not \(0, 1\)"),
        (x, None, (), "ks must be"),
        (x.long(), None, (1,), "y must be of floating point"),
    ):
        with pytest.raises(ValueError, match=message):
            retrieval(x, y, labels, ks=ks)
