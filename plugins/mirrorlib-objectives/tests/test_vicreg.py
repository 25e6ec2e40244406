"""VICReg against the paper's formulas, written with loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from mirrorlib_objectives.config import VICRegConfig
from mirrorlib_objectives.vicreg import VICReg, build_vicreg


def rows(count: int, width: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    u, e = scale * torch.randn(2, count, width, dtype=torch.float64, generator=generator)
    return u, e


def reference(u: Tensor, e: Tensor) -> dict[str, float]:
    """The terms, one entry of a covariance matrix at a time, in Python floats."""
    terms = {
        "invariance": sum(
            (a - b) ** 2 for a, b in zip(u.flatten().tolist(), e.flatten().tolist(), strict=True)
        )
        / u.numel()
    }
    for name, side in (("u", u), ("e", e)):
        count, width = side.shape
        columns = [[value - sum(column) / count for value in column] for column in side.T.tolist()]
        covariance = [
            [sum(a * b for a, b in zip(x, y, strict=True)) / (count - 1) for y in columns]
            for x in columns
        ]
        deviations = [math.sqrt(covariance[j][j] + 1e-4) for j in range(width)]
        terms[f"variance_{name}"] = sum(max(0.0, 1 - d) for d in deviations) / width
        terms[f"covariance_{name}"] = (
            sum(covariance[j][k] ** 2 for j in range(width) for k in range(width) if j != k) / width
        )
        terms[f"narrow_{name}"] = sum(d < 1 for d in deviations) / width
    return terms


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(2, 8),
    width=st.integers(1, 24),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
)
def test_value_and_logs_match_the_formula(count, width, seed, scale):
    u, e = rows(count, width, seed, scale)
    objective = VICReg(invariance=3.0, variance=5.0, covariance=0.7)
    loss = objective(u, e)
    terms = reference(u, e)
    value = (
        3.0 * terms["invariance"]
        + 5.0 * (terms["variance_u"] + terms["variance_e"])
        + 0.7 * (terms["covariance_u"] + terms["covariance_e"])
    )
    assert loss.value.item() == pytest.approx(value, rel=1e-10)
    assert loss.logs.keys() == {"loss", *terms} and loss.logs["loss"] == loss.value
    for name, expected in terms.items():
        assert loss.logs[name].item() == pytest.approx(expected, rel=1e-9, abs=1e-12), name
    single = objective(u.float(), e.float()).value
    assert single.item() == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("width", [3, 16])
def test_gradient_matches_finite_differences(width):
    """Five rows: covariances of 3 dimensions by columns, of 16 by rows."""
    u, e = (side.requires_grad_() for side in rows(5, width))
    assert torch.autograd.gradcheck(lambda u, e: VICReg()(u, e).value, (u, e))


def test_zero_where_sides_agree_and_dimensions_are_apart():
    u = 2 * torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    loss = VICReg()(u, u)
    assert loss.value.item() == 0 and loss.logs["narrow_u"] == 0
    assert VICReg()(u, u + 1).value.item() == pytest.approx(25)
    assert VICReg()(u + 7, u + 7).value.item() == 0


def test_collapse_shows_and_constant_dimensions_have_finite_gradients():
    u, e = (side.float() for side in rows(6, 4))
    u[:, 2] = 1e4 / 3
    e[:] = e[0]
    u.requires_grad_()
    e.requires_grad_()
    loss = VICReg(invariance=0.0)(u, e)
    loss.value.backward()
    assert loss.logs["narrow_e"] == 1
    assert loss.logs["variance_e"].item() == pytest.approx(1 - math.sqrt(1e-4), rel=1e-5)
    assert loss.logs["covariance_e"] < 1e-10
    assert u.grad.isfinite().all() and u.grad[:, [0, 1, 3]].any(0).all()
    assert u.grad[:, 2].abs().max() < 1e-3 and e.grad.abs().max() < 1e-3


def test_a_large_offset_does_not_reach_the_covariances():
    u, e = (side.float() for side in rows(64, 8))
    near, far = VICReg()(u, e).logs, VICReg()(u + 1000, e - 1000).logs
    for name in ("variance_u", "covariance_u", "variance_e", "covariance_e"):
        assert far[name].item() == pytest.approx(near[name].item(), rel=1e-3, abs=1e-4), name


def test_rows_and_configuration():
    with pytest.raises(ValueError, match="VICReg needs at least 2 rows to align, not 1"):
        VICReg()(torch.ones(1, 3), torch.ones(1, 3))
    built = build_vicreg(VICRegConfig(invariance=1, variance=2, covariance=3))
    weights = built.weights
    assert (weights.invariance, weights.variance, weights.covariance) == (1, 2, 3)
    defaults = VICReg().weights
    assert (defaults.invariance, defaults.variance, defaults.covariance) == (25, 25, 1)
    for wrong in ({"variance": -1}, {"covariance": math.inf}, {"gamma": 1}):
        with pytest.raises(ValidationError):
            VICRegConfig(**wrong)
