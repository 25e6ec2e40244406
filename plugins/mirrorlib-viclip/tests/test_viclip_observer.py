"""ViCLIP as observer: what learns, processes, masking, precision, weights and learning."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import mirrorlib
from mirrorlib import UserError
from mirrorlib.interfaces import Clips
from mirrorlib.testing import run_in_processes
from mirrorlib_viclip import ViCLIP, ViCLIPConfig
from mirrorlib_viclip.observer import ViCLIPObserver
from mirrorlib_viclip.preprocessing import prepare

SIZES = {
    "preset": "tiny",
    "image_size": 32,
    "vision_width": 64,
    "vision_heads": 1,
    "vision_layers": 2,
    "embed_dim": 16,
    "num_frames": 4,
    "text_width": 64,
    "text_heads": 1,
    "text_layers": 1,
}


def observer(**options) -> ViCLIPObserver:
    torch.manual_seed(0)
    return mirrorlib.build(
        "observer", "viclip", **SIZES | {"temperature": 0.1, "tuning": "full"} | options
    )


def clips(count: int = 6, frames: int = 6, size: int = 40) -> Clips:
    """Rows of three instructions, two wordings each."""
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(0, 256, (count, frames, 3, size, size), generator=generator)
    instruction = [f"move {('left', 'right', 'up')[row % 3]}" for row in range(count)]
    text = [f"please {name}" if row < 3 else name for row, name in enumerate(instruction)]
    seed = torch.arange(count) * 77
    return Clips(video.byte(), ["front"] * count, instruction, text, seed)


@pytest.mark.parametrize("tuning", ["full", "frozen_text", "lora"])
@pytest.mark.parametrize("representation", ["embedding", "features"])
def test_what_is_to_learn_learns_and_nothing_else(tuning, representation):
    model = observer(tuning=tuning, representation=representation, drop_path=0.0)
    encoding = model(clips())
    assert encoding.representation.shape == (6, model.representation_dim)
    assert model.representation_dim == {"embedding": 16, "features": 64}[representation]
    assert not any(log.requires_grad for log in encoding.logs.values())
    (encoding.loss + encoding.representation.square().sum()).backward()
    for name, parameter in model.named_parameters():
        if tuning == "full":
            learns = True
        elif tuning == "frozen_text":
            learns = "text_encoder" not in name
        else:
            learns = "lora" in name or name == "model.temp"
        assert parameter.requires_grad == learns, name
        assert (parameter.grad is not None) == learns, name
        if learns and not name.endswith("lora.down"):
            assert parameter.grad.any(), name


def test_the_loss_is_viclips():
    model, batch = observer().eval(), clips()
    model.model.temp.data.fill_(0.07)
    video, text = model.encode_video(batch.frames), model.encode_text(batch.text)
    expected = model.model.loss(video, text, torch.tensor([0, 1, 2, 0, 1, 2]))
    encoding = model(batch)
    torch.testing.assert_close(encoding.loss, expected)
    assert encoding.logs["temperature"].item() == pytest.approx(0.07)
    torch.testing.assert_close(encoding.representation, video)
    features = observer(representation="features").eval()(batch).representation
    torch.testing.assert_close(features @ model.model.vision_encoder.proj, video)


def test_the_model_sees_the_middle_frames_resized():
    model, batch = observer().eval(), clips(frames=12)
    chosen = batch.frames[:, [1, 4, 7, 10]]
    direct = model.model.encode_video(prepare(chosen, 32, 4))
    torch.testing.assert_close(model.encode_video(batch.frames), direct)


def test_training_is_masked_and_dropped_by_the_rows_seeds_and_evaluation_is_not():
    model, batch = observer(masking_prob=0.5, drop_path=0.5), clips()
    whole = model(batch).representation
    torch.testing.assert_close(model(batch[2:4]).representation, whole[2:4])
    assert torch.equal(model(batch).representation, whole)
    plain = model.eval()(batch).representation
    torch.testing.assert_close(plain, model.encode_video(batch.frames))
    assert (plain - whole).abs().max() > 1e-3
    still = observer(drop_path=0.0)
    torch.testing.assert_close(still(batch).representation, still.encode_video(batch.frames))


def test_a_frozen_video_tower_is_neither_masked_nor_dropped():
    """Frozen by recipe: its module stays in evaluation mode while the observer trains."""
    model = observer(tuning="full", masking_prob=0.5, drop_path=0.5).train()
    trained = model(clips()).representation
    model.model.vision_encoder.eval()
    still = model(clips()).representation
    torch.testing.assert_close(still, model.eval()(clips()).representation)
    assert not torch.allclose(trained, still)


def test_a_frozen_text_does_not_depend_on_its_company():
    texts = ["push", "open the top drawer and put the red block into it, slowly", "turn left"]
    together = observer(tuning="frozen_text").encode_text(texts)
    model = observer(tuning="frozen_text")
    alone = torch.cat([model.encode_text([text]) for text in reversed(texts)]).flip(0)
    assert torch.equal(together, alone)


def test_frozen_texts_are_encoded_once(monkeypatch):
    model = observer(tuning="frozen_text")
    asked: list[list[str]] = []
    plain = ViCLIP.encode_text

    def encode(self: ViCLIP, texts: list[str]) -> Tensor:
        asked.append(list(texts))
        return plain(self, texts)

    monkeypatch.setattr(ViCLIP, "encode_text", encode)
    names = ["left", "up", "left"]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        first = model.encode_text(names).clone()
    again = model.encode_text([*names, "right"])
    assert asked == [["left"], ["up"], ["right"]]
    assert torch.equal(again[:3], first) and not again.requires_grad
    assert first.dtype == torch.float32
    torch.testing.assert_close(again, plain(model.model, [*names, "right"]).detach())
    model(clips()).loss.backward()
    other = observer(tuning="frozen_text", temperature=0.2)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model.encode_text(names), other.encode_text(names))
    assert model.double().encode_text(names).dtype == torch.float64


def test_learning_texts_are_encoded_once_a_call(monkeypatch):
    model = observer()
    plain = ViCLIP.encode_text
    asked: list[list[str]] = []
    monkeypatch.setattr(
        ViCLIP, "encode_text", lambda self, texts: asked.append(texts) or plain(self, texts)
    )
    encoded = model.encode_text(["left", "up", "left"])
    assert asked == [["left", "up"]] and encoded.requires_grad
    assert torch.equal(encoded[0], encoded[2])


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_bf16_autocast_and_checkpointing(tuning):
    model = observer(tuning=tuning, gradient_checkpointing=True, masking_prob=0.3)
    assert model.model.vision_encoder.transformer.gradient_checkpointing
    exact = model(clips()).loss.item()
    with torch.autocast("cpu", torch.bfloat16):
        encoding = model(clips())
    encoding.loss.backward()
    assert encoding.loss.dtype == torch.float32
    assert encoding.loss.item() == pytest.approx(exact, rel=0.05)
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def gradients(split: list[int], tuning: str) -> dict[str, Tensor]:
    """Of this process's rows, averaged over the processes as DDP does."""
    model = observer(masking_prob=0.5, drop_path=0.3, tuning=tuning).double()
    rank = dist.get_rank() if dist.is_initialized() else 0
    encoding = model(clips()[sum(split[:rank]) : sum(split[: rank + 1])])
    encoding.loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    found["loss"] = encoding.loss.detach()
    if dist.is_initialized():
        for tensor in found.values():
            dist.all_reduce(tensor)
            tensor /= len(split)
    return found


def gradients_of_splits() -> list[dict[str, Tensor]]:
    return [gradients([3, 3], "full"), gradients([5, 1], "frozen_text")]


def test_two_processes_give_the_gradients_of_one():
    alone = [gradients([6], "full"), gradients([6], "frozen_text")]
    for found in run_in_processes(gradients_of_splits, 2):
        for together, expected in zip(found, alone, strict=True):
            assert together.keys() == expected.keys()
            for name, gradient in expected.items():
                torch.testing.assert_close(
                    together[name],
                    gradient,
                    rtol=1e-8,
                    atol=1e-11,
                    msg=lambda m, n=name: f"{n}: {m}",
                )


def test_weights_give_their_sizes_and_temperature(tmp_path):
    torch.manual_seed(1)
    sizes = {k: v for k, v in SIZES.items() if k != "preset"}
    trained = ViCLIP(ViCLIPConfig(**sizes))
    trained.temp.data.fill_(0.05)
    path = tmp_path / "viclip.pth"
    torch.save({"model": trained.state_dict()}, path)
    loaded = mirrorlib.build("observer", "viclip", weights=str(path), num_frames=6)
    assert loaded.model.config.vision_width == 64 and loaded.model.config.num_frames == 6
    assert loaded.training and loaded.model.temp.item() == pytest.approx(0.05)
    text = loaded.encode_text(["push"])
    torch.testing.assert_close(text, trained.eval().encode_text(["push"]))
    named = mirrorlib.build("observer", "viclip", weights=str(path), **SIZES)
    torch.testing.assert_close(named.encode_text(["push"]), text)
    with pytest.raises(UserError, match=r"viclip\.pth .*: missing .*, or build the sizes"):
        mirrorlib.build("observer", "viclip", weights=str(path), preset="b16")


def test_mistakes_are_one_line():
    for options, words in (
        ({"image_size": 30}, "image_size 30 must be a multiple of patch_size 16"),
        ({"tuning": "some"}, "frozen_text"),
        ({"masking_prob": 1.0}, "less than 1"),
        ({"weights": "absent.pth"}, "no such file"),
    ):
        with pytest.raises(UserError, match=words):
            observer(**options)


QUARTERS = ("upper left", "upper right", "lower left", "lower right")


def squares(count: int, seed: int) -> Clips:
    """A square of any colour and size in the quarter that the instruction names."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 40, (count, 4, 3, 32, 32), generator=generator)
    size = torch.randint(5, 12, (count,), generator=generator).tolist()
    colour = torch.randint(100, 256, (count, 3, 1, 1), generator=generator)
    for row in range(count):
        y, x = 16 * (row % 4 // 2) + 2, 16 * (row % 2) + 2
        frames[row, :, :, y : y + size[row], x : x + size[row]] = colour[row]
    names = [f"{QUARTERS[row % 4]} corner" for row in range(count)]
    seeds = seed + torch.arange(count)
    return Clips(frames.byte(), ["front"] * count, names, names, seeds)


def test_it_learns_places():
    model = observer(tuning="frozen_text", patch_size=8, num_frames=2)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=2e-3, betas=(0.9, 0.98))
    warm_up = torch.optim.lr_scheduler.LinearLR(optimiser, 0.1, total_iters=10)
    for step in range(100):
        loss = model(squares(16, seed=1000 * step)).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        warm_up.step()
    model.eval()
    test = squares(64, seed=999_999)
    with torch.no_grad():
        videos = model.encode_video(test.frames)
        texts = model.encode_text([f"{name} corner" for name in QUARTERS])
    nearest = torch.cosine_similarity(videos[:, None], texts, dim=2).argmax(1)
    assert (nearest == torch.arange(64) % 4).double().mean() > 0.6
