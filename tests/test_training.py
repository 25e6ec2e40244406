"""The joint module, the optimiser, the loop and checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from fakes import FakeExecutor, FakeObserver, FakeProjector, FakeSource
from torch import Tensor, nn

from mirrorlib.data.batches import PlannedBatches, label_episodes
from mirrorlib.data.cache import Cache
from mirrorlib.data.pairing import plan_batches
from mirrorlib.data.store import Layout, write_episode
from mirrorlib.errors import UserError
from mirrorlib.interfaces import Loss, Objective
from mirrorlib.recipe import LearningRatesSection, TrainSection
from mirrorlib.testing import run_in_processes
from mirrorlib.training.checkpoint import last_checkpoint, load_weights, save_checkpoint
from mirrorlib.training.joint import Joint, Weights
from mirrorlib.training.loop import _clip, build_optimizer, learning_rate_scale, train


class FakeObjective(Objective):
    """Mean square distance to the mean of all rows of the other side."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.steps = 0

    def forward(self, u: Tensor, e: Tensor, labels=None, world=None) -> Loss:
        every_u, every_e = (world.u, world.e) if world else (u, e)
        total, size = (world.total, world.size) if world else (len(u), 1)
        distance = (u - every_e.mean(0)).square().sum() + (e - every_u.mean(0)).square().sum()
        return Loss(self.scale * distance * size / total)

    def after_step(self) -> None:
        self.steps += 1


def build_joint(dtype: torch.dtype = torch.float32) -> Joint:
    torch.manual_seed(0)
    joint = Joint(
        FakeObserver(),
        FakeExecutor(),
        (FakeProjector(4), FakeProjector(5)),
        FakeObjective(),
        Weights(executor=2.0, alignment=0.5),
        "instruction",
    )
    return joint.to(dtype)


def make_batches(folder: Path, steps: int, rank: int = 0, size: int = 1) -> PlannedBatches:
    layout = Layout(4, ("front",), ("front", "wrist"))
    cache = Cache(folder, "fake", FakeSource(), layout)
    for key in cache.missing(["train"]):
        write_episode(cache.path(key), cache.source.episode(key), layout)
    episodes = cache.episodes("train")
    plans = plan_batches(
        label_episodes(episodes),
        instructions=4,
        episodes=2,
        steps=steps,
        pairing="instruction",
        seed=0,
    )
    return PlannedBatches(episodes, plans, 4, rank, size)


def test_the_loss_is_the_papers_weighted_sum(tmp_path: Path):
    joint, batch = build_joint(), make_batches(tmp_path, 1)[0]
    result = joint(batch)
    seen, done = joint.observer(batch.clips), joint.executor(batch.steps)
    u, e = joint.project(seen.representation, done.representation)
    expected = seen.loss + 2.0 * done.loss + 0.5 * joint.objective(u, e).value
    torch.testing.assert_close(result.value, expected)
    assert set(result.logs) >= {"loss", "observer/loss", "observer/square", "alignment/loss"}


def test_without_projectors_the_alignment_term_costs_nothing(tmp_path: Path):
    joint = build_joint()
    joint.objective.uses_projectors = False
    bare = Joint(joint.observer, joint.executor, None, joint.objective, joint.weights, "episode")
    batch = make_batches(tmp_path, 1)[0]
    expected = joint.observer(batch.clips).loss + 2.0 * joint.executor(batch.steps).loss
    torch.testing.assert_close(bare(batch).value, expected)
    assert "alignment/loss" not in bare(batch).logs


def test_rows_that_could_not_be_paired_do_not_align(tmp_path: Path):
    joint, batch = build_joint(), make_batches(tmp_path, 1)[0]
    batch.aligned[:3] = False
    u, e = joint.observer(batch.clips).representation, joint.executor(batch.steps).representation
    expected = joint.objective(*joint.project(u[3:], e[3:])).value
    torch.testing.assert_close(joint(batch).logs["alignment/loss"], expected.detach())


def test_learning_rates_follow_warm_up_and_cosine():
    scales = [learning_rate_scale(step, 10, 100) for step in range(101)]
    assert scales[0] == pytest.approx(0.1, rel=0.01)
    assert max(scales) == scales[9] < 1
    assert scales[50] == pytest.approx(0.03 + 0.97 / 2)
    assert scales[100] == pytest.approx(0.03)


def test_each_part_has_its_own_rate_and_vectors_do_not_decay():
    rates = LearningRatesSection(observer=1e-3, executor=2e-3, alignment=3e-3)
    section = TrainSection(steps=1, learning_rates=rates, weight_decay=0.1)
    joint = build_joint()
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in build_optimizer(joint, section).param_groups
        for p in group["params"]
    }
    assert len(found) == len(list(joint.parameters()))
    assert found[id(joint.observer.video.weight)] == (1e-3, 0.1)
    assert found[id(joint.observer.video.bias)] == (1e-3, 0.0)
    assert found[id(joint.executor.head.weight)] == (2e-3, 0.1)
    assert found[id(joint.projectors["executor"].map.bias)] == (3e-3, 0.0)
    assert found[id(joint.objective.scale)] == (3e-3, 0.0)


def run_training(folder: Path, steps: int = 6, **changes: object) -> tuple[Joint, list[dict]]:
    joint, logs = build_joint(), []
    section = TrainSection(steps=steps, warmup_steps=1, log_every=2, checkpoint_every=4, **changes)
    batches = make_batches(folder / "data", steps)
    train(
        Accelerator(cpu=True),
        joint,
        batches,
        section,
        folder / "checkpoints",
        lambda metrics, step: logs.append({"step": step, **metrics}),
    )
    return joint, logs


def test_the_loop_learns_logs_and_leaves_checkpoints_that_load_back(tmp_path: Path):
    joint, logs = run_training(tmp_path, steps=40)
    assert [row["step"] for row in logs] == list(range(2, 41, 2))
    assert logs[-1]["train/loss"] < logs[0]["train/loss"]
    assert logs[0]["train/pairs_per_second"] > 0
    assert joint.objective.steps == 40
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-{step:06d}" for step in range(4, 41, 4)]
    last = last_checkpoint(tmp_path / "checkpoints")
    assert last is not None
    assert json.loads((last / "info.json").read_text())["step"] == 40
    fresh = build_joint()
    load_weights(last, fresh)
    for name, tensor in joint.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name])


def test_the_same_seed_gives_the_same_parameters(tmp_path: Path):
    first, _ = run_training(tmp_path / "a")
    second, _ = run_training(tmp_path / "b")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


def test_ctrl_c_keeps_what_was_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    steps = []

    def interrupt(self: FakeObjective) -> None:
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(FakeObjective, "after_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path)
    last = last_checkpoint(tmp_path / "checkpoints")
    assert last is not None
    assert last.name == "step-000003"


def test_a_diverged_run_stops_and_says_which_term(tmp_path: Path, monkeypatch):
    def diverge(self: FakeObjective, u: Tensor, e: Tensor, labels=None, world=None) -> Loss:
        return Loss((u.sum() + e.sum()) * math.inf)

    monkeypatch.setattr(FakeObjective, "forward", diverge)
    with pytest.raises(UserError, match=r"diverged before step 2: alignment/gradient_norm, align"):
        run_training(tmp_path)
    assert last_checkpoint(tmp_path / "checkpoints") is None


def test_gradients_are_clipped_part_by_part(tmp_path: Path):
    joint = build_joint()
    joint(make_batches(tmp_path, 1)[0]).value.backward()

    def norms() -> dict[str, float]:
        return {
            part: math.sqrt(sum(float(p.grad.square().sum()) for p in parameters))
            for part, parameters in joint.parameter_groups().items()
        }

    before = norms()
    limit = (before["observer"] + before["executor"]) / 2
    for part, parameters in joint.parameter_groups().items():
        assert float(_clip(parameters, limit)) == pytest.approx(before[part], rel=1e-5)
    for part, norm in norms().items():
        assert norm == pytest.approx(min(before[part], limit), rel=1e-4)
    assert float(_clip(joint.parameters(), 0.0)) > 0
    assert norms()["executor"] == pytest.approx(min(before["executor"], limit), rel=1e-4)


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path: Path):
    path = save_checkpoint(tmp_path, 1, nn.Linear(2, 2), {}, {})
    with pytest.raises(UserError, match=r"step-000001: weights do not load"):
        load_weights(path, build_joint())


def distributed_gradients(folder: str) -> dict[str, Tensor]:
    """Gradients after DDP's mean, float64."""
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    joint = build_joint(torch.float64)
    model = nn.parallel.DistributedDataParallel(joint)
    model(make_batches(Path(folder, str(rank)), 1, rank, size)[0]).value.backward()
    return {name: p.grad for name, p in joint.named_parameters() if p.grad is not None}


def test_two_processes_have_the_gradients_of_one(tmp_path: Path):
    joint = build_joint(torch.float64)
    joint(make_batches(tmp_path / "one", 1)[0]).value.backward()
    for gradients in run_in_processes(distributed_gradients, 2, str(tmp_path)):
        assert len(gradients) == len(list(joint.parameters()))
        for name, parameter in joint.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-14)
