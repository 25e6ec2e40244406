"""Experts solve unseen scenes; without language they fall to chance."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mirrorlib_tabletop.tasks import TASKS, VARIATIONS

COLOUR_TASKS = ("push_buttons", "lift_block", "slide_block_to_color_target", "stack_blocks")
Attempt = Callable[..., tuple[bool, bool]]


@pytest.mark.parametrize("task", TASKS)
def test_experts_solve_unseen_scenes(attempt: Attempt, task: str) -> None:
    scenes = [(variation, 1000 + variation) for variation in range(VARIATIONS[task])]
    scenes += [(variation, 2000 + variation) for variation in range(8 - VARIATIONS[task])]
    solved = [attempt(task, variation % VARIATIONS[task], seed)[0] for variation, seed in scenes]
    assert sum(solved) >= len(solved) - 1


@pytest.mark.parametrize("task", COLOUR_TASKS)
def test_without_language_chance_is_a_sixth(attempt: Attempt, task: str) -> None:
    """Every goal of a scene is tried once, as a blind expert would at random: one succeeds."""
    outcomes = [attempt(task, 2, 31, goal) for goal in range(6)]
    assert [success for success, _ in outcomes] == [True] + [False] * 5
    assert all(done for _, done in outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_experts_solve_95_of_100(attempt: Attempt, task: str) -> None:
    scenes = ((index % VARIATIONS[task], 5000 + index) for index in range(100))
    assert sum(attempt(task, variation, seed)[0] for variation, seed in scenes) >= 95
