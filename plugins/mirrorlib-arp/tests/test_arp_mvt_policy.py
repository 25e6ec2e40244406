"""The executor with multi-view transformers as a whole."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mirrorlib.interfaces import Encoding, Steps, Text, TextEncoding
from mirrorlib.randomness import derive_seed
from mirrorlib_arp import heatmaps
from mirrorlib_arp.clouds import Cloud, cloud_of
from mirrorlib_arp.config import MVT_SITES, ArpConfig
from mirrorlib_arp.mvt_policy import DECODED, MvtArp, MvtReading
from mirrorlib_arp.renderer import AXES, from_cube, render_wide, to_cube

TEXTS = ["push the red button", "open it", "turn the left tap", "stack two blue blocks now"]
SMALL: dict[str, Any] = {
    "preset": "paper",
    "image_size": 56,
    "width": 32,
    "depth": 2,
    "heads": 4,
    "channels": 16,
    "chunk_depth": 3,
    "proprioception_dim": 3,
    "mvt": {"cross_layers": 2},
}
WORKSPACE = (0.15, -0.4, -0.02, 0.95, 0.4, 0.78)


class Hashed(Text):
    """A word, a learnt vector; pooled by a linear map."""

    width = 12

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(256, 12)
        self.pool = torch.nn.Linear(12, 12)

    def forward(self, texts: Sequence[str]) -> TextEncoding:
        ids = [[derive_seed(word) % 256 for word in text.split()] for text in texts]
        mask = torch.tensor([[place < len(row) for place in range(8)] for row in ids])
        rows = torch.tensor([row + [0] * (8 - len(row)) for row in ids])
        tokens = self.embedding(rows) * mask[..., None]
        return TextEncoding(tokens, mask, self.pool(tokens.sum(1)))


class Clip(Text):
    """The shape of CLIP's text tower, without its weights."""

    width = 512

    def forward(self, texts: Sequence[str]) -> TextEncoding:
        tokens = torch.randn(len(texts), 77, 512, generator=torch.manual_seed(0))
        return TextEncoding(tokens, torch.ones(len(texts), 77).bool(), tokens.mean(1))


def policy(**options: Any) -> MvtArp:
    torch.manual_seed(0)
    mvt = {**SMALL["mvt"], **options.pop("mvt", {})}
    return MvtArp(ArpConfig.model_validate({**SMALL, **options, "mvt": mvt}), Hashed())


def scene(rows: int) -> Steps:
    """A box on a table under two cameras that look straight down; act above the box."""
    generator = torch.manual_seed(3)
    camera = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    camera[:3, 3] = torch.tensor([0.55, 0.0, 1.2])
    focal = torch.tensor([[40.0, 0, 16], [0, 40.0, 16], [0, 0, 1]])
    depth = torch.full((rows, 2, 32, 32), 1.2)
    rgb = torch.full((rows, 2, 3, 32, 32), 90, dtype=torch.uint8)
    place = torch.randint(6, 20, (rows, 2), generator=generator)
    for row, (v, u) in enumerate(place.tolist()):
        depth[row, :, v : v + 6, u : u + 6] -= 0.1
        rgb[row, :, row % 3, v : v + 6, u : u + 6] = 250
    offset = (place.flip(1) + 3 - 16) / 40 * 1.1
    point = torch.stack([0.55 + offset[:, 0], -offset[:, 1], torch.full((rows,), 0.1)], 1)
    quaternion = torch.randn(rows, 4, generator=generator)
    return Steps(
        rgb=rgb,
        depth=depth,
        intrinsics=focal.expand(rows, 2, 3, 3),
        extrinsics=camera.expand(rows, 2, 4, 4),
        proprioception=torch.rand(rows, 3, generator=generator),
        instruction=[TEXTS[row % 4] for row in range(rows)],
        text=[TEXTS[row % 4] for row in range(rows)],
        action=torch.cat([point, quaternion, torch.arange(2 * rows).view(rows, 2) % 3 > 0], 1),
        seed=torch.arange(rows) * 1000 + 7,
    )


def encode(module: MvtArp, steps: Steps) -> Encoding:
    with torch.no_grad():
        encoding: Encoding = module(steps)
    return encoding


def test_the_paper_preset_has_arps_size() -> None:
    """72 million parameters within 3 %, the text tower apart (71.9 are published)."""
    config = ArpConfig.model_validate({"preset": "paper", "proprioception_dim": 3})
    module = MvtArp(config, Clip())
    count = sum(parameter.numel() for parameter in module.parameters())
    assert abs(count / 72e6 - 1) < 0.03
    assert module.map_width == 128 and module.stage1.grid == 16
    assert sum(p.numel() for p in module.stage1.parameters()) == 34_037_504


@pytest.mark.slow
def test_the_paper_preset_runs() -> None:
    """At full size: 15 seconds and 3 GiB for one row."""
    module = MvtArp(ArpConfig.model_validate({"preset": "paper", "proprioception_dim": 3}), Clip())
    steps = scene(1)
    encoding = module(steps)
    assert encoding.representation.shape == (1, 128)
    encoding.loss.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert module.eval().act(steps, steps.text).isfinite().all()


@pytest.mark.parametrize("site", MVT_SITES)
def test_sites(site: str) -> None:
    module = policy(site=site, width=24)
    representation = module(scene(2)).representation
    assert representation.shape == (2, module.representation_dim)
    assert module.representation_dim == (24 if site.endswith("tokens") else 32)
    assert (representation[0] - representation[1]).abs().max() > 1e-4
    representation.square().sum().backward()
    assert module.stage2.position.grad is not None or site.startswith("stage1")
    assert module.text.embedding.weight.grad is not None


def test_every_parameter_receives_a_finite_gradient() -> None:
    """As DistributedDataParallel requires. Adaptive norms begin as zero, and what they read with
    them: it learns from the second step on."""
    module = policy()
    module(scene(4)).loss.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        asleep = "cross" in name or name.startswith("chunking.blocks.")
        assert asleep or parameter.grad.any(), name


def test_the_loss_is_arps_sum() -> None:
    module, steps = policy(mvt={"dropout": 0.0}).eval(), scene(3)
    encoding = encode(module, steps)
    assert list(encoding.logs) == ["heatmap_1", "heatmap_2", "rotation", "gripper", "collision"]
    torch.testing.assert_close(encoding.loss, sum(encoding.logs.values()))
    heat = torch.log(torch.tensor(56.0**2))
    angles = 3 * torch.log(torch.tensor(72.0))
    assert (
        abs(encoding.logs["heatmap_1"] - heat) < 1 and abs(encoding.logs["rotation"] - angles) < 3
    )


def test_one_batch_is_learnt_to_near_zero_and_acted_on() -> None:
    """Without noise, all that is left of the loss is the entropy of the heat-maps' targets."""
    module = policy(
        yaw_degrees=0, shift=0, shift_z=0, zoom_jitter=0, width=64,
        mvt={"dropout": 0.0, "rgb_noise": 0.0, "rotation_noise": (1.0,)},
    )  # fmt: skip
    steps = scene(2)
    point = steps.action[:, :3]
    goals = [
        module._targets(to_cube(point, centre, side))
        for centre, side in ((module.centre, module.side), (point, 0.25))
    ]
    floor = sum(-(goal * goal.clamp(min=1e-12).log()).sum((2, 3)).mean() for goal in goals)
    optimizer = torch.optim.AdamW(module.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=60)
    for _ in range(60):
        encoding = module(steps)
        optimizer.zero_grad()
        encoding.loss.backward()
        optimizer.step()
        schedule.step()
    assert encoding.loss.item() - floor < 0.2
    action = module.eval().act(steps, steps.text)
    assert (action[:, :3] - point).norm(dim=1).max() < 0.015
    true = steps.action[:, 3:7] / steps.action[:, 3:7].norm(dim=1, keepdim=True)
    assert (action[:, 3:7] * true).sum(1).abs().min() > 0.99
    assert torch.equal(action[:, 7:], steps.action[:, 7:])


def test_rows_are_independent() -> None:
    """Of their neighbours' scenes, seeds and length of text, in `forward` and `act`."""
    module, steps = policy(), scene(4)
    together = encode(module, steps).representation
    alone = torch.cat([encode(module, steps[r : r + 1]).representation for r in range(4)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    module.eval()
    action = module.act(steps, steps.text)
    for row in range(4):
        own = steps[row : row + 1]
        torch.testing.assert_close(module.act(own, own.text)[0], action[row], rtol=1e-4, atol=1e-4)


def test_gradients_of_two_halves_are_those_of_the_batch() -> None:
    """In training, dropout and all: so are those of two processes, whose mean is taken."""
    whole = policy()
    parts = copy.deepcopy(whole)
    steps = scene(4)
    whole(steps).loss.backward()
    for half in (steps[:2], steps[2:]):
        (parts(half).loss / 2).backward()
    for (name, one), two in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        scale = one.grad.abs().max().item()
        torch.testing.assert_close(
            two.grad, one.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=lambda m, n=name: n + m
        )


def test_randomness_follows_the_row_seed_alone() -> None:
    module, steps = policy(), scene(3)
    first = encode(module, steps)
    torch.manual_seed(99)
    second = encode(module, steps)
    other = encode(module, replace(steps, seed=steps.seed + 1))
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.representation, second.representation)
    assert not torch.equal(first.representation, other.representation)


def test_known_rotations_are_jittered_and_labels_are_not() -> None:
    """-2 to 2 bins with probabilities 0.1, 0.2, 0.4, 0.2, 0.1, around the circle."""
    module = policy()
    values = torch.tensor([[0, 71, 30, 1, 0]]).expand(20_000, 5)
    shown = module._jittered(values, torch.arange(20_000))
    assert torch.equal(shown[:, 3:], values[:, 3:])
    for axis in range(3):
        offset = (shown[:, axis] - values[:, axis] + 36) % 72 - 36
        share = torch.bincount(offset + 2, minlength=5) / 20_000
        torch.testing.assert_close(
            share, torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1]), atol=0.015, rtol=0
        )
    quiet = policy(mvt={"dropout": 0.0})
    noisy = policy(mvt={"dropout": 0.0, "rotation_noise": (0.5, 0.0, 0.5)})
    logs = [encode(m, scene(4)).logs for m in (quiet, noisy)]
    assert logs[0]["rotation"] != logs[1]["rotation"] and logs[0]["gripper"] == logs[1]["gripper"]


def test_the_target_turns_with_the_scene() -> None:
    """In float64: what is near the target before augmentation is as near to it after."""
    module, steps = policy(), scene(3)
    steps = replace(
        steps,
        depth=steps.depth.double(),
        extrinsics=steps.extrinsics.double(),
        intrinsics=steps.intrinsics.double(),
        action=steps.action.double(),
    )
    after = module._augmented(steps)
    low, high = torch.tensor(WORKSPACE, dtype=torch.float64).view(2, 3)
    assert ((after.action[:, :3] >= low) & (after.action[:, :3] <= high)).all()
    assert (after.action[:, :3] - steps.action[:, :3]).norm(dim=1).min() > 0.005
    everywhere = (-9.0, -9.0, -9.0, 9.0, 9.0, 9.0)
    start = torch.zeros(3, dtype=torch.int64)
    for one, two in zip(steps.action, after.action, strict=True):
        assert torch.equal(one[7:], two[7:])
    distances = []
    for given in (steps, after):
        cloud = cloud_of(given, everywhere, 1, start)
        distances.append((cloud.points - given.action[cloud.rows, :3]).norm(dim=1))
        heights = cloud.points[:, 2] - given.action[cloud.rows, 2]
        distances.append(heights)
    torch.testing.assert_close(distances[2], distances[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(distances[3], distances[1], rtol=0, atol=1e-6)


MARKER = (13, 200, 77)


def marked(steps: Steps) -> Steps:
    """In float64, with a spike of its own colour on each box, at whose tip to act."""
    tips = []
    depth, rgb, camera = steps.depth.double(), steps.rgb.clone(), steps.extrinsics[0, 0].double()
    for row in range(len(depth)):
        v, u = (depth[row, 0] < 1.15).nonzero()[21].tolist()
        depth[row, :, v, u] -= 0.05
        rgb[row, :, :, v, u] = torch.tensor(MARKER, dtype=torch.uint8)
        far = depth[row, 0, v, u].item()
        tips.append([(u + 0.5 - 16) / 40 * far, (16 - v - 0.5) / 40 * far, -far])
    place = camera[:3, 3] + torch.tensor(tips, dtype=torch.float64)
    action = torch.cat([place, steps.action[:, 3:].double()], 1)
    lenses = {"intrinsics": steps.intrinsics.double(), "extrinsics": steps.extrinsics.double()}
    return replace(steps, depth=depth, rgb=rgb, action=action, **lenses)


@pytest.mark.parametrize("training", [True, False])
def test_views_show_the_target_where_heat_maps_point(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through `forward`, in both stages, moved or not: cloud and target in float64, then pixels."""
    rendered: list[tuple[Cloud, Tensor, float, Tensor]] = []
    targets: list[Tensor] = []

    def render(cloud: Cloud, centre: Tensor, side: float, size: int) -> Tensor:
        views = render_wide(cloud, centre, side, size)
        rendered.append((cloud, centre, side, views))
        return views

    def loss(maps: Tensor, target: Tensor) -> Tensor:
        targets.append(target)
        return plain_loss(maps, target)

    size, rows, plain_loss = 112, 12, heatmaps.loss
    steps = marked(replace(scene(rows), seed=torch.arange(rows) * 31 + 5))
    options = {"shift": 0.05, "shift_z": 0.03, "mvt": {"rgb_noise": 0.0}}
    module = policy(image_size=size, **options).train(training)
    monkeypatch.setattr("mirrorlib_arp.mvt_policy.render_wide", render)
    monkeypatch.setattr("mirrorlib_arp.base.heatmaps.loss", loss)
    with torch.no_grad():
        module(steps)
    after = module._augmented(steps) if training else steps
    marker = torch.tensor(MARKER)
    for (cloud, centre, side, views), target in zip(rendered, targets, strict=True):
        tips = (cloud.colours.int() == marker).all(1)
        points, of = cloud.points[tips], cloud.rows[tips]
        assert of.tolist() == sorted([*range(rows)] * 2)
        torch.testing.assert_close(points, after.action[of, :3], rtol=0, atol=1e-9)
        exact = to_cube(after.action[:, :3], centre, side) * size
        for view, (row, column, _) in enumerate(AXES):
            peak = target[:, view].flatten(1).argmax(1)
            pixel = torch.stack([peak // size, peak % size], 1)
            assert (pixel + 0.5 - exact[:, [row, column]]).abs().max() <= 0.5 + 1e-4
            shown = views[torch.arange(rows), view, 3:6, pixel[:, 0], pixel[:, 1]]
            torch.testing.assert_close(shown, (marker / 127.5 - 1).expand(rows, 3))


def test_a_planted_point_is_recovered_through_both_stages() -> None:
    """Heat-maps painted at a point give it back to half a voxel of the second stage."""
    module = policy(image_size=112)
    point = from_cube(0.1 + 0.8 * torch.rand(8, 3), module.centre, module.side)
    coarse = module._targets(to_cube(point, module.centre, module.side)).log().clamp(min=-50)
    centre = from_cube(module._locate(coarse), module.centre, module.side)
    fine = module._targets(to_cube(point, centre, 0.25)).log().clamp(min=-50)
    found = from_cube(module._locate(fine), centre, 0.25)
    assert (found - point).abs().max() <= 0.25 / 112 / 2 + 1e-6


def test_autocast_keeps_geometry_and_losses_in_float32() -> None:
    module, steps = policy(), scene(4)
    exact = encode(module, steps)
    with torch.autocast("cpu", torch.bfloat16):
        rough = module(steps)
        action = module.act(steps, steps.text)
    rough.loss.backward()
    assert rough.loss.dtype == rough.representation.dtype == torch.float32
    assert action.dtype == torch.float32 and action.isfinite().all()
    for name, term in exact.logs.items():
        torch.testing.assert_close(rough.logs[name], term, rtol=0.03, atol=0.03)
    for parameter in module.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()


def test_actions_are_valid_and_within_the_workspace() -> None:
    module, steps = policy().eval(), scene(4)
    empty = replace(steps, depth=torch.full_like(steps.depth, 50.0))
    low, high = torch.tensor(WORKSPACE).view(2, 3)
    for given in (steps, empty):
        action = module.act(given, given.text)
        assert action.shape == (4, 9) and action.dtype == torch.float32
        reach = 0.125  # the second cube may reach over the border
        assert ((action[:, :3] > low - reach) & (action[:, :3] < high + reach)).all()
        torch.testing.assert_close(action[:, 3:7].norm(dim=1), torch.ones(4))
        assert set(action[:, 7:].flatten().tolist()) <= {0.0, 1.0}
    assert module.train()(empty).loss.isfinite()


def test_gripper_and_collision_are_blind_to_rotation() -> None:
    module, steps = policy().eval(), scene(2)
    with torch.no_grad():
        for parameter in module.chunking.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.manual_seed(1)))
        context = module._context(steps.proprioception, steps.text, None)
        cloud = module._cloud(steps, torch.zeros(2))
        fine = module._read(1, cloud, steps.action[:, :3], 0.25, context)
        point = torch.full((2, 3), 0.5)
        answers = [
            module._answer(fine, point, torch.tensor([[*rotation, 1, 0]] * 2), context).logits
            for rotation in ([1, 2, 3], [1, 50, 60], [9, 50, 60])
        ]
    same = [
        [torch.equal(a, b) for a, b in zip(answers[0], other, strict=True)] for other in answers[1:]
    ]
    assert same == [[True, True, False, True, True], [True, False, False, True, True]]
    assert len(DECODED) == 5


def test_the_prompt_reads_the_maps_at_the_point() -> None:
    """Maps that show their own rows and columns give the point's back; then come the maxima."""
    module = policy(image_size=112)
    centres = (torch.arange(8) + 0.5) / 8
    maps = torch.zeros(2, 3, 32, 8, 8)
    maps[:, :, 0], maps[:, :, 1] = centres[:, None], centres
    maps[1, 2, 5, 3, 4] = 7.0
    point = torch.tensor([[0.2, 0.5, 0.9], [0.6, 0.3, 0.1]])
    prompt = module._prompt(MvtReading(maps, maps, maps), point)
    for view, (row, column, _) in enumerate(AXES):
        torch.testing.assert_close(prompt[:, view, :2], point[:, [row, column]])
        assert (prompt[:, 3 + view, :2] == 1 - 1 / 16).all()
    assert (prompt[:, 3:, 5] == torch.tensor([[0.0, 0, 0], [0, 0, 7]])).all()
