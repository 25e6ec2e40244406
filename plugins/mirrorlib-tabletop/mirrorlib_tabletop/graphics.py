"""The one door to MuJoCo: chooses how it draws before it is imported."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import sys

from mirrorlib.errors import UserError

LIBRARIES = {"egl": ("libEGL.so.1", "libGL.so.1"), "osmesa": ("libOSMesa.so.8",)}
CURE = (
    "MuJoCo cannot draw here ({why}); run `apt-get install -y libegl1 libgl1`, or "
    "`apt-get install -y libosmesa6` and set MUJOCO_GL=osmesa"
)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing_library(backend: str) -> str | None:
    """The first shared library that the MUJOCO_GL backend needs and the machine lacks."""
    return next((name for name in LIBRARIES.get(backend, ()) if not _loads(name)), None)


def _choose_backend() -> str | None:
    """Sets MUJOCO_GL where it is unset and no display is there: EGL, else OSMesa.

    Returns why nothing can be drawn, or None. MuJoCo then still imports: drawing is off.
    """
    os.environ.setdefault("LP_NUM_THREADS", "1")
    if not sys.platform.startswith("linux"):
        return None
    backend = os.environ.get("MUJOCO_GL", "").lower()
    if not backend and os.environ.get("DISPLAY"):
        return None
    if not backend:
        backend = "osmesa" if missing_library("egl") and not missing_library("osmesa") else "egl"
        os.environ["MUJOCO_GL"] = backend
    lacking = missing_library(backend)
    if lacking is None:
        return None
    os.environ["MUJOCO_GL"] = "disable"
    return f"{lacking} is missing for MUJOCO_GL={backend}"


_problem = None if "mujoco" in sys.modules else _choose_backend()

import mujoco  # noqa: E402

__all__ = ["check", "make_context", "mujoco"]


def make_context(size: int) -> mujoco.GLContext:
    """An off-screen drawing context of size x size pixels, current in this thread.

    Raises UserError where the machine has no graphics library that works.
    """
    if _problem is not None:
        raise UserError(CURE.format(why=_problem))
    _load_triton()
    try:
        context = mujoco.GLContext(size, size)
        context.make_current()
    except Exception as error:  # each backend has its own kinds
        raise UserError(CURE.format(why=f"{type(error).__name__}: {error}")) from error
    return context


def _load_triton() -> None:
    """Mesa and triton each bring an LLVM. A process that loads triton's after Mesa's crashes, and
    torch loads triton when the first optimiser is built: so load it first."""
    with contextlib.suppress(Exception):  # absent, or broken in some way of its own
        importlib.import_module("triton")


def check() -> str | None:
    """None where MuJoCo can draw, else one line that says what mends it."""
    try:
        make_context(8).free()
    except UserError as error:
        return error.lines[0]
    return None
