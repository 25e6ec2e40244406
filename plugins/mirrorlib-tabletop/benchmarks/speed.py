"""CPU time on one core: recording an episode of each task, and its keyframes' parts.

`python speed.py [EPISODES A TASK]`.
"""

from __future__ import annotations

import sys
from time import process_time

from mirrorlib_tabletop.config import SourceConfig
from mirrorlib_tabletop.simulator import TabletopSimulator
from mirrorlib_tabletop.source import TabletopSource


def main(count: int = 8) -> None:
    source, simulator = TabletopSource(SourceConfig(train=count)), TabletopSimulator()
    print(f"{'':30s} episode   frames  keyframes  motion/keyframe  4 RGB-D images")
    for task in simulator.tasks():
        keys = [key for key in source.keys("train") if key.task == task]
        keys = keys[:: len(keys) // count][:count]
        source.episode(keys[0])
        begun = process_time()
        episodes = [source.episode(key) for key in keys]
        episode = (process_time() - begun) / count
        frames = sum(len(e.gripper_pose) for e in episodes) / count
        keyframes = sum(len(e.keyframes) for e in episodes) / count
        simulator.reset(task, 0, 0)
        begun = process_time()
        for _ in range(20):
            simulator.observe()
        drawing = (process_time() - begun) / 20
        motion = (episode - frames * drawing) / keyframes
        print(
            f"{task:30s} {episode:6.3f} s {frames:7.1f} {keyframes:9.1f} "
            f"{1000 * motion:13.1f} ms {1000 * drawing:12.1f} ms",
            flush=True,
        )
    source.close()
    simulator.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
