"""Both towers against plain float64 torch, their parameters, masking, dropping and compiling."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from mirrorlib import UserError
from mirrorlib_viclip import ViCLIP, ViCLIPConfig

SMALL = ViCLIPConfig(
    image_size=32,
    patch_size=8,
    vision_width=24,
    vision_layers=3,
    vision_heads=3,
    embed_dim=10,
    num_frames=4,
    context_length=6,
    vocab_size=50,
    text_width=16,
    text_heads=2,
    text_layers=2,
    drop_path=0.5,
    masking_prob=0.7,
)


def small(**changes) -> ViCLIP:
    """With biases, norms and embeddings of time that matter."""
    torch.manual_seed(0)
    model = ViCLIP(SMALL.model_copy(update=changes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model.temp.fill_(0.3)
    return model


def video(count: int = 3, frames: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, frames, 3, 32, 32, generator=generator, dtype=torch.float64)


def normalised(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def plain_blocks(state: dict[str, Tensor], tower: str, heads: int, x: Tensor) -> Tensor:
    """Pre-norm blocks of torch's own attention; the text tower masks what follows."""
    length, width = x.shape[1:]
    mask = torch.ones(length, length).triu(1).bool() if tower == "text_encoder" else None
    for index in range(100):
        prefix = f"{tower}.transformer.resblocks.{index}"
        if f"{prefix}.ln_1.weight" not in state:
            return x
        attention = nn.MultiheadAttention(width, heads, batch_first=True).double()
        attention.load_state_dict(
            {
                k: state[f"{prefix}.attn.{k}"]
                for k in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
            }
        )
        y = normalised(state, f"{prefix}.ln_1", x)
        x = x + attention(y, y, y, need_weights=False, attn_mask=mask)[0]
        y = normalised(state, f"{prefix}.ln_2", x) @ state[f"{prefix}.mlp.c_fc.weight"].T
        y = y + state[f"{prefix}.mlp.c_fc.bias"]
        y = (y / (1 + torch.exp(-1.702 * y))) @ state[f"{prefix}.mlp.c_proj.weight"].T
        x = x + y + state[f"{prefix}.mlp.c_proj.bias"]
    raise AssertionError("too many layers")


def plain_video(model: ViCLIP, frames: Tensor) -> Tensor:
    """Patch by patch, in the order place, then time."""
    state = {k: v.detach() for k, v in model.state_dict().items()}
    place = state["vision_encoder.positional_embedding"]
    time = state["vision_encoder.temporal_positional_embedding"][0]
    kernel = state["vision_encoder.conv1.weight"]
    maps = F.conv3d(frames.transpose(1, 2), kernel, stride=kernel.shape[2:])
    rows = []
    for clip in maps:
        tokens = [state["vision_encoder.class_embedding"] + place[0]]
        for y in range(4):
            for x in range(4):
                for t in range(clip.shape[1]):
                    when = time[t] if clip.shape[1] > 1 else time.mean(0)
                    tokens.append(clip[:, t, y, x] + place[1 + 4 * y + x] + when)
        rows.append(torch.stack(tokens))
    x = normalised(state, "vision_encoder.ln_pre", torch.stack(rows))
    x = plain_blocks(state, "vision_encoder", 3, x)
    return normalised(state, "vision_encoder.ln_post", x[:, 0]) @ state["vision_encoder.proj"]


def plain_text(model: ViCLIP, ids: Tensor) -> Tensor:
    state = {k: v.detach() for k, v in model.state_dict().items()}
    x = state["text_encoder.token_embedding.weight"][ids.long()]
    x = plain_blocks(
        state, "text_encoder", 2, x + state["text_encoder.positional_embedding"][: ids.shape[1]]
    )
    x = normalised(state, "text_encoder.ln_final", x)
    ends = torch.stack([row[int(id.argmax())] for row, id in zip(x, ids, strict=True)])
    return ends @ state["text_encoder.text_projection"]


@pytest.mark.parametrize("frames", [4, 1])
def test_video_tower_matches_plain_torch(frames):
    model, clips = small(), video(frames=frames)
    torch.testing.assert_close(model.encode_video(clips), plain_video(model, clips))


@pytest.mark.parametrize("length", [6, 4])
def test_text_tower_matches_plain_torch(length):
    model = small()
    ids = torch.tensor([[7, 3, 49, 0, 0, 0], [1, 2, 3, 49, 0, 9], [49, 1, 1, 1, 1, 1]])[:, :length]
    torch.testing.assert_close(model.encode_text(ids), plain_text(model, ids))
    torch.testing.assert_close(model.encode_text(ids.int()), model.encode_text(ids))


def test_kept_patches_are_the_only_ones_seen():
    model, clips = small(), video()
    kept = model.random_patches(torch.tensor([5, 6, 5]))
    assert kept.shape == (3, 64 - int(0.7 * 64)) and (kept.diff(dim=1) > 0).all()
    assert torch.equal(kept[0], kept[2]) and not torch.equal(kept[0], kept[1])
    masked = model.encode_video(clips, kept=kept)
    changed = clips.clone()
    for row in range(3):
        for patch in set(range(64)) - set(kept[row].tolist()):
            y, x, t = patch // 16, patch // 4 % 4, patch % 4
            changed[row, t, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 9.0
    assert torch.equal(model.encode_video(changed, kept=kept), masked)
    assert not torch.allclose(model.encode_video(changed), model.encode_video(clips))
    everything = torch.arange(64).expand(3, -1)
    torch.testing.assert_close(
        model.encode_video(clips, kept=everything.flip(1)), model.encode_video(clips)
    )


def test_masks_are_uniform_over_patches():
    kept = small().random_patches(torch.arange(4000), masking_prob=0.75)
    share = kept.flatten().bincount(minlength=64) / 4000
    assert (share - 0.25).abs().max() < 0.03


def test_drop_path_follows_the_rows_own_seeds():
    model = small(vision_layers=2).train()
    clips, seed = video(1).expand(40, -1, -1, -1, -1), torch.arange(40)
    encoded = model.encode_video(clips, scale=model.random_branches(seed))
    alone = model.encode_video(clips[7:9], scale=model.random_branches(seed[7:9]))
    torch.testing.assert_close(alone, encoded[7:9])
    outcomes = encoded.detach().round(decimals=6).unique(dim=0)
    assert len(outcomes) == 4, "the last layer's two branches, each left out or not"
    drawn = model.encode_video(clips).detach().round(decimals=6).unique(dim=0)
    assert torch.equal(drawn, outcomes)
    model.eval()
    assert len(model.encode_video(clips).detach().round(decimals=6).unique(dim=0)) == 1


def test_dropped_branches_keep_the_mean():
    tower = small().vision_encoder
    scale = tower.drop_path_scale(torch.rand(20000, 6, generator=torch.Generator().manual_seed(0)))
    assert scale.shape == (3, 2, 20000)
    assert (scale.mean(2) - 1).abs().max() < 0.03
    gone = (scale == 0).double().mean(2)
    for layer, rate in enumerate((0.0, 0.25, 0.5)):
        assert gone[layer].tolist() == pytest.approx([rate, rate], abs=0.02)


def test_checkpointed_gradients_are_the_same():
    clips, ids = (
        video(),
        torch.tensor([[7, 3, 49, 0, 0, 0], [1, 2, 3, 49, 0, 9], [4, 49, 1, 1, 1, 1]]),
    )
    gradients = []
    for enabled in (False, True):
        model = small(drop_path=0.2).train()
        model.checkpoint_gradients(enabled)
        seed = torch.arange(3)
        embedded = model.encode_video(
            clips, kept=model.random_patches(seed), scale=model.random_branches(seed)
        )
        model.loss(embedded, model.encode_text(ids), torch.tensor([1, 2, 1])).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.abs().sum() > 0, name
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize("training", [False, True])
def test_encoders_compile_without_graph_breaks(training):
    model = small().float().train(training)
    clips, ids = video().float(), torch.tensor([[7, 3, 49, 0, 0, 0], [1, 2, 3, 49, 0, 9]])
    scale = model.random_branches(torch.arange(3)) if training else None
    see = torch.compile(model.encode_video, fullgraph=True, backend="eager")
    read = torch.compile(model.encode_text, fullgraph=True, backend="eager")
    compiled = see(clips, scale=scale)
    torch.testing.assert_close(compiled, model.encode_video(clips, scale=scale))
    torch.testing.assert_close(read(ids), model.encode_text(ids))
    compiled.sum().backward()


@pytest.mark.parametrize(
    ("preset", "tensors", "video_millions", "text_millions"),
    [("b16", 303, 86.2, 63.4), ("l14", 447, 304.0, 123.6)],
)
def test_published_sizes(preset, tensors, video_millions, text_millions):
    with torch.device("meta"):
        model = ViCLIP(ViCLIPConfig.preset(preset))
    assert len(model.state_dict()) == tensors == len(list(model.parameters()))
    for tower, millions in (
        (model.vision_encoder, video_millions),
        (model.text_encoder, text_millions),
    ):
        count = sum(parameter.numel() for parameter in tower.parameters())
        assert count / 1e6 == pytest.approx(millions, abs=0.06)
    assert model.config.temp_min == 0.01 and model.config.masking_prob == 0.9


def test_from_chance_everything_is_of_ordinary_size():
    torch.manual_seed(0)
    model = ViCLIP(ViCLIPConfig.preset("tiny")).eval()
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all() and parameter.abs().max() < 2, name
    clips = torch.randn(4, 8, 3, 64, 64)
    with torch.no_grad():
        embeddings = model.encode_video(clips), model.encode_text(["up", "down", "a red block"])
    for rows in embeddings:
        assert 0.3 < rows.square().mean().sqrt() < 3
        assert (rows[0] - rows[1]).abs().max() > 1e-3
    assert not model.vision_encoder.temporal_positional_embedding.any()


def test_temperature_stays_above_its_least_value():
    model = small()
    with torch.no_grad():
        model.temp.fill_(-3.0)
    rows = torch.eye(10, dtype=torch.float64)
    assert model.similarities(rows, rows).max().item() == pytest.approx(100)
    assert model.temp.item() == pytest.approx(0.01)


def test_layer_norm_is_computed_in_float32():
    norm = small().vision_encoder.ln_pre.bfloat16()
    x = 1000 + torch.randn(5, 24).bfloat16()
    exact = F.layer_norm(x.double(), (24,), norm.weight.double(), norm.bias.double())
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x).double(), exact, rtol=8e-3, atol=8e-3)


def test_frames_that_do_not_fit_are_refused():
    model = small()
    with pytest.raises(ValueError, match=r"must be \(B, T, 3, 32, 32\)"):
        model.encode_video(torch.zeros(1, 4, 3, 16, 16))
    with pytest.raises(ValueError, match="must have 4 frames, or 1, got 3"):
        model.encode_video(torch.zeros(1, 3, 3, 32, 32))
    with pytest.raises(UserError, match="vocab_size 50"):
        model.encode_text(["push"])


def test_sizes_must_go_together():
    for wrong in ({"image_size": 60}, {"vision_heads": 7}, {"text_heads": 3}):
        with pytest.raises(ValidationError, match="must be a multiple of"):
            ViCLIPConfig(**wrong)
