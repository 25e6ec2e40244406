"""What every objective that the plugin declares keeps to, as `Objective` says."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from mirrorlib.interfaces import Loss, Objective
from mirrorlib_objectives import batch, plugin

ROWS, WIDTH = 40, 16
COMPONENTS = {component.name: component for component in plugin.mirrorlib_objectives()}
EVERY = pytest.mark.parametrize("name", COMPONENTS)
ALIGNING = pytest.mark.parametrize("name", [name for name in COMPONENTS if name != "none"])
LABELLED = pytest.mark.parametrize("labelled", [True, False])

TEACHES = {"distill": "u"}
"""Sides that an objective gives a gradient of zero."""


def load(reference: str) -> Any:
    module, name = reference.split(":")
    return getattr(import_module(module), name)


def build(name: str) -> Objective:
    component = COMPONENTS[name]
    objective: Objective = load(component.build)(load(component.config)())
    return objective


def sides(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    u, noise = torch.randn(2, ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    return u.to(dtype), (u + noise).to(dtype)


def labels_for(name: str, labelled: bool = True) -> Tensor | None:
    if not labelled:
        return None
    rows = torch.arange(ROWS)
    if name == "hierarchical":
        return torch.stack([rows // 2, rows // 4, rows // 20], 1)
    return rows // 4


def run(
    name: str, u: Tensor, e: Tensor, labels: Tensor | None, autocast: bool = False
) -> tuple[Loss, dict[str, Tensor]]:
    """The loss, and the gradient of either side and of every parameter."""
    objective = build(name)
    leaves = {"u": u.detach().clone(), "e": e.detach().clone()} | dict(objective.named_parameters())
    for leaf in leaves.values():
        leaf.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = objective(leaves["u"], leaves["e"], labels)
    assert loss.value.requires_grad == objective.uses_projectors
    if loss.value.requires_grad:
        loss.value.backward()
    return loss, {leaf: x.grad for leaf, x in leaves.items() if loss.value.requires_grad}


@LABELLED
@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_logs_and_gradients(name, labelled, dtype):
    loss, gradients = run(name, *sides(dtype), labels_for(name, labelled))
    assert loss.value.shape == () and loss.value.dtype == dtype and loss.value.isfinite()
    for log, value in loss.logs.items():
        assert value.shape == () and not value.requires_grad and value.isfinite(), log
    for leaf, gradient in gradients.items():
        assert gradient is not None and gradient.isfinite().all(), leaf
        assert bool(gradient.any()) == (leaf != TEACHES.get(name)), leaf


@LABELLED
@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(name, labelled, dtype):
    u, e = sides(dtype)
    labels = labels_for(name, labelled)
    half, gradients = run(name, u, e, labels)
    wide, _ = run(name, u.float(), e.float(), labels)
    if name == "none":
        return
    assert half.value.dtype == torch.float32 and half.value.item() == wide.value.item()
    assert gradients["u"].dtype == gradients["e"].dtype == dtype
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@EVERY
def test_autocast_does_not_reach_inside(name):
    u, e = sides()
    plain, plain_gradients = run(name, u, e, labels_for(name))
    inside, gradients = run(name, u, e, labels_for(name), autocast=True)
    assert inside.value.dtype == torch.float32 and inside.value.item() == plain.value.item()
    for leaf, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain_gradients[leaf], rtol=1e-6, atol=0)


def degenerate() -> dict[str, tuple[Tensor, Tensor]]:
    u, e = sides()
    zeros, constant = torch.zeros_like(u), u[:1].repeat(ROWS, 1)
    some = u.clone()
    some[::3] = 0
    return {
        "zeros": (zeros, zeros),
        "u zero": (zeros, e),
        "e zero": (u, zeros),
        "some rows zero": (some, e),
        "constant rows": (constant, constant),
        "one side constant": (u, constant),
        "constant dimension": (u * (torch.arange(WIDTH) > 0), e),
        "duplicated rows": (u[torch.arange(ROWS) // 2], e[torch.arange(ROWS) // 2]),
        "equal sides": (u, u),
        "opposite sides": (u, -u),
        "small": (1e-20 * u, 1e-20 * e),
    }


@LABELLED
@EVERY
@pytest.mark.parametrize("case", degenerate())
def test_degenerate_rows_stay_finite(name, labelled, case):
    loss, gradients = run(name, *degenerate()[case], labels_for(name, labelled))
    assert loss.value.isfinite()
    assert all(log.isfinite() for log in loss.logs.values()), loss.logs
    for leaf, gradient in gradients.items():
        assert gradient.isfinite().all(), leaf


@LABELLED
@EVERY
def test_one_row_is_finite_or_refused(name, labelled):
    u, e = (side[:1] for side in sides())
    labels = labels_for(name, labelled)
    labels = None if labels is None else labels[:1]
    needed = load(COMPONENTS[name].config).minimum_rows
    if needed > 1:
        with pytest.raises(ValueError, match=f"at least {needed} rows to align, not 1"):
            build(name)(u, e, labels)
        return
    loss, gradients = run(name, u, e, labels)
    assert loss.value.isfinite() and all(log.isfinite() for log in loss.logs.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@ALIGNING
def test_fewest_rows_that_are_taken(name):
    needed = load(COMPONENTS[name].config).minimum_rows
    u, e = (side[:needed] for side in sides())
    loss, gradients = run(name, u, e, None)
    assert loss.value.isfinite() and all(log.isfinite() for log in loss.logs.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@ALIGNING
def test_shapes_and_dtypes_that_do_not_match_are_refused(name):
    objective, (u, e) = build(name), sides()
    for wrong, message in (
        ((u[1:], e), r"\(39, 16\).* and \(40, 16\)"),
        ((u, e[:, 1:]), r"\(40, 16\).* and \(40, 15\)"),
        ((u[0], e), r"u must have shape \(B, Z\), not \(16,\)"),
        ((u, e[None]), r"e must have shape \(B, Z\), not \(1, 40, 16\)"),
        ((u.long(), e), "u must be floating point"),
        ((u, e.long()), "e must be floating point"),
        ((u[:0], e[:0]), r"no rows to align: u has shape \(0, 16\)"),
    ):
        with pytest.raises(ValueError, match=message):
            objective(*wrong)


@ALIGNING
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["u", "e"])
def test_numbers_that_are_not_finite_are_refused(name, side, bad):
    """The message names the side and the first row."""
    rows = dict(zip("ue", sides(), strict=True))
    rows[side][7, 3] = rows[side][9, 0] = bad
    with pytest.raises(ValueError, match=rf"\b{side}\b.*\b7\b"):
        build(name)(**rows)


@ALIGNING
@pytest.mark.parametrize("side", ["u", "e"])
def test_numbers_that_nobody_looked_at_are_not_hidden(name, side, monkeypatch):
    """As on a GPU, where looking would stall it."""
    monkeypatch.setattr(batch, "_check_finite", lambda side, x: None)
    u, e = sides()
    {"u": u, "e": e}[side][3, 5] = math.nan
    assert build(name)(u, e, labels_for(name)).value.isnan()


@ALIGNING
def test_wrong_labels_are_refused(name):
    objective, (u, e), labels = build(name), sides(), labels_for(name)
    for wrong in (labels[1:], labels.float(), labels[..., None]):
        with pytest.raises(ValueError, match="labels must be int64"):
            objective(u, e, wrong)


@LABELLED
@ALIGNING
def test_descent_lowers_the_loss(name, labelled):
    """200 steps of Adam on rows that start without any relation."""
    generator = torch.Generator().manual_seed(0)
    u, e = (x.requires_grad_() for x in torch.randn(2, ROWS, WIDTH, generator=generator).unbind())
    objective, labels = build(name), labels_for(name, labelled)
    optimizer = torch.optim.Adam([u, e, *objective.parameters()], lr=0.02)
    values = []
    for _ in range(200):
        optimizer.zero_grad()
        value = objective(u, e, labels).value
        value.backward()
        optimizer.step()
        objective.after_step()
        values.append(value.item())
    assert values[-1] < values[0] - 0.2 * abs(values[0])


@EVERY
def test_class_alone_is_what_the_default_recipe_builds(name):
    built = build(name)
    alone = type(built)()
    u, e = sides()
    assert alone(u, e).value.item() == built(u, e).value.item()
    assert {p: x.tolist() for p, x in alone.named_parameters()} == {
        p: x.tolist() for p, x in built.named_parameters()
    }
