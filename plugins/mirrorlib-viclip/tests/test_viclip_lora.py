"""Low-rank updates: nothing at first, exact when merged, alone in learning."""

from __future__ import annotations

import pytest
import torch

from mirrorlib_viclip import ViCLIP, ViCLIPConfig
from mirrorlib_viclip.tuning import add_lora, merge_lora

SIZES = {"image_size": 32, "vision_layers": 2, "text_layers": 1, "num_frames": 2}


def model() -> ViCLIP:
    torch.manual_seed(0)
    return ViCLIP(ViCLIPConfig.preset("tiny", vocab_size=50, **SIZES)).double().eval()


CLIPS = torch.randn(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


def test_updates_are_zero_at_first_and_merge_exactly():
    plain = model()
    before, names = plain.encode_video(CLIPS), list(plain.state_dict())
    add_lora(plain.vision_encoder, rank=3, alpha=6.0)
    assert torch.equal(plain.encode_video(CLIPS), before)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.3)
    changed = plain.encode_video(CLIPS)
    assert (changed - before).abs().max() > 0.1
    weight = plain.vision_encoder.transformer.resblocks[1].mlp.c_fc.weight
    update = plain.vision_encoder.transformer.resblocks[1].mlp.c_fc.lora
    expected = weight.detach() + 6.0 / 3 * update.up.detach() @ update.down.detach()
    merge_lora(plain.vision_encoder)
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(plain.encode_video(CLIPS), changed, rtol=0, atol=1e-12)
    assert list(plain.state_dict()) == names


@pytest.mark.parametrize("rank", [1, 8])
def test_only_updates_of_linear_maps_learn(rank):
    tuned = model()
    add_lora(tuned.vision_encoder, rank=rank)
    learning = {
        name: parameter
        for name, parameter in tuned.vision_encoder.named_parameters()
        if parameter.requires_grad
    }
    assert len(learning) == 2 * 4 * 2, "layers, maps, factors"
    assert all("lora" in name for name in learning)
    width = 128
    maps = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    count = sum(parameter.numel() for parameter in learning.values())
    assert count == 2 * rank * sum(inputs + outputs for inputs, outputs in maps)
    tuned.encode_video(CLIPS).square().sum().backward()
    for name, parameter in learning.items():
        assert parameter.grad is not None, name
        assert parameter.grad.any() == name.endswith("up"), "`down` learns once `up` is not zero"
    assert all(parameter.requires_grad for parameter in tuned.text_encoder.parameters())
