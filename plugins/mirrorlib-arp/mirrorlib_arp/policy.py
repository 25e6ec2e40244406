"""The executor `arp`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirrorlib.errors import UserError
from mirrorlib.interfaces import Encoding, Executor, Observations, Steps, Text
from mirrorlib.randomness import uniform
from mirrorlib_arp import heatmaps, prompt
from mirrorlib_arp.chunks import ChunkingTransformer
from mirrorlib_arp.clouds import Cloud, Motion, cloud_of, moved
from mirrorlib_arp.config import ArpConfig, ChunkLayout, Site
from mirrorlib_arp.proprioception import pose_features, pose_features_dim
from mirrorlib_arp.renderer import from_cube, render, to_cube
from mirrorlib_arp.rotation import bins_from_quaternion, quaternion_from_bins, soft_labels
from mirrorlib_arp.stage import Context, Reading, Stage

CHUNKS: Mapping[ChunkLayout, Sequence[int]] = {
    "tokens": (1, 1, 1, 1, 1),
    "groups": (3, 2),
    "joint": (5,),
}
"""Chunk sizes over rotation x, y, z, gripper, collision."""

HIDDEN = frozenset((reader, read) for reader in (3, 4) for read in (0, 1, 2))
"""Gripper and collision are decoded without knowing the rotation (as in ARP)."""

DEFAULT_WORKSPACE = (0.15, -0.4, -0.02, 0.95, 0.4, 0.78)
DEFAULT_PROPRIOCEPTION = 9


def build(config: ArpConfig) -> Arp:
    """The executor with the text tower that its configuration names."""
    from mirrorlib import build as build_component

    return Arp(config, build_component("text", **config.text))


class Arp(Executor):
    """Point cloud of all cameras, three orthographic views, a heat-map each; again within a small
    cube around that point; then rotation and gripper decoded in chunks.

    After RVT-2 (Goyal et al. 2024) and ARP (Zhang et al. 2024), written anew at small size.
    The imitation loss is the unweighted sum of five cross-entropies: the heat-maps of either
    stage (mean over views), rotation (mean over its three angles), gripper, collision.

    In training mode `forward` moves each scene rigidly; the second stage's centre misses the
    target by a jitter in either mode. Both are drawn from the rows' own seeds.
    """

    def __init__(self, config: ArpConfig, text: Text) -> None:
        super().__init__()
        self.config = config
        self.workspace = config.workspace or DEFAULT_WORKSPACE
        low, high = torch.tensor(self.workspace).view(2, 3)
        self.side = float((high - low).max())
        self.register_buffer("centre", (low + high) / 2, persistent=False)
        self.centre: Tensor
        self.proprioception_dim = config.proprioception_dim or DEFAULT_PROPRIOCEPTION

        width = config.width
        self.representation_dim = width
        self.text = text
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

    def forward(self, steps: Steps) -> Encoding:
        self._check(steps)
        with torch.no_grad(), torch.autocast(steps.rgb.device.type, enabled=False):
            if self.training:
                steps = self._augmented(steps)
            cloud = self._cloud(steps, uniform(steps.seed, 1, "arp points")[:, 0])
            target = self._within_cube(steps.action[:, :3])
            jitter = 2 * uniform(steps.seed, 3, "arp zoom") - 1
            zoom_centre = target + self.config.zoom_jitter * jitter
            values = self._values(steps.action)
            coarse_point = to_cube(target, self.centre, self.side)
            fine_point = to_cube(target, zoom_centre, self.config.zoom_side)

        context = self._context(steps.proprioception, steps.text)
        coarse = self.stage1(self._coarse_views(cloud, len(steps)), context)
        fine = self.stage2(self._fine_views(cloud, zoom_centre), context)
        tokens = self.prompt(fine, fine_point)
        logits = self.chunks(tokens, values)

        with torch.autocast(steps.rgb.device.type, enabled=False):
            sigma = self.config.heatmap_sigma
            terms = {
                "heatmap_1": heatmaps.loss(coarse.heatmaps, coarse_point, sigma),
                "heatmap_2": heatmaps.loss(fine.heatmaps, fine_point, sigma),
                "rotation": self._rotation_loss(logits[:3], values[:, :3]),
                "gripper": F.cross_entropy(logits[3], values[:, 3]),
                "collision": F.cross_entropy(logits[4], values[:, 4]),
            }
            loss = torch.stack(list(terms.values())).sum()
        logs = {name: term.detach() for name, term in terms.items()}
        return Encoding(self._representation(coarse, fine, tokens).float(), loss, logs)

    @torch.no_grad()
    def act(self, observations: Observations, instructions: Sequence[str]) -> Tensor:
        self._check(observations)
        with torch.autocast(observations.rgb.device.type, enabled=False):
            first = torch.zeros(len(observations), device=observations.rgb.device)
            cloud = self._cloud(observations, first)
        context = self._context(observations.proprioception, instructions)
        coarse = self.stage1(self._coarse_views(cloud, len(observations)), context)
        zoom_centre = from_cube(heatmaps.locate(coarse.heatmaps), self.centre, self.side)
        fine = self.stage2(self._fine_views(cloud, zoom_centre), context)
        fine_point = heatmaps.locate(fine.heatmaps)
        values = self.chunks.decode(self.prompt(fine, fine_point))
        point = from_cube(fine_point, zoom_centre, self.config.zoom_side)
        quaternion = quaternion_from_bins(values[:, :3], self.config.rotation_bins)
        return torch.cat([point, quaternion, values[:, 3:].float()], 1)

    def _augmented(self, steps: Steps) -> Steps:
        motion = Motion.drawn(steps.seed, self.config.yaw_degrees, self.config.shift)
        return moved(steps, motion, pose=self.config.proprioception == "pose")

    def _cloud(self, observations: Observations, fraction: Tensor) -> Cloud:
        """fraction: (B,) in [0, 1), chooses among the pixels of a stride."""
        stride = self.config.point_stride
        return cloud_of(observations, self.workspace, stride, (fraction * stride).long())

    def _within_cube(self, point: Tensor) -> Tensor:
        """Augmentation may push a target out of sight: keep it a little within the cube."""
        reach = self.side / 2 - self.side / self.config.image_size / 2
        return point.clamp(self.centre - reach, self.centre + reach)

    def _coarse_views(self, cloud: Cloud, batch: int) -> Tensor:
        centre = self.centre.expand(batch, 3)
        return render(cloud, centre, self.side, self.config.image_size)

    def _fine_views(self, cloud: Cloud, centre: Tensor) -> Tensor:
        return render(cloud, centre, self.config.zoom_side, self.config.image_size)

    def _values(self, action: Tensor) -> Tensor:
        """The tokens (B, 5) of actions (B, 9)."""
        rotation = bins_from_quaternion(action[:, 3:7], self.config.rotation_bins)
        return torch.cat([rotation, (action[:, 7:] > 0.5).long()], 1)

    def _rotation_loss(self, logits: Sequence[Tensor], index: Tensor) -> Tensor:
        labels = soft_labels(index, self.config.rotation_bins, self.config.rotation_sigma)
        return F.cross_entropy(torch.stack(list(logits), 1).flatten(0, 1), labels.flatten(0, 1))

    def _context(self, proprioception: Tensor, texts: Sequence[str]) -> Context:
        """The text tower runs once for each distinct wording."""
        distinct = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        rows = torch.tensor([distinct[text] for text in texts], device=proprioception.device)
        encoding = self.text(list(distinct))
        words = self.text_words(encoding.tokens)
        pooled = self.text_pooled(encoding.pooled)[rows]
        state = self.state(self._state(proprioception))
        mixed = self.context(torch.cat([state, pooled.to(state.dtype)], 1))
        return Context(mixed, words[rows].to(mixed.dtype), encoding.mask[rows])

    def _check(self, observations: Observations) -> None:
        length = observations.proprioception.shape[1]
        if length != self.proprioception_dim:
            raise UserError(
                f"executor arp: the data's proprioception has {length} numbers, the executor was "
                f"built for {self.proprioception_dim}; set proprioception_dim"
            )

    def _state_features(self) -> int:
        if self.config.proprioception == "pose":
            return pose_features_dim(self.proprioception_dim)
        return self.proprioception_dim

    def _state(self, proprioception: Tensor) -> Tensor:
        if self.config.proprioception == "pose":
            return pose_features(proprioception, self.centre, self.side)
        return proprioception

    def _representation(self, coarse: Reading, fine: Reading, tokens: Tensor) -> Tensor:
        site: Site = self.config.site
        if site == "stage1_pooled":
            return coarse.pooled
        if site == "stage1_views":
            return coarse.tokens.mean((1, 2, 3))
        if site == "stage2_pooled":
            return fine.pooled
        return tokens.mean(1)


def _mlp(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))


def _resize(inputs: int, width: int) -> nn.Module:
    return nn.Identity() if inputs == width else nn.Linear(inputs, width)
