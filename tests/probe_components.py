"""Made-up models whose representations are known: of the text, of the scene, or of both.

A scene is what its cameras show: on each, four fields of random colour, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from fakes import CAMERAS, SIZE, FakeSource
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mirrorlib.errors import UserError
from mirrorlib.interfaces import (
    Clips,
    Encoding,
    Episode,
    EpisodeKey,
    Executor,
    Observations,
    Observer,
    Steps,
)
from mirrorlib.randomness import derive_seed, scene_seed

FIELDS = 12
"""Numbers that a camera shows: four fields of three colours."""

PLUGIN = """
from mirrorlib import Component, hookimpl

def component(name, kind):
    where = "probe_components"
    return Component(name, build=f"{where}:build_{kind}", config=f"{where}:{kind.title()}Config",
                     summary="made up")

@hookimpl
def mirrorlib_sources():
    return [component("fields", "source")]

@hookimpl
def mirrorlib_observers():
    return [component("eyes", "observer")]

@hookimpl
def mirrorlib_executors():
    return [component("hands", "executor")]

@hookimpl
def mirrorlib_projectors():
    return [component("linear", "projector")]

@hookimpl
def mirrorlib_objectives():
    return [component("none", "objective")]
"""


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceConfig(Config):
    train: int = 20
    test: int = 8
    version: int = 1


class ObserverConfig(Config):
    sees: bool = True
    knows: bool = True


class ExecutorConfig(Config):
    sees: bool = True
    reads: bool = True
    site: Literal["all", "text"] = "all"


class ProjectorConfig(Config):
    pass


class ObjectiveConfig(Config):
    pass


class Fields(FakeSource):
    def __init__(self, config: SourceConfig) -> None:
        super().__init__()
        self.config = config

    def keys(self, split: str) -> list[EpisodeKey]:
        self.count = {"train": self.config.train, "val": 0, "test": self.config.test}[split]
        return super().keys(split)

    def episode(self, key: EpisodeKey) -> Episode:
        shown = super().episode(key)
        rng = np.random.default_rng(scene_seed("fields", *key.task.encode()[:2], str(key)))
        rgb = {}
        for camera in CAMERAS:
            fields = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
            picture = fields.repeat(SIZE // 2, 0).repeat(SIZE // 2, 1)
            rgb[camera] = np.tile(picture, (len(shown.gripper_pose), 1, 1, 1))
        return replace(shown, rgb=rgb)

    def fingerprint(self) -> dict[str, int]:
        return {"version": self.config.version}


def fields(pictures: Tensor) -> Tensor:
    """pictures: (B, 3, H, W). What they show, (B, 12)."""
    means = pictures.float().unflatten(2, (2, SIZE // 2)).unflatten(4, (2, SIZE // 2)).mean((3, 5))
    return means.flatten(1) / 74 - 1.72


def meanings(texts: Sequence[str]) -> Tensor:
    """(B, 8): of each text, drawn from its letters."""
    rows = [torch.randn(8, generator=torch.Generator().manual_seed(derive_seed(t))) for t in texts]
    return torch.stack(rows)


class Eyes(Observer):
    """Knows the instruction of a clip as a perfect recogniser would."""

    def __init__(self, config: ObserverConfig) -> None:
        super().__init__()
        self.config, self.representation_dim = config, 24
        self.mix = nn.Linear(FIELDS + 8, 24)

    def forward(self, clips: Clips) -> Encoding:
        seen = fields(clips.frames[:, 0]) * self.config.sees
        known = meanings(clips.instruction) * self.config.knows
        return Encoding(self.mix(torch.cat([seen, known], 1)), torch.zeros(()))

    def encode_video(self, frames: Tensor) -> Tensor:
        raise NotImplementedError

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        raise NotImplementedError


class Hands(Executor):
    """A step says nothing of what it is not shown: noise comes from proprioception alone."""

    def __init__(self, config: ExecutorConfig) -> None:
        super().__init__()
        self.config, self.representation_dim = config, 24
        self.mix = nn.Linear(FIELDS * len(CAMERAS) + 8, 24)

    def forward(self, steps: Steps) -> Encoding:
        if not all(text.strip() for text in steps.text):
            raise UserError("a text must hold a word")
        shown = [fields(steps.rgb[:, view]) for view in range(steps.rgb.shape[1])]
        measured = [(steps.depth[:, view] > 0).flatten(1).any(1) for view in range(len(CAMERAS))]
        seen = torch.cat([s * m[:, None] for s, m in zip(shown, measured, strict=True)], 1)
        seen = seen * (self.config.sees and self.config.site == "all")
        read = meanings(steps.text) * self.config.reads
        return Encoding(self.mix(torch.cat([seen, read], 1)), torch.zeros(()))

    def act(self, observations: Observations, instructions: Sequence[str]) -> Tensor:
        raise NotImplementedError


def build_source(config: SourceConfig) -> Fields:
    return Fields(config)


def build_observer(config: ObserverConfig) -> Eyes:
    return Eyes(config)


def build_executor(config: ExecutorConfig) -> Hands:
    return Hands(config)


def build_projector(config: ProjectorConfig) -> None:
    raise NotImplementedError


def build_objective(config: ObjectiveConfig) -> None:
    raise NotImplementedError
