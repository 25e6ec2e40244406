"""What this plugin offers to mirrorlib."""

from __future__ import annotations

from mirrorlib import Check, Component, hookimpl
from mirrorlib_rlbench.installation import check_pyrep, titled

LIVE = ("simulator rlbench",)
"""What needs RLBench itself; reading its recordings does not."""


@hookimpl
def mirrorlib_sources() -> list[Component]:
    return [
        Component(
            "rlbench",
            build="mirrorlib_rlbench.dataset:build_dataset",
            config="mirrorlib_rlbench.config:RLBenchConfig",
            summary="recorded RLBench demonstrations, read without RLBench",
        )
    ]


@hookimpl
def mirrorlib_simulators() -> list[Component]:
    return [
        Component(
            "rlbench",
            build="mirrorlib_rlbench.simulator:RLBenchSimulator",
            config="mirrorlib_rlbench.config:SimulatorConfig",
            summary="RLBench itself with CoppeliaSim, where it is installed",
        )
    ]


@hookimpl
def mirrorlib_checks() -> list[Check]:
    where = "mirrorlib_rlbench.installation"
    pyrep = titled("PyRep", "pyrep") if check_pyrep() is None else "PyRep"
    return [
        Check("CoppeliaSim (4.1 is needed)", run=f"{where}:check_simulator", needed_by=LIVE),
        Check(pyrep, run=f"{where}:check_pyrep", needed_by=LIVE),
        Check(titled("RLBench", "rlbench"), run=f"{where}:check_rlbench", needed_by=LIVE),
        Check("display of CoppeliaSim", run=f"{where}:check_display", needed_by=LIVE),
        Check("RLBench's masks", run=f"{where}:check_masks", needed_by=()),
    ]
