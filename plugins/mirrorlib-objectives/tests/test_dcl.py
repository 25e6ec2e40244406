"""DCL against the formula, written with loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from mirrorlib_objectives.config import DCLConfig
from mirrorlib_objectives.dcl import DCL, build_dcl
from mirrorlib_objectives.infonce import InfoNCE

LABELS = torch.tensor([0, 1, 0, 0])


def reference(u: Tensor, e: Tensor, labels: list[int], temperature: float, positives: str) -> float:
    """Equation 6, one row and one direction at a time, in Python floats."""
    total = 0.0
    for anchors, candidates in ((u.tolist(), e.tolist()), (e.tolist(), u.tolist())):
        for i, anchor in enumerate(anchors):
            logits = [
                sum(x * y for x, y in zip(anchor, candidate, strict=True))
                / (math.hypot(*anchor) * math.hypot(*candidate) * temperature)
                for candidate in candidates
            ]
            negatives = [
                math.exp(logit)
                for j, logit in enumerate(logits)
                if j != i and (positives == "diagonal" or labels[j] != labels[i])
            ]
            if negatives:
                total += math.log(sum(negatives)) - logits[i]
    return total / (2 * len(labels))


@settings(max_examples=50, deadline=None)
@given(
    labels=st.none() | st.lists(st.integers(0, 3), min_size=2, max_size=9),
    temperature=st.floats(0.01, 2.0),
    positives=st.sampled_from(["diagonal", "masked"]),
    seed=st.integers(0, 2**31),
)
def test_value_matches_the_formula(labels, temperature, positives, seed):
    generator = torch.Generator().manual_seed(seed)
    names = list(range(5)) if labels is None else labels
    u, e = torch.randn(2, len(names), 6, dtype=torch.float64, generator=generator)
    objective = DCL(temperature, positives=positives)
    value = objective(u, e, None if labels is None else torch.tensor(labels)).value
    expected = reference(u, e, names, temperature, positives)
    assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("positives", ["diagonal", "masked"])
def test_gradients_match_finite_differences(positives, temperature):
    """Of both sides and the temperature. The row of label 1 is the only one of its class, and the
    rows of label 0 have one negative each."""
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(4, 3, dtype=torch.float64, generator=generator).requires_grad_() for _ in "ue"
    ]
    objective = DCL(temperature, learnable_temperature=True, positives=positives).double()
    parameters = dict(objective.named_parameters())

    def value(u: Tensor, e: Tensor, log_scale: Tensor) -> Tensor:
        learnt = dict.fromkeys(parameters, log_scale)
        return torch.func.functional_call(objective, learnt, (u, e, LABELS)).value

    assert torch.autograd.gradcheck(value, [*inputs, *parameters.values()], rtol=1e-4)


def test_rows_without_negatives_count_nothing():
    u, e = (x.requires_grad_() for x in (torch.eye(3), torch.eye(3).roll(1, 0) + 0.1))
    loss = DCL()(u, e, torch.zeros(3, dtype=torch.int64))
    loss.value.backward()
    assert loss.value.item() == 0 and not u.grad.any() and not e.grad.any()


def test_it_goes_on_pulling_where_infonce_stops():
    rows = torch.eye(6) + 0.01
    for objective, pulls in ((DCL(0.05), True), (InfoNCE(0.05), False)):
        u = (rows + 0.1 * torch.eye(6).roll(1, 0)).requires_grad_()
        objective(u, rows).value.backward()
        assert (u.grad.norm().item() > 0.1) == pulls


def test_logs():
    u, e = torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]
    logs = DCL(0.2)(u, e).logs
    assert sorted(logs) == ["accuracy_e2u", "accuracy_u2e", "cosine", "loss", "temperature"]
    assert logs["accuracy_u2e"].item() == logs["accuracy_e2u"].item() == 0.5
    assert logs["cosine"].item() == 0.5
    near = u + 0.1 * e
    for positives, share in (("masked", 1), ("diagonal", 0.5)):
        logs = DCL(positives=positives)(near, e, torch.tensor([0, 1, 2, 2])).logs
        assert logs["accuracy_u2e"].item() == share


def test_configuration():
    objective = build_dcl(DCLConfig(temperature=0.2, positives="diagonal"))
    assert (objective.temperature, objective.positives) == (0.2, "diagonal")
    for wrong in ({"positives": "multi"}, {"temperature": -1}, {"bias": 1}):
        with pytest.raises(ValidationError):
            DCLConfig(**wrong)
    with pytest.raises(ValueError, match="DCL needs at least 2 rows to align, not 1"):
        DCL()(torch.ones(1, 3), torch.ones(1, 3))
