"""How often an expert succeeds that is deaf to language: it draws any goal that the scene offers.

`python blind.py [SCENES A TASK]`. The rate is what a policy reaches with perfect motor skills
and eyes, but without reading the instruction.
"""

from __future__ import annotations

import sys

import numpy as np
from trials import execute, row, scenes

from mirrorlib_tabletop.config import SimulatorConfig
from mirrorlib_tabletop.simulator import TabletopSimulator


def main(count: int = 200) -> None:
    simulator = TabletopSimulator(SimulatorConfig(image_size=16, cameras=("front",)))
    rng = np.random.default_rng(0)
    for task in simulator.tasks():
        successes = 0
        for variation, seed in scenes(task, count):
            simulator.reset(task, variation, seed)
            goal = int(rng.integers(simulator.task.goals))
            successes += execute(simulator, simulator.expert(goal))
        print(row(task, successes, count), flush=True)
    simulator.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
