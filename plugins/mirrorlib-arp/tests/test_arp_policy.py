"""The executor as a whole."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mirrorlib.errors import UserError
from mirrorlib.interfaces import Encoding, Steps, Text, TextEncoding
from mirrorlib_arp.config import ArpConfig
from mirrorlib_arp.policy import Arp, build
from mirrorlib_text.config import WordsConfig
from mirrorlib_text.words import Words

TEXTS = ["push the red button", "open the drawer", "turn the left tap", "stack two blue blocks now"]
SMALL = {"image_size": 32, "width": 32, "depth": 1, "channels": 8, "crop": 8}
SITES = ["stage1_pooled", "stage1_views", "stage2_pooled", "prompt"]


def scene(rows: int, length: int = 9) -> Steps:
    """A coloured box on a table seen straight from above by two cameras; act above the box."""
    generator = torch.manual_seed(3)
    size = 32
    camera = torch.eye(4)
    camera[:3, :3] = torch.diag(torch.tensor([1.0, -1, -1]))
    camera[:3, 3] = torch.tensor([0.55, 0.0, 1.2])
    focal = torch.tensor([[40.0, 0, size / 2], [0, 40.0, size / 2], [0, 0, 1]])
    depth = torch.full((rows, 2, size, size), 1.2)
    rgb = torch.full((rows, 2, 3, size, size), 90, dtype=torch.uint8)
    place = torch.randint(6, 20, (rows, 2), generator=generator)
    for row, (v, u) in enumerate(place.tolist()):
        depth[row, :, v : v + 6, u : u + 6] -= 0.1
        rgb[row, :, row % 3, v : v + 6, u : u + 6] = 250
    offset = (place.flip(1) + 3 - size / 2) / 40 * 1.1
    point = torch.stack([0.55 + offset[:, 0], -offset[:, 1], torch.full((rows,), 0.1)], 1)
    quaternion = torch.randn(rows, 4, generator=generator)
    action = torch.cat([point, quaternion, torch.arange(2 * rows).view(rows, 2) % 3 > 0], 1)
    proprioception = torch.rand(rows, length, generator=generator)
    return Steps(
        rgb=rgb,
        depth=depth,
        intrinsics=focal.expand(rows, 2, 3, 3),
        extrinsics=camera.expand(rows, 2, 4, 4),
        proprioception=proprioception,
        instruction=[TEXTS[row % 4] for row in range(rows)],
        text=[TEXTS[row % 4] for row in range(rows)],
        action=action,
        seed=torch.arange(rows) * 1000 + 7,
    )


def policy(**options: Any) -> Arp:
    torch.manual_seed(0)
    return Arp(ArpConfig.model_validate(SMALL | options), Words(WordsConfig(width=32, buckets=64)))


class Counting(Text):
    """A tower of another width that remembers what it was asked."""

    width = 12

    def __init__(self) -> None:
        super().__init__()
        self.words = Words(WordsConfig(width=12, buckets=64))
        self.asked: list[Sequence[str]] = []

    def forward(self, texts: Sequence[str]) -> TextEncoding:
        self.asked.append(texts)
        encoding: TextEncoding = self.words(texts)
        return encoding


@pytest.mark.parametrize(
    ("options", "length"),
    [({"site": site}, 9) for site in SITES]
    + [({"chunks": "groups"}, 9), ({"chunks": "joint"}, 7)]
    + [({"proprioception": "vector", "proprioception_dim": 3}, 3)],
)
def test_every_parameter_receives_a_finite_gradient(options: dict[str, Any], length: int) -> None:
    """As DistributedDataParallel requires; the imitation loss alone reaches them all."""
    options = {"proprioception_dim": length} | options
    module = policy(**options)
    encoding = module(scene(4, length))
    assert encoding.representation.shape == (4, module.representation_dim)
    encoding.loss.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("site", SITES)
def test_the_representation_passes_a_gradient_on(site: str) -> None:
    module = policy(site=site)
    module(scene(2)).representation.square().sum().backward()
    assert module.stage1.stem.weight.grad is not None or site in ("stage2_pooled", "prompt")
    assert module.text.embedding.weight.grad is not None


def test_the_loss_is_the_sum_of_its_terms() -> None:
    encoding = policy()(scene(4))
    assert list(encoding.logs) == ["heatmap_1", "heatmap_2", "rotation", "gripper", "collision"]
    torch.testing.assert_close(encoding.loss.detach(), sum(encoding.logs.values()))
    assert not any(term.requires_grad for term in encoding.logs.values())


def test_one_batch_is_learnt_and_acted_on() -> None:
    """A hundred steps on four scenes; then `act` finds each box, 16 cm wide, to 4 cm."""
    module, steps = policy(yaw_degrees=0, shift=0), scene(4)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    losses = []
    for number in range(100):
        encoding = module(replace(steps, seed=steps.seed + number))
        optimizer.zero_grad()
        encoding.loss.backward()
        optimizer.step()
        losses.append(encoding.loss.item())
    assert losses[39] < 0.7 * losses[0]
    action = module.eval().act(steps, steps.text)
    assert (action[:, :3] - steps.action[:, :3]).norm(dim=1).max() < 0.04
    true = steps.action[:, 3:7] / steps.action[:, 3:7].norm(dim=1, keepdim=True)
    assert (action[:, 3:7] * true).sum(1).abs().min() > 0.99
    assert torch.equal(action[:, 7:], steps.action[:, 7:])


def encode(module: Arp, steps: Steps) -> Encoding:
    with torch.no_grad():
        encoding: Encoding = module(steps)
    return encoding


def test_rows_are_independent() -> None:
    """Of their neighbours' scenes, seeds and length of text, in `forward` and `act`."""
    module, steps = policy(), scene(4)
    together = encode(module, steps).representation
    action = module.act(steps, steps.text)
    for row in range(4):
        alone = steps[row : row + 1]
        torch.testing.assert_close(
            encode(module, alone).representation[0], together[row], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            module.act(alone, alone.text)[0], action[row], rtol=1e-4, atol=1e-4
        )


def test_augmentation_follows_the_row_seed_alone() -> None:
    module, steps = policy(), scene(3)
    first = encode(module, steps)
    torch.manual_seed(99)
    second = encode(module, steps)
    other = encode(module, replace(steps, seed=steps.seed + 1))
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.representation, second.representation)
    assert not torch.equal(first.representation, other.representation)


def test_evaluation_does_not_move_the_scene() -> None:
    steps = scene(3)
    module = policy().eval()
    still = policy(yaw_degrees=0, shift=0).train()
    torch.testing.assert_close(encode(module, steps).loss, encode(still, steps).loss)
    assert not torch.equal(encode(module.train(), steps).loss, encode(still, steps).loss)


def test_instructions_matter_and_each_is_encoded_once() -> None:
    torch.manual_seed(0)
    tower = Counting()
    module, steps = Arp(ArpConfig.model_validate(SMALL), tower), scene(4)
    module.act(steps, ["a b", "c", "a b", "c"])
    assert tower.asked == [["a b", "c"]]
    first, second = (
        encode(module, replace(steps, text=[text] * 4)).representation for text in ("a b", "c")
    )
    assert (first - second).abs().max() > 1e-4


def test_nothing_in_sight() -> None:
    steps = scene(2)
    empty = replace(steps, depth=torch.full_like(steps.depth, 50.0))
    module = policy()
    encoding = module(empty)
    encoding.loss.backward()
    assert encoding.loss.isfinite()
    assert module.act(empty, steps.text).isfinite().all()


def test_actions_are_valid() -> None:
    steps = scene(4)
    action = policy().act(steps, steps.text)
    assert action.shape == (4, 9) and action.dtype == torch.float32
    torch.testing.assert_close(action[:, 3:7].norm(dim=1), torch.ones(4))
    assert set(action[:, 7:].flatten().tolist()) <= {0.0, 1.0}


def test_state_dict_restores_the_policy() -> None:
    module, steps = policy(), scene(3)
    torch.manual_seed(5)
    other = Arp(module.config, Words(WordsConfig(width=32, buckets=64)))
    assert not torch.equal(other.act(steps, steps.text), module.act(steps, steps.text))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.act(steps, steps.text), module.act(steps, steps.text))


def test_autocast_keeps_geometry_and_losses_in_float32() -> None:
    module, steps = policy(), scene(4)
    exact = encode(module, steps)
    with torch.autocast("cpu", torch.bfloat16):
        rough = module(steps)
    rough.loss.backward()
    assert rough.loss.dtype == rough.representation.dtype == torch.float32
    for name, term in exact.logs.items():
        torch.testing.assert_close(rough.logs[name], term, rtol=0.02, atol=0.02)


def test_targets_outside_the_workspace_are_brought_to_its_border() -> None:
    steps = scene(2)
    steps.action[:, 0] = 5.0
    logs = encode(policy(), steps).logs
    assert all(term.isfinite() for term in logs.values()) and logs["heatmap_1"] < 20


def test_build_makes_the_named_text_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def component(kind: str, **config: Any) -> Text:
        asked.append((kind, config))
        return Words(WordsConfig(width=32))

    monkeypatch.setattr("mirrorlib.build", component, raising=False)
    config = ArpConfig.model_validate(SMALL | {"text": {"name": "words", "layers": 2}})
    assert build(config).text.width == 32
    assert asked == [("text", {"name": "words", "layers": 2})]


def test_wrong_proprioception_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="proprioception has 4 numbers"):
        policy()(scene(2, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "multiple of 8"),
        ({"width": 30}, "multiple of heads"),
        ({"text": {"layers": 2}}, "name of a text tower"),
        ({"proprioception_dim": 4}, "holds no pose"),
        ({"workspace": (0, 0, 0, 1, -1, 1)}, "smallest x, y, z first"),
        ({"preset": "large"}, "tiny"),
        ({"sight": "prompt"}, "sight"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ArpConfig.model_validate(options)


def test_tiny_is_the_prototypes_size() -> None:
    config = ArpConfig.model_validate({})
    assert (config.image_size, config.width, config.depth, config.crop) == (64, 128, 4, 16)
    assert ArpConfig.model_validate({"width": 64}).width == 64
