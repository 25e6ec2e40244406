"""What this plugin offers to mirrorlib."""

from __future__ import annotations

from mirrorlib import Check, Component, hookimpl


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
def mirrorlib_checks() -> list[Check]:
    where = "mirrorlib_rlbench.installation"
    return [
        Check("CoppeliaSim 4.1", run=f"{where}:check_simulator", optional=True),
        Check("PyRep", run=f"{where}:check_pyrep", optional=True),
        Check("RLBench", run=f"{where}:check_rlbench", optional=True),
    ]
