"""Positives of several levels against the formula, written with loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from mirrorlib_objectives import tiles
from mirrorlib_objectives.config import HierarchicalConfig, LevelWeights
from mirrorlib_objectives.hierarchical import LEVELS, Hierarchical, build_hierarchical
from mirrorlib_objectives.infonce import InfoNCE


def targets(labels: list[list[int]], weights: list[float]) -> list[list[float]]:
    """sum_l w_l [j in P_il] / |P_il| in row i and column j."""
    table = [[0.0] * len(labels) for _ in labels]
    for i, mine in enumerate(labels):
        for level, weight in enumerate(weights):
            same = [j for j, theirs in enumerate(labels) if theirs[level] == mine[level]]
            for j in same:
                table[i][j] += weight / sum(weights) / len(same)
    return table


def reference(
    u: Tensor, e: Tensor, labels: list[list[int]], temperature: float, weights: list[float]
) -> float:
    total = 0.0
    for anchors, candidates in ((u.tolist(), e.tolist()), (e.tolist(), u.tolist())):
        for anchor, row in zip(anchors, targets(labels, weights), strict=True):
            logits = [
                sum(x * y for x, y in zip(anchor, candidate, strict=True))
                / (math.hypot(*anchor) * math.hypot(*candidate) * temperature)
                for candidate in candidates
            ]
            whole = math.log(sum(map(math.exp, logits)))
            total += sum(share * (whole - s) for share, s in zip(row, logits, strict=True))
    return total / (2 * len(labels))


def draw(count: int, seed: int, levels_nest: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    u, e = torch.randn(2, count, 6, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 8, (count, 3), generator=generator)
    if levels_nest:
        labels = torch.stack([labels[:, 0], labels[:, 0] // 2, labels[:, 0] // 4], 1)
    return u, e, labels


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 9),
    temperature=st.floats(0.02, 2.0),
    weights=st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 3.0])] * 3).filter(any),
    levels_nest=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_value_matches_the_formula(count, temperature, weights, levels_nest, seed):
    u, e, labels = draw(count, seed, levels_nest)
    chosen = LevelWeights(**dict(zip(LEVELS, weights, strict=True)))
    value = Hierarchical(temperature, weights=chosen)(u, e, labels).value
    expected = reference(u, e, labels.tolist(), temperature, list(weights))
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("tile", [2, 64])
def test_gradients_match_finite_differences(monkeypatch, tile):
    monkeypatch.setattr(tiles, "TILE", tile)
    u, e, labels = draw(6, 0)
    weights = LevelWeights(episode=1, instruction=2, task=3)
    objective = Hierarchical(0.2, learnable_temperature=True, weights=weights).double()

    def value(u: Tensor, e: Tensor, log_scale: Tensor) -> Tensor:
        learnt = {"log_scale": log_scale}
        return torch.func.functional_call(objective, learnt, (u, e, labels)).value

    inputs = [u.requires_grad_(), e.requires_grad_(), objective.log_scale]
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("level", range(3))
def test_one_level_with_all_the_weight_is_infonce(level):
    u, e, labels = draw(20, 0)
    weights = {name: float(i == level) for i, name in enumerate(LEVELS)}
    found = []
    for objective, given_labels in (
        (Hierarchical(0.1, True, LevelWeights(**weights)), labels),
        (InfoNCE(0.1, True, "multi"), labels[:, level].contiguous()),
    ):
        a, b = u.clone().requires_grad_(), e.clone().requires_grad_()
        loss = objective.double()(a, b, given_labels)
        loss.value.backward()
        found.append([loss.value.detach(), a.grad, b.grad, objective.log_scale.grad])
        name = f"accuracy_u2e_{LEVELS[level]}"
        found[-1].append(loss.logs[name if name in loss.logs else "accuracy_u2e"])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_optimum_is_the_softmax_of_the_shared_levels():
    """Any logits s are cosines: e orthonormal, u = temperature * s and a dimension more to make its
    length 1. At the optimum the value is the targets' entropy, and the gradient is 0."""
    labels = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 1, 0], [4, 2, 0]])
    weights = LevelWeights(episode=3, instruction=2, task=1)
    wanted = torch.tensor(targets(labels.tolist(), [3, 2, 1]), dtype=torch.float64)
    basis = torch.eye(6, 7, dtype=torch.float64)

    def value(logits: Tensor) -> Tensor:
        near = 0.02 * logits
        rest = (1 - near.square().sum(1, keepdim=True)).sqrt()
        objective = Hierarchical(0.02, weights=weights)
        return objective(torch.cat([near, rest], 1), basis, labels).value

    best = wanted.log().requires_grad_()
    lowest = value(best)
    lowest.backward()
    entropy = -(wanted * wanted.log()).sum(1).mean()
    assert lowest.item() == pytest.approx(entropy.item(), rel=1e-12)
    assert best.grad.norm() < 1e-12
    other = best.detach() + 0.1 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    assert value(other) > lowest


def test_labels_have_three_levels():
    u, e, labels = draw(6, 0)
    assert Hierarchical.uses_levels
    for wrong in (labels[:, 0], labels[:, :2], labels[1:]):
        with pytest.raises(ValueError, match=r"labels must be int64 of shape \(6, 3\)"):
            Hierarchical()(u, e, wrong)
    plain = Hierarchical()(u, e)
    assert plain.value.item() == InfoNCE()(u, e).value.item()
    assert "accuracy_u2e" in plain.logs


def test_logs():
    """Row 2 and 3 are swapped: of one instruction, but not of one episode."""
    u, e = torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]
    labels = torch.tensor([[0, 0, 0], [1, 1, 0], [2, 2, 1], [3, 2, 1]])
    logs = Hierarchical()(u, e, labels).logs
    accuracies = {f"accuracy_{way}_{level}" for way in ("u2e", "e2u") for level in LEVELS}
    assert logs.keys() == {"loss", "cosine", "temperature"} | accuracies
    for way in ("u2e", "e2u"):
        shares = [logs[f"accuracy_{way}_{level}"].item() for level in LEVELS]
        assert shares == [0.5, 1, 1]
    collapsed = Hierarchical()(torch.ones(4, 3), torch.ones(4, 3), labels).logs
    assert not any(collapsed[name].item() for name in accuracies)


def test_configuration():
    weights = {"episode": 0, "instruction": 1, "task": 3}
    objective = build_hierarchical(HierarchicalConfig(temperature=0.2, weights=weights))
    assert objective.temperature == 0.2 and objective.weights == [0, 0.25, 0.75]
    assert HierarchicalConfig.required_pairing == "episode"
    for wrong in (dict.fromkeys(LEVELS, 0), {"task": -1}, {"scene": 1}, {"task": math.inf}):
        with pytest.raises(ValidationError):
            HierarchicalConfig(weights=wrong)
