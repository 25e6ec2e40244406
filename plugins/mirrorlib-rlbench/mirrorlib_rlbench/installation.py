"""Whether RLBench is installed as it needs to be, told without importing it.

Importing RLBench or PyRep loads the simulator's library, which may not be there. What is installed
is therefore read from files and metadata alone.
"""

from __future__ import annotations

import os
import re
import socket
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

SOCKETS = "/tmp/.X11-unix"
SIMULATOR = (
    "https://downloads.coppeliarobotics.com/V4_1_0/CoppeliaSim_Edu_V4_1_0_Ubuntu20_04.tar.xz"
)
INSTALL_SIMULATOR = (
    f"run `mkdir -p $HOME/CoppeliaSim && wget -qO- {SIMULATOR} | tar -xJ --strip-components 1 "
    "-C $HOME/CoppeliaSim`, then `export COPPELIASIM_ROOT=$HOME/CoppeliaSim` and "
    "`export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$COPPELIASIM_ROOT "
    "QT_QPA_PLATFORM_PLUGIN_PATH=$COPPELIASIM_ROOT`"
)
INSTALL_PYREP = (
    "with CoppeliaSim in place run `pip install git+https://github.com/stepjam/PyRep.git`"
)
INSTALL_RLBENCH = (
    "with CoppeliaSim in place run `pip install 'rlbench[gym] @ "
    "git+https://github.com/stepjam/RLBench.git' 'numpy<2'`"
)
PERACT = "git+https://github.com/MohitShridhar/RLBench.git@peract"
INSTALL_PERACT = f"`pip install --no-deps -e '{PERACT}#egg=rlbench'`"
"""Editable, as the branch's own list of its packages lacks `rlbench.action_modes`."""
XVFB = (
    "`sudo apt-get install xvfb` once, then put `xvfb-run -a` before the command (with VirtualGL "
    "`xvfb-run -a vglrun -d egl0`, which draws on a GPU; not tried)"
)
X_SERVER = (
    "`sudo nvidia-xconfig -a --use-display-device=None --virtual=1280x1024` once, then "
    "`sudo nohup X :99 &` and `export DISPLAY=:99`"
)


def check_simulator() -> str | None:
    """None where COPPELIASIM_ROOT names a folder with CoppeliaSim's library, else what mends it."""
    root = os.environ.get("COPPELIASIM_ROOT")
    if not root:
        return f"COPPELIASIM_ROOT is not set, and 4.1 is needed; {INSTALL_SIMULATOR}"
    folder = Path(root)
    if not folder.is_dir():
        return f"COPPELIASIM_ROOT={root} is no folder; {INSTALL_SIMULATOR}"
    if not any(folder.glob("libcoppeliaSim.so*")):
        return f"COPPELIASIM_ROOT={root} holds no libcoppeliaSim.so; {INSTALL_SIMULATOR}"
    for name in ("LD_LIBRARY_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH"):
        places = [Path(place) for place in os.environ.get(name, "").split(":") if place]
        if not any(place.resolve() == folder.resolve() for place in places):
            return f"{name} lacks it; run `export {name}=${name}:$COPPELIASIM_ROOT`"
    return None


def check_pyrep() -> str | None:
    """None where PyRep is installed and built, else what mends it. PyPI's distribution `pyrep` is
    another project: it has no `pyrep.backend`."""
    folders = _folders("pyrep")
    if backends := [backend for folder in folders if (backend := folder / "backend").is_dir()]:
        if any(backends[0].glob("_sim_cffi*")):
            return None
        return f"PyRep in {backends[0].parent} was never built; {INSTALL_PYREP}"
    if stranger := _version("pyrep"):
        return (
            f"`pyrep` {stranger} is an unrelated project of that name; run `pip uninstall pyrep`, "
            f"then {INSTALL_PYREP}"
        )
    if folders:
        return f"{folders[0]} is not PyRep and hides it: move it off the path; {INSTALL_PYREP}"
    return f"not installed; {INSTALL_PYREP} (`pyrep` on PyPI is an unrelated project)"


def check_rlbench() -> str | None:
    """None where RLBench is installed so that it can be imported, else what mends it."""
    folders = _rlbench()
    if not folders:
        return f"not installed; {INSTALL_RLBENCH}"
    start = folders[0] / "__init__.py"
    if start.is_file() and "gymnasium" in start.read_text() and find_spec("gymnasium") is None:
        return "it imports gymnasium, which is not installed; run `pip install gymnasium`"
    if not (folders[0] / "action_modes").is_dir():
        return (
            f"{folders[0]} has no folder action_modes, which it imports and which PerAct's branch "
            f"leaves out unless installed by {INSTALL_PERACT}"
        )
    return None


def check_masks() -> str | None:
    """None unless RLBench is beside a numpy with which it cannot read masks; mirrorlib needs none,
    neither of recordings nor live."""
    numpy = _version("numpy") or ""
    if _rlbench() and int(numpy.partition(".")[0] or 0) >= 2:
        return f"cannot be read with numpy {numpy}; run `pip install 'numpy<2'` if you use them"
    return None


def check_display() -> str | None:
    """None where an X server answers, else how to start one: CoppeliaSim ends the process without,
    headless or not."""
    display = os.environ.get("DISPLAY")
    start = f"run {XVFB}; or, drawn by an NVIDIA GPU, {X_SERVER}"
    if not display:
        return f"DISPLAY is not set, and CoppeliaSim draws with an X server alone; {start}"
    local = re.fullmatch(r"(?:unix)?:(\d+)(?:\.\d+)?", display)
    if local and not _answers(int(local[1])):
        return f"DISPLAY={display}, but no X server answers there; {start}"
    return None


def titled(name: str, distribution: str) -> str:
    """The name with the installed version, where there is one."""
    found = _version(distribution)
    return f"{name} {found}" if found else name


def _answers(number: int) -> bool:
    """Whether a server of that number listens on this machine, by its file or Linux's own name."""
    place = f"{SOCKETS}/X{number}"
    for address in (place, f"\0{place}"):
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(1)
            try:
                asked.connect(address)
                return True
            except OSError:
                continue
    return False


def _rlbench() -> list[Path]:
    return [folder for folder in _folders("rlbench") if (folder / "environment.py").is_file()]


def _folders(package: str) -> list[Path]:
    """The folders of a top-level package, found without importing it."""
    spec = find_spec(package)
    return [Path(place) for place in (spec and spec.submodule_search_locations) or ()]


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
