"""Keyframe actions as RLBench wants them, and what its errors mean."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirrorlib.plugins import summary

Action = NDArray[np.float64]


def checked_action(action: Action) -> Action:
    """A copy (9,) with a unit quaternion. Raises ValueError where it is no action."""
    checked = np.array(action, dtype=np.float64)
    if checked.shape != (9,):
        raise ValueError(f"an action has shape (9,), not {checked.shape}")
    if not np.isfinite(checked).all():
        raise ValueError(f"an action must be finite: {checked.tolist()}")
    length = np.linalg.norm(checked[3:7])
    if length < 1e-6:
        raise ValueError(f"an action's quaternion must not be zero: {checked.tolist()}")
    checked[3:7] /= length
    return checked


def told_of_collisions(arm: Any) -> bool:
    """Whether an arm's action mode is told, action by action, to ignore collisions: a ninth
    number, in PerAct's branch. Both vintages say `action_shape` is 7; the signature tells."""
    return "ignore_collisions" in inspect.signature(arm.action).parameters


def as_rlbench(action: Action, ninth: bool) -> Action:
    """action: (9,) checked. Returns (9,), or (8,) where there is no ninth number: RLBench would
    refuse it when the arm has moved. The gripper and the ninth number are 0 or 1."""
    switches = (action[7:] > 0.5).astype(np.float64)
    return np.concatenate([action[:7], switches[: 2 if ninth else 1]])


def error_kinds() -> dict[type[Exception], str]:
    """What ends an episode as a failure of the policy's, by RLBench's and PyRep's exceptions."""
    from pyrep.errors import ConfigurationPathError, IKError
    from rlbench.backend.exceptions import InvalidActionError, TaskEnvironmentError

    return {
        InvalidActionError: "planning",
        ConfigurationPathError: "planning",
        IKError: "ik",
        TaskEnvironmentError: "task",
    }


def described(error: Exception) -> dict[str, str]:
    """`error` and `error_kind` of a step's info."""
    kinds = error_kinds()
    kind = next(kinds[base] for base in type(error).__mro__ if base in kinds)
    return {"error": summary(error), "error_kind": kind}
