"""RSA against scipy."""

from __future__ import annotations

import math
from importlib import import_module

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from mirrorlib.alignment import rsa


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dissimilarity", ["correlation", "euclidean"])
@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(3, 25),
    d=st.integers(3, 9),
    common=st.floats(0, 2),
    seed=st.integers(0, 2**31),
)
def test_rsa_matches_scipy(dissimilarity, count, d, common, seed):
    source = generator(seed)
    x = torch.randn(count, d, dtype=torch.float64, generator=source)
    y = common * x + torch.randn(count, d, dtype=torch.float64, generator=source)
    distances = [pdist(rows.numpy(), dissimilarity) for rows in (x, y)]
    expected = scipy.stats.pearsonr(*distances).statistic
    assert rsa(x, y, dissimilarity=dissimilarity).item() == pytest.approx(expected, abs=1e-9)
    expected = scipy.stats.spearmanr(*distances).statistic
    found = rsa(x, y, dissimilarity=dissimilarity, correlation="spearman")
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_spearman_ranks_ties_at_their_mean():
    """Whole distances on a line, exact in floating point."""
    x = torch.tensor([0.0, 1, 2, 4, 4, 7]).double()[:, None]
    y = torch.tensor([3.0, 0, 0, 1, 5, 6]).double()[:, None]
    expected = scipy.stats.spearmanr(pdist(x.numpy()), pdist(y.numpy())).statistic
    found = rsa(x, y, dissimilarity="euclidean", correlation="spearman").item()
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dissimilarity", ["correlation", "euclidean"])
@pytest.mark.parametrize("block", [1, 7, 40])
def test_rsa_does_not_depend_on_blocks(monkeypatch, block, dissimilarity):
    x, y = torch.randn(2, 40, 5, dtype=torch.float64, generator=generator())
    options = [{"correlation": name} for name in ("pearson", "spearman")]
    expected = [rsa(x, x + y, dissimilarity=dissimilarity, **each).item() for each in options]
    monkeypatch.setattr("mirrorlib.alignment.rows.BLOCK_ROWS", block)
    found = [rsa(x, x + y, dissimilarity=dissimilarity, **each).item() for each in options]
    assert found == pytest.approx(expected, rel=1e-10)


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(1e-4, 1e4), shift=st.floats(-50, 50), seed=st.integers(0, 2**31))
def test_rsa_is_invariant_as_it_says(factor, shift, seed):
    source = generator(seed)
    x, y = torch.randn(2, 20, 5, dtype=torch.float64, generator=source)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=source))
    order = torch.randperm(20, generator=source)
    expected = rsa(x, y, dissimilarity="euclidean").item()
    moved = factor * (x @ rotation + shift)
    found = rsa(moved[order], y[order], dissimilarity="euclidean").item()
    assert found == pytest.approx(expected, abs=1e-7)
    huge = rsa(1e30 * x.float(), y.float(), dissimilarity="euclidean").item()
    assert huge == pytest.approx(expected, abs=1e-4)
    by_row = 0.1 + torch.rand(20, 1, dtype=torch.float64, generator=source)
    found = rsa(factor * (by_row * x + shift * by_row), y).item()
    assert found == pytest.approx(rsa(x, y).item(), abs=1e-7)
    assert rsa(x, x).item() == pytest.approx(1) and -1 <= expected <= 1


def test_rsa_in_float32_survives_a_large_offset():
    x, noise = torch.randn(2, 100, 32, generator=generator())
    y = x + noise
    for dissimilarity in ("correlation", "euclidean"):
        expected = rsa(x.double(), y.double(), dissimilarity=dissimilarity).item()
        found = rsa(x + 100, y - 100, dissimilarity=dissimilarity).item()
        assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
@pytest.mark.parametrize("dissimilarity", ["correlation", "euclidean"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rsa_of_rows_equally_dissimilar_is_zero(dtype, dissimilarity, correlation):
    other = torch.randn(16, 5, generator=generator()).to(dtype)
    options = {"dissimilarity": dissimilarity, "correlation": correlation}
    sides = [torch.zeros(16, 4), torch.full((16, 4), 0.1), torch.full((16, 1), 1e4)]
    if correlation == "pearson":
        sides.append(torch.eye(16))
    for side in sides:
        assert rsa(side.to(dtype), other, **options).item() == 0
        assert rsa(other, side.to(dtype), **options).item() == 0


def test_rsa_refuses_what_it_cannot_answer(monkeypatch):
    x, wrong = torch.randn(2, 9, 2, generator=generator())
    wrong[8, 0] = -math.inf
    with pytest.raises(ValueError, match=r"\(9, 2\) and \(8, 2\)"):
        rsa(x, x[:8])
    with pytest.raises(ValueError, match="at least 3 rows, not 2"):
        rsa(x[:2], x[:2])
    with pytest.raises(ValueError, match="y is not finite in 1 of 9 rows, first 8"):
        rsa(x, wrong)
    with pytest.raises(ValueError, match="not 'cosine'"):
        rsa(x, x, dissimilarity="cosine")
    with pytest.raises(ValueError, match="not 'kendall'"):
        rsa(x, x, correlation="kendall")
    monkeypatch.setattr(import_module("mirrorlib.alignment.rsa"), "SPEARMAN_ROWS", 8)
    with pytest.raises(ValueError, match="up to 8 rows, not 9: use pearson or fewer rows"):
        rsa(x, x, correlation="spearman")
