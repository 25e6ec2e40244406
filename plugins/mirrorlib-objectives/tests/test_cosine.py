"""The cosine objective against loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mirrorlib_objectives.config import CosineConfig
from mirrorlib_objectives.cosine import Cosine, build_cosine


class World:
    """Six rows over three processes; neither side can be gathered."""

    size, total = 3, 6


def rows(count: int, width: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    u, e = torch.randn(2, count, width, dtype=torch.float64, generator=generator)
    return u, e


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 7), width=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_value_and_logs(count, width, seed):
    u, e = rows(count, width, seed)
    cosines = [
        sum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))
        for x, y in zip(u.tolist(), e.tolist(), strict=True)
    ]
    loss = build_cosine(CosineConfig())(u, e)
    assert loss.value.item() == pytest.approx(1 - sum(cosines) / count, rel=1e-10, abs=1e-14)
    assert loss.logs.keys() == {"loss", "cosine"}
    assert loss.logs["loss"] == loss.value
    assert loss.logs["cosine"].item() == pytest.approx(sum(cosines) / count, rel=1e-10, abs=1e-14)


def test_special_cases():
    u, e = rows(5)
    lengths = torch.rand(5, 1, dtype=torch.float64) + 0.1
    assert Cosine()(u, e).value.item() == pytest.approx(Cosine()(lengths * u, e).value.item())
    assert Cosine()(u, 3 * u).value.item() == pytest.approx(0, abs=1e-15)
    assert Cosine()(u, -u).value.item() == pytest.approx(2)
    labels = torch.zeros(5, dtype=torch.int64)
    assert Cosine()(u, e, labels).value == Cosine()(u, e).value


def test_gradient_matches_finite_differences():
    u, e = (side.requires_grad_() for side in rows(5))
    assert torch.autograd.gradcheck(lambda u, e: Cosine()(u, e).value, (u, e))


def test_rows_of_zeros_have_cosine_zero_and_no_gradient():
    u, e = rows(4)
    u[1], e[2] = 0, 0
    u.requires_grad_()
    e.requires_grad_()
    loss = Cosine()(u, e)
    loss.value.backward()
    rest = Cosine()(u[[0, 3]], e[[0, 3]]).logs["cosine"]
    assert loss.logs["cosine"].item() == pytest.approx(rest.item() / 2)
    for side in (u, e):
        assert side.grad.isfinite().all() and not side.grad[[1, 2]].any() and side.grad[0].any()


def test_processes_weigh_their_rows_and_gather_none():
    u, e = rows(6)
    whole = Cosine()(u, e)
    parts = [Cosine()(u[part], e[part], None, World()) for part in (slice(4), slice(4, 6))]
    empty = u[:0].clone().requires_grad_()
    nothing = Cosine()(empty, e[:0], None, World()).value
    nothing.backward()
    assert nothing.item() == 0 and empty.grad.shape == (0, 3)
    assert sum(part.value.item() for part in parts) / 3 == pytest.approx(whole.value.item())
    cosine = sum(part.logs["cosine"].item() for part in parts) / 3
    assert cosine == pytest.approx(whole.logs["cosine"].item())


def test_configuration_has_no_options():
    with pytest.raises(ValidationError):
        CosineConfig(weight=1)
