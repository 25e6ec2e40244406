"""torchvision's video models up to their pooled features, with its weights or a file's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirrorlib.errors import UserError, suggestion
from mirrorlib.pretrained import load_whole, read_weights
from mirrorlib.video_text import VideoBackbone

Name = Literal["r3d_18", "mvit_v2_s", "s3d", "swin3d_t"]

HEADS: dict[Name, str] = {
    "r3d_18": "fc",
    "mvit_v2_s": "head",
    "s3d": "classifier",
    "swin3d_t": "head",
}
FEATURES: dict[Name, int] = {"r3d_18": 512, "mvit_v2_s": 768, "s3d": 1024, "swin3d_t": 768}
CELL = 2, 4, 4
"""Frames, rows and columns that mvit_v2_s joins to one position."""
S3D_WINDOW = 2, 7, 7


class PublishedNetwork(VideoBackbone):
    """A video model of torchvision's without its classifier; F is 512 (r3d_18), 768 (mvit_v2_s:
    its class token; swin3d_t) or 1024 (s3d).

    network: `load_network(name, ...)`, which is changed. num_frames: the T of its clips; None:
    any. image_size: S. freeze_batch_norm: keep its statistics in training too. Stochastic depth
    and dropout are off: a row's loss depends on no numbers drawn beside other rows.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: Name,
        network: nn.Module,
        image_size: int,
        num_frames: int | None = None,
        freeze_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.feature_dim, self.num_frames = FEATURES[name], num_frames
        self.freeze_batch_norm = freeze_batch_norm
        setattr(network, HEADS[name], nn.Identity())
        for module in network.modules():
            if type(module).__name__ in ("StochasticDepth", "Dropout"):
                setattr(module, "p", 0.0)  # noqa: B010
        if name == "s3d":
            network.avgpool = _MeanOfWindows()
        if name == "mvit_v2_s":
            assert num_frames is not None
            _set_positions(network, num_frames, image_size)
        transforms = _published(name).DEFAULT.transforms()
        for buffer, statistic in (("mean", transforms.mean), ("std", transforms.std)):
            value = torch.tensor(statistic).view(3, 1, 1, 1)
            self.register_buffer(buffer, value, persistent=False)

    def forward(self, video: Tensor) -> Tensor:
        features: Tensor = self.network(((video + 1) / 2 - self.mean) / self.std)
        return features

    def train(self, mode: bool = True) -> PublishedNetwork:
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.eval()
        return self


class _MeanOfWindows(nn.Module):
    """s3d's mean over windows of 2 x 7 x 7 cells, smaller where there are fewer cells; the network
    then takes the mean over windows."""

    def forward(self, cells: Tensor) -> Tensor:
        window = [min(w, n) for w, n in zip(S3D_WINDOW, cells.shape[2:], strict=True)]
        return F.avg_pool3d(cells, window, stride=1)


def _set_positions(network: Any, num_frames: int, image_size: int) -> None:
    """The grid of mvit_v2_s; its blocks resize their relative positions to it, linearly."""
    frames, rows, columns = CELL
    network.pos_encoding.temporal_size = num_frames // frames
    network.pos_encoding.spatial_size = (image_size // rows, image_size // columns)


def load_network(name: Name, weights: str | None) -> nn.Module:
    """A video model of torchvision's, with weights from a file, under torchvision's name for them,
    or none. Raises UserError where torchvision cannot be imported or there are no such weights."""
    known = _published(name)
    from torchvision.models import get_model

    network: nn.Module = get_model(name)
    if weights is None:
        return network
    names = [member for member in known.__members__ if member != "DEFAULT"]
    if Path(weights).is_file():
        state = read_weights(Path(weights))
    elif weights in known.__members__:
        state = _downloaded(name, known[weights])
    else:
        raise UserError(
            f"observer {name}: weights {weights!r} is neither a file nor one of torchvision's "
            f"names ({', '.join(names)}){suggestion(weights, names)}"
        )
    load_whole(network, state, f"observer {name}: {weights}", f"torchvision's {name}")
    return network


def _downloaded(name: Name, weights: Any) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"observer {name}: {weights.url} cannot be downloaded ({error}); fetch it where there "
            "is a network, and give the file's path as weights"
        ) from error
    return state


def _published(name: Name) -> Any:
    """torchvision's enum of a model's weights. Raises UserError."""
    try:
        from torchvision.models import get_model_weights
    except Exception as error:  # a mismatched pair of wheels raises RuntimeError
        raise UserError(
            f"observer {name}: torchvision cannot be imported beside torch {torch.__version__} "
            f"({type(error).__name__}: {error}); install a matching pair of wheels, both for CPU "
            "or both for CUDA: pip install --force-reinstall torch torchvision"
        ) from error
    return get_model_weights(name)
