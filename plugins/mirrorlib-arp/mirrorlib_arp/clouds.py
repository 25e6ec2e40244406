"""From depth pictures to one point cloud a row, and rigid motions of both."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mirrorlib.interfaces import Observations, Steps
from mirrorlib.randomness import uniform
from mirrorlib.tracing import untraced
from mirrorlib_arp.rotation import multiply


@dataclass(frozen=True)
class Cloud:
    """The points of all rows, one after another.

    points: (M, 3) in the world, metres. colours: (M, 3) uint8, or float32 on the same scale of 0
    to 255. rows: (M,) int64, which row of the batch a point belongs to. M may be zero.
    """

    points: Tensor
    colours: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Motion:
    """A turn about the world's z axis, then a shift, for each row. yaw: (B,). shift: (B, 3)."""

    yaw: Tensor
    shift: Tensor

    @classmethod
    def drawn(
        cls, seed: Tensor, yaw_degrees: float, shift: float, shift_z: float | None = None
    ) -> Motion:
        """Uniform within +-yaw_degrees, +-shift along x and y, +-shift_z along z; None: 0.3 shift.

        seed: (B,) int64, the rows' own seeds.
        """
        number = 2 * uniform(seed, 4, "arp motion") - 1
        scale = number.new_tensor([shift, shift, 0.3 * shift if shift_z is None else shift_z])
        return cls(number[:, 0] * math.radians(yaw_degrees), number[:, 1:] * scale)

    def about(self, pivot: Tensor, low: Tensor, high: Tensor) -> Motion:
        """The same turn, but about a point of each row, and the same shift, cut short where it
        would take that point out of a box.

        pivot: (B, 3). low, high: (3,), the box.
        """
        turn = Motion(self.yaw.to(pivot.dtype), self.shift.to(pivot.dtype))
        turned = (turn.matrix()[:, :3, :3] @ pivot[..., None])[..., 0]
        return Motion(turn.yaw, (pivot + turn.shift).clamp(low, high) - turned)

    def matrix(self) -> Tensor:
        """(B, 4, 4)."""
        cosine, sine = self.yaw.cos(), self.yaw.sin()
        matrix = torch.eye(4, dtype=self.yaw.dtype, device=self.yaw.device)
        matrix = matrix.repeat(len(self.yaw), 1, 1)
        matrix[:, 0, 0], matrix[:, 0, 1] = cosine, -sine
        matrix[:, 1, 0], matrix[:, 1, 1] = sine, cosine
        matrix[:, :3, 3] = self.shift
        return matrix

    def of_pose(self, pose: Tensor) -> Tensor:
        """pose: (B, 7) xyz and quaternion xyzw. Returns the same, moved."""
        zero = torch.zeros_like(self.yaw)
        turn = torch.stack([zero, zero, (self.yaw / 2).sin(), (self.yaw / 2).cos()], -1)
        place = (self.matrix()[:, :3, :3] @ pose[:, :3, None])[..., 0] + self.shift
        return torch.cat([place, multiply(turn, pose[:, 3:])], -1)


def moved(steps: Steps, motion: Motion, pose: bool) -> Steps:
    """The same scene elsewhere: cameras, action and, if `pose`, the tool's pose in the first
    seven numbers of the proprioception move together."""
    matrix = motion.matrix().to(steps.extrinsics.dtype)
    proprioception = steps.proprioception
    if pose:
        tool = motion.of_pose(proprioception[:, :7])
        proprioception = torch.cat([tool, proprioception[:, 7:]], -1)
    return replace(
        steps,
        extrinsics=matrix[:, None] @ steps.extrinsics,
        proprioception=proprioception,
        action=torch.cat([motion.of_pose(steps.action[:, :7]), steps.action[:, 7:]], -1),
    )


def noisy(rgb: Tensor, seed: Tensor, amount: float) -> Tensor:
    """Colours with uniform noise of +-amount of their range.

    rgb: (B, V, 3, H, W) uint8. seed: (B,) int64, the rows' own. Returns float32 on the scale of 0
    to 255, up to `amount` of it outside.
    """
    noise = uniform(seed, rgb[0].numel(), "arp colours").view_as(rgb)
    return (noise * 2 - 1) * (255 * amount) + rgb


@untraced
def cloud_of(
    observations: Observations,
    workspace: tuple[float, float, float, float, float, float],
    stride: int,
    offset: Tensor,
) -> Cloud:
    """The points seen within the workspace, one pixel of `stride`.

    offset: (B,) int64 in [0, stride), which pixels; even image rows start at it, odd rows one
    further, so that a stride of 2 chooses the squares of a chess board. Pixels without a positive
    depth give no point.
    """
    pixels = _pixels(observations.depth, stride, offset)
    points, valid = back_project(
        observations.depth, observations.intrinsics, observations.extrinsics, pixels
    )
    low, high = points.new_tensor(workspace).view(2, 3)
    seen = valid & ((points > low) & (points < high)).all(-1)
    kept = seen.flatten().nonzero()[:, 0]
    rows = kept // points[0, ..., 0].numel()
    image = kept // points.shape[2]
    pixel = pixels[rows, kept % points.shape[2]]
    colours = observations.rgb.flatten(3).transpose(2, 3).reshape(-1, 3)
    shown = image * observations.depth[0, 0].numel() + pixel
    return Cloud(points.flatten(0, 2).index_select(0, kept), colours.index_select(0, shown), rows)


def _pixels(depth: Tensor, stride: int, offset: Tensor) -> Tensor:
    """Indices (B, P) into the H * W pixels of a picture."""
    height, width = depth.shape[2:]
    first = torch.arange(height * width // stride, device=depth.device) * stride
    return first + (offset[:, None] + first // width) % stride


def back_project(
    depth: Tensor, intrinsics: Tensor, extrinsics: Tensor, pixels: Tensor
) -> tuple[Tensor, Tensor]:
    """World points of pixels: camera-to-world (depth * K^-1 (u, v, 1)).

    depth: (B, V, H, W) metres along the optical axis. intrinsics: (B, V, 3, 3), the centre of
    the top left pixel at (0.5, 0.5). extrinsics: (B, V, 4, 4) camera to world. pixels: (B, P).
    Returns points (B, V, P, 3), and (B, V, P) whether the depth was finite and positive.
    """
    views, width = depth.shape[1], depth.shape[3]
    index = pixels[:, None].expand(-1, views, -1)
    chosen = depth.flatten(2).gather(2, index)
    u, v = pixels % width + 0.5, pixels // width + 0.5
    homogeneous = torch.stack([u, v, torch.ones_like(u)], -1).to(depth.dtype)
    intrinsics, extrinsics = intrinsics.to(depth.dtype), extrinsics.to(depth.dtype)
    rays = extrinsics[..., :3, :3] @ torch.linalg.inv(intrinsics)
    directions = homogeneous[:, None] @ rays.transpose(-1, -2)
    points = directions * chosen[..., None] + extrinsics[:, :, None, :3, 3]
    return points, chosen.isfinite() & (chosen > 0)
