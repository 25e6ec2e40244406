"""Batches and pairs, against what the three granularities mean."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from mirrorlib.data.pairing import LEVELS, Pairing, Sampling, plan_batches
from mirrorlib.errors import UserError

SAMPLINGS: tuple[Sampling | None, ...] = (None, "instruction", "task")
UNEVEN = (1, 2, 5, 8)
"""Instructions of each task."""


def make_labels(sizes: list[int], per_task: int) -> np.ndarray:
    rows = [(i, k // per_task) for i, size in enumerate(sizes) for k in [i] for _ in range(size)]
    return np.array([(n, i, t) for n, (i, t) in enumerate(rows)], dtype=np.int64)


problems = st.tuples(
    st.lists(st.integers(1, 5), min_size=2, max_size=8), st.integers(1, 3), st.integers(0, 99)
)


@settings(deadline=None, max_examples=60)
@given(problems, st.sampled_from(LEVELS), st.sampled_from(SAMPLINGS), st.data())
def test_every_pairing_is_a_derangement_of_one_and_the_same_batch(
    problem: tuple[list[int], int, int],
    pairing: Pairing,
    sampling: Sampling | None,
    data: st.DataObject,
):
    sizes, per_task, seed = problem
    sizes = [max(size, 2) for size in sizes[:1]] + sizes[1:]
    labels = make_labels(sizes, per_task)
    count = len(sizes) if min(sizes) < 2 else data.draw(st.integers(1, len(sizes)))
    arguments = {"instructions": count, "episodes": 2, "steps": 4, "seed": seed}
    arguments["sampling"] = sampling
    plans = plan_batches(labels, pairing=pairing, **arguments)
    identity = plan_batches(labels, pairing="episode", **arguments)
    column = LEVELS.index(pairing)
    for plan, same in zip(plans, identity, strict=True):
        np.testing.assert_array_equal(plan.clips, same.clips)
        np.testing.assert_array_equal(plan.clip_seeds, same.clip_seeds)
        carried = dict(zip(plan.step_seeds, plan.steps, strict=True))
        assert carried == dict(zip(same.step_seeds, same.steps, strict=True))
        np.testing.assert_array_equal(np.sort(plan.steps), np.sort(plan.clips))
        assert len(np.unique(labels[plan.clips, 1])) == count
        np.testing.assert_array_equal(labels[plan.steps, column], labels[plan.clips, column])
        if pairing == "episode":
            np.testing.assert_array_equal(plan.steps, plan.clips)
            assert plan.aligned.all()
            continue
        assert (plan.steps[plan.aligned] != plan.clips[plan.aligned]).all()
        groups = labels[plan.clips, column]
        for group in np.unique(groups):
            distinct = len(np.unique(plan.clips[groups == group]))
            assert plan.aligned[groups == group].sum() == (distinct if distinct > 1 else 0)


def test_a_lone_episode_is_dropped_from_alignment_alone():
    labels = make_labels([3, 1, 2], per_task=1)
    plans = plan_batches(
        labels, instructions=3, episodes=2, steps=10, pairing="instruction", seed=0
    )
    for plan in plans:
        np.testing.assert_array_equal(plan.aligned, labels[plan.clips, 1] != 1)
        assert len(plan.clips) == 6


def test_instructions_and_episodes_are_seen_about_equally_often():
    labels = make_labels([6] * 10, per_task=5)
    plans = plan_batches(
        labels, instructions=4, episodes=2, steps=300, pairing="instruction", seed=3
    )
    seen = np.bincount(np.concatenate([plan.clips for plan in plans]), minlength=60)
    assert seen.sum() == 2400
    assert seen.min() >= 36
    assert seen.max() <= 44


def uneven_tasks() -> np.ndarray:
    """Three episodes of each instruction, the tasks as large as UNEVEN says."""
    tasks = [task for task, size in enumerate(UNEVEN) for _ in range(3 * size)]
    rows = [(n, n // 3, task) for n, task in enumerate(tasks)]
    return np.array(rows, dtype=np.int64)


def instructions_of(labels: np.ndarray, count: int, steps: int, **options) -> np.ndarray:
    """(steps, count): the instructions of each batch, in their order there."""
    plans = plan_batches(
        labels, instructions=count, episodes=2, steps=steps, pairing="instruction", **options
    )
    return np.stack([labels[plan.clips[::2], 1] for plan in plans])


def probabilities(left: tuple[int, ...], count: int) -> dict[tuple[int, ...], float]:
    """Of each sequence of `count` tasks, drawn uniformly from those that have cards left."""
    if not count:
        return {(): 1.0}
    open_tasks = [task for task, cards in enumerate(left) if cards]
    found = {}
    for task in open_tasks:
        rest = tuple(cards - (other == task) for other, cards in enumerate(left))
        for tail, chance in probabilities(rest, count - 1).items():
            found[task, *tail] = chance / len(open_tasks)
    return found


def test_tasks_are_drawn_uniformly_from_those_with_instructions_left():
    """Chi-square of whole batches' tasks, in their order, against all 4^3 possible ones."""
    labels, steps = uneven_tasks(), 6_000
    instructions = instructions_of(labels, 3, steps, seed=1, sampling="task")
    expected = probabilities(UNEVEN, 3)
    assert sum(expected.values()) == pytest.approx(1)
    tasks = labels[::3, 2][instructions]
    counts = Counter(map(tuple, tasks.tolist()))
    assert counts.keys() <= expected.keys()
    statistic = sum(
        (counts[key] - steps * chance) ** 2 / (steps * chance) for key, chance in expected.items()
    )
    assert chi2.sf(statistic, len(expected) - 1) > 1e-3
    assert all(len(set(batch)) == 3 for batch in instructions.tolist())


def test_within_a_task_instructions_are_drawn_equally_often():
    labels = uneven_tasks()
    seen = np.bincount(instructions_of(labels, 6, 999, seed=2, sampling="task").ravel())
    for task in range(len(UNEVEN)):
        counts = seen[labels[::3, 2] == task]
        assert counts.max() - counts.min() <= 2, (task, counts)


def test_no_sampling_is_by_instruction_as_ever():
    """Against what was planned before there was a choice."""
    labels = uneven_tasks()
    default = instructions_of(labels, 5, 40, seed=3)
    for sampling in (None, "instruction"):
        same = instructions_of(labels, 5, 40, seed=3, sampling=sampling)
        np.testing.assert_array_equal(same, default)
    assert default[:2].tolist() == [[7, 9, 12, 10, 0], [13, 3, 1, 11, 4]]
    seen = np.bincount(default.ravel())
    assert seen.max() - seen.min() <= 2


def test_parts_of_a_plan_make_the_whole():
    labels = make_labels([3] * 6, per_task=2)
    plan = plan_batches(labels, instructions=6, episodes=2, steps=1, pairing="task", seed=0)[0]
    parts = [plan.part(rank, 3) for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate([p.steps for p in parts]), plan.steps)
    assert [len(p.clips) for p in parts] == [4, 4, 4]


def test_data_that_cannot_fill_a_batch_is_refused_with_the_remedy():
    labels = make_labels([3] * 5, per_task=5)
    with pytest.raises(UserError, match=r"batch\.instructions is 6, .* only 5 instructions"):
        plan_batches(labels, instructions=6, episodes=2, steps=1, pairing="task", seed=0)
    lone = make_labels([1] * 5, per_task=1)
    with pytest.raises(UserError, match=r"nothing can be paired by instruction"):
        plan_batches(lone, instructions=5, episodes=2, steps=1, pairing="instruction", seed=0)
