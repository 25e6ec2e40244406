"""InfoNCE against float64 formulas written with loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from mirrorlib_objectives import tiles
from mirrorlib_objectives.config import InfoNCEConfig
from mirrorlib_objectives.infonce import InfoNCE, build_infonce


def reference(
    u: Tensor, e: Tensor, labels: list[int] | None, temperature: float, positives: str
) -> float:
    """The formulas, one cosine, one row and one direction at a time, in Python floats."""
    left, right = u.double().tolist(), e.double().tolist()
    count = len(left)
    if labels is None:
        labels = list(range(count))

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    total = 0.0
    for anchors, candidates in ((left, right), (right, left)):
        for i in range(count):
            terms = [math.exp(cosine(anchors[i], c) / temperature) for c in candidates]
            same = [j for j in range(count) if labels[j] == labels[i]]
            if positives == "diagonal":
                chosen, dropped = [i], []
            elif positives == "masked":
                chosen, dropped = [i], [j for j in same if j != i]
            else:
                chosen, dropped = same, []
            denominator = sum(t for j, t in enumerate(terms) if j not in dropped)
            total -= sum(math.log(terms[p] / denominator) for p in chosen) / len(chosen)
    return total / (2 * count)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.none() | st.lists(st.integers(0, 3), min_size=1, max_size=9),
    temperature=st.floats(0.02, 2.0),
    positives=st.sampled_from(["diagonal", "multi", "masked"]),
    seed=st.integers(0, 2**31),
)
def test_value_matches_the_formula(labels, temperature, positives, seed):
    generator = torch.Generator().manual_seed(seed)
    count = 5 if labels is None else len(labels)
    u, e = torch.randn(2, count, 6, dtype=torch.float64, generator=generator)
    objective = InfoNCE(temperature=temperature, positives=positives)
    value = objective(u, e, None if labels is None else torch.tensor(labels)).value
    expected = reference(u, e, labels, temperature, positives)
    assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    single = objective(u.float(), e.float(), None if labels is None else torch.tensor(labels))
    assert single.value.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("positives", ["diagonal", "multi", "masked"])
def test_gradient_matches_finite_differences(positives):
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(6, 4, dtype=torch.float64, generator=generator).requires_grad_() for _ in "ue"
    ]
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    objective = InfoNCE(learnable_temperature=True, positives=positives).double()
    assert torch.autograd.gradcheck(lambda u, e: objective(u, e, labels).value, inputs)
    objective(*inputs, labels).value.backward()
    start, step = -math.log(0.1), 1e-6
    ends = [
        InfoNCE(math.exp(-(start + side)), positives=positives)(*inputs, labels).value.item()
        for side in (step, -step)
    ]
    slope = (ends[0] - ends[1]) / (2 * step)
    assert objective.log_scale.grad.item() == pytest.approx(slope, rel=1e-5)


def test_logs():
    u = torch.eye(4)
    e = torch.eye(4)[[0, 1, 3, 2]]
    logs = InfoNCE(positives="diagonal")(u, e).logs
    assert logs["accuracy_u2e"].item() == logs["accuracy_e2u"].item() == 0.5
    assert logs["cosine"].item() == 0.5
    assert logs["temperature"].item() == pytest.approx(0.1)
    assert logs["mutual_information_bound"].item() == pytest.approx(
        math.log(4) - logs["loss"].item()
    )
    alike = InfoNCE()(u, e, torch.tensor([0, 1, 2, 2])).logs
    assert alike["accuracy_u2e"].item() == 1.0
    assert "mutual_information_bound" not in alike
    assert not any(value.requires_grad for value in alike.values())


def shares(u: Tensor, e: Tensor, labels: list[int], positives: str, first: int) -> list[float]:
    """Of the first rows, in either direction, those with a positive nearer than all others."""
    cosines = (u.double() / u.double().norm(dim=1)[:, None]) @ e.double().T / e.double().norm(dim=1)
    found = []
    for table in (cosines.tolist(), cosines.T.tolist()):
        hits = 0
        for i, row in enumerate(table[:first]):
            same = [j for j, label in enumerate(labels) if label == labels[i]]
            chosen = same if positives == "multi" else [i]
            dropped = same if positives == "masked" else chosen
            others = [cosine for j, cosine in enumerate(row) if j not in dropped]
            hits += all(max(row[j] for j in chosen) > other + 1e-9 for other in others)
        found.append(hits / first)
    return found


@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("tile", [2, 5, 64])
@pytest.mark.parametrize("positives", ["diagonal", "multi", "masked"])
def test_accuracy_counts_ties_against_the_row(monkeypatch, positives, tile, temperature):
    """Corners of a cube: many rows are the same. The first tile's rows count."""
    monkeypatch.setattr(tiles, "TILE", tile)
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        u = torch.randint(0, 2, (12, 4), generator=generator) * 2.0 - 1
        e = torch.where(torch.rand(12, 4, generator=generator) < 0.9, u, -u)
        labels = torch.randint(0, 4, (12,), generator=generator)
        logs = InfoNCE(temperature, positives=positives)(u, e, labels).logs
        expected = shares(u, e, labels.tolist(), positives, min(tile, 12))
        found = [logs["accuracy_u2e"].item(), logs["accuracy_e2u"].item()]
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("labels", [None, [0, 0, 0, 1, 1, 2]])
@pytest.mark.parametrize("tile", [2, 64])
@pytest.mark.parametrize("positives", ["diagonal", "multi", "masked"])
def test_no_row_is_found_in_a_space_that_collapsed(monkeypatch, positives, tile, labels):
    monkeypatch.setattr(tiles, "TILE", tile)
    rows = torch.tensor([[1.0, 2.0, 3.0]]).repeat(6, 1)
    labels = None if labels is None else torch.tensor(labels)
    logs = InfoNCE(positives=positives)(rows, 2 * rows, labels).logs
    assert logs["accuracy_u2e"].item() == logs["accuracy_e2u"].item() == 0
    assert logs["cosine"].item() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("positives", ["diagonal", "multi", "masked"])
def test_rows_of_zeros_stay_finite(dtype, positives):
    u = torch.zeros(4, 3, dtype=dtype, requires_grad=True)
    e = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    e[0] = 0
    e.requires_grad_()
    loss = InfoNCE(positives=positives)(u, e, torch.tensor([0, 0, 1, 2]))
    loss.value.backward()
    assert loss.value.isfinite() and u.grad.isfinite().all() and e.grad.isfinite().all()
    assert not u.grad.any() and not e.grad[0].any()


def test_autocast_does_not_reach_inside():
    generator = torch.Generator().manual_seed(0)
    u, e = torch.randn(2, 32, 64, generator=generator)
    plain = InfoNCE()(u, e).value
    with torch.autocast("cpu", torch.bfloat16):
        loss = InfoNCE()(u, e)
    assert loss.value.dtype == torch.float32
    assert loss.value.item() == plain.item()
    half = InfoNCE()(u.bfloat16(), e.bfloat16()).value
    wide = InfoNCE()(u.bfloat16().float(), e.bfloat16().float()).value
    assert half.dtype == torch.float32 and half.item() == wide.item()


def test_after_step_keeps_the_temperature_in_range():
    objective = InfoNCE(temperature=0.5, learnable_temperature=True)
    assert objective.log_scale.item() == pytest.approx(math.log(2))
    for beyond, kept in ((9.0, math.log(100)), (-3.0, 0.0), (1.5, 1.5)):
        with torch.no_grad():
            objective.log_scale.fill_(beyond)
        objective.after_step()
        assert objective.log_scale.item() == pytest.approx(kept)
    fixed = InfoNCE()
    fixed.after_step()
    assert not list(fixed.parameters())


@pytest.mark.parametrize(
    ("u", "e", "labels", "message"),
    [
        (torch.ones(2, 3), torch.ones(4, 3), None, r"\(2, 3\) on cpu and \(4, 3\) on cpu"),
        (torch.ones(2, 3), torch.ones(2, 4), None, r"\(2, 3\) on cpu and \(2, 4\) on cpu"),
        (torch.ones(2), torch.ones(2, 3), None, r"u must have shape \(B, Z\), not \(2,\)"),
        (torch.ones(2, 3), torch.ones(2, 3).long(), None, "e must be floating point"),
        (torch.ones(0, 3), torch.ones(0, 3), None, r"no rows to align: u has shape \(0, 3\)"),
        (torch.ones(2, 3), torch.full((2, 3), math.nan), None, "e: row 0 of 2 is not finite"),
        (torch.ones(2, 3), torch.ones(2, 3), torch.ones(3).long(), r"labels .* not .* \(3,\)"),
        (torch.ones(2, 3), torch.ones(2, 3), torch.ones(2), "labels must be int64"),
    ],
)
def test_wrong_input_is_refused(u, e, labels, message):
    with pytest.raises(ValueError, match=message):
        InfoNCE()(u, e, labels)


def test_configuration():
    objective = build_infonce(InfoNCEConfig(temperature=0.2, positives="masked"))
    assert (objective.temperature, objective.positives) == (0.2, "masked")
    for wrong in (
        {"temperature": 0},
        {"temperature": math.inf},
        {"temprature": 0.1},
        {"temperature": 2.0, "learnable_temperature": True},
    ):
        with pytest.raises(ValidationError):
            InfoNCEConfig(**wrong)
