"""A small R3D for CPU: a clip in, one vector of features out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirrorlib.video_text import VideoBackbone

GROUPS = 8


class ResidualBlock(nn.Module):
    """Two 3 x 3 x 3 convolutions (He et al. 2016). Past them, the mean over what the stride joins
    and a 1 x 1 x 1 convolution (He et al. 2019, arXiv 1812.01187, "ResNet-D")."""

    def __init__(self, channels: int, out: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv3d(channels, out, 3, stride, padding=1, bias=False),
            nn.GroupNorm(GROUPS, out),
            nn.ReLU(inplace=True),
            nn.Conv3d(out, out, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, out),
        )
        self.skip = nn.Conv3d(channels, out, 1, bias=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        window = [min(step, size) for step, size in zip(self.stride, x.shape[2:], strict=True)]
        pooled = F.avg_pool3d(x, window, ceil_mode=True)
        return torch.relu(self.main(x) + self.skip(pooled))


class R3D(VideoBackbone):
    """A small R3D (Tran et al. 2018, arXiv 1711.11248) with group normalisation.

    A stem that halves time and image, then three residual blocks of 2, 4 and 6 times `width`
    channels that halve the image again each, the second halving time also; mean and maximum over
    what is left. Halving time in the stem costs half as much as keeping it, and eight frames are
    still told apart by the stem's five-frame kernels.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.feature_dim = 12 * width
        self.stem = nn.Sequential(
            nn.Conv3d(3, width, 5, 2, padding=2, bias=False),
            nn.GroupNorm(GROUPS, width),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.Sequential(
            ResidualBlock(width, 2 * width, (1, 2, 2)),
            ResidualBlock(2 * width, 4 * width, (2, 2, 2)),
            ResidualBlock(4 * width, 6 * width, (1, 2, 2)),
        )

    def forward(self, video: Tensor) -> Tensor:
        cells = self.blocks(self.stem(video)).flatten(2)
        return torch.cat([cells.mean(2), cells.amax(2)], 1)
