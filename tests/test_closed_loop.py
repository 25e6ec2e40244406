"""Which scenes share a batch, and what becomes of those in which simulator processes fail; the
processes here are made up, those of test_simulating.py are real."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
import torch
from fakes import CAMERAS, FakeExecutor, FakeSimulator, build_simulator
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mirrorlib.errors import UserError
from mirrorlib.evaluation import closed_loop
from mirrorlib.evaluation.closed_loop import HOPELESS, SimulatorFailed, roll_out
from mirrorlib.evaluation.rollouts import Rollout, Scene
from mirrorlib.evaluation.simulating import Awaiting, Failure

SCENES = [Scene("lift", variation, "test", index) for variation in range(3) for index in range(5)]
LOOK = FakeSimulator().reset("lift", 0, 0)[0]


@dataclass
class Machine:
    """Where processes run. actions: how many a scene takes. failing: after how many of them the
    first and the second attempt at a scene fail, None: not. broken: places where every process
    fails at once. delays: how often a process has nothing to say; None: never."""

    actions: Mapping[Scene, int]
    failing: Mapping[Scene, tuple[int | None, int | None]] = field(default_factory=dict)
    broken: tuple[int, ...] = ()
    delays: random.Random | None = None
    traceback: str = ""
    attempts: dict[Scene, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    started: int = 0
    running: int = 0


class MadeUp:
    """One of its processes."""

    pipe = None

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.place = machine.free.pop() if machine.free else machine.started
        machine.started += 1
        machine.running += 1

    def begin(self, scene: Scene, film: bool) -> None:
        attempt = self.machine.attempts[scene] = self.machine.attempts.get(scene, 0) + 1
        assert attempt <= 2
        self.scene, self.done = scene, 0
        self.end = self.machine.failing.get(scene, (None, None))[attempt - 1]
        if self.place in self.machine.broken:
            self.end = 0

    def act(self, action) -> None:
        assert action.shape == (9,) and action[0] == self.scene.variation
        self.done += 1

    def answer(self):
        if self.machine.delays and self.machine.delays.random() < 0.5:
            return None
        if self.done == self.end:
            return Failure("broke down", self.machine.traceback)
        instruction = f"{self.scene.index} in {self.scene.variation}"
        if self.done == self.machine.actions[self.scene]:
            return Rollout(self.scene, instruction, True, self.done, 0)
        return Awaiting(LOOK, instruction)

    def kill(self) -> None:
        self.machine.running -= 1
        self.machine.free.append(self.place)


class Watched(FakeExecutor):
    """Remembers which scenes it acted in together."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def act(self, observations, instructions):
        self.batches.append(list(instructions))
        return super().act(observations, instructions)


def act_on(machine: Machine, workers: int) -> tuple[list[Rollout], list[list[str]]]:
    """What came of it, and the batches. Every process has ended by then."""
    executor = Watched()

    def stop(processes: list[MadeUp]) -> None:
        machine.running -= len(processes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_loop, "SimulatorProcess", lambda setting, limits: MadeUp(machine))
        patch.setattr(closed_loop, "await_any", lambda processes: None)
        patch.setattr(closed_loop, "stop", stop)
        try:
            results = roll_out(
                executor,
                list(machine.actions),
                build_simulator,
                cameras=CAMERAS,
                max_actions=9,
                workers=workers,
                device=torch.device("cpu"),
                progress=False,
            )
        finally:
            assert machine.running == 0
            assert executor.resets == 1
    return results, executor.batches


def expected_batches(actions: Mapping[Scene, int], workers: int) -> list[list[str]]:
    """Place by place: who has ended takes the next scene, then all act."""
    waiting = [[f"{scene.index} in {scene.variation}"] * count for scene, count in actions.items()]
    rows = [waiting.pop(0) for _ in range(min(workers, len(waiting)))]
    batches = []
    while rows:
        batches.append([row[0] for row in rows])
        rows = [row[1:] or (waiting.pop(0) if waiting else []) for row in rows]
        rows = [row for row in rows if row]
    return batches


lengths = st.lists(st.integers(1, 5), min_size=1, max_size=len(SCENES)).map(
    lambda counts: dict(zip(SCENES, counts, strict=False))
)


@given(lengths, st.integers(1, 5), st.integers())
@settings(max_examples=40, deadline=None)
def test_batches_depend_on_nothing_but_the_scenes(
    actions: dict[Scene, int], workers: int, seed: int
):
    results, batches = act_on(Machine(actions, delays=random.Random(seed)), workers)
    assert batches == expected_batches(actions, workers)
    assert [(r.scene, r.actions) for r in results] == sorted(actions.items())
    assert not any(r.retried or r.lost for r in results)


attempts = st.tuples(*[st.none() | st.integers(0, 4)] * 2)


@given(lengths, st.lists(attempts, max_size=len(SCENES)), st.integers(1, 5), st.integers())
@settings(max_examples=60, deadline=None)
def test_every_scene_is_tried_twice_at_most_whenever_processes_fail(
    actions: dict[Scene, int],
    failing: list[tuple[int | None, int | None]],
    workers: int,
    seed: int,
):
    fails = dict(zip(actions, failing, strict=False))
    failed = {
        scene: [end is not None and end <= actions[scene] for end in ends]
        for scene, ends in fails.items()
    }
    lost = [scene for scene in actions if all(failed.get(scene, [False]))]
    assume(len(lost) < len(actions))
    machines = [Machine(actions, fails, delays=delays) for delays in (None, random.Random(seed))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_loop, "HOPELESS", 99)
        (results, batches), again = (act_on(machine, workers) for machine in machines)
    assert (str(results), batches) == (str(again[0]), again[1])
    assert [r.scene for r in results] == sorted(actions)
    for rollout in results:
        scene = rollout.scene
        assert rollout.retried == failed.get(scene, [False])[0]
        assert (rollout.lost == "broke down") == (scene in lost) == (not rollout.success)
        assert rollout.actions == (0 if scene in lost else actions[scene])
    for machine in machines:
        assert machine.attempts == {r.scene: 1 + r.retried for r in results}


@pytest.mark.parametrize(("workers", "tried"), [(1, HOPELESS), (2, 2 * HOPELESS), (9, 15)])
@pytest.mark.parametrize("traceback", ["", "Traceback: ValueError: why"])
def test_where_nothing_ever_works_it_ends_soon(
    workers: int, tried: int, traceback: str, capsys: pytest.CaptureFixture[str]
):
    machine = Machine(dict.fromkeys(SCENES, 2), dict.fromkeys(SCENES, (1, 0)), traceback=traceback)
    with pytest.raises((UserError, SimulatorFailed)) as raised:
        act_on(machine, workers)
    assert machine.attempts == dict.fromkeys(SCENES[:tried], 2)
    if traceback:
        assert raised.type is SimulatorFailed and str(raised.value) == traceback
        assert traceback in capsys.readouterr().err
    else:
        assert str(raised.value).startswith(
            f"in none of {tried} scenes did the simulator go to the end: the last time a process "
            "broke down; run `mirrorlib doctor`, or again with"
        )


def test_a_place_that_only_fails_is_given_up_to_the_others(capsys: pytest.CaptureFixture[str]):
    results, batches = act_on(Machine(dict.fromkeys(SCENES, 2), broken=(1,)), 3)
    assert [r.scene for r in results if r.lost] == [SCENES[1], *SCENES[3 : 2 + HOPELESS]]
    assert len(batches) == -(-(len(SCENES) - HOPELESS) // 2) * 2
    assert "3 scenes in a row were lost; 2 simulators go on" in capsys.readouterr().err


def test_a_broken_task_costs_its_own_scenes_alone():
    others = [replace(scene, task="push") for scene in SCENES]
    machine = Machine(dict.fromkeys([*SCENES, *others], 2), dict.fromkeys(SCENES, (0, 0)))
    results, batches = act_on(machine, 4)
    assert [r.scene for r in results if r.lost] == SCENES
    assert [r.scene for r in results if r.success] == others
    assert [len(batch) for batch in batches[:6]] == [4] * 6


def test_the_last_place_is_not_given_up_once_a_scene_was_finished():
    failing = dict.fromkeys(SCENES[1:9], (0, 1))
    results, _ = act_on(Machine(dict.fromkeys(SCENES, 2), failing), 1)
    assert [r.scene for r in results if r.lost] == SCENES[1:9]
    assert all(r.success for r in results if not r.lost)
