"""Debiased contrastive learning against the formula, written with loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from mirrorlib_objectives.config import DebiasedConfig
from mirrorlib_objectives.debiased import Debiased, build_debiased
from mirrorlib_objectives.infonce import InfoNCE


def reference(u: Tensor, e: Tensor, temperature: float, class_prior: float) -> tuple[float, int]:
    """Equations 7 and 8, one row and one direction at a time, in Python floats; and how many rows
    are at the estimator's floor."""
    total, floored = 0.0, 0
    for anchors, candidates in ((u.tolist(), e.tolist()), (e.tolist(), u.tolist())):
        for i, anchor in enumerate(anchors):
            terms = [
                math.exp(
                    sum(x * y for x, y in zip(anchor, candidate, strict=True))
                    / (math.hypot(*anchor) * math.hypot(*candidate) * temperature)
                )
                for candidate in candidates
            ]
            partner = terms.pop(i)
            estimate = (sum(terms) / len(terms) - class_prior * partner) / (1 - class_prior)
            floor = math.exp(-1 / temperature)
            floored += estimate <= floor
            total += math.log1p(len(terms) * max(estimate, floor) / partner)
    return total / (2 * len(u)), floored


def sides(count: int, alike: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    u, noise = torch.randn(2, count, 6, dtype=torch.float64, generator=generator)
    return u, alike * u + (1 - alike) * noise


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(2, 9),
    temperature=st.floats(0.02, 2.0),
    class_prior=st.floats(0, 0.9),
    alike=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_value_matches_the_formula(count, temperature, class_prior, alike, seed):
    u, e = sides(count, alike, seed)
    expected, _ = reference(u, e, temperature, class_prior)
    value = Debiased(temperature, class_prior=class_prior)(u, e).value
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("alike", "floored"), [(0.0, "some"), (0.5, "some"), (1.0, "all")])
def test_gradients_match_finite_differences(alike, floored):
    """Of both sides and the temperature, with rows on the estimator's floor and off it."""
    u, e = (x.requires_grad_() for x in sides(5, alike, 0))
    _, count = reference(u, e, 0.3, 0.2)
    assert 0 < count < 10 if floored == "some" else count == 10
    objective = Debiased(0.3, learnable_temperature=True, class_prior=0.2).double()

    def value(u: Tensor, e: Tensor, log_scale: Tensor) -> Tensor:
        learnt = {"log_scale": log_scale}
        return torch.func.functional_call(objective, learnt, (u, e)).value

    assert torch.autograd.gradcheck(value, [u, e, objective.log_scale])


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_without_a_prior_it_is_infonce(temperature):
    found = []
    for objective in (Debiased(temperature, True, 0.0), InfoNCE(temperature, True)):
        u, e = (x.requires_grad_() for x in sides(20, 0.5, 0))
        value = objective.double()(u, e).value
        value.backward()
        found.append([value.detach(), u.grad, e.grad, objective.log_scale.grad])
    for debiased, plain in zip(*found, strict=True):
        torch.testing.assert_close(debiased, plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.01, 0.02, 0.1])
@pytest.mark.parametrize("class_prior", [0.0, 0.1])
def test_pairs_told_apart_completely_stay_finite(temperature, class_prior):
    """exp(partner - negatives) is beyond float32."""
    u, e = (x.requires_grad_() for x in torch.eye(3).expand(2, 3, 3).clone().unbind())
    objective = Debiased(temperature, learnable_temperature=True, class_prior=class_prior)
    value = objective(u, e).value
    value.backward()
    assert value.isfinite() and objective.log_scale.grad.isfinite()
    assert u.grad.isfinite().all() and e.grad.isfinite().all()


def test_labels_are_not_used():
    u, e = sides(6, 0.5, 0)
    plain, labelled = Debiased()(u, e), Debiased()(u, e, torch.zeros(6, dtype=torch.int64))
    assert plain.value.item() == labelled.value.item()
    assert plain.logs.keys() == labelled.logs.keys()
    assert sorted(plain.logs) == ["accuracy_e2u", "accuracy_u2e", "cosine", "loss", "temperature"]


def test_configuration():
    objective = build_debiased(DebiasedConfig(temperature=0.2, class_prior=0.05))
    assert (objective.temperature, objective.class_prior) == (0.2, 0.05)
    for wrong in ({"class_prior": 1}, {"class_prior": -0.1}, {"positives": "multi"}):
        with pytest.raises(ValidationError):
            DebiasedConfig(**wrong)
    with pytest.raises(ValueError, match="Debiased needs at least 2 rows to align, not 1"):
        Debiased()(torch.ones(1, 3), torch.ones(1, 3))
