"""A simulator in a process of its own, which may hang or crash without harm to others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from mirrorlib.data.store import normalise
from mirrorlib.errors import UserError
from mirrorlib.evaluation.rollouts import Rollout, Scene
from mirrorlib.interfaces import Observation, Simulator, Source
from mirrorlib.processes import deaf_to_ctrl_c, end_with_parent, hashing_alike

PROCESSES = multiprocessing.get_context("spawn")
GLANCE = 0.2
"""Seconds between looks at processes that say nothing."""
GRACE = 10.0
"""Seconds that a process has to end by itself."""

BuildSimulator = Callable[[bool], Simulator]
"""Called with True for a simulator that films."""


@dataclass(frozen=True)
class Setting:
    """What a simulator process is told; it pickles. build: makes a simulator. demonstrations:
    whose scenes are restored; None: scenes are laid out by their seeds."""

    build: BuildSimulator
    max_actions: int
    demonstrations: Source | None = None


@dataclass(frozen=True)
class Limits:
    """Seconds that a simulator process may take. answer: to lay out a scene or to execute an
    action. prepare: to open a simulator or to read a demonstration. start: to start."""

    answer: float = 300.0
    prepare: float = 600.0
    start: float = 600.0


class Stage(Enum):
    """What a simulator process is about to do."""

    START = "start"
    OPEN = "open the simulator"
    READ = "read the demonstration"
    RESET = "lay out the scene"
    ACT = "execute an action"


@dataclass(frozen=True)
class Awaiting:
    """A scene in which the executor is to act."""

    observation: Observation
    instruction: str


@dataclass(frozen=True)
class Failure:
    """Why a simulator process is of no more use. reason: what it did. traceback: the process's own,
    empty where there is none."""

    reason: str
    traceback: str = ""


class SimulatorProcess:
    """This side of one simulator process."""

    def __init__(self, setting: Setting, limits: Limits) -> None:
        self._limits = limits
        self.pipe, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=_simulate, args=(theirs, setting), daemon=True)
        with deaf_to_ctrl_c(), hashing_alike():
            self._process.start()
        theirs.close()

    def begin(self, scene: Scene, film: bool) -> None:
        """Hands over a scene."""
        self._send((scene, film), Stage.START)

    def act(self, action: NDArray[np.float64]) -> None:
        """Hands over an action (9,)."""
        self._send(action, Stage.ACT)

    def answer(self) -> Awaiting | Rollout | Failure | None:
        """What has come of it; None while it may still take its time. Raises UserError where the
        simulator did."""
        ended = self._process.exitcode is not None
        try:
            while self.pipe.poll():
                message = self.pipe.recv()
                if isinstance(message, UserError):
                    raise message
                if not isinstance(message, Stage):
                    answer: Awaiting | Rollout | Failure = message
                    return answer
                self._enter(message)
        except (EOFError, OSError):
            ended = True
        if ended:
            self._process.join(GRACE)
            return Failure(_ending(self._process.exitcode))
        if time.monotonic() > self._deadline:
            return Failure(f"took longer than {self._limit:g} s to {self._stage.value}")
        return None

    def stop(self) -> None:
        """Asks it to close its simulators and to end; `kill` sees to it."""
        self.pipe.close()

    def kill(self, grace: float = 0.0) -> None:
        """Ends it after `grace` seconds at the latest, and whatever processes it started."""
        self.pipe.close()
        self._process.join(grace)
        pid = self._process.pid
        assert pid is not None
        if self._process.is_alive():
            with suppress(psutil.Error):
                for child in psutil.Process(pid).children(recursive=True):
                    with suppress(psutil.Error):
                        child.kill()
            self._process.kill()
            _kill_group(pid)
            self._process.join(GRACE)
        elif not psutil.pid_exists(pid):  # else it is another's by now
            _kill_group(pid)

    def _send(self, message: Any, stage: Stage) -> None:
        """Where the process has ended, `answer` tells."""
        with suppress(OSError):
            self.pipe.send(message)
        self._enter(stage)

    def _enter(self, stage: Stage) -> None:
        limits = self._limits
        self._stage = stage
        self._limit = {
            Stage.START: limits.start, Stage.OPEN: limits.prepare, Stage.READ: limits.prepare,
        }.get(stage, limits.answer)  # fmt: skip
        self._deadline = time.monotonic() + self._limit


def await_any(processes: Sequence[SimulatorProcess]) -> None:
    """Returns once one of them may have something to say."""
    wait([process.pipe for process in processes], GLANCE)


def stop(processes: Sequence[SimulatorProcess]) -> None:
    """Ends them all, within GRACE seconds together where nothing hangs for good; at once where
    that is interrupted."""
    for process in processes:
        process.stop()
    latest = time.monotonic() + GRACE
    try:
        for process in processes:
            process.kill(max(0.0, latest - time.monotonic()))
    except BaseException:
        for process in processes:
            process.kill()
        raise


def _kill_group(leader: int) -> None:
    with suppress(OSError):
        os.killpg(leader, signal.SIGKILL)


def _ending(code: int | None) -> str:
    if code is None:
        return "closed its pipe"
    if code < 0:
        return f"was ended by signal {-code} ({signal.strsignal(-code) or 'unknown'})"
    return f"ended with exit code {code}"


# ------------------------------------------------------------------------- in the simulator process


def _simulate(pipe: Connection, setting: Setting) -> None:
    os.setsid()  # so that what the simulator starts can be found, and ended, with it
    end_with_parent()
    simulators: dict[bool, Simulator] = {}
    try:
        while (handed := _next_scene(pipe)) is not None:
            scene, film = handed
            if film not in simulators:
                pipe.send(Stage.OPEN)
                simulators[film] = setting.build(film)
            pipe.send(_run_scene(simulators[film], pipe, scene, film, setting))
    except UserError as error:
        _last_words(pipe, UserError(*error.args))
    except Exception as error:
        said = traceback.format_exception_only(error)[-1].strip()
        _last_words(pipe, Failure(f"raised {said}", traceback.format_exc()))
    finally:
        for simulator in simulators.values():
            simulator.close()


def _next_scene(pipe: Connection) -> tuple[Scene, bool] | None:
    """None where the other side wants no more."""
    try:
        handed: tuple[Scene, bool] = pipe.recv()
        return handed
    except (EOFError, OSError):
        return None


def _last_words(pipe: Connection, message: UserError | Failure) -> None:
    with suppress(OSError):
        pipe.send(message)


def _run_scene(
    simulator: Simulator, pipe: Connection, scene: Scene, film: bool, setting: Setting
) -> Rollout:
    episode = None
    if setting.demonstrations is not None:
        pipe.send(Stage.READ)
        episode = setting.demonstrations.episode(scene.key)
    pipe.send(Stage.RESET)
    observation, descriptions = simulator.reset(
        scene.task, scene.variation, scene.seed, episode=episode
    )
    instruction, frames = descriptions[0], []
    success, actions, errors = False, 0, 0
    kinds: Counter[str] = Counter()
    while actions < setting.max_actions:
        pipe.send(Awaiting(observation, instruction))
        action: NDArray[np.float64] = pipe.recv()
        info: dict[str, Any]
        observation, success, done, info = simulator.step(action)
        actions += 1
        if "error" in info:
            errors += 1
            kinds.update([info["error_kind"]] if "error_kind" in info else [])
        if film and "frames" in info:
            frames.append(info["frames"])
        if success or done:
            break
    rollout = Rollout(
        scene, normalise(instruction), bool(success), actions, errors, error_kinds=dict(kinds)
    )
    return replace(rollout, frames=np.concatenate(frames)) if frames else rollout
