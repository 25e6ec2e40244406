"""Distillation of similarities against loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from mirrorlib_objectives.config import DistillConfig
from mirrorlib_objectives.distill import Distill, build_distill


def rows(count: int, width: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    u, noise = torch.randn(2, count, width, dtype=torch.float64, generator=generator)
    return u, u + noise


def softmax_of_others(x: list[list[float]], i: int, temperature: float) -> dict[int, float]:
    terms = {
        j: math.exp(
            sum(a * b for a, b in zip(x[i], x[j], strict=True))
            / (math.hypot(*x[i]) * math.hypot(*x[j]) * temperature)
        )
        for j in range(len(x))
        if j != i
    }
    return {j: term / sum(terms.values()) for j, term in terms.items()}


def reference(
    teacher: Tensor, learner: Tensor, temperature: float, teacher_temperature: float
) -> dict[str, float]:
    """One row and one other row at a time, in Python floats."""
    taught_rows, learnt_rows = teacher.tolist(), learner.tolist()
    count = len(taught_rows)
    sums = dict.fromkeys(("loss", "agreement", "entropy_teacher", "entropy_learner"), 0.0)
    for i in range(count):
        p = softmax_of_others(taught_rows, i, teacher_temperature)
        q = softmax_of_others(learnt_rows, i, temperature)
        sums["loss"] += sum(p[j] * math.log(p[j] / q[j]) for j in p)
        sums["agreement"] += max(p, key=p.__getitem__) == max(q, key=q.__getitem__)
        sums["entropy_teacher"] -= sum(term * math.log(term) for term in p.values())
        sums["entropy_learner"] -= sum(term * math.log(term) for term in q.values())
    return {name: total / count for name, total in sums.items()}


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(3, 9),
    temperature=st.floats(0.02, 2.0),
    teacher_temperature=st.floats(0.02, 2.0),
    teacher=st.sampled_from(["observer", "executor"]),
    seed=st.integers(0, 2**31),
)
def test_value_and_logs_match_the_formula(count, temperature, teacher_temperature, teacher, seed):
    u, e = rows(count, seed=seed)
    sides = (u, e) if teacher == "observer" else (e, u)
    expected = reference(*sides, temperature, teacher_temperature)
    objective = Distill(teacher, temperature, teacher_temperature)
    loss = objective(u, e)
    assert loss.logs.keys() == expected.keys() and loss.logs["loss"] == loss.value
    for name, number in expected.items():
        assert loss.logs[name].item() == pytest.approx(number, rel=1e-9, abs=1e-10), name
    single = objective(u.float(), e.float()).value
    assert single.item() == pytest.approx(expected["loss"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("teacher", ["observer", "executor"])
def test_only_the_learner_has_a_gradient(teacher):
    u, e = (side.requires_grad_() for side in rows(6))
    objective = Distill(teacher, teacher_temperature=0.3)
    objective(u, e).value.backward()
    taught, learner = (u, e) if teacher == "observer" else (e, u)
    assert taught.grad is not None and not taught.grad.any() and learner.grad.any()
    fixed = taught.detach()

    def of_learner(x: Tensor) -> Tensor:
        pair = (fixed, x) if teacher == "observer" else (x, fixed)
        return objective(*pair).value

    assert torch.autograd.gradcheck(of_learner, (learner.detach().requires_grad_(),))


def test_rotation_and_lengths_do_not_matter():
    u, e = rows(12)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    lengths = torch.rand(12, 1, dtype=torch.float64) + 0.1
    turned = Distill()(u, lengths * (u @ turn))
    assert turned.value.item() == pytest.approx(0, abs=1e-12)
    assert turned.logs["agreement"] == 1
    assert Distill()(u, e).value.item() > 0.1
    labels = torch.zeros(12, dtype=torch.int64)
    assert Distill()(u, e, labels).value == Distill()(u, e).value


def test_collapse_shows_as_the_largest_entropy():
    u, e = (side.float() for side in rows(8))
    same = e[:1].repeat(8, 1).requires_grad_()
    loss = Distill()(u, same)
    loss.value.backward()
    assert same.grad.isfinite().all()
    assert loss.logs["entropy_learner"].item() == pytest.approx(math.log(7), rel=1e-6)
    expected = math.log(7) - loss.logs["entropy_teacher"].item()
    assert loss.value.item() == pytest.approx(expected, rel=1e-5)
    zeros = torch.zeros(8, 4, requires_grad=True)
    nothing = Distill()(zeros, zeros)
    nothing.value.backward()
    assert nothing.value.item() == 0 and not zeros.grad.any()


def test_rows_that_are_nearly_certain_stay_finite():
    u, e = rows(6)
    e = e.float().requires_grad_()
    value = Distill(temperature=1e-3, teacher_temperature=1e-3)(u.float(), e).value
    value.backward()
    assert value.isfinite() and e.grad.isfinite().all() and e.grad.any()


def test_rows_and_configuration():
    Distill()(*rows(3))
    with pytest.raises(ValueError, match="Distill needs at least 3 rows to align, not 2"):
        Distill()(*rows(2))
    built = build_distill(DistillConfig(teacher="executor", temperature=0.2))
    assert built.options == Distill("executor", 0.2, 0.1).options
    for wrong in ({"teacher": "u"}, {"temperature": 0}, {"teacher_temperature": math.inf}):
        with pytest.raises(ValidationError):
            DistillConfig(**wrong)
