"""The joint module, the optimiser and the loop."""

from __future__ import annotations

import math
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from fakes import FakeExecutor, FakeObserver, FakeProjector, FakeSource
from torch import Tensor, nn

from mirrorlib.data.batches import PlannedBatches, label_episodes
from mirrorlib.data.cache import Cache
from mirrorlib.data.pairing import plan_batches
from mirrorlib.data.store import Layout, write_episode
from mirrorlib.errors import NotFinite, UserError
from mirrorlib.interfaces import Encoding, Loss, Objective, Steps
from mirrorlib.recipe import Recipe, load_recipe
from mirrorlib.registry import Registry
from mirrorlib.sections import LearningRatesSection, TrainSection
from mirrorlib.testing import run_in_processes
from mirrorlib.training.checkpoint import (
    checkpoints,
    load_state,
    load_weights,
    newest_whole,
    step_of,
)
from mirrorlib.training.groups import freeze
from mirrorlib.training.interruption import stopping_between_steps
from mirrorlib.training.joint import Joint, Weights
from mirrorlib.training.lamb import Lamb
from mirrorlib.training.loop import Log, Trained, Training
from mirrorlib.training.optimizer import build_optimizer, clip, learning_rate_scale
from mirrorlib.training.size import counting_flops, parameter_counts


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
        Weights(observer=1.0, executor=2.0, alignment=0.5),
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


def test_an_objective_is_given_the_labels_it_asks_for(tmp_path: Path, monkeypatch):
    joint, batch = build_joint(), make_batches(tmp_path, 1)[0]
    given = []

    def look(self: FakeObjective, u: Tensor, e: Tensor, labels=None, world=None) -> Loss:
        given.append(labels)
        return Loss(u.sum() + e.sum())

    monkeypatch.setattr(FakeObjective, "forward", look)
    joint(batch)
    joint.objective.uses_levels = True
    joint(batch)
    assert torch.equal(given[0], batch.labels[:, 1]) and torch.equal(given[1], batch.labels)


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


@pytest.fixture(scope="module")
def recipe(registry: Registry) -> Recipe:
    """Of made-up components; the tests build their own."""
    text = {name: {"name": name} for name in ("scenes", "eyes", "hands", "none")}
    sections = {
        "source": text["scenes"], "observer": text["eyes"], "executor": text["hands"],
        "objective": text["none"], "train": {"steps": 1},
    }  # fmt: skip
    return load_recipe(sections, registry=registry)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def run_training(
    folder: Path, recipe: Recipe, steps: int = 6, resumed: Path | None = None, **changes: object
) -> tuple[Joint, list[dict]]:
    joint, logs = build_joint(), []
    precision = changes.pop("precision", "no")
    if changes.pop("frozen", False):
        freeze(joint, TrainSection(steps=1, **{"groups": changes["groups"]}).groups)
    settings = {"warmup_steps": 1, "log_every": 2, "checkpoint_every": 4, "keep_checkpoints": 3}
    section = TrainSection(steps=steps, **settings | changes)
    recipe = recipe.model_copy(update={"train": section})
    training = Training(
        Accelerator(cpu=True, mixed_precision=precision),
        joint,
        recipe,
        make_batches(folder / "data", steps * section.accumulation),
        folder / "checkpoints",
        lambda metrics, step: logs.append({"step": step, **metrics}),
    )
    training.run(resumed)
    return joint, [row for row in logs if "train/loss" in row]


def train_only(
    folder: Path, recipe: Recipe, log: Log = lambda *_: None, **changes: object
) -> Trained:
    section = TrainSection(**{"steps": 1} | changes)
    return Training(
        Accelerator(cpu=True), build_joint(), recipe.model_copy(update={"train": section}),
        make_batches(folder / "data", section.steps * section.accumulation), folder / "c", log,
    ).run()  # fmt: skip


def test_the_loop_learns_logs_and_leaves_checkpoints_that_load_back(tmp_path: Path, recipe):
    joint, logs = run_training(tmp_path, recipe, steps=40)
    assert [row["step"] for row in logs] == list(range(2, 41, 2))
    assert logs[-1]["train/loss"] < logs[0]["train/loss"]
    assert logs[0]["train/pairs_per_second"] > 0
    assert joint.objective.steps == 40
    kept = checkpoints(tmp_path / "checkpoints")
    assert [step_of(path) for path in kept] == [40, 36, 32]
    fresh = build_joint()
    load_weights(kept[0], fresh)
    for name, tensor in joint.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name])


def test_the_log_shows_how_far_each_space_spreads(tmp_path: Path, recipe):
    """Against numpy's singular values, of the parameters that one step starts from."""
    _, (row,) = run_training(tmp_path, recipe, steps=1)
    joint, batch = build_joint(), make_batches(tmp_path / "data", 1)[0]
    u, e = joint.observer(batch.clips).representation, joint.executor(batch.steps).representation
    zu, ze = joint.project(u, e)
    for name, space in {"observer": u, "executor": e, "alignment/u": zu, "alignment/e": ze}.items():
        rows = space.detach().double().numpy()
        values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
        share = values[values > 1e-6 * values[0]] / values[values > 1e-6 * values[0]].sum()
        rank = np.exp(-(share * np.log(share)).sum())
        assert row[f"train/{name}/effective_rank"] == pytest.approx(rank, rel=1e-3)
        assert row[f"train/{name}/scale"] == pytest.approx(np.sqrt(rows.var(0).mean()))


def test_accumulated_gradients_are_the_mean_of_their_batches(tmp_path: Path, recipe, monkeypatch):
    """And each batch is aligned by itself: accumulation adds no negatives."""
    found: list[dict[str, Tensor]] = []

    def keep(self: torch.optim.AdamW, *args: object) -> None:
        groups = self.param_groups
        found.append([p.grad.clone() for group in groups for p in group["params"]])

    monkeypatch.setattr(torch.optim.AdamW, "step", keep)
    run_training(tmp_path, recipe, steps=1, accumulation=3, gradient_clip=0.0)
    joint = build_joint()
    batches = make_batches(tmp_path / "data", 3)
    mean = sum(joint(batches[i]).value for i in range(3)) / 3
    mean.backward()
    section = TrainSection(steps=1)
    groups = build_optimizer(joint, section).param_groups
    expected = [p.grad for group in groups for p in group["params"]]
    assert len(found) == 1
    for gradient, other in zip(found[0], expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-7)


def test_the_average_is_what_is_saved_and_evaluated(tmp_path: Path, recipe):
    """Against the parameters after each step, averaged by the formula."""
    joint, _ = run_training(
        tmp_path, recipe, ema={"decay": 0.5}, checkpoint_every=1, keep_checkpoints=9
    )
    fresh = build_joint()
    average = {name: p.detach().double() for name, p in fresh.named_parameters()}
    held: dict[str, Tensor] = {}
    for step, checkpoint in enumerate(reversed(checkpoints(tmp_path / "checkpoints")), 1):
        names = [name for name, _ in fresh.named_parameters()]
        held = dict(zip(names, load_state(checkpoint)["parameters"], strict=True))
        keep = min(0.5, (1 + step) / (10 + step))
        for name, value in held.items():
            average[name] = keep * average[name] + (1 - keep) * value.double()
        load_weights(checkpoint, fresh)
        for name, parameter in fresh.named_parameters():
            torch.testing.assert_close(parameter.detach().double(), average[name])
    for name, parameter in joint.named_parameters():
        assert torch.equal(parameter, fresh.get_parameter(name))
    assert any(not torch.equal(held[name], p) for name, p in joint.named_parameters())


def test_groups_have_their_own_rates_and_decays_and_the_last_that_matches_decides():
    joint = build_joint()
    section = TrainSection(
        steps=1,
        weight_decay=0.5,
        groups=[
            {"match": "observer.*", "learning_rate": 0.25},
            {"match": "observer.*bias", "weight_decay": 0.125},
        ],
    )
    rate = section.learning_rates
    found = {}
    names = {id(p): name for name, p in joint.named_parameters()}
    for group in build_optimizer(joint, section).param_groups:
        for parameter in group["params"]:
            found[names[id(parameter)]] = (group["peak"], group["weight_decay"])
    assert found.keys() == dict(joint.named_parameters()).keys()
    for name, parameter in joint.named_parameters():
        part = name.split(".")[0] if name.split(".")[0] in ("observer", "executor") else "alignment"
        decay = 0.5 if parameter.ndim >= 2 else 0.0
        wanted = (getattr(rate, part), decay)
        if part == "observer":
            bias = name.endswith("bias")
            wanted = (rate.observer, 0.125) if bias else (0.25, decay)
        assert found[name] == wanted, name


def test_lamb_adapts_to_matrices_alone():
    section = TrainSection(steps=1, optimizer={"name": "lamb", "betas": [0.5, 0.75]})
    optimizer = build_optimizer(build_joint(), section)
    assert isinstance(optimizer, Lamb)
    for group in optimizer.param_groups:
        assert group["betas"] == (0.5, 0.75)
        assert {p.ndim >= 2 for p in group["params"]} == {group["adapt"]}


def test_what_is_frozen_keeps_its_values_and_stays_in_evaluation_mode(tmp_path: Path, recipe):
    groups = [{"match": "observer.*", "frozen": True}]
    before = build_joint().state_dict()
    joint, _ = run_training(tmp_path, recipe, groups=groups, frozen=True)
    moved = {n for n, t in joint.state_dict().items() if not torch.equal(t, before[n])}
    assert moved and not any(name.startswith("observer") for name in moved)
    joint.train()
    assert not joint.observer.training and joint.executor.training
    assert list(joint.parameter_groups()) == ["executor", "alignment"]
    counts = parameter_counts(joint)
    assert counts["observer"][0] > 0 == counts["observer"][1]
    assert counts["executor"][0] == counts["executor"][1] > 0


def test_what_the_recipe_freezes_beside_what_a_component_froze_stays_still():
    joint = build_joint()
    first, *others = [name for name, _ in joint.observer.named_parameters()]
    joint.observer.get_parameter(first).requires_grad_(False)
    groups = [{"match": f"observer.{name}", "frozen": True} for name in others]
    freeze(joint, TrainSection(steps=1, groups=groups).groups)
    joint.train()
    assert not joint.observer.training and joint.executor.training


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([{"match": "observer.*"}, {"match": "executer.*", "frozen": True}],
         r"train\.groups\.1\.match: no parameter is called 'executer\.\*'; there is executor"),
        ([{"match": "*", "frozen": True}], "everything is frozen, and nothing is left to learn"),
    ],
)  # fmt: skip
def test_mistaken_groups_are_one_line(groups: list, said: str):
    section = TrainSection(steps=1, groups=groups)
    with pytest.raises(UserError, match=said):
        freeze(build_joint(), section.groups)


def test_a_steps_operations_are_counted(tmp_path: Path, recipe):
    """A linear layer of I x O over B rows: 2 B I O forward, twice that backward, but for the first
    layer, whose input needs no gradient."""
    batch = make_batches(tmp_path / "data", 1)[0]
    layer, x = nn.Linear(6, 3), torch.randn(len(batch), 6)
    with counting_flops() as counted:
        layer(x).sum().backward()
    assert counted == [2 * 2 * len(batch) * 6 * 3]
    trained = train_only(tmp_path, recipe)
    again = train_only(tmp_path, recipe, accumulation=2)
    assert trained.flops and again.flops == 2 * trained.flops


def test_a_killed_run_has_told_its_size_and_operations(tmp_path: Path, recipe, monkeypatch):
    """From the first step on, before there is a row of the log."""
    told: list[tuple[int, dict[str, float]]] = []

    def kill(self: FakeObjective) -> None:
        self.steps += 1
        if self.steps == 3:
            raise MemoryError

    monkeypatch.setattr(FakeObjective, "after_step", kill)
    with pytest.raises(MemoryError):
        train_only(tmp_path, recipe, lambda row, step: told.append((step, row)), steps=5)
    ((step, costs),) = told
    assert step == 1
    joint = build_joint()
    for part, (count, learning) in parameter_counts(joint).items():
        assert costs.pop(f"cost/{part}/parameters") == count
        assert costs.pop(f"cost/{part}/parameters_learning") == learning
    monkeypatch.undo()
    assert costs == {"cost/step_flops": train_only(tmp_path, recipe).flops}


def test_a_parameter_without_a_gradient_is_refused(tmp_path: Path, recipe, monkeypatch):
    original = FakeObserver.__init__

    def with_spare(self: FakeObserver) -> None:
        original(self)
        self.spare = nn.Linear(2, 2)

    monkeypatch.setattr(FakeObserver, "__init__", with_spare)
    with pytest.raises(UserError, match=r"2 parameters have no part in the loss, such as obs"):
        run_training(tmp_path, recipe)

    def with_frozen_spare(self: FakeObserver) -> None:
        with_spare(self)
        self.spare.requires_grad_(False)

    monkeypatch.setattr(FakeObserver, "__init__", with_frozen_spare)
    run_training(tmp_path / "frozen", recipe)


class RestlessExecutor(FakeExecutor):
    """Draws noise as a stranger's dropout would: from torch's, numpy's and Python's generators."""

    def forward(self, steps: Steps) -> Encoding:
        encoding = super().forward(steps)
        noise = torch.rand(()) + float(np.random.rand()) + random.random()
        return Encoding(encoding.representation, encoding.loss * noise, encoding.logs)


AVERAGED = {"ema": {"decay": 0.9}, "optimizer": {"name": "lamb"}}


@pytest.mark.parametrize(
    ("accumulation", "precision", "more"),
    [(1, "no", {}), (2, "no", {}), (1, "bf16", {}), (1, "no", AVERAGED)],
)
def test_a_resumed_run_is_the_run_it_resumes(
    tmp_path: Path, recipe, monkeypatch, accumulation: int, precision: str, more: dict
):
    """Parameters and rows of the log, to the bit; random numbers and half a row carry over."""
    monkeypatch.setitem(globals(), "FakeExecutor", RestlessExecutor)
    options = {
        "steps": 9, "log_every": 3, "accumulation": accumulation, "precision": precision, **more,
    }  # fmt: skip
    expected, rows = run_training(tmp_path / "a", recipe, **options)
    _, first = run_training(tmp_path / "b", recipe, max_steps=5, **options)
    assert [row["step"] for row in first] == [3, 4, 5]
    (tmp_path / "b" / "checkpoints" / "step-000005" / "recipe.yaml").unlink()
    checkpoint = tmp_path / "b" / "checkpoints" / "step-000004"
    assert newest_whole(checkpoint.parent)[0] == checkpoint
    found, rest = run_training(tmp_path / "b", recipe, resumed=checkpoint, **options)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name
    resumed = [row for row in first if row["step"] <= 4] + rest
    for row, other in zip(rows, resumed, strict=True):
        row.pop("train/pairs_per_second"), other.pop("train/pairs_per_second")
        assert row == other


def test_the_same_seed_gives_the_same_parameters(tmp_path: Path, recipe):
    first, _ = run_training(tmp_path / "a", recipe)
    second, _ = run_training(tmp_path / "b", recipe)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_then_the_run(tmp_path: Path, recipe, monkeypatch, number):
    """What is saved goes on to the same parameters: no step is left half done."""
    calls = []

    def interrupt(self: FakeObjective) -> None:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(number)

    expected, rows = run_training(tmp_path / "a", recipe)
    with monkeypatch.context() as patch:
        patch.setattr(FakeObjective, "after_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_training(tmp_path / "b", recipe)
    (last,) = checkpoints(tmp_path / "b" / "checkpoints")
    assert last.name == "step-000003"
    found, rest = run_training(tmp_path / "b", recipe, resumed=last)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name
    assert rest[0]["step"] == 4
    assert rest[0]["train/loss"] == rows[1]["train/loss"]


def test_a_second_ctrl_c_acts_at_once_and_a_doubled_signal_does_not(tmp_path, recipe, monkeypatch):
    """Launchers and clusters send a signal to a group and then to each of it."""

    def interrupt(self: FakeObjective) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(FakeObjective, "after_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "doubled", recipe)
    assert [step_of(c) for c in checkpoints(tmp_path / "doubled" / "checkpoints")] == [1]
    monkeypatch.setattr("mirrorlib.training.interruption.IMPATIENCE", -1.0)
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "second", recipe)
    assert checkpoints(tmp_path / "second" / "checkpoints") == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_during_the_last_step_is_not_forgotten(tmp_path: Path, recipe, monkeypatch):
    monkeypatch.setattr(FakeObjective, "after_step", lambda self: signal.raise_signal(2))
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path, recipe, steps=1)
    assert [step_of(c) for c in checkpoints(tmp_path / "checkpoints")] == [1]
    with pytest.raises(KeyboardInterrupt), stopping_between_steps() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked


def test_workers_that_read_ahead_change_nothing_and_survive_a_signal(
    tmp_path: Path, recipe, monkeypatch
):
    expected, _ = run_training(tmp_path / "a", recipe)
    others = psutil.Process().children()  # what earlier tests may have left
    monkeypatch.setattr(Training, "_workers", lambda self: 2)
    found, _ = run_training(tmp_path / "b", recipe)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name
    calls = []

    def interrupt(self: FakeObjective) -> None:
        calls.append(1)
        if len(calls) == 2:
            workers = [child for child in psutil.Process().children() if child not in others]
            assert len(workers) == 2
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
                worker.send_signal(signal.SIGINT)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(FakeObjective, "after_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "c", recipe, checkpoint_every=50)
    assert [step_of(c) for c in checkpoints(tmp_path / "c" / "checkpoints")] == [5]


def test_a_diverged_run_stops_and_says_which_term(tmp_path: Path, recipe, monkeypatch):
    def diverge(self: FakeObjective, u: Tensor, e: Tensor, labels=None, world=None) -> Loss:
        return Loss((u.sum() + e.sum() + self.scale) * math.inf)

    monkeypatch.setattr(FakeObjective, "forward", diverge)
    with pytest.raises(UserError, match=r"diverged before step 2: alignment/gradient_norm, align"):
        run_training(tmp_path, recipe)
    assert checkpoints(tmp_path / "checkpoints") == []


def test_a_representation_that_is_not_finite_stops_the_run(tmp_path: Path, recipe, monkeypatch):
    def refuse(self: FakeObjective, u: Tensor, e: Tensor, labels=None, world=None) -> Loss:
        raise NotFinite("u: row 3 of 8 is not finite")

    monkeypatch.setattr(FakeObjective, "forward", refuse)
    with pytest.raises(UserError, match=r"diverged at step 1: u: row 3 .* lower train"):
        run_training(tmp_path, recipe)


def test_a_gradient_that_is_not_finite_is_not_saved(tmp_path: Path, recipe, monkeypatch):
    """The loss may still be finite."""

    def spoil(self: FakeObjective, u: Tensor, e: Tensor, labels=None, world=None) -> Loss:
        u.register_hook(lambda gradient: gradient * math.nan)
        return Loss((u.sum() + e.sum()) * self.scale)

    monkeypatch.setattr(FakeObjective, "forward", spoil)
    with pytest.raises(UserError, match=r"diverged before step 1: alignment/gradient_norm, obs"):
        run_training(tmp_path, recipe, steps=1)
    assert checkpoints(tmp_path / "checkpoints") == []


def test_what_a_resumed_run_must_be_told(tmp_path: Path, recipe, capsys):
    run_training(tmp_path, recipe, steps=4)
    (path,) = checkpoints(tmp_path / "checkpoints")
    with pytest.raises(UserError, match="max_steps is 3, but the run that is resumed has 4"):
        run_training(tmp_path, recipe, steps=4, max_steps=3, resumed=path)
    torch.save(load_state(path) | {"processes": 2}, path / "state.pt")
    run_training(tmp_path, recipe, steps=4, resumed=path)
    assert "was trained by 2 processes, now there are 1" in capsys.readouterr().err


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
        assert float(clip(parameters, limit)) == pytest.approx(before[part], rel=1e-5)
    for part, norm in norms().items():
        assert norm == pytest.approx(min(before[part], limit), rel=1e-4)
    assert float(clip(joint.parameters(), 0.0)) > 0
    assert norms()["executor"] == pytest.approx(min(before["executor"], limit), rel=1e-4)


def test_another_precision_cannot_resume(tmp_path: Path, recipe):
    run_training(tmp_path, recipe, steps=1)
    (path,) = checkpoints(tmp_path / "checkpoints")
    state = load_state(path) | {"precision": "bf16"}
    torch.save(state, path / "state.pt")
    with pytest.raises(UserError, match=r"trained in precision bf16, not no: set train.precision"):
        run_training(tmp_path, recipe, steps=1, resumed=path)


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
