"""A stand-in for RLBench, PyRep and CoppeliaSim, in RLBench's names, signatures and behaviour."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mirrorlib.interfaces import Observation
from mirrorlib.randomness import scene_seed
from mirrorlib_rlbench import RLBenchDataset
from mirrorlib_rlbench.config import CAMERAS, SimulatorConfig
from mirrorlib_rlbench.record import Wanted, record
from mirrorlib_rlbench.simulator import RLBenchSimulator

SIZE = 24
STANDIN = Path(__file__).parent / "standin"
NAMES = ("rlbench", "pyrep", "standin_control")


def forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in NAMES]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture(params=["upstream", "peract"])
def vintage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def first_draws(task: str, variation: int, split: str, index: int, count: int) -> list[float]:
    """What decides, of a recorded scene's attempts, whether the stand-in fails in them."""
    seed = scene_seed(task, variation, split, index)
    draws = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32])
    return [float(draws.uniform(size=2)[0]) for _ in range(count)]


@pytest.fixture
def draws() -> Callable[[str, int, str, int, int], list[float]]:
    return first_draws


@pytest.fixture
def control(
    vintage: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """An installation of that vintage on the path, and the module that steers it."""
    place = tmp_path_factory.mktemp(vintage)
    shutil.copytree(STANDIN, place / "site", ignore=shutil.ignore_patterns("__pycache__"))
    if vintage == "upstream":
        (place / "site/rlbench/tasks/slide_block_to_color_target.py").unlink()
    (place / "libcoppeliaSim.so.1").touch()
    for name in ("COPPELIASIM_ROOT", "LD_LIBRARY_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH"):
        monkeypatch.setenv(name, str(place))
    monkeypatch.setenv("DISPLAY", "elsewhere:10.0")
    monkeypatch.setattr(os, "sync", lambda: None)  # takes long where others write
    monkeypatch.setenv("STANDIN_VINTAGE", vintage)
    monkeypatch.syspath_prepend(str(place / "site"))
    forget()
    module = importlib.import_module("standin_control")
    yield module
    assert module.running is None, "a simulator was left running"
    forget()


@pytest.fixture
def simulator(control: Any) -> Iterator[RLBenchSimulator]:
    made = RLBenchSimulator(SimulatorConfig(image_size=SIZE))
    yield made
    made.close()


@pytest.fixture
def recorded(control: Any, vintage: str, tmp_path: Path) -> RLBenchDataset:
    """Two demonstrations; the second one's scene took three attempts, where a Demo tells so."""
    control.verdicts[:] = [True, True, False, False] if vintage == "upstream" else []
    record(Wanted(tmp_path, "test", ["turn_tap"], 2, variations=[1], image_size=SIZE))
    assert not control.verdicts
    return RLBenchDataset(tmp_path, ["turn_tap"], "test", cameras=CAMERAS[:4])


@pytest.fixture
def alike() -> Callable[[Observation, Observation], bool]:
    """Whether two observations are equal to the bit."""

    def compare(ours: Observation, theirs: Observation) -> bool:
        return all(
            np.array_equal(getattr(ours, name)[camera], getattr(theirs, name)[camera])
            for name in ("rgb", "depth", "intrinsics", "extrinsics")
            for camera in ours.rgb
        ) and np.array_equal(ours.proprioception, theirs.proprioception)

    return compare
