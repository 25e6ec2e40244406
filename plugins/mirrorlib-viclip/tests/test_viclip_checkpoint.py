"""Checkpoints as strangers write them: wrappers, sizes from shapes, resizing, precise errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mirrorlib import UserError
from mirrorlib_viclip import ViCLIP, ViCLIPConfig
from mirrorlib_viclip.checkpoint import inferred, located

SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "vision_width": 64,
    "vision_layers": 2,
    "vision_heads": 1,
    "embed_dim": 12,
    "num_frames": 4,
    "context_length": 6,
    "vocab_size": 50,
    "text_width": 128,
    "text_heads": 2,
    "text_layers": 1,
}
CONFIG = ViCLIPConfig(**SIZES)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = ViCLIP(CONFIG)
    return {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def message(call: Any, *arguments: Any, **options: Any) -> str:
    """The one line of the user's error."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("wrapped", ["flat", "model", "module", "safetensors"])
def test_every_layout_loads(state, tmp_path, wrapped):
    if wrapped == "safetensors":
        path = tmp_path / "viclip.safetensors"
        save_file(state, path)
    else:
        content = state if wrapped == "flat" else {wrapped: state, "epoch": 3}
        path = save(tmp_path / "viclip.pth", content)
    model = ViCLIP.from_checkpoint(path)
    assert model.config == CONFIG and not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_half_precision_is_read_as_float32(state, tmp_path):
    half = {name: tensor.half() for name, tensor in state.items()}
    model = ViCLIP.from_checkpoint(save(tmp_path / "half.pt", half))
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, half[name].float())


def test_a_model_does_not_share_its_weights(state):
    one, other = (ViCLIP.from_state_dict(state, CONFIG) for _ in range(2))
    before = state["temp"].clone()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter += 1
    assert torch.equal(other.temp, before) and torch.equal(state["temp"], before)


@pytest.mark.parametrize("preset", ["b16", "l14"])
def test_published_sizes_are_told_from_shapes(preset):
    with torch.device("meta"):
        shapes = ViCLIP(ViCLIPConfig.preset(preset)).state_dict()
    assert inferred(shapes, "file") == ViCLIPConfig.preset(preset)


def test_heads_that_are_not_64_wide_need_a_configuration(state, tmp_path):
    path = save(tmp_path / "viclip.pth", state)
    wide = ViCLIPConfig(**SIZES | {"vision_heads": 4})
    assert ViCLIP.from_checkpoint(path, config=wide).config.vision_heads == 4
    narrow = {"vision_width": 32, "vision_heads": 2}
    other = save(tmp_path / "narrow.pth", ViCLIP(ViCLIPConfig(**SIZES | narrow)).state_dict())
    text = message(ViCLIP.from_checkpoint, other)
    assert "narrow.pth" in text and "vision_heads" in text and "config=" in text
    ViCLIP.from_checkpoint(other, config=ViCLIPConfig(**SIZES | narrow))


def linear(points: np.ndarray, wanted: int) -> np.ndarray:
    """points: (T, W), resampled at pixel centres and held at the ends."""
    where = (np.arange(wanted) + 0.5) * len(points) / wanted - 0.5
    return np.stack(
        [np.interp(where, np.arange(len(points)), column) for column in points.T], axis=1
    )


def cubic(points: np.ndarray, wanted: int) -> np.ndarray:
    """points: (G, ...), by Keys' kernel with a = -0.75, borders repeated."""

    def kernel(d: float) -> float:
        a, d = -0.75, abs(d)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    rows = []
    for index in range(wanted):
        where = (index + 0.5) * len(points) / wanted - 0.5
        near = range(int(np.floor(where)) - 1, int(np.floor(where)) + 3)
        rows.append(sum(kernel(where - i) * points[min(max(i, 0), len(points) - 1)] for i in near))
    return np.stack(rows)


@pytest.mark.parametrize("frames", [2, 4, 7])
def test_embeddings_of_time(state, tmp_path, frames):
    path = save(tmp_path / "viclip.pth", state)
    old = state["vision_encoder.temporal_positional_embedding"][0].numpy()
    model = ViCLIP.from_checkpoint(path, num_frames=frames)
    found = model.vision_encoder.temporal_positional_embedding[0].detach()
    expected = old[:frames] if frames <= 4 else linear(old, frames)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert model.config.num_frames == frames
    model.encode_video(torch.randn(1, frames, 3, 32, 32))


@pytest.mark.parametrize("size", [16, 32, 56])
def test_embeddings_of_place(state, tmp_path, size):
    path = save(tmp_path / "viclip.pth", state)
    old = state["vision_encoder.positional_embedding"].numpy()
    model = ViCLIP.from_checkpoint(path, image_size=size, config=CONFIG)
    found = model.vision_encoder.positional_embedding.detach().numpy()
    grid = cubic(old[1:].reshape(4, 4, 64), size // 8)
    grid = cubic(grid.swapaxes(0, 1), size // 8).swapaxes(0, 1)
    np.testing.assert_allclose(found[0], old[0])
    np.testing.assert_allclose(found[1:], grid.reshape(-1, 64), atol=1e-5)
    model.encode_video(torch.randn(1, 4, 3, size, size))


def test_image_sizes_must_be_whole_patches(state, tmp_path):
    path = save(tmp_path / "viclip.pth", state)
    text = message(ViCLIP.from_checkpoint, path, image_size=30)
    assert "viclip.pth" in text and "image_size 30 must be a multiple of patch_size 8" in text


@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("vision_encoder.proj", "vision_encoder.projection"),
        ("text_encoder.ln_final.weight", "text_encoder.ln_finale.weight"),
        (
            "vision_encoder.transformer.resblocks.1.mlp.c_fc.bias",
            "vision_encoder.transformer.resblocks.1.mlp.fc.bias",
        ),
    ],
)
def test_one_wrong_key_is_named(state, tmp_path, right, wrong, configured):
    renamed = {wrong if name == right else name: tensor for name, tensor in state.items()}
    path = save(tmp_path / "stranger.pth", {"model": renamed})
    options = {"config": CONFIG} if configured else {}
    text = message(ViCLIP.from_checkpoint, path, **options)
    assert "stranger.pth" in text and right in text and wrong in text


def test_missing_surplus_and_misshapen_tensors_are_named(state, tmp_path):
    lacking = {name: tensor for name, tensor in state.items() if name != "temp"}
    text = message(ViCLIP.from_checkpoint, save(tmp_path / "a.pth", lacking))
    assert "a.pth does not hold the weights of this ViCLIP: missing temp; rename" in text
    more = state | {"vision_encoder.head.weight": torch.zeros(2)}
    text = message(ViCLIP.from_checkpoint, save(tmp_path / "b.pth", more))
    assert "ViCLIP: surplus vision_encoder.head.weight; rename" in text
    other = state | {"vision_encoder.ln_post.bias": torch.zeros(7)}
    text = message(ViCLIP.from_checkpoint, save(tmp_path / "c.pth", other))
    assert "ViCLIP: of another shape vision_encoder.ln_post.bias (7,) for (64,); rename" in text
    text = message(ViCLIP.from_checkpoint, tmp_path / "c.pth", config=ViCLIPConfig())
    assert "missing vision_encoder.transformer.resblocks.2." in text and "in all)" in text


class Evil:
    """What a hostile checkpoint holds: reading it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_code_is_never_run(state, tmp_path):
    path = save(tmp_path / "evil.pth", {"model": state, "args": Evil(tmp_path / "ran")})
    text = message(ViCLIP.from_checkpoint, path)
    assert "evil.pth" in text and "mkdir" in text and "safely" in text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["rubbish.pth", "rubbish.safetensors", "empty.pth"])
def test_what_is_no_checkpoint_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"" if name.startswith("empty") else b"video killed the radio star" * 9)
    assert f"{name}: holds no weights" in message(ViCLIP.from_checkpoint, path)


def test_what_holds_no_state_dict_is_refused(tmp_path):
    for content in ([1, 2], {}, {"model": {"epoch": 3}}, {"epoch": 3}):
        text = message(ViCLIP.from_checkpoint, save(tmp_path / "other.pth", content))
        assert "other.pth" in text and "no state_dict" in text
    assert "no such file" in message(ViCLIP.from_checkpoint, tmp_path / "absent.pth")


def test_weights_by_path_or_by_name(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    path = save(tmp_path / "viclip.pth", {"temp": torch.zeros(())})
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        raise ConnectionError("the network is down\nand more")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert located(str(path)) == path and not asked
    for weights in ("organisation/viclip-b", "organisation/viclip:viclip.pth"):
        text = message(located, weights)
        assert "cannot be fetched (the network is down)" in text and "give its path" in text
    assert asked == [
        ("organisation/viclip-b", "model.safetensors"),
        ("organisation/viclip", "viclip.pth"),
    ]
    for weights in ("folder/absent.pth", "absent", "/absent/folder/file"):
        assert "no such file" in message(located, weights)
    assert len(asked) == 2
    monkeypatch.setattr(hub, "hf_hub_download", lambda repository, name: str(path))
    assert located("organisation/viclip-b") == path
