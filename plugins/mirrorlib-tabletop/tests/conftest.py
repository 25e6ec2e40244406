from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mirrorlib_tabletop.config import SimulatorConfig
from mirrorlib_tabletop.simulator import TabletopSimulator

Attempt = Callable[..., tuple[bool, bool]]


@pytest.fixture(scope="session")
def simulator() -> Iterator[TabletopSimulator]:
    made = TabletopSimulator(SimulatorConfig(image_size=64))
    yield made
    made.close()


@pytest.fixture(scope="session")
def attempt() -> Iterator[Attempt]:
    """`attempt(task, variation, seed, goal=None)`: the expert's (success, done)."""
    made = TabletopSimulator(SimulatorConfig(image_size=16, cameras=("wrist",)))

    def run(task: str, variation: int, seed: int, goal: int | None = None) -> tuple[bool, bool]:
        made.reset(task, variation, seed)
        goal = None if goal is None else (made.task.target + goal) % made.task.goals
        success = done = False
        for action in made.expert(goal):
            _, success, done, _ = made.step(action)
            if done:
                break
        return success, done

    yield run
    made.close()
