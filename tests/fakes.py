"""Small stand-ins that behave as the interfaces say, for tests of the core alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mirrorlib.errors import DemonstrationFailed
from mirrorlib.interfaces import (
    ActionSpace,
    Clips,
    DataProperties,
    Encoding,
    Episode,
    EpisodeKey,
    Executor,
    Observation,
    Observations,
    Observer,
    Projector,
    Source,
    Split,
    Steps,
)
from mirrorlib.randomness import scene_seed

CAMERAS = ("front", "wrist")
SIZE = 8


def episode(key: EpisodeKey, frames: int = 12) -> Episode:
    """An episode whose every array is drawn from the key's seed."""
    rng = np.random.default_rng(scene_seed(key.task, key.variation, key.split, key.index))
    matrices = {c: np.tile(np.eye(4), (frames, 1, 1)) for c in CAMERAS}
    return Episode(
        task=key.task,
        variation=key.variation,
        descriptions=[f"{key.task} number {key.variation}", f"please {key.task} {key.variation}"],
        rgb={c: rng.integers(0, 256, (frames, SIZE, SIZE, 3), dtype=np.uint8) for c in CAMERAS},
        depth={c: rng.uniform(0.5, 3, (frames, SIZE, SIZE)).astype(np.float32) for c in CAMERAS},
        intrinsics={c: matrices[c][:, :3, :3] for c in CAMERAS},
        extrinsics=matrices,
        gripper_pose=rng.normal(size=(frames, 7)),
        gripper_open=rng.integers(0, 2, frames).astype(np.float32),
        proprioception=rng.normal(size=(frames, 3)).astype(np.float32),
        ignore_collisions=np.ones(frames, dtype=np.float32),
        keyframes=[3, 7, frames - 1],
        success=True,
        origin={"seed": 1},
    )


class FakeSource(Source):
    """Two tasks of two variations; episodes whose index is in `failing` fail."""

    properties = DataProperties(CAMERAS, 3, (0, 0, 0, 1, 1, 1))

    def __init__(self, count: int = 3, failing: Sequence[int] = ()) -> None:
        self.count, self.failing = count, tuple(failing)

    def keys(self, split: Split) -> list[EpisodeKey]:
        return [
            EpisodeKey(split, task, variation, index)
            for task in ("lift", "push")
            for variation in range(2)
            for index in range(self.count)
        ]

    def episode(self, key: EpisodeKey) -> Episode:
        if key.index in self.failing:
            raise DemonstrationFailed(f"{key}: the expert missed")
        return episode(key)

    def fingerprint(self) -> Mapping[str, Any]:
        return {"count": self.count}


class FakeSimulator:
    """Succeeds once the action's x has named the scene's variation; task `crash` raises."""

    action_space = ActionSpace(np.zeros(9), np.ones(9))

    def tasks(self) -> dict[str, int]:
        return {"lift": 2, "push": 2}

    def reset(
        self, task: str, variation: int, seed: int, episode: Episode | None = None
    ) -> tuple[Observation, list[str]]:
        if task == "crash":
            raise RuntimeError("the simulator broke")
        self.variation, self.actions = variation, 0
        return self._look(), [f"{task} number {variation}"]

    def step(self, action: np.ndarray) -> tuple[Observation, bool, bool, dict[str, Any]]:
        self.actions += 1
        success = round(float(action[0])) == self.variation and self.actions >= 2
        info = {"error": "unreachable"} if self.actions == 1 else {}
        frames = np.full((2, SIZE, SIZE, 3), self.actions, dtype=np.uint8)
        return self._look(), success, False, info | {"frames": frames}

    def close(self) -> None:
        pass

    def _look(self) -> Observation:
        return Observation(
            rgb={c: np.full((SIZE, SIZE, 3), self.actions, dtype=np.uint8) for c in CAMERAS},
            depth={c: np.ones((SIZE, SIZE), dtype=np.float32) for c in CAMERAS},
            intrinsics={c: np.eye(3) for c in CAMERAS},
            extrinsics={c: np.eye(4) for c in CAMERAS},
            gripper_pose=np.zeros(7),
            gripper_open=1.0,
            proprioception=np.full(3, self.actions, dtype=np.float32),
        )


def build_simulator(film: bool) -> FakeSimulator:
    return FakeSimulator()


def die(film: bool) -> FakeSimulator:
    os._exit(7)


class FakeObserver(Observer):
    """A linear map of the mean colour; texts by the number they end in."""

    representation_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.video, self.word = nn.Linear(3, 4), nn.Embedding(2, 4)

    def encode_video(self, frames: Tensor) -> Tensor:
        mean = frames.to(self.video.weight.dtype).div(255).mean((1, 3, 4))
        return self.video(mean)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return self.word(torch.tensor([int(text.split()[-1]) for text in texts]))

    def forward(self, clips: Clips) -> Encoding:
        u = self.encode_video(clips.frames)
        loss = (u - self.encode_text(clips.instruction)).square().mean()
        return Encoding(u, loss, {"square": loss.detach()})


class FakeExecutor(Executor):
    """A linear map of the proprioception; acts by naming the instruction's number."""

    representation_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 5), nn.Linear(5, 9)

    def forward(self, steps: Steps) -> Encoding:
        e = self.body(steps.proprioception.to(self.body.weight.dtype)).tanh()
        return Encoding(e, (self.head(e) - steps.action).square().mean())

    def act(self, observations: Observations, instructions: Sequence[str]) -> Tensor:
        actions = torch.zeros(len(observations), 9)
        actions[:, 0] = torch.tensor([float(text.split()[-1]) for text in instructions])
        return actions


class FakeProjector(Projector):
    output_dim = 6

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(input_dim, 6)

    def forward(self, representation: Tensor) -> Tensor:
        return self.map(representation)
