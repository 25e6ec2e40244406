"""Video-text observers: any video network, any text tower, trained to match videos and texts."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirrorlib.interfaces import Clips, Encoding, Observer, Text
from mirrorlib.randomness import derive_seed, uniform
from mirrorlib.tracing import untraced
from mirrorlib.training.world import gather_rows, row_counts
from mirrorlib.video_text_config import Representation

SMALLEST_TEMPERATURE = 0.01
"""As in ViCLIP, `viclip.py`."""
SHIFT = 1 / 12
CONTRAST = 0.15
BRIGHTNESS = 0.1
"""Of the range [-1, 1]: five percent of it either way."""

Augmentation = Callable[[Tensor, Tensor], Tensor]
"""video: (B, T, 3, S, S) in [-1, 1], seed: (B,) int64, each row's own. Returns the video varied."""


class VideoBackbone(nn.Module, abc.ABC):
    """Maps a clip to a vector. feature_dim: its length F. num_frames: the T that the network was
    built for, to which clips are resampled; None: any."""

    feature_dim: int
    num_frames: int | None = None

    @abc.abstractmethod
    def forward(self, video: Tensor) -> Tensor:
        """video: (B, 3, T, S, S) in [-1, 1]. Returns (B, F)."""


class VideoTextObserver(Observer):
    """A video network, a text tower, and a linear map of each into a space of P dimensions.

    The task loss is `video_text_loss` over the rows of all processes, with the texts that the
    rows drew. representation: `embedding`, (B, P) before it is scaled to length 1, or `features`,
    (B, F) of the video network. augmentation: varies the clips in training.
    """

    def __init__(
        self,
        backbone: VideoBackbone,
        text: Text,
        embed_dim: int = 128,
        image_size: int = 64,
        representation: Representation = "embedding",
        temperature: float = 0.1,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.text = backbone, text
        self.video_head = nn.Linear(backbone.feature_dim, embed_dim)
        self.text_head = nn.Linear(text.width, embed_dim)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.image_size = image_size
        self.augmentation = augmentation
        self.representation = representation
        self.representation_dim = (
            embed_dim if representation == "embedding" else backbone.feature_dim
        )

    def forward(self, clips: Clips) -> Encoding:
        """Representation (B, representation_dim) and the task loss of all processes' rows."""
        features = self._features(clips.frames, clips.seed if self.training else None)
        embedding = self.video_head(features)
        scale = bounded_scale(self.log_scale)
        text = self.encode_text(clips.text)
        loss, accuracy = global_video_text_loss(embedding, text, clips.instruction, scale)
        chosen = embedding if self.representation == "embedding" else features
        return Encoding(chosen, loss, {"accuracy": accuracy, "temperature": 1 / scale.detach()})

    def encode_video(self, frames: Tensor) -> Tensor:
        """frames: (B, T, 3, H, W) uint8. Returns (B, P), never augmented."""
        embedding: Tensor = self.video_head(self._features(frames))
        return embedding

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """K texts. Returns (K, P). Each distinct text is encoded once."""
        distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        embedding: Tensor = self.text_head(self.text(list(distinct)).pooled)
        return embedding[[distinct[text] for text in texts]]

    def _features(self, frames: Tensor, seed: Tensor | None = None) -> Tensor:
        """frames: (B, T, 3, H, W) uint8. seed: (B,), to vary the clips by. Returns (B, F)."""
        video = prepare(resample(frames, self.backbone.num_frames), self.image_size)
        if seed is not None and self.augmentation is not None:
            video = self.augmentation(video, seed)
        # On CPU, bf16 gradients of strided 3-D convolutions hold uninitialised memory (oneDNN, seen
        # with torch 2.15), and bf16 is seldom faster there.
        with torch.autocast("cpu", enabled=False):
            return self.backbone(video.to(self.log_scale.dtype).transpose(1, 2))


def video_text_loss(
    video: Tensor, text: Tensor, instruction: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Symmetric contrastive loss whose targets are uniform over the rows of one instruction.

    video, text: (N, P), row i of one the partner of row i of the other. instruction: (N,) int64.
    scale: (), the inverse temperature. Returns the loss () and the share of videos whose nearest
    text is of their own instruction. ViCLIP's VTC with idx (InternVideo 3965eef, criterions.py);
    the same as SupCon's L_out in both directions (arXiv 2004.11362, equation 2). Computed in
    float32 or wider: call it with autocast off.
    """
    dtype = torch.promote_types(video.dtype, torch.float32)
    video, text = (F.normalize(rows.to(dtype), dim=1, eps=1e-6) for rows in (video, text))
    logits = scale * video @ text.T
    same = instruction[:, None] == instruction
    targets = F.normalize(same.to(dtype), p=1, dim=1)
    loss = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    correct = same.gather(1, logits.detach().argmax(1, keepdim=True))
    return loss, correct.to(dtype).mean()


@untraced
def global_video_text_loss(
    video: Tensor, text: Tensor, instructions: Sequence[str], scale: Tensor
) -> tuple[Tensor, Tensor]:
    """`video_text_loss` over the rows of all processes, with autocast off.

    video, text: (B, P) and B instructions, the own rows; B may differ between processes. The mean
    of gradients over processes is the gradient of one process with all rows. Collective.
    """
    names = [derive_seed(instruction) for instruction in instructions]
    instruction = torch.tensor(names, dtype=torch.int64, device=video.device)
    counts = row_counts(video)
    video, text, instruction = (gather_rows(rows, counts) for rows in (video, text, instruction))
    with torch.autocast(video.device.type, enabled=False):
        return video_text_loss(video, text, instruction, scale)


def bounded_scale(log_scale: Tensor) -> Tensor:
    """The inverse temperature (), whose logarithm is a parameter (): that is first moved, in
    place, to where the temperature is at most 1 and at least `SMALLEST_TEMPERATURE`."""
    with torch.no_grad():
        log_scale.clamp_(0, -math.log(SMALLEST_TEMPERATURE))
    return log_scale.exp()


def resample(frames: Tensor, count: int | None) -> Tensor:
    """The frames in the middle of `count` equal segments of the clip, some of them repeated where
    it is shorter. frames: (B, T, ...). Returns (B, count, ...); None: the clip as it is."""
    length = frames.shape[1]
    if count is None or count == length:
        return frames
    middles = (2 * torch.arange(count, device=frames.device) + 1) * length // (2 * count)
    return frames[:, middles]


def prepare(frames: Tensor, size: int) -> Tensor:
    """frames: (B, T, 3, H, W) uint8. Returns (B, T, 3, size, size) float32 in [-1, 1].

    The mean over areas where the size divides both H and W, else bilinear with antialiasing.
    """
    height, width = frames.shape[-2:]
    images = frames.flatten(0, 1).float()
    if (height, width) == (size, size):
        resized = images
    elif height % size == 0 and width % size == 0:
        resized = F.avg_pool2d(images, (height // size, width // size))
    else:
        resized = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return (resized / 127.5 - 1).unflatten(0, frames.shape[:2])


def augment(video: Tensor, seed: Tensor, stream: str = "video") -> Tensor:
    """Shift each clip and vary its contrast and brightness, alike in all its frames.

    video: (B, T, 3, S, S) in [-1, 1]. seed: (B,) int64, each row's own. stream: different names
    give independent numbers. Pixels at the border are repeated outwards.
    """
    size = video.shape[-1]
    reach = int(size * SHIFT)
    row, column, contrast, brightness = uniform(seed, 4, stream).T
    for axis, number in ((-2, row), (-1, column)):
        offset = (number * (2 * reach + 1)).long() - reach
        shape = [len(video), 1, 1, 1, 1]
        shape[axis] = size
        source = torch.arange(size, device=video.device) + offset[:, None]
        video = video.gather(axis, source.clamp(0, size - 1).view(shape).expand_as(video))
    gain = 1 + CONTRAST * (2 * contrast - 1)
    return video * gain.view(-1, 1, 1, 1, 1) + (BRIGHTNESS * (2 * brightness - 1)).view(
        -1, 1, 1, 1, 1
    )
