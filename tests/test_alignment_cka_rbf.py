"""CKA of Gaussian kernels against the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from mirrorlib.alignment import cka


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rbf_by_definition(x: Tensor, y: Tensor, debiased: bool, bandwidth: float) -> float:
    """From scipy's distances; HSIC_1 as Song et al.'s equation 5, HSIC_0 with H."""
    count = len(x)

    def kernel(rows: Tensor) -> np.ndarray:
        distances = pdist(rows.double().numpy())
        width = bandwidth * np.quantile(distances, 0.5, method="lower")
        return np.exp(-(squareform(distances) ** 2) / (2 * width**2))

    def h(k: np.ndarray, m: np.ndarray) -> float:
        if not debiased:
            centring = np.eye(count) - 1 / count
            return np.trace(k @ centring @ m @ centring)
        k, m = (kernel * (1 - np.eye(count)) for kernel in (k, m))
        outer = k.sum() * m.sum() / ((count - 1) * (count - 2))
        return np.trace(k @ m) + outer - 2 / (count - 2) * (k @ m).sum()

    k, m = kernel(x), kernel(y)
    return h(k, m) / math.sqrt(h(k, k) * h(m, m))


@pytest.mark.parametrize("debiased", [True, False])
@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(4, 30),
    d=st.integers(2, 20),
    bandwidth=st.floats(0.3, 5),
    common=st.floats(0, 2),
    seed=st.integers(0, 2**31),
)
def test_rbf_cka_matches_its_definition(count, d, bandwidth, common, seed, debiased):
    source = generator(seed)
    x = torch.randn(count, d, dtype=torch.float64, generator=source)
    y = torch.randn(count, 3, dtype=torch.float64, generator=source)
    y[:, 0] += common * x[:, 0]
    expected = rbf_by_definition(x, y, debiased, bandwidth)
    found = cka(x, y, kernel="rbf", debiased=debiased, bandwidth=bandwidth)
    assert found.item() == pytest.approx(expected, rel=1e-7, abs=1e-7)
    same = cka(x, x, kernel="rbf", debiased=debiased, bandwidth=bandwidth)
    assert same.item() == pytest.approx(1)


@pytest.mark.parametrize("debiased", [True, False])
@settings(max_examples=40, deadline=None)
@given(
    factor=st.floats(1e-6, 1e6),
    sign=st.sampled_from([-1, 1]),
    shift=st.floats(-100, 100),
    seed=st.integers(0, 2**31),
)
def test_rbf_cka_is_invariant_to_rotation_scale_shift_and_order(
    factor, sign, shift, seed, debiased
):
    source = generator(seed)
    x, y = torch.randn(2, 12, 5, dtype=torch.float64, generator=source)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=source))
    order = torch.randperm(12, generator=source)
    moved = sign * factor * (x @ rotation + shift)
    expected = cka(x, y, kernel="rbf", debiased=debiased).item()
    found = cka(moved[order], y[order], kernel="rbf", debiased=debiased)
    assert found.item() == pytest.approx(expected, abs=1e-7)


def test_rbf_cka_in_float32_survives_a_large_offset():
    x, y = torch.randn(2, 200, 64, generator=generator())
    y = x + y
    expected = cka(x.double(), y.double(), kernel="rbf").item()
    assert cka(x, y, kernel="rbf").item() == pytest.approx(expected, abs=1e-5)
    offset = cka(x + 100, y - 100, kernel="rbf")
    assert offset.dtype == torch.float32 and offset.item() == pytest.approx(expected, abs=1e-4)
    for bandwidth in (0.2, 100.0):  # sharp, and so wide that the kernel is nearly 1
        expected = cka(x.double(), y.double(), kernel="rbf", bandwidth=bandwidth).item()
        found = cka(x, y, kernel="rbf", bandwidth=bandwidth).item()
        assert found == pytest.approx(expected, abs=1e-4)
    linear = cka(x.double(), y.double()).item()
    wide = cka(x.double(), y.double(), kernel="rbf", bandwidth=1000.0).item()
    assert wide == pytest.approx(linear, abs=1e-5)  # Kornblith et al., section 3


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("block", [1, 7, 50])
def test_rbf_cka_does_not_depend_on_blocks(monkeypatch, block, debiased):
    x, y = torch.randn(2, 50, 6, dtype=torch.float64, generator=generator())
    y = x + y
    expected = cka(x, y, kernel="rbf", debiased=debiased).item()
    monkeypatch.setattr("mirrorlib.alignment.rows.BLOCK_ROWS", block)
    found = cka(x, y, kernel="rbf", debiased=debiased).item()
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
def test_rbf_cka_gradient_matches_finite_differences_at_a_fixed_median(debiased):
    x, y = torch.randn(2, 7, 3, dtype=torch.float64, generator=generator())
    y = x + y
    width_x, width_y = (float(np.median(pdist(rows.numpy()))) for rows in (x, y))

    def reference(a: Tensor, b: Tensor) -> Tensor:
        outside = 1 - torch.eye(7, dtype=torch.float64)
        centring = torch.eye(7, dtype=torch.float64) - 1 / 7

        def centred(rows: Tensor, width: float) -> Tensor:
            squares = (rows[:, None] - rows).square().sum(2)
            kernel = (-squares / (2 * width**2)).exp()
            if not debiased:
                return centring @ kernel @ centring
            kernel = kernel * outside
            sums = kernel.sum(0)
            kernel = kernel - (sums[:, None] + sums) / 5 + sums.sum() / 30
            return kernel * outside

        k, m = centred(a, width_x), centred(b, width_y)
        return (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()

    x.requires_grad_()
    y.requires_grad_()
    assert torch.autograd.gradcheck(reference, (x, y))
    expected = torch.autograd.grad(reference(x, y), (x, y))
    found = torch.autograd.grad(cka(x, y, kernel="rbf", debiased=debiased), (x, y))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rbf_cka_of_collapsed_sides_is_zero(dtype, debiased):
    other = torch.randn(32, 6, generator=generator()).to(dtype)
    collapsed = [
        torch.zeros(32, 8),
        torch.randn(1, 8, generator=generator(1)).repeat(32, 1),
        torch.full((32, 8), 1e4),
        torch.full((32, 8), 0.1),
    ]
    if debiased:
        collapsed += [torch.eye(32), 100 + torch.eye(32)]
    for x in collapsed:
        for pair in ((x.to(dtype), other), (other, x.to(dtype)), (x.to(dtype), x.to(dtype))):
            left, right = (side.clone().requires_grad_() for side in pair)
            value = cka(left, right, kernel="rbf", debiased=debiased)
            value.backward()
            assert value.item() == 0
            assert not left.grad.any() and not right.grad.any()  # nan is not 0 either


def test_rbf_cka_of_duplicated_rows_has_a_finite_gradient():
    x, y = torch.randn(2, 8, 4, generator=generator())
    x = x[[0, 0, 0, 0, 0, 0, 1, 2]].requires_grad_()  # most pairs are at distance 0
    value = cka(x, y, kernel="rbf")
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all() and x.grad.any()


def test_the_median_of_many_rows_is_that_of_rows_spaced_evenly(monkeypatch):
    x, y = torch.randn(2, 301, 5, dtype=torch.float64, generator=generator())
    y = x + y
    all_pairs = cka(x, y, kernel="rbf").item()
    monkeypatch.setattr("mirrorlib.alignment.cka_rbf.MEDIAN_ROWS", 61)
    some = cka(x, y, kernel="rbf").item()
    assert some != all_pairs and some == pytest.approx(all_pairs, abs=0.02)
    spread = torch.full((301, 1), 1.0, dtype=torch.float64)
    spread[::5] = 0  # the rows taken: their median is of equal rows, so nothing differs
    assert cka(spread, y, kernel="rbf").item() == 0


def test_rbf_cka_refuses_what_it_cannot_answer():
    x = torch.ones(5, 2)
    with pytest.raises(ValueError, match="'linear' or 'rbf', not 'cosine'"):
        cka(x, x, kernel="cosine")
    for bandwidth in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="bandwidth must be finite and above 0"):
            cka(x, x, kernel="rbf", bandwidth=bandwidth)
    wrong = torch.randn(8, 2, generator=generator())
    wrong[3, 0] = math.nan
    assert cka(wrong, torch.randn(8, 2, generator=generator(1)), kernel="rbf").isnan()
