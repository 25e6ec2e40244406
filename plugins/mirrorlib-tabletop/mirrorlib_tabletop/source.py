"""The source `tabletop`: demonstrations of scripted experts, recorded when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mirrorlib.errors import DemonstrationFailed
from mirrorlib.interfaces import (
    DataProperties,
    Episode,
    EpisodeKey,
    Observation,
    Source,
    Split,
)
from mirrorlib.randomness import SCENES, scene_seed
from mirrorlib_tabletop.config import SimulatorConfig, SourceConfig
from mirrorlib_tabletop.graphics import mujoco
from mirrorlib_tabletop.simulator import (
    PROPRIOCEPTION_DIM,
    WORKSPACE,
    TabletopSimulator,
    check_variation,
)
from mirrorlib_tabletop.tasks import VARIATIONS
from mirrorlib_tabletop.world import HERTZ

SCENE_VERSION = 1
"""Raised whenever scenes, experts or drawing change what is recorded."""


class TabletopSource(Source):
    """Expert demonstrations. A worker process opens its own simulator when first asked."""

    def __init__(self, config: SourceConfig | None = None) -> None:
        self.config = config or SourceConfig()
        self.variations = _variations(self.config)
        self.properties = DataProperties(
            cameras=self.config.cameras,
            proprioception_dim=PROPRIOCEPTION_DIM,
            workspace=WORKSPACE,
        )
        self._simulator: TabletopSimulator | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_simulator": None}

    def keys(self, split: Split) -> Sequence[EpisodeKey]:
        count: int = getattr(self.config, split)
        return [
            EpisodeKey(split, task, variation, index)
            for task, variations in self.variations.items()
            for variation in variations
            for index in range(count)
        ]

    def fingerprint(self) -> Mapping[str, Any]:
        return {
            "source": "tabletop",
            "scene_version": SCENE_VERSION,
            "scenes": SCENES,
            "mujoco": mujoco.__version__,
            "image_size": self.config.image_size,
            "cameras": list(self.config.cameras),
            "frames_per_second": self.config.frames_per_second,
        }

    def episode(self, key: EpisodeKey) -> Episode:
        """Records the expert in the scene that `key` names. Raises DemonstrationFailed."""
        simulator = self._open()
        seed = scene_seed(key.task, key.variation, key.split, key.index)
        first, descriptions = simulator.reset(key.task, key.variation, seed)
        frames, keyframes, success = self._record(simulator, first)
        if not success:
            raise DemonstrationFailed(f"the expert did not solve {key}")
        return _episode(
            frames,
            task=key.task,
            variation=key.variation,
            descriptions=descriptions,
            keyframes=keyframes,
            success=True,
            origin={"seed": seed, "split": key.split, "index": key.index, **self.fingerprint()},
        )

    def close(self) -> None:
        """Frees this process's simulator; the next episode opens another."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def _open(self) -> TabletopSimulator:
        if self._simulator is None:
            self._simulator = TabletopSimulator(
                SimulatorConfig(image_size=self.config.image_size, cameras=self.config.cameras)
            )
        return self._simulator

    def _record(
        self, simulator: TabletopSimulator, first: Observation
    ) -> tuple[list[Observation], list[int], bool]:
        """Frames, which of them are keyframes, and whether the expert succeeded."""
        frames, keyframes, success = [first], [], False
        interval, waited = HERTZ / self.config.frames_per_second, 0.0

        def watch() -> None:
            nonlocal waited
            if waited >= interval:
                frames.append(simulator.observe())
                waited -= interval
            waited += 1

        for action in simulator.expert():
            observation, success, done, _ = simulator.step(action, watch)
            keyframes.append(len(frames))
            frames.append(observation)
            waited = 0.0
            if done:
                break
        return frames, keyframes, success


def _variations(config: SourceConfig) -> dict[str, list[int]]:
    """Each chosen task's variations. Raises UserError where there are none such."""
    chosen = VARIATIONS if config.tasks is None else config.tasks
    resolved = {}
    for task in chosen:
        check_variation(task, 0)
        listed = None if config.tasks is None else config.tasks[task]
        resolved[task] = list(range(VARIATIONS[task])) if listed is None else sorted(set(listed))
        for variation in resolved[task]:
            check_variation(task, variation)
    return resolved


def _episode(frames: list[Observation], **facts: Any) -> Episode:
    """Stacks frames to an episode."""
    cameras = frames[0].rgb
    return Episode(
        rgb={camera: np.stack([f.rgb[camera] for f in frames]) for camera in cameras},
        depth={camera: np.stack([f.depth[camera] for f in frames]) for camera in cameras},
        intrinsics={camera: np.stack([f.intrinsics[camera] for f in frames]) for camera in cameras},
        extrinsics={camera: np.stack([f.extrinsics[camera] for f in frames]) for camera in cameras},
        gripper_pose=np.stack([f.gripper_pose for f in frames]),
        gripper_open=np.array([f.gripper_open for f in frames], np.float32),
        proprioception=np.stack([f.proprioception for f in frames]),
        ignore_collisions=np.ones(len(frames), np.float32),
        **facts,
    )
