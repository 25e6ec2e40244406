"""Solved against failed scenes, within instructions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from mirrorlib.probing.success import success_split


def brute(scores: list[float], solved: list[bool], strata: list[str]) -> float:
    total = weights = 0.0
    for name in set(strata):
        s = [x for x, w, t in zip(scores, solved, strata, strict=True) if t == name and w]
        f = [x for x, w, t in zip(scores, solved, strata, strict=True) if t == name and not w]
        if s and f:
            weight = len(s) * len(f) / (len(s) + len(f))
            total += weight * (sum(s) / len(s) - sum(f) / len(f))
            weights += weight
    return total / weights


def scenes(seed: int, effect: float, count: int = 8) -> tuple[list, list, list]:
    rng = np.random.default_rng(seed)
    strata = [f"i{i}" for i in range(12) for _ in range(count)]
    chances = np.repeat(rng.uniform(0.1, 0.9, 12), count)
    solved = rng.random(len(strata)) < chances
    scores = rng.normal(size=len(strata)) + effect * solved
    return scores.tolist(), solved.tolist(), strata


def test_the_difference_agrees_with_loops():
    scores, solved, strata = scenes(0, 0.3)
    found = success_split(scores, solved, strata, permutations=10, seed=0)
    assert found.difference == pytest.approx(brute(scores, solved, strata))
    mixed = [
        name
        for name in set(strata)
        if len({w for w, t in zip(solved, strata, strict=True) if t == name}) == 2
    ]
    assert found.instructions == len(mixed)
    assert found.solved + found.failed == 8 * len(mixed)
    won = np.array(solved)
    plain = np.array(scores)[won].mean() - np.array(scores)[~won].mean()
    assert found.unstratified == pytest.approx(plain)
    assert (found.all_solved, found.all_failed) == (won.sum(), (~won).sum())


def test_one_stratum_is_a_plain_permutation_test():
    scores, solved = [0.1, 0.9, 0.4, 0.8, 0.3, 0.7], [False, True, False, True, False, False]
    found = success_split(scores, solved, ["a"] * 6, permutations=4000, seed=0)
    values = np.array(scores)
    exact = [
        values[list(c)].mean() - np.delete(values, c).mean()
        for c in itertools.combinations(range(6), 2)
    ]
    assert found.difference == pytest.approx(values[[1, 3]].mean() - values[[0, 2, 4, 5]].mean())
    expected = np.mean(np.abs(exact) >= abs(found.difference) - 1e-9)
    assert found.p_value == pytest.approx(expected, abs=0.03)
    low, high = min(exact), max(exact)
    assert low - 1e-9 <= found.null_95[0] < 0 < found.null_95[1] <= high + 1e-9


def test_simpsons_paradox_is_seen_through():
    """Easy instructions are solved more often and retrieved better; within each, solving goes with
    worse retrieval."""
    rng = np.random.default_rng(1)
    scores, solved, strata = [], [], []
    for name, level, share in (("easy", 0.9, 0.8), ("hard", 0.2, 0.2)):
        won = np.arange(100) < 100 * share
        scores += (level - 0.1 * won + 0.05 * rng.normal(size=100)).tolist()
        solved += won.tolist()
        strata += [name] * 100
    found = success_split(scores, solved, strata, permutations=200, seed=0)
    assert found.unstratified > 0.2
    assert found.difference == pytest.approx(-0.1, abs=0.02)
    assert found.interval[1] < 0
    assert found.difference < found.null_95[0]


def test_nothing_is_called_where_nothing_is():
    reached = [
        success_split(*scenes(seed, 0.0), permutations=99, seed=seed).p_value <= 0.05
        for seed in range(60)
    ]
    low, high = stats.binom.ppf([0.001, 0.999], 60, 0.05)
    assert low <= sum(reached) <= high


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = []
    for seed in range(60):
        low, high = success_split(*scenes(seed, 0.5), permutations=400, seed=seed).interval
        held.append(low <= 0.5 <= high)
    assert sum(held) >= stats.binom.ppf(0.001, 60, 0.9)


def test_without_both_outcomes_there_is_nothing_to_compare():
    found = success_split([1.0, 0.0], [True, False], ["a", "b"], permutations=9, seed=0)
    assert (found.difference, found.interval, found.instructions) == (None, None, 0)
    assert found.unstratified == 1.0
    assert success_split([1.0], [True], ["a"], permutations=9, seed=0).unstratified is None


def test_one_solved_scene_an_instruction_still_leaves_doubt():
    """As in a real run: eight instructions, one scene of three solved, scores of nought and one."""
    rng = np.random.default_rng(3)
    strata = [f"i{i}" for i in range(8) for _ in range(3)]
    scores = rng.integers(0, 2, 24).astype(float).tolist()
    found = success_split(scores, [True, False, False] * 8, strata, permutations=400, seed=0)
    low, high = found.interval
    assert high - low == pytest.approx(found.null_95[1] - found.null_95[0])
    assert high - low > 0.3
    unshuffled = success_split(scores, [True, False, False] * 8, strata, permutations=0, seed=0)
    assert (unshuffled.interval, unshuffled.null_95, unshuffled.p_value) == (None, None, None)
