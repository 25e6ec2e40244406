"""The observer: its loss against a formula, its gradients, processes, precision and learning."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mirrorlib.interfaces import Clips, Text, TextEncoding
from mirrorlib.randomness import derive_seed
from mirrorlib.testing import run_in_processes
from mirrorlib.video_text import VideoTextObserver, augment, video_text_loss
from mirrorlib_torchvision.backbones import R3D


class Bags(Text):
    """A small text tower: the mean of hashed words."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.EmbeddingBag(512, width)
        self.calls: list[int] = []

    def forward(self, texts) -> TextEncoding:
        self.calls.append(len(texts))
        words = [[derive_seed(word) % 512 for word in text.split()] for text in texts]
        pooled = torch.stack([self.embedding(torch.tensor([row]))[0] for row in words])
        return TextEncoding(pooled[:, None], torch.ones(len(texts), 1).bool(), pooled)


def observer(width: int = 8, **options) -> VideoTextObserver:
    torch.manual_seed(0)
    varied = partial(augment, stream="mirrorlib-torchvision")
    defaults = {"image_size": 16, "embed_dim": 12, "augmentation": varied}
    return VideoTextObserver(R3D(width), Bags(), **defaults | options)


def clips(count: int = 6, frames: int = 4, size: int = 32) -> Clips:
    """Rows of three instructions, two wordings each."""
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(0, 256, (count, frames, 3, size, size), generator=generator)
    instruction = [f"move {('left', 'right', 'up')[row % 3]}" for row in range(count)]
    text = [f"please {name}" if row < 3 else name for row, name in enumerate(instruction)]
    seed = torch.arange(count) * 77
    return Clips(video.byte(), ["front"] * count, instruction, text, seed)


def test_loss_matches_the_formula():
    generator = torch.Generator().manual_seed(0)
    video, text = torch.randn(2, 5, 4, dtype=torch.float64, generator=generator)
    names = [3, 8, 3, 3, 8]
    loss, accuracy = video_text_loss(video, text, torch.tensor(names), torch.tensor(7.0))
    expected, hits = 0.0, 0
    for left, right in ((video, text), (text, video)):
        for i in range(5):
            scores = [7 * torch.cosine_similarity(left[i], row, dim=0).item() for row in right]
            total = math.log(sum(map(math.exp, scores)))
            same = [j for j in range(5) if names[j] == names[i]]
            expected -= sum(scores[j] - total for j in same) / len(same) / 10
            hits += left is video and scores.index(max(scores)) in same
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    assert accuracy.item() == pytest.approx(hits / 5)


@pytest.mark.parametrize("representation", ["embedding", "features"])
def test_every_parameter_learns(representation):
    model = observer(representation=representation)
    encoding = model(clips())
    assert encoding.representation.shape == (6, model.representation_dim)
    assert model.representation_dim == {"embedding": 12, "features": 96}[representation]
    encoding.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert not any(log.requires_grad for log in encoding.logs.values())


def test_texts_are_encoded_once_each():
    model = observer()
    names = ["move left", "move up", "move left", "move left"]
    encoded = model.encode_text(names)
    assert model.text.calls == [2]
    torch.testing.assert_close(encoded, torch.cat([model.encode_text([name]) for name in names]))


def test_evaluation_is_not_augmented():
    model, batch = observer(), clips()
    trained = model(batch).representation
    video = model.encode_video(batch.frames)
    assert (trained - video).abs().max() > 1e-3
    model.eval()
    torch.testing.assert_close(model(batch).representation, video)
    torch.testing.assert_close(
        model.encode_video(batch.frames[2:3]), video[2:3], rtol=1e-4, atol=1e-5
    )
    plain = observer(augmentation=None)
    torch.testing.assert_close(plain(batch).representation, plain.encode_video(batch.frames))


def test_temperature_stays_in_range():
    model = observer()
    for beyond, kept in ((9.0, 0.01), (-2.0, 1.0)):
        with torch.no_grad():
            model.log_scale.fill_(beyond)
        assert model(clips()).logs["temperature"].item() == pytest.approx(kept)


def test_bf16_autocast_stays_finite():
    model, batch = observer(), clips()
    black = Clips(batch.frames * 0, batch.camera, batch.instruction, batch.text, batch.seed)
    for rows in (batch, black, batch, batch):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            encoding = model(rows)
        encoding.loss.backward()
        assert encoding.loss.dtype == torch.float32 and encoding.loss.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model(batch).loss.item() == pytest.approx(model.double()(batch).loss.item(), rel=1e-3)


def gradients(split: list[int]) -> dict[str, Tensor]:
    """Of this process's rows, averaged over the processes as DDP does."""
    model = observer().double()
    rank = dist.get_rank() if dist.is_initialized() else 0
    encoding = model(clips()[sum(split[:rank]) : sum(split[: rank + 1])])
    encoding.loss.backward()
    found = {name: p.grad for name, p in model.named_parameters()} | {
        "loss": encoding.loss.detach()
    }
    if dist.is_initialized():
        for tensor in found.values():
            dist.all_reduce(tensor)
            tensor /= len(split)
    return found


def gradients_of_splits() -> list[dict[str, Tensor]]:
    return [gradients([3, 3]), gradients([5, 1])]


def test_two_processes_give_the_gradients_of_one():
    alone = gradients([6])
    for found in run_in_processes(gradients_of_splits, 2):
        for together in found:
            for name, expected in alone.items():
                torch.testing.assert_close(
                    together[name],
                    expected,
                    rtol=1e-10,
                    atol=1e-12,
                    msg=lambda m, n=name: f"{n}: {m}",
                )


DIRECTIONS = {
    "up": (-1, 0),
    "up left": (-1, -1),
    "left": (0, -1),
    "down left": (1, -1),
    "down": (1, 0),
    "down right": (1, 1),
    "right": (0, 1),
    "up right": (-1, 1),
}


def moving_squares(count: int, seed: int) -> Clips:
    """A white square starts anywhere and moves by two pixels a frame, around the border."""
    way = torch.arange(count) % 8
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, 32, (count, 1, 2), generator=generator)
    velocity = 2 * torch.tensor(list(DIRECTIONS.values()))[way, None]
    corner = start + velocity * torch.arange(8)[:, None]
    inside = (torch.arange(32) - corner[..., None]) % 32 < 8
    square = inside[:, :, 0, :, None] & inside[:, :, 1, None, :]
    frames = 255 * square[:, :, None].expand(-1, -1, 3, -1, -1).byte()
    names = [list(DIRECTIONS)[row] for row in way.tolist()]
    return Clips(frames, ["front"] * count, names, names, seed + torch.arange(count))


def test_it_learns_motion():
    """No single frame tells the eight directions apart: what is learnt is motion."""
    model = observer(image_size=32, embed_dim=32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(120):
        loss = model(moving_squares(32, seed=1000 * step)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    test = moving_squares(160, seed=999_999)
    with torch.no_grad():
        videos, texts = model.encode_video(test.frames), model.encode_text(list(DIRECTIONS))
    nearest = torch.cosine_similarity(videos[:, None], texts, dim=2).argmax(1)
    correct = nearest == torch.arange(160) % 8
    assert correct.double().mean() > 0.6
