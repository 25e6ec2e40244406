"""Mean squared error against loops."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from mirrorlib_objectives.config import MSEConfig
from mirrorlib_objectives.mse import MSE, build_mse


class World:
    """Six rows over three processes; neither side can be gathered."""

    size, total = 3, 6


def test_value_and_logs():
    u, e = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = zip(u.flatten().tolist(), e.flatten().tolist(), strict=True)
    expected = sum((a - b) ** 2 for a, b in pairs) / 15
    objective = build_mse(MSEConfig())
    loss = objective(u, e)
    assert loss.value.item() == pytest.approx(expected, rel=1e-12)
    squares = [sum(a**2 for a in side.flatten().tolist()) / 15 for side in (u, e)]
    assert loss.logs.keys() == {"loss", "square_u", "square_e"}
    assert loss.logs["loss"] == loss.value
    found = [loss.logs[name].item() for name in ("square_u", "square_e")]
    assert found == pytest.approx(squares, rel=1e-12)
    assert objective(u, e, torch.zeros(5, dtype=torch.int64)).value == loss.value
    assert objective(u, u).value == 0


def test_gradient_matches_finite_differences():
    inputs = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, e = (side.clone().requires_grad_() for side in inputs)
    assert torch.autograd.gradcheck(lambda u, e: MSE()(u, e).value, (u, e))


def test_processes_weigh_their_rows_and_gather_none():
    u, e = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = MSE()(u, e).value.item()
    parts = [
        MSE()(u[rows], e[rows], None, World()).value.item() for rows in (slice(4), slice(4, 6))
    ]
    empty = u[:0].clone().requires_grad_()
    nothing = MSE()(empty, e[:0], None, World()).value
    nothing.backward()
    assert nothing.item() == 0 and empty.grad.shape == (0, 3)
    assert (sum(parts) + nothing.item()) / 3 == pytest.approx(whole, rel=1e-12)


def test_configuration_has_no_options():
    with pytest.raises(ValidationError):
        MSEConfig(weight=1)
