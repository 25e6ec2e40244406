"""The executor `arp` with multi-view transformers, presets `small` and `paper`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mirrorlib.interfaces import Steps, Text
from mirrorlib.randomness import uniform
from mirrorlib_arp import heatmaps
from mirrorlib_arp.base import Answer, KeyframePolicy
from mirrorlib_arp.chunking import (
    ChunkingTransformer,
    Classes,
    Discrete,
    Given,
    HeatMap,
    Layer,
    TokenType,
    soft_heatmap,
)
from mirrorlib_arp.clouds import Cloud, Motion, moved, noisy
from mirrorlib_arp.config import ArpConfig
from mirrorlib_arp.mvt import Mvt, MvtContext, MvtSizes
from mirrorlib_arp.prompt import plane_of, sample
from mirrorlib_arp.renderer import VIEWS, render_wide

POINTS = ("point_1", "point_2")
ROTATION = ("rotation_x", "rotation_y", "rotation_z")
SWITCHES = ("gripper", "collision")
DECODED = (*ROTATION, *SWITCHES)
PROMPT_LENGTH = 2 * VIEWS
LAYOUT = (("prompt", PROMPT_LENGTH), *((name, 1) for name in DECODED))
STREAMS = 8
"""Seeds that each row hands to the chunking transformer: one a view and stage, one for actions."""


@dataclass(frozen=True)
class MvtReading:
    """What a stage makes of its views.

    heatmaps: (B, 3, S, S) float32 logits. tokens: (B, 3, g, g, D) after the last layer. maps:
    (B, 3, C, g, g), projected from them.
    """

    heatmaps: Tensor
    tokens: Tensor
    maps: Tensor


class MvtArp(KeyframePolicy[MvtContext, MvtReading]):
    """Two multi-view transformers and one chunking transformer, at sizes up to ARP's.

    After RVT-2 (Goyal et al. 2024) and ARP (Zhang et al. 2024), from descriptions: neither's
    published weights load. The chunking transformer predicts a screen point for each view, reading
    that view's map, and, after six prompt tokens, rotation x, y, z, gripper and collision. Its
    loss is ARP's, with the sum over the three angles.

    Not specified in public sources: that the stages share the chunking transformer (but for their
    heat-map heads), and what its layers read by cross-attention where the action is decoded;
    here, the second stage's maps of all views.
    """

    def __init__(self, config: ArpConfig, text: Text) -> None:
        super().__init__(config, text)
        assert config.mvt is not None
        self.options = config.mvt
        self.sentence = config.mvt.sentence
        if self.sentence is None:
            self.sentence = any(parameter.requires_grad for parameter in text.parameters())
        self.map_width = 2 * config.channels
        wide = config.site in ("stage1_tokens", "stage2_tokens")
        self.representation_dim = config.width if wide else self.map_width
        sizes = MvtSizes(
            views=config.image_size,
            patch=config.mvt.patch,
            channels=config.channels,
            state=self._state_features(),
            words=text.width,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            dropout=config.mvt.dropout,
        )
        self.stage1 = Mvt(sizes)
        self.stage2 = Mvt(sizes)
        self.chunking = self._chunking()

    def _chunking(self) -> ChunkingTransformer:
        config, options, width = self.config, self.options, self.map_width
        bins = config.rotation_bins

        def heat() -> HeatMap:
            sigma = config.heatmap_sigma
            return HeatMap(width, "views", width, options.patch, options.upsampler, sigma)

        types = [
            TokenType("prompt", Given(width, width)),
            *(TokenType(name, None, heat()) for name in POINTS),
            TokenType("rotation_x", Discrete(bins, width), Classes(width, bins)),
            TokenType("rotation_y", Discrete(bins, width), Classes(width, bins)),
            TokenType("rotation_z", None, Classes(width, bins)),
            TokenType("gripper", Discrete(2, width), Classes(width, 2)),
            TokenType("collision", None, Classes(width, 2)),
        ]
        reading = [Layer("views", "adaln")] * options.cross_layers
        return ChunkingTransformer(
            types,
            [*reading, *([Layer()] * (config.chunk_depth - options.cross_layers))],
            width=width,
            heads=options.chunk_heads,
            max_length=sum(count for _, count in LAYOUT),
            context_widths={"views": width},
            dropout=options.dropout,
            blocked={(reader, read) for reader in SWITCHES for read in ROTATION},
        )

    def _augmented(self, steps: Steps) -> Steps:
        """Turned about the target and shifted within the workspace; colours with noise."""
        config, target = self.config, steps.action[:, :3]
        low, high = target.new_tensor(self.workspace).view(2, 3)
        motion = Motion.drawn(steps.seed, config.yaw_degrees, config.shift, config.shift_z)
        steps = moved(steps, motion.about(target, low, high), config.proprioception == "pose")
        return replace(steps, rgb=noisy(steps.rgb, steps.seed, self.options.rgb_noise))

    def _context(
        self, proprioception: Tensor, texts: Sequence[str], seed: Tensor | None
    ) -> MvtContext:
        encoding, rows = self._encoded(texts, proprioception.device)
        words, mask = encoding.tokens, encoding.mask
        if self.sentence:
            words = torch.cat([encoding.pooled[:, None].to(words.dtype), words], 1)
            mask = F.pad(mask, (1, 0), value=True)
        return MvtContext(self._state(proprioception), words[rows], mask[rows], seed)

    def _read(
        self, stage: int, cloud: Cloud, centre: Tensor, side: float, context: MvtContext
    ) -> MvtReading:
        views = render_wide(cloud, centre, side, self.config.image_size)
        transformer = (self.stage1, self.stage2)[stage]
        tokens, maps = transformer(views, context, f"arp mvt {stage}")
        point, contexts = POINTS[stage], {"views": maps.flatten(0, 1)}
        streams = range(stage * VIEWS, (stage + 1) * VIEWS)
        slots = self.chunking(((point, 1),), {}, contexts, _seeds(context.seed, streams))
        heat = self.chunking.predict(slots, contexts)[point]
        return MvtReading(heat[:, 0].unflatten(0, (-1, VIEWS)), tokens, maps)

    def _targets(self, point: Tensor) -> Tensor:
        size = self.config.image_size
        return soft_heatmap(plane_of(point), (size, size), self.config.heatmap_sigma)

    def _locate(self, maps: Tensor) -> Tensor:
        return heatmaps.locate_mean(maps)

    def _answer(
        self, fine: MvtReading, point: Tensor, values: Tensor, context: MvtContext
    ) -> Answer:
        prompt = self._prompt(fine, point)
        shown = values if context.seed is None else self._jittered(values, context.seed)
        inputs = {name: shown[:, [place]] for place, name in enumerate(DECODED)}
        slots = self.chunking(
            LAYOUT,
            {"prompt": prompt, **inputs},
            {"views": _all_views(fine)},
            _seeds(context.seed, range(2 * VIEWS, 2 * VIEWS + 1)),
        )
        logits = self.chunking.predict(slots)
        return Answer(
            [logits[name][:, 0] for name in DECODED],
            prompt,
            torch.cat([slots[name] for name in DECODED], 1),
        )

    def _decode(self, fine: MvtReading, point: Tensor, context: MvtContext) -> Tensor:
        given, contexts = {"prompt": self._prompt(fine, point)}, {"views": _all_views(fine)}
        values = self.chunking.generate(LAYOUT, given, contexts).values
        return torch.cat([values[name] for name in DECODED], 1)

    def _rotation_loss(self, logits: Sequence[Tensor], index: Tensor) -> Tensor:
        return len(ROTATION) * super()._rotation_loss(logits, index)

    def _prompt(self, fine: MvtReading, point: Tensor) -> Tensor:
        """Six tokens (B, 6, C): of each view's map the sample at the point, and the maximum."""
        maps = fine.maps.float()
        at_point = sample(maps, plane_of(point)[:, :, None, None]).flatten(2)
        return torch.cat([at_point, maps.amax((3, 4))], 1)

    def _jittered(self, values: Tensor, seed: Tensor) -> Tensor:
        """Known rotation tokens, moved by some bins. values: (B, 5). Returns (B, 5)."""
        noise = self.options.rotation_noise
        number = uniform(seed, len(ROTATION), "arp rotation noise")
        limits = torch.tensor(noise, device=seed.device).cumsum(0)[:-1]
        offset = torch.bucketize(number, limits, right=True) - len(noise) // 2
        rotation = (values[:, : len(ROTATION)] + offset) % self.config.rotation_bins
        return torch.cat([rotation, values[:, len(ROTATION) :]], 1)

    def _representation(self, coarse: MvtReading, fine: MvtReading, answer: Answer) -> Tensor:
        site = self.config.site
        if site == "prompt":
            return answer.prompt.mean(1)
        if site == "slots":
            assert answer.slots is not None
            return answer.slots.mean(1)
        reading = coarse if site.startswith("stage1") else fine
        if site.endswith("tokens"):
            return reading.tokens.mean((1, 2, 3))
        return reading.maps.mean((1, 3, 4))


def _all_views(reading: MvtReading) -> Tensor:
    """The maps of all views as tokens (B, 3 g^2, C)."""
    return reading.maps.movedim(2, -1).flatten(1, 3)


def _seeds(seed: Tensor | None, streams: range) -> Tensor | None:
    """Of each row a seed for each stream, (B * streams,)."""
    if seed is None:
        return None
    return (seed[:, None] * STREAMS + torch.tensor(streams, device=seed.device)).flatten()
