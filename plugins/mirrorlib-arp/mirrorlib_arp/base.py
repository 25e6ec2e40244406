"""What the executors `arp` of all sizes share: clouds, stages, targets, losses, acting."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mirrorlib.errors import UserError
from mirrorlib.interfaces import Encoding, Executor, Observations, Steps, Text, TextEncoding
from mirrorlib.randomness import uniform
from mirrorlib.tracing import untraced
from mirrorlib_arp import heatmaps
from mirrorlib_arp.clouds import Cloud, cloud_of
from mirrorlib_arp.config import ArpConfig
from mirrorlib_arp.proprioception import pose_features, pose_features_dim
from mirrorlib_arp.renderer import from_cube, to_cube
from mirrorlib_arp.rotation import bins_from_quaternion, quaternion_from_bins, soft_labels

DEFAULT_WORKSPACE = (0.15, -0.4, -0.02, 0.95, 0.4, 0.78)
DEFAULT_PROPRIOCEPTION = 9


class HasHeatmaps(Protocol):
    """What a stage makes of its views. heatmaps: (B, 3, S, S) logits."""

    @property
    def heatmaps(self) -> Tensor: ...


@dataclass(frozen=True)
class Answer:
    """What was decoded at the second stage's point.

    logits: of rotation x, y, z, gripper and collision, (B, values) each, float32.
    prompt: (B, Q, D), what they were decoded from. slots: (B, 5, D), from which the logits come.
    """

    logits: Sequence[Tensor]
    prompt: Tensor
    slots: Tensor | None = None


ContextT = TypeVar("ContextT")
ReadingT = TypeVar("ReadingT", bound=HasHeatmaps)


class KeyframePolicy(Executor, Generic[ContextT, ReadingT]):
    """Point cloud of all cameras, three orthographic views, a heat-map each; again within a small
    cube around that point; then rotation and gripper decoded in chunks.

    The imitation loss is the unweighted sum of five cross-entropies: the heat-maps of either
    stage (mean over views), rotation (mean over its three angles, or their sum), gripper,
    collision.

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
        self.text = text

    @abc.abstractmethod
    def _augmented(self, steps: Steps) -> Steps:
        """The same scenes moved, from the rows' seeds."""

    @abc.abstractmethod
    def _context(
        self, proprioception: Tensor, texts: Sequence[str], seed: Tensor | None
    ) -> ContextT:
        """What views are read against. seed: (B,) the rows' own in training, else None."""

    @abc.abstractmethod
    def _read(
        self, stage: int, cloud: Cloud, centre: Tensor, side: float, context: ContextT
    ) -> ReadingT:
        """What stage 0 or 1 makes of the cube at `centre` (B, 3)."""

    @abc.abstractmethod
    def _targets(self, point: Tensor) -> Tensor:
        """Heat-maps (B, 3, S, S) that sum to one. point: (B, 3) cube coordinates."""

    @abc.abstractmethod
    def _locate(self, maps: Tensor) -> Tensor:
        """The point (B, 3), in cube coordinates, that heat-maps (B, 3, S, S) agree on."""

    @abc.abstractmethod
    def _answer(self, fine: ReadingT, point: Tensor, values: Tensor, context: ContextT) -> Answer:
        """Logits given the true tokens `values` (B, 5), read at `point` (B, 3) of the cube."""

    @abc.abstractmethod
    def _decode(self, fine: ReadingT, point: Tensor, context: ContextT) -> Tensor:
        """The likeliest tokens (B, 5) int64, chunk after chunk."""

    @abc.abstractmethod
    def _representation(self, coarse: ReadingT, fine: ReadingT, answer: Answer) -> Tensor:
        """The tensor at the configured site, (B, D)."""

    def forward(self, steps: Steps) -> Encoding:
        self._check(steps)
        side, zoom_side = self.side, self.config.zoom_side
        with torch.no_grad(), torch.autocast(steps.rgb.device.type, enabled=False):
            if self.training:
                steps = self._augmented(steps)
            cloud = self._cloud(steps, uniform(steps.seed, 1, "arp points")[:, 0])
            target = self._within_cube(steps.action[:, :3])
            jitter = 2 * uniform(steps.seed, 3, "arp zoom") - 1
            zoom_centre = target + self.config.zoom_jitter * jitter
            values = self._values(steps.action)
            coarse_point = to_cube(target, self.centre, side)
            fine_point = to_cube(target, zoom_centre, zoom_side)

        seed = steps.seed if self.training else None
        context = self._context(steps.proprioception, steps.text, seed)
        centre = self.centre.expand(len(steps), 3)
        coarse = self._read(0, cloud, centre, side, context)
        fine = self._read(1, cloud, zoom_centre, zoom_side, context)
        answer = self._answer(fine, fine_point, values, context)

        with torch.autocast(steps.rgb.device.type, enabled=False):
            logits = answer.logits
            terms = {
                "heatmap_1": heatmaps.loss(coarse.heatmaps, self._targets(coarse_point)),
                "heatmap_2": heatmaps.loss(fine.heatmaps, self._targets(fine_point)),
                "rotation": self._rotation_loss(logits[:3], values[:, :3]),
                "gripper": F.cross_entropy(logits[3], values[:, 3]),
                "collision": F.cross_entropy(logits[4], values[:, 4]),
            }
            loss = torch.stack(list(terms.values())).sum()
        logs = {name: term.detach() for name, term in terms.items()}
        return Encoding(self._representation(coarse, fine, answer).float(), loss, logs)

    @torch.no_grad()
    def act(self, observations: Observations, instructions: Sequence[str]) -> Tensor:
        self._check(observations)
        with torch.autocast(observations.rgb.device.type, enabled=False):
            first = torch.zeros(len(observations), device=observations.rgb.device)
            cloud = self._cloud(observations, first)
        context = self._context(observations.proprioception, instructions, None)
        centre = self.centre.expand(len(observations), 3)
        coarse = self._read(0, cloud, centre, self.side, context)
        zoom_centre = from_cube(self._locate(coarse.heatmaps), self.centre, self.side)
        fine = self._read(1, cloud, zoom_centre, self.config.zoom_side, context)
        fine_point = self._locate(fine.heatmaps)
        values = self._decode(fine, fine_point, context)
        point = from_cube(fine_point, zoom_centre, self.config.zoom_side)
        quaternion = quaternion_from_bins(values[:, :3], self.config.rotation_bins)
        return torch.cat([point, quaternion, values[:, 3:].float()], 1)

    def _rotation_loss(self, logits: Sequence[Tensor], index: Tensor) -> Tensor:
        """logits: three of (B, bins). index: (B, 3) true bins."""
        labels = soft_labels(index, self.config.rotation_bins, self.config.rotation_sigma)
        return F.cross_entropy(torch.stack(list(logits), 1).flatten(0, 1), labels.flatten(0, 1))

    def _cloud(self, observations: Observations, fraction: Tensor) -> Cloud:
        """fraction: (B,) in [0, 1), chooses among the pixels of a stride."""
        stride = self.config.point_stride
        return cloud_of(observations, self.workspace, stride, (fraction * stride).long())

    def _within_cube(self, point: Tensor) -> Tensor:
        """Augmentation may push a target out of sight: keep it a little within the cube."""
        reach = self.side / 2 - self.side / self.config.image_size / 2
        return point.clamp(self.centre - reach, self.centre + reach)

    def _values(self, action: Tensor) -> Tensor:
        """The tokens (B, 5) of actions (B, 9)."""
        rotation = bins_from_quaternion(action[:, 3:7], self.config.rotation_bins)
        return torch.cat([rotation, (action[:, 7:] > 0.5).long()], 1)

    @untraced
    def _encoded(self, texts: Sequence[str], device: torch.device) -> tuple[TextEncoding, Tensor]:
        """Each distinct wording encoded once, and which of them each row has, (B,)."""
        distinct = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        rows = torch.tensor([distinct[text] for text in texts], device=device)
        return self.text(list(distinct)), rows

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
