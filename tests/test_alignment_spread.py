"""Effective rank, scale, alignment and uniformity against closed forms and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from mirrorlib.alignment import alignment, effective_rank, scale, uniformity


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_scale():
    x = torch.randn(30, 7, dtype=torch.float64, generator=generator())
    expected = math.sqrt(x.numpy().var(0).mean())
    rotation, _ = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64, generator=generator(1)))
    assert scale(x).item() == pytest.approx(expected, rel=1e-12)
    assert scale(-3 * x @ rotation + 50).item() == pytest.approx(3 * expected, rel=1e-10)
    assert scale(x.float() + 100).item() == pytest.approx(expected, rel=1e-4)
    assert scale(torch.full((9, 4), 0.1)).item() == 0
    assert scale(x.half()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"\(N, D\), not \(3,\)"):
        scale(torch.ones(3))


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(2, 20),
    power=st.sampled_from([1.0, 2.0, 3.5]),
    t=st.floats(0.1, 10),
    seed=st.integers(0, 2**31),
)
def test_alignment_and_uniformity_match_loops(count, power, t, seed):
    source = generator(seed)
    x, y = torch.randn(2, count, 4, dtype=torch.float64, generator=source)
    unit_x, unit_y = (
        rows.numpy() / np.linalg.norm(rows.numpy(), axis=1, keepdims=True) for rows in (x, y)
    )
    expected = np.mean(np.linalg.norm(unit_x - unit_y, axis=1) ** power)
    found = alignment(x, y, power=power).item()
    assert found == pytest.approx(expected, rel=1e-10) and 0 <= found <= 2**power
    expected = math.log(np.mean(np.exp(-t * pdist(unit_x) ** 2)))
    found = uniformity(x, t=t).item()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12) and -4 * t <= found <= 0
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=source))
    lengths = 1e-3 + torch.rand(2, count, 1, dtype=torch.float64, generator=source)
    order = torch.randperm(count, generator=source)
    moved_x, moved_y = ((lengths[i] * s @ rotation)[order] for i, s in enumerate((x, y)))
    assert uniformity(moved_x, t=t).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    again = alignment(moved_x, moved_y, power=power).item()
    assert again == pytest.approx(alignment(x, y, power=power).item(), rel=1e-9)


@pytest.mark.parametrize("block", [1, 7, 30])
def test_uniformity_does_not_depend_on_blocks(monkeypatch, block):
    x = torch.randn(30, 4, dtype=torch.float64, generator=generator()).requires_grad_()
    expected = uniformity(x)
    gradient = torch.autograd.grad(expected, x)[0]
    monkeypatch.setattr("mirrorlib.alignment.rows.BLOCK_ROWS", block)
    found = uniformity(x)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found, x)[0], gradient)


def test_alignment_and_uniformity_have_the_gradient_of_finite_differences():
    x, y = torch.randn(2, 6, 3, dtype=torch.float64, generator=generator()).requires_grad_()
    assert torch.autograd.gradcheck(uniformity, (x,))
    for power in (1.0, 2.0, 3.0):
        assert torch.autograd.gradcheck(lambda a, b, p=power: alignment(a, b, power=p), (x, y))


def test_alignment_and_uniformity_at_their_ends():
    x = torch.randn(500, 64, generator=generator())
    assert alignment(x, -x).item() == pytest.approx(4)
    assert uniformity(x).item() == pytest.approx(-4, abs=0.15)
    assert uniformity(torch.tensor([[1.0, 0], [-1, 0]])).item() == pytest.approx(-8)
    for point in (torch.zeros(9, 3), torch.full((9, 3), 0.1), torch.full((9, 3), 0.1).half()):
        sides = [point.clone().requires_grad_() for _ in range(2)]
        for power in (1.0, 2.0, 3.0):
            values = alignment(*sides, power=power), uniformity(sides[0])
            (values[0] + values[1]).backward()
            assert values[0].dtype == values[1].dtype == torch.float32
            assert [value.item() for value in values] == pytest.approx([0, 0], abs=1e-6)
            assert all(side.grad.isfinite().all() for side in sides)
    assert all(uniformity(row.repeat(20, 1)) <= 0 for row in x[:20])
    half_zero = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    assert alignment(half_zero, half_zero.roll(1, 0)).item() == pytest.approx((1 + 1 + 2 + 2) / 4)


def test_alignment_and_uniformity_refuse_what_they_cannot_answer():
    x = torch.ones(4, 2)
    for y in (torch.ones(4, 3), torch.ones(3, 2), torch.ones(4)):
        with pytest.raises(ValueError, match=r"one shape \(N, D\)"):
            alignment(x, y)
    with pytest.raises(ValueError, match="power must be above 0, not 0"):
        alignment(x, x, power=0)
    with pytest.raises(ValueError, match="at least 2 rows and t above 0, not 1 and 2"):
        uniformity(x[:1])
    with pytest.raises(ValueError, match="not 4 and -1"):
        uniformity(x, t=-1)
    with pytest.raises(ValueError, match="x must be of floating point"):
        uniformity(x.long())
