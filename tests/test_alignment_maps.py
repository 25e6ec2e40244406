"""Procrustes, canonical correlations and linear R^2 against scipy, numpy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirrorlib.alignment import linear_r2, procrustes, pwcca, svcca


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def centred(x: Tensor) -> np.ndarray:
    rows = x.double().numpy()
    return rows - rows.mean(0)


def rotation(width: int, seed: int) -> Tensor:
    return torch.linalg.qr(
        torch.randn(width, width, dtype=torch.float64, generator=generator(seed))
    )[0]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(2, 30),
    width=st.integers(1, 12),
    common=st.floats(0, 3),
    seed=st.integers(0, 2**31),
)
def test_procrustes_is_what_the_best_rotation_leaves(count, width, common, seed):
    x, y = torch.randn(2, count, width, dtype=torch.float64, generator=generator(seed))
    y = y + common * x
    a, b = centred(x), centred(y)
    best, scale = scipy.linalg.orthogonal_procrustes(a, b)
    scale /= np.linalg.norm(a) ** 2
    left = np.linalg.norm(scale * a @ best - b) ** 2 / np.linalg.norm(b) ** 2
    found = procrustes(x, y).item()
    assert 0 <= found <= 1
    assert found**2 == pytest.approx(1 - left, abs=1e-9)
    wide = torch.cat([y, torch.zeros(count, 3, dtype=torch.float64)], 1)
    assert procrustes(x, wide).item() == pytest.approx(found, abs=1e-9)


def cca_by_definition(x: Tensor, y: Tensor) -> np.ndarray:
    """Square roots of the eigenvalues of Sxx^-1 Sxy Syy^-1 Syx, in falling order."""
    a, b = centred(x), centred(y)
    product = np.linalg.solve(a.T @ a, a.T @ b) @ np.linalg.solve(b.T @ b, b.T @ a)
    values = np.sort(np.linalg.eigvals(product).real)[::-1][: min(a.shape[1], b.shape[1])]
    return np.sqrt(values.clip(0, 1))


@settings(max_examples=40, deadline=None)
@given(d=st.integers(1, 6), e=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_svcca_of_all_variance_is_mean_cca(d, e, seed):
    source = generator(seed)
    x = torch.randn(40, d, dtype=torch.float64, generator=source)
    y = torch.randn(40, e, dtype=torch.float64, generator=source)
    y[:, 0] += 2 * x[:, -1]
    expected = cca_by_definition(x, y).mean()
    assert svcca(x, y, variance=1).item() == pytest.approx(expected, rel=1e-6)
    skewed = x @ (rotation(d, seed) * torch.arange(1, d + 1))
    assert svcca(skewed + 5, y, variance=1).item() == pytest.approx(expected, rel=1e-6)


def test_svcca_keeps_the_directions_of_most_variance():
    """x has orthogonal directions a, b, c of 90, 9 and 1 hundredths of its variance."""
    columns, _ = torch.linalg.qr(
        torch.cat([torch.ones(50, 1), torch.randn(50, 6, generator=generator())], 1).double()
    )
    a, b, c, other = columns[:, 1:5].T[..., None]
    x = torch.cat([a, b, c], 1) * torch.tensor([90.0, 9.0, 1.0]).double().sqrt() @ rotation(3, 1)
    half = math.sqrt(0.5)
    assert svcca(x, a + other, 0.5).item() == pytest.approx(half)
    assert svcca(x, c, 0.95).item() == pytest.approx(0, abs=1e-9)
    assert svcca(x, c, 0.995).item() == pytest.approx(1)
    y = torch.cat([a + other, 1.2 * c], 1)  # of 2 and 1.44 parts
    assert svcca(x, y, 0.95).item() == pytest.approx(half / 2)
    assert svcca(x, y, 0.5).item() == pytest.approx(half)
    assert svcca(x, y, 1).item() == pytest.approx((half + 1) / 2)


@settings(max_examples=30, deadline=None)
@given(d=st.integers(1, 5), e=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_pwcca_matches_its_definition(d, e, seed):
    source = generator(seed)
    x = torch.randn(40, d, dtype=torch.float64, generator=source)
    y = torch.randn(40, e, dtype=torch.float64, generator=source)
    y[:, 0] += x[:, 0]
    a, b = centred(x), centred(y)
    q = np.linalg.qr(a)[0]
    left, values, _ = np.linalg.svd(q.T @ np.linalg.qr(b)[0], full_matrices=False)
    variates = q @ left
    weights = [sum(abs(variate @ column) for column in a.T) for variate in variates.T]
    expected = np.average(values, weights=weights)
    assert pwcca(x, y).item() == pytest.approx(expected, rel=1e-8)
    moved = y @ (rotation(e, seed) * torch.arange(1, e + 1)) - 3
    assert pwcca(7 * x + 1, moved).item() == pytest.approx(expected, rel=1e-8)


def test_narrow_rows_correlate_whatever_they_are():
    x, y = torch.randn(2, 20, 30, generator=generator())
    assert svcca(x, y, variance=1).item() == pytest.approx(1)
    assert pwcca(x, y).item() == pytest.approx(1)
    assert linear_r2(x, y, test=(x, y), ridge=1e-12).item() == pytest.approx(1)
    assert linear_r2(x, y).item() < 0.1


@pytest.mark.parametrize("measure", [procrustes, svcca, pwcca, linear_r2])
def test_maps_are_invariant_to_rotation_shift_and_scale(measure):
    x, noise = torch.randn(2, 60, 6, dtype=torch.float64, generator=generator())
    y = x + noise
    expected = measure(x, y).item()
    moved = -1e4 * (x @ rotation(6, 1) + 3) if measure is not pwcca else -1e4 * (x + 3)
    other = 1e-5 * y @ rotation(6, 2) - 7e-5
    assert measure(moved, other).item() == pytest.approx(expected, rel=1e-7)
    offset = measure(x.float() + 100, y.float() - 100)
    assert offset.item() == pytest.approx(expected, abs=2e-4)
    assert measure(x.half(), y.bfloat16()).item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("measure", [procrustes, svcca, pwcca])
def test_maps_are_invariant_to_order(measure):
    x, y = torch.randn(2, 30, 4, dtype=torch.float64, generator=generator())
    order = torch.randperm(30, generator=generator(1))
    assert measure(x[order], y[order]).item() == pytest.approx(measure(x, y).item())
    assert measure(x, x).item() == pytest.approx(1)


@pytest.mark.parametrize("measure", [procrustes, svcca, pwcca, linear_r2])
def test_maps_of_collapsed_sides_are_zero(measure):
    x = torch.randn(30, 4, generator=generator())
    for point in (torch.zeros(30, 3), torch.full((30, 3), 0.1), torch.full((30, 3), 1e4)):
        assert measure(point, x).item() == measure(x, point).item() == 0
        assert measure(point, point).item() == 0


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(10, 40),
    d=st.integers(1, 12),
    ridge=st.floats(1e-4, 10),
    seed=st.integers(0, 2**31),
)
def test_linear_r2_matches_the_normal_equations(count, d, ridge, seed):
    source = generator(seed)
    x = torch.randn(count, d, dtype=torch.float64, generator=source)
    y = torch.randn(count, 3, dtype=torch.float64, generator=source)
    y[:, 0] += 2 * x[:, 0]
    fifth = np.arange(1, count + 1) % 5 == 0
    a, b = x.numpy()[~fifth], y.numpy()[~fifth]
    mean_a, mean_b = a.mean(0), b.mean(0)
    gram = (a - mean_a).T @ (a - mean_a)
    gram = gram + ridge * np.trace(gram) / d * np.eye(d)
    weights = np.linalg.solve(gram, (a - mean_a).T @ (b - mean_b))
    missed = y.numpy()[fifth] - mean_b - (x.numpy()[fifth] - mean_a) @ weights
    expected = 1 - (missed**2).sum() / ((y.numpy()[fifth] - mean_b) ** 2).sum()
    assert linear_r2(x, y, ridge=ridge).item() == pytest.approx(expected, rel=1e-7, abs=1e-9)
    fifth = torch.from_numpy(fifth)
    given_rows = linear_r2(x[~fifth], y[~fifth], ridge=ridge, test=(x[fifth], y[fifth]))
    assert given_rows.item() == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_linear_r2_without_ridge_is_least_squares():
    x, noise = torch.randn(2, 50, 4, dtype=torch.float64, generator=generator())
    y = x @ rotation(4, 3) * torch.arange(1, 5) + noise
    solution, *_ = np.linalg.lstsq(centred(x), centred(y), rcond=None)
    missed = centred(y) - centred(x) @ solution
    expected = 1 - (missed**2).sum() / (centred(y) ** 2).sum()
    assert linear_r2(x, y, ridge=0, test=(x, y)).item() == pytest.approx(expected, rel=1e-9)
    twice = torch.cat([x, x], 1)  # more columns than rank: the least of the best maps
    assert linear_r2(twice, y, ridge=0, test=(twice, y)).item() == pytest.approx(expected, rel=1e-9)
    assert linear_r2(x, x @ rotation(4, 1) + 2, ridge=0).item() == pytest.approx(1)


@pytest.mark.parametrize("block", [1, 7, 60])
def test_linear_r2_does_not_depend_on_blocks(monkeypatch, block):
    x, y = torch.randn(2, 60, 5, dtype=torch.float64, generator=generator())
    expected = linear_r2(x, x + y).item()
    monkeypatch.setattr("mirrorlib.alignment.rows.BLOCK_ROWS", block)
    assert linear_r2(x, x + y).item() == pytest.approx(expected, rel=1e-12)


def test_maps_refuse_what_they_cannot_answer():
    x, wrong = torch.randn(6, 2, generator=generator()), torch.randn(6, 2, generator=generator())
    wrong[2, 1] = math.nan
    for measure in (procrustes, svcca, pwcca, linear_r2):
        with pytest.raises(ValueError, match=r"\(6, 2\) and \(5, 2\)"):
            measure(x, x[:5])
        with pytest.raises(ValueError, match="x must be of floating point"):
            measure(x.long(), x)
        with pytest.raises(ValueError, match="y is not finite in 1 of 6 rows, first 2"):
            measure(x, wrong)
    for variance in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="variance must be above 0 and at most 1"):
            svcca(x, x, variance)
    with pytest.raises(ValueError, match="ridge must be finite and at least 0, not -1"):
        linear_r2(x, x, ridge=-1)
    with pytest.raises(ValueError, match="at least 5 rows or test, not 4"):
        linear_r2(x[:4], x[:4])
    with pytest.raises(ValueError, match=r"\(M, 2\) and \(M, 2\), not \(6, 1\) and \(6, 2\)"):
        linear_r2(x, x, test=(x[:, :1], x))
    with pytest.raises(ValueError, match="y_test is not finite"):
        linear_r2(x, x, test=(x, wrong))
