"""The executor `arp` with convolutional stages, preset `tiny`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mirrorlib.interfaces import Steps, Text
from mirrorlib_arp import heatmaps, prompt
from mirrorlib_arp.base import Answer, KeyframePolicy
from mirrorlib_arp.chunks import ChunkingTransformer
from mirrorlib_arp.clouds import Cloud, Motion, moved
from mirrorlib_arp.config import ArpConfig, ChunkLayout, Site
from mirrorlib_arp.renderer import render
from mirrorlib_arp.stage import Context, Reading, Stage

CHUNKS: Mapping[ChunkLayout, Sequence[int]] = {
    "tokens": (1, 1, 1, 1, 1),
    "groups": (3, 2),
    "joint": (5,),
}
"""Chunk sizes over rotation x, y, z, gripper, collision."""

HIDDEN = frozenset((reader, read) for reader in (3, 4) for read in (0, 1, 2))
"""Gripper and collision are decoded without knowing the rotation (as in ARP)."""


def build(config: ArpConfig) -> KeyframePolicy:
    """The executor with the text tower that its configuration names."""
    from mirrorlib import build as build_component
    from mirrorlib_arp.mvt_policy import MvtArp

    text = build_component("text", **config.text)
    return Arp(config, text) if config.mvt is None else MvtArp(config, text)


class Arp(KeyframePolicy[Context, Reading]):
    """Convolutional stages at a size that learns on a CPU.

    After RVT-2 (Goyal et al. 2024) and ARP (Zhang et al. 2024), written anew at small size. The
    rotation's loss is the mean over its three angles.
    """

    def __init__(self, config: ArpConfig, text: Text) -> None:
        super().__init__(config, text)
        assert config.mvt is None and config.crop is not None
        width = config.width
        self.representation_dim = width
        self.text_words = _resize(text.width, width)
        self.text_pooled = _resize(text.width, width)
        self.state = _mlp(self._state_features(), width)
        self.context = _mlp(2 * width, width)
        sizes = (config.image_size, width, config.depth, config.heads, config.channels)
        self.stage1 = Stage(*sizes)
        self.stage2 = Stage(*sizes)
        self.prompt = prompt.Prompt(width, config.channels, config.crop)
        self.chunks = ChunkingTransformer(
            values=(config.rotation_bins,) * 3 + (2, 2),
            chunks=CHUNKS[config.chunks],
            hidden=HIDDEN,
            prompt_length=prompt.LENGTH,
            width=width,
            heads=config.heads,
            depth=config.chunk_depth,
        )

    def _augmented(self, steps: Steps) -> Steps:
        config = self.config
        motion = Motion.drawn(steps.seed, config.yaw_degrees, config.shift, config.shift_z)
        return moved(steps, motion, pose=config.proprioception == "pose")

    def _context(
        self, proprioception: Tensor, texts: Sequence[str], seed: Tensor | None
    ) -> Context:
        encoding, rows = self._encoded(texts, proprioception.device)
        words = self.text_words(encoding.tokens)
        pooled = self.text_pooled(encoding.pooled)[rows]
        state = self.state(self._state(proprioception))
        mixed = self.context(torch.cat([state, pooled.to(state.dtype)], 1))
        return Context(mixed, words[rows].to(mixed.dtype), encoding.mask[rows])

    def _read(
        self, stage: int, cloud: Cloud, centre: Tensor, side: float, context: Context
    ) -> Reading:
        views = render(cloud, centre, side, self.config.image_size)
        reading: Reading = (self.stage1, self.stage2)[stage](views, context)
        return reading

    def _targets(self, point: Tensor) -> Tensor:
        return heatmaps.targets(point, self.config.image_size, self.config.heatmap_sigma)

    def _locate(self, maps: Tensor) -> Tensor:
        return heatmaps.locate(maps)

    def _answer(self, fine: Reading, point: Tensor, values: Tensor, context: Context) -> Answer:
        tokens = self.prompt(fine, point)
        return Answer(self.chunks(tokens, values), tokens)

    def _decode(self, fine: Reading, point: Tensor, context: Context) -> Tensor:
        return self.chunks.decode(self.prompt(fine, point))

    def _representation(self, coarse: Reading, fine: Reading, answer: Answer) -> Tensor:
        site: Site = self.config.site
        if site == "stage1_pooled":
            return coarse.pooled
        if site == "stage1_views":
            return coarse.tokens.mean((1, 2, 3))
        if site == "stage2_pooled":
            return fine.pooled
        return answer.prompt.mean(1)


def _mlp(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))


def _resize(inputs: int, width: int) -> nn.Module:
    return nn.Identity() if inputs == width else nn.Linear(inputs, width)
