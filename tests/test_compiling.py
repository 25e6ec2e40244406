"""`train.compile`, with a back end that runs each graph as it is: that of a machine would need a
compiler and minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from fakes import FakeExecutor, FakeObserver, FakeProjector, FakeSource
from safetensors.torch import load_file
from torch import Tensor, nn

from mirrorlib.data.batches import PlannedBatches, label_episodes
from mirrorlib.data.cache import Cache
from mirrorlib.data.pairing import plan_batches
from mirrorlib.data.store import Layout, write_episode
from mirrorlib.errors import UserError
from mirrorlib.interfaces import Loss, Objective
from mirrorlib.recipe import Recipe, load_recipe
from mirrorlib.registry import Registry
from mirrorlib.sections import TrainSection
from mirrorlib.testing import run_in_processes
from mirrorlib.training import compiling
from mirrorlib.training.checkpoint import WEIGHTS
from mirrorlib.training.compiling import compiled
from mirrorlib.training.joint import Joint, Weights
from mirrorlib.training.loop import Trained, Training

CPU = torch.device("cpu")


class Distance(Objective):
    def forward(self, u: Tensor, e: Tensor, labels=None, world=None) -> Loss:
        return Loss((u - e).square().mean())


class Graphs:
    """A back end that counts the graphs it is given, and keeps them as they are."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.count += 1
        return graph.forward


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    torch.compiler.reset()
    monkeypatch.setattr(compiling, "BACKEND", Graphs())
    yield compiling.BACKEND
    torch.compiler.reset()
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def recipe(registry: Registry) -> Recipe:
    text = {name: {"name": name} for name in ("scenes", "eyes", "hands", "none")}
    sections = {
        "source": text["scenes"], "observer": text["eyes"], "executor": text["hands"],
        "objective": text["none"], "train": {"steps": 1},
    }  # fmt: skip
    return load_recipe(sections, registry=registry)


def build_joint() -> Joint:
    torch.manual_seed(0)
    projectors = FakeProjector(4), FakeProjector(5)
    weights = Weights(1.0, 2.0, 0.5)
    joint = Joint(FakeObserver(), FakeExecutor(), projectors, Distance(), weights, "instruction")
    return joint.double()


def make_batches(folder: Path, steps: int, rank: int = 0, size: int = 1) -> PlannedBatches:
    layout = Layout(4, ("front",), ("front", "wrist"))
    cache = Cache(folder, "fake", FakeSource(), layout)
    for key in cache.missing(["train"]):
        write_episode(cache.path(key), cache.source.episode(key), layout)
    episodes, plan = cache.episodes("train"), {"instructions": 3, "episodes": 2, "seed": 0}
    plans = plan_batches(label_episodes(episodes), steps=steps, pairing="instruction", **plan)
    return PlannedBatches(episodes, plans, 4, rank, size)


def train(
    folder: Path, recipe: Recipe, resumed: Path | None = None, **settings: Any
) -> tuple[Joint, Trained]:
    section = TrainSection(steps=6, checkpoint_every=2, keep_checkpoints=9, **settings)
    recipe, joint = recipe.model_copy(update={"train": section}), build_joint()
    batches = make_batches(folder / "data", 6)
    parts = Accelerator(cpu=True), joint, recipe, batches, folder / "checkpoints"
    return joint, Training(*parts, lambda *_: None).run(resumed)


def test_a_compiled_run_is_the_run(tmp_path: Path, recipe: Recipe, graphs: Graphs) -> None:
    plain, told = train(tmp_path / "plain", recipe)
    assert graphs.count == 0
    joint, trained = train(tmp_path / "compiled", recipe, compile=True)
    assert trained == told and told.flops
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, joint.state_dict()[name]), name
    saved = [
        load_file(tmp_path / kind / "checkpoints" / "step-000004" / WEIGHTS)
        for kind in ("plain", "compiled")
    ]
    assert saved[0].keys() == saved[1].keys()
    batch, before = make_batches(tmp_path / "plain" / "data", 1)[0], graphs.count
    joint(batch)
    assert graphs.count == before > 2
    assert not {"forward", "encode_text"} & (vars(joint.observer) | vars(joint.executor)).keys()


def test_other_texts_make_no_other_graphs(tmp_path: Path, graphs: Graphs) -> None:
    joint, batches = build_joint(), make_batches(tmp_path, 8)
    assert len({tuple(batch.clips.text) for batch in batches}) == 8
    with compiled(joint, CPU):
        joint(batches[0])
        first = graphs.count
        for batch in batches:
            joint(batch)
    assert graphs.count == first


def test_a_resumed_compiled_run_is_the_run(tmp_path: Path, recipe: Recipe, graphs: Graphs) -> None:
    """It counts no operations, since what is counted is not compiled."""
    joint, _ = train(tmp_path, recipe, compile=True)
    checkpoint, before = tmp_path / "checkpoints" / "step-000002", graphs.count
    torch.compiler.reset()  # as in a new process
    found, trained = train(tmp_path, recipe, checkpoint, compile=True)
    assert (trained.steps, trained.flops) == (6, None)
    assert graphs.count > before
    for name, tensor in joint.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name


def test_a_machine_that_cannot_compile_is_told(tmp_path: Path, recipe: Recipe, graphs, monkeypatch):
    def fail(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nin Configuration.cxx")

    monkeypatch.setattr(compiling, "BACKEND", fail)
    with pytest.raises(UserError) as caught:
        train(tmp_path, recipe, compile=True)
    said = str(caught.value)
    assert said.startswith("train.compile: torch.compile does not work on this machine (")
    assert "No working C++ compiler" in said and "\n" not in said
    assert said.endswith("install a C++ compiler, such as g++, or leave train.compile out")


def distributed_gradients(folder: str) -> dict[str, Tensor]:
    compiling.BACKEND = Graphs()  # type: ignore[assignment]
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    joint = build_joint()
    model = nn.parallel.DistributedDataParallel(joint)
    with compiled(joint, CPU):
        model(make_batches(Path(folder, str(rank)), 1, rank, size)[0]).value.backward()
    assert compiling.BACKEND.count > 2
    return {name: p.grad for name, p in joint.named_parameters() if p.grad is not None}


def test_two_compiled_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    joint = build_joint()
    joint(make_batches(tmp_path / "one", 1)[0]).value.backward()
    for gradients in run_in_processes(distributed_gradients, 2, str(tmp_path)):
        assert gradients.keys() == {name for name, _ in joint.named_parameters()}
        for name, parameter in joint.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-14)
