"""The optimiser, its groups and the average, against loops in float64."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from mirrorlib.training.average import Average
from mirrorlib.training.lamb import Lamb


def lamb_in_float64(weights, gradients, lr, betas, eps, decay, adapt):
    """Algorithm 2 of arXiv 1904.00962, one tensor and one step after the other."""
    found = []
    for weight, history in zip(weights, gradients, strict=True):
        w, mean, square = weight.double(), 0.0, 0.0
        for step, gradient in enumerate(history, 1):
            g = gradient.double()
            mean = betas[0] * mean + (1 - betas[0]) * g
            square = betas[1] * square + (1 - betas[1]) * g * g
            corrected = mean / (1 - betas[0] ** step)
            update = corrected / ((square / (1 - betas[1] ** step)).sqrt() + eps) + decay * w
            size, length = w.norm().item(), update.norm().item()
            grown = not weight.any()
            scale = size / length if adapt and not grown and size > 0 and length > 0 else 1.0
            w = w - lr * scale * update
        found.append(w)
    return found


@pytest.mark.parametrize(("decay", "adapt"), [(0.0, True), (0.1, True), (0.1, False)])
def test_lamb(decay: float, adapt: bool):
    torch.manual_seed(0)
    weights = [torch.randn(3, 4), torch.zeros(5, 2), torch.randn(2, 3, 2)]
    gradients = [[torch.randn_like(w) for _ in range(6)] for w in weights]
    gradients[2] = [torch.zeros_like(weights[2]) for _ in range(6)]
    parameters = [nn.Parameter(w.clone()) for w in weights]
    optimizer = Lamb(parameters, 0.05, (0.8, 0.95), 1e-4, decay, adapt)
    for step in range(6):
        for parameter, history in zip(parameters, gradients, strict=True):
            parameter.grad = history[step]
        optimizer.step()
    wanted = lamb_in_float64(weights, gradients, 0.05, (0.8, 0.95), 1e-4, decay, adapt)
    for parameter, w in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.detach().double(), w, rtol=1e-5, atol=1e-6)


def test_lamb_leaves_what_has_no_gradient_and_goes_on_from_its_state():
    torch.manual_seed(0)
    still, moving = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))
    optimizer = Lamb([{"params": [still], "lr": 1.0}, {"params": [moving], "weight_decay": 0.1}])
    moving.grad = torch.randn(2, 2)
    optimizer.step()
    assert torch.equal(still, torch.ones(3)) and not torch.equal(moving, torch.ones(2, 2))
    copy = nn.Parameter(moving.detach().clone())
    other = Lamb([{"params": [still]}, {"params": [copy], "weight_decay": 0.1}])
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    copy.grad = moving.grad = torch.randn(2, 2)
    optimizer.step()
    other.step()
    assert torch.equal(copy, moving)


def test_lamb_evaluates_a_closure():
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = Lamb([weight], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 9.0
    assert weight.item() == pytest.approx(3.0 - 0.1 * 3.0, rel=1e-5)


def test_the_average_follows_as_its_formula_says():
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(4))
    average, wanted = Average([parameter], 0.5), parameter.detach().double()
    for step in range(1, 20):
        with torch.no_grad():
            parameter += torch.randn(4)
        average.update(step)
        keep = min(0.5, (1 + step) / (10 + step))
        wanted = keep * wanted + (1 - keep) * parameter.detach().double()
    torch.testing.assert_close(average.values[0].double(), wanted, rtol=1e-5, atol=1e-6)


def test_the_average_changes_places_and_comes_back():
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = Average([parameter], 0.9)
    with torch.no_grad():
        parameter.fill_(12.0)
    average.update(1)
    value = average.values[0].item()
    assert value == pytest.approx(12 + (1 - 12) * 2 / 11)
    with average.applied():
        assert (parameter.item(), average.values[0].item()) == (value, 12.0)
        saved, held = parameter.detach().clone(), [v.clone() for v in average.values]
    assert parameter.item() == 12.0
    resumed = nn.Parameter(saved)
    other = Average([resumed], 0.9)
    other.load_state(held)
    assert (resumed.item(), other.values[0].item()) == (12.0, value)
    assert math.isclose(value, 10.0)
