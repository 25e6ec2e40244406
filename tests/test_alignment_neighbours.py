"""Mutual kNN and CKNNA against loops, ties included."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirrorlib.alignment import cknna, mutual_knn


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cosines(x: Tensor) -> np.ndarray:
    rows = x.double().numpy()
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / lengths) @ (rows / lengths).T


def shares(similarities: np.ndarray, k: int) -> np.ndarray:
    """(N, N): chance that j is among the k nearest of i when ties are broken at random."""
    result = np.zeros_like(similarities)
    for i, row in enumerate(similarities):
        others = [j for j in range(len(row)) if j != i]
        for j in others:
            above = sum(row[o] > row[j] + 1e-9 for o in others)
            level = sum(abs(row[o] - row[j]) <= 1e-9 for o in others)
            result[i, j] = min(max(k - above, 0) / level, 1)
    return result


def cknna_by_definition(x: Tensor, y: Tensor, k: int) -> float:
    """Huh et al.'s equation: kernels less their row means, where both sides are near."""
    of_x, of_y = (cosines(rows) for rows in (x, y))
    near_x, near_y = shares(of_x, k), shares(of_y, k)
    of_x, of_y = (kernel - kernel.mean(1, keepdims=True) for kernel in (of_x, of_y))
    xx, yy = (near_x * of_x**2).sum(), (near_y * of_y**2).sum()
    return (near_x * near_y * of_x * of_y).sum() / math.sqrt(xx * yy)


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(2, 16),
    k=st.integers(1, 15),
    grid=st.sampled_from([1, 2, 0]),
    seed=st.integers(0, 2**31),
)
def test_neighbours_match_loops(count, k, grid, seed):
    """On a small grid of whole numbers most cosines tie."""
    k = min(k, count - 1)
    source = generator(seed)
    x, y = torch.randn(2, count, 3, dtype=torch.float64, generator=source)
    if grid:
        x, y = (grid * x).round(), (grid * y).round()
        x[:, 0], y[:, 0] = 1, -1  # no row of zeros
    near_x, near_y = shares(cosines(x), k), shares(cosines(y), k)
    expected = (near_x * near_y).sum() / (count * k)
    assert mutual_knn(x, y, k).item() == pytest.approx(expected, rel=1e-9)


def test_knn_of_ties_is_the_mean_over_orders_of_the_tied():
    """All rows of x are at one cosine, those of y are not."""
    x = torch.eye(4)
    y = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [-1, 0.3]])
    for k in (1, 2, 3):
        near = shares(cosines(y), k) > 0
        total = 0.0
        for i in range(4):
            others = [j for j in range(4) if j != i]
            picks = list(itertools.combinations(others, k))
            total += np.mean([near[i, list(pick)].sum() / k for pick in picks])
        assert mutual_knn(x, y, k).item() == pytest.approx(total / 4)
        assert mutual_knn(x, y, k).item() == pytest.approx(k / 3)  # what chance gives


@settings(max_examples=40, deadline=None)
@given(count=st.integers(3, 30), k=st.integers(1, 10), seed=st.integers(0, 2**31))
def test_cknna_matches_its_definition(count, k, seed):
    k = min(k, count - 1)
    x, y = torch.randn(2, count, 4, dtype=torch.float64, generator=generator(seed))
    y = x + y
    expected = cknna_by_definition(x, y, k)
    assert cknna(x, y, k).item() == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert -1 <= expected <= 1
    assert cknna(x, x, k).item() == pytest.approx(1)
    assert mutual_knn(x, x, k).item() == 1


def test_cknna_of_ties_matches_its_definition():
    x = torch.eye(12, dtype=torch.float64)[torch.arange(12) // 3]
    y = torch.randn(12, 4, dtype=torch.float64, generator=generator())
    for k in (1, 2, 4):
        assert cknna(x, y, k).item() == pytest.approx(cknna_by_definition(x, y, k), rel=1e-9)


@pytest.mark.parametrize("measure", [mutual_knn, cknna])
@pytest.mark.parametrize("block", [1, 7, 90])
def test_neighbours_do_not_depend_on_blocks(monkeypatch, measure, block):
    x, y = torch.randn(2, 90, 5, dtype=torch.float64, generator=generator())
    tied = torch.eye(5, dtype=torch.float64)[torch.arange(90) % 5]
    expected = [measure(x, x + y, 4).item(), measure(tied, x, 4).item()]
    monkeypatch.setattr("mirrorlib.alignment.rows.BLOCK_ROWS", block)
    found = [measure(x, x + y, 4).item(), measure(tied, x, 4).item()]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("measure", [mutual_knn, cknna])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_neighbours_are_invariant_to_rotation_lengths_and_order(measure, seed):
    source = generator(seed)
    x, y = torch.randn(2, 30, 4, dtype=torch.float64, generator=source)
    y = x + y
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=source))
    lengths = 0.1 + torch.rand(30, 1, dtype=torch.float64, generator=source)
    order = torch.randperm(30, generator=source)
    expected = measure(x, y, 5).item()
    assert measure((lengths * x @ rotation)[order], y[order], 5).item() == pytest.approx(expected)
    assert measure(y[order], (lengths * x @ rotation)[order], 5).item() == pytest.approx(expected)


def test_large_groups_find_the_same_neighbours_as_a_full_sort():
    """3,001 columns are searched in groups, and one is left over."""
    x, noise = torch.randn(2, 3001, 8, generator=generator())
    y = x + 0.3 * noise
    orders = []
    for rows in (x, y):
        unit = torch.nn.functional.normalize(rows.double(), dim=1)
        scores = (unit @ unit.T).fill_diagonal_(-2)
        orders.append(scores.argsort(1, descending=True)[:, :10].tolist())
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(*orders, strict=True)]
    assert mutual_knn(x, y).item() == pytest.approx(np.mean(shared), abs=1e-4)
    assert 0.1 < np.mean(shared) < 0.6


def test_independent_and_collapsed_sides_agree_as_chance_does():
    x, y = torch.randn(2, 400, 8, generator=generator())
    assert mutual_knn(x, y).item() == pytest.approx(10 / 399, abs=0.006)
    assert cknna(x, y).item() == pytest.approx(10 / 399, abs=0.006)
    for point in (torch.zeros(400, 2), x[:1].repeat(400, 1), x[:1] * torch.rand(400, 1)):
        assert mutual_knn(point, x).item() == pytest.approx(10 / 399, rel=1e-6)
        assert mutual_knn(point, point).item() == pytest.approx(10 / 399, rel=1e-6)
        assert cknna(point, x).item() == cknna(x, point).item() == cknna(point, point).item() == 0


@pytest.mark.parametrize("measure", [mutual_knn, cknna])
def test_neighbours_refuse_what_they_cannot_answer(measure):
    x, wrong = torch.ones(6, 2), torch.ones(6, 2)
    wrong[4, 1] = math.inf
    for y, k, message in (
        (torch.ones(5, 2), 1, r"\(6, 2\) and \(5, 2\)"),
        (x, 6, "k must be at least 1 and below the number of rows 6, not 6"),
        (x, 0, "not 0"),
        (x.int(), 1, "y must be of floating point"),
        (wrong, 1, "y is not finite in 1 of 6 rows, first 4"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(x, y, k)
    assert measure(x.half(), x.bfloat16(), 2).dtype == torch.float64
