"""The networks: against torchvision's own forward pass, their weights, sizes and errors."""

from __future__ import annotations

import builtins
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import mirrorlib
from mirrorlib.errors import UserError
from mirrorlib.interfaces import Clips
from mirrorlib_torchvision import plugin
from mirrorlib_torchvision.backbones import R3D
from mirrorlib_torchvision.config import (
    MViTV2SConfig,
    R3D18Config,
    R3DConfig,
    S3DConfig,
    Swin3DTConfig,
)
from mirrorlib_torchvision.published import PublishedNetwork, load_network

NORMALISATION = {
    "r3d_18": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    "mvit_v2_s": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
    "s3d": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    "swin3d_t": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""As torchvision's documentation of each model's weights gives them."""
LAST = {
    "r3d_18": ("fc", 512),
    "mvit_v2_s": ("head.1", 768),
    "s3d": ("classifier.1", 1024),
    "swin3d_t": ("head", 768),
}
SMALL = {"mvit_v2_s": 4, "s3d": 8}
"""Frames of the cheapest clips that the network takes; 2 for the others."""


@pytest.fixture(autouse=True)
def torchvision() -> Any:
    return pytest.importorskip("torchvision", exc_type=Exception)


def published(name: str, image_size: int = 32, **options: Any) -> PublishedNetwork:
    torch.manual_seed(0)
    return PublishedNetwork(name, load_network(name, None), image_size, **options)


def test_r3d_takes_clips_of_any_length():
    network = R3D(8)
    for frames in (1, 3, 8):
        assert network(torch.randn(2, 3, frames, 32, 32)).shape == (2, network.feature_dim)


@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [("r3d_18", 4, 48), ("mvit_v2_s", 16, 224), ("s3d", 16, 224), ("swin3d_t", 3, 64)],
)
def test_features_are_what_torchvision_classifies(name, frames, size):
    """The classifier on top gives what the whole network gives, on the sizes it is made for."""
    torch.manual_seed(0)
    whole = load_network(name, None).eval()
    path, width = LAST[name]
    last = whole.get_submodule(path)
    assert (last.in_features if isinstance(last, nn.Linear) else last.in_channels) == width
    video = torch.rand(1, 3, frames, size, size) * 2 - 1
    mean, std = (torch.tensor(row).view(3, 1, 1, 1) for row in NORMALISATION[name])
    with torch.no_grad():
        expected = whole(((video + 1) / 2 - mean) / std)
        network = PublishedNetwork(name, whole, size, frames).eval()
        features = network(video)
    assert features.shape == (1, network.feature_dim) == (1, width)
    logits = features @ last.weight.detach().flatten(1).T + last.bias.detach()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(LAST))
def test_small_clips_train_and_no_row_depends_on_chance(name):
    """At sizes far below the published ones; in training two passes agree, as nothing is drawn."""
    frames = SMALL.get(name, 2)
    network = published(name, num_frames=frames, **_frozen(name)).train()
    video = torch.rand(2, 3, frames, 32, 32) * 2 - 1
    features = network(video)
    torch.testing.assert_close(network(video), features)
    torch.testing.assert_close(network(video[1:]), features[1:], rtol=1e-3, atol=1e-4)
    features.square().mean().backward()
    for parameter, value in network.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all(), parameter


def _frozen(name: str) -> dict[str, bool]:
    return {"freeze_batch_norm": True} if name in ("r3d_18", "s3d") else {}


@pytest.mark.parametrize("shape", [(2, 7, 7), (3, 9, 7), (5, 7, 8)])
def test_s3d_averages_windows_as_torchvision_does(shape):
    cells = torch.randn(1, 4, *shape)
    expected = load_network("s3d", None).avgpool(cells)
    torch.testing.assert_close(published("s3d").network.avgpool(cells), expected)


def test_positions_of_mvit_are_resized_along_each_axis():
    """The published length keeps them; another length reads linearly between them."""
    network = published("mvit_v2_s", image_size=64, num_frames=8)
    attention = network.network.blocks[0].attn
    assert attention.rel_pos_t.shape[0] == 15 and attention.rel_pos_h.shape[0] == 111
    assert network.network.pos_encoding.temporal_size == 4
    assert network.network.pos_encoding.spatial_size == (16, 16)
    video = torch.rand(1, 3, 8, 64, 64) * 2 - 1
    before = network.eval()(video).detach()
    with torch.no_grad():
        for block in network.network.blocks:
            block.attn.rel_pos_t.normal_()
    assert (network(video) - before).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["r3d_18", "s3d"])
def test_frozen_batch_norm_keeps_its_statistics(name):
    frozen = published(name, freeze_batch_norm=True).train()
    free = published(name).train()
    video = torch.rand(2, 3, 8, 32, 32) * 2 - 1
    for network, kept in ((frozen, True), (free, False)):
        norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm3d))
        before = norm.running_mean.clone()
        network(video)
        assert torch.equal(norm.running_mean, before) == kept


def test_weights_come_from_a_file(tmp_path):
    torch.manual_seed(0)
    saved = load_network("r3d_18", None)
    file = tmp_path / "weights.pt"
    torch.save(saved.state_dict(), file)
    loaded = load_network("r3d_18", str(file)).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in saved.state_dict().items())

    state = saved.state_dict()
    state["stem.0.wieght"] = state.pop("stem.0.weight")
    torch.save(state, file)
    with pytest.raises(UserError, match=r"missing stem\.0\.weight; surplus stem\.0\.wieght") as one:
        load_network("r3d_18", str(file))
    assert len(one.value.lines) == 1
    with pytest.raises(UserError, match=r"does not hold the weights of torchvision's s3d"):
        load_network("s3d", str(file))
    with pytest.raises(UserError, match=r"neither a file nor .*\(KINETICS400_V1\); did you mean"):
        load_network("swin3d_t", "KINETICS400_V2")


def test_weights_of_a_name_are_downloaded_or_the_error_says_what_to_do(monkeypatch):
    from torchvision.models.video import S3D_Weights

    torch.manual_seed(0)
    state = load_network("s3d", None).state_dict()
    monkeypatch.setattr(S3D_Weights, "get_state_dict", lambda self, **options: state)
    loaded = load_network("s3d", "KINETICS400_V1").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())

    def offline(self, **options):
        raise OSError("no network")

    monkeypatch.setattr(S3D_Weights, "get_state_dict", offline)
    with pytest.raises(UserError, match=r"s3d-.*pth cannot be downloaded \(no network\).*path"):
        load_network("s3d", "KINETICS400_V1")


def test_mismatched_torchvision_is_the_users_to_mend(monkeypatch):
    original = builtins.__import__

    def broken(name, *args, **kwargs):
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(UserError, match=r"nms does not exist.*pip install") as caught:
        load_network("mvit_v2_s", None)
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize(
    ("name", "options", "demanded"),
    [
        ("r3d_18", {"freeze_batch_norm": True}, None),
        ("mvit_v2_s", {"num_frames": 4}, 4),
        ("s3d", {"num_frames": 8, "freeze_batch_norm": True}, 8),
        ("swin3d_t", {"num_frames": 2}, 2),
    ],
)
def test_observers_learn_from_clips_of_other_lengths(name, options, demanded):
    text = {"name": "words", "width": 16}
    model = mirrorlib.build("observer", name, image_size=32, embed_dim=8, text=text, **options)
    assert model.backbone.num_frames == demanded
    names = ["open it", "close it"]
    video = torch.randint(0, 256, (2, 3, 3, 40, 48)).byte()
    encoding = model(Clips(video, ["front"] * 2, names, names, torch.arange(2)))
    assert encoding.representation.shape == (2, 8)
    encoding.loss.backward()
    learning = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)


def test_configuration():
    assert R3DConfig(text={"name": "words", "width": 64}).text["width"] == 64
    assert (R3D18Config().image_size, R3D18Config().num_frames) == (112, None)
    assert (MViTV2SConfig().image_size, MViTV2SConfig().num_frames) == (224, 16)
    assert list(R3DConfig().model_dump()) == [
        "image_size", "embed_dim", "representation", "temperature", "augment", "text", "width"
    ]  # fmt: skip
    for model, wrong in (
        (R3DConfig, {"text": {}}),
        (R3DConfig, {"width": 12}),
        (R3DConfig, {"weights": "x"}),
        (R3DConfig, {"representation": "cls"}),
        (MViTV2SConfig, {"num_frames": 3}),
        (MViTV2SConfig, {"image_size": 100}),
        (S3DConfig, {"num_frames": 7}),
        (S3DConfig, {"image_size": 16}),
        (Swin3DTConfig, {"freeze_batch_norm": True}),
    ):
        with pytest.raises(ValidationError):
            model(**wrong)


@pytest.mark.parametrize("component", plugin.mirrorlib_observers(), ids=lambda c: c.name)
def test_components_name_what_exists(component):
    for reference in (component.build, component.config):
        module, name = reference.split(":")
        assert callable(getattr(import_module(module), name))


def test_listing_does_not_import_torch():
    code = "import sys, mirrorlib_torchvision.plugin, mirrorlib_torchvision.config; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
