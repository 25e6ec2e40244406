"""Recall of mapped episodes: against loops, exact enumeration, and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from mirrorlib.probing.readout import READS, read_recalls


def labels_of(instructions: list[int]) -> torch.Tensor:
    return torch.tensor([[i, label, 0] for i, label in enumerate(instructions)])


def random_space(count: int, seeds: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(seeds, count, 4, generator=generator)
    return u, u + 1.5 * torch.randn(seeds, count, 4, generator=generator)


def brute(u: np.ndarray, e: np.ndarray, instructions: list[int], read: str, k: int) -> float:
    """Query by query, candidate by candidate; no ties."""
    per_instruction: dict[int, list[float]] = {}
    for i in range(len(u)):
        own = instructions[i]
        candidates = [j for j in range(len(e)) if read != "within" or instructions[j] == own]
        if read == "within" and len(candidates) < 2:
            continue
        cosine = {j: u[i] @ e[j] / np.linalg.norm(u[i]) / np.linalg.norm(e[j]) for j in candidates}
        nearest = sorted(candidates, key=lambda j: -cosine[j])[:k]
        hit = any(instructions[j] == own if read == "instruction" else j == i for j in nearest)
        per_instruction.setdefault(own, []).append(float(hit))
    if read == "within":
        return float(np.mean([np.mean(hits) for hits in per_instruction.values()]))
    return float(np.mean(list(itertools.chain(*per_instruction.values()))))


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("k", [1, 5])
def test_recall_agrees_with_loops(read: str, k: int):
    instructions = [0] * 7 + [1] * 3 + [2] * 8 + [3]
    u, e = random_space(len(instructions), 3)
    found = read_recalls(u, e, labels_of(instructions), read, permutations=0, seed=0)
    for way, sides in (("u2e", (u, e)), ("e2u", (e, u))):
        expected = np.mean(
            [
                brute(a.numpy(), b.numpy(), instructions, read, k)
                for a, b in zip(*sides, strict=True)
            ]
        )
        assert found[f"recall_at_{k}_{way}"].value == pytest.approx(expected, abs=1e-12)


def test_chance_is_one_of_the_candidates():
    instructions = [0] * 4 + [1] * 2 + [2] * 10
    u, e = random_space(16, 1)
    labels = labels_of(instructions)
    chance = {
        read: {k: read_recalls(u, e, labels, read, permutations=0, seed=0)[
            f"recall_at_{k}_u2e"
        ].chance for k in (1, 5)}
        for read in READS
    }  # fmt: skip
    assert chance["episode"] == pytest.approx({1: 1 / 16, 5: 5 / 16})
    assert chance["within"] == pytest.approx(
        {1: (1 / 4 + 1 / 2 + 1 / 10) / 3, 5: (1 + 1 + 0.5) / 3}
    )
    assert chance["instruction"][1] == pytest.approx((4 * 4 + 2 * 2 + 10 * 10) / 16**2)
    missed = sum(n / 16 * math.comb(16 - n, 5) / math.comb(16, 5) for n in (4, 2, 10))
    assert chance["instruction"][5] == pytest.approx(1 - missed)


def test_ties_are_in_random_order_so_that_a_point_scores_chance():
    labels = labels_of([i // 8 for i in range(160)])
    u, e = random_space(160, 20)
    for read in READS:
        for recall in read_recalls(
            u, torch.ones_like(e), labels, read, permutations=50, seed=0
        ).values():
            error = 4 * math.sqrt(recall.chance * (1 - recall.chance) / (160 * 20))
            assert recall.value == pytest.approx(recall.chance, abs=error)
            assert recall.null_mean == pytest.approx(recall.chance, abs=error)


def test_differences_of_rounding_decide_nothing():
    """Row i of e points to row i of u, but by less than float32 can tell."""
    labels = labels_of([0] * 50 + [1] * 50)
    u = torch.eye(100)[None].expand(20, -1, -1)
    e = torch.ones(20, 100, 100) + 1e-7 * u
    found = read_recalls(u, e, labels, "episode", permutations=0, seed=0)
    assert found["recall_at_1_u2e"].value < 0.05


@pytest.mark.parametrize("read", READS)
def test_the_null_agrees_with_every_shuffling_there_is(read: str):
    instructions = [0, 0, 0, 1, 1]
    labels = labels_of(instructions)
    u, e = random_space(5, 1, seed=4)
    allowed = [
        order
        for order in itertools.permutations(range(5))
        if read != "within" or all(instructions[i] == instructions[j] for i, j in enumerate(order))
    ]
    found = read_recalls(u, e, labels, read, permutations=3000, seed=0)
    for way in ("u2e", "e2u"):
        exact = []
        for order in allowed:
            sides = u[0].numpy(), e[0, list(order)].numpy()
            exact.append(brute(*sides[:: 1 if way == "u2e" else -1], instructions, read, 1))
        recall = found[f"recall_at_1_{way}"]
        error = 4 * np.std(exact) / math.sqrt(3000)
        assert recall.null_mean == pytest.approx(np.mean(exact), abs=error + 1e-12)
        below, above = np.quantile(exact, [0.92, 0.98], method="inverted_cdf")
        assert below - 1e-9 <= recall.null_95 <= above + 1e-9


def test_the_interval_over_seeds_is_students():
    u, e = random_space(40, 6)
    labels = labels_of([i // 8 for i in range(40)])
    found = read_recalls(u, e, labels, "episode", permutations=0, seed=0)["recall_at_1_u2e"]
    each = [
        read_recalls(u[[s]], e[[s]], labels, "episode", permutations=0, seed=0)[
            "recall_at_1_u2e"
        ].value
        for s in range(6)
    ]
    expected = stats.t.interval(0.95, 5, np.mean(each), stats.sem(each))
    assert found.over_seeds == pytest.approx(expected, abs=1e-12)
    few = read_recalls(u[:4], e[:4], labels, "episode", permutations=0, seed=0)
    assert few["recall_at_1_u2e"].over_seeds is None


def test_the_interval_is_of_instructions_drawn_anew():
    """Instructions that are found always or never: a binomial over instructions, not episodes."""
    labels = labels_of([i // 10 for i in range(200)])
    centres = torch.eye(20)[labels[:, 1]]
    wrong = centres.clone()
    wrong[:100] = torch.eye(20)[(labels[:100, 1] + 1) % 10]
    found = read_recalls(centres[None], wrong[None], labels, "instruction", permutations=0, seed=0)[
        "recall_at_1_u2e"
    ]
    assert found.value == 0.5
    low, high = stats.binom.ppf([0.025, 0.975], 20, 0.5) / 20
    assert found.interval == pytest.approx((low, high), abs=0.051)


def test_one_instruction_has_no_interval_and_lone_scenes_nothing_within():
    u, e = random_space(6, 1)
    labels = labels_of([0] * 6)
    assert (
        read_recalls(u, e, labels, "episode", permutations=2, seed=0)["recall_at_1_u2e"].interval
        is None
    )
    assert read_recalls(u, e, labels_of(list(range(6))), "within", permutations=2, seed=0) == {}
