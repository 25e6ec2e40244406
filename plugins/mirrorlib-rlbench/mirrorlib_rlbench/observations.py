"""What `low_dim_obs.pkl` says of every frame, in any of RLBench's vintages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirrorlib.errors import UserError
from mirrorlib_rlbench.pickles import load_pickle
from mirrorlib_rlbench.standins import Record, unpacked

FILE = "low_dim_obs.pkl"
LONGEST = 100_000
"""Frames; RLBench's demonstrations have some hundreds."""
OPEN = 0.9
"""RLBench calls a gripper open above this share of its opening."""


class Observations:
    """The T observations of one episode's file, without pictures.

    What a vintage does not record is None; what only some frames have, or of another shape than
    expected, is the file's fault and raises UserError.
    """

    def __init__(self, folder: Path) -> None:
        """Raises UserError where the file is missing, damaged, unsafe or holds no observations."""
        self.file = folder / FILE
        content = load_pickle(self.file)
        self.demo: Mapping[str, Any] = {}
        if isinstance(content, Record) and content.kind == "Demo":
            self.demo = content.fields
            content = content.fields.get("_observations")
        found = content if isinstance(content, list) else []
        self.frames = [o.fields for o in found if isinstance(o, Record) and o.kind != "Demo"]
        if not 0 < len(found) <= LONGEST or len(self.frames) < len(found):
            raise UserError(f"{self.file}: expected a demonstration's observations; fetch it again")
        self.misc: list[Mapping[str, Any]] = [_dict(frame.get("misc")) for frame in self.frames]

    def __len__(self) -> int:
        return len(self.frames)

    def numbers(self, name: str, *shape: int) -> NDArray[np.float64] | None:
        """An attribute of every frame, (T, ...)."""
        return self._stacked(name, [frame.get(name) for frame in self.frames], shape)

    def camera(self, camera: str, name: str, *shape: int) -> NDArray[np.float64] | None:
        """A camera's parameter in every frame, (T, ...)."""
        key = f"{camera}_camera_{name}"
        return self._stacked(key, [misc.get(key) for misc in self.misc], shape)

    def gripper_open(self) -> NDArray[np.float32] | None:
        """(T,) 1 open, 0 closed. The first vintage has the opening's share instead."""
        told = self.numbers("gripper_open")
        if told is not None:
            return told.astype(np.float32)
        shares = [_mean(frame.get("gripper_open_amount")) for frame in self.frames]
        opening = self._stacked("gripper_open_amount", shares, ())
        return None if opening is None else (opening > OPEN).astype(np.float32)

    def has_parameters(self, camera: str | None = None) -> bool:
        """Whether anything is told of that camera, or of any."""
        if camera is None:
            return any("_camera_" in key for key in self.misc[0])
        return any(key.startswith(f"{camera}_camera_") for key in self.misc[0])

    def variation(self) -> int | None:
        """As PerAct's Demo tells, else as the first frame does."""
        for told in (self.demo.get("variation_number"), self.misc[0].get("variation_index")):
            if isinstance(told, int):
                return told
        return None

    def _stacked(
        self, name: str, values: Sequence[Any], shape: tuple[int, ...]
    ) -> NDArray[np.float64] | None:
        if all(value is None for value in values):
            return None
        stacked = np.empty((len(values), *shape))
        for frame, value in enumerate(map(unpacked, values)):
            if not isinstance(value, int | float | np.ndarray) or np.shape(value) != shape:
                raise UserError(
                    f"{self.file}: frame {frame} has {name} {_described(value)}; expected numbers "
                    f"of shape {shape}; fetch the episode again"
                )
            stacked[frame] = value
        return stacked


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mean(value: Any) -> Any:
    """Of both fingers, where each has a share of its own."""
    value = unpacked(value)
    if isinstance(value, list | tuple) and all(isinstance(part, int | float) for part in value):
        value = np.array(value, float)
    return float(value.mean()) if isinstance(value, np.ndarray) and value.size else value


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"of shape {value.shape}"
    return "missing" if value is None else f"of type {type(value).__name__}"


def optional(file: Path, accept: Callable[[Any], bool], default: Any) -> Any:
    """A small pickle's content; `default` where there is no such file, or something else in it.
    Raises UserError where it is damaged or unsafe."""
    if not file.exists():
        return default
    content = load_pickle(file)
    return content if accept(content) else default
