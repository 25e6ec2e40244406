"""The networks themselves, and r3d_18's weights and errors."""

from __future__ import annotations

import builtins
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from mirrorlib.errors import UserError
from mirrorlib_torchvision import plugin
from mirrorlib_torchvision.backbones import R3D, R3D18, load_r3d_18
from mirrorlib_torchvision.config import R3D18Config, R3DConfig


def test_r3d_takes_clips_of_any_length():
    network = R3D(8)
    for frames in (1, 3, 8):
        assert network(torch.randn(2, 3, frames, 32, 32)).shape == (2, network.feature_dim)


def test_weights_come_from_a_file(tmp_path):
    pytest.importorskip("torchvision", exc_type=Exception)
    torch.manual_seed(0)
    saved = load_r3d_18(None)
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    network = R3D18(load_r3d_18(str(tmp_path / "weights.pt")), freeze_batch_norm=True).train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm3d)]
    before = norms[0].running_mean.clone()
    video = torch.rand(1, 3, 4, 32, 32) * 2 - 1
    features = network(video)
    assert features.shape == (1, network.feature_dim)
    assert norms and not any(module.training for module in norms)
    assert torch.equal(norms[0].running_mean, before)
    saved.eval().fc = nn.Identity()
    mean = torch.tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1, 1)
    std = torch.tensor([0.22803, 0.22145, 0.216989]).view(3, 1, 1, 1)
    torch.testing.assert_close(features, saved(((video + 1) / 2 - mean) / std))

    torch.save({"conv": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="does not hold the weights"):
        load_r3d_18(str(tmp_path / "other.pt"))
    with pytest.raises(UserError, match=r"neither a file nor .*KINETICS400_V1"):
        load_r3d_18("KINETICS")


def test_mismatched_torchvision_is_the_users_to_mend(monkeypatch):
    original = builtins.__import__

    def broken(name, *args, **kwargs):
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(UserError, match=r"nms does not exist.*pip install") as caught:
        load_r3d_18(None)
    assert len(caught.value.lines) == 1


def test_configuration():
    assert R3DConfig(text={"name": "words", "width": 64}).text["width"] == 64
    assert R3D18Config().image_size == 112
    for wrong in ({"text": {}}, {"width": 12}, {"weights": "x"}, {"representation": "cls"}):
        with pytest.raises(ValidationError):
            R3DConfig(**wrong)


@pytest.mark.parametrize("component", plugin.mirrorlib_observers(), ids=lambda c: c.name)
def test_components_name_what_exists(component):
    for reference in (component.build, component.config):
        module, name = reference.split(":")
        assert callable(getattr(import_module(module), name))


def test_listing_does_not_import_torch():
    code = "import sys, mirrorlib_torchvision.plugin, mirrorlib_torchvision.config; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
