"""Outputs of the original implementation, where MIRRORLIB_VICLIP_DATA names their folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mirrorlib_viclip import ViCLIP, ViCLIPConfig

if "MIRRORLIB_VICLIP_DATA" not in os.environ:
    pytest.skip("MIRRORLIB_VICLIP_DATA is not set", allow_module_level=True)

FOLDER = Path(os.environ["MIRRORLIB_VICLIP_DATA"])
NEAR = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return torch.load(FOLDER / "viclip_tiny.pt", weights_only=True)


@pytest.fixture(scope="module")
def config(recorded) -> ViCLIPConfig:
    """The original's `kernel_size` is always 1."""
    return ViCLIPConfig(**{k: v for k, v in recorded["config"].items() if k != "kernel_size"})


@pytest.fixture(scope="module")
def model(recorded, config, tmp_path_factory) -> ViCLIP:
    path = tmp_path_factory.mktemp("viclip") / "tiny.pth"
    torch.save({"model": recorded["state_dict"]}, path)
    return ViCLIP.from_checkpoint(path, config=config)


@pytest.fixture(scope="module")
def embeddings(recorded, model) -> tuple[Tensor, Tensor]:
    inputs = recorded["inputs"]
    with torch.no_grad():
        return model.encode_video(inputs["video_BTCHW"]), model.encode_text(inputs["text_ids"])


def test_embeddings(recorded, embeddings):
    torch.testing.assert_close(embeddings[0], recorded["outputs"]["video_embed"], **NEAR)
    torch.testing.assert_close(embeddings[1], recorded["outputs"]["text_embed"], **NEAR)


def test_images_take_the_mean_embedding_of_time(recorded, model):
    images = recorded["inputs"]["image_BCHW"][:, None]
    torch.testing.assert_close(
        model.encode_video(images), recorded["outputs"]["image_embed_T1"], **NEAR
    )


def test_masked(recorded, model):
    outputs = recorded["outputs"]
    kept = outputs["mask_kept_token_indices_seed0"]
    masked = model.encode_video(recorded["inputs"]["video_BTCHW"], kept=kept)
    torch.testing.assert_close(masked, outputs["masked_video_embed_seed0"], **NEAR)
    assert model.random_patches(torch.arange(3)).shape == kept.shape


def test_hidden_states(recorded, model):
    found: dict[str, Tensor] = {}

    def record(name: str, module: nn.Module) -> Any:
        return module.register_forward_hook(lambda *call: found.__setitem__(name, call[2]))

    video, text = model.vision_encoder, model.text_encoder
    hooks = [record("vision.ln_pre", video.ln_pre)]
    for name, tower in (("vision", video), ("text", text)):
        blocks = tower.transformer.resblocks
        hooks += [record(f"{name}.block{i}", block) for i, block in enumerate(blocks)]
    with torch.no_grad():
        model.encode_video(recorded["inputs"]["video_BTCHW"])
        model.encode_text(recorded["inputs"]["text_ids"])
        found["vision.ln_post"] = video.ln_post(found["vision.block1"])
        found["text.ln_final"] = text.ln_final(found["text.block1"])
    for hook in hooks:
        hook.remove()
    assert found.keys() == recorded["outputs"]["hidden"].keys()
    for name, expected in recorded["outputs"]["hidden"].items():
        torch.testing.assert_close(found[name], expected, **NEAR)


def test_similarities_and_zero_shot_probabilities(recorded, model, embeddings):
    outputs, (video, text) = recorded["outputs"], embeddings
    cosines = model.similarities(video, text) * model.temp
    likeliest = (100 * cosines).softmax(1).topk(5)
    torch.testing.assert_close(likeliest.values, outputs["predict_probs_scale100"], **NEAR)
    assert torch.equal(likeliest.indices, outputs["predict_labels"])
    torch.testing.assert_close(
        model.similarities(video, text[:3]), outputs["sim_v2t_over_temp"], **NEAR
    )


def test_loss_and_gradients(recorded, model):
    inputs, outputs = recorded["inputs"], recorded["outputs"]
    video = model.encode_video(inputs["video_BTCHW"])
    text = model.encode_text(inputs["text_ids"][:3])
    plain = model.loss(video, text)
    torch.testing.assert_close(plain, outputs["vtc_loss_idx_none"], **NEAR)
    loss = model.loss(video, text, inputs["idx"])
    torch.testing.assert_close(loss, outputs["vtc_loss_idx"], **NEAR)
    model.zero_grad()
    loss.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    assert norms == pytest.approx(outputs["grad_norms_vtc_idx"], rel=1e-5)


@pytest.mark.parametrize("preset", ["b16", "l14"])
def test_parameters_are_those_of_the_published_checkpoints(preset):
    with torch.device("meta"):
        model = ViCLIP(ViCLIPConfig.preset(preset))
    shapes = json.loads((FOLDER / "viclip_key_shapes.json").read_text())[preset]
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == shapes


def test_tokens():
    cases = json.loads((FOLDER / "viclip_tokenizer_cases.json").read_text())
    with torch.device("meta"):
        model = ViCLIP()
    assert model.tokenize(cases["texts"]).tolist() == cases["ids"]
