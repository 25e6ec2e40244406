"""Barlow Twins against the paper's formulas, written with loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from mirrorlib_objectives.barlow import Barlow, build_barlow
from mirrorlib_objectives.config import BarlowConfig


def rows(count: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    u, noise = torch.randn(2, count, width, dtype=torch.float64, generator=generator)
    return u, u + noise


def correlation(x: list[float], y: list[float]) -> float:
    x = [value - math.fsum(x) / len(x) for value in x]
    y = [value - math.fsum(y) / len(y) for value in y]
    return math.fsum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))


def reference(u: Tensor, e: Tensor) -> tuple[float, float, float]:
    """On the diagonal, off it, and the diagonal's mean, one correlation at a time."""
    of_u, of_e = u.T.tolist(), e.T.tolist()
    width = len(of_u)
    diagonal = [correlation(x, y) for x, y in zip(of_u, of_e, strict=True)]
    off = [correlation(of_u[j], of_e[k]) ** 2 for j in range(width) for k in range(width) if j != k]
    return sum((1 - c) ** 2 for c in diagonal), sum(off), sum(diagonal) / width


@settings(max_examples=40, deadline=None)
@given(count=st.integers(3, 8), width=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_value_and_logs_match_the_formula(count, width, seed):
    u, e = rows(count, width, seed)
    on, off, mean = reference(u, e)
    loss = Barlow(redundancy=0.3)(u, e)
    assert loss.value.item() == pytest.approx(on + 0.3 * off, rel=1e-9)
    expected = {"on_diagonal": on, "off_diagonal": off, "correlation": mean}
    assert loss.logs.keys() == {"loss", *expected, "constant_u", "constant_e"}
    for name, number in expected.items():
        assert loss.logs[name].item() == pytest.approx(number, rel=1e-9, abs=1e-12), name
    assert loss.logs["constant_u"] == loss.logs["constant_e"] == 0
    single = Barlow(redundancy=0.3)(u.float(), e.float()).value
    assert single.item() == pytest.approx(on + 0.3 * off, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("width", [3, 16])
def test_gradient_matches_finite_differences(width):
    """Five rows: correlations of 3 dimensions by columns, of 16 by rows."""
    u, e = (side.requires_grad_() for side in rows(5, width))
    objective = Barlow(redundancy=0.3)
    assert torch.autograd.gradcheck(lambda u, e: objective(u, e).value, (u, e))


def test_zero_where_dimensions_match_and_do_not_correlate():
    u = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert Barlow()(u, u).value.item() == pytest.approx(0, abs=1e-12)
    assert Barlow()(u, -u).value.item() == pytest.approx(12)
    assert Barlow(redundancy=0.5)(u, u[:, [1, 2, 0]]).value.item() == pytest.approx(3 + 1.5)


def test_scale_and_shift_of_a_dimension_do_not_matter():
    u, e = rows(20, 6)
    plain = Barlow()(u, e).value.item()
    scales, shifts = torch.tensor([[1e-30, 1e-3, 1, 10, 1e6, 1e25], [0, 5, -100, 0, 0, 0]])
    moved = Barlow()(u * scales + shifts, e).value.item()
    assert moved == pytest.approx(plain, rel=1e-10)
    single = u.float().mul(scales).add(shifts).requires_grad_()
    loss = Barlow()(single, e.float())
    loss.value.backward()
    assert loss.value.item() == pytest.approx(plain, rel=1e-4) and loss.logs["constant_u"] == 0
    assert single.grad.isfinite().all() and single.grad.any(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4 / 3, -1e-20])
def test_constant_dimensions_cost_one_and_get_no_gradient(dtype, constant):
    u, e = (side.to(dtype) for side in rows(1000, 4))
    rest = [0, 2, 3]
    without = Barlow()(u[:, rest], e[:, rest]).logs["on_diagonal"].item()
    u[:, 1] = constant
    u.requires_grad_()
    e.requires_grad_()
    loss = Barlow()(u, e)
    loss.value.backward()
    assert loss.logs["on_diagonal"].item() == pytest.approx(without + 1, rel=1e-5)
    assert loss.logs["constant_u"] == 0.25 and loss.logs["constant_e"] == 0
    assert not u.grad[:, 1].any() and u.grad[:, rest].any(0).all()
    assert u.grad.isfinite().all() and e.grad.isfinite().all()


def test_rows_and_configuration():
    with pytest.raises(ValueError, match="Barlow needs at least 2 rows to align, not 1"):
        Barlow()(torch.ones(1, 3), torch.ones(1, 3))
    assert build_barlow(BarlowConfig(redundancy=0.1)).redundancy == 0.1
    assert Barlow().redundancy == 0.005
    for wrong in ({"redundancy": -1}, {"redundancy": math.nan}, {"lambda": 1}):
        with pytest.raises(ValidationError):
            BarlowConfig(**wrong)
