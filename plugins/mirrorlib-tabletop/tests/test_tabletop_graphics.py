"""A machine without a graphics library is told what mends it; geometry's small formulas."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from mirrorlib_tabletop import geometry, graphics

WITHOUT = """
import ctypes
load = ctypes.CDLL
def fail(name, *args, **kwargs):
    if any(word in str(name) for word in {missing!r}):
        raise OSError(name)
    return load(name, *args, **kwargs)
ctypes.CDLL = fail
from mirrorlib.errors import UserError
from mirrorlib_tabletop.graphics import check
{then}
"""
BUILD = """
from mirrorlib_tabletop.simulator import TabletopSimulator
try:
    TabletopSimulator()
except UserError as error:
    print(error.lines)
"""


def run(missing: tuple[str, ...], then: str, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing, then=then)],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and OSMesa are Linux's")
def test_without_a_library_one_line_says_what_to_install() -> None:
    line = run(("EGL", "OSMesa"), "print(check())" + BUILD)
    assert line.count("apt-get install -y libegl1 libgl1") == 2
    assert line.count("libEGL.so.1 is missing") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and OSMesa are Linux's")
def test_a_chosen_backend_that_is_missing_is_named() -> None:
    assert "MUJOCO_GL=osmesa" in run(("OSMesa",), "print(check())", MUJOCO_GL="osmesa")


def test_drawing_works_here() -> None:
    assert graphics.check() is None


def test_orientations_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    for rotation in Rotation.random(20, random_state=2):
        matrix, quaternion = rotation.as_matrix(), rotation.as_quat()
        ours = geometry.from_axes(*matrix.T)
        np.testing.assert_allclose(np.abs(ours @ quaternion), 1, atol=1e-12)
        assert ours[0] >= 0
        other = Rotation.random(random_state=3)
        t = rng.uniform()
        expected = Slerp([0, 1], Rotation.concatenate([rotation, other]))(t).as_quat()
        mixed = geometry.slerp(quaternion, other.as_quat(), t)
        np.testing.assert_allclose(np.abs(mixed @ expected), 1, atol=1e-9)
    tool = Rotation.from_quat(geometry.down(0.3)).as_matrix()
    np.testing.assert_allclose(tool[:, 2], [0, 0, -1], atol=1e-12)
    wanted = Rotation.from_euler("z", 0.3) * Rotation.from_quat(geometry.DOWN)
    np.testing.assert_allclose(tool, wanted.as_matrix(), atol=1e-12)


def test_an_optimiser_may_be_built_after_drawing() -> None:
    """torch then imports triton, whose LLVM must not be loaded after Mesa's."""
    code = (
        "from mirrorlib_tabletop.simulator import TabletopSimulator\n"
        "TabletopSimulator().reset('turn_tap', 0, 0)\n"
        "import torch\n"
        "torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])\n"
        "print('built')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "built"
