"""Video networks: a clip in, one vector of features out."""

from __future__ import annotations

import abc
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirrorlib.errors import UserError

GROUPS = 8


class VideoBackbone(nn.Module, abc.ABC):
    """Maps a clip to a vector. feature_dim: its length F."""

    feature_dim: int

    @abc.abstractmethod
    def forward(self, video: Tensor) -> Tensor:
        """video: (B, 3, T, S, S) in [-1, 1]. Returns (B, F)."""


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


class R3D18(VideoBackbone):
    """torchvision's r3d_18 up to its pooled features.

    network: `load_r3d_18(...)`. freeze_batch_norm: keep its statistics in training too.
    """

    feature_dim = 512
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, freeze_batch_norm: bool = False) -> None:
        super().__init__()
        self.network = network
        self.network.fc = nn.Identity()
        self.freeze_batch_norm = freeze_batch_norm
        for name, statistic in (
            ("mean", (0.43216, 0.394666, 0.37645)),
            ("std", (0.22803, 0.22145, 0.216989)),
        ):
            self.register_buffer(name, torch.tensor(statistic).view(3, 1, 1, 1), persistent=False)

    def forward(self, video: Tensor) -> Tensor:
        features: Tensor = self.network(((video + 1) / 2 - self.mean) / self.std)
        return features

    def train(self, mode: bool = True) -> R3D18:
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.eval()
        return self


def load_r3d_18(weights: str | None) -> nn.Module:
    """torchvision's r3d_18 with weights from a file, under torchvision's name for them, or none.

    Raises UserError where torchvision cannot be imported or there are no such weights.
    """
    try:
        from torchvision.models.video import R3D_18_Weights, r3d_18
    except Exception as error:  # a mismatched pair of wheels raises RuntimeError
        raise UserError(
            f"observer r3d_18: torchvision cannot be imported beside torch {torch.__version__} "
            f"({type(error).__name__}: {error}); install a matching pair of wheels, both for CPU "
            "or both for CUDA: pip install --force-reinstall torch torchvision"
        ) from error
    network: nn.Module = r3d_18()
    if weights is None:
        return network
    names = list(R3D_18_Weights.__members__)
    if Path(weights).is_file():
        state = torch.load(weights, map_location="cpu", weights_only=True)
    elif weights in names:
        state = R3D_18_Weights[weights].get_state_dict(progress=True, check_hash=True)
    else:
        raise UserError(
            f"observer r3d_18: weights {weights!r} is neither a file nor one of torchvision's "
            f"names ({', '.join(names)})"
        )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"observer r3d_18: {weights} does not hold the weights of torchvision's r3d_18 "
            f"({error})"
        ) from error
    return network
