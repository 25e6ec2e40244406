"""What the benchmarks share: scenes nobody trained on, attempts at them, and a table's rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mirrorlib.evaluation.statistics import wilson
from mirrorlib.randomness import scene_seed
from mirrorlib_tabletop.geometry import Array
from mirrorlib_tabletop.simulator import TabletopSimulator
from mirrorlib_tabletop.tasks import VARIATIONS


def scenes(task: str, count: int) -> Iterator[tuple[int, int]]:
    """`count` pairs (variation, seed), spread evenly over the task's variations."""
    for index in range(count):
        variation = index % VARIATIONS[task]
        yield variation, scene_seed(task, variation, "benchmark", index)


def execute(simulator: TabletopSimulator, actions: Iterable[Array]) -> bool:
    """Whether the actions solve the scene that was laid out last."""
    for action in actions:
        _, success, done, _ = simulator.step(action)
        if done:
            return success
    return False


def row(name: str, successes: int, count: int) -> str:
    """A line of the table: rate and Wilson 95 % interval."""
    low, high = wilson(successes, count)
    return f"{name:30s} {successes:4d}/{count:<4d} {successes / count:5.2f} [{low:.2f}, {high:.2f}]"
