"""The CKA objective: what of its batch and its options reaches `mirrorlib.alignment.cka`."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mirrorlib.alignment import cka
from mirrorlib_objectives.cka import CKA, build_cka
from mirrorlib_objectives.config import CKAConfig

EVERY = pytest.mark.parametrize("debiased", [True, False])
KERNELS = pytest.mark.parametrize("kernel", ["linear", "rbf"])


def rows(count: int = 32, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    u, noise = torch.randn(2, count, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    return u, u + noise


@EVERY
@KERNELS
def test_value_and_logs(kernel, debiased):
    u, e = rows(dtype=torch.float64)
    objective = build_cka(CKAConfig(kernel=kernel, debiased=debiased, bandwidth=0.7))
    loss = objective(u, e)
    expected = cka(u, e, kernel=kernel, debiased=debiased, bandwidth=0.7).item()
    assert loss.value.item() == pytest.approx(1 - expected, rel=1e-12)
    assert 0.01 < loss.value.item() < 0.9
    assert loss.logs.keys() == {"loss", "cka"}
    assert loss.logs["loss"] == loss.value == 1 - loss.logs["cka"]
    labels = torch.arange(32) // 2
    assert objective(u, e, labels).value == loss.value


def test_options_differ():
    u, e = rows(dtype=torch.float64)
    options = [{}, {"debiased": False}, {"kernel": "rbf"}, {"kernel": "rbf", "bandwidth": 0.5}]
    assert len({round(CKA(**chosen)(u, e).value.item(), 6) for chosen in options}) == 4


@EVERY
def test_gradient_matches_finite_differences(debiased):
    """Of the linear kernel: the Gaussian's median distance is a constant to autograd."""
    generator = torch.Generator().manual_seed(0)
    u, e = torch.randn(2, 32, 2, dtype=torch.float64, generator=generator)
    inputs = (u.requires_grad_(), (u + e).detach().requires_grad_())
    objective = CKA("linear", debiased)
    assert torch.autograd.gradcheck(lambda u, e: objective(u, e).value, inputs, fast_mode=True)


@KERNELS
def test_gradient_descent_aligns(kernel):
    """From independent rows to nearly one similarity structure, and not by collapsing."""
    u, e = torch.randn(2, 48, 8, generator=torch.Generator().manual_seed(0))
    e.requires_grad_()
    optimizer = torch.optim.Adam([e], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss = CKA(kernel)(u, e)
        loss.value.backward()
        optimizer.step()
    assert loss.logs["cka"] > 0.98
    assert e.std(0).min() > 0.3


@EVERY
@KERNELS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_collapsed_sides_are_worth_one_and_get_no_gradient(dtype, kernel, debiased):
    u, e = rows(dtype=dtype)
    for collapsed in (torch.zeros_like(e), e[:1].repeat(32, 1)):
        u, e = u.detach().requires_grad_(), collapsed.requires_grad_()
        loss = CKA(kernel, debiased)(u, e)
        loss.value.backward()
        assert loss.value.item() == 1 and loss.logs["cka"] == 0
        assert not u.grad.any() and not e.grad.any()


def test_too_few_rows_are_refused():
    CKA()(*rows(CKAConfig.minimum_rows))
    with pytest.raises(ValueError, match="CKA needs at least 32 rows to align, not 31"):
        CKA()(*rows(31))
    with pytest.raises(ValueError, match=r"\(32, 3\).* and \(32, 4\)"):
        CKA()(torch.ones(32, 3), torch.ones(32, 4))


def test_configuration():
    assert CKAConfig.minimum_rows == 32 and build_cka(CKAConfig()).options == CKA().options
    for wrong in (
        {"minimum_rows": 8},
        {"kernel": "cosine"},
        {"bandwidth": 0},
        {"bandwidth": math.inf},
    ):
        with pytest.raises(ValidationError):
            CKAConfig(**wrong)
