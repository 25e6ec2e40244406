"""Closed-loop success: the executor acts in many simulated scenes at once.

Every scene runs in one of several spawned processes, each holding one simulator. All take a step,
then the executor acts, in this process, on all of them at once: which scenes share a batch, and so
every rounding, does not depend on how fast a simulator is.
"""

from __future__ import annotations

import json
import multiprocessing
import traceback
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict, dataclass, field, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mirrorlib.data.batches import collate_observations
from mirrorlib.data.store import normalise
from mirrorlib.errors import UserError
from mirrorlib.files import write_whole, writing
from mirrorlib.interfaces import Executor, Observation, Simulator
from mirrorlib.processes import deaf_to_ctrl_c, end_with_parent
from mirrorlib.randomness import scene_seed

OUTCOMES = "rollouts.json"

BuildSimulator = Callable[[bool], Simulator]
"""Called with True for a simulator that films."""


@dataclass(frozen=True, order=True)
class Scene:
    """One scene to be acted in, the `index`-th of a variation within a split."""

    task: str
    variation: int
    split: str
    index: int

    @property
    def seed(self) -> int:
        """The seed under which the source records this very scene."""
        return scene_seed(self.task, self.variation, self.split, self.index)


@dataclass(frozen=True)
class Rollout:
    """What became of a scene. errors: motions that could not be executed. frames: what the
    simulator's video camera saw, (T, H, W, 3) uint8, empty unless asked for."""

    scene: Scene
    instruction: str
    success: bool
    actions: int
    errors: int
    frames: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))


def roll_out(
    executor: Executor,
    scenes: Sequence[Scene],
    build: BuildSimulator,
    *,
    cameras: Sequence[str],
    max_actions: int,
    workers: int,
    device: torch.device,
    film: Set[Scene] = frozenset(),
    progress: bool = True,
) -> list[Rollout]:
    """Acts in every scene until success, the simulator's own end, or `max_actions`.

    build: makes a simulator; called in the worker processes, so it must pickle.
    cameras: in the order the executor was trained with. film: scenes whose frames are wanted.
    """
    executor.eval()
    executor.reset()
    waiting = deque((scene, scene in film) for scene in scenes)
    pool: list[_Worker] = []
    results: list[Rollout] = []
    bar = tqdm(total=len(scenes), desc="rollouts", unit="ep", disable=not progress)
    try:
        with deaf_to_ctrl_c():
            for _ in range(min(workers, len(scenes))):
                pool.append(_Worker(build, max_actions))
        busy = [worker for worker in pool if worker.start(waiting)]
        while busy:
            acting = []
            for worker in list(busy):
                while (rollout := worker.receive()) is not None:
                    results.append(rollout)
                    bar.update()
                    bar.set_postfix(success=f"{np.mean([r.success for r in results]):.2f}")
                    if not worker.start(waiting):
                        busy.remove(worker)
                        break
                else:
                    acting.append(worker)
            if acting:
                observations = collate_observations([w.observation for w in acting], cameras)
                with torch.no_grad():
                    actions = executor.act(observations.to(device), [w.instruction for w in acting])
                for worker, action in zip(acting, actions.double().cpu().numpy(), strict=True):
                    worker.send(action)
    finally:
        bar.close()
        for worker in pool:
            worker.stop()
    return sorted(results, key=lambda r: r.scene)


def write_outcomes(rollouts: Sequence[Rollout], folder: Path) -> None:
    """Leaves what became of every scene in the folder's `rollouts.json`."""
    rows = [
        asdict(r.scene)
        | {"instruction": r.instruction, "success": bool(r.success), "actions": r.actions}
        | {"filmed": len(r.frames) > 0}
        for r in rollouts
    ]
    with writing(folder / OUTCOMES):
        write_whole(folder / OUTCOMES, json.dumps(rows, indent=0))


def read_outcomes(folder: Path) -> dict[Scene, bool]:
    """Whether each scene was solved, as `write_outcomes` left it; empty where nothing was.
    Raises UserError where the file is damaged."""
    file = folder / OUTCOMES
    names = [field.name for field in fields(Scene)]
    try:
        rows = json.loads(file.read_text()) if file.exists() else []
        return {Scene(**{name: row[name] for name in names}): row["success"] for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is no list of rollouts; evaluate the run again") from error


class _Worker:
    """This side of one simulator process."""

    observation: Observation
    instruction: str

    def __init__(self, build: BuildSimulator, max_actions: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_simulate, args=(theirs, build, max_actions), daemon=True
        )
        self.process.start()
        theirs.close()

    def start(self, waiting: deque[tuple[Scene, bool]]) -> bool:
        """Hands over the next scene; False where none is left."""
        if not waiting:
            return False
        self.send(waiting.popleft())
        return True

    def send(self, message: Any) -> None:
        """Raises UserError where the process has died."""
        try:
            self.pipe.send(message)
        except OSError as error:
            raise self._died() from error

    def receive(self) -> Rollout | None:
        """A finished rollout, or None: then `observation` and `instruction` await an action."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if isinstance(message, Rollout):
            return message
        if isinstance(message, Exception):
            raise message
        self.observation, self.instruction = message
        return None

    def _died(self) -> UserError:
        self.process.join(5)
        return UserError(
            f"a simulator process ended with exit code {self.process.exitcode}; run again with "
            "fewer evaluation.workers if memory ran out"
        )

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.terminate()


class SimulatorFailed(Exception):
    """A defect inside a simulator process, with that process's traceback."""


def _simulate(pipe: Connection, build: BuildSimulator, max_actions: int) -> None:
    end_with_parent()
    simulators: dict[bool, Simulator] = {}
    try:
        while True:
            scene, film = pipe.recv()
            if film not in simulators:
                simulators[film] = build(film)
            pipe.send(_run_scene(simulators[film], pipe, scene, max_actions, film))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except UserError as error:
        pipe.send(error)
    except Exception:
        pipe.send(SimulatorFailed(traceback.format_exc()))
    finally:
        for simulator in simulators.values():
            simulator.close()


def _run_scene(
    simulator: Simulator, pipe: Connection, scene: Scene, max_actions: int, film: bool
) -> Rollout:
    observation, descriptions = simulator.reset(scene.task, scene.variation, scene.seed)
    instruction, frames = descriptions[0], []
    success, actions, errors = False, 0, 0
    while actions < max_actions:
        pipe.send((observation, instruction))
        action: NDArray[np.float64] = pipe.recv()
        info: dict[str, Any]
        observation, success, done, info = simulator.step(action)
        actions += 1
        errors += "error" in info
        if film and "frames" in info:
            frames.append(info["frames"])
        if success or done:
            break
    video = {"frames": np.concatenate(frames)} if frames else {}
    return Rollout(scene, normalise(instruction), success, actions, errors, **video)
