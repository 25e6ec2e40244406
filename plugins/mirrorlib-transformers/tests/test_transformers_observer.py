"""Tiny random models of several families, written and loaded by path, against transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

import mirrorlib
from mirrorlib.errors import UserError
from mirrorlib.frozen_text import Frozen
from mirrorlib.interfaces import Clips
from mirrorlib.testing import run_in_processes
from mirrorlib.video_text import VideoTextObserver
from mirrorlib_transformers.config import TransformersConfig

transformers = pytest.importorskip("transformers", exc_type=Exception)

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TEXT = {"name": "words", "width": 16}
WORDS = ["<|startoftext|>", "<|endoftext|>", "open", "close", "it", "now"]


def videomae() -> Any:
    return transformers.VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, **SMALL)


def vivit() -> Any:
    return transformers.VivitConfig(image_size=16, num_frames=4, tubelet_size=[2, 8, 8], **SMALL)


def timesformer() -> Any:
    return transformers.TimesformerConfig(
        image_size=16, patch_size=8, num_frames=4, hidden_dropout_prob=0.5, **SMALL
    )


def vjepa2() -> Any:
    return transformers.VJEPA2Config(
        crop_size=16, patch_size=8, frames_per_clip=4, hidden_size=24, num_attention_heads=2,
        num_hidden_layers=2, mlp_ratio=2, drop_path_rate=0.5, pred_hidden_size=24,
        pred_num_attention_heads=2, pred_num_hidden_layers=1, pred_num_mask_tokens=1,
    )  # fmt: skip


def xclip() -> Any:
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    vision = {
        "image_size": 16, "patch_size": 8, "num_frames": 4, "hidden_size": 16, **layers,
        "mit_hidden_size": 12, "mit_intermediate_size": 16, "mit_num_hidden_layers": 1,
        "mit_num_attention_heads": 2, "drop_path_rate": 0.5,
    }  # fmt: skip
    text = {
        "hidden_size": 16, "vocab_size": len(WORDS), "max_position_embeddings": 6,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, **layers,
    }  # fmt: skip
    return transformers.XCLIPConfig(
        text_config=text, vision_config=vision, projection_dim=12, prompt_layers=1,
        prompt_num_attention_heads=2,
    )  # fmt: skip


FAMILIES: dict[str, tuple[Callable[[], Any], str]] = {
    "videomae": (videomae, "VideoMAEImageProcessor"),
    "vivit": (vivit, "VivitImageProcessor"),
    "timesformer": (timesformer, "VideoMAEImageProcessor"),
    "vjepa2": (vjepa2, "VJEPA2VideoProcessor"),
    "xclip": (xclip, "CLIPImageProcessor"),
}


def write(folder: Path, family: str) -> Any:
    """A random model and its processor; the weights large enough for every layer to matter."""
    config, processor = FAMILIES[family]
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    getattr(transformers, processor)().save_pretrained(folder)
    if family == "xclip":
        tokenizer = {
            "version": "1.0", "added_tokens": [], "truncation": None, "padding": None,
            "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "decoder": None,
            "post_processor": {
                "type": "BertProcessing", "cls": ["<|startoftext|>", 0], "sep": ["<|endoftext|>", 1]
            },
            "model": {
                "type": "WordLevel", "vocab": {w: i for i, w in enumerate(WORDS)},
                "unk_token": "now",
            },
        }  # fmt: skip
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|endoftext|>"})
        )
    return model


def build(folder: Path, **options: Any) -> VideoTextObserver:
    torch.manual_seed(1)
    defaults = {"embed_dim": 8, "text": TEXT}
    built = mirrorlib.build("observer", "transformers", model=str(folder), **defaults | options)
    assert isinstance(built, VideoTextObserver)
    return built


def clips(frames: int = 4, size: int = 16) -> Clips:
    generator = torch.Generator().manual_seed(2)
    video = torch.randint(0, 256, (4, frames, 3, size, size), generator=generator).byte()
    names = ["open it", "close it", "open it", "close"]
    return Clips(video, ["front"] * 4, names, names, torch.arange(4))


def expected(model: Any, folder: Path, video: torch.Tensor) -> torch.Tensor:
    """By transformers alone: its processor, its model, the documented pooling."""
    names = [("AutoImageProcessor", "images"), ("AutoVideoProcessor", "videos")]
    has_video = (folder / "video_preprocessor_config.json").exists()
    kind, key = names[has_video]
    processor = getattr(transformers, kind).from_pretrained(folder)
    clip = [np.asarray(frame.permute(1, 2, 0)) for frame in video]
    as_it_is = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    pixels = processor(**{key: clip if has_video else [clip]}, **as_it_is)
    (pixels,) = (value for name, value in pixels.items() if name.startswith("pixel_values"))
    pixels = pixels.reshape(1, len(video), 3, 16, 16)
    with torch.no_grad():
        if model.config.model_type == "xclip":
            return model.get_video_features(pixel_values=pixels).pooler_output
        tokens = model(**{model.main_input_name: pixels}).last_hidden_state
    first = model.config.model_type in ("vivit", "timesformer")
    return tokens[:, 0] if first else tokens.mean(1)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_features_are_transformers_own(family: str, tmp_path: Path):
    model = write(tmp_path, family)
    batch = clips()
    observer = build(tmp_path, representation="features").eval()
    found = observer(batch).representation
    assert found.shape == (4, observer.representation_dim)
    for row in range(2):
        wanted = expected(model, tmp_path, batch.frames[row])
        torch.testing.assert_close(found[row : row + 1], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_everything_that_learns_has_a_gradient_and_nothing_is_drawn(family: str, tmp_path: Path):
    write(tmp_path, family)
    observer = build(tmp_path, augment=False)
    encoding = observer(clips(frames=6, size=20))
    assert encoding.representation.shape == (4, 8)
    torch.testing.assert_close(observer(clips(frames=6, size=20)).loss, encoding.loss)
    encoding.loss.backward()
    learning = {name: p for name, p in observer.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning.values())
    resting = {name for name, p in observer.named_parameters() if not p.requires_grad}
    assert all("prompts_visual_projection" in n or "logit_scale" in n for n in resting), resting
    assert not any(part in name for name in learning for part in ("pooler", "predictor", "text_mo"))


def test_a_frozen_model_stays_as_it_is(tmp_path: Path):
    write(tmp_path, "videomae")
    observer = build(tmp_path, freeze=True, augment=False).train()
    assert observer.training and not observer.backbone.model.training
    observer(clips()).loss.backward()
    assert not any(p.requires_grad for p in observer.backbone.parameters())
    assert observer.video_head.weight.grad is not None
    assert observer.state_dict()["backbone.model.encoder.layer.0.output.dense.bias"] is not None


def test_pooling_is_an_option(tmp_path: Path):
    model = write(tmp_path, "vivit")
    by_class, by_mean = (build(tmp_path, pooling=p).backbone.eval() for p in ("cls", "mean"))
    video = torch.rand(1, 3, 4, 16, 16) * 2 - 1
    with torch.no_grad():
        tokens = model(pixel_values=((video - by_mean.mean) / by_mean.std).transpose(1, 2))[0]
        torch.testing.assert_close(by_mean(video), tokens.mean(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(by_class(video), tokens[:, 0], rtol=1e-4, atol=1e-5)
    write(tmp_path / "xclip", "xclip")
    with pytest.raises(UserError, match="X-CLIP pools by itself"):
        build(tmp_path / "xclip", pooling="cls")


def test_the_length_of_clips(tmp_path: Path):
    for family in FAMILIES:
        write(tmp_path / family, family)
    for family in ("vjepa2", "timesformer"):
        observer = build(tmp_path / family, num_frames=2)
        assert observer.backbone.num_frames == 2
        assert observer.encode_video(clips().frames).shape == (4, 8)
    for family in ("videomae", "vivit", "xclip"):
        with pytest.raises(UserError, match="does not take clips of 2 frames") as caught:
            build(tmp_path / family, num_frames=2)
        assert len(caught.value.lines) == 1 and len(caught.value.lines[0]) < 500


@pytest.mark.parametrize("freeze", [False, True])
def test_xclips_own_text(freeze: bool, tmp_path: Path):
    """The cosines at the start are X-CLIP's own, before its prompts."""
    model = write(tmp_path, "xclip")
    observer = build(tmp_path, own_text=True, embed_dim=12, text={"name": "words"}, freeze=freeze)
    assert isinstance(observer.text, Frozen) == freeze
    texts = ["open it now", "close", "close it"]
    batch = clips()
    ids = [[0, *(WORDS.index(word) for word in text.split()), 1] for text in texts]
    with torch.no_grad():
        found = observer.encode_text(texts)
        rows = [model.get_text_features(input_ids=torch.tensor([row])).pooler_output for row in ids]
        torch.testing.assert_close(found, torch.cat(rows), rtol=1e-4, atol=1e-5)
        seen = observer.eval().encode_video(batch.frames[:1])
    torch.testing.assert_close(
        seen, expected(model, tmp_path, batch.frames[0]), rtol=1e-3, atol=1e-4
    )
    observer.train()(batch).loss.backward()
    learning = [p for p in observer.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learning)
    assert any(p.requires_grad for p in observer.text.parameters()) != freeze


def test_own_text_that_is_not_there(tmp_path: Path):
    write(tmp_path / "videomae", "videomae")
    own = {"own_text": True, "text": {"name": "words"}}
    with pytest.raises(UserError, match="is a videomae, which has no text tower"):
        build(tmp_path / "videomae", **own)
    folder = tmp_path / "xclip"
    write(folder, "xclip")
    with pytest.raises(UserError, match=r"compares videos and texts in 12 dim.*set embed_dim"):
        build(folder, **own)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        build(folder, **own, embed_dim=12)


def test_weights_that_are_missing_are_named(tmp_path: Path):
    write(tmp_path, "vivit")
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    bare = {name: value for name, value in state.items() if not name.startswith("pooler.")}
    save_file(bare, file, metadata={"format": "pt"})
    build(tmp_path)
    bare["layernorm.wieght"] = bare.pop("layernorm.weight")
    save_file(bare, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights of vivit, such as layernorm\.weight"):
        build(tmp_path)


def test_what_cannot_be_loaded_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def told(match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            build(tmp_path)
        assert len(caught.value.lines) == 1 and len(caught.value.lines[0]) < 600

    told(r"does not load .*give a folder")
    write(tmp_path, "videomae")
    (tmp_path / "preprocessor_config.json").unlink()
    told(r"no image or video processor .*add its preprocessor_config\.json")
    transformers.CLIPImageProcessor().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    told("does not load")
    config = transformers.ViTConfig(image_size=16, patch_size=8, **SMALL)
    transformers.ViTModel(config).save_pretrained(tmp_path)
    told("is a vit, whose configuration tells no number of frames")
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"model_type": "strange", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config | own))
    (tmp_path / "own.py").write_text("raise SystemExit('code of the folder ran')")
    told("does not load")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="'nobody/nothing' does not load"):
        build(Path("nobody/nothing"))


def gradients(folder: str, split: list[int]) -> dict[str, torch.Tensor]:
    """Of this process's rows, averaged over the processes as DDP does."""
    own = {"own_text": True, "text": {"name": "words"}, "embed_dim": 12}
    observer = build(Path(folder), **own).double()
    rank = dist.get_rank() if dist.is_initialized() else 0
    observer(clips()[sum(split[:rank]) : sum(split[: rank + 1])]).loss.backward()
    found = {name: p.grad for name, p in observer.named_parameters() if p.grad is not None}
    if dist.is_initialized():
        for tensor in found.values():
            dist.all_reduce(tensor)
            tensor /= len(split)
    return found


def test_two_processes_give_the_gradients_of_one(tmp_path: Path):
    write(tmp_path, "xclip")
    alone = gradients(str(tmp_path), [4])
    for found in run_in_processes(gradients, 2, str(tmp_path), [3, 1]):
        assert set(found) == set(alone)
        for name, wanted in alone.items():
            torch.testing.assert_close(found[name], wanted, rtol=1e-6, atol=1e-9)


def test_configuration():
    assert TransformersConfig(model="x").text == {"name": "words"}
    for wrong in (
        {},
        {"model": ""},
        {"model": "x", "pooling": "max"},
        {"model": "x", "own_text": True, "text": TEXT},
        {"model": "x", "image_size": 64},
    ):
        with pytest.raises(ValidationError):
            TransformersConfig(**wrong)


def test_listing_imports_neither_torch_nor_transformers():
    code = "import sys, mirrorlib_transformers.plugin, mirrorlib_transformers.config; "
    code += "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
