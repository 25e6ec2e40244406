"""How fast demonstrations are recorded, against the fastest that drawing alone could be.

    python benchmarks/recording.py [--episodes 24] [--frames-per-second 4]

Records episodes of every task in this process, to disk, and counts the 4-camera RGB-D frames.
Then draws as many frames of the same scenes and does nothing else: the render-only limit. The
ratio of the two rates is what physics, inverse kinematics, copying and writing leave.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import mirrorlib
from mirrorlib.data.store import Layout, write_episode
from mirrorlib.errors import DemonstrationFailed
from mirrorlib.interfaces import EpisodeKey, Source
from mirrorlib.randomness import scene_seed


def record(source: Source, keys: list[EpisodeKey], folder: Path) -> dict[EpisodeKey, int]:
    """Frames recorded of each episode that succeeded."""
    cameras = source.properties.cameras
    layout = Layout(8, ("front",), cameras)
    frames = {}
    for number, key in enumerate(keys):
        try:
            episode = source.episode(key)
        except DemonstrationFailed:
            continue
        write_episode(folder / f"{number}.safetensors", episode, layout)
        frames[key] = len(episode.gripper_pose)
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames-per-second", type=float, default=4.0)
    options = parser.parse_args()
    rate = options.frames_per_second
    source = mirrorlib.build("source", "tabletop", train=100, frames_per_second=rate)
    simulator = mirrorlib.build("simulator", "tabletop")
    tasks = list(simulator.tasks().items())
    keys = [
        EpisodeKey("train", task, (i // len(tasks)) % variations, i // len(tasks))
        for i in range(options.episodes)
        for task, variations in [tasks[i % len(tasks)]]
    ]
    for task, _ in tasks:  # compile and warm up
        source.episode(EpisodeKey("val", task, 0, 0))
        simulator.reset(task, 0, 0)
    for number in range(options.rounds):
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            frames = record(source, keys, Path(folder))
        recording = time.process_time() - start
        drawing = 0.0
        for key, count in frames.items():
            seed = scene_seed(key.task, key.variation, key.split, key.index)
            simulator.reset(key.task, key.variation, seed)
            start = time.process_time()
            for _ in range(count):
                simulator.observe()
            drawing += time.process_time() - start
        total = sum(frames.values())
        print(
            f"round {number}: {len(frames)} episodes, {total} frames of 4 RGB-D cameras: "
            f"{total / recording:.1f} recorded, {total / drawing:.1f} drawn a CPU-second, "
            f"ratio {drawing / recording:.2f}"
        )
    simulator.close()


if __name__ == "__main__":
    main()
