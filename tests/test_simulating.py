"""Simulator processes that hang and crash: replaced, and never waited for."""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from accelerate import PartialState
from fakes import CAMERAS, FakeExecutor, FakeSource, episode
from faulty_simulators import Build, start_quickly
from leading_processes import start_leader

from mirrorlib.errors import UserError
from mirrorlib.evaluation import simulating
from mirrorlib.evaluation.closed_loop import roll_out
from mirrorlib.evaluation.evaluate import together
from mirrorlib.evaluation.rollouts import Rollout, Scene
from mirrorlib.evaluation.simulating import Limits
from mirrorlib.testing import run_in_processes

LIMITS = Limits(answer=10.0, prepare=10.0)
"""For work of microseconds: only what hangs takes as long."""
ONCE = [
    Scene(f"{fault}-once", 0, "test", 0)
    for fault in ("stop-reset", "sleep-step", "segfault-step", "raise-step")
]
ALWAYS = Scene("exit-step-always", 1, "test", 0)
SOUND = [Scene("sound", variation, "test", index) for variation in range(2) for index in range(3)]


@pytest.fixture(autouse=True)
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulating, "PROCESSES", simulating.PROCESSES)
    start_quickly()


def act_in(scenes: list[Scene], folder: Path, **settings) -> list[Rollout]:
    return roll_out(
        FakeExecutor(),
        scenes,
        Build(folder),
        cameras=CAMERAS,
        max_actions=3,
        device=torch.device("cpu"),
        limits=LIMITS,
        progress=False,
        **({"workers": 2} | settings),
    )


def attempts(scene: Scene, folder: Path) -> int:
    return len(list(folder.glob(f"{scene.task}.{scene.seed}.*")))


def children_left(folder: Path) -> list[int]:
    pids = [int(file.suffix[1:]) for file in folder.glob("child.*")]
    assert len(pids) == 2
    return ending(pids)


def ending(pids: list[int]) -> list[int]:
    """Those that do not end within a while."""
    deadline = time.monotonic() + 30
    while (left := [pid for pid in pids if lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_every_fault_costs_its_scene_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scenes = [SOUND[0], *ONCE, ALWAYS, *SOUND[3:5]]
    found = {r.scene: r for r in act_in(scenes, tmp_path, film={SOUND[0]})}
    assert sorted(found) == sorted(scenes)
    for scene in (*ONCE, *SOUND[3:5]):
        rollout = found[scene]
        assert (rollout.success, rollout.actions, rollout.lost) == (True, 2, None)
        assert (rollout.errors, rollout.error_kinds) == (1, {"planning": 1})
        assert rollout.instruction == f"{scene.task} number {scene.variation}"
        assert rollout.retried == (scene in ONCE)
        assert attempts(scene, tmp_path) == 1 + (scene in ONCE)
    # The first simulator that films takes too long to open: begun anew, laid out once.
    assert found[SOUND[0]].retried and found[SOUND[0]].success
    assert attempts(SOUND[0], tmp_path) == 1
    lost = found[ALWAYS]
    assert (lost.success, lost.actions, lost.retried) == (False, 0, True)
    assert lost.lost == "ended with exit code 3"
    assert attempts(ALWAYS, tmp_path) == 2
    assert children_left(tmp_path) == []
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mirrorlib:")]
    for start, reason in (
        ("sound, variation 0, test scene 0", "took longer than 10 s to open the simulator"),
        (
            "stop-reset-once, variation 0, test scene 0",
            "took longer than 10 s to lay out the scene",
        ),
        (
            "sleep-step-once, variation 0, test scene 0",
            "took longer than 10 s to execute an action",
        ),
        (
            "segfault-step-once, variation 0, test scene 0",
            "was ended by signal 11 (Segmentation fault)",
        ),
        ("raise-step-once, variation 0, test scene 0", "raised RuntimeError: the arm fell off"),
        ("exit-step-always, variation 1, test scene 0", "ended with exit code 3"),
    ):
        said = f"mirrorlib: {start}: a simulator process {reason}; the scene is begun anew"
        assert told.count(said) == 1
    (last,) = (line for line in told if not line.endswith("; the scene is begun anew"))
    assert last.endswith("ended with exit code 3; the scene is lost and counts as not solved")
    assert len(told) == 7


def test_a_users_mistake_stops_at_once(tmp_path: Path):
    with pytest.raises(UserError, match="no simulator is installed here"):
        act_in([Scene("refuse-reset-always", 0, "test", 0), *SOUND], tmp_path, workers=1)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_scenes_of_demonstrations_are_restored(tmp_path: Path):
    source = FakeSource(3, failing=[1])
    scenes = [Scene("lift", 1, "test", index) for index in range(3)]
    for rollout in act_in(scenes, tmp_path, workers=1, demonstrations=source):
        if rollout.scene.index == 1:
            assert rollout.lost is not None
            assert rollout.lost.endswith("DemonstrationFailed: test/lift/1/1: the expert missed")
        else:
            start = episode(rollout.scene.key).gripper_pose[0, 0]
            assert rollout.instruction == f"lift from {start} number 1"


def shared(folder: str) -> list[Any]:
    """What each of two processes makes of its share, of a mistake and of a defect."""
    start_quickly()
    rank, size = dist.get_rank(), dist.get_world_size()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    accelerator: Any = PartialState(cpu=True)
    mine = [*SOUND, ONCE[2]][rank::size]

    def rollouts() -> list[Rollout]:
        return act_in(mine, Path(folder), workers=1)

    def failing(error: Exception, *ranks: int) -> str:
        def roll() -> list[Rollout]:
            if rank in ranks:
                raise error
            return []

        try:
            return f"{together(accelerator, roll)}"
        except (UserError, ValueError, SystemExit) as raised:
            return f"{type(raised).__name__} {raised}"

    return [
        [str(rollout) for rollout in together(accelerator, rollouts)],
        failing(UserError("install it"), 1),
        failing(UserError("install it"), 0, 1),
        failing(ValueError("a defect"), 0, 1),
        failing(UserError("nowhere")),
    ]


def test_two_processes_share_the_scenes_and_end_together(tmp_path: Path):
    scenes = sorted([*SOUND, ONCE[2]])
    first, second = run_in_processes(shared, 2, str(tmp_path))
    alone = [
        Rollout(s, f"{s.task} number {s.variation}", True, 2, 1, retried=s == ONCE[2],
                error_kinds={"planning": 1})
        for s in scenes
    ]  # fmt: skip
    assert first[0] == second[0] == [str(rollout) for rollout in alone]
    assert [first[1], second[1]] == ["SystemExit 2", "UserError install it"]
    assert [first[2], second[2]] == ["UserError install it", "SystemExit 2"]
    assert [first[3], second[3]] == 2 * ["ValueError a defect"]
    assert [first[4], second[4]] == 2 * ["[]"]


def test_a_worker_takes_its_group_with_it_when_its_parent_is_killed():
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=start_leader, args=(there,))
    process.start()
    assert here.poll(300)
    family = here.recv()
    assert all(map(lives, family))
    process.kill()
    process.join()
    assert ending(family) == []
