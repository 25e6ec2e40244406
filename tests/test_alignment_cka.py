"""Linear CKA, its gradient and its minibatch estimate, against the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirrorlib.alignment import cka, minibatch_cka


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cka_by_definition(x: Tensor, y: Tensor, debiased: bool) -> float:
    """From Gram matrices of rows that are not centred: HSIC_1 as the product of U-centred ones
    without their diagonals, HSIC_0 with the centring matrix."""
    count = len(x)
    outside = 1 - np.eye(count)
    centring = np.eye(count) - 1 / count

    def centred(rows: Tensor) -> np.ndarray:
        gram = rows.double().numpy() @ rows.double().numpy().T
        if not debiased:
            return centring @ gram @ centring
        gram = gram * outside
        sums = gram.sum(0)
        gram = gram - (sums[:, None] + sums) / (count - 2)
        return outside * (gram + sums.sum() / ((count - 1) * (count - 2)))

    k, m = centred(x), centred(y)
    return (k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum())


@pytest.mark.parametrize("debiased", [True, False])
@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(4, 30),
    d=st.integers(1, 40),
    e=st.integers(1, 40),
    common=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_cka_matches_its_definition(count, d, e, common, seed, debiased):
    source = generator(seed)
    x = torch.randn(count, d, dtype=torch.float64, generator=source)
    y = torch.randn(count, e, dtype=torch.float64, generator=source)
    y[:, 0] += common * x[:, 0]
    expected = cka_by_definition(x, y, debiased)
    assert cka(x, y, debiased=debiased).item() == pytest.approx(expected, rel=1e-8, abs=1e-8)
    assert cka(x, x, debiased=debiased).item() == pytest.approx(1)


@pytest.mark.parametrize("debiased", [True, False])
@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(6, 20),
    factor=st.floats(1e-6, 1e6),
    sign=st.sampled_from([-1, 1]),
    shift=st.floats(-100, 100),
    seed=st.integers(0, 2**31),
)
def test_cka_is_invariant_to_rotation_scale_and_shift(count, factor, sign, shift, seed, debiased):
    source = generator(seed)
    x, y = torch.randn(2, count, 5, dtype=torch.float64, generator=source)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=source))
    moved = sign * factor * (x @ rotation + shift)
    expected = cka(x, y, debiased=debiased).item()
    assert cka(moved, y, debiased=debiased).item() == pytest.approx(expected, abs=1e-7)
    assert cka(y, moved, debiased=debiased).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("count", [32, 400])
def test_cka_in_float32_survives_a_large_offset(count, debiased):
    x, y = torch.randn(2, count, 64, generator=generator())
    y = x + y
    expected = cka_by_definition(x, y, debiased)
    assert cka(x, y, debiased=debiased).item() == pytest.approx(expected, abs=1e-5)
    offset = cka(x + 100, y - 100, debiased=debiased)
    assert offset.dtype == torch.float32
    assert offset.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("count", "biased_is"), [(32, 0.89), (256, 0.50)])
def test_cka_of_independent_rows(count, biased_is):
    pairs = [torch.randn(2, count, 256, generator=generator(seed)) for seed in range(50)]
    biased = [cka(x, y, debiased=False).item() for x, y in pairs]
    debiased = [cka(x, y).item() for x, y in pairs]
    assert np.mean(biased) == pytest.approx(biased_is, abs=0.01)
    assert np.mean(debiased) == pytest.approx(0, abs=4 * np.std(debiased) / math.sqrt(50))
    assert np.std(debiased) < 0.1


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("count", [4, 6, 12])  # few: by Gram matrices, many: by features
def test_cka_gradient_matches_finite_differences(count, debiased):
    source = generator(count)
    x = torch.randn(count, 3, dtype=torch.float64, generator=source).requires_grad_()
    y = torch.randn(count, 5, dtype=torch.float64, generator=source).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: cka(a, b, debiased=debiased), (x, y))
    shifted = (100 + x.detach()).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: cka(a, y.detach(), debiased=debiased), (shifted,))


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_cka_of_equal_rows_is_zero(dtype, debiased):
    other = torch.randn(32, 6, generator=generator()).to(dtype)
    for row in (torch.zeros(8), torch.randn(8, generator=generator(1)), torch.full((8,), 1e4)):
        check_collapsed(row.to(dtype).repeat(32, 1), other, debiased)
    nudged = torch.full((32, 8), 0.1, dtype=torch.promote_types(dtype, torch.float32))
    nudged[::3] = torch.nextafter(nudged[::3], torch.ones(()).to(nudged))
    check_collapsed(nudged, other, debiased)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [4, 5, 32, 33, 200])
def test_debiased_cka_of_equally_distant_rows_is_zero(count, dtype):
    """Their U-centred Gram matrix is 0; so is that of one row apart from all others."""
    other = torch.randn(count, 6, dtype=dtype, generator=generator())
    apart = torch.zeros(count, 3, dtype=dtype)
    apart[1] = 0.7
    for x in (torch.eye(count, dtype=dtype), 100 + torch.eye(count, dtype=dtype), apart):
        check_collapsed(x, other, debiased=True)
        assert cka(x, x, debiased=False).item() == pytest.approx(1)


def check_collapsed(x: Tensor, other: Tensor, debiased: bool) -> None:
    for pair in ((x, other), (other, x), (x, x)):
        left, right = (side.clone().requires_grad_() for side in pair)
        value = cka(left, right, debiased=debiased)
        value.backward()
        assert value.item() == 0
        assert not left.grad.any() and not right.grad.any()  # nan is not 0 either


def test_cka_does_not_hide_what_is_not_a_number():
    x, y = torch.randn(2, 8, 3, generator=generator())
    for wrong in (math.nan, math.inf):
        x[0, 0] = wrong
        assert cka(x, y).isnan() and cka(y, x, debiased=False).isnan()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.ones(5, 2), torch.ones(6, 2), r"\(N, E\), not \(5, 2\) and \(6, 2\)"),
        (torch.ones(5), torch.ones(5, 2), r"not \(5,\) and \(5, 2\)"),
        (torch.ones(5, 2), torch.ones(5, 0), r"not \(5, 2\) and \(5, 0\)"),
        (torch.ones(3, 2), torch.ones(3, 2), "at least 4 rows, not 3"),
        (torch.ones(5, 2).long(), torch.ones(5, 2), "x must be of floating point, not torch.int64"),
    ],
)
def test_cka_refuses_what_it_cannot_answer(x, y, message):
    with pytest.raises(ValueError, match=message):
        cka(x, y)


@pytest.mark.parametrize("block", [1, 7, 50])
@pytest.mark.parametrize("debiased", [True, False])
def test_cka_gradient_does_not_depend_on_blocks(monkeypatch, block, debiased):
    """By features, of 50 rows, against autograd through the definition."""
    monkeypatch.setattr("mirrorlib.alignment.rows.BLOCK_ROWS", block)
    x, y = torch.randn(2, 50, 3, dtype=torch.float64, generator=generator())
    left, right = x.clone().requires_grad_(), (x + y).requires_grad_()
    cka(left, right, debiased=debiased).backward()
    of_left, of_right = left.grad, right.grad
    left.grad = right.grad = None
    gram_cka(left, right, debiased).backward()
    torch.testing.assert_close(of_left, left.grad, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(of_right, right.grad, rtol=1e-10, atol=1e-14)


def gram_cka(x: Tensor, y: Tensor, debiased: bool) -> Tensor:
    """`cka_by_definition` in torch, for autograd."""
    count = len(x)
    outside = 1 - torch.eye(count, dtype=x.dtype)

    def centred(rows: Tensor) -> Tensor:
        gram = rows @ rows.T
        if not debiased:
            return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
        gram = gram * outside
        sums = gram.sum(0)
        gram = gram - (sums[:, None] + sums) / (count - 2)
        return outside * (gram + sums.sum() / ((count - 1) * (count - 2)))

    k, m = centred(x), centred(y)
    return (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cka_of_half_precision_is_that_of_the_widened_rows(dtype):
    pairs = torch.randn(2, 40, 8, generator=generator()).to(dtype)
    x, y = (side.clone().requires_grad_() for side in pairs)
    wide_x, wide_y = (side.float().requires_grad_() for side in pairs)
    with torch.autocast("cpu", torch.bfloat16):
        value = cka(x, y)
    wide = cka(wide_x, wide_y)
    value.backward()
    wide.backward()
    assert value.dtype == torch.float32 and value.item() == wide.item()
    assert x.grad.dtype == dtype and torch.equal(x.grad, wide_x.grad.to(dtype))
    assert torch.equal(y.grad, wide_y.grad.to(dtype))
    frozen = cka(x.detach(), y)
    frozen.backward()
    assert torch.equal(y.grad, (2 * wide_y.grad.to(dtype)))


def test_cka_holds_no_gram_matrix():
    """20,000 rows by features: one of 20,000 x 20,000 would take 1.6 GB."""
    x, y = torch.randn(2, 20_000, 4, generator=generator())
    x.requires_grad_()
    value = cka(x, x.detach() + y)
    value.backward()
    assert value.item() == pytest.approx(0.5, abs=0.02)
    assert x.grad.isfinite().all() and x.grad.any()


def batches_of(x: Tensor, y: Tensor, size: int, draws: int) -> list[tuple[Tensor, Tensor]]:
    source, batches = generator(7), []
    for _ in range(draws):
        order = torch.randperm(len(x), generator=source)
        batches += [(x[rows], y[rows]) for rows in order.split(size)]
    return batches


@pytest.mark.parametrize(("size", "biased_mean"), [(64, 0.9), (256, 0.75), (1000, 0.6)])
def test_minibatches_estimate_the_cka_of_all_rows(size, biased_mean):
    """At any batch size, where the mean of biased values depends on it."""
    x, noise = torch.randn(2, 2000, 256, generator=generator())
    y = x + noise
    truth = cka(x, y).item()
    assert truth == pytest.approx(0.5, abs=0.01)
    batches = batches_of(x, y, size, draws=4)
    estimate = minibatch_cka(iter(batches))
    assert estimate.dtype == torch.float64
    assert estimate.item() == pytest.approx(truth, abs=0.005)
    biased = np.mean([cka(*pair, debiased=False).item() for pair in batches])
    assert biased > biased_mean


def test_minibatch_cka_is_the_ratio_of_sums_of_hsic():
    x, noise = torch.randn(2, 30, 5, dtype=torch.float64, generator=generator())
    y = x + noise
    slices = [slice(0, 6), slice(6, 20), slice(20, 30)]
    sums = np.zeros(3)
    for rows in slices:
        sums += [
            hsic_by_loops(*sides) for sides in ((x[rows],) * 2, (x[rows], y[rows]), (y[rows],) * 2)
        ]
    expected = sums[1] / math.sqrt(sums[0] * sums[2])
    found = minibatch_cka([(x[rows], y[rows]) for rows in slices])
    assert found.item() == pytest.approx(expected, rel=1e-10)
    moved = minibatch_cka([(1e-9 * x[rows] + i, 1e12 * y[rows]) for i, rows in enumerate(slices)])
    assert moved.item() == pytest.approx(expected, rel=1e-5)
    assert minibatch_cka([(x, y)]).item() == pytest.approx(cka(x, y).item(), rel=1e-10)
    large = minibatch_cka([(1e15 * x.float(), y.float())])
    assert large.item() == pytest.approx(cka(x, y).item(), rel=1e-4)


def hsic_by_loops(x: Tensor, y: Tensor) -> float:
    """Song et al.'s equation 5: of Gram matrices K and L without diagonal, (tr K L
    + sum K sum L / ((n - 1) (n - 2)) - 2 / (n - 2) sum K L) / (n (n - 3))."""
    count = len(x)
    k, m = (rows.numpy() @ rows.numpy().T for rows in (x, y))
    trace = total_k = total_m = product = 0.0
    for i in range(count):
        for j in range(count):
            if i != j:
                trace += k[i, j] * m[i, j]
                total_k += k[i, j]
                total_m += m[i, j]
            for other in range(count):
                if i != j and j != other:
                    product += k[i, j] * m[j, other]
    outer = total_k * total_m / ((count - 1) * (count - 2))
    return (trace + outer - 2 / (count - 2) * product) / (count * (count - 3))


def test_minibatch_cka_of_a_collapsed_side_is_zero_and_of_none_is_refused():
    x = torch.randn(8, 3, generator=generator())
    assert minibatch_cka([(x, torch.ones(8, 2)), (x, torch.zeros(8, 2))]).item() == 0
    assert minibatch_cka([(torch.eye(8), x)]).item() == 0
    with pytest.raises(ValueError, match="at least one batch"):
        minibatch_cka([])
    with pytest.raises(ValueError, match="at least 4 rows, not 2"):
        minibatch_cka([(x, x), (x[:2], x[:2])])
