"""Draws every task from every camera into one picture: `python picture.py tabletop.png [SIZE]`."""

from __future__ import annotations

import sys

import imageio.v3 as imageio
import numpy as np

from mirrorlib_tabletop.config import SimulatorConfig
from mirrorlib_tabletop.simulator import TabletopSimulator

# Each task's seed and the keyframe before which it is drawn.
SHOWN = {
    "push_buttons": (1, 1),
    "open_drawer": (1, 3),
    "stack_blocks": (3, 10),
    "turn_tap": (1, 2),
    "slide_block_to_color_target": (1, 3),
    "lift_block": (2, 3),
}


def main(path: str, size: int = 256) -> None:
    """Writes one row a task and one column a camera, each `size` pixels square."""
    simulator = TabletopSimulator(SimulatorConfig(image_size=size))
    rows = []
    for task, (seed, moment) in SHOWN.items():
        observation, _ = simulator.reset(task, 0, seed)
        for _, action in zip(range(moment), simulator.expert(), strict=False):
            observation = simulator.step(action)[0]
        rows.append(np.concatenate(list(observation.rgb.values()), axis=1))
    simulator.close()
    imageio.imwrite(path, np.concatenate(rows))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
