"""The CLIP tower: against transformers' own, its weights under every name, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

import mirrorlib
from mirrorlib.errors import UserError
from mirrorlib.tokenizer import tokenize
from mirrorlib_text.clip import ClipSizes, ClipText
from mirrorlib_text.clip_weights import read_clip
from mirrorlib_text.config import ClipConfig

pytest.importorskip("open_clip", exc_type=Exception)
transformers = pytest.importorskip("transformers", exc_type=Exception)

TEXTS = ["push the red button", "stack", "Ouvre le tiroir à gauche, s'il te plaît 🙂", ""]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
    "eos_token_id": 49407,
    "bos_token_id": 49406,
    "pad_token_id": 0,
}


def reference(activation: str = "quick_gelu") -> Any:
    """transformers' text tower, with weights large enough for the layers to matter."""
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(**SIZES, hidden_act=activation)
    model = transformers.CLIPTextModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.ndim == 1 else 0.1)
    return model


def openai_names(model: Any) -> dict[str, torch.Tensor]:
    """Written out here by hand, apart from the plugin's own renaming."""
    own: dict[str, torch.Tensor] = {}
    theirs = model.state_dict()
    own["token_embedding.weight"] = theirs["embeddings.token_embedding.weight"]
    own["positional_embedding"] = theirs["embeddings.position_embedding.weight"]
    for layer in range(3):
        block, other = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            rows = [theirs[f"{other}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            own[f"{block}.attn.in_proj_{kind}"] = torch.cat(rows)
            own[f"{block}.attn.out_proj.{kind}"] = theirs[f"{other}.self_attn.out_proj.{kind}"]
            own[f"{block}.mlp.c_fc.{kind}"] = theirs[f"{other}.mlp.fc1.{kind}"]
            own[f"{block}.mlp.c_proj.{kind}"] = theirs[f"{other}.mlp.fc2.{kind}"]
            for norm in (1, 2):
                own[f"{block}.ln_{norm}.{kind}"] = theirs[f"{other}.layer_norm{norm}.{kind}"]
    for kind in ("weight", "bias"):
        own[f"ln_final.{kind}"] = theirs[f"final_layer_norm.{kind}"]
    return own


def build(weights: object, **options: Any) -> Any:
    return mirrorlib.build("text", "clip", weights=str(weights), **options)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_it_is_transformers_tower(tmp_path: Path, activation: str):
    model = reference(activation)
    model.save_pretrained(tmp_path)
    tower = build(tmp_path)
    encoding = tower(TEXTS)
    ids = tokenize(TEXTS, 40)
    with torch.no_grad():
        expected = model(input_ids=ids)
    lengths = (ids == 49407).int().argmax(1) + 1
    assert encoding.mask.sum(1).tolist() == lengths.tolist()
    assert encoding.tokens.shape == (4, int(lengths.max()), 64) and lengths.max() < 40
    for row, length in enumerate(lengths):
        torch.testing.assert_close(
            encoding.tokens[row, :length],
            expected.last_hidden_state[row, :length],
            rtol=1e-4,
            atol=1e-5,
        )
        assert not encoding.tokens[row, length:].any()
    torch.testing.assert_close(encoding.pooled, expected.pooler_output, rtol=1e-4, atol=1e-5)


def test_every_kind_of_file_gives_the_same(tmp_path: Path):
    model = reference()
    folder = tmp_path / "folder"
    model.save_pretrained(folder)
    expected = build(folder)(TEXTS).pooled
    state = openai_names(model)
    clip = {
        **state,
        "text_projection": torch.ones(64, 32),
        "logit_scale": torch.ones(()),
        "visual.conv1.weight": torch.ones(2, 3, 4, 4),
        "visual.positional_embedding": torch.ones(5, 2),
    }
    torch.save(clip, tmp_path / "openai.pt")
    save_file(clip, tmp_path / "openai.safetensors")
    prefixed = {f"text.{name}": value for name, value in state.items()}
    torch.save(
        {"state_dict": prefixed | {"logit_scale": torch.ones(())}}, tmp_path / "open_clip.pt"
    )
    whole = {f"text_model.{name}": value for name, value in model.state_dict().items()}
    whole["text_model.embeddings.position_ids"] = torch.arange(40)[None]
    whole["text_projection.weight"] = torch.ones(32, 64)
    whole["vision_model.embeddings.position_embedding.weight"] = torch.ones(5, 2)
    save_file(whole, tmp_path / "whole.safetensors")
    for file in ("openai.pt", "openai.safetensors", "open_clip.pt", "whole.safetensors"):
        found = build(tmp_path / file, heads=2)(TEXTS).pooled
        torch.testing.assert_close(found, expected, msg=file)


def test_a_whole_clip_of_transformers(tmp_path: Path):
    text = {**SIZES, "hidden_act": "gelu"}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 1, "image_size": 8, "patch_size": 4}  # fmt: skip
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.text_model(input_ids=tokenize(TEXTS, 40))
    found = read_clip(str(tmp_path))
    assert (found.heads, found.activation, found.layers, found.context_length) == (2, "gelu", 3, 40)
    torch.testing.assert_close(build(tmp_path)(TEXTS).pooled, expected.pooler_output)


def test_sizes_come_from_the_weights(tmp_path: Path):
    tower = ClipText(ClipSizes(width=128, layers=2, heads=2, context_length=12))
    half = {name: value.half() for name, value in tower.state_dict().items()}
    torch.save(half, tmp_path / "half.pt")
    built = build(tmp_path / "half.pt", trainable=True)
    assert isinstance(built, ClipText) and built.width == 128 and built.context_length == 12
    assert built.transformer.resblocks[0].attn.num_heads == 2
    assert all(p.dtype == torch.float32 and p.requires_grad for p in built.parameters())


def test_a_wrong_key_is_named(tmp_path: Path):
    state = openai_names(reference())
    state["transformer.resblocks.1.ln_1.wieght"] = state.pop("transformer.resblocks.1.ln_1.weight")
    torch.save(state, tmp_path / "weights.pt")
    message = r"weights\.pt does not hold.*missing .*1\.ln_1\.weight; surplus .*1\.ln_1\.wieght;"
    with pytest.raises(UserError, match=message) as caught:
        build(tmp_path / "weights.pt")
    assert len(caught.value.lines) == 1
    torch.save({"conv.weight": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="holds no text tower of CLIP's"):
        build(tmp_path / "other.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds neither model\.safetensors nor"):
        build(tmp_path / "empty")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "hidden_act": "relu"}))
    torch.save(openai_names(reference()), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"config\.json asks for hidden_act 'relu'"):
        build(tmp_path / "weights.pt")


def test_without_a_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    def offline(name: str, file: str) -> str:
        raise ConnectionError(f"{name}/{file}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    message = r"'openai/clip' is neither a file nor a folder.*\(ConnectionError\).*give its path"
    with pytest.raises(UserError, match=message) as caught:
        build("openai/clip")
    assert len(caught.value.lines) == 1


def test_a_hub_id_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Older repositories have no safetensors file."""
    model = reference("gelu")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")

    def download(name: str, file: str) -> str:
        if not (tmp_path / file).exists():
            raise FileNotFoundError(file)
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    ids = tokenize(TEXTS, 40)
    with torch.no_grad():
        expected = model(input_ids=ids).pooler_output
    torch.testing.assert_close(build("some/clip")(TEXTS).pooled, expected, rtol=1e-4, atol=1e-5)


def test_later_tokens_never_change_earlier_ones():
    torch.manual_seed(0)
    tower = ClipText(ClipSizes(width=32, layers=2, heads=2, context_length=8)).eval()
    ids = torch.randint(1, 49000, (1, 8))
    with torch.no_grad():
        before = tower.encode(ids)
        ids[0, 5] += 1
        after = tower.encode(ids)
        short = tower.encode(ids[:, :5])
    assert torch.equal(before[:, :5], after[:, :5]) and not torch.equal(before, after)
    torch.testing.assert_close(short, before[:, :5])


def test_from_chance_it_learns_and_starts_at_unit_scale():
    torch.manual_seed(0)
    tower = mirrorlib.build("text", "clip", trainable=True, width=64, layers=2, context_length=6)
    assert [tower.width, len(tower.transformer.resblocks)] == [64, 2]
    encoding = tower(["push the red button with the left hand", "stack"])
    assert encoding.tokens.shape == (2, 6, 64) and encoding.mask.sum(1).tolist() == [6, 3]
    assert 0.8 < encoding.pooled.std() < 1.2
    (encoding.pooled.sum() + encoding.tokens.square().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in tower.parameters())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "give weights, or set trainable"),
        ({"weights": "x", "width": 64}, "width is for a tower without weights"),
        ({"weights": "x", "layers": 2, "width": 64}, "width is for"),
        ({"trainable": True, "width": 65, "heads": 2}, "multiple of heads"),
        ({"trainable": True, "activation": "relu"}, "quick_gelu"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], problem: str):
    with pytest.raises(ValidationError, match=problem):
        ClipConfig(**options)


def test_the_tokenizer_is_clips():
    """From OpenAI's own tokenizer, by hand: start, words, end, padding with 0, the cut."""
    ids = tokenize(["a photo of a cat", "Don&#39;t  STOP"], 8).tolist()
    assert ids[0] == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert ids[1] == tokenize(["don't stop"], 8)[0].tolist()
    cut = tokenize(["a photo of a cat and a dog"], 5)[0].tolist()
    assert cut == [49406, 320, 1125, 539, 49407]
    assert re.fullmatch(r"\d+", str(tokenize(["é 漢字 🙂"], 77)[0].max().item()))
    assert tokenize(["é 漢字 🙂"], 77).shape == (1, 77)
