"""An observer of any video network and any text tower, trained to match videos and texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirrorlib.interfaces import Clips, Encoding, Observer, Text
from mirrorlib.randomness import derive_seed
from mirrorlib.training.world import gather_rows, row_counts
from mirrorlib_torchvision.backbones import VideoBackbone
from mirrorlib_torchvision.config import Representation
from mirrorlib_torchvision.preprocessing import augment, prepare

SMALLEST_TEMPERATURE = 0.01
"""As in ViCLIP, `viclip.py`."""


class VideoTextObserver(Observer):
    """A video network, a text tower, and a linear map of each into a space of P dimensions.

    The task loss is `video_text_loss` over the rows of all processes, with the texts that the
    rows drew. representation: `embedding`, (B, P) before it is scaled to length 1, or `features`,
    (B, F) of the video network. augmented: vary the clips in training, by each row's own seed.
    """

    def __init__(
        self,
        backbone: VideoBackbone,
        text: Text,
        embed_dim: int = 128,
        image_size: int = 64,
        representation: Representation = "embedding",
        temperature: float = 0.1,
        augmented: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.text = backbone, text
        self.video_head = nn.Linear(backbone.feature_dim, embed_dim)
        self.text_head = nn.Linear(text.width, embed_dim)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.image_size = image_size
        self.augmented = augmented
        self.representation = representation
        self.representation_dim = (
            embed_dim if representation == "embedding" else backbone.feature_dim
        )

    def forward(self, clips: Clips) -> Encoding:
        """Representation (B, representation_dim) and the task loss of all processes' rows."""
        augmented = self.training and self.augmented
        features = self._features(clips.frames, clips.seed if augmented else None)
        embedding = self.video_head(features)
        loss, logs = self._task_loss(embedding, clips)
        chosen = embedding if self.representation == "embedding" else features
        return Encoding(chosen, loss, logs)

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
        video = prepare(frames, self.image_size)
        if seed is not None:
            video = augment(video, seed)
        # On CPU, bf16 gradients of strided 3-D convolutions hold uninitialised memory (oneDNN, seen
        # with torch 2.15), and bf16 is seldom faster there.
        with torch.autocast("cpu", enabled=False):
            return self.backbone(video.to(self.log_scale.dtype).transpose(1, 2))

    def _task_loss(self, embedding: Tensor, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        names = [derive_seed(instruction) for instruction in clips.instruction]
        instruction = torch.tensor(names, dtype=torch.int64, device=embedding.device)
        counts = row_counts(embedding)
        video, text, instruction = (
            gather_rows(rows, counts)
            for rows in (embedding, self.encode_text(clips.text), instruction)
        )
        with torch.no_grad():
            self.log_scale.clamp_(0, -math.log(SMALLEST_TEMPERATURE))
        with torch.autocast(embedding.device.type, enabled=False):
            scale = self.log_scale.exp()
            loss, accuracy = video_text_loss(video, text, instruction, scale)
        return loss, {"accuracy": accuracy, "temperature": 1 / scale.detach()}


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
