"""Simulators whose processes hang and crash, as the name of the task says."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fakes import FakeSimulator

from mirrorlib.errors import UserError
from mirrorlib.evaluation import simulating


@dataclass
class FaultySimulator(FakeSimulator):
    """Tasks `FAULT-WHERE-WHEN`: a fault in `reset` or the second `step`, once or always in each
    scene; any other task is sound. The folder gets a file for every attempt at a scene, and one
    for every child that was left behind."""

    folder: Path

    def reset(self, task, variation, seed, episode=None):
        fault, _, rest = task.partition("-")
        self.where, _, when = rest.partition("-")
        attempts = len(list(self.folder.glob(f"{task}.{seed}.*")))
        (self.folder / f"{task}.{seed}.{attempts}").touch()
        self.fault = fault if attempts == 0 or when == "always" else ""
        if self.where == "reset":
            self.fail()
        observation, descriptions = super().reset(task, variation, seed, episode)
        if episode is not None:
            start = episode.gripper_pose[0, 0]
            descriptions = [f"{task} from {start} number {variation}"]
        return observation, descriptions

    def step(self, action: np.ndarray):
        if self.where == "step" and self.actions == 1:
            self.fail()
        observation, success, done, info = super().step(action)
        return observation, success, done, info | {"error_kind": "planning"}

    def fail(self) -> None:
        if self.fault == "refuse":
            raise UserError("no simulator is installed here")
        if self.fault == "raise":
            raise RuntimeError("the arm fell off")
        if self.fault in ("sleep", "segfault"):
            self.leave_child()
        if self.fault == "sleep":
            time.sleep(3600)
        if self.fault == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.fault == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.fault == "exit":
            os._exit(3)

    def leave_child(self) -> None:
        """One that keeps every file open, the pipe to the executor's process among them."""
        child = os.fork()
        if child == 0:
            time.sleep(3600)
            os._exit(0)
        (self.folder / f"child.{child}").touch()


@dataclass
class Build:
    """Makes them; the first that films never gets finished."""

    folder: Path

    def __call__(self, film: bool) -> FaultySimulator:
        opened = self.folder / "opened"
        if film and not opened.exists():
            opened.touch()
            time.sleep(3600)
        return FaultySimulator(self.folder)


def start_quickly() -> None:
    """Simulator processes are forked from one that has imported torch already, and nothing else
    happened in. (Spawned ones, as everywhere else, are in test_evaluation.py.)"""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([simulating.__name__])
    simulating.PROCESSES = context
